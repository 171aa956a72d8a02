//! PgPool2 before either side, from the example.

use std::time::Duration;

use anyhow::{Result, ensure};
use mitosis_bed::Image;
use serde_json::json;

use crate::{NAMESPACE, Stage, stage::read_example, until};

/// ClusterIPs of the Services before PgPool2 of the source and of the target.
pub const POOLER_ADDRESSES: [&str; 2] = ["10.96.100.12", "10.96.100.13"];
const USERS: &str = "pgpool-users";
const HOSTS: [(&str, &str); 3] = [
    ("shop-1.shop.svc", "10.20.0.11"),
    ("shop-2.shop.svc", "10.20.0.12"),
    ("shop-3.shop.svc", "10.20.0.13"),
];

/// PgPool2 before both sides, taken away when this goes.
pub struct Pgpool<'a> {
    stage: &'a Stage,
    manifests: [String; 2],
}

impl<'a> Pgpool<'a> {
    /// Starts PgPool2 4.3 before the target as the example says, and 4.6 before the source with the same configuration.
    ///
    /// # Errors
    /// They do not become ready.
    pub fn start(stage: &'a Stage) -> Result<Self> {
        stage.load(&Image::Pgpool("4.3"))?;
        stage.load(&Image::Pgpool("4.6"))?;
        let credentials = stage.site.credentials()?;
        let users = format!("app:TEXT{}\nmitosis:TEXT{}\n", credentials.app, credentials.mitosis);
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": USERS, "namespace": NAMESPACE}, "stringData": {"pool_passwd": users},
        });
        stage.cluster.apply(&secret.to_string())?;
        let [old_address, new_address] = POOLER_ADDRESSES;
        let target = with_address(&read_example("pgpool2.yaml")?, new_address)?;
        let mut source = target.replace(new_address, old_address);
        for (new, old) in HOSTS {
            ensure!(source.contains(new), "the example does not name {new}");
            source = source.replace(new, old);
        }
        let source = source
            .replace("name: pgpool,", "name: old-pgpool,")
            .replace("name: pgpool}", "name: old-pgpool}")
            .replace("app: pgpool}", "app: old-pgpool}")
            .replace("pgpool2:4.3", "pgpool2:4.6");
        let running = Self {
            stage,
            manifests: [source, target],
        };
        for manifest in &running.manifests {
            stage.cluster.apply(manifest)?;
        }
        for name in ["old-pgpool", "pgpool"] {
            until(&format!("{name} is ready"), Duration::from_secs(90), || {
                let ready = stage.kubectl(&["get", "deployment", name, "-o", "jsonpath={.status.readyReplicas}"])?;
                Ok(ready == "2")
            })?;
        }
        Ok(running)
    }
}

/// The Service with an address that is known before.
fn with_address(manifest: &str, address: &str) -> Result<String> {
    let selector = "  selector: {app: pgpool}\n  ports:";
    ensure!(manifest.contains(selector), "the example has no Service");
    Ok(manifest.replace(selector, &format!("  clusterIP: {address}\n{selector}")))
}

impl Drop for Pgpool<'_> {
    fn drop(&mut self) {
        let names = ["pgpool", "old-pgpool", USERS];
        for name in names {
            let kinds = "deployment,service,configmap,secret";
            let arguments = [
                "delete",
                kinds,
                name,
                "--ignore-not-found",
                "--wait=true",
                "--timeout=60s",
            ];
            if let Err(error) = self.stage.kubectl(&arguments) {
                eprintln!("{error:#}");
            }
        }
    }
}
