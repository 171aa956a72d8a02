//! Where HAProxy leads, as a client sees it: by SQL through each pod.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use tokio::time::{Instant, timeout};

use super::{Credentials, Member, Traffic, kubernetes::ProxyPodPlace};
use crate::{
    address::Address,
    agent::ReportState,
    api::{ClusterMigration, PostgresRole},
    postgres::{Error, Login, Server, fetch_server_switching},
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

/// What was reached through HAProxy lately, by pod. Each question is a session of its own, since one that stays open proves nothing about the
/// next.
#[derive(Clone, Default)]
pub struct Leads {
    answers: Arc<Mutex<HashMap<String, Answer>>>,
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
        let (Some(port), [primary]) = (find_port(migration), primaries.as_slice()) else {
            return;
        };
        let Some(expected) = primary.server() else { return };
        let login = credentials.of(primary.side);
        let asked = traffic.pods.iter().map(async |pod| {
            let report = pod
                .report
                .as_ref()
                .filter(|report| report.state == ReportState::Running)?;
            let place = places.iter().find(|place| place.name == pod.name)?;
            let generation = report.generation?;
            if let Some(lead) = self.recall(&pod.name, generation, &primary.address) {
                return Some(lead);
            }
            let proxy = SocketAddr::new(place.ip.parse().ok()?, port);
            let lead = ask(login, &primary.address, proxy, expected).await;
            let answer = Answer {
                generation,
                primary: primary.address.clone(),
                at: Instant::now(),
                lead: lead.clone(),
            };
            self.lock().insert(pod.name.clone(), answer);
            Some(lead)
        });
        let leads = join_all(asked).await;
        for (pod, lead) in traffic.pods.iter_mut().zip(leads) {
            pod.lead = lead.unwrap_or_default();
        }
    }

    fn recall(&self, pod: &str, generation: u64, primary: &Address) -> Option<Lead> {
        let answers = self.lock();
        let answer = answers.get(pod)?;
        let patience = if answer.lead == Lead::ToPrimary { KEPT } else { DOUBTED };
        let counts = answer.generation == generation && answer.primary == *primary && answer.at.elapsed() < patience;
        counts.then(|| answer.lead.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Answer>> {
        // A panic while the map was locked leaves it whole.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The port inside the pods of the first route that leads to the primary.
fn find_port(migration: &ClusterMigration) -> Option<u16> {
    let traffic = migration.spec.traffic.as_ref()?;
    let mut routes = traffic.routes.iter();
    let route = routes.find(|route| route.postgres == Some(PostgresRole::Primary))?;
    Some(listen_port(&traffic.haproxy, route.port))
}

async fn ask(login: &Login, primary: &Address, proxy: SocketAddr, expected: &Server) -> Lead {
    let look = async {
        let session = login.connect_through(proxy, primary).await?;
        fetch_server_switching(&session).await
    };
    match timeout(ANSWER, look).await {
        Ok(Ok(server)) if server.in_recovery => Lead::Elsewhere("it leads to a standby".to_owned()),
        Ok(Ok(server)) if server.system_identifier != expected.system_identifier => {
            Lead::Elsewhere(format!("it leads to the cluster {}", server.system_identifier))
        }
        Ok(Ok(_)) => Lead::ToPrimary,
        // invalid_authorization_specification: pg_hba.conf may know the operator's address and not HAProxy's.
        Ok(Err(Error::Refused { because, .. })) if because.contains("(28000)") => Lead::Refused,
        Ok(Err(Error::Refused { because, .. } | Error::Unreachable { because, .. })) => Lead::Elsewhere(because),
        Ok(Err(error)) => Lead::Elsewhere(error.to_string()),
        Err(_) => Lead::Elsewhere(format!("no answer through it within {} s", ANSWER.as_secs())),
    }
}
