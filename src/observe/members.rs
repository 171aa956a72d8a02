//! Servers of both sides: which there are, and what each says.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::join_all;
use tokio::time::timeout;

use super::{Credentials, Focus, Member, Objects, Sight};
use crate::{
    address::Address,
    api::{ClusterMigration, ExposureType, Side, Step},
    postgres::{Error, Login, MemberName, Session, fetch_server, fetch_server_switching},
    resources::{external_name, member_host},
};

/// How long a look at one server may take.
const LOOK: Duration = Duration::from_secs(4);
/// How long a look at the old primary may take once it was told to stop: the other side is what matters.
const GLANCE: Duration = Duration::from_millis(500);
/// How long nothing but the other side matters, in milliseconds since the old primary was told to stop. It was seen to serve no more; while
/// it starts as a standby, each attempt to log in would take time from it.
const HURRY: i64 = 200;

/// Names of the target's members, the leader first.
#[must_use]
pub fn target_members(migration: &ClusterMigration) -> Vec<MemberName> {
    let name = migration.metadata.name.as_deref().unwrap_or_default();
    (1..=migration.spec.target.members)
        .filter_map(|number| MemberName::try_from(format!("{name}-{number}").as_str()).ok())
        .collect()
}

type Open = HashMap<(Login, Address), Arc<Session>>;

/// Open sessions, used again from turn to turn: opening one costs several round trips. A session belongs to the login that opened
/// it, so that nobody acts with somebody else's rights and a changed Secret counts at once.
#[derive(Clone, Default)]
pub struct Sessions {
    open: Arc<Mutex<Open>>,
}

impl Sessions {
    /// An open session to an address.
    ///
    /// # Errors
    /// See [`Login::connect`].
    pub async fn get(&self, login: &Login, address: &Address) -> Result<Arc<Session>, Error> {
        let key = (login.clone(), address.clone());
        let known = self.lock().get(&key).filter(|session| !session.is_closed()).cloned();
        if let Some(session) = known {
            return Ok(session);
        }
        let session = Arc::new(login.connect(address).await?);
        self.lock().insert(key, Arc::clone(&session));
        Ok(session)
    }

    /// Forgets the session to an address, so that the next one is new.
    pub fn forget(&self, login: &Login, address: &Address) {
        self.lock().remove(&(login.clone(), address.clone()));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        // A panic while the map was locked leaves it whole: it only holds handles.
        self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The members of a migration, not looked at yet.
pub fn list_members(migration: &ClusterMigration, objects: &Objects) -> Vec<Member> {
    let namespace = migration.metadata.namespace.as_deref().unwrap_or_default();
    let source = migration.spec.source.members.iter().filter_map(|member| {
        let address = Address::new(&member.host, member.port).ok()?;
        Some(Member {
            name: MemberName::try_from(member.name.as_str()).ok()?,
            side: Side::Source,
            outside: Some(address.clone()),
            address,
            sight: Sight::NotLooked,
        })
    });
    let target = target_members(migration).into_iter().filter_map(|name| {
        Some(Member {
            side: Side::Target,
            address: Address::new(&member_host(namespace, &name), 5432).ok()?,
            outside: find_outside(migration, objects, &name),
            name,
            sight: Sight::NotLooked,
        })
    });
    source.chain(target).collect()
}

/// The address by which the source's hosts reach a target member.
fn find_outside(migration: &ClusterMigration, objects: &Objects, name: &MemberName) -> Option<Address> {
    let exposure = &migration.spec.target.exposure;
    let named = exposure.hosts.get(name.as_str());
    let service = external_name(name);
    match exposure.kind {
        ExposureType::None => named?.parse().ok(),
        ExposureType::NodePort => Address::new(named?, *objects.node_ports.get(&service)?).ok(),
        ExposureType::LoadBalancer => Address::new(named.or_else(|| objects.load_balancers.get(&service))?, 5432).ok(),
    }
}

/// Looks at the members that the focus includes, all at once.
pub async fn look_at(
    members: &mut [Member],
    migration: &ClusterMigration,
    objects: &Objects,
    focus: Focus,
    credentials: &Credentials,
    sessions: &Sessions,
) {
    let record = migration.status.as_ref().and_then(|status| status.switchover.as_ref());
    let now = jiff::Timestamp::now();
    let looks = members.iter().map(|member| {
        let is_old_primary = record.is_some_and(|record| record.old_primary == member.name.as_str());
        let is_new_primary = record.is_some_and(|record| record.new_primary == member.name.as_str());
        let exists = member.side == Side::Source || objects.pod_roles.contains_key(member.name.as_str());
        let login = credentials.of(member.side);
        let stopped = record.and_then(|record| record.started(Step::Stop));
        // A clock that runs ahead elsewhere makes no hurry.
        let hurry =
            stopped.is_some_and(|stopped| (0..HURRY).contains(&(now.as_millisecond() - stopped.as_millisecond())));
        let is_at = |steps: &[Step]| is_old_primary && record.is_some_and(|record| steps.contains(&record.step));
        let is_aside = is_at(&[Step::Prove, Step::Promote]);
        let patience = if is_aside || is_at(&[Step::Stop]) { GLANCE } else { LOOK };
        async move {
            if !exists || !focus.includes(is_old_primary, is_new_primary) || (is_aside && hurry) {
                return Sight::NotLooked;
            }
            if let Ok(sight) = timeout(patience, look(login, &member.address, sessions, focus)).await {
                sight
            } else {
                sessions.forget(login, &member.address);
                Sight::Unreachable(format!(
                    "{} gave no answer within {} ms",
                    member.address,
                    patience.as_millis()
                ))
            }
        }
    });
    let sights = join_all(looks).await;
    for (member, sight) in members.iter_mut().zip(sights) {
        member.sight = sight;
    }
}

async fn look(login: &Login, address: &Address, sessions: &Sessions, focus: Focus) -> Sight {
    let seen = async {
        let session = sessions.get(login, address).await?;
        match focus {
            Focus::Everything => fetch_server(&session).await,
            _ => fetch_server_switching(&session).await,
        }
    };
    match seen.await {
        Ok(server) => Sight::Seen(Box::new(server)),
        Err(error) => {
            sessions.forget(login, address);
            match error {
                Error::Refused { .. } | Error::Answer { .. } => Sight::Refused(error.to_string()),
                _ => Sight::Unreachable(error.to_string()),
            }
        }
    }
}
