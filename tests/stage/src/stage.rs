//! Up, down, reset.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use mitosis_bed::{Bed, Cluster, Image, State, binaries::toxiproxy, images::postgres_rootfs};
use mitosis_site::{Config, Site, SmallDisk};
use serde_json::{Value, json};

use crate::{load, migration::until, pgpool::POOLER_ADDRESSES, servers::Servers};

/// Namespace of the application, the operator and the migration.
pub const NAMESPACE: &str = "shop";
/// How long another holder of the bed is waited for.
const LOCK_LIMIT: Duration = Duration::from_secs(30);
/// The variable that chooses another HAProxy: 2.6 deadlocks when a hold ends at run time, and is reloaded instead.
const HAPROXY: &str = "HAPROXY";

/// HAProxy of the examples, unless the variable says 2.6.
fn haproxy() -> &'static str {
    match std::env::var(HAPROXY).as_deref() {
        Ok("2.6") => "2.6",
        _ => "3.0",
    }
}

/// The scene, held by this process until dropped. It stays up when the hold ends.
pub struct Stage {
    bed: Bed,
    /// The cluster.
    pub cluster: Cluster,
    /// The source site.
    pub site: Site,
    /// Major version of PostgreSQL.
    pub major: u8,
}

impl Stage {
    /// Brings everything up, or what is missing of it: cluster, source site, Secrets and the operator of this checkout.
    ///
    /// # Errors
    /// The host cannot run it, something cannot be built, or a component does not become ready.
    pub fn up(major: u8) -> Result<Self> {
        let bed = Bed::lock(&format!("stage (PostgreSQL {major})"), LOCK_LIMIT)?;
        // First, because it installs what the rest is made with.
        let cluster = bed.up(&[
            Image::Postgres(major),
            Image::Haproxy(haproxy()),
            Image::Mitosis { binary: None },
        ])?;
        let rootfs = postgres_rootfs(major, bed.cache(), bed.progress())?;
        let toxiproxy = Some(toxiproxy(bed.cache(), bed.progress())?);
        let site = Site::up(&Config {
            state: State::open()?.root().to_owned(),
            rootfs,
            major: u16::from(major),
            toxiproxy,
        })?;
        bed.progress().step("source", "a1, a2 and a3 stream");
        let stage = Self {
            bed,
            cluster,
            site,
            major,
        };
        SmallDisk::remove(&stage.volumes())?;
        stage.provide()?;
        stage.install(&[])?;
        Ok(stage)
    }

    /// Stops everything and removes what it made on the host.
    ///
    /// # Errors
    /// Something cannot be removed; calling it again continues.
    pub fn down() -> Result<()> {
        load::stop()?;
        let bed = Bed::lock("stage down", LOCK_LIMIT)?;
        Site::down(State::open()?.root())?;
        bed.down()
    }

    /// Puts the scene back to its beginning: no migration, no target, fresh databases on the source, with the operator still there.
    ///
    /// # Errors
    /// Something cannot be removed in time.
    pub fn reset(&self) -> Result<()> {
        load::stop()?;
        // The finalizer needs the source; where that is broken on purpose the resource is taken away without it.
        self.kubectl(&[
            "delete",
            "clustermigrations",
            "--all",
            "--wait=false",
            "--ignore-not-found",
        ])?;
        let gone = until("ClusterMigrations are gone", Duration::from_secs(45), || {
            Ok(self
                .kubectl(&["get", "clustermigrations", "-o", "name"])?
                .trim()
                .is_empty())
        });
        if gone.is_err() {
            for name in self.kubectl(&["get", "clustermigrations", "-o", "name"])?.lines() {
                self.kubectl(&[
                    "patch",
                    name,
                    "--type=merge",
                    "-p",
                    r#"{"metadata":{"finalizers":null}}"#,
                ])?;
            }
        }
        let kinds = "statefulsets,deployments,jobs,services,configmaps,serviceaccounts,roles,rolebindings,poddisruptionbudgets,persistentvolumeclaims";
        self.kubectl(&[
            "delete",
            kinds,
            "-l",
            "pgmitosis.dev/migration",
            "--wait=true",
            "--ignore-not-found",
            "--timeout=90s",
        ])?;
        until("pods of the migration are gone", Duration::from_secs(60), || {
            Ok(self
                .kubectl(&[
                    "get",
                    "pods",
                    "-l",
                    "pgmitosis.dev/component!=x,app.kubernetes.io/managed-by=mitosis",
                    "-o",
                    "name",
                ])?
                .trim()
                .is_empty())
        })?;
        self.stop_pgbouncer()?;
        self.site.reset()?;
        self.provide()?;
        self.bed.progress().step("stage", "put back to its beginning");
        Ok(())
    }

    /// Secrets that a user would make, and the address that the application was told: HAProxy's Service.
    fn provide(&self) -> Result<()> {
        let names: Vec<String> = [
            "*.shop.svc",
            "*.shop.svc.cluster.local",
            "shop-haproxy.shop.svc",
            "10.244.0.1",
            load::WRITE_ADDRESS,
            POOLER_ADDRESSES[0],
            POOLER_ADDRESSES[1],
        ]
        .map(ToOwned::to_owned)
        .into();
        let target = self.site.issue_certificate("shop", &names)?;
        let authority = self.site.authority()?;
        let secret = |name: &str, data: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}, "stringData": data});
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop-haproxy", "namespace": NAMESPACE},
            "spec": {"clusterIP": load::WRITE_ADDRESS, "ports": [{"name": "write", "port": 5432}]},
        });
        let objects = [
            secret(
                "shop-source",
                json!({"username": "mitosis", "password": self.site.credentials()?.mitosis, "ca.crt": authority}),
            ),
            secret(
                "shop-tls",
                json!({"tls.crt": target.certificate, "tls.key": target.key, "ca.crt": authority}),
            ),
            service,
        ];
        for object in objects {
            self.cluster.apply(&object.to_string())?;
        }
        Ok(())
    }

    /// Installs the operator by Helm, with further settings.
    ///
    /// # Errors
    /// Helm refuses or the operator does not become ready.
    pub fn install(&self, settings: &[&str]) -> Result<()> {
        let chart = checkout().join("charts/mitosis");
        let digest = Image::Mitosis { binary: None }
            .build(self.bed.cache(), self.bed.progress())?
            .digest;
        let mark = format!("podAnnotations.image={}", &digest.replace([':', ','], "-"));
        let chart = chart.to_string_lossy().into_owned();
        let mut arguments = vec![
            "upgrade",
            "--install",
            "mitosis",
            chart.as_str(),
            "--namespace",
            NAMESPACE,
            "--wait",
            "--timeout=90s",
            "--set-string",
            "image.tag=dev",
            "--set-string",
            &mark,
            "--set",
            "logLevel=info",
        ];
        for setting in settings {
            arguments.extend(["--set", setting]);
        }
        self.cluster.helm(&arguments)?;
        self.bed.progress().step("operator", "installed by Helm and ready");
        Ok(())
    }

    /// The folder of the volumes of the target's members.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.cluster.state().path("volumes")
    }

    /// Gives a further image to the node.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn load(&self, image: &Image) -> Result<()> {
        self.bed.image(image)
    }

    /// Runs kubectl in the namespace of the migration.
    ///
    /// # Errors
    /// It fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["--namespace", NAMESPACE];
        all.extend(arguments);
        self.cluster.kubectl(&all)
    }

    /// Servers of both sides, asked from outside the operator.
    ///
    /// # Errors
    /// The source's passwords are not there.
    pub fn servers(&self) -> Result<Servers> {
        Servers::new(self)
    }

    /// Prints a line of progress.
    pub fn say(&self, area: &str, what: &str) {
        self.bed.progress().step(area, what);
    }

    /// The example of the README, for this stage's version of PostgreSQL.
    ///
    /// # Errors
    /// The file is not there.
    pub fn example(&self) -> Result<String> {
        let text = read_example("clustermigration.yaml")?;
        let managed = format!("managed: {{replicas: 2, image: \"haproxy:{}\"}}", haproxy());
        Ok(text
            .replace("postgres:15", &format!("postgres:{}", self.major))
            .replace("managed: {replicas: 2}", &managed))
    }
}

/// An example of the README or of a page, with this stage's version of HAProxy.
///
/// # Errors
/// The file is not there.
pub fn read_example(name: &str) -> Result<String> {
    let file = checkout().join("examples").join(name);
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text.replace("haproxy:3.0", &format!("haproxy:{}", haproxy())))
}

/// The checkout that this program was built from.
fn checkout() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
