//! A real PgBouncer before a real PostgreSQL server, on loopback.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mitosis::{
    address::Address,
    api::TlsMode,
    pgbouncer::{CONSOLE, Database, fetch_databases},
    postgres::{Login, Session, Speaker},
};
use tokio_postgres::{Client, NoTls};

use crate::servers::Server;

/// A password with everything that a file or a command could stumble over.
const PASSWORD: &str = "it's; $secret#";

/// A PgBouncer that is ended with the test.
pub struct Bed {
    // Before the folder, which holds its files.
    process: Child,
    _folder: tempfile::TempDir,
    port: u16,
}

impl Bed {
    /// A PgBouncer with database `app` of a server, and any other name for the same, and more settings.
    pub fn start(server: &Server, settings: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let login = Server::login();
        let to = format!(
            "host=127.0.0.1 port={} dbname={} user={} password='{}'",
            server.port,
            login.database,
            login.user,
            login.password.replace('\'', "''")
        );
        let configuration = format!(
            "[databases]\napp = {to}\n* = {to}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\nadmin_users = boss\npool_mode = transaction\n{settings}\n",
            path("users").display()
        );
        std::fs::write(path("pgbouncer.ini"), configuration).unwrap();
        std::fs::write(
            path("users"),
            format!("\"boss\" \"{PASSWORD}\"\n\"client\" \"{PASSWORD}\"\n"),
        )
        .unwrap();
        let owned = Command::new("chown")
            .args(["-R", "postgres:postgres"])
            .arg(folder.path())
            .status();
        assert!(owned.unwrap().success());
        let log = std::fs::File::create(path("log")).unwrap();
        let process = Command::new("setpriv")
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "pgbouncer"])
            .arg(path("pgbouncer.ini"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("PgBouncer is not installed: run `make tools`");
        Self {
            process,
            _folder: folder,
            port,
        }
    }

    pub fn address(&self) -> Address {
        Address::new("127.0.0.1", self.port).unwrap()
    }

    pub fn login() -> Login {
        Login {
            user: "boss".to_owned(),
            password: PASSWORD.to_owned(),
            database: CONSOLE.to_owned(),
            tls: TlsMode::Disable,
            ca: None,
            speaker: Speaker::Console,
        }
    }

    /// A session on its console, as soon as it accepts one.
    pub async fn console(&self) -> Session {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match Self::login().connect(&self.address()).await {
                Ok(session) => return session,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A session of a client in a database.
    pub async fn client(&self, database: &str) -> Client {
        let (client, connection) = tokio_postgres::Config::new()
            .host("127.0.0.1")
            .port(self.port)
            .user("client")
            .password(PASSWORD)
            .dbname(database)
            .connect(NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the console shows of a database.
pub async fn show(console: &Session, name: &str) -> Database {
    let databases = fetch_databases(console).await.unwrap();
    databases
        .into_iter()
        .find(|database| database.name.as_str() == name)
        .unwrap()
}
