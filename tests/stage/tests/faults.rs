//! The fault matrix: something breaks at a step of the switchover. Whatever it is, the switch ends well or is undone once it is mended, or a
//! person is told; never are there two writable primaries, and no acknowledged row is lost. Judged like the crash matrix, from outside.
//!
//! `make test-faults` runs it; CELLS chooses cells whose name has one of its texts, which `|` parts.

use std::{
    io::Write as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use mitosis::crash::Moment;
use mitosis_site::{Direction, Member, SmallDisk};
use mitosis_stage::{Ground, Operator, PROXIES, Probing, Servers, Stage, Trap, until};
use serde_json::json;

/// Within this time after the fault was mended every cell has ended.
const ENDED: Duration = Duration::from_secs(240);

/// Bytes of the old primary's disk, where disks have a size.
const SOURCE_DISK: u64 = 2 << 30;
/// Bytes of the disk of all three members of the target.
const TARGET_DISK: u64 = 3 << 30;
/// Bits per second of a slow link: less than the load writes.
const SLOW: u64 = 1_000_000;
/// Fails where nothing fits on the server's disk, or no server answers.
const WRITE_A_FILE: &str = "COPY (SELECT 1) TO PROGRAM 'cat > room; code=$?; rm -f room; exit $code'";
/// Drops the leader's slot on its upstream, against its reconnecting.
const DROP_SLOT: &str = "DO $$ BEGIN FOR attempt IN 1..400 LOOP \
    PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'mitosis_shop_1' AND active_pid IS NOT NULL; \
    BEGIN PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = 'mitosis_shop_1'; RETURN; \
    EXCEPTION WHEN object_in_use THEN PERFORM pg_sleep(0.005); END; END LOOP; END $$";

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

/// The same for what breaks at HAProxy.
const PROXY_POINTS: [(&str, Moment, &str); 5] = [
    ("told to hold", Moment::After, "Hold"),
    ("held", Moment::After, "record-Hold"),
    ("promoted", Moment::After, "Promote"),
    ("told to release", Moment::After, "TurnOver"),
    ("released", Moment::Before, "Label"),
];
/// Labels of the pods of PgBouncer.
const POOLERS: &str = "app=app-pgbouncer";
/// ConfigMap of the routing.
const ROUTING: &str = "shop-routing";

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
    /// The old primary's server is killed, and its supervisor starts it again at once.
    OldPrimaryRestarted,
    /// What is sent to the source arrives nowhere; what it sends arrives.
    LinkCutToSource,
    /// What the source sends arrives nowhere; what is sent to it arrives.
    LinkCutFromSource,
    /// The link carries less than is written.
    LinkSlow,
    /// Somebody leaves a prepared transaction behind on the old primary.
    PreparedTransaction,
    /// The slot from which the leader streams is dropped.
    SlotLost,
    /// The API server stands still, and goes on later.
    ApiServerAway,
    /// HAProxy is killed in every pod; its container starts it again.
    ProxiesKilled,
    /// The agent is killed in every pod; its container starts it again.
    AgentsKilled,
    /// A HAProxy pod is deleted, and made anew.
    ProxyPodDeleted,
    /// One more HAProxy pod comes.
    ProxyPodAdded,
    /// PgBouncer is killed in every pod; its container starts it again, and nothing is paused any more.
    PoolersKilled,
    /// A pod of PgBouncer is deleted, and made anew.
    PoolerPodDeleted,
    /// Somebody writes a configuration that HAProxy refuses, as a later generation.
    ConfigurationSpoilt,
    /// Nothing more fits on the old primary's disk, until somebody makes room.
    SourceDiskFull,
    /// Nothing more fits on the disk of the target's volumes, until somebody makes room.
    TargetDiskFull,
}

impl Fault {
    /// Those on the disks of the bed.
    const ALL: [Self; 15] = [
        Self::OldPrimaryRestarted,
        Self::PreparedTransaction,
        Self::SlotLost,
        Self::ApiServerAway,
        Self::LinkCutToSource,
        Self::LinkCutFromSource,
        Self::LinkSlow,
        Self::OldPrimaryFrozen,
        Self::NewPrimaryKilled,
        Self::FollowerKilled,
        Self::LinkCut,
        Self::ReplayPaused,
        Self::LongReader,
        Self::OldPrimaryKilled,
        Self::CloneSourceKilled,
    ];

    /// Those at HAProxy.
    const OF_PROXIES: [Self; 8] = [
        Self::ConfigurationSpoilt,
        Self::PoolersKilled,
        Self::PoolerPodDeleted,
        Self::ProxiesKilled,
        Self::AgentsKilled,
        Self::ProxyPodDeleted,
        Self::ProxyPodAdded,
        Self::ApiServerAway,
    ];

    /// Those on disks with a size.
    const OF_DISKS: [Self; 2] = [Self::SourceDiskFull, Self::TargetDiskFull];

    /// A crash of the server in a pod; SQL on a server that crashes has no answer.
    fn crash(servers: &Servers, name: &str) {
        let crash = "COPY (SELECT '') TO PROGRAM 'kill -QUIT $(head -1 postmaster.pid)'";
        let _ = servers.sql(name, "postgres", crash);
    }

    /// Breaks it. What is given back must be kept until it is mended.
    fn strike(self, ground: &Ground<'_>, disks: Option<&Disks>) -> Result<Option<Reader>> {
        let (stage, servers) = (ground.stage, &ground.servers);
        let disks = || disks.context("the disks have no size");
        match self {
            Self::SourceDiskFull => disks()?.source.fill(),
            Self::TargetDiskFull => disks()?.target.fill(),
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
            Self::OldPrimaryRestarted => {
                let a1 = stage.site.member(Member::A1);
                a1.set_restart_policy(true)?;
                a1.kill()
            }
            Self::LinkCutToSource => stage.site.link().cut_one_way(Direction::ToSite),
            Self::LinkCutFromSource => stage.site.link().cut_one_way(Direction::FromSite),
            Self::LinkSlow => stage.site.link().throttle(SLOW),
            Self::PreparedTransaction => {
                // A server that was stopped meanwhile takes none.
                let prepare = "BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'forgotten'";
                if servers.state("a1").is_ok_and(|state| !state.in_recovery) {
                    servers.sql("a1", "postgres", prepare)?;
                }
                Ok(())
            }
            Self::SlotLost => {
                servers.sql("a2", "postgres", DROP_SLOT)?;
                let left = servers.state("a2")?.slots;
                ensure!(
                    !left.iter().any(|slot| slot == "mitosis_shop_1"),
                    "the slot is still there"
                );
                Ok(())
            }
            Self::ApiServerAway => signal("STOP", &["--exact", "kube-apiserver"]),
            Self::ProxiesKilled => signal("KILL", &["--exact", "haproxy"]),
            Self::AgentsKilled => signal("KILL", &["--full", "mitosis agent --namespace"]),
            Self::ProxyPodDeleted => delete_first_pod(stage, PROXIES),
            Self::PoolersKilled => signal("KILL", &["--exact", "pgbouncer"]),
            Self::PoolerPodDeleted => delete_first_pod(stage, POOLERS),
            Self::ProxyPodAdded => scale_proxies(stage, 3),
            Self::ConfigurationSpoilt => {
                let generation = "jsonpath={.data.generation}";
                let generation: u64 = stage
                    .kubectl(&["get", "configmap", ROUTING, "-o", generation])?
                    .parse()?;
                let data = json!({"haproxy.cfg": "global\n    nonsense\n", "generation": (generation + 1).to_string()});
                let patch = json!({"data": data}).to_string();
                stage
                    .kubectl(&["patch", "configmap", ROUTING, "--type=merge", "-p", &patch])
                    .map(drop)
            }
        }
        .map(|()| None)
    }

    fn mend(self, ground: &Ground<'_>, disks: Option<&Disks>) -> Result<()> {
        let (stage, servers) = (ground.stage, &ground.servers);
        let disks = || disks.context("the disks have no size");
        match self {
            Self::SourceDiskFull => {
                ensure!(servers.sql("a1", "postgres", WRITE_A_FILE).is_err(), "there is room");
                disks()?.source.empty()?;
                stage.site.member(Member::A1).start()
            }
            Self::TargetDiskFull => {
                ensure!(
                    servers.sql("shop-1", "postgres", WRITE_A_FILE).is_err(),
                    "there is room"
                );
                disks()?.target.empty()?;
                // Their containers would be started again only after minutes.
                for name in ["shop-1", "shop-2", "shop-3"] {
                    if servers.state(name).is_err() {
                        let pod = format!("{name}-0");
                        stage.kubectl(&["delete", "pod", &pod, "--ignore-not-found", "--wait=false"])?;
                    }
                }
                Ok(())
            }
            Self::OldPrimaryKilled => stage.site.member(Member::A1).start(),
            Self::OldPrimaryFrozen => stage.site.member(Member::A1).resume(),
            Self::CloneSourceKilled => stage.site.member(Member::A2).start(),
            Self::LinkCut | Self::LinkCutToSource | Self::LinkCutFromSource => stage.site.link().heal(),
            Self::ApiServerAway => signal("CONT", &["--exact", "kube-apiserver"]),
            // Containers that are killed again and again are started later and later.
            Self::ProxiesKilled | Self::AgentsKilled => stage
                .kubectl(&["delete", "pod", "-l", PROXIES, "--wait=false"])
                .map(drop),
            Self::PoolersKilled => stage
                .kubectl(&["delete", "pod", "-l", POOLERS, "--wait=false"])
                .map(drop),
            Self::ProxyPodAdded => scale_proxies(stage, 2),
            Self::ReplayPaused => {
                let resume = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_wal_replay_resume()::text END";
                until("replay goes on", Duration::from_secs(30), || {
                    Ok(servers.sql("shop-1", "postgres", resume).is_ok())
                })
            }
            Self::OldPrimaryRestarted => stage.site.member(Member::A1).set_restart_policy(false),
            Self::LinkSlow => stage.site.link().unthrottle(),
            Self::PreparedTransaction => until("the transaction is rolled back", Duration::from_secs(60), || {
                let there = "SELECT count(*) FROM pg_prepared_xacts";
                for name in ["a1", "shop-1"] {
                    let is_primary = servers.state(name).is_ok_and(|state| !state.in_recovery);
                    if is_primary && servers.sql(name, "postgres", there)? != "0" {
                        servers.sql(name, "postgres", "ROLLBACK PREPARED 'forgotten'")?;
                    }
                    if is_primary {
                        return Ok(true);
                    }
                }
                Ok(false)
            }),
            // Their containers start them again; the reader ends when it is dropped; the operator makes the slot again.
            Self::NewPrimaryKilled
            | Self::FollowerKilled
            | Self::LongReader
            | Self::SlotLost
            | Self::ConfigurationSpoilt
            | Self::PoolerPodDeleted
            | Self::ProxyPodDeleted => Ok(()),
        }
    }
}

/// Sends a signal to the processes that `pkill` finds.
fn signal(signal: &str, processes: &[&str]) -> Result<()> {
    let status = Command::new("pkill")
        .arg(format!("--signal={signal}"))
        .args(processes)
        .status()?;
    ensure!(status.success(), "no process is found by {processes:?}");
    Ok(())
}

fn delete_first_pod(stage: &Stage, selector: &str) -> Result<()> {
    let first = "jsonpath={.items[0].metadata.name}";
    let pod = stage.kubectl(&["get", "pods", "-l", selector, "-o", first])?;
    stage.kubectl(&["delete", "pod", &pod, "--wait=false"]).map(drop)
}

fn scale_proxies(stage: &Stage, replicas: u8) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    stage
        .kubectl(&["scale", "deployment", "shop-haproxy", &replicas])
        .map(drop)
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
            // The server looks after its client, or the transaction would outlive it.
            b"SET client_connection_check_interval = '200ms'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class; \
              SELECT pg_sleep(600);\n",
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

/// Disks with a size, so that they can be full.
struct Disks {
    /// Of the old primary.
    source: SmallDisk,
    /// Of all members of the target.
    target: SmallDisk,
}

/// From the source to the target with something that breaks, and back without.
fn run(ground: &mut Ground<'_>, disks: Option<&Disks>, cell: &Cell) -> Result<String> {
    let fault = cell.fault;
    let traps = [Trap::freeze(cell.moment, cell.what)];
    let operator = Operator::start(ground.stage, "faulty", &traps)?;
    operator.wait_until_leading(ground.stage)?;
    ground.ask_for("Switched", json!({"budget": "6s"}))?;
    until("the point is reached", Duration::from_secs(40), || operator.is_frozen())?;
    let reader = fault.strike(ground, disks)?;
    operator.resume()?;
    // Longer than the budget: it ends in time, or waits for what is broken and says so.
    let mended = Instant::now() + Duration::from_secs(9);
    // An API server that stands still says nothing.
    while Instant::now() < mended && (fault == Fault::ApiServerAway || !ground.has_ended()?) {
        std::thread::sleep(Duration::from_millis(300));
        // What a checkpoint made free is taken as well.
        match fault {
            Fault::SourceDiskFull | Fault::TargetDiskFull => drop(fault.strike(ground, disks)?),
            _ => {}
        }
    }
    drop(reader);
    fault.mend(ground, disks)?;
    ground.wait_for_the_end(ENDED)?;
    let primary = ground.settle(ENDED)?;
    if primary == "shop-1" {
        ground.ask_for("RolledBack", json!({"budget": "30s"}))?;
        ground.wait_for_the_end(ENDED)?;
        ensure!(ground.settle(ENDED)? == "a1", "the way back was undone");
    }
    Ok(primary)
}

/// A fault at a point.
struct Cell {
    name: String,
    fault: Fault,
    moment: Moment,
    what: &'static str,
}

/// The texts of CELLS.
fn chosen() -> Vec<String> {
    let cells = std::env::var("CELLS").unwrap_or_default();
    cells.split('|').map(ToOwned::to_owned).collect()
}

/// The cells of these faults that CELLS chooses.
fn cells(faults: &[Fault], points: &[(&str, Moment, &'static str)]) -> Vec<Cell> {
    let chosen = chosen();
    let mut cells = Vec::new();
    for fault in faults.iter().copied() {
        for (place, moment, what) in points.iter().copied() {
            let name = format!("{fault:?} {place}");
            if chosen.iter().any(|text| name.contains(text)) {
                cells.push(Cell {
                    name,
                    fault,
                    moment,
                    what,
                });
            }
        }
    }
    cells
}

/// Runs cells one after the other and judges them all.
fn judge(ground: &mut Ground<'_>, disks: Option<&Disks>, cells: &[Cell]) -> Result<()> {
    let probing = Probing::start(&ground.servers)?;
    let mut failure = None;
    for (index, cell) in cells.iter().enumerate() {
        let began = Instant::now();
        let ended = run(ground, disks, cell);
        let told = match &ended {
            Ok(primary) => format!("{primary} was primary"),
            Err(error) => format!("FAILED: {error:#}"),
        };
        let line = format!(
            "{} of {}: {}: {told} ({} s)",
            index + 1,
            cells.len(),
            cell.name,
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
    let report = ground.stage.judge(&ground.servers, &names)?;
    println!("{report}");
    println!("{} cells", cells.len());
    ground
        .stage
        .kubectl(&["scale", "deployment", "mitosis", "--replicas=1"])?;
    ensure!(failure.is_none(), "{failure:?}");
    ensure!(verdict.is_good(), "two primaries or a lost write: {verdict}");
    ensure!(report.good, "the ledger's verdict: {report}");
    Ok(())
}

#[test]
fn whatever_breaks_the_switch_ends_well_or_is_undone_once_it_is_mended() -> Result<()> {
    let cells = cells(&Fault::ALL, &POINTS);
    if cells.is_empty() {
        return Ok(());
    }
    let stage = Stage::up(15)?;
    judge(&mut Ground::new(&stage)?, None, &cells)
}

#[test]
fn whatever_breaks_at_haproxy_no_client_is_led_to_the_wrong_side_and_all_are_led_to_the_primary_in_the_end()
-> Result<()> {
    let cells = cells(&Fault::OF_PROXIES, &PROXY_POINTS);
    if cells.is_empty() {
        return Ok(());
    }
    let stage = Stage::up(15)?;
    judge(&mut Ground::new(&stage)?, None, &cells)
}

#[test]
fn a_disk_that_is_full_on_either_side_keeps_no_switch_from_ending_well_or_being_undone_once_there_is_room() -> Result<()>
{
    let cells = cells(&Fault::OF_DISKS, &POINTS);
    if cells.is_empty() {
        return Ok(());
    }
    let stage = Stage::up(15)?;
    stage.reset()?;
    let target = SmallDisk::mount(&stage.volumes(), TARGET_DISK)?;
    let mut ground = Ground::new(&stage)?;
    let source = stage.site.member(Member::A1).move_to_small_disk(SOURCE_DISK)?;
    let disks = Disks { source, target };
    judge(&mut ground, Some(&disks), &cells)?;
    stage.reset()
}

#[test]
fn every_text_in_cells_names_a_cell() {
    let faults = Fault::ALL.into_iter().chain(Fault::OF_DISKS);
    let names: Vec<String> = faults
        .flat_map(|fault| POINTS.map(|(place, ..)| format!("{fault:?} {place}")))
        .chain(
            Fault::OF_PROXIES
                .into_iter()
                .flat_map(|fault| PROXY_POINTS.map(|(place, ..)| format!("{fault:?} {place}"))),
        )
        .chain(OUTSIDER.map(|(place, ..)| format!("{PROMOTED_BY_ANOTHER} {place}")))
        .collect();
    for text in chosen() {
        assert!(names.iter().any(|name| name.contains(&text)), "{text}: {names:#?}");
    }
}

/// What an outsider's promotion of the leader comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The old primary goes on, and the gate says who is in the way.
    Refused,
    /// Clients are kept from both until a person has looked.
    Halted,
    /// It was proven before that nothing is missing: the switch goes on.
    Switched,
}

const PROMOTED_BY_ANOTHER: &str = "PromotedByAnother";
/// Where the operator is when an outsider promotes the leader, and what that comes to.
const OUTSIDER: [(&str, Moment, &str, Outcome); 4] = [
    ("in Gate", Moment::After, "Prepare", Outcome::Refused),
    ("armed", Moment::After, "Arm", Outcome::Halted),
    ("told to stop", Moment::After, "Stop", Outcome::Halted),
    ("before promotion", Moment::After, "record-Promote", Outcome::Switched),
];

#[test]
fn a_promotion_by_somebody_else_never_leads_clients_to_a_server_that_lacks_rows() -> Result<()> {
    let chosen = chosen();
    let is_chosen = |place: &str| {
        let name = format!("{PROMOTED_BY_ANOTHER} {place}");
        chosen.iter().any(|text| name.contains(text))
    };
    let cells: Vec<_> = OUTSIDER.into_iter().filter(|(place, ..)| is_chosen(place)).collect();
    if cells.is_empty() {
        return Ok(());
    }
    let stage = Stage::up(15)?;
    for (place, moment, what, expected) in cells {
        let mut ground = Ground::new(&stage)?;
        let operator = Operator::start(&stage, "faulty", &[Trap::freeze(moment, what)])?;
        operator.wait_until_leading(&stage)?;
        ground.ask_for("Switched", json!({"budget": "20s"}))?;
        until("the point is reached", Duration::from_secs(40), || operator.is_frozen())?;
        ground
            .servers
            .sql("shop-1", "postgres", "SELECT pg_promote(true, 30)")?;
        operator.resume()?;
        let told = match expected {
            Outcome::Refused => {
                let mut message = String::new();
                until("the gate says who is in the way", Duration::from_secs(30), || {
                    message = ground.migration.status("/message")?;
                    Ok(message.contains("shop-1"))
                })?;
                message
            }
            Outcome::Halted => ground
                .migration
                .wait_refusal(&["somebody else promoted"], Duration::from_secs(30))?,
            Outcome::Switched => {
                ground.wait_for_the_end(ENDED)?;
                ground.settle(ENDED)?
            }
        };
        println!("{PROMOTED_BY_ANOTHER} {place}: {expected:?}: {told}");
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' ";
        let on_new = ground.servers.sql("shop-1", "postgres", sessions)?;
        // Everything that was acknowledged is on the server that clients were led to, and nobody was led elsewhere.
        let keeper = if expected == Outcome::Switched { "shop-1" } else { "a1" };
        ensure!(
            (on_new == "0") == (expected != Outcome::Switched),
            "{place}: {on_new} sessions of clients on shop-1"
        );
        let report = stage.compare(&ground.servers, &[keeper])?;
        println!("{report}");
        ensure!(report.good, "{place}: the ledger's verdict on {keeper}: {report}");
    }
    stage.reset()?;
    stage.kubectl(&["scale", "deployment", "mitosis", "--replicas=1"])?;
    Ok(())
}
