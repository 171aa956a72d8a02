//! The crash matrix: the operator ends or freezes before and after every effect and every record of a switchover, a way back and an undone
//! attempt; then it starts anew, or another one takes over, or both live. Judged from outside: by the clients' ledger, by writes tried on
//! every server all the time, and by SQL.
//!
//! `make test-faults` runs every cell; `make test` those of `CELLS=few`; else CELLS chooses cells whose name has one of its texts, which `|` parts.

use std::{
    io::Write as _,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use mitosis::{
    api::{Side, Step},
    crash::Moment,
    decide::{Answer, Effect, TABLE},
};
use mitosis_stage::{Ground, Operator, Probing, Stage, Trap, until};
use serde_json::json;

/// Within this time every cell has ended, the takeover of the Lease and the budget included.
const ENDED: Duration = Duration::from_secs(60);

/// What comes after the end of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// It starts anew.
    Restart,
    /// Another one takes over.
    TakeOver,
    /// It was only frozen: another one takes over, then it wakes up.
    BothLive,
}

/// What is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// A switch, there or back.
    Switch,
    /// A switch before which a long transaction is ended.
    SwitchOverTransaction,
    /// An attempt that comes as far as the proof and is undone.
    Undone,
}

/// One cell of the matrix.
#[derive(Clone, Debug)]
struct Cell {
    course: Course,
    to: Side,
    moment: Moment,
    what: String,
    then: Then,
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            course,
            to,
            moment,
            what,
            then,
        } = self;
        write!(f, "{course:?} to {to:?}, {moment:?} {what}, {then:?}")
    }
}

/// Points of a course: effects, and steps that are recorded by themselves.
fn points(course: Course) -> Vec<String> {
    let undoing = [Step::Restore, Step::Release];
    let effects = TABLE.iter().filter_map(|row| match row.answer {
        Answer::Do(effect) => Some((row.step, effect)),
        _ => None,
    });
    let mut points: Vec<String> = Vec::new();
    for (step, effect) in effects {
        let belongs = match course {
            Course::Undone => undoing.contains(&step),
            // Only a member that lags long after the stop is asked for a checkpoint: in the course that is undone.
            Course::Switch => {
                !undoing.contains(&step) && !matches!(effect, Effect::EndTransactions | Effect::ShowReplayed)
            }
            Course::SwitchOverTransaction => effect == Effect::EndTransactions,
        } || (course == Course::Undone && effect == Effect::ShowReplayed);
        if belongs && !points.contains(&effect.as_str().to_owned()) {
            points.push(effect.as_str().to_owned());
        }
    }
    if course != Course::SwitchOverTransaction {
        let steps = Step::ALL.into_iter().filter(|step| !step.is_covered());
        let undone = |step: &Step| undoing.contains(step) || *step == Step::Aborted;
        points.extend(
            steps
                .filter(|step| undone(step) == (course == Course::Undone))
                .map(|step| format!("record-{}", step.as_str())),
        );
    }
    points
}

/// Every cell. What is undone leaves the primary where it was, so cells of one direction come together there.
fn matrix() -> Vec<Cell> {
    let mut cells = Vec::new();
    for course in [Course::Switch, Course::SwitchOverTransaction, Course::Undone] {
        for what in points(course) {
            for moment in Moment::ALL {
                for then in [Then::Restart, Then::TakeOver, Then::BothLive] {
                    for to in [Side::Target, Side::Source] {
                        let what = what.clone();
                        cells.push(Cell {
                            course,
                            to,
                            moment,
                            what,
                            then,
                        });
                    }
                }
            }
        }
    }
    cells.sort_by_key(|cell| cell.course == Course::Undone && cell.to == Side::Source);
    cells
}

/// The cells for every change: around what cannot be taken back.
fn few(cells: Vec<Cell>) -> Vec<Cell> {
    let around = |cell: &Cell| {
        matches!(
            (cell.what.as_str(), cell.moment, cell.then, cell.to),
            ("Stop" | "Promote", Moment::After, Then::Restart, _)
                | ("record-Promote", Moment::After, Then::BothLive, Side::Target)
                | ("Arm", Moment::After, Then::TakeOver, Side::Source)
                | ("Reinstate", Moment::After, Then::Restart, Side::Target)
        )
    };
    cells.into_iter().filter(around).collect()
}

#[test]
fn every_effect_and_every_record_has_its_cells() {
    let cells = matrix();
    for effect in Effect::ALL {
        assert!(
            cells.iter().any(|cell| cell.what == effect.as_str()),
            "{effect:?} has no cell"
        );
    }
    for step in Step::ALL.into_iter().filter(|step| !step.is_covered()) {
        let what = format!("record-{}", step.as_str());
        assert!(cells.iter().any(|cell| cell.what == what), "{step:?} has no cell");
    }
}

/// Where the cells take place, and which side is primary there between two of them.
struct Cells<'a> {
    ground: Ground<'a>,
    side: Side,
}

/// A session that stays idle in its transaction until it is dropped.
struct Idle(Child);

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Cells<'_> {
    /// Asks for the other side by a new attempt.
    fn ask_for(&mut self, to: Side, course: Course) -> Result<()> {
        let phase = match to {
            Side::Target => "Switched",
            Side::Source => "RolledBack",
        };
        let (budget, policy) = match course {
            Course::Undone => ("3s", "Wait"),
            Course::Switch => ("30s", "Wait"),
            Course::SwitchOverTransaction => ("30s", "Terminate"),
        };
        let policy = json!({"budget": budget, "longTransactions": policy, "transactionGrace": "1s"});
        self.ground.ask_for(phase, policy)
    }

    /// Waits until everybody follows the one primary and clients are led there, and says which side that is.
    fn look(&self) -> Result<Side> {
        let primary = self.ground.settle(Duration::from_secs(60))?;
        let servers = &self.ground.servers;
        let armed = "SELECT (pg_stat_file('standby.signal', true)).size IS NOT NULL";
        ensure!(
            servers.sql(&primary, "postgres", armed)? == "f",
            "{primary} is still armed"
        );
        let through = servers.sql_at(
            mitosis_stage::WRITE_ADDRESS,
            5432,
            "postgres",
            "SELECT pg_is_in_recovery()",
        )?;
        ensure!(through == "f", "HAProxy leads to a standby");
        Ok(if primary.starts_with("shop-") {
            Side::Target
        } else {
            Side::Source
        })
    }

    fn idle_transaction(&self) -> Result<Idle> {
        let servers = &self.ground.servers;
        let (primary, _) = ends(self.side.other());
        let mut child = servers
            .psql(primary)?
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let input = child.stdin.as_mut().context("psql has no input")?;
        input.write_all(b"BEGIN; SELECT 1;\n")?;
        input.flush()?;
        let seen = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND application_name = 'psql' \
            AND xact_start < clock_timestamp() - interval '1 s'";
        until("the transaction is long", Duration::from_secs(10), || {
            Ok(servers.sql(primary, "postgres", seen)? != "0")
        })?;
        Ok(Idle(child))
    }

    /// A switch that nothing interrupts, to begin a cell on its side.
    fn switch(&mut self, to: Side) -> Result<()> {
        let operator = Operator::start(self.ground.stage, "plain", &[])?;
        operator.wait_until_leading(self.ground.stage)?;
        self.ask_for(to, Course::Switch)?;
        self.ground.wait_for_the_end(ENDED)?;
        ensure!(self.look()? == to, "a switch that nothing interrupts was undone");
        self.side = to;
        Ok(())
    }

    fn run(&mut self, cell: &Cell) -> Result<Side> {
        if self.side == cell.to {
            self.switch(cell.to.other())?;
        }
        let _idle = match cell.course {
            Course::SwitchOverTransaction => Some(self.idle_transaction()?),
            Course::Switch | Course::Undone => None,
        };
        let (old, new) = ends(cell.to);
        let mut traps = vec![match cell.then {
            Then::BothLive => Trap::freeze(cell.moment, &cell.what),
            Then::Restart | Then::TakeOver => Trap::abort(cell.moment, &cell.what),
        }];
        if cell.course == Course::Undone {
            traps.push(Trap::freeze(Moment::After, "record-Hold"));
        }
        let mut first = Operator::start(self.ground.stage, "first", &traps)?;
        first.wait_until_leading(self.ground.stage)?;
        let second = match cell.then {
            Then::Restart => None,
            Then::TakeOver | Then::BothLive => Some(Operator::start(self.ground.stage, "second", &[])?),
        };
        self.ask_for(cell.to, cell.course)?;
        if cell.course == Course::Undone {
            until("the attempt holds", Duration::from_secs(30), || first.is_frozen())?;
            self.ground
                .servers
                .sql(new, "postgres", "SELECT pg_wal_replay_pause()")?;
            first.resume()?;
        }
        until("the point is reached", Duration::from_secs(30), || {
            Ok(first.has_ended()? || (cell.then == Then::BothLive && first.is_frozen()?))
        })?;
        let again = match cell.then {
            Then::Restart => Some(Operator::start(self.ground.stage, "first", &[])?),
            Then::TakeOver => None,
            Then::BothLive => {
                second
                    .as_ref()
                    .context("there is no second operator")?
                    .wait_until_leading(self.ground.stage)?;
                first.resume()?;
                None
            }
        };
        let ended = self.ground.wait_for_the_end(ENDED);
        if cell.course == Course::Undone {
            let resume = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_wal_replay_resume()::text END";
            self.ground.servers.sql(new, "postgres", resume)?;
        }
        ended?;
        let side = self.look()?;
        if cell.course == Course::Undone {
            ensure!(
                side != cell.to,
                "promoted although replay was paused: {old} was not made primary again"
            );
        }
        drop((again, second));
        self.side = side;
        Ok(side)
    }
}

/// Who is primary before a switch to a side, and after it.
const fn ends(to: Side) -> (&'static str, &'static str) {
    match to {
        Side::Target => ("a1", "shop-1"),
        Side::Source => ("shop-1", "a1"),
    }
}

#[test]
fn whatever_ends_the_operator_the_switch_ends_well_or_is_undone() -> Result<()> {
    let stage = Stage::up(15)?;
    let mut place = Cells {
        ground: Ground::new(&stage)?,
        side: Side::Source,
    };
    let cells = match std::env::var("CELLS").as_deref() {
        Ok("few") => few(matrix()),
        Ok(words) => matrix()
            .into_iter()
            .filter(|cell| words.split('|').any(|text| cell.to_string().contains(text)))
            .collect(),
        Err(_) => matrix(),
    };
    ensure!(!cells.is_empty(), "CELLS names no cell");
    let probing = Probing::start(&place.ground.servers)?;
    let mut failures = Vec::new();
    for (index, cell) in cells.iter().enumerate() {
        let began = Instant::now();
        let ended = place.run(cell);
        let told = match &ended {
            Ok(side) if *side == cell.to => "switched".to_owned(),
            Ok(_) => "undone".to_owned(),
            Err(error) => format!("FAILED: {error:#}"),
        };
        println!(
            "{} of {}: {cell}: {told} ({} s)",
            index + 1,
            cells.len(),
            began.elapsed().as_secs()
        );
        if ended.is_err() {
            failures.push(format!("{cell}: {told}"));
            // What one cell left must not spoil the next.
            break;
        }
    }
    let verdict = probing.end(&place.ground.servers)?;
    println!("{verdict}");
    let names: Vec<&str> = place.ground.servers.names().collect();
    let report = stage.judge(&place.ground.servers, &names)?;
    println!("{report}");
    println!("{} cells", cells.len());
    stage.kubectl(&["scale", "deployment", "mitosis", "--replicas=1"])?;
    ensure!(failures.is_empty(), "{failures:?}");
    ensure!(verdict.is_good(), "two primaries or a lost write: {verdict}");
    ensure!(report.good, "the ledger's verdict: {report}");
    Ok(())
}
