//! PgBouncer between the application and HAProxy, as an application's own pods.

use std::time::Duration;

use anyhow::Result;
use mitosis_bed::Image;
use serde_json::{Value, json};

use crate::{NAMESPACE, Stage, load::WRITE_ADDRESS, until};

/// ClusterIP of the Service before the pods.
pub const POOLED_ADDRESS: &str = "10.96.100.11";
/// PgBouncer of the pods; the tests without a cluster run the host's 1.18.
const VERSION: &str = "1.24";
const NAME: &str = "app-pgbouncer";
const CONSOLE_PASSWORD: &str = "console; of 'PgBouncer'";

impl Stage {
    /// Starts two pods of PgBouncer whose server is HAProxy's write route, with a Service and the Secret for their consoles.
    ///
    /// # Errors
    /// They do not become ready.
    pub fn start_pgbouncer(&self) -> Result<()> {
        self.load(&Image::Pgbouncer(VERSION))?;
        let app = self.site.credentials()?.app;
        let configuration = format!(
            "[databases]\napp = host={WRITE_ADDRESS} port=5432 dbname=app\n\n[pgbouncer]\nlisten_addr = *\nlisten_port = 6432\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = /etc/pgbouncer/users\nadmin_users = console\npool_mode = transaction\n\
             server_tls_sslmode = require\nmax_client_conn = 500\ndefault_pool_size = 20\n"
        );
        let users = format!("\"app\" \"{app}\"\n\"console\" \"{CONSOLE_PASSWORD}\"\n");
        let labels = json!({"app": NAME});
        let object = |version: &str, kind: &str, name: &str, body: Value| {
            let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels}});
            for (key, value) in body.as_object().into_iter().flatten() {
                object[key] = value.clone();
            }
            object
        };
        let container = json!({
            "name": "pgbouncer",
            "image": format!("pgbouncer:{VERSION}"),
            "imagePullPolicy": "Never",
            "ports": [{"containerPort": 6432}],
            "readinessProbe": {"tcpSocket": {"port": 6432}, "periodSeconds": 1},
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "configuration", "mountPath": "/etc/pgbouncer"}],
        });
        let pod = json!({
            "metadata": {"labels": labels},
            "spec": {
                "enableServiceLinks": false,
                "terminationGracePeriodSeconds": 1,
                "securityContext": {"runAsNonRoot": true, "runAsUser": 70, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [container],
                "volumes": [{"name": "configuration", "secret": {"secretName": "app-pgbouncer-configuration"}}],
            },
        });
        let objects = [
            object(
                "v1",
                "Secret",
                "app-pgbouncer-configuration",
                json!({"stringData": {"pgbouncer.ini": configuration, "users": users}}),
            ),
            object(
                "v1",
                "Secret",
                "shop-pgbouncer",
                json!({"stringData": {"username": "console", "password": CONSOLE_PASSWORD}}),
            ),
            object(
                "v1",
                "Service",
                NAME,
                json!({"spec": {"clusterIP": POOLED_ADDRESS, "selector": labels, "ports": [{"port": 6432}]}}),
            ),
            object(
                "apps/v1",
                "Deployment",
                NAME,
                json!({"spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": pod}}),
            ),
        ];
        for object in objects {
            self.cluster.apply(&object.to_string())?;
        }
        until("PgBouncer is ready", Duration::from_secs(60), || {
            let ready = self.kubectl(&["get", "deployment", NAME, "-o", "jsonpath={.status.readyReplicas}"])?;
            Ok(ready == "2")
        })
    }

    /// Takes PgBouncer away, where it is.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn stop_pgbouncer(&self) -> Result<()> {
        let kinds = "deployments,services,secrets";
        let selector = format!("app={NAME}");
        let arguments = [
            "delete",
            kinds,
            "-l",
            &selector,
            "--wait=true",
            "--ignore-not-found",
            "--timeout=60s",
        ];
        self.kubectl(&arguments).map(drop)
    }
}

/// `spec.traffic.pgbouncer` for it.
#[must_use]
pub fn pgbouncer() -> Value {
    json!({"selector": {"app": NAME}, "credentials": {"secretName": "shop-pgbouncer"}, "tls": "disable"})
}
