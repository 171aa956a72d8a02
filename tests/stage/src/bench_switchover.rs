//! The benchmark of the switchover: there and back under load, as the clients see it.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use mitosis_ledger::{Gaps, RunLog, Window};
use serde_json::{Value, json};

use crate::{
    Load, Migration, Stage,
    figures::{percentile, record},
};

/// Scale of pgbench's data: 3 is 300,000 accounts, about 45 MB.
const SCALE: u32 = 3;
/// Time before the hold and after the release in which a client's gap may begin or end.
const AROUND: Duration = Duration::from_millis(300);

/// Switches `rounds` times, every second time back, and prints what the clients saw and where the time went.
///
/// # Errors
/// A switchover does not come to its end, or a row is lost or duplicated.
pub fn switchover(major: u8, rounds: usize) -> Result<()> {
    let stage = Stage::up(major)?;
    stage.reset()?;
    stage.cluster.apply(&stage.example()?)?;
    let migration = Migration::new(&stage, "shop");
    stage.start_load(Load::of_the_field(SCALE))?;
    migration.wait_ready("Replicating", Duration::from_secs(240))?;
    let mut steps: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut windows = Vec::new();
    for round in 0..rounds {
        let (phase, ready) = match round % 2 {
            0 => ("Switched", "RollbackAvailable"),
            _ => ("RolledBack", "CutoverReady"),
        };
        migration.patch(&format!(r#"{{"spec":{{"phase":"{phase}"}}}}"#))?;
        // One watch each: asking again and again would take the processor from what is measured.
        migration.watch(&format!("jsonpath={{.status.phase}}={phase}"), Duration::from_secs(90))?;
        migration.watch("jsonpath={.status.switchover.step}=Done", Duration::from_secs(90))?;
        migration.watch(&format!("condition={ready}"), Duration::from_secs(90))?;
        let record = migration.get()?["status"]["switchover"].clone();
        let window = read(&record, &mut steps)?;
        windows.push(window);
        let held = &record["certificate"]["heldMilliseconds"];
        stage.say("bench", &format!("{} of {rounds}: {phase}, held {held} ms", round + 1));
    }
    let servers = stage.servers()?;
    let names: Vec<&str> = servers.names().collect();
    let report = stage.judge(&servers, &names)?;
    println!("{report}");
    ensure!(report.good, "rows were lost or duplicated");
    let runs = RunLog::read(&stage.ledger_file())?;
    let mut gaps: Vec<f64> = windows
        .iter()
        .flat_map(|window| Gaps::new(&runs, *window).longest)
        .map(|gap| seconds(gap.microseconds))
        .collect();
    gaps.sort_by(f64::total_cmp);
    let mut figures = json!({
        "bench": "switchover",
        "switches": rounds,
        "samples": gaps.len(),
        "gap_p50": percentile(&gaps, 50),
        "gap_p99": percentile(&gaps, 99),
        "gap_max": percentile(&gaps, 100),
    });
    for (step, mut values) in steps {
        values.sort_by(f64::total_cmp);
        println!(
            "step {step}: median {:.3} s, longest {:.3} s",
            percentile(&values, 50),
            percentile(&values, 100)
        );
        figures[format!("step_{}", step.to_lowercase())] = json!(percentile(&values, 50));
    }
    record(&figures)
}

/// Adds how long each step took, and tells when clients were held.
fn read(record: &Value, steps: &mut BTreeMap<String, Vec<f64>>) -> Result<Window> {
    let mut times = Vec::new();
    for step in record["steps"].as_array().context("a record without steps")? {
        let name = step["step"].as_str().context("a step without a name")?;
        let time: Timestamp = step["startTime"].as_str().context("a step without a time")?.parse()?;
        times.push((name, time));
    }
    for pair in times.windows(2) {
        let [(name, began), (_, ended)] = pair else { continue };
        let took = seconds(ended.as_microsecond() - began.as_microsecond());
        steps.entry((*name).to_owned()).or_default().push(took);
    }
    let at = |wanted: &str| times.iter().find(|(name, _)| *name == wanted).map(|(_, time)| *time);
    let (held, released) = at("Hold").zip(at("Follow")).context("clients were not held")?;
    Ok(Window {
        from: Some((held - AROUND).as_microsecond()),
        to: Some((released + AROUND).as_microsecond()),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a span of some seconds fits")]
fn seconds(microseconds: i64) -> f64 {
    microseconds as f64 / 1e6
}
