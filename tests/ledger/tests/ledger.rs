//! Records on a real server through a crash and compares; needs PostgreSQL's programs (Debian package `postgresql`), not root.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mitosis_ledger::{Encryption, Endpoint, Options, Summary, Window, check, record};

/// PostgreSQL refuses to run as root, so root runs it as nobody.
const NOBODY: u32 = 65534;

/// A server in a temporary folder, stopped when dropped.
struct Server {
    folder: tempfile::TempDir,
    programs: PathBuf,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let versions =
            fs::read_dir("/usr/lib/postgresql").expect("no PostgreSQL on this host: install the package postgresql");
        let programs = versions
            .map(|version| version.unwrap().path().join("bin"))
            .find(|bin| bin.join("initdb").exists());
        let programs = programs.expect("no server programs of PostgreSQL on this host: install the package postgresql");
        let folder = tempfile::tempdir().unwrap();
        if is_root() {
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { folder, programs, port };
        server.run("initdb", &["-U", "app", "-A", "trust", "--no-sync"]);
        server.control("start");
        server
    }

    fn control(&self, action: &str) {
        let options = format!(
            "-c port={} -c listen_addresses=127.0.0.1 -c unix_socket_directories=",
            self.port
        );
        let log = self.folder.path().join("log");
        self.run(
            "pg_ctl",
            &[
                action,
                "-w",
                "-m",
                "immediate",
                "-l",
                log.to_str().unwrap(),
                "-o",
                &options,
            ],
        );
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let program = self.programs.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command
                .args([
                    "--reuid",
                    &NOBODY.to_string(),
                    "--regid",
                    &NOBODY.to_string(),
                    "--clear-groups",
                ])
                .arg(program);
            command
        } else {
            Command::new(program)
        };
        let data = self.folder.path().join("data");
        let done = command
            .args(arguments)
            .arg("-D")
            .arg(data)
            .current_dir("/")
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(done.success(), "{command:?} failed: {done}");
    }

    fn connection(&self) -> String {
        format!("host=127.0.0.1 port={} user=app dbname=postgres", self.port)
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::new(&self.connection(), &Encryption::Disable).unwrap()
    }

    async fn execute(&self, sql: &str) {
        let (client, connection) = tokio_postgres::connect(&self.connection(), tokio_postgres::NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client.batch_execute(sql).await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.control("stop");
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").unwrap().uid() == 0
}

async fn record_until(server: &Server, log: &Path, stop: impl Future<Output = ()>) -> Summary {
    let options = Options {
        endpoint: server.endpoint(),
        log: log.to_owned(),
        clients: 3,
        short: 1,
        pace: Duration::from_millis(10),
    };
    record(&options, stop).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_rows_survive_a_crash_and_a_missing_one_is_noticed() {
    let server = Server::start();
    let log = server.folder.path().join("ledger.log");

    let first = record_until(&server, &log, async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.control("restart");
        tokio::time::sleep(Duration::from_secs(1)).await;
    })
    .await;
    assert!(first.acknowledged > 100 && !first.errors.is_empty(), "{first:?}");
    // A second recording to the same table and log must not collide with the first.
    let second = record_until(&server, &log, tokio::time::sleep(Duration::from_millis(500))).await;
    assert!(second.errors.is_empty(), "{second:?}");

    let report = check(&log, &[server.endpoint()], Window::default()).await.unwrap();
    assert!(report.good, "{report}");
    let acknowledged = report.servers[0].comparison.acknowledged;
    assert_eq!(
        u64::try_from(acknowledged).unwrap(),
        first.acknowledged + second.acknowledged
    );
    assert_eq!(report.gaps.longest.len(), 8);
    assert!(
        report
            .gaps
            .maximum
            .is_some_and(|gap| gap.run == first.run && gap.microseconds > 30_000),
        "{report}"
    );

    server
        .execute(&format!(
            "DELETE FROM ledger WHERE run = {} AND client = 2 AND seq = 7",
            second.run
        ))
        .await;
    let report = check(&log, &[server.endpoint()], Window::default()).await.unwrap();
    assert!(!report.good);
    assert_eq!(
        report.servers[0]
            .comparison
            .lost
            .iter()
            .map(|row| (row.client, row.seq))
            .collect::<Vec<_>>(),
        [(2, 7)]
    );
}
