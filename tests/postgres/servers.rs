//! Real PostgreSQL servers on loopback for tests of the SQL that the operator runs.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use mitosis::{
    address::Address,
    api::TlsMode,
    postgres::{Login, Session, Speaker},
};

/// Where `MITOSIS_POSTGRES` says that the programs are, else where Debian's packages put them; the newest major version that is
/// installed.
fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("MITOSIS_POSTGRES") {
        return folder.into();
    }
    of_the_host()
}

/// Those of Debian's packages.
fn of_the_host() -> PathBuf {
    (14..=18)
        .rev()
        .map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")))
        .find(|folder| folder.join("initdb").exists())
        .expect("PostgreSQL's server is not installed: run `make tools`")
}

/// A `PATH` on which all programs of an image are: not every package of servers has those for clients and backups.
pub fn path() -> String {
    format!("{}:/usr/bin:/bin:{}", programs().display(), of_the_host().display())
}

/// Whether this program is among them; not every package of servers has all.
pub fn has_program(name: &str) -> bool {
    programs().join(name).exists()
}

/// A server that is stopped and removed when the test ends.
pub struct Server {
    folder: tempfile::TempDir,
    /// Port on 127.0.0.1.
    pub port: u16,
}

impl Server {
    /// A new primary with SCRAM, whose superuser is `mitosis` with password `it's "secret"\`.
    pub fn primary() -> Self {
        let server = Self::prepare();
        let password = server.folder.path().join("password");
        std::fs::write(&password, "it's \"secret\"\\").unwrap();
        server.own();
        let data = server.data();
        server.run(
            "initdb",
            &[
                "-D",
                &data,
                "-k",
                "-U",
                "mitosis",
                "-A",
                "scram-sha-256",
                "--pwfile",
                password.to_str().unwrap(),
            ],
        );
        server.configure(&data);
        server.start();
        server
    }

    /// A standby cloned from another server by PostgreSQL's low-level interface: not every package of servers has pg_basebackup.
    pub async fn standby_of(upstream: &Self) -> Self {
        let server = Self::prepare();
        let data = server.data();
        let session = upstream.session_of("clone").await;
        let row = session.query_one("SELECT current_setting('server_version_num')::int", &[]);
        let (begin, end) = if row.await.unwrap().get::<_, i32>(0) >= 150_000 {
            ("pg_backup_start('clone', true)", "pg_backup_stop(false)")
        } else {
            ("pg_start_backup('clone', true, false)", "pg_stop_backup(false, false)")
        };
        session.batch_execute(&format!("SELECT {begin}")).await.unwrap();
        let copy = |from: &str, to: &str| {
            let copied = Command::new("cp")
                .args(["--archive", "--no-target-directory", from, to])
                .status();
            assert!(copied.unwrap().success());
        };
        copy(&upstream.data(), &data);
        let label = session
            .query_one(&format!("SELECT labelfile FROM {end}"), &[])
            .await
            .unwrap();
        // With what was written meanwhile, without which it is not consistent.
        copy(&format!("{}/pg_wal", upstream.data()), &format!("{data}/pg_wal"));
        let data = Path::new(&data);
        std::fs::write(data.join("backup_label"), label.get::<_, String>(0)).unwrap();
        std::fs::remove_file(data.join("postmaster.pid")).unwrap();
        // Slots belong to the server that has them.
        std::fs::remove_dir_all(data.join("pg_replslot")).unwrap();
        std::fs::create_dir(data.join("pg_replslot")).unwrap();
        std::fs::write(data.join("postgresql.auto.conf"), "").unwrap();
        std::fs::write(data.join("standby.signal"), "").unwrap();
        server.configure(data.to_str().unwrap());
        server.own();
        server.start();
        server
    }

    fn prepare() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self {
            folder: tempfile::tempdir().unwrap(),
            port,
        }
    }

    fn data(&self) -> String {
        self.folder.path().join("data").to_str().unwrap().to_owned()
    }

    /// PostgreSQL refuses to run as root.
    fn own(&self) {
        assert!(
            Command::new("chown")
                .args(["-R", "postgres:postgres"])
                .arg(self.folder.path())
                .status()
                .unwrap()
                .success()
        );
    }

    fn configure(&self, data: &str) {
        let text = format!(
            "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nwal_log_hints = on\nfsync = off\nwal_retrieve_retry_interval = 100ms\n",
            self.port,
            self.folder.path().display()
        );
        let file = Path::new(data).join("postgresql.conf");
        std::fs::write(file, text).unwrap();
    }

    fn start(&self) {
        let log = self.folder.path().join("log");
        self.run(
            "pg_ctl",
            &["-D", &self.data(), "-l", log.to_str().unwrap(), "-w", "start"],
        );
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let output = Command::new("setpriv")
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
            .arg(programs().join(program))
            .args(arguments)
            .env("PGPASSWORD", "it's \"secret\"\\")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Runs the program of a member's container on its data, with the output in a file of this name beside them.
    pub fn serve(&self, output: &str) -> Child {
        let file = || {
            std::fs::File::options()
                .create(true)
                .append(true)
                .open(self.output(output))
                .unwrap()
        };
        let path = format!("{}:/usr/bin:/bin", programs().display());
        Command::new("setpriv")
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "sh", "-c"])
            .arg(include_str!("../../src/resources/serve.sh"))
            .args(["serve", &self.data(), &format!("{}/postgresql.conf", self.data())])
            .env("PATH", path)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(file())
            .stderr(file())
            .spawn()
            .unwrap()
    }

    /// A file beside the data.
    pub fn output(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Kills the server as a power failure would.
    pub fn stop_at_once(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]);
    }

    /// Starts it again.
    pub fn start_again(&self) {
        self.start();
    }

    /// A session of somebody else, idle in a transaction until it is dropped.
    pub async fn idle_transaction(&self) -> tokio_postgres::Client {
        let client = self.session_of("psql").await;
        client.batch_execute("BEGIN; SELECT 1").await.unwrap();
        client
    }

    /// A session of somebody else, open until it is dropped.
    pub async fn session_of(&self, application: &str) -> tokio_postgres::Client {
        self.open(application, &Self::login().database).await
    }

    /// The same in another database.
    pub async fn session_in(&self, database: &str) -> tokio_postgres::Client {
        self.open("user", database).await
    }

    async fn open(&self, application: &str, database: &str) -> tokio_postgres::Client {
        let login = Self::login();
        let (client, connection) = tokio_postgres::Config::new()
            .host("127.0.0.1")
            .port(self.port)
            .user(&login.user)
            .password(&login.password)
            .dbname(database)
            .application_name(application)
            .connect(tokio_postgres::NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }

    /// The login for it.
    pub fn login() -> Login {
        Login {
            speaker: Speaker::Server,
            user: "mitosis".to_owned(),
            password: "it's \"secret\"\\".to_owned(),
            database: "postgres".to_owned(),
            tls: TlsMode::Disable,
            ca: None,
        }
    }

    /// Its address.
    pub fn address(&self) -> Address {
        Address::new("127.0.0.1", self.port).unwrap()
    }

    /// A session on it, as soon as it accepts one, within 20 s.
    pub async fn session(&self) -> Session {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            match Self::login().connect(&self.address()).await {
                Ok(session) => return session,
                Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = Command::new("setpriv")
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
            .arg(programs().join("pg_ctl"))
            .args(["-D", &self.data(), "-m", "immediate", "-w", "stop"])
            .current_dir("/")
            .stdout(Stdio::null())
            .status();
        drop(stopped);
    }
}
