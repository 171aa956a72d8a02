//! The benchmark of the routing: from the write of the ConfigMap until every HAProxy is known to do what it says.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use mitosis::{
    agent::{Desired, Report},
    api::ANNOTATION_REFRESHED,
    haproxy::{Configuration, Form, REPORT_PORT, State, replace_block},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Runtime,
    select,
    task::JoinSet,
    time::{interval, sleep, timeout},
};

use crate::{
    Load, Migration, NAMESPACE, PROXIES, Stage,
    figures::{percentile, record},
    pod_ips, read_example, until,
};

/// Scale of pgbench's data: 3 is 300,000 accounts, about 45 MB.
const SCALE: u32 = 3;
/// The HAProxy pods of the example without an agent.
const EDGE: &str = "app=edge";
/// What reloads HAProxy in the example rests for a second after a reload. Changes that nobody makes in a row do not come upon that.
const RELOADED: Duration = Duration::from_millis(1200);
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
    let mut mounted = bring_by_kubelet(&stage, &runtime, rounds)?;
    stage.kubectl(&["scale", "deployment", "mitosis", "--replicas=1"])?;
    for times in [&mut held, &mut released, &mut mounted] {
        times.sort_by(f64::total_cmp);
    }
    record(&json!({
        "bench": "routing",
        "rounds": rounds,
        "pods": pods.len(),
        "verified_p50": percentile(&released, 50),
        "verified_p99": percentile(&released, 99),
        "held_p50": percentile(&held, 50),
        "held_p99": percentile(&held, 99),
        "mounted_p50": percentile(&mounted, 50),
        "mounted_p99": percentile(&mounted, 99),
    }))
}

async fn connect(stage: &Stage) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(stage.cluster.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Seconds that each generation takes to HAProxy pods without an agent, by the kubelet, whose attention an annotation draws.
fn bring_by_kubelet(stage: &Stage, runtime: &Runtime, rounds: usize) -> Result<Vec<f64>> {
    let file = stage.cluster.state().path("own-haproxy.yaml");
    std::fs::write(&file, read_example("own-haproxy-mounted.yaml")?)?;
    let file = file.to_string_lossy().into_owned();
    stage.kubectl(&["apply", "-f", &file])?;
    let times = until("the pods without an agent run", Duration::from_secs(60), || {
        Ok(pod_ips(stage, EDGE).is_ok_and(|pods| pods.len() == 2))
    })
    .and_then(|()| runtime.block_on(turn_over_mounted(stage, rounds)));
    stage.kubectl(&["delete", "-f", &file, "--wait=true", "--timeout=60s"])?;
    times
}

async fn turn_over_mounted(stage: &Stage, rounds: usize) -> Result<Vec<f64>> {
    let client = connect(stage).await?;
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
    let found = pods.list(&ListParams::default().labels(EDGE)).await?;
    let written = configs.get("shop-routing").await?.data.unwrap_or_default();
    let written = Desired::from_data(&written).map_err(anyhow::Error::msg)?;
    let routes = Configuration::parse(&written.configuration).map_err(anyhow::Error::msg)?;
    let users = configs.get("edge").await?.data.unwrap_or_default();
    let users = users.get("haproxy.cfg").context("the example has no haproxy.cfg")?;
    let mut times = Vec::new();
    // The first one starts with the pods and is not counted.
    for generation in 0..=rounds as u64 {
        let next = Configuration::new(Form::Mounted, generation, State::Open, routes.routes().to_vec());
        let text = next.and_then(|next| replace_block(users, "shop", &next));
        let patch = Patch::Merge(json!({"data": {"haproxy.cfg": text.map_err(anyhow::Error::msg)?}}));
        let began = Instant::now();
        configs.patch("edge", &PatchParams::default(), &patch).await?;
        let each = found.items.iter().cloned();
        let mut bringing: JoinSet<Result<()>> = each.map(|pod| bring(pods.clone(), pod, generation)).collect();
        while let Some(brought) = bringing.join_next().await {
            brought??;
        }
        if generation > 0 {
            times.push(began.elapsed().as_secs_f64());
        }
        sleep(RELOADED).await;
    }
    Ok(times)
}

/// Draws the kubelet's attention to a pod, once a second as the operator does, until HAProxy in it runs this generation.
async fn bring(pods: Api<Pod>, pod: Pod, generation: u64) -> Result<()> {
    let status = pod.status.as_ref();
    let ip = status
        .and_then(|status| status.pod_ip.clone())
        .context("a pod without an address")?;
    let arrival = async {
        let mut again = interval(Duration::from_secs(1));
        let mut look = interval(Duration::from_millis(10));
        loop {
            select! {
                biased;
                now = again.tick() => {
                    let now = format!("{now:?}");
                    let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION_REFRESHED: now}}}));
                    pods.patch(&pod.name_any(), &PatchParams::default(), &patch).await?;
                }
                _ = look.tick() => {
                    if ask(ip.clone(), generation).await.is_ok_and(|report| report.is_running(generation)) {
                        return Ok(());
                    }
                }
            }
        }
    };
    let late = || format!("{} does not get to generation {generation}", pod.name_any());
    timeout(Duration::from_secs(150), arrival).await.with_context(late)?
}

/// Seconds of each hold and each release.
async fn turn_over(stage: &Stage, pods: &[String], rounds: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let configs: Api<ConfigMap> = Api::namespaced(connect(stage).await?, NAMESPACE);
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
    let mut stream = TcpStream::connect((pod.as_str(), REPORT_PORT)).await?;
    let wait = PATIENCE.as_millis();
    let request = format!("GET /report?generation={generation}&wait={wait} HTTP/1.0\r\nHost: agent\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    Ok(serde_json::from_str(body)?)
}
