//! Measurements on the stage. Each ends with one JSON object on a line, which is also kept under target/bench/.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use serde_json::json;

use crate::{Migration, Stage, figures::record, until};

/// Scale of pgbench's data: 50 is 5,000,000 accounts, about 750 MB.
const SCALE: u32 = 50;
/// What limits the bytes on the wire, after compression, as a slow link would.
const SLOW: &str = "--max-rate=40M";
/// Clones by the Job and by hand, in turn.
const RUNS: usize = 3;

/// Speed of the base backup in the seeding Job against the same command run by hand in the same place from the same server.
///
/// # Errors
/// A clone fails or takes longer than five minutes.
pub fn seeding(major: u8) -> Result<()> {
    let stage = Stage::up(major)?;
    let (mut ratios, mut compressed) = (Vec::new(), Vec::new());
    for run in 1..=RUNS {
        stage.reset()?;
        stage.site.init_pgbench(SCALE)?;
        stage.cluster.apply(&stage.example()?)?;
        let migration = Migration::new(&stage, "shop");
        until("the leader is cloned", Duration::from_secs(300), || {
            Ok(!stage
                .kubectl(&["get", "statefulset", "shop-1", "--ignore-not-found", "-o", "name"])?
                .is_empty())
        })?;
        // One clone at a time: the followers would share the disk.
        migration.patch(r#"{"spec":{"suspend":true}}"#)?;
        stage.kubectl(&["wait", "--for=condition=Ready", "pod/shop-1-0", "--timeout=60s"])?;
        let by_job = job_seconds(&stage)?;
        let by_hand = hand_seconds(&stage, "")?;
        let slow = hand_seconds(&stage, SLOW)?;
        let zstd = hand_seconds(&stage, &format!("{SLOW} --compress=server-zstd:level=1"))?;
        stage.say(
            "bench",
            &format!("run {run}: Job {by_job:.2} s, by hand {by_hand:.2} s; at 40 MiB/s on the wire {slow:.2} s, compressed {zstd:.2} s"),
        );
        ratios.push(by_hand / by_job);
        compressed.push(slow / zstd);
    }
    for each in [&mut ratios, &mut compressed] {
        each.sort_by(f64::total_cmp);
    }
    record(&json!({
        "bench": "seeding", "figure": "ratio", "value": ratios[RUNS / 2], "unit": "ratio", "runs": RUNS,
        "against": "pg_basebackup by hand in the same pod network and on the same volume, from the same server",
        "minimum": ratios[0], "maximum": ratios[RUNS - 1], "compressed_ratio": compressed[RUNS / 2],
    }))
}

/// Time between the Job's own words before and after pg_basebackup, by the kubelet's clock.
fn job_seconds(stage: &Stage) -> Result<f64> {
    let log = stage.kubectl(&["logs", "job/shop-1-seed", "--timestamps"])?;
    let at = |words: &str| -> Result<Timestamp> {
        let line = log
            .lines()
            .find(|line| line.contains(words))
            .with_context(|| format!("the Job did not say `{words}`: {log}"))?;
        Ok(line.split(' ').next().unwrap_or_default().parse()?)
    };
    Ok((at("base backup is complete")? - at("base backup begins")?).total(jiff::Unit::Second)?)
}

/// The same command in the leader's pod, which has the same volume and the same way to the server.
fn hand_seconds(stage: &Stage, options: &str) -> Result<f64> {
    let conninfo = "host=10.20.0.12 port=5432 user=mitosis sslmode=verify-full sslrootcert=/etc/mitosis/source/ca.crt";
    let folder = "/var/lib/pgmitosis/by-hand";
    let script = format!(
        "rm -rf {folder}; export PGPASSWORD=\"$(cat /etc/mitosis/source/password)\"; \
         pg_basebackup --pgdata={folder} --dbname='{conninfo}' --wal-method=stream --checkpoint=fast --no-password {options}"
    );
    let began = Instant::now();
    stage.kubectl(&["exec", "shop-1-0", "--", "sh", "-c", &script])?;
    let seconds = began.elapsed().as_secs_f64();
    stage.kubectl(&["exec", "shop-1-0", "--", "rm", "-rf", folder])?;
    ensure!(
        seconds > 1.0,
        "the clone by hand took {seconds} s, too short to compare: raise the scale"
    );
    Ok(seconds)
}
