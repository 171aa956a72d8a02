//! One complete migration and its surroundings on the real cluster, judged from outside: by the ledger, by SQL on every server and by
//! HAProxy's own answers.
//!
//! The stage is one per host, so the tests share it and run one after the other (`--test-threads=1`), each from the beginning.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use mitosis_ledger::{Entry, RunLog};
use mitosis_stage::{
    Load, Migration, NAMESPACE, POOLER_ADDRESSES, PROXIES, Pgpool, Servers, Stage, Way, pgbouncer, pod_ips,
    read_example, through_haproxy, through_pods, until,
};
use serde_json::{Value, json};

const SEEDED: Duration = Duration::from_secs(240);
const SWITCHED: Duration = Duration::from_secs(90);
const REFUSED: Duration = Duration::from_secs(60);
/// Scale of pgbench's data in tests: 3 is 300,000 accounts, about 45 MB.
const SCALE: u32 = 3;
const SOURCE: [&str; 3] = ["a1", "a2", "a3"];
const TARGET: [&str; 3] = ["shop-1", "shop-2", "shop-3"];

/// The stage as it stands.
fn standing() -> MutexGuard<'static, Stage> {
    static STAGE: OnceLock<Mutex<Stage>> = OnceLock::new();
    let stage = STAGE.get_or_init(|| {
        let major = std::env::var("POSTGRES")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(15);
        Mutex::new(Stage::up(major).expect("the stage comes up"))
    });
    stage.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The stage at its beginning.
fn stage() -> MutexGuard<'static, Stage> {
    let stage = standing();
    stage.reset().expect("the stage is put back to its beginning");
    stage
}

/// The example as a value, changed by a JSON merge of its specification.
fn example(stage: &Stage, change: &Value) -> Result<String> {
    let text = stage.example()?;
    let created = stage.kubectl(&[
        "create",
        "--dry-run=client",
        "-o",
        "json",
        "-f",
        &write(stage, "example.yaml", &text)?,
    ])?;
    let mut value: Value = serde_json::from_str(&created)?;
    merge(&mut value["spec"], change);
    Ok(value.to_string())
}

fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change.clone(),
    }
}

fn write(stage: &Stage, name: &str, text: &str) -> Result<String> {
    let file = stage.cluster.state().path(name);
    std::fs::write(&file, text)?;
    Ok(file.to_string_lossy().into_owned())
}

/// Brings the target to follow the source, with load through HAProxy.
fn replicate<'a>(stage: &'a Stage, manifest: &str) -> Result<Migration<'a>> {
    replicate_under(stage, manifest, Load::mixed(SCALE))
}

/// The same with another load.
fn replicate_under<'a>(stage: &'a Stage, manifest: &str, load: Load) -> Result<Migration<'a>> {
    replicate_behind(stage, manifest, load, "shop-haproxy")
}

/// The same with HAProxy pods of another Deployment.
fn replicate_behind<'a>(stage: &'a Stage, manifest: &str, load: Load, haproxy: &str) -> Result<Migration<'a>> {
    stage.cluster.apply(manifest)?;
    let migration = Migration::new(stage, "shop");
    until("HAProxy pods are ready", Duration::from_secs(90), || {
        let ready = stage.kubectl(&[
            "get",
            "deployment",
            haproxy,
            "--ignore-not-found",
            "-o",
            "jsonpath={.status.readyReplicas}",
        ])?;
        Ok(ready == "2")
    })?;
    stage.start_load(load)?;
    migration.wait_ready("Replicating", SEEDED)?;
    Ok(migration)
}

/// The target's first member is the only primary and everybody else streams on its timeline.
fn assert_switched(servers: &Servers, timeline: u32) -> Result<()> {
    for name in SOURCE.into_iter().chain(TARGET) {
        let state = servers.state(name)?;
        ensure!(state.in_recovery == (name != "shop-1"), "{name}: {state:?}");
        ensure!(state.timeline == timeline, "{name}: {state:?}");
        ensure!(state.streams == (name != "shop-1"), "{name}: {state:?}");
    }
    Ok(())
}

/// Nothing of Mitosis is on the source.
fn assert_source_untouched(servers: &Servers) -> Result<()> {
    for name in SOURCE {
        let slots = servers.state(name)?.slots;
        ensure!(
            !slots.iter().any(|slot| slot.starts_with("mitosis_")),
            "{name} has slots {slots:?}"
        );
        let schema = servers.sql(
            name,
            "postgres",
            "SELECT count(*) FROM pg_namespace WHERE nspname = 'mitosis'",
        )?;
        ensure!(schema == "0", "{name} has schema mitosis");
    }
    Ok(())
}

/// No object of a target exists but throw-away probes.
fn assert_nothing_made(stage: &Stage) -> Result<()> {
    let kinds = "statefulsets,deployments,persistentvolumeclaims,services,configmaps";
    let made = stage.kubectl(&["get", kinds, "-l", "pgmitosis.dev/migration", "-o", "name"])?;
    ensure!(made.trim().is_empty(), "made: {made}");
    Ok(())
}

#[test]
fn a_cluster_moves_under_load_without_losing_or_doubling_a_row_and_stays_when_the_resource_goes_and_comes_back()
-> Result<()> {
    let stage = stage();
    let migration = replicate(&stage, &stage.example()?)?;
    let servers = stage.servers()?;
    ensure!(
        servers.state("shop-1")?.upstream == "10.20.0.12",
        "the leader is cloned from and follows a2"
    );
    ensure!(
        through_haproxy(&stage, &servers)?.starts_with("false 10.20.0.11"),
        "before the switch every route leads to the source"
    );

    migration.patch(r#"{"spec":{"phase":"Switched"}}"#)?;
    migration.wait_ready("Switched", SWITCHED)?;
    assert_switched(&servers, 2)?;
    let leads = through_haproxy(&stage, &servers)?;
    ensure!(
        leads.starts_with("false 10.244."),
        "after the switch the write route leads to the target, not {leads}"
    );
    let slots = servers.state("a2")?.slots;
    ensure!(
        !slots.iter().any(|slot| slot.starts_with("mitosis_shop")),
        "the slot of the old direction is dropped: {slots:?}"
    );
    let certificate = migration.get()?["status"]["switchover"]["certificate"].clone();
    ensure!(
        certificate["endOfWal"] == certificate["fork"] && certificate["canary"] == true,
        "{certificate}"
    );
    ensure!(
        migration.condition("RollbackAvailable")?.0 == "True",
        "the old side follows"
    );

    // Deleted: everything goes on as it is.
    let pods_before = stage.kubectl(&[
        "get",
        "pods",
        "-l",
        "app.kubernetes.io/managed-by=mitosis",
        "-o",
        "jsonpath={.items[*].metadata.uid}",
    ])?;
    stage.kubectl(&["delete", "clustermigration", "shop", "--timeout=60s"])?;
    assert_switched(&servers, 2)?;
    let pods_after = stage.kubectl(&[
        "get",
        "pods",
        "-l",
        "app.kubernetes.io/managed-by=mitosis",
        "-o",
        "jsonpath={.items[*].metadata.uid}",
    ])?;
    ensure!(pods_before == pods_after, "pods changed: {pods_before} -> {pods_after}");
    ensure!(through_haproxy(&stage, &servers)? == leads, "traffic changed");

    // Applied again under load: it is found as it is, and nothing flips.
    stage.cluster.apply(&example(&stage, &json!({"phase": "Switched"}))?)?;
    migration.wait_ready("Switched", SWITCHED)?;
    assert_switched(&servers, 2)?;
    ensure!(through_haproxy(&stage, &servers)? == leads, "traffic changed");

    let names: Vec<&str> = servers.names().collect();
    let report = stage.judge(&servers, &names)?;
    println!("{report}");
    ensure!(report.good, "the ledger's verdict: {report}");
    let pgbench = "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(delta) FROM pgbench_history) \
        AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history)";
    ensure!(servers.sql("shop-1", "app", pgbench)? == "t", "pgbench's sums differ");
    Ok(())
}

#[test]
fn a_switch_is_taken_back_without_a_clone_and_done_again_until_it_is_completed() -> Result<()> {
    let stage = stage();
    let migration = replicate(&stage, &stage.example()?)?;
    let servers = stage.servers()?;
    let identifier = servers.sql("a1", "postgres", "SELECT system_identifier FROM pg_control_system()")?;
    let mut timeline = 1;
    for (phase, primary) in [("Switched", "shop-1"), ("RolledBack", "a1"), ("Switched", "shop-1")] {
        migration.patch(&format!(r#"{{"spec":{{"phase":"{phase}"}}}}"#))?;
        migration.wait_ready(phase, SWITCHED)?;
        timeline += 1;
        assert_led_by(&servers, primary, timeline)?;
        let certificate = migration.get()?["status"]["switchover"]["certificate"].clone();
        ensure!(
            certificate["endOfWal"] == certificate["fork"]
                && certificate["canary"] == true
                && certificate["newPrimary"] == primary
                && certificate["writeGapMilliseconds"].as_i64() > certificate["stepMilliseconds"]["Promote"].as_i64(),
            "{phase}: {certificate}"
        );
        let token = certificate["canaryToken"].as_str().unwrap_or_default();
        let rows = format!("SELECT count(*) FROM mitosis.canary WHERE token IN ('{token}', '{token}-after')");
        ensure!(
            servers.sql(primary, "postgres", &rows)? == "2",
            "{phase}: a row before and one after"
        );
        let ready = if phase == "Switched" {
            "RollbackAvailable"
        } else {
            "CutoverReady"
        };
        until("the other side can take over", SWITCHED, || {
            Ok(migration.condition(ready)?.0 == "True")
        })?;
    }
    let same = servers.sql(
        "shop-1",
        "postgres",
        "SELECT system_identifier FROM pg_control_system()",
    )?;
    ensure!(same == identifier, "the cluster is another one");
    for (name, former) in [("a1", "mitosis_shop_1"), ("a2", "mitosis_shop_1")] {
        let slots = servers.state(name)?.slots;
        ensure!(!slots.contains(&former.to_owned()), "{name} keeps {slots:?}");
    }
    let names: Vec<&str> = servers.names().collect();
    let report = stage.judge(&servers, &names)?;
    println!("{report}");
    ensure!(report.good, "the ledger's verdict: {report}");

    let refused = migration.patch(r#"{"spec":{"phase":"Replicating"}}"#);
    ensure!(
        refused.is_err_and(|error| error.to_string().contains("RolledBack leads back to the source")),
        "back to Replicating was not refused"
    );
    migration.patch(r#"{"spec":{"phase":"Completed"}}"#)?;
    migration.wait_ready("Completed", SWITCHED)?;
    ensure!(!servers.state("shop-1")?.in_recovery, "shop-1 stays primary");
    ensure!(
        servers.state("shop-1")?.slots == ["mitosis_shop_2", "mitosis_shop_3"],
        "a slot is left"
    );
    ensure!(
        servers.state("a1")?.in_recovery && !servers.state("a1")?.streams,
        "a1 was let go and writes nothing"
    );
    let schema = "SELECT count(*) FROM pg_namespace WHERE nspname = 'mitosis'";
    ensure!(
        servers.sql("shop-1", "postgres", schema)? == "0",
        "the canary's schema is left"
    );
    Ok(())
}

/// One server is primary, all the others stream on its timeline.
fn assert_led_by(servers: &Servers, primary: &str, timeline: u32) -> Result<()> {
    for name in SOURCE.into_iter().chain(TARGET) {
        let state = servers.state(name)?;
        ensure!(
            state.in_recovery == (name != primary) && state.timeline == timeline && state.streams == (name != primary),
            "{name}: {state:?}"
        );
    }
    Ok(())
}

#[test]
fn an_attempt_that_nobody_completes_is_undone_within_its_budget_and_a_person_who_stops_the_server_completes_the_next()
-> Result<()> {
    let stage = stage();
    let manual = json!({"source": {"stop": {"method": "Manual"}}, "switchover": {"budget": "3s"}});
    let migration = replicate(&stage, &example(&stage, &manual)?)?;
    let servers = stage.servers()?;
    migration.patch(r#"{"spec":{"phase":"Switched"}}"#)?;
    let sentence = migration.wait_refusal(&["attempt 1 was undone", "the budget is over"], SWITCHED)?;
    println!("{sentence}");
    assert_led_by(&servers, "a1", 1)?;
    let armed = "SELECT (pg_stat_file('standby.signal', true)).size IS NOT NULL";
    ensure!(servers.sql("a1", "postgres", armed)? == "f", "a1 is left armed");
    ensure!(
        through_haproxy(&stage, &servers)?.starts_with("false 10.20.0.11"),
        "clients are back on the source"
    );

    migration.patch(r#"{"spec":{"switchover":{"attempt":2,"budget":"60s"}}}"#)?;
    until("a person is asked to stop a1", SWITCHED, || {
        Ok(servers.sql("a1", "postgres", armed).is_ok_and(|armed| armed == "t"))
    })?;
    let a1 = stage.site.member(mitosis_site::Member::A1);
    a1.stop(mitosis_site::StopMode::Fast)?;
    a1.start()?;
    migration.wait_ready("Switched", SWITCHED)?;
    assert_switched(&servers, 2)?;
    let names: Vec<&str> = servers.names().collect();
    let report = stage.judge(&servers, &names)?;
    ensure!(report.good, "the ledger's verdict: {report}");
    Ok(())
}

/// A template that restarts the server it is told, by SQL as a stand-in for ssh or a cloud.
const RESTART: &str =
    r#"psql -c "COPY (SELECT '') TO PROGRAM 'setsid -f pg_ctl -D $PGDATA_THERE -m fast -W restart >/dev/null 2>&1'""#;

#[test]
fn a_job_from_the_users_template_stops_the_old_primary_after_it_was_rehearsed_on_a_standby() -> Result<()> {
    let stage = stage();
    stage.install(&["sourceStop.jobs=true"])?;
    let servers = stage.servers()?;
    let directory = servers.sql("a1", "postgres", "SHOW data_directory")?;
    let programs = servers.sql("a1", "postgres", "SELECT setting FROM pg_config WHERE name = 'BINDIR'")?;
    let secret = |key: &str| json!({"valueFrom": {"secretKeyRef": {"name": "shop-source", "key": key}}});
    let mut environment = vec![
        json!({"name": "PGSSLMODE", "value": "require"}),
        json!({"name": "PGDATABASE", "value": "postgres"}),
        json!({"name": "PGDATA_THERE", "value": directory}),
    ];
    for (name, key) in [("PGUSER", "username"), ("PGPASSWORD", "password")] {
        let mut variable = secret(key);
        variable["name"] = json!(name);
        environment.push(variable);
    }
    let script = format!(
        "export PGHOST=$MITOSIS_HOST PGPORT=$MITOSIS_PORT\n{}",
        RESTART.replace("pg_ctl", &format!("{programs}/pg_ctl"))
    );
    let cron_job = json!({
        "apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": {"name": "restart-server", "namespace": NAMESPACE},
        "spec": {"schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": {"spec": {"backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never",
            "securityContext": {"runAsUser": 999, "runAsNonRoot": true},
            "containers": [{"name": "restart", "image": format!("postgres:{}", stage.major), "command": ["sh", "-c", script], "env": environment}],
        }}}}},
    });
    stage.cluster.apply(&cron_job.to_string())?;
    let by_job = json!({"source": {"stop": {"method": "Job", "cronJobName": "restart-server", "rehearseOn": "a3"}}});
    let migration = replicate(&stage, &example(&stage, &by_job)?)?;
    until("the rehearsal passed", SWITCHED, || {
        Ok(migration.status("/rehearsal/outcome")? == "Passed")
    })?;
    migration.patch(r#"{"spec":{"phase":"Switched"}}"#)?;
    migration.wait_ready("Switched", SWITCHED)?;
    assert_switched(&stage.servers()?, 2)?;
    let servers = stage.servers()?;
    let names: Vec<&str> = servers.names().collect();
    let report = stage.judge(&servers, &names)?;
    stage.kubectl(&["delete", "cronjob", "restart-server"])?;
    stage.install(&[])?;
    ensure!(report.good, "the ledger's verdict: {report}");
    Ok(())
}

/// Writes numbers through HAProxy while something happens, and gives back those that were acknowledged.
fn writing_meanwhile(servers: &Servers, address: &str, what: impl FnOnce() -> Result<()>) -> Result<Vec<u32>> {
    let over = AtomicBool::new(false);
    let write = |number: u32| {
        let insert = format!("INSERT INTO journal VALUES ({number})");
        servers.sql_at(address, 5432, "postgres", &insert).is_ok()
    };
    let write_all = || -> Vec<u32> {
        (0..u32::MAX)
            .take_while(|_| !over.load(Ordering::Relaxed))
            .filter(|number| write(*number))
            .collect()
    };
    std::thread::scope(|scope| {
        let writer = scope.spawn(write_all);
        let ended = what();
        over.store(true, Ordering::Relaxed);
        let acknowledged = writer.join().expect("the writer ends");
        ended.map(|()| acknowledged)
    })
}

#[test]
fn a_source_that_is_a_pod_is_stopped_by_deleting_it_and_follows_as_soon_as_its_owner_made_it_anew() -> Result<()> {
    let stage = stage();
    stage.install(&["sourceStop.pods=true"])?;
    let image = format!("postgres:{}", stage.major);
    let source = include_str!("source_in_kubernetes.yaml").replace("postgres:15", &image);
    stage.cluster.apply(&source)?;
    let pod = |path: &str| {
        let path = format!("jsonpath={{{path}}}");
        stage.kubectl(&["get", "pod", "old-0", "--ignore-not-found", "-o", &path])
    };
    until("the source's pod is ready", SEEDED, || {
        Ok(pod(".status.containerStatuses[0].ready")? == "true")
    })?;
    let in_pod = |sql: &str| stage.kubectl(&["exec", "old-0", "--", "psql", "-XAtqc", sql]);
    let spec = json!({
        "source": {
            "members": [{"name": "b1", "host": "old.shop.svc"}], "cloneFrom": "b1",
            "stop": {"method": "Kubernetes", "pods": {"b1": "old-0"}},
        },
        "target": {"members": 1},
        "rollback": {"sslrootcert": "/tls/ca.crt"},
    });
    stage.cluster.apply(&example(&stage, &spec)?)?;
    let migration = Migration::new(&stage, "shop");
    migration.wait_ready("Replicating", SEEDED)?;

    let servers = stage.servers()?;
    let address = stage.kubectl(&["get", "service", "shop-haproxy", "-o", "jsonpath={.spec.clusterIP}"])?;
    servers.sql_at(
        &address,
        5432,
        "postgres",
        "CREATE TABLE journal (number int PRIMARY KEY)",
    )?;
    let before = pod(".metadata.uid")?;
    let acknowledged = writing_meanwhile(&servers, &address, || {
        migration.patch(r#"{"spec":{"phase":"Switched"}}"#)?;
        migration.wait_ready("Switched", SWITCHED)
    })?;
    // The old one may still be terminating: its server has stopped, and that is all that the switch waits for.
    until("the owner has made the pod anew", SWITCHED, || {
        let now = pod(".metadata.uid")?;
        Ok(!now.is_empty() && now != before)
    })?;
    let count = format!(
        "SELECT count(*) FROM journal WHERE number = ANY ('{{{}}}')",
        acknowledged.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
    );
    let all = acknowledged.len().to_string();
    ensure!(
        !acknowledged.is_empty() && servers.sql("shop-1", "postgres", &count)? == all,
        "a row is lost"
    );
    until("the old pod follows", SWITCHED, || {
        Ok(migration.condition("RollbackAvailable")?.0 == "True")
    })?;
    ensure!(
        in_pod("SELECT pg_is_in_recovery()")?.trim() == "t",
        "the old pod is no standby"
    );
    until("the old pod has every row", SWITCHED, || {
        Ok(in_pod(&count)?.trim() == all)
    })?;
    println!("{all} rows");

    migration.patch(r#"{"spec":{"phase":"RolledBack"}}"#)?;
    migration.wait_ready("RolledBack", SWITCHED)?;
    ensure!(
        in_pod("SELECT pg_is_in_recovery()")?.trim() == "f",
        "the old pod is no primary again"
    );
    ensure!(servers.state("shop-1")?.streams, "shop-1 does not follow");

    stage.kubectl(&["delete", "clustermigration", "shop", "--timeout=60s"])?;
    stage.kubectl(&["delete", "statefulset/old", "service/old", "--timeout=60s"])?;
    stage.kubectl(&["delete", "persistentvolumeclaim/data-old-0", "--timeout=60s"])?;
    stage.install(&[])
}

/// A session of a2's host on a1, past HAProxy, that stays open and does nothing.
fn connect_past_haproxy(stage: &Stage) -> Result<()> {
    let password = stage.site.credentials()?.app;
    let psql = "psql -XAtqw -h 10.20.0.11 -U app -d app";
    let command =
        format!("(sleep 600 | PGPASSWORD={password} PGSSLMODE=require PGAPPNAME=nightly {psql}) >/dev/null 2>&1 &");
    let a2 = stage.site.member(mitosis_site::Member::A2);
    a2.shell(&command, Duration::from_secs(5)).map(drop)
}

/// Switches there in even rounds and back in odd ones, until everybody follows.
fn switch(migration: &Migration<'_>, round: u32) -> Result<()> {
    let (phase, ready) = match round % 2 {
        0 => ("Switched", "RollbackAvailable"),
        _ => ("RolledBack", "CutoverReady"),
    };
    migration.patch(&format!(r#"{{"spec":{{"phase":"{phase}"}}}}"#))?;
    migration.watch(&format!("jsonpath={{.status.phase}}={phase}"), SWITCHED)?;
    migration.watch("jsonpath={.status.switchover.step}=Done", SWITCHED)?;
    migration.watch(&format!("condition={ready}"), SWITCHED)
}

#[test]
fn with_pgbouncer_before_haproxy_no_statement_fails_in_twenty_switches() -> Result<()> {
    let stage = stage();
    stage.start_pgbouncer()?;
    let load = Load {
        long: 8,
        short: 2,
        ledger: Way::Pgbouncer,
        pgbench: Way::Pgbouncer,
        ..Load::mixed(SCALE)
    };
    let manifest = example(&stage, &json!({"traffic": {"pgbouncer": pgbouncer()}}))?;
    let migration = replicate_under(&stage, &manifest, load)?;
    until("there is no finding", REFUSED, || {
        Ok(migration.status("/plan/findings")? == "[]")
    })?;
    for round in 0..20 {
        switch(&migration, round)?;
    }
    let servers = stage.servers()?;
    let names: Vec<&str> = servers.names().collect();
    let report = stage.judge(&servers, &names)?;
    println!("{report}");
    ensure!(report.good, "the ledger's verdict: {report}");
    ensure!(report.errors.is_empty(), "statements failed: {:?}", report.errors);
    let summary = stage.load_summary()?;
    ensure!(summary.contains("aborted: 0"), "pgbench: {summary}");
    Ok(())
}

/// Whom ten new readers reach through each HAProxy pod, by address.
fn readers(stage: &Stage, servers: &Servers) -> Result<BTreeSet<String>> {
    let mut reached = BTreeSet::new();
    for ip in pod_ips(stage, PROXIES)? {
        for _ in 0..10 {
            reached.insert(servers.sql_at(&ip, 5433, "postgres", "SELECT host(inet_server_addr())")?);
        }
    }
    Ok(reached)
}

#[test]
fn readers_are_led_to_standbys_that_are_not_stale_and_to_the_primary_while_there_is_none() -> Result<()> {
    let stage = stage();
    let routes = json!([
        {"name": "write", "port": 5432, "postgres": "Primary"},
        {"name": "read", "port": 5433, "postgres": "Replicas", "maxLag": "16Mi"},
    ]);
    let manifest = example(&stage, &json!({"traffic": {"routes": routes}}))?;
    let migration = replicate(&stage, &manifest)?;
    let servers = stage.servers()?;
    let until_reached = |what: &str, wanted: &[&str]| {
        let wanted: BTreeSet<String> = wanted.iter().map(|address| (*address).to_owned()).collect();
        // A reader's session ends where its standby is just being left out.
        until(what, REFUSED, || {
            Ok(readers(&stage, &servers).is_ok_and(|reached| reached == wanted))
        })
    };
    // Replay stands still on a standby, and more is written than it may lag by.
    let leave_behind = |name: &str| -> Result<()> {
        servers.sql(name, "postgres", "SELECT pg_wal_replay_pause()")?;
        let write =
            "SELECT count(pg_logical_emit_message(false, 'e2e', repeat('x', 1048576))) FROM generate_series(1, 24)";
        servers.sql("a1", "postgres", write).map(drop)
    };
    until_reached("readers reach both standbys", &["10.20.0.12", "10.20.0.13"])?;
    leave_behind("a3")?;
    until_reached("the stale one is left out", &["10.20.0.12"])?;
    until("that is told", REFUSED, || {
        Ok(migration
            .status("/plan/findings")?
            .contains("a3 gets no readers of route read"))
    })?;
    leave_behind("a2")?;
    until_reached("the primary is what is left", &["10.20.0.11"])?;
    for name in ["a2", "a3"] {
        servers.sql(name, "postgres", "SELECT pg_wal_replay_resume()")?;
    }
    until_reached("they are back", &["10.20.0.12", "10.20.0.13"])?;

    migration.patch(r#"{"spec":{"phase":"Switched"}}"#)?;
    migration.wait_ready("Switched", SWITCHED)?;
    let pods =
        ["shop-2-0", "shop-3-0"].map(|pod| stage.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"]));
    let [second, third] = pods;
    until_reached("readers reach the standbys of the other side", &[&second?, &third?])?;
    let names: Vec<&str> = servers.names().collect();
    let report = stage.judge(&servers, &names)?;
    println!("{report}");
    ensure!(report.good, "the ledger's verdict: {report}");
    Ok(())
}

#[test]
fn sessions_of_a_static_route_may_end_by_themselves_for_a_while_and_are_ended_then() -> Result<()> {
    const DRAIN: f64 = 8.0;
    let stage = stage();
    // Two standbys stand for web servers: they say who they are, and a statement can last.
    let web = json!({"source": ["10.20.0.12:5432"], "target": ["10.20.0.13:5432"], "drain": "8s"});
    let routes = json!([
        {"name": "write", "port": 5432, "postgres": "Primary"},
        {"name": "web", "port": 5480, "static": web},
    ]);
    let migration = replicate(&stage, &example(&stage, &json!({"traffic": {"routes": routes}}))?)?;
    let servers = stage.servers()?;
    let pod = pod_ips(&stage, PROXIES)?.into_iter().next().context("no HAProxy pod")?;
    let work = |seconds: u32| {
        let sql = format!("SELECT host(inet_server_addr()) FROM pg_sleep({seconds})");
        servers.sql_at(&pod, 5480, "postgres", &sql)
    };
    let sleepers = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT host%pg_sleep%'";
    std::thread::scope(|scope| {
        let long = scope.spawn(|| {
            let answer = work(300);
            (answer, Instant::now())
        });
        let short = scope.spawn(|| work(6));
        until("both work", REFUSED, || {
            Ok(servers.sql("a2", "postgres", sleepers)? == "2")
        })?;
        migration.patch(r#"{"spec":{"phase":"Switched"}}"#)?;
        until("new sessions are led to the other side", SWITCHED, || {
            Ok(work(0)? == "10.20.0.13")
        })?;
        let led = Instant::now();
        let short = short
            .join()
            .expect("no panic")
            .context("a session was cut before its time")?;
        ensure!(short == "10.20.0.12", "{short}");
        let (answer, ended) = long.join().expect("no panic");
        let lasted = ended.saturating_duration_since(led).as_secs_f64();
        println!(
            "a session on the former side was ended {lasted} s after new ones were led to the other one: {answer:?}"
        );
        ensure!(answer.is_err(), "a session of 300 s ended by itself");
        ensure!((DRAIN - 2.0..DRAIN + 4.0).contains(&lasted), "it lasted for {lasted} s");
        Ok(())
    })?;
    // Its client is gone, which the server does not notice: it would keep the standby from replaying.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT host%pg_sleep%'";
    servers.sql("a2", "postgres", end)?;
    migration.wait_ready("Switched", SWITCHED)?;
    let names: Vec<&str> = servers.names().collect();
    let report = stage.judge(&servers, &names)?;
    ensure!(report.good, "the ledger's verdict: {report}");
    Ok(())
}

/// The Service of the application's address leads to pods of the user's own; it goes with the migration.
const LED_BY_EDGE: &str =
    r#"{"metadata": {"labels": {"pgmitosis.dev/migration": "shop"}}, "spec": {"selector": {"app": "edge"}}}"#;

/// Takes the user's own HAProxy away when the test ends, however it does.
struct Edge<'a>(&'a Stage, String);

impl Drop for Edge<'_> {
    fn drop(&mut self) {
        let arguments = [
            "delete",
            "-f",
            &self.1,
            "--ignore-not-found",
            "--wait=true",
            "--timeout=60s",
        ];
        if let Err(error) = self.0.kubectl(&arguments) {
            eprintln!("{error:#}");
        }
    }
}

#[test]
fn haproxy_pods_of_the_users_own_are_led_by_a_file_beside_their_configuration_and_one_that_comes_later_too()
-> Result<()> {
    let stage = stage();
    let file = write(&stage, "own-haproxy.yaml", &read_example("own-haproxy.yaml")?)?;
    stage.kubectl(&["apply", "-f", &file])?;
    let edge = Edge(&stage, file);
    stage.kubectl(&["patch", "service", "shop-haproxy", "--type=merge", "-p", LED_BY_EDGE])?;
    let own = json!({"managed": null, "own": {"selector": {"app": "edge"}, "serviceAccountName": "edge"}});
    let manifest = example(&stage, &json!({"traffic": {"haproxy": own}}))?;
    let migration = replicate_behind(&stage, &manifest, Load::mixed(SCALE), "edge")?;
    let servers = stage.servers()?;
    until("there is no finding", REFUSED, || {
        Ok(migration.status("/plan/findings")? == "[]")
    })?;
    for (round, leads) in [(0, "false 10.244."), (1, "false 10.20.0.11")] {
        switch(&migration, round)?;
        let through = through_pods(&stage, &servers, "app=edge")?;
        ensure!(through.starts_with(leads), "HAProxy leads to {through}");
    }
    let certificate = migration.get()?["status"]["switchover"]["certificate"]["routes"].clone();
    let reached = certificate.as_array().context("no routes")?;
    ensure!(
        reached.len() == 2 && reached.iter().all(|pod| pod["reached"] == true),
        "{certificate}"
    );
    stage.kubectl(&["scale", "deployment", "edge", "--replicas=3"])?;
    stage.kubectl(&["rollout", "status", "deployment", "edge", "--timeout=60s"])?;
    switch(&migration, 2)?;
    let through = through_pods(&stage, &servers, "app=edge")?;
    ensure!(through.starts_with("false 10.244."), "HAProxy leads to {through}");
    let names: Vec<&str> = servers.names().collect();
    let report = stage.judge(&servers, &names)?;
    drop(edge);
    ensure!(report.good, "the ledger's verdict: {report}");
    Ok(())
}

/// What the ConfigMap of the user's own HAProxy says.
fn users_file(stage: &Stage) -> Result<String> {
    let config: Value = serde_json::from_str(&stage.kubectl(&["get", "configmap", "edge", "-o", "json"])?)?;
    let text = config["data"]["haproxy.cfg"].as_str().context("no haproxy.cfg")?;
    Ok(text.to_owned())
}

fn change_users_file(stage: &Stage, text: &str) -> Result<()> {
    let patch = json!({"data": {"haproxy.cfg": text}}).to_string();
    stage.kubectl(&["patch", "configmap", "edge", "--type=merge", "-p", &patch])?;
    Ok(())
}

#[test]
fn haproxy_pods_without_an_agent_are_led_by_a_marked_block_and_not_one_byte_around_it_is_changed() -> Result<()> {
    const BEGIN: &str = "# BEGIN mitosis shop\n";
    const END: &str = "# END mitosis shop\n";
    let stage = stage();
    let file = write(&stage, "own-haproxy.yaml", &read_example("own-haproxy-mounted.yaml")?)?;
    stage.kubectl(&["apply", "-f", &file])?;
    let edge = Edge(&stage, file);
    stage.kubectl(&["patch", "service", "shop-haproxy", "--type=merge", "-p", LED_BY_EDGE])?;
    let users = users_file(&stage)?;
    let (before, after) = users.split_once(&format!("{BEGIN}{END}")).context("no marks")?;
    let own = json!({"selector": {"app": "edge"}, "mounted": {"configMap": {"name": "edge", "key": "haproxy.cfg"}}});
    let manifest = example(&stage, &json!({"traffic": {"haproxy": {"managed": null, "own": own}}}))?;
    let migration = replicate_behind(&stage, &manifest, Load::mixed(SCALE), "edge")?;
    let servers = stage.servers()?;
    until("there is no finding but what it costs", REFUSED, || {
        let findings: Value = serde_json::from_str(&migration.status("/plan/findings")?)?;
        Ok(findings.as_array().is_some_and(|found| found.len() == 1) && findings[0]["severity"] == "Inform")
    })?;

    // What the user changes outside stays, and what somebody changes inside is put right.
    let before = format!("# A remark of the user's, \u{e9}, with a blank at its end \n{before}");
    let ours = users_file(&stage)?.split_once(BEGIN).context("no block")?.1.to_owned();
    change_users_file(
        &stage,
        &format!("{before}{BEGIN}{}", ours.replace("10.20.0.11", "10.20.0.13")),
    )?;
    until("the block is put right", REFUSED, || {
        let (_, reason, message) = migration.condition("RoutingOwned")?;
        Ok(reason == "RoutingDrift" && message.contains("kubectl-patch changed the routing in ConfigMap edge"))
    })?;
    migration.wait_ready("Replicating", SWITCHED)?;

    for (round, leads) in [(0, "false 10.244."), (1, "false 10.20.0.11")] {
        switch(&migration, round)?;
        let through = through_pods(&stage, &servers, "app=edge")?;
        ensure!(through.starts_with(leads), "HAProxy leads to {through}");
        let now = users_file(&stage)?;
        let is_kept = now.starts_with(&format!("{before}{BEGIN}")) && now.ends_with(&format!("{END}{after}"));
        ensure!(is_kept, "the user's file was changed:\n{now}");
        let steps = migration.status("/switchover/certificate/stepMilliseconds")?;
        println!("without an agent, steps in milliseconds: {steps}");
    }
    let certificate = migration.get()?["status"]["switchover"]["certificate"]["routes"].clone();
    let reached = certificate.as_array().context("no routes")?;
    ensure!(
        reached.len() == 2 && reached.iter().all(|pod| pod["reached"] == true),
        "{certificate}"
    );
    let names: Vec<&str> = servers.names().collect();
    let report = stage.judge(&servers, &names)?;
    println!("{report}");
    drop(edge);
    ensure!(report.good, "the ledger's verdict: {report}");
    Ok(())
}

#[test]
fn clients_of_a_pgpool2_of_either_side_are_led_to_the_other_one_and_write_on_the_new_primary() -> Result<()> {
    let stage = stage();
    let pgpool = Pgpool::start(&stage)?;
    let [source, target] = POOLER_ADDRESSES.map(|address| format!("{address}:5432"));
    let routes = json!([{"name": "write", "port": 5432, "pooler": {"source": [source], "target": [target]}}]);
    let migration = replicate(&stage, &example(&stage, &json!({"traffic": {"routes": routes}}))?)?;
    let servers = stage.servers()?;
    until("there is no finding", REFUSED, || {
        Ok(migration.status("/plan/findings")? == "[]")
    })?;
    for (round, server) in [(0, "shop-1"), (1, "a1")] {
        switch(&migration, round)?;
        let count = "SELECT count(*) FROM ledger";
        let before: u64 = servers.sql(server, "app", count)?.parse()?;
        until("clients write through PgPool2", REFUSED, || {
            Ok(servers.sql(server, "app", count)?.parse::<u64>()? > before + 100)
        })?;
        let certificate = migration.get()?["status"]["switchover"]["certificate"]["routes"].clone();
        let reached = certificate.as_array().context("no routes")?;
        ensure!(
            reached.len() == 2 && reached.iter().all(|pod| pod["reached"] == true),
            "{server} was not reached through PgPool2: {certificate}"
        );
    }
    let names: Vec<&str> = servers.names().collect();
    let report = stage.judge(&servers, &names)?;
    println!("{report}");
    drop(pgpool);
    ensure!(report.good, "the ledger's verdict: {report}");
    Ok(())
}

/// Errors of each ledger client in each of these spans of time, in microseconds; with what they were.
fn list_errors(stage: &Stage, spans: &[(i64, i64)]) -> Result<Vec<(u32, Vec<String>)>> {
    let runs = RunLog::read(&stage.ledger_file())?;
    let mut found = Vec::new();
    for (from, to) in spans {
        for (client, entries) in runs.iter().flat_map(|run| &run.clients) {
            let kinds = entries.iter().filter_map(|entry| match entry {
                Entry::Row { at, kind, outcome, .. } if !kind.is_empty() && (from..=to).contains(&at) => {
                    Some(format!("{outcome:?} {kind}"))
                }
                _ => None,
            });
            found.push((*client, kinds.collect()));
        }
    }
    Ok(found)
}

#[test]
fn through_haproxy_a_switch_costs_each_open_session_at_most_one_error_and_refuses_no_new_connection() -> Result<()> {
    let stage = stage();
    let load = Load {
        long: 8,
        short: 12,
        pace: 200,
        ..Load::mixed(SCALE)
    };
    let migration = replicate_under(&stage, &stage.example()?, load)?;
    let mut spans = Vec::new();
    for round in 0..4 {
        let from = jiff::Timestamp::now().as_microsecond();
        switch(&migration, round)?;
        spans.push((from, jiff::Timestamp::now().as_microsecond()));
    }
    let servers = stage.servers()?;
    let names: Vec<&str> = servers.names().collect();
    let report = stage.judge(&servers, &names)?;
    println!("{report}");
    ensure!(report.good, "the ledger's verdict: {report}");
    let errors = list_errors(&stage, &spans)?;
    ensure!(errors.len() == 4 * 20, "{} clients in all spans", errors.len());
    for (client, kinds) in errors {
        ensure!(kinds.len() <= 1, "client {client} got {kinds:?} in one switch");
        let turned_away = |kind: &String| ["refused", "timeout"].iter().any(|word| kind.contains(word));
        ensure!(
            !kinds.iter().any(turned_away),
            "client {client} was turned away: {kinds:?}"
        );
    }
    Ok(())
}

#[test]
fn a_changed_routing_is_put_right_and_a_session_past_haproxy_keeps_the_switch_from_beginning_where_it_shall()
-> Result<()> {
    let stage = stage();
    let refuse = json!({"traffic": {"bypass": {"policy": "Refuse"}}});
    let migration = replicate(&stage, &example(&stage, &refuse)?)?;
    let servers = stage.servers()?;
    ensure!(
        migration.status("/plan/findings")? == "[]",
        "the load comes through HAProxy: {}",
        migration.status("/plan/findings")?
    );
    for (repairs, generation) in [("1", ""), ("2", r#","generation":"99""#)] {
        let data = format!(r#"{{"data":{{"haproxy.cfg":"global\n"{generation}}}}}"#);
        stage.kubectl(&["patch", "configmap", "shop-routing", "--type=merge", "-p", &data])?;
        until("the routing is put right", REFUSED, || {
            Ok(migration.status("/routingDrift/repairs")? == repairs)
        })?;
        let (status, _, message) = migration.condition("RoutingOwned")?;
        ensure!(
            status == "False" && message.contains("kubectl-patch changed the routing in ConfigMap shop-routing"),
            "{message}"
        );
        until("HAProxy leads to the source", REFUSED, || {
            Ok(through_haproxy(&stage, &servers).is_ok_and(|leads| leads.starts_with("false 10.20.0.11")))
        })?;
        migration.wait_ready("Replicating", REFUSED)?;
    }
    connect_past_haproxy(&stage)?;
    let stranger = "1 of app (nightly) from 10.20.0.12";
    until("the session is a finding", REFUSED, || {
        Ok(migration.status("/plan/findings/0/message")?.contains(stranger))
    })?;
    migration.patch(r#"{"spec":{"phase":"Switched"}}"#)?;
    until("the switch waits for it", REFUSED, || {
        Ok(migration.status("/message")?.contains(stranger))
    })?;
    assert_led_by(&servers, "a1", 1)?;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'nightly'";
    servers.sql("a1", "postgres", end)?;
    migration.wait_ready("Switched", SWITCHED)?;
    assert_switched(&servers, 2)?;
    let names: Vec<&str> = servers.names().collect();
    let report = stage.judge(&servers, &names)?;
    ensure!(report.good, "the ledger's verdict: {report}");
    Ok(())
}

#[test]
fn a_clone_tells_how_far_and_how_fast_it_is_and_one_that_breaks_begins_anew_and_tells_why() -> Result<()> {
    let stage = stage();
    let servers = stage.servers()?;
    stage.site.init_pgbench(SCALE)?;
    let slow = json!({"seeding": {"maxRate": "256Ki", "compression": "Zstd"}});
    stage.cluster.apply(&example(&stage, &slow)?)?;
    let migration = Migration::new(&stage, "shop");
    let words = |words: &'static str| {
        until(words, SEEDED, || Ok(migration.status("/message")?.contains(words)))?;
        migration.status("/message")
    };
    println!("{}", words("MiB/s, ")?);
    let rate: u64 = migration.status("/seeding/0/bytesPerSecond")?.parse()?;
    // What is on the wire is limited; what arrives is more, since it was compressed.
    ensure!(
        rate > 256 << 10,
        "{rate} bytes a second, compressed and limited to 256 KiB"
    );
    let source = migration.status("/cloneSource")?;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_progress_basebackup";
    ensure!(
        servers.sql(&source, "postgres", end)? == "t",
        "no base backup was ended"
    );
    println!("{}", words(" once more")?);
    let failure = migration.status("/seeding/0/lastFailure")?;
    ensure!(
        failure.contains("pg_basebackup"),
        "the clone failed because of `{failure}`"
    );
    migration.wait_ready("Replicating", SEEDED)?;
    let servers = stage.servers()?;
    for name in TARGET {
        let count: u64 = servers
            .sql(name, "app", "SELECT count(*) FROM pgbench_accounts")?
            .parse()?;
        ensure!(count == u64::from(SCALE) * 100_000, "{name} has {count} accounts");
    }
    let events = stage.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"])?;
    ensure!(events.contains("SeedingProgress"), "no Event tells of it: {events}");
    Ok(())
}

#[test]
fn a_resource_that_is_deleted_while_it_replicates_leaves_no_slot_on_the_source_and_can_be_applied_again() -> Result<()>
{
    let stage = stage();
    let migration = replicate(&stage, &stage.example()?)?;
    let servers = stage.servers()?;
    ensure!(
        servers.state("a2")?.slots.contains(&"mitosis_shop_1".to_owned()),
        "the leader follows by a slot on a2"
    );
    stage.kubectl(&["delete", "clustermigration", "shop", "--timeout=60s"])?;
    assert_source_untouched(&servers)?;
    ensure!(
        through_haproxy(&stage, &servers)?.starts_with("false 10.20.0.11"),
        "traffic stays on the source"
    );
    stage.cluster.apply(&stage.example()?)?;
    migration.wait_ready("Replicating", SEEDED)?;
    migration.patch(r#"{"spec":{"phase":"Switched"}}"#)?;
    migration.wait_ready("Switched", SWITCHED)?;
    let names: Vec<&str> = servers.names().collect();
    let report = stage.judge(&servers, &names)?;
    ensure!(report.good, "the ledger's verdict: {report}");
    Ok(())
}

#[test]
fn a_migration_is_applied_by_kustomize_and_by_helm_as_it_is_by_kubectl() -> Result<()> {
    let stage = stage();
    let checkout = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let migration = Migration::new(&stage, "shop");
    let planned = "the plan is there";
    stage.kubectl(&["apply", "-k", &format!("{checkout}/examples/kustomize")])?;
    until(planned, REFUSED, || Ok(!migration.status("/phase")?.is_empty()))?;
    stage.kubectl(&["delete", "clustermigration", "shop", "--timeout=60s"])?;
    stage.reset()?;
    stage.cluster.helm(&[
        "upgrade",
        "--install",
        "shop-migration",
        &format!("{checkout}/examples/helm"),
        "--namespace",
        NAMESPACE,
        "--set",
        "phase=Planned",
    ])?;
    let applied = migration.wait_ready("Planned", REFUSED);
    stage
        .cluster
        .helm(&["uninstall", "shop-migration", "--namespace", NAMESPACE, "--wait"])?;
    applied?;
    assert_nothing_made(&stage)
}

/// Applies the example with something wrong, expects a refusal that says what to change and a source that was not touched, then
/// corrects it and expects that it goes on.
fn refused_then_corrected(
    wrong: &Value,
    words: &[&str],
    break_it: impl Fn(&Stage) -> Result<()>,
    mend: impl Fn(&Stage) -> Result<()>,
) -> Result<()> {
    let stage = stage();
    let servers = stage.servers()?;
    break_it(&stage)?;
    let mut change = json!({"phase": "Planned"});
    merge(&mut change, &json!({"phase": "Replicating"}));
    merge(&mut change, wrong);
    stage.cluster.apply(&example(&stage, &change)?)?;
    let migration = Migration::new(&stage, "shop");
    let sentence = migration.wait_refusal(words, REFUSED)?;
    println!("{sentence}");
    mend(&stage)?;
    assert_source_untouched(&servers)?;
    assert_nothing_made(&stage)?;
    // Corrected, it goes on: as far as the first objects of the target, which come after the whole preflight.
    stage.cluster.apply(&stage.example()?)?;
    until("seeding began", Duration::from_secs(60), || {
        Ok(migration.status("/phase")? == "Seeding")
    })
}

/// What is wrong is in the resource alone.
#[expect(clippy::unnecessary_wraps, reason = "it stands where others can fail")]
fn nothing(_: &Stage) -> Result<()> {
    Ok(())
}

#[test]
fn a_wrong_password_is_refused_with_the_secret_to_correct() -> Result<()> {
    let secret = |stage: &Stage, password: &str| {
        let patch = json!({"stringData": {"password": password}}).to_string();
        stage
            .kubectl(&["patch", "secret", "shop-source", "--type=merge", "-p", &patch])
            .map(drop)
    };
    refused_then_corrected(
        &json!({}),
        &["password authentication failed", "Secret shop-source"],
        |stage| secret(stage, "wrong"),
        |stage| secret(stage, &stage.site.credentials()?.mitosis),
    )
}

#[test]
fn an_unreachable_host_is_refused_with_the_member_to_correct() -> Result<()> {
    let members = json!({"source": {"members": [
        {"name": "a1", "host": "10.20.0.11"}, {"name": "a2", "host": "10.20.0.12"}, {"name": "a3", "host": "10.20.0.77"}]}});
    refused_then_corrected(
        &members,
        &["a3", "10.20.0.77:5432 does not answer", "spec.source.members"],
        nothing,
        nothing,
    )
}

#[test]
fn a_member_of_another_cluster_is_refused_with_both_identifiers() -> Result<()> {
    let other = |stage: &Stage| -> Result<()> {
        let machine = stage.site.member(mitosis_site::Member::A3);
        let script = format!(
            "set -- {} '{}'\n{}",
            stage.major,
            stage.site.credentials()?.mitosis,
            include_str!("other_cluster.sh")
        );
        machine.shell(&script, Duration::from_secs(30)).map(drop)
    };
    let members = json!({"source": {"members": [
        {"name": "a1", "host": "10.20.0.11"}, {"name": "a2", "host": "10.20.0.12"}, {"name": "a3", "host": "10.20.0.13", "port": 5433}]}});
    refused_then_corrected(
        &members,
        &["a3 is not part of the cluster", "system identifier"],
        other,
        nothing,
    )
}

#[test]
fn a_target_image_of_another_major_version_is_refused_with_both_versions() -> Result<()> {
    let image = json!({"target": {"image": "postgres:17"}});
    let words = [
        "spec.target.image postgres:17 holds PostgreSQL 17",
        "the source runs PostgreSQL 15",
    ];
    refused_then_corrected(
        &image,
        &words,
        |stage| stage.load(&mitosis_bed::Image::Postgres(17)),
        nothing,
    )
}

#[test]
fn a_target_image_without_postgresql_is_refused_with_what_it_lacks() -> Result<()> {
    let image = json!({"target": {"image": "haproxy:3.0"}});
    refused_then_corrected(
        &image,
        &["spec.target.image haproxy:3.0", "not on PATH: postgres"],
        nothing,
        nothing,
    )
}

#[test]
fn a_parameter_that_the_image_does_not_know_is_refused_with_its_name() -> Result<()> {
    let parameters = json!({"target": {"postgresql": {"parameters": {"work_memory": "8MB"}}}});
    refused_then_corrected(
        &parameters,
        &["knows no parameter work_memory", "spec.target.postgresql.parameters"],
        nothing,
        nothing,
    )
}

#[test]
fn the_plan_compares_the_image_with_what_the_source_uses_and_goes_on_where_that_was_accepted() -> Result<()> {
    let stage = stage();
    let servers = stage.servers()?;
    let on_source = |database: &str, sql: &str| servers.sql("a1", database, sql);
    on_source("app", "CREATE UNLOGGED TABLE cache (name text)")?;
    // As if the source's libraries sorted, and its extension were, as an older distribution has them.
    let extension =
        |version: &str| format!("UPDATE pg_extension SET extversion = '{version}' WHERE extname = 'plpgsql'");
    on_source("app", &extension("0.9"))?;
    stage.cluster.apply(&example(&stage, &json!({"phase": "Planned"}))?)?;
    let migration = Migration::new(&stage, "shop");
    let findings = || -> Result<BTreeSet<String>> {
        // There is no plan before the first look.
        let found: Value = serde_json::from_str(&migration.status("/plan/findings")?).unwrap_or_default();
        let each = found.as_array().into_iter().flatten();
        Ok(each
            .map(|found| format!("{} {}", found["check"], found["severity"]).replace('"', ""))
            .collect())
    };
    let expected = |severity: &str| {
        let checks = ["extension-version", "unlogged-tables"];
        checks.map(|check| format!("{check} {severity}")).into()
    };
    until("both are found", REFUSED, || Ok(findings()? == expected("Warn")))?;
    migration.wait_ready("Planned", REFUSED)?;
    migration.patch(r#"{"spec":{"acknowledged":["unlogged-tables","wal-level"]}}"#)?;
    let sentence = migration.wait_refusal(&["`wal-level` is no check whose findings can be accepted"], REFUSED)?;
    println!("{sentence}");
    migration.patch(r#"{"spec":{"acknowledged":["unlogged-tables","extension-version"]}}"#)?;
    until("both are accepted", REFUSED, || Ok(findings()? == expected("Inform")))?;
    on_source("app", "DROP TABLE cache")?;
    on_source("app", &extension("1.0")).map(drop)
}

#[test]
fn a_storage_that_is_too_small_is_refused_with_the_size_that_is_needed() -> Result<()> {
    let storage = json!({"target": {"storage": {"size": "64Mi"}}});
    refused_then_corrected(
        &storage,
        &["spec.target.storage.size is 64Mi", "make it at least"],
        nothing,
        nothing,
    )
}

#[test]
fn a_missing_secret_is_refused_with_its_name_and_keys() -> Result<()> {
    refused_then_corrected(
        &json!({"source": {"credentials": {"secretName": "nowhere"}}}),
        &["Secret nowhere", "does not exist", "username and password"],
        nothing,
        nothing,
    )
}

#[test]
fn a_misspelt_field_and_bad_values_are_refused_by_the_api_server_with_a_sentence() -> Result<()> {
    let stage = stage();
    let refused = |change: Value, words: &str| -> Result<()> {
        let manifest = write(&stage, "wrong.json", &example(&stage, &change)?)?;
        let error = stage
            .kubectl(&["apply", "-f", &manifest])
            .err()
            .context("it was not refused")?
            .to_string();
        ensure!(error.contains(words), "{words}: {error}");
        Ok(())
    };
    refused(
        json!({"source": {"clonefrom": "a2"}}),
        "unknown field \"spec.source.clonefrom\"",
    )?;
    refused(
        json!({"switchover": {"budget": "1s"}}),
        "write a duration between 2s and 10m",
    )?;
    refused(
        json!({"target": {"storage": {"size": "much"}}}),
        "write an amount of bytes",
    )?;
    refused(
        json!({"target": {"postgresql": {"parameters": {"port": "1"}}}}),
        "this parameter belongs to the operator",
    )?;
    ensure!(
        stage
            .kubectl(&["get", "clustermigrations", "-o", "name"])?
            .trim()
            .is_empty(),
        "nothing was made"
    );
    Ok(())
}

#[test]
fn the_chart_passes_lint_and_renders_for_one_namespace_for_several_and_for_all() -> Result<()> {
    let stage = standing();
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/mitosis");
    for settings in [
        "watch.clusterWide=false",
        "watch.clusterWide=true",
        "watch.namespaces={shop,market}",
    ] {
        stage
            .cluster
            .helm(&["lint", "--strict", "--kube-version", "1.34.0", "--set", settings, chart])?;
        let rendered = stage.cluster.helm(&[
            "template",
            "mitosis",
            chart,
            "--kube-version",
            "1.34.0",
            "--namespace",
            NAMESPACE,
            "--set",
            settings,
        ])?;
        ensure!(
            !rendered.contains("pods/exec") && !rendered.contains("- '*'"),
            "too many rights with {settings}"
        );
        ensure!(
            rendered.contains("kind: ClusterRole\n") == settings.ends_with("=true"),
            "a ClusterRole is opt-in: {settings}"
        );
    }
    let refused = stage
        .cluster
        .helm(&["template", "mitosis", chart, "--set", "replicas=2"]);
    ensure!(refused.is_err(), "an unknown value was taken");
    Ok(())
}

/// Group, resource with subresource, and verb of a call.
type Call = (String, String, String);

#[test]
fn the_operator_is_allowed_every_call_it_makes_and_holds_no_right_it_does_not_use() -> Result<()> {
    let stage = stage();
    let migration = replicate(&stage, &stage.example()?)?;
    migration.patch(r#"{"spec":{"phase":"Switched"}}"#)?;
    migration.wait_ready("Switched", SWITCHED)?;
    let (mut used, mut refused) = (BTreeSet::<Call>::new(), Vec::new());
    for line in std::fs::read_to_string(stage.cluster.state().path("logs/audit.log"))?.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        if event["user"]["username"] != "system:serviceaccount:shop:mitosis" {
            continue;
        }
        let text = |pointer: &str| {
            event
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let resource = match text("/objectRef/subresource") {
            sub if sub.is_empty() => text("/objectRef/resource"),
            sub => format!("{}/{sub}", text("/objectRef/resource")),
        };
        let call = (text("/objectRef/apiGroup"), resource, text("/verb"));
        if event["responseStatus"]["code"] == 403 {
            refused.push(call.clone());
        }
        used.insert(call);
    }
    ensure!(refused.is_empty(), "refused: {refused:?}");
    let mut unused = granted(&stage)?;
    unused.retain(|call| !used.contains(call));
    // Server-side apply of what does not exist is asked for as a patch and needs the right to create as well.
    unused.retain(|(group, resource, verb)| {
        verb != "create" || !used.contains(&(group.clone(), resource.clone(), "patch".to_owned()))
    });
    // An Event that repeats is patched; whether one did in this run is chance.
    unused.remove(&("events.k8s.io".to_owned(), "events".to_owned(), "patch".to_owned()));
    ensure!(unused.is_empty(), "granted and never used: {unused:?}");
    Ok(())
}

/// Every right that the operator's Roles grant.
fn granted(stage: &Stage) -> Result<BTreeSet<Call>> {
    let roles: Value = serde_json::from_str(&stage.kubectl(&[
        "get",
        "roles",
        "-l",
        "app.kubernetes.io/name=mitosis",
        "-o",
        "json",
    ])?)?;
    let texts = |value: &Value| -> Vec<String> {
        let list = value.as_array().cloned().unwrap_or_default();
        list.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect()
    };
    let mut granted = BTreeSet::new();
    for rule in roles["items"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default())
    {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    granted.insert((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    ensure!(
        granted.len() > 10,
        "the Roles of the operator were not found: {granted:?}"
    );
    Ok(granted)
}
