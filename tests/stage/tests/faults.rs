//! The fault matrix: something breaks at a step of the switchover. Whatever it is, the switch ends well or is undone once it is mended, or a
//! person is told; never are there two writable primaries, and no acknowledged row is lost. Judged like the crash matrix, from outside.
//!
//! `make test-faults` runs it; a text in CELLS chooses cells whose name has it.

use std::{
    io::Write as _,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use mitosis::crash::Moment;
use mitosis_site::Member;
use mitosis_stage::{Load, Migration, Operator, Probing, Servers, Stage, Trap, until};

const SEEDED: Duration = Duration::from_secs(240);
/// Within this time after the fault was mended every cell has ended.
const ENDED: Duration = Duration::from_secs(240);
const SCALE: u32 = 2;

/// Where the operator is when something breaks: a point of its way that it has just passed.
const POINTS: [(&str, Moment, &str); 7] = [
    ("in Gate", Moment::After, "Prepare"),
    ("in Hold", Moment::After, "record-Hold"),
    ("armed", Moment::After, "Arm"),
    ("told to stop", Moment::After, "Stop"),
    ("before promotion", Moment::After, "record-Promote"),
    ("promoted", Moment::After, "Promote"),
    ("released", Moment::Before, "Label"),
];

/// What breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The old primary's server is killed, and started again later.
    OldPrimaryKilled,
    /// The old primary's server stands still, and goes on later.
    OldPrimaryFrozen,
    /// The server that the leader was cloned from is killed, and started again later.
    CloneSourceKilled,
    /// The server that is promoted crashes; its container starts it again.
    NewPrimaryKilled,
    /// A follower crashes; its container starts it again.
    FollowerKilled,
    /// No packet passes the link, and later they do again.
    LinkCut,
    /// Replay stands still on the server that is promoted, and goes on later.
    ReplayPaused,
    /// Somebody holds a snapshot on the server that is promoted.
    LongReader,
}

impl Fault {
    const ALL: [Self; 8] = [
        Self::OldPrimaryKilled,
        Self::OldPrimaryFrozen,
        Self::CloneSourceKilled,
        Self::NewPrimaryKilled,
        Self::FollowerKilled,
        Self::LinkCut,
        Self::ReplayPaused,
        Self::LongReader,
    ];

    /// A crash of the server in a pod; SQL on a server that crashes has no answer.
    fn crash(servers: &Servers, name: &str) {
        let crash = "COPY (SELECT '') TO PROGRAM 'kill -QUIT $(head -1 postmaster.pid)'";
        let _ = servers.sql(name, "postgres", crash);
    }

    /// Breaks it. What is given back must be kept until it is mended.
    fn strike(self, stage: &Stage, servers: &Servers) -> Result<Option<Reader>> {
        match self {
            Self::LongReader => return Reader::start(servers, "shop-1").map(Some),
            Self::OldPrimaryKilled => stage.site.member(Member::A1).kill(),
            Self::OldPrimaryFrozen => stage.site.member(Member::A1).pause(),
            Self::CloneSourceKilled => stage.site.member(Member::A2).kill(),
            Self::NewPrimaryKilled => {
                Self::crash(servers, "shop-1");
                Ok(())
            }
            Self::FollowerKilled => {
                Self::crash(servers, "shop-2");
                Ok(())
            }
            Self::LinkCut => stage.site.link().cut(),
            Self::ReplayPaused => {
                let pause = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_wal_replay_pause()::text END";
                servers.sql("shop-1", "postgres", pause).map(drop)
            }
        }
        .map(|()| None)
    }

    fn mend(self, stage: &Stage, servers: &Servers) -> Result<()> {
        match self {
            Self::OldPrimaryKilled => stage.site.member(Member::A1).start(),
            Self::OldPrimaryFrozen => stage.site.member(Member::A1).resume(),
            Self::CloneSourceKilled => stage.site.member(Member::A2).start(),
            Self::LinkCut => stage.site.link().heal(),
            Self::ReplayPaused => {
                let resume = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_wal_replay_resume()::text END";
                until("replay goes on", Duration::from_secs(30), || {
                    Ok(servers.sql("shop-1", "postgres", resume).is_ok())
                })
            }
            // Their containers start them again; the reader ends when it is dropped.
            Self::NewPrimaryKilled | Self::FollowerKilled | Self::LongReader => Ok(()),
        }
    }
}

/// A session that reads for long, until it is dropped.
struct Reader(Child);

impl Reader {
    fn start(servers: &Servers, server: &str) -> Result<Self> {
        let mut child = servers
            .psql(server)?
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let input = child.stdin.as_mut().context("psql has no input")?;
        input.write_all(
            b"BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class; SELECT pg_sleep(600);\n",
        )?;
        input.flush()?;
        Ok(Self(child))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where the cells take place.
struct Ground<'a> {
    stage: &'a Stage,
    servers: Servers,
    migration: Migration<'a>,
    attempt: u32,
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
        })
    }

    fn ask_for(&mut self, phase: &str, budget: &str) -> Result<()> {
        self.attempt += 1;
        self.migration
            .patch(&format!(
                r#"{{"spec":{{"phase":"{phase}","switchover":{{"attempt":{},"budget":"{budget}"}}}}}}"#,
                self.attempt
            ))
            .map(drop)
    }

    /// Whether the attempt has ended.
    fn has_ended(&self) -> Result<bool> {
        let record = self.migration.get()?["status"]["switchover"].clone();
        let step = record["step"].as_str().unwrap_or_default().to_owned();
        Ok(record["attempt"] == self.attempt && matches!(step.as_str(), "Done" | "Aborted"))
    }

    /// Waits until everybody streams from the one primary, and says which it is.
    fn settle(&self) -> Result<String> {
        let began = Instant::now();
        let mut last = String::new();
        while began.elapsed() < ENDED {
            match self.primary_of_all() {
                Ok(primary) => return Ok(primary),
                Err(error) => last = format!("{error:#}"),
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        bail!("not settled within {} s: {last}", ENDED.as_secs())
    }

    fn primary_of_all(&self) -> Result<String> {
        let mut states = Vec::new();
        for name in self.servers.names() {
            states.push((name.to_owned(), self.servers.state(name)?));
        }
        let primaries: Vec<_> = states.iter().filter(|(_, state)| !state.in_recovery).collect();
        let [(primary, state)] = primaries.as_slice() else {
            bail!("primaries: {primaries:?}");
        };
        for (name, standby) in states.iter().filter(|(name, _)| name != primary) {
            ensure!(
                standby.streams && standby.timeline == state.timeline,
                "{name}: {standby:?}"
            );
        }
        Ok(primary.clone())
    }

    /// From the source to the target with something that breaks, and back without.
    fn run(&mut self, fault: Fault, point: (Moment, &str)) -> Result<String> {
        let traps = [Trap::freeze(point.0, point.1)];
        let operator = Operator::start(self.stage, "faulty", &traps)?;
        operator.wait_until_leading(self.stage)?;
        self.ask_for("Switched", "6s")?;
        until("the point is reached", Duration::from_secs(40), || operator.is_frozen())?;
        let reader = fault.strike(self.stage, &self.servers)?;
        operator.resume()?;
        // Longer than the budget: it ends in time, or waits for what is broken and says so.
        let mended = Instant::now() + Duration::from_secs(9);
        while Instant::now() < mended && !self.has_ended()? {
            std::thread::sleep(Duration::from_millis(300));
        }
        drop(reader);
        fault.mend(self.stage, &self.servers)?;
        until("the attempt has ended", ENDED, || self.has_ended())?;
        let primary = self.settle()?;
        if primary == "shop-1" {
            self.ask_for("RolledBack", "30s")?;
            until("the way back has ended", ENDED, || self.has_ended())?;
            ensure!(self.settle()? == "a1", "the way back was undone");
        }
        Ok(primary)
    }
}

#[test]
fn whatever_breaks_the_switch_ends_well_or_is_undone_once_it_is_mended() -> Result<()> {
    let stage = Stage::up(15)?;
    let mut ground = Ground::new(&stage)?;
    let chosen = std::env::var("CELLS").unwrap_or_default();
    let mut cells = Vec::new();
    for fault in Fault::ALL {
        for (place, moment, what) in POINTS {
            let name = format!("{fault:?} {place}");
            if name.contains(&chosen) {
                cells.push((name, fault, (moment, what)));
            }
        }
    }
    ensure!(!cells.is_empty(), "CELLS names no cell");
    let probing = Probing::start(&ground.servers)?;
    let mut failure = None;
    for (index, (name, fault, point)) in cells.iter().enumerate() {
        let began = Instant::now();
        let ended = ground.run(*fault, *point);
        let told = match &ended {
            Ok(primary) => format!("{primary} was primary"),
            Err(error) => format!("FAILED: {error:#}"),
        };
        let line = format!(
            "{} of {}: {name}: {told} ({} s)",
            index + 1,
            cells.len(),
            began.elapsed().as_secs()
        );
        println!("{line}");
        if ended.is_err() {
            failure = Some(line);
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
    ensure!(failure.is_none(), "{failure:?}");
    ensure!(verdict.is_good(), "two primaries or a lost write: {verdict}");
    ensure!(report.good, "the ledger's verdict: {report}");
    Ok(())
}
