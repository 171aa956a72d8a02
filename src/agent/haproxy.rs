//! Holding clients and releasing them.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{Desired, file};
use crate::{
    address::Address,
    haproxy::{Admin, Configuration, Lead, Master, Reload, Route, RouteKind, RouteName, RuntimeError, Server, Service},
};

/// Time for sessions that are about to end by themselves: those of clients that connect for each request.
const GRACE: Duration = Duration::from_millis(5);
/// Time for sessions and former workers to end; a former worker lives for a second.
const END: Duration = Duration::from_secs(3);
/// Time for a reload, which waits for names in the configuration to be resolved.
const RELOAD: Duration = Duration::from_secs(10);
/// How many of the sessions that outlive a hold are named in the log.
const NAMED: usize = 20;
/// Time for servers to lead where they were told to, before HAProxy is reloaded instead.
const LED: Duration = Duration::from_millis(100);
/// When sessions that were to end are looked for again.
const AGAIN: Duration = Duration::from_secs(5);
/// How often HAProxy is asked while clients wait for it.
const POLL: Duration = Duration::from_millis(3);

/// Why HAProxy does not do what is wanted.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The file cannot be written.
    #[error("cannot write {}: {reason}: mount its directory writable", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// HAProxy did not do as told.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Sessions outlive the hold.
    #[error("{sessions} sessions and {old_workers} former workers did not end within {} s: see them in the log of its agent, or restart this HAProxy", END.as_secs())]
    Sessions {
        /// Sessions on the held routes.
        sessions: u64,
        /// Workers of former configurations.
        old_workers: u32,
    },
    /// HAProxy does not take the configuration; the former one still runs.
    #[error("HAProxy refuses generation {generation} and keeps the former one: {words}")]
    Refused {
        /// The generation.
        generation: u64,
        /// HAProxy's words.
        words: String,
    },
    /// HAProxy was told to reload and still answers with something else.
    #[error("HAProxy does not answer with generation {generation} within {} s of its reload: see its log", RELOAD.as_secs())]
    NotRunning {
        /// The generation.
        generation: u64,
    },
    /// The user's own configuration lacks what a variable is for.
    #[error("HAProxy has no {0}: name it so in your own configuration, as docs/own-haproxy.md shows")]
    Missing(String),
}

impl AgentError {
    /// Whether HAProxy is merely not there (yet).
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::Runtime(RuntimeError::Unreachable { .. }))
    }
}

/// The HAProxy beside the agent.
#[derive(Clone, Debug)]
pub struct Haproxy {
    config_file: PathBuf,
    /// What the running process leads to, as far as this agent saw to it.
    running: Option<Configuration>,
    /// Static routes, with when their sessions elsewhere are to be ended.
    draining: Vec<(Instant, Route)>,
    /// Its worker.
    pub admin: Admin,
    /// Its master.
    pub master: Master,
}

impl Haproxy {
    /// The HAProxy that reads this file and listens on these sockets.
    #[must_use]
    pub fn new(config_file: &Path, admin_socket: &Path, master_socket: &Path) -> Self {
        Self {
            config_file: config_file.to_owned(),
            running: None,
            draining: Vec::new(),
            admin: Admin::new(admin_socket),
            master: Master::new(master_socket),
        }
    }

    async fn write(&self, desired: &Desired) -> Result<bool, AgentError> {
        let path = self.config_file.clone();
        file::write(&path, &desired.configuration)
            .await
            .map_err(|reason| AgentError::File { path, reason })
    }

    /// Lets new clients wait and ends the sessions of the others, unless that is so already.
    ///
    /// # Errors
    /// See [`AgentError`]. Clients that wait then keep waiting.
    pub async fn hold(&self, desired: &Desired) -> Result<(), AgentError> {
        // First of all: a HAProxy that starts anew from here on leads nowhere.
        self.write(desired).await?;
        self.bring_back_admin_socket(desired.generation).await?;
        self.admin.stop_accepting(&desired.held).await?;
        let backends: Vec<String> = desired.held.iter().map(RouteName::backend).collect();
        let (servers, ()) = tokio::join!(self.admin.servers(), sleep(GRACE));
        let mut servers = servers?;
        servers.retain(|server| backends.contains(&server.backend));
        let start = Instant::now();
        loop {
            // Even where none is there: one may be on its way to a server, and none takes a session any more after this.
            self.admin.end_sessions(&servers).await?;
            // What a former worker serves cannot be ended from here.
            let (running, processes) = tokio::join!(self.admin.running(), self.master.processes());
            // A session without a server reaches none, and it may stay for long: HAProxy cannot end it before its client has taken the last of
            // its answer.
            let with_server = running?.load.with_server;
            let theirs = with_server
                .iter()
                .filter(|((backend, _), _)| backends.contains(backend));
            let sessions = theirs.map(|(_, sessions)| sessions).sum();
            let old_workers = processes?.old_workers;
            if sessions == 0 && old_workers == 0 {
                return Ok(());
            }
            if start.elapsed() > END {
                // Nothing that goes wrong here may hide the error that it explains.
                let outliving = self.admin.sessions(&backends).await.unwrap_or_default();
                for session in outliving.iter().take(NAMED) {
                    warn!(session, "this one outlives the hold");
                }
                return Err(AgentError::Sessions { sessions, old_workers });
            }
            sleep(POLL).await;
        }
    }

    /// Lets HAProxy run the configuration, unless it does already.
    ///
    /// A held HAProxy whose version allows it is changed at run time, which takes milliseconds; else it is reloaded.
    ///
    /// # Errors
    /// See [`AgentError`]. The former configuration, or the hold, then stays.
    pub async fn release(&mut self, desired: &Desired) -> Result<(), AgentError> {
        let wanted = Configuration::parse(&desired.configuration).ok();
        // A HAProxy that starts anew before the file is written comes back as it was, and is seen to.
        let (changed, running) = tokio::join!(self.write(desired), self.admin.running());
        let changed = changed?;
        let running = match running {
            Err(RuntimeError::Unreachable { .. }) => {
                self.bring_back_admin_socket(desired.generation).await?;
                self.admin.running().await?
            }
            answer => answer?,
        };
        let held = running.load.limits.values().any(|limit| *limit == 0);
        let users = wanted.as_ref().filter(|wanted| wanted.form().is_variables());
        if running.generation == Some(desired.generation) && !changed && !held {
            if let Some(users) = users {
                self.look_for_proxies(users).await?;
            }
            self.keep(wanted);
            self.end_drained().await;
            return Ok(());
        }
        // Whatever happens now, what ran is not known before it was seen again.
        let former = self.running.take();
        // Limits of the user's own frontends are not known here: a reload brings them back.
        let safe = held && users.is_none() && running.version.runtime_release_is_safe();
        let at_run_time = match (&former, &wanted) {
            // A process that was started anew, or a file that somebody changed, is none to be changed a little.
            (Some(former), Some(wanted))
                if !held
                    && running.generation == Some(former.generation())
                    && wanted.generation() > former.generation()
                    && wanted.leads_as(former) =>
            {
                self.change_standbys(former, wanted).await?
            }
            (Some(former), Some(wanted)) if safe && wanted.has_form_of(former) => {
                self.release_at_run_time(wanted).await?
            }
            _ => false,
        };
        if !at_run_time {
            self.reload(desired.generation).await?;
        }
        if let Some(users) = users {
            self.look_for_proxies(users).await?;
        }
        self.keep(wanted);
        self.end_drained().await;
        Ok(())
    }

    /// Remembers what runs. Where it is new, also to this agent, sessions that go elsewhere have a last time from now on.
    fn keep(&mut self, wanted: Option<Configuration>) {
        if self.running != wanted {
            let routes = wanted.iter().flat_map(Configuration::routes);
            let fixed = routes.filter(|route| route.kind == RouteKind::Static);
            self.draining = fixed
                .map(|route| (Instant::now() + route.drain, route.clone()))
                .collect();
        }
        self.running = wanted;
    }

    /// Ends sessions of static routes that go on where their route does not lead any more, once their time is over. Those of a worker that was
    /// replaced end with it.
    async fn end_drained(&mut self) {
        let now = Instant::now();
        let (due, later) = self
            .draining
            .iter()
            .cloned()
            .partition(|(at, _): &(Instant, Route)| *at <= now);
        self.draining = later;
        if due.is_empty() {
            return;
        }
        let routes: Vec<(String, Vec<SocketAddr>)> = due
            .iter()
            .filter_map(|(_, route)| Some((route.name.backend(), list_addresses(route)?)))
            .collect();
        let ending = async {
            let mut sessions = self.admin.connected().await?;
            sessions.retain(|session| {
                let mut theirs = routes.iter().filter(|(backend, _)| *backend == session.backend);
                theirs.any(|(_, to)| !to.contains(&session.to))
            });
            self.admin.end(&sessions).await.map(|()| sessions.len())
        };
        match ending.await {
            Ok(0) => return,
            Ok(sessions) => info!(
                sessions,
                "sessions of static routes are ended where they do not lead any more"
            ),
            Err(error) => warn!(%error, "sessions of static routes could not be ended"),
        }
        // Until a look finds none. What cannot be ended is no reason to ask all the time.
        let again = due.into_iter().map(|(_, route)| (now + AGAIN, route));
        self.draining.extend(again);
    }

    /// Leads the servers of the running process to where they are wanted, reads that back, and only then lets clients in. Says whether it
    /// could be done.
    async fn release_at_run_time(&self, wanted: &Configuration) -> Result<bool, AgentError> {
        let start = Instant::now();
        let Some(servers) = list_servers(wanted) else {
            return Ok(false);
        };
        // Not in service before it is known where it leads.
        let mut seen = self.admin.lead(&servers).await?;
        while !servers.iter().all(|lead| is_led(lead, &seen)) {
            if start.elapsed() > LED {
                return Ok(false);
            }
            sleep(POLL).await;
            seen = self.admin.servers().await?;
        }
        self.admin.set_service(&list_services(wanted)).await?;
        let routes = wanted.routes().iter();
        let held: Vec<RouteName> = routes
            .filter(|route| route.kind.is_held())
            .map(|route| route.name.clone())
            .collect();
        self.admin.accept(wanted.generation(), &held).await?;
        info!(
            generation = wanted.generation(),
            milliseconds = start.elapsed().as_millis(),
            "HAProxy was changed into the configuration at run time"
        );
        Ok(true)
    }

    /// Takes standbys into service or out of it: a reload, which every version could do, would end sessions on other servers. Says whether it
    /// could be done.
    async fn change_standbys(&self, former: &Configuration, wanted: &Configuration) -> Result<bool, AgentError> {
        let before = list_services(former);
        let mut changed = list_services(wanted);
        changed.retain(|service| !before.contains(service));
        let start = Instant::now();
        let left_out = |(backend, server): &(String, String)| {
            let mut left_out = changed.iter().filter(|service| !service.serves);
            left_out.any(|service| service.backend == *backend && service.server == *server)
        };
        loop {
            self.admin.set_service(&changed).await?;
            // A session that was on its way to its server is seen and ended in the next round.
            let with_server = self.admin.running().await?.load.with_server;
            let busy = with_server
                .iter()
                .find(|(server, sessions)| **sessions > 0 && left_out(server));
            match busy {
                Some(((backend, server), sessions)) if start.elapsed() > END => {
                    warn!(
                        backend,
                        server, sessions, "sessions outlive their server's being left out"
                    );
                    break;
                }
                Some(_) => sleep(POLL).await,
                None => break,
            }
        }
        let seen = self.admin.servers().await?;
        let is_done = |service: &&Service| {
            let mut named = seen
                .iter()
                .filter(|server| server.backend == service.backend && server.name == service.server);
            named.any(|server| server.serves == service.serves)
        };
        if let Some(Service { backend, server, .. }) = changed.iter().find(|service| !is_done(service)) {
            warn!(backend, server, "HAProxy does not take it into or out of service");
            return Ok(false);
        }
        self.admin.answer_with(wanted.generation()).await?;
        info!(
            generation = wanted.generation(),
            servers = changed.len(),
            "standbys were taken into service or out of it"
        );
        Ok(true)
    }

    /// Looks for the user's own proxies that a variable stands for: what is missing would be noticed when it is to be held.
    async fn look_for_proxies(&self, wanted: &Configuration) -> Result<(), AgentError> {
        let load = self.admin.running().await?.load;
        let held = wanted.routes().iter().filter(|route| route.kind.is_held());
        for name in held.map(|route| &route.name) {
            let server = (name.backend(), "s1".to_owned());
            if !load.limits.contains_key(&name.frontend()) {
                return Err(AgentError::Missing(format!("frontend {}", name.frontend())));
            }
            if !load.with_server.contains_key(&server) {
                return Err(AgentError::Missing(format!("server s1 in backend {}", name.backend())));
            }
        }
        Ok(())
    }

    /// A configuration that somebody else wrote may have made HAProxy listen for commands elsewhere, or nowhere; its master still does.
    async fn bring_back_admin_socket(&self, generation: u64) -> Result<(), AgentError> {
        let absent = |error: RuntimeError| matches!(error, RuntimeError::Unreachable { .. });
        if self.admin.running().await.is_err_and(absent) && self.master.processes().await.is_ok() {
            warn!(
                generation,
                "HAProxy's worker does not listen for commands: it is reloaded"
            );
            self.reload(generation).await?;
        }
        Ok(())
    }

    /// Reloads and waits until the new worker answers.
    async fn reload(&self, generation: u64) -> Result<(), AgentError> {
        let before = self.master.processes().await?.reloads;
        let start = Instant::now();
        let answer = self.master.reload().await?;
        if let Reload::Refused(words) = answer {
            return Err(AgentError::Refused { generation, words });
        }
        while start.elapsed() < RELOAD {
            // Nothing answers for a moment while workers change places.
            let running = self.admin.running().await;
            if running.is_ok_and(|running| running.generation == Some(generation)) {
                info!(
                    generation,
                    milliseconds = start.elapsed().as_millis(),
                    "HAProxy runs the configuration"
                );
                return Ok(());
            }
            if answer == Reload::Unknown
                && let Ok(processes) = self.master.processes().await
                && processes.reloads > before
                && processes.failed > 0
            {
                let words = "see the log of its container".to_owned();
                return Err(AgentError::Refused { generation, words });
            }
            sleep(POLL).await;
        }
        Err(AgentError::NotRunning { generation })
    }
}

/// Every server, and whether clients are led to it.
fn list_services(configuration: &Configuration) -> Vec<Service> {
    let routes = configuration.routes().iter();
    let services = routes.flat_map(|route| {
        route.to.iter().enumerate().map(|(index, address)| Service {
            backend: route.name.backend(),
            server: format!("s{}", index + 1),
            serves: !route.left_out.contains(address),
        })
    });
    services.collect()
}

fn is_led(lead: &Lead, servers: &[Server]) -> bool {
    servers.iter().any(|server| {
        server.backend == lead.backend
            && server.name == lead.server
            && server.ip == Some(lead.to.ip().to_string())
            && server.port == Some(lead.to.port())
    })
}

/// Every server; nothing when one has a name instead of an IP address, which only a reload resolves.
fn list_servers(configuration: &Configuration) -> Option<Vec<Lead>> {
    let mut servers = Vec::new();
    for route in configuration.routes() {
        for (index, to) in list_addresses(route)?.into_iter().enumerate() {
            servers.push(Lead {
                backend: route.name.backend(),
                server: format!("s{}", index + 1),
                to,
            });
        }
    }
    Some(servers)
}

/// Where a route leads; nothing where a name stands for it.
fn list_addresses(route: &Route) -> Option<Vec<SocketAddr>> {
    let address = |Address { host, port }: &Address| {
        let ip = host.to_string().trim_matches(['[', ']']).parse().ok()?;
        Some(SocketAddr::new(ip, port.get()))
    };
    route.to.iter().map(address).collect()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixListener,
    };

    use super::*;
    use crate::haproxy::{Form, State};

    fn leading_to(port: u16, generation: u64) -> Configuration {
        let route = Route {
            name: "write".parse().unwrap(),
            listen: 5432.try_into().unwrap(),
            to: vec![Address::new("10.0.0.1", port).unwrap()],
            left_out: std::collections::BTreeSet::new(),
            drain: Duration::ZERO,
            kind: RouteKind::Primary,
        };
        Configuration::new(Form::Whole, generation, State::Open, vec![route]).unwrap()
    }

    /// A held HAProxy 3.0 that shows a server's new address in its second answer only, as seen in 3 of 60 releases under load.
    async fn answer_late(listener: UnixListener) {
        let mut shown = 0;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut command = String::new();
            stream.read_to_string(&mut command).await.unwrap();
            let answer = if command.starts_with("show info") {
                "Version: 3.0.11\n\n# pxname,svname,scur,slim\nfe_write,FRONTEND,0,0\n\nMITOSIS_GENERATION=1\n\n"
                    .to_owned()
            } else if command.contains("show servers state") {
                shown += 1;
                let port = if shown == 1 { 1111 } else { 2222 };
                format!(
                    "port changed\n\n1\n# be_name srv_name srv_addr srv_port srv_admin_state\nbe_write s1 10.0.0.1 {port} 0\n"
                )
            } else {
                "\n".to_owned()
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_server_whose_address_changes_late_costs_no_reload() {
        let folder = tempfile::tempdir().unwrap();
        let [file, admin, master] = ["haproxy.cfg", "admin.sock", "master.sock"].map(|name| folder.path().join(name));
        tokio::spawn(answer_late(UnixListener::bind(&admin).unwrap()));
        // Nothing listens on the master's socket: a reload would fail.
        let mut haproxy = Haproxy::new(&file, &admin, &master);
        haproxy.running = Some(leading_to(1111, 1));
        haproxy.release(&Desired::from(&leading_to(2222, 2))).await.unwrap();
    }
}
