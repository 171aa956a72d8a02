//! The crash matrix: the operator ends or freezes before and after every effect and every record of a switchover, a way back and an undone
//! attempt; then it starts anew, or another one takes over, or both live. Judged from outside: by the clients' ledger, by writes tried on
//! every server all the time, and by SQL.
//!
//! `make test-faults` runs every cell; `make test` those of `CELLS=few`; any other text in CELLS chooses those whose name has it.

use std::{
    io::Write as _,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use mitosis::{
    api::{Side, Step},
    crash::Moment,
    decide::{Answer, Effect, TABLE},
};
use mitosis_stage::{Load, Migration, Operator, Probing, Servers, Stage, Trap, until};

const SEEDED: Duration = Duration::from_secs(240);
/// Within this time every cell has ended, the takeover of the Lease and the budget included.
const ENDED: Duration = Duration::from_secs(60);
const SCALE: u32 = 2;

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

/// Where the cells take place.
struct Ground<'a> {
    stage: &'a Stage,
    servers: Servers,
    migration: Migration<'a>,
    attempt: u32,
    /// The side that is primary between two cells.
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

impl<'a> Ground<'a> {
    fn new(stage: &'a Stage) -> Result<Self> {
        stage.reset()?;
        stage.cluster.apply(&stage.example()?)?;
        let migration = Migration::new(stage, "shop");
        stage.start_load(Load::mixed(SCALE))?;
        migration.wait_ready("Replicating", SEEDED)?;
        stage.kubectl(&["scale", "deployment", "mitosis", "--replicas=0"])?;
        until("the operator's pod is gone", Duration::from_secs(60), || {
            let pods = stage.kubectl(&["get", "pods", "-l", "app.kubernetes.io/name=mitosis", "-o", "name"])?;
            Ok(pods.trim().is_empty())
        })?;
        Ok(Self {
            stage,
            servers: stage.servers()?,
            migration,
            attempt: 1,
            side: Side::Source,
        })
    }

    /// The side that is primary now, asked by SQL.
    fn primary(&self) -> Result<(Side, String)> {
        let mut primaries = Vec::new();
        for name in self.servers.names() {
            if !self.servers.state(name)?.in_recovery {
                primaries.push(name.to_owned());
            }
        }
        let [primary] = primaries.as_slice() else {
            bail!("primaries: {primaries:?}");
        };
        let side = if primary.starts_with("shop-") {
            Side::Target
        } else {
            Side::Source
        };
        Ok((side, primary.clone()))
    }

    /// Asks for the other side by a new attempt.
    fn ask_for(&mut self, to: Side, course: Course) -> Result<()> {
        self.attempt += 1;
        let phase = match to {
            Side::Target => "Switched",
            Side::Source => "RolledBack",
        };
        let (budget, policy) = match course {
            Course::Undone => ("3s", "Wait"),
            Course::Switch => ("30s", "Wait"),
            Course::SwitchOverTransaction => ("30s", "Terminate"),
        };
        self.migration.patch(&format!(
            r#"{{"spec":{{"phase":"{phase}","switchover":{{"attempt":{},"budget":"{budget}","longTransactions":"{policy}","transactionGrace":"1s"}}}}}}"#,
            self.attempt
        ))?;
        Ok(())
    }

    /// Waits until the attempt has ended.
    fn wait_for_the_end(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            let resource = self.migration.get()?;
            let record = &resource["status"]["switchover"];
            let step = record["step"].as_str().unwrap_or_default();
            if record["attempt"] == self.attempt && matches!(step, "Done" | "Aborted") {
                return Ok(());
            }
            ensure!(
                began.elapsed() < ENDED,
                "not ended after {} s, in step {step}: {}",
                ENDED.as_secs(),
                resource["status"]["message"]
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Waits until everybody follows the one primary and clients are led there, and says which side that is.
    fn look(&self) -> Result<Side> {
        let (side, primary) = self.primary()?;
        until(
            "everybody streams from the one primary",
            Duration::from_secs(60),
            || {
                let timeline = self.servers.state(&primary)?.timeline;
                for name in self.servers.names().filter(|name| **name != *primary) {
                    // One that starts anew does not answer for a moment.
                    let Ok(state) = self.servers.state(name) else {
                        return Ok(false);
                    };
                    if !(state.in_recovery && state.streams && state.timeline == timeline) {
                        return Ok(false);
                    }
                }
                Ok(true)
            },
        )?;
        let armed = "SELECT (pg_stat_file('standby.signal', true)).size IS NOT NULL";
        ensure!(
            self.servers.sql(&primary, "postgres", armed)? == "f",
            "{primary} is still armed"
        );
        let identity =
            "SELECT pg_is_in_recovery()::text || ' ' || pg_control_system.system_identifier FROM pg_control_system()";
        let through = self
            .servers
            .sql_at(mitosis_stage::WRITE_ADDRESS, 5432, "postgres", identity)?;
        ensure!(through.starts_with("false"), "HAProxy leads to a standby: {through}");
        Ok(side)
    }

    fn idle_transaction(&self) -> Result<Idle> {
        let (_, primary) = self.primary()?;
        let mut child = self
            .servers
            .psql(&primary)?
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let input = child.stdin.as_mut().context("psql has no input")?;
        input.write_all(b"BEGIN; SELECT 1;\n")?;
        input.flush()?;
        let seen = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND application_name = 'psql' \
            AND xact_start < clock_timestamp() - interval '1 s'";
        until("the transaction is long", Duration::from_secs(10), || {
            Ok(self.servers.sql(&primary, "postgres", seen)? != "0")
        })?;
        Ok(Idle(child))
    }

    /// A switch that nothing interrupts, to begin a cell on its side.
    fn switch(&mut self, to: Side) -> Result<()> {
        let operator = Operator::start(self.stage, "plain", &[])?;
        operator.wait_until_leading(self.stage)?;
        self.ask_for(to, Course::Switch)?;
        self.wait_for_the_end()?;
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
        let (old, new) = match cell.to {
            Side::Target => ("a1", "shop-1"),
            Side::Source => ("shop-1", "a1"),
        };
        let mut traps = vec![match cell.then {
            Then::BothLive => Trap::freeze(cell.moment, &cell.what),
            Then::Restart | Then::TakeOver => Trap::abort(cell.moment, &cell.what),
        }];
        if cell.course == Course::Undone {
            traps.push(Trap::freeze(Moment::After, "record-Hold"));
        }
        let mut first = Operator::start(self.stage, "first", &traps)?;
        first.wait_until_leading(self.stage)?;
        let second = match cell.then {
            Then::Restart => None,
            Then::TakeOver | Then::BothLive => Some(Operator::start(self.stage, "second", &[])?),
        };
        self.ask_for(cell.to, cell.course)?;
        if cell.course == Course::Undone {
            until("the attempt holds", Duration::from_secs(30), || first.is_frozen())?;
            self.servers.sql(new, "postgres", "SELECT pg_wal_replay_pause()")?;
            first.resume()?;
        }
        until("the point is reached", Duration::from_secs(30), || {
            Ok(first.has_ended()? || (cell.then == Then::BothLive && first.is_frozen()?))
        })?;
        let again = match cell.then {
            Then::Restart => Some(Operator::start(self.stage, "first", &[])?),
            Then::TakeOver => None,
            Then::BothLive => {
                second
                    .as_ref()
                    .context("there is no second operator")?
                    .wait_until_leading(self.stage)?;
                first.resume()?;
                None
            }
        };
        let ended = self.wait_for_the_end();
        if cell.course == Course::Undone {
            let resume = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_wal_replay_resume()::text END";
            self.servers.sql(new, "postgres", resume)?;
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

#[test]
fn whatever_ends_the_operator_the_switch_ends_well_or_is_undone() -> Result<()> {
    let stage = Stage::up(15)?;
    let mut ground = Ground::new(&stage)?;
    let cells = match std::env::var("CELLS").as_deref() {
        Ok("few") => few(matrix()),
        Ok(words) => matrix()
            .into_iter()
            .filter(|cell| cell.to_string().contains(words))
            .collect(),
        Err(_) => matrix(),
    };
    ensure!(!cells.is_empty(), "CELLS names no cell");
    let probing = Probing::start(&ground.servers)?;
    let mut failures = Vec::new();
    for (index, cell) in cells.iter().enumerate() {
        let began = Instant::now();
        let ended = ground.run(cell);
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
    let verdict = probing.end(&ground.servers)?;
    println!("{verdict}");
    let names: Vec<&str> = ground.servers.names().collect();
    let report = stage.judge(&ground.servers, &names)?;
    println!("{report}");
    println!("{} cells", cells.len());
    stage.kubectl(&["scale", "deployment", "mitosis", "--replicas=1"])?;
    ensure!(failures.is_empty(), "{failures:?}");
    ensure!(verdict.is_good(), "two primaries or a lost write: {verdict}");
    ensure!(report.good, "the ledger's verdict: {report}");
    Ok(())
}
