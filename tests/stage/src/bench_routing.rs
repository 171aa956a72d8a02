//! The benchmark of the routing: from the write of the ConfigMap until every HAProxy is known to do what it says.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use mitosis::{
    agent::{Desired, Report},
    haproxy::{Configuration, State},
    resources::AGENT_PORT,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    Load, Migration, NAMESPACE, PROXIES, Stage,
    figures::{percentile, record},
    pod_ips, until,
};

/// Scale of pgbench's data: 3 is 300,000 accounts, about 45 MB.
const SCALE: u32 = 3;
/// Time for an agent to get there.
const PATIENCE: Duration = Duration::from_secs(10);

/// Holds and releases `rounds` times under load, without the operator, and prints how long each took until every agent reported it.
///
/// # Errors
/// An agent does not get there.
pub fn routing(major: u8, rounds: usize) -> Result<()> {
    let stage = Stage::up(major)?;
    stage.reset()?;
    stage.cluster.apply(&stage.example()?)?;
    let migration = Migration::new(&stage, "shop");
    stage.start_load(Load::of_the_field(SCALE))?;
    migration.wait_ready("Replicating", Duration::from_secs(240))?;
    // It would put the routing right.
    stage.kubectl(&["scale", "deployment", "mitosis", "--replicas=0"])?;
    until("the operator's pod is gone", Duration::from_secs(60), || {
        let pods = stage.kubectl(&["get", "pods", "-l", "app.kubernetes.io/name=mitosis", "-o", "name"])?;
        Ok(pods.trim().is_empty())
    })?;
    let pods = pod_ips(&stage, PROXIES)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut held, mut released) = runtime.block_on(turn_over(&stage, &pods, rounds))?;
    stage.kubectl(&["scale", "deployment", "mitosis", "--replicas=1"])?;
    held.sort_by(f64::total_cmp);
    released.sort_by(f64::total_cmp);
    record(&json!({
        "bench": "routing",
        "rounds": rounds,
        "pods": pods.len(),
        "verified_p50": percentile(&released, 50),
        "verified_p99": percentile(&released, 99),
        "held_p50": percentile(&held, 50),
        "held_p99": percentile(&held, 99),
    }))
}

/// Seconds of each hold and each release.
async fn turn_over(stage: &Stage, pods: &[String], rounds: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let kubeconfig = Kubeconfig::read_from(stage.cluster.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let configs: Api<ConfigMap> = Api::namespaced(Client::try_from(config)?, NAMESPACE);
    let written = configs.get("shop-routing").await?.data.unwrap_or_default();
    let written = Desired::from_data(&written).map_err(anyhow::Error::msg)?;
    let configuration = Configuration::parse(&written.configuration).map_err(anyhow::Error::msg)?;
    let mut generation = written.generation;
    let (mut held, mut released) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (state, times) in [(State::Held, &mut held), (State::Open, &mut released)] {
            generation += 1;
            let next = Configuration::new(configuration.form(), generation, state, configuration.routes().to_vec());
            let data = Desired::from(&next.map_err(anyhow::Error::msg)?).to_data();
            let began = Instant::now();
            let patch = Patch::Merge(json!({"data": data}));
            configs.patch("shop-routing", &PatchParams::default(), &patch).await?;
            let mut waiting: JoinSet<Result<Report>> = pods.iter().map(|pod| ask(pod.clone(), generation)).collect();
            while let Some(report) = waiting.join_next().await {
                let report = report??;
                let is_there = match state {
                    State::Held => report.is_holding(generation),
                    State::Open => report.is_running(generation),
                };
                ensure!(is_there, "an agent did not get to generation {generation}: {report:?}");
            }
            times.push(began.elapsed().as_secs_f64());
        }
    }
    Ok((held, released))
}

/// What the agent reports as soon as it has reached a generation.
async fn ask(pod: String, generation: u64) -> Result<Report> {
    let mut stream = TcpStream::connect((pod.as_str(), AGENT_PORT)).await?;
    let wait = PATIENCE.as_millis();
    let request = format!("GET /report?generation={generation}&wait={wait} HTTP/1.0\r\nHost: agent\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    Ok(serde_json::from_str(body)?)
}
