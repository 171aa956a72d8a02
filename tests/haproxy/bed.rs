//! A HAProxy with an agent, and servers that say who they are.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mitosis::{
    address::Address,
    agent::{Desired, Haproxy, Report, Wish, drive},
    haproxy::{Configuration, Form, Master, Route, RouteKind, State},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        watch::{Receiver, channel},
    },
    task::JoinHandle,
    time::timeout,
};

/// To a server: work for ever without a look at the client, as PostgreSQL does while a statement runs.
pub const WORK: &str = "work\n";
/// To a server: talk without end.
pub const TALK: &str = "talk\n";

/// A server that answers each line with its name, but for [`WORK`] and [`TALK`].
pub struct Echo {
    pub address: Address,
    requests: Arc<AtomicU64>,
}

impl Echo {
    pub async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
        let requests = Arc::new(AtomicU64::new(0));
        let count = requests.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let count = count.clone();
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let mut line = String::new();
                    while stream.read_line(&mut line).await.is_ok_and(|bytes| bytes > 0) {
                        count.fetch_add(1, Ordering::SeqCst);
                        match line.as_str() {
                            WORK => std::future::pending().await,
                            TALK => while stream.write_all(&[b'.'; 16384]).await.is_ok() {},
                            _ => {}
                        }
                        if stream.write_all(format!("{name}\n").as_bytes()).await.is_err() {
                            return;
                        }
                        line.clear();
                    }
                });
            }
        });
        Self { address, requests }
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }

    /// Waits until this many came.
    pub async fn until_requests(&self, count: u64) {
        let enough = async {
            while self.requests() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(5), enough)
            .await
            .expect("HAProxy leads to this server");
    }
}

/// One line there and the answer back.
pub async fn exchange(stream: &mut TcpStream) -> io::Result<String> {
    stream.write_all(b"who\n").await?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await?;
    if answer.is_empty() {
        Err(io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(answer.trim().to_owned())
    }
}

/// A connection of its own for one request.
pub async fn request(port: u16) -> io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    timeout(Duration::from_secs(10), exchange(&mut stream)).await?
}

/// Configuration of a user who has proxies of their own.
const USERS_FILE: &str = "users.cfg";

/// HAProxy and its agent.
pub struct Bed {
    directory: TempDir,
    form: Form,
    pub port: u16,
    haproxy: Option<Child>,
    wishes: UnboundedSender<Wish>,
    pub reports: Receiver<Report>,
    agent: JoinHandle<()>,
}

impl Bed {
    /// As a pod starts: the file of the init container, HAProxy, the agent.
    pub async fn start(to: &[&Echo]) -> Self {
        Self::prepare(Form::Whole, None, to).await
    }

    /// As a pod of the user's own starts, with a configuration beside that of Mitosis.
    pub async fn start_beside(users: &str, to: &[&Echo]) -> Self {
        Self::prepare(Form::Included, Some(users), to).await
    }

    /// The same where the user's own `fe_write` on `PORT` leads to where a variable says.
    pub async fn start_before(users: &str, to: &[&Echo]) -> Self {
        Self::prepare(Form::Variables, Some(users), to).await
    }

    async fn prepare(form: Form, users: Option<&str>, to: &[&Echo]) -> Self {
        let port = free_port().await;
        let directory = tempfile::tempdir().unwrap();
        if let Some(users) = users {
            let users = users.replace("PORT", &port.to_string());
            fs::write(directory.path().join(USERS_FILE), users).unwrap();
        }
        let (wishes, agent, reports) = start_agent(&directory);
        let mut bed = Self {
            directory,
            form,
            port,
            haproxy: None,
            wishes,
            reports,
            agent,
        };
        let text = bed.configuration(1, State::Open, &addresses(to)).render();
        fs::write(bed.directory.path().join("haproxy.cfg"), text).unwrap();
        bed.start_haproxy();
        bed
    }

    pub fn start_haproxy(&mut self) {
        let directory = self.directory.path();
        let log = File::create(directory.join("log")).unwrap();
        let mut files: Vec<_> = [USERS_FILE, "haproxy.cfg"].map(|name| directory.join(name)).into();
        if self.form == Form::Variables {
            files.reverse();
        }
        let files = files.into_iter().filter(|file| file.exists());
        let child = Command::new("haproxy")
            .args(["-W", "-db", "-S"])
            .arg(format!("{}/master.sock,level,admin", directory.display()))
            .args(files.flat_map(|file| ["-f".into(), file.into_os_string()]))
            .env("MITOSIS_BIND", "127.0.0.1")
            .env("MITOSIS_SOCKET", directory.join("admin.sock"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("install haproxy 2.4 or later on the PATH");
        self.haproxy = Some(child);
    }

    /// How often HAProxy was reloaded.
    pub async fn reloads(&self) -> u64 {
        let master = Master::new(&self.directory.path().join("master.sock"));
        let answer = async {
            loop {
                // For a moment after a reload it does not listen.
                if let Ok(processes) = master.processes().await {
                    return processes.reloads;
                }
            }
        };
        timeout(Duration::from_secs(5), answer)
            .await
            .expect("the master answers")
    }

    /// Kills the master; its worker ends with it.
    pub async fn kill_haproxy(&mut self) {
        let mut child = self.haproxy.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let gone = async {
            while TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(5), gone)
            .await
            .expect("the worker ends with its master");
    }

    pub fn restart_agent(&mut self) {
        self.agent.abort();
        (self.wishes, self.agent, self.reports) = start_agent(&self.directory);
    }

    pub fn configuration(&self, generation: u64, state: State, to: &[Address]) -> Configuration {
        let route = Route {
            name: "write".parse().unwrap(),
            listen: self.port.try_into().unwrap(),
            to: to.to_vec(),
            left_out: BTreeSet::new(),
            drain: Duration::ZERO,
            kind: RouteKind::Primary,
        };
        Configuration::new(self.form, generation, state, vec![route]).unwrap()
    }

    /// Changes the user's file.
    pub fn write_users(&self, text: &str) {
        fs::write(self.directory.path().join(USERS_FILE), text).unwrap();
    }

    pub fn wish(&self, generation: u64, state: State, to: &[&Echo]) {
        let configuration = self.configuration(generation, state, &addresses(to));
        self.wish_text(generation, state, &configuration.render());
    }

    /// A wish that leads to standbys but for those that are left out, and last to their primary.
    pub fn wish_replicas(&self, generation: u64, to: &[Address], left_out: &[&Address]) {
        let route = Route {
            name: "write".parse().unwrap(),
            listen: self.port.try_into().unwrap(),
            to: to.to_vec(),
            left_out: left_out.iter().map(|address| (*address).clone()).collect(),
            drain: Duration::ZERO,
            kind: RouteKind::Replicas,
        };
        let configuration = Configuration::new(self.form, generation, State::Open, vec![route]).unwrap();
        self.wish_text(generation, State::Open, &configuration.render());
    }

    /// A wish with any text for a file.
    pub fn wish_text(&self, generation: u64, state: State, text: &str) {
        let desired = Desired {
            generation,
            state,
            held: if state == State::Held {
                vec!["write".parse().unwrap()]
            } else {
                vec![]
            },
            configuration: text.to_owned(),
        };
        self.wishes
            .send(Wish {
                uid: "one".to_owned(),
                desired,
            })
            .unwrap();
    }

    /// Waits for a report.
    pub async fn until(&mut self, what: &str, right: impl FnMut(&Report) -> bool) -> Report {
        if let Ok(report) = timeout(Duration::from_secs(15), self.reports.wait_for(right)).await {
            return report.unwrap().clone();
        }
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap();
        panic!("waited in vain until {what}: {:?}\n{log}", self.reports.borrow());
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.agent.abort();
        if let Some(mut child) = self.haproxy.take() {
            // Its worker ends with it.
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// A port that nobody listens on.
pub async fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    free.local_addr().unwrap().port()
}

fn addresses(to: &[&Echo]) -> Vec<Address> {
    to.iter().map(|echo| echo.address.clone()).collect()
}

fn start_agent(directory: &TempDir) -> (UnboundedSender<Wish>, JoinHandle<()>, Receiver<Report>) {
    let file = |name: &str| directory.path().join(name);
    let haproxy = Haproxy::new(&file("haproxy.cfg"), &file("admin.sock"), &file("master.sock"));
    let (wishes, received) = unbounded_channel();
    let (sender, reports) = channel(Report::default());
    let stream = futures::stream::unfold(received, |mut received: UnboundedReceiver<Wish>| async {
        received.recv().await.map(|wish| (Ok(wish), received))
    });
    (wishes, tokio::spawn(drive(haproxy, stream, sender)), reports)
}
