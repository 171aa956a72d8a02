//! Reading the ConfigMap through the API.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::{Stream, StreamExt as _, future::ready};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    runtime::{
        WatchStreamExt as _,
        utils::Backoff,
        watcher::{self, Event, watcher},
    },
};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::{AgentArgs, Desired, Wish, file};

/// Time for one call to the API.
const CALL: Duration = Duration::from_secs(5);
/// Pause before the next call when one fails.
const PAUSE: Duration = Duration::from_millis(500);
/// Time for the init container to find its configuration.
const FIRST: Duration = Duration::from_mins(2);
/// The API server ends a watch after this many seconds. A connection that died silently is noticed soon after.
const WATCH_SECONDS: u32 = 20;

/// The client of this pod's service account, or of the kubeconfig outside of a cluster.
pub(super) async fn client() -> anyhow::Result<Client> {
    let mut config = Config::infer()
        .await
        .context("no way to the Kubernetes API: run in a pod with a service account")?;
    config.connect_timeout = Some(CALL);
    config.read_timeout = Some(Duration::from_secs(u64::from(WATCH_SECONDS)) + CALL);
    // Failures are answered here, where a pause is known to be short.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Each state of the ConfigMap, as it comes.
pub(super) fn wishes(client: Client, namespace: &str, name: &str) -> impl Stream<Item = Result<Wish, String>> + use<> {
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let config = watcher::Config::default()
        .fields(&format!("metadata.name={name}"))
        .timeout(WATCH_SECONDS);
    watcher(api, config).backoff(Steadily).filter_map(|event| {
        ready(match event {
            Ok(Event::Apply(object) | Event::InitApply(object)) => Some(wish(object)),
            Ok(Event::Delete(_)) => {
                warn!("the ConfigMap was deleted: HAProxy goes on as it is");
                None
            }
            Ok(Event::Init | Event::InitDone) => None,
            Err(error) => {
                warn!(error = %error, "the ConfigMap cannot be watched for the moment: HAProxy goes on as it is");
                None
            }
        })
    })
}

fn wish(object: ConfigMap) -> Result<Wish, String> {
    let desired = Desired::from_data(&object.data.unwrap_or_default())?;
    Ok(Wish {
        uid: object.metadata.uid.unwrap_or_default(),
        desired,
    })
}

/// A switchover does not wait for a growing backoff, and one object is no burden.
struct Steadily;

impl Iterator for Steadily {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(PAUSE)
    }
}

impl Backoff for Steadily {
    fn reset(&mut self) {}
}

/// Writes the file from what the API holds now.
pub(super) async fn fetch_once(client: Client, args: &AgentArgs) -> anyhow::Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client, &args.namespace);
    let start = Instant::now();
    loop {
        let found = match timeout(CALL, api.get(&args.configmap)).await {
            Ok(Ok(object)) => wish(object),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer from the Kubernetes API within {} s", CALL.as_secs())),
        };
        let reason = match found {
            Ok(Wish { desired, .. }) => {
                let path = args.config_file.display();
                file::write(&args.config_file, &desired.configuration)
                    .await
                    .with_context(|| format!("cannot write {path}: mount its directory writable"))?;
                info!(generation = desired.generation, state = desired.state.as_str(), %path, "written");
                return Ok(());
            }
            Err(reason) => reason,
        };
        let configmap = format!("{}/{}", args.namespace, args.configmap);
        if start.elapsed() > FIRST {
            bail!(
                "no configuration in ConfigMap {configmap} within {} s: {reason}: check that the operator runs",
                FIRST.as_secs()
            );
        }
        warn!(configmap, reason, "no configuration yet");
        sleep(PAUSE).await;
    }
}
