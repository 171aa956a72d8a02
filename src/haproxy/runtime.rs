//! Talking to a running HAProxy over its two unix sockets. Every call ends within its deadline.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::{MAXCONN, Processes, RouteName, Running, Server, Session};

/// Time for the answer to a command.
const ANSWER: Duration = Duration::from_secs(2);
/// Shows the servers of all backends.
const SERVERS: &str = "show servers state";
/// Time for the answer to a reload, which waits for names in the configuration to be resolved.
const RELOAD: Duration = Duration::from_secs(10);

/// Why HAProxy did not do as told.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// Nothing listens on the socket.
    #[error("no HAProxy answers on {}: {reason}: check that it runs and shares this directory", .socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// The answer did not come in time.
    #[error("no answer to `{command}` from HAProxy within {} s: check whether it hangs", .deadline.as_secs())]
    Late {
        /// The command.
        command: String,
        /// The time it had.
        deadline: Duration,
    },
    /// The answer is none that was hoped for.
    #[error(
        "to `{command}` HAProxy answered `{answer}`: check that it runs the configuration of mitosis, 2.4 or later"
    )]
    Answer {
        /// The command.
        command: String,
        /// The answer, shortened.
        answer: String,
    },
}

/// One of HAProxy's sockets, a connection per command.
#[derive(Clone, Debug)]
struct Socket(PathBuf);

impl Socket {
    async fn connect(&self) -> Result<UnixStream, RuntimeError> {
        UnixStream::connect(&self.0)
            .await
            .map_err(|reason| self.unreachable(reason))
    }

    fn unreachable(&self, reason: io::Error) -> RuntimeError {
        let socket = self.0.clone();
        RuntimeError::Unreachable { socket, reason }
    }

    async fn ask(&self, command: &str) -> Result<String, RuntimeError> {
        let exchange = async {
            let mut stream = self.connect().await?;
            let mut answer = String::new();
            let talk = async {
                stream.write_all(format!("{command}\n").as_bytes()).await?;
                // Without this the master waits for more commands.
                stream.shutdown().await?;
                stream.read_to_string(&mut answer).await
            };
            talk.await.map_err(|reason| self.unreachable(reason))?;
            Ok(answer)
        };
        within(ANSWER, command, exchange).await
    }

    /// A command that HAProxy answers with silence.
    async fn tell(&self, command: &str) -> Result<(), RuntimeError> {
        if command.is_empty() {
            return Ok(());
        }
        match self.ask(command).await?.trim() {
            "" => Ok(()),
            answer => Err(unexpected(command, answer)),
        }
    }
}

async fn within<T>(
    deadline: Duration,
    command: &str,
    call: impl Future<Output = Result<T, RuntimeError>>,
) -> Result<T, RuntimeError> {
    let command = command.to_owned();
    timeout(deadline, call)
        .await
        .unwrap_or(Err(RuntimeError::Late { command, deadline }))
}

fn unexpected(command: &str, answer: &str) -> RuntimeError {
    let command = command.to_owned();
    let answer = answer.trim().chars().take(200).collect();
    RuntimeError::Answer { command, answer }
}

/// The socket of the worker: `stats socket … level admin`.
#[derive(Clone, Debug)]
pub struct Admin(Socket);

impl Admin {
    /// The worker that listens on this socket.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self(Socket(socket.to_owned()))
    }

    /// What it runs, at one moment.
    pub async fn running(&self) -> Result<Running, RuntimeError> {
        let command = "show info;show stat;show env MITOSIS_GENERATION;get var proc.mitosis_generation";
        let answer = self.0.ask(command).await?;
        Running::parse(&answer).ok_or_else(|| unexpected(command, &answer))
    }

    /// Lets the frontends of the routes accept no connection any more: new ones wait in the kernel.
    ///
    /// It is undone by a reload, in every version; see [`super::Version::runtime_release_is_safe`].
    pub async fn stop_accepting(&self, routes: &[RouteName]) -> Result<(), RuntimeError> {
        let commands = routes
            .iter()
            .map(|route| format!("set maxconn frontend {} 0", route.frontend()));
        self.0.tell(&join(commands)).await
    }

    /// Takes servers out of service until they are led elsewhere or HAProxy is reloaded, and ends their sessions.
    ///
    /// Sessions that are between two attempts to connect cannot be ended by command; without a server they end at their
    /// next attempt, a second later at most.
    pub async fn end_sessions(&self, servers: &[Server]) -> Result<(), RuntimeError> {
        let commands = servers.iter().map(|server| {
            let server = format!("{}/{}", server.backend, server.name);
            format!("set server {server} state maint;shutdown sessions server {server}")
        });
        self.0.tell(&join(commands)).await
    }

    /// Leads servers to other addresses, and reads all servers back.
    ///
    /// What HAProxy says to the change is not understood by all versions alike, and 3.0 changes an address some time after its answer: what
    /// counts is what it shows then.
    pub async fn lead(&self, servers: &[Lead]) -> Result<Vec<Server>, RuntimeError> {
        let commands = servers.iter().map(|lead| {
            let (ip, port) = (lead.to.ip(), lead.to.port());
            format!("set server {}/{} addr {ip} port {port}", lead.backend, lead.server)
        });
        self.read_servers(&join(commands.chain([SERVERS.to_owned()]))).await
    }

    /// Takes servers into service, or out of it, where their sessions end. Where health is checked, a server that comes out of maintenance
    /// would have to wait for the next check.
    pub async fn set_service(&self, servers: &[Service]) -> Result<(), RuntimeError> {
        let commands = servers.iter().map(|service| {
            let server = format!("{}/{}", service.backend, service.server);
            if service.serves {
                format!("set server {server} state ready;set server {server} health up")
            } else {
                format!("set server {server} state maint;shutdown sessions server {server}")
            }
        });
        self.0.ask(&join(commands)).await.map(drop)
    }

    /// Lets the frontends of the routes accept connections again, and the process answer with this generation. Only where
    /// [`super::Version::runtime_release_is_safe`].
    ///
    /// The generation is kept in the process's own memory: a HAProxy that starts anew knows its file only.
    pub async fn accept(&self, generation: u64, routes: &[RouteName]) -> Result<(), RuntimeError> {
        let number = number(generation);
        let open = routes
            .iter()
            .map(|route| format!("set maxconn frontend {} {MAXCONN}", route.frontend()));
        self.0.tell(&join(std::iter::once(number).chain(open))).await
    }

    /// Lets the process answer with this generation, in every version.
    pub async fn answer_with(&self, generation: u64) -> Result<(), RuntimeError> {
        self.0.tell(&number(generation)).await
    }

    /// Sessions that are connected to a server.
    pub async fn connected(&self) -> Result<Vec<Session>, RuntimeError> {
        Ok(Session::parse(&self.0.ask("show sess all").await?))
    }

    /// Ends single sessions. One that has just ended by itself is none to complain of.
    pub async fn end(&self, sessions: &[Session]) -> Result<(), RuntimeError> {
        // A line must fit into HAProxy's buffer.
        for some in sessions.chunks(100) {
            let commands = some.iter().map(|session| format!("shutdown session {}", session.id));
            self.0.ask(&join(commands)).await?;
        }
        Ok(())
    }

    /// HAProxy's own line on each session of these backends, shortened; it names the client as `src=`.
    pub async fn sessions(&self, backends: &[String]) -> Result<Vec<String>, RuntimeError> {
        let answer = self.0.ask("show sess").await?;
        let is_theirs = |line: &&str| {
            line.split(' ').any(|word| {
                word.strip_prefix("be=")
                    .is_some_and(|name| backends.iter().any(|backend| backend == name))
            })
        };
        Ok(answer
            .lines()
            .filter(is_theirs)
            .map(|line| line.chars().take(400).collect())
            .collect())
    }

    /// The servers of all backends.
    pub async fn servers(&self) -> Result<Vec<Server>, RuntimeError> {
        self.read_servers(SERVERS).await
    }

    async fn read_servers(&self, command: &str) -> Result<Vec<Server>, RuntimeError> {
        let answer = self.0.ask(command).await?;
        Server::parse(&answer).ok_or_else(|| unexpected(command, &answer))
    }
}

/// Where a server of a backend shall lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lead {
    /// Name of the backend.
    pub backend: String,
    /// Name of the server.
    pub server: String,
    /// Its address.
    pub to: SocketAddr,
}

/// Whether a server of a backend shall be in service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Name of the backend.
    pub backend: String,
    /// Name of the server.
    pub server: String,
    /// Whether it is in service.
    pub serves: bool,
}

/// What keeps a generation in the process.
fn number(generation: u64) -> String {
    format!("experimental-mode on;set var proc.mitosis_generation int({generation})")
}

/// Commands for one exchange: clients wait for each.
fn join(commands: impl Iterator<Item = String>) -> String {
    commands.collect::<Vec<_>>().join(";")
}

/// How a reload went, as far as its answer tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The new configuration runs.
    Loaded,
    /// The former configuration still runs; HAProxy's words, shortened.
    Refused(String),
    /// HAProxy before 2.7 does not say; [`Master::processes`] does later.
    Unknown,
}

/// The socket of the master: `haproxy -W -S SOCKET,level,admin`.
#[derive(Clone, Debug)]
pub struct Master(Socket);

impl Master {
    /// The master that listens on this socket.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self(Socket(socket.to_owned()))
    }

    /// Its processes. While an older HAProxy reloads, nothing answers.
    pub async fn processes(&self) -> Result<Processes, RuntimeError> {
        let command = "show proc";
        let answer = self.0.ask(command).await?;
        Processes::parse(&answer).ok_or_else(|| unexpected(command, &answer))
    }

    /// Loads the configuration file anew.
    pub async fn reload(&self) -> Result<Reload, RuntimeError> {
        let command = "reload";
        let exchange = async {
            let mut stream = self.0.connect().await?;
            let told = async {
                stream.write_all(b"reload\n").await?;
                stream.shutdown().await
            };
            told.await.map_err(|reason| self.0.unreachable(reason))?;
            let mut answer = Vec::new();
            // Before 2.7 the master starts itself anew here and cuts the connection: that is no failure.
            let _cut = stream.read_to_end(&mut answer).await;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        let answer = within(RELOAD, command, exchange).await?;
        match answer.trim().split_once('\n').unwrap_or((answer.trim(), "")) {
            ("", _) => Ok(Reload::Unknown),
            ("Success=1", _) => Ok(Reload::Loaded),
            ("Success=0", words) => Ok(Reload::Refused(alerts(words))),
            _ => Err(unexpected(command, &answer)),
        }
    }
}

/// What matters of HAProxy's start-up messages, shortened.
fn alerts(words: &str) -> String {
    let alerts: Vec<&str> = words
        .lines()
        .filter(|line| line.contains("[ALERT]"))
        .map(str::trim)
        .collect();
    let text = if alerts.is_empty() {
        words.trim().to_owned()
    } else {
        alerts.join(" ")
    };
    text.chars().take(1000).collect()
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    /// A master that gives one answer.
    async fn reload_answered(answer: &'static str) -> Result<Reload, RuntimeError> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("master.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut command = [0; 7];
            stream.read_exact(&mut command).await.unwrap();
            assert_eq!(&command, b"reload\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let master = Master::new(&socket);
        tokio::join!(master.reload(), server).0
    }

    #[tokio::test]
    async fn the_answer_of_every_version_to_a_reload_is_understood() {
        assert_eq!(reload_answered("").await.unwrap(), Reload::Unknown);
        assert_eq!(reload_answered("Success=1\n").await.unwrap(), Reload::Loaded);
        assert_eq!(
            reload_answered("Success=1\n--\n[NOTICE] (1) : fine\n\n").await.unwrap(),
            Reload::Loaded
        );
        let answer = "Success=0\n--\n[NOTICE] (1) : x\n[ALERT] (1) : config : unknown keyword 'y'\n";
        let words = "[ALERT] (1) : config : unknown keyword 'y'".to_owned();
        assert_eq!(reload_answered(answer).await.unwrap(), Reload::Refused(words));
        assert!(reload_answered("Permission denied\n").await.is_err());
    }

    #[tokio::test]
    async fn a_missing_socket_is_named() {
        let error = Admin::new(Path::new("/nowhere/admin.sock"))
            .running()
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/nowhere/admin.sock"), "{error}");
    }
}
