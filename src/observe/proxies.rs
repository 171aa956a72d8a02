//! Where HAProxy leads, as a client sees it: by SQL through each pod.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use tokio::time::{Instant, timeout};

use super::{Credentials, Member, Traffic, kubernetes::ProxyPodPlace};
use crate::{
    address::Address,
    agent::ReportState,
    api::{ClusterMigration, PostgresRole, Route},
    postgres::{Error, Login, Server, fetch_identity},
    resources::listen_port,
};

/// How long an answer counts while neither the pod's generation nor the primary changes.
const KEPT: Duration = Duration::from_secs(30);
/// The same for one that is not as it should be.
const DOUBTED: Duration = Duration::from_secs(1);
/// How long a pod may take.
const ANSWER: Duration = Duration::from_secs(2);

/// Where a HAProxy pod leads those who write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Lead {
    /// It was not asked: no route leads to the primary, or HAProxy does not run what it should anyhow.
    #[default]
    Unknown,
    /// To the primary.
    ToPrimary,
    /// To a server that lets the operator in from elsewhere, and not from there.
    Refused,
    /// Not to the primary; with what happened instead.
    Elsewhere(String),
}

struct Answer {
    generation: u64,
    primary: Address,
    at: Instant,
    lead: Lead,
}

/// By pod and port in it.
type Answers = HashMap<(String, u16), Answer>;

/// What was reached through HAProxy lately. Each question is a session of its own, since one that stays open proves nothing about the
/// next.
#[derive(Clone, Default)]
pub struct Leads {
    answers: Arc<Mutex<Answers>>,
}

impl Leads {
    /// Asks each pod that runs what it should, unless it was asked just now.
    pub(super) async fn fill(
        &self,
        traffic: &mut Traffic,
        places: &[ProxyPodPlace],
        migration: &ClusterMigration,
        members: &[Member],
        credentials: &Credentials,
    ) {
        let serves = |member: &&Member| member.server().is_some_and(|server| !server.in_recovery);
        let primaries: Vec<&Member> = members.iter().filter(serves).collect();
        let [primary] = primaries.as_slice() else { return };
        let Some(expected) = primary.server() else { return };
        let ways = list_ways(migration, primary, credentials.of(primary.side));
        let asked = traffic.pods.iter().map(async |pod| {
            let report = pod
                .report
                .as_ref()
                .filter(|report| report.state == ReportState::Running)?;
            let ip: IpAddr = places.iter().find(|place| place.name == pod.name)?.ip.parse().ok()?;
            let generation = report.generation?;
            let leads = ways.iter().map(async |way| {
                if let Some(lead) = self.recall(&pod.name, way, generation, &primary.address) {
                    return lead;
                }
                let lead = ask(way, SocketAddr::new(ip, way.port), expected).await;
                let answer = Answer {
                    generation,
                    primary: primary.address.clone(),
                    at: Instant::now(),
                    lead: lead.clone(),
                };
                self.lock().insert((pod.name.clone(), way.port), answer);
                lead
            });
            worst(join_all(leads).await)
        });
        let leads = join_all(asked).await;
        for (pod, lead) in traffic.pods.iter_mut().zip(leads) {
            pod.lead = lead.unwrap_or_default();
        }
    }

    fn recall(&self, pod: &str, way: &Way, generation: u64, primary: &Address) -> Option<Lead> {
        let answers = self.lock();
        let answer = answers.get(&(pod.to_owned(), way.port))?;
        let patience = if answer.lead == Lead::ToPrimary { KEPT } else { DOUBTED };
        let counts = answer.generation == generation && answer.primary == *primary && answer.at.elapsed() < patience;
        counts.then(|| answer.lead.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Answers> {
        // A panic while the map was locked leaves it whole.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How to connect through a HAProxy pod as those who write do.
struct Way {
    /// Port inside the pod.
    port: u16,
    /// As whom the server, or the pooler before it, must prove itself.
    address: Address,
    login: Login,
}

/// By the first route to the primary, and by each that leads to a pooler.
fn list_ways(migration: &ClusterMigration, primary: &Member, login: &Login) -> Vec<Way> {
    let Some(traffic) = &migration.spec.traffic else {
        return Vec::new();
    };
    let port = |route: &Route| listen_port(&traffic.haproxy, route.port);
    let mut routes = traffic.routes.iter();
    let direct = routes
        .find(|route| route.postgres == Some(PostgresRole::Primary))
        .map(|route| Way {
            port: port(route),
            address: primary.address.clone(),
            login: login.clone(),
        });
    let pooled = traffic.routes.iter().filter_map(|route| {
        let pooler = route.pooler.as_ref()?;
        Some(Way {
            port: port(route),
            address: pooler.of(primary.side).first()?.parse().ok()?,
            login: Login {
                tls: pooler.tls,
                ..login.clone()
            },
        })
    });
    direct.into_iter().chain(pooled).collect()
}

/// What counts of where the ways lead: one that leads elsewhere before one that was not let in.
fn worst(leads: Vec<Lead>) -> Option<Lead> {
    let weight = |lead: &Lead| match lead {
        Lead::ToPrimary => 0,
        Lead::Refused => 1,
        Lead::Unknown => 2,
        Lead::Elsewhere(_) => 3,
    };
    leads.into_iter().max_by_key(weight)
}

async fn ask(way: &Way, proxy: SocketAddr, expected: &Server) -> Lead {
    let look = async {
        let session = way.login.connect_through(proxy, &way.address).await?;
        fetch_identity(&session).await
    };
    match timeout(ANSWER, look).await {
        Ok(Ok((true, _))) => Lead::Elsewhere("it leads to a standby".to_owned()),
        Ok(Ok((false, identifier))) if identifier != expected.system_identifier => {
            Lead::Elsewhere(format!("it leads to the cluster {identifier}"))
        }
        Ok(Ok(_)) => Lead::ToPrimary,
        // Class 28: pg_hba.conf may know the operator's address and not HAProxy's, and a pooler may not know its user.
        Ok(Err(Error::Refused { because, .. })) if because.contains("(28") => Lead::Refused,
        Ok(Err(Error::Refused { because, .. } | Error::Unreachable { because, .. })) => Lead::Elsewhere(because),
        Ok(Err(error)) => Lead::Elsewhere(error.to_string()),
        Err(_) => Lead::Elsewhere(format!("no answer through it within {} s", ANSWER.as_secs())),
    }
}
