//! What was seen of the world at one moment. Data only: decisions are made from nothing else.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;

use super::{layout::Misfit, poolers::Pooler, proxies::Lead};
use crate::{
    address::Address,
    agent::{Desired, Report},
    api::{ClusterMigration, Side},
    postgres::{Listing, Lsn, MemberName, Server},
    resources::Kind,
};

/// What was seen of the world at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was seen.
    pub now: Timestamp,
    /// The migration, with its recorded status.
    pub migration: ClusterMigration,
    /// What is wrong with the Secrets that the specification names, as a sentence; nothing when they are usable.
    pub secrets: Result<(), String>,
    /// Every server of both sides, the source's first, each side in its own order.
    pub members: Vec<Member>,
    /// Objects of the migration in Kubernetes.
    pub objects: Objects,
    /// What the routing says and what the HAProxy pods answer.
    pub traffic: Traffic,
    /// What the source uses of its machine.
    pub inventory: Listed,
    /// User of the source credentials; empty while they are unusable.
    pub source_user: String,
    /// Whether the canary row of the running switchover was seen on the member that is promoted.
    pub canary_replayed: bool,
    /// Where the new primary's timeline forks off, when it was read.
    pub fork: Option<Lsn>,
}

/// One server.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: MemberName,
    /// Its side.
    pub side: Side,
    /// Its address as the operator sees it.
    pub address: Address,
    /// Its address as the other side's servers see it, where there is one.
    pub outside: Option<Address>,
    /// What was seen of it.
    pub sight: Sight,
}

/// What was seen of a server.
#[derive(Clone, Debug)]
pub enum Sight {
    /// It answered.
    Seen(Box<Server>),
    /// Nothing answers. It may run all the same: an unreachable server is not a stopped one.
    Unreachable(String),
    /// It answers and refuses the login or the TLS handshake.
    Refused(String),
    /// It was not looked at, because nothing depends on it now or it does not exist yet.
    NotLooked,
}

/// Objects of the migration in Kubernetes.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Hash of what was applied last, by kind and name. Absent from here means absent from the cluster.
    pub applied: BTreeMap<(Kind, String), String>,
    /// State of each Job.
    pub jobs: BTreeMap<String, JobState>,
    /// ClusterIP of each Service.
    pub cluster_ips: BTreeMap<String, String>,
    /// First port on every node of each Service that has one.
    pub node_ports: BTreeMap<String, u16>,
    /// Address that the cloud gave to each Service of type LoadBalancer.
    pub load_balancers: BTreeMap<String, String>,
    /// Label of the observed role on each member's pod, by member; absent when there is no pod.
    pub pod_roles: BTreeMap<String, Option<String>>,
    /// What keeps a pod from starting, by member or Job, as a sentence.
    pub pod_problems: BTreeMap<String, String>,
}

/// State of a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// It has not ended; with what its last attempt said, where one has failed.
    Running(Option<String>),
    /// It ended well; with what its pod said.
    Succeeded(String),
    /// It ended badly; with what its pod said last.
    Failed(String),
}

/// What the source uses of its machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Listed {
    /// It was not asked yet.
    #[default]
    NotYet,
    /// What its databases said lately.
    Seen(Box<Listing>),
    /// One of them could not be asked; with why.
    Failed(String),
}

/// What the routing says and what the HAProxy pods answer.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// The routing ConfigMap, when there is one.
    pub routing: Option<Desired>,
    /// Who last wrote data of the routing besides the operator, as its field manager is called.
    pub editor: Option<String>,
    /// The ConfigMap of the user's that the routing is written into as well.
    pub placed: Placed,
    /// HAProxy pods that are ready or were ready before (not those that still start).
    pub pods: Vec<ProxyPod>,
    /// Instances of PgBouncer, when the next decision depends on them.
    pub poolers: Vec<Pooler>,
}

/// The ConfigMap of the user's that the routing is written into as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Placed {
    /// None is named, or it was not looked at.
    #[default]
    Unknown,
    /// It is not there.
    Missing,
    /// It is there.
    Seen {
        /// Its version, which a change must come upon.
        resource_version: String,
        /// What its key says.
        text: Option<String>,
        /// Generation of the routing that the operator wrote into it last.
        generation: Option<u64>,
        /// Who last wrote that key besides the operator, as its field manager is called.
        editor: Option<String>,
    },
}

/// One HAProxy pod.
#[derive(Clone, Debug)]
pub struct ProxyPod {
    /// Its name.
    pub name: String,
    /// Where its sessions come from, as servers see it: its own address, or that of its node where addresses are translated.
    pub addresses: Vec<IpAddr>,
    /// What its agent reported, or HAProxy itself where it has none; nothing when it did not answer.
    pub report: Option<Report>,
    /// Whether its agent was asked. One that is new since the last look is asked in the next one.
    pub was_asked: bool,
    /// Where it leads those who write.
    pub lead: Lead,
    /// What keeps the pod from leading clients as it should, as far as its specification tells.
    pub misfits: Vec<Misfit>,
    /// When the kubelet was last made to look for what the pod mounts.
    pub refreshed: Option<Timestamp>,
}

impl Snapshot {
    /// Members of a side.
    pub fn side(&self, side: Side) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.side == side)
    }

    /// The member of a name.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name.as_str() == name)
    }

    /// The leader of the target: the member that is promoted.
    #[must_use]
    pub fn leader(&self) -> Option<&Member> {
        self.side(Side::Target).next()
    }

    /// Members that were seen as primary.
    #[must_use]
    pub fn primaries(&self) -> Vec<&Member> {
        self.members
            .iter()
            .filter(|member| member.server().is_some_and(|server| !server.in_recovery))
            .collect()
    }

    /// Two members of one cluster that both accept writes, when there are such.
    #[must_use]
    pub fn rivals(&self) -> Option<(&Member, &Member)> {
        let primaries = self.primaries();
        let cluster = |member: &Member| member.server().map(|server| server.system_identifier.clone());
        primaries.iter().enumerate().find_map(|(index, first)| {
            let second = primaries[index + 1..]
                .iter()
                .find(|second| cluster(second) == cluster(first))?;
            Some((*first, *second))
        })
    }

    /// The member of the given address, as either side sees it.
    #[must_use]
    pub fn member_at(&self, host: &str, port: u16) -> Option<&Member> {
        let at = |address: &Address| address.host.as_str() == host && address.port.get() == port;
        self.members
            .iter()
            .find(|member| at(&member.address) || member.outside.as_ref().is_some_and(at))
    }
}

impl Member {
    /// Why it was not seen, with its name.
    #[must_use]
    pub fn unseen_because(&self) -> String {
        match &self.sight {
            Sight::Unreachable(because) | Sight::Refused(because) => format!("{}: {because}", self.name),
            Sight::Seen(_) | Sight::NotLooked => self.name.to_string(),
        }
    }

    /// What the server said, when it was seen.
    #[must_use]
    pub fn server(&self) -> Option<&Server> {
        match &self.sight {
            Sight::Seen(server) => Some(server),
            _ => None,
        }
    }
}
