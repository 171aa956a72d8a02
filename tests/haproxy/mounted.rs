//! HAProxy without an agent: a file that changes, and a reload by somebody else.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::PathBuf,
    pin::pin,
    process::{Child, Command},
    time::Duration,
};

use mitosis::{
    agent::Report,
    haproxy::{Configuration, Form, REPORT_PORT, Route, RouteKind, State, replace_block},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::bed::{Echo, free_port, request};

/// A HAProxy whose only file is the user's, with a marked block.
struct Mounted {
    directory: TempDir,
    haproxy: Child,
}

impl Mounted {
    fn start(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("haproxy.cfg"), text).unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let haproxy = Command::new("haproxy")
            .args(["-W", "-db", "-f"])
            .arg(directory.path().join("haproxy.cfg"))
            .env("MITOSIS_BIND", "127.0.0.1")
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("install haproxy 2.4 or later on the PATH");
        Self { directory, haproxy }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("haproxy.cfg")
    }

    /// As the kubelet does.
    fn change(&self, text: &str) {
        fs::write(self.file(), text).unwrap();
    }

    /// As what reloads HAProxy does. A signal in the first moments of HAProxy, or of its reload, is lost.
    fn reload(&self) {
        let done = Command::new("kill")
            .args(["-USR2", &self.haproxy.id().to_string()])
            .status();
        assert!(done.unwrap().success());
    }

    async fn until_runs(&self, generation: u64) {
        let runs = async {
            while !ask().await.is_ok_and(|report| report.is_running(generation)) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let mut runs = pin!(runs);
        for _ in 0..10 {
            if timeout(Duration::from_millis(500), &mut runs).await.is_ok() {
                return;
            }
            self.reload();
        }
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
        panic!("generation {generation} does not run: {log}");
    }

    /// Waits until HAProxy has said this of itself.
    async fn until_said(&self, words: &str) {
        let said = async {
            loop {
                self.reload();
                sleep(Duration::from_millis(300)).await;
                let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
                if log.contains(words) {
                    return;
                }
            }
        };
        timeout(Duration::from_secs(5), said).await.expect(words);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Its worker ends with it.
        self.haproxy.kill().unwrap();
        self.haproxy.wait().unwrap();
    }
}

/// What the operator asks a pod, with the words of an agent's answer.
async fn ask() -> io::Result<Report> {
    let mut stream = TcpStream::connect(("127.0.0.1", REPORT_PORT)).await?;
    stream
        .write_all(b"GET /report?generation=7&wait=250 HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(serde_json::from_str(body)?)
}

fn routes(form: Form, generation: u64, port: u16, to: &Echo) -> Configuration {
    let route = Route {
        name: "write".parse().unwrap(),
        listen: port.try_into().unwrap(),
        to: vec![to.address.clone()],
        left_out: BTreeSet::new(),
        drain: Duration::ZERO,
        kind: RouteKind::Primary,
    };
    Configuration::new(form, generation, State::Open, vec![route]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_agent_haproxy_itself_tells_which_generation_of_the_marked_block_it_runs() {
    let (a, b) = (Echo::start("A").await, Echo::start("B").await);
    let port = free_port().await;
    let global = "global\n    hard-stop-after 1s\n";
    let own = format!(
        "defaults\n    mode tcp\n    timeout connect 1s\n    timeout client 1m\n    timeout server 1m\n\
         frontend mine\n    bind 127.0.0.1:{port}\n    default_backend mine\nbackend mine\n    server pg \"${{MITOSIS_ROUTE_WRITE}}\"\n"
    );
    let block = "# BEGIN mitosis shop\n# END mitosis shop\n";
    for (form, users) in [
        (Form::Mounted, format!("{global}{block}")),
        (Form::MountedVariables, format!("{global}{block}{own}")),
    ] {
        let text = |generation, to| replace_block(&users, "shop", &routes(form, generation, port, to)).unwrap();
        let haproxy = Mounted::start(&text(6, &a));
        haproxy.until_runs(6).await;
        assert_eq!(request(port).await.unwrap(), "A", "{form:?}");

        haproxy.change(&text(7, &b));
        haproxy.until_runs(7).await;
        assert_eq!(request(port).await.unwrap(), "B", "{form:?}");

        haproxy.change(&(text(8, &a) + "nonsense\n"));
        haproxy.until_said("unknown keyword 'nonsense'").await;
        assert!(
            ask().await.unwrap().is_running(7),
            "{form:?}: what is refused does not run"
        );
        assert_eq!(request(port).await.unwrap(), "B", "{form:?}");
        haproxy.change(&text(9, &a));
        haproxy.until_runs(9).await;
        assert_eq!(request(port).await.unwrap(), "A", "{form:?}");
    }
}
