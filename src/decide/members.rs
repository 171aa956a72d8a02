//! The target's members: objects, clones, and who follows whom.

use std::time::Duration;

use super::{Action, Decision, Told};
use crate::{
    address::Address,
    api::{Phase, Reason, Side},
    observe::{JobState, Member, Sight, Snapshot},
    postgres::{Conninfo, Server, render_hba, render_postgresql},
    resources::{
        CA_FILE, Kind, Plan, SOURCE_CA_FILE, SeedingPlan, Wanted, build_claim, build_configuration,
        build_role_services, build_seeding, build_services, build_stateful_set, seeding_name,
    },
};

/// The member to clone the leader from: the recorded one, the named one, else the streaming standby that replayed most.
pub fn choose_clone_source(seen: &Snapshot) -> Result<&Member, String> {
    let status = seen.migration.status.as_ref();
    let recorded = status.and_then(|status| status.clone_source.as_deref());
    let named = seen.migration.spec.source.clone_from.as_deref();
    if let Some(name) = recorded.or(named) {
        return seen
            .member(name)
            .ok_or_else(|| format!("{name} is none of spec.source.members"));
    }
    seen.side(Side::Source)
        .filter(|member| {
            member
                .server()
                .is_some_and(|server| server.in_recovery && server.streams_within(30.0))
        })
        .max_by_key(|member| member.server().and_then(|server| server.lsn))
        .ok_or_else(|| {
            "no source standby streams, and the primary is only cloned from when spec.source.cloneFrom names it"
                .to_owned()
        })
}

/// Objects of every target member that differ from what the cluster has.
pub fn plan_objects(seen: &Snapshot, source: &Server) -> Result<Vec<Action>, String> {
    let migration = &seen.migration;
    let hba = render_hba(&migration.spec.target.postgresql.hba)?;
    let mut wanted = build_role_services(migration);
    for member in seen.side(Side::Target) {
        let plan = Plan {
            migration,
            member: &member.name,
        };
        let postgresql = render_postgresql(&member.name, source, &migration.spec.target.postgresql.parameters)?;
        wanted.push(build_configuration(&plan, &postgresql, &hba));
        wanted.push(build_claim(&plan));
        wanted.extend(build_services(&plan));
    }
    Ok(plan_apply(seen, wanted))
}

/// Those of the wanted objects that the cluster does not have as they are wanted.
pub fn plan_apply(seen: &Snapshot, wanted: Vec<Wanted>) -> Vec<Action> {
    wanted
        .into_iter()
        .filter(|object| seen.objects.applied.get(&(object.kind, object.name.clone())) != Some(&object.hash))
        .map(|object| Action::Apply(Box::new(object)))
        .collect()
}

/// How a target member reaches its upstream, without the password.
pub fn conninfo_of(seen: &Snapshot, member: &Member, upstream: &Member) -> Conninfo {
    let spec = &seen.migration.spec;
    let (sslmode, sslrootcert) = match upstream.side {
        Side::Source => (spec.source.tls.as_str(), SOURCE_CA_FILE),
        Side::Target => ("verify-full", CA_FILE),
    };
    Conninfo {
        upstream: upstream.address.clone(),
        user: String::new(),
        password: None,
        sslmode,
        sslrootcert: (sslmode == "verify-full").then(|| sslrootcert.to_owned()),
        standby: member.name.clone(),
    }
}

/// How a source member reaches the leader, without the password; nothing while its address outside is not known.
pub fn conninfo_back(seen: &Snapshot, member: &Member, leader: &Member) -> Option<Conninfo> {
    let rollback = &seen.migration.spec.rollback;
    Some(Conninfo {
        upstream: leader.outside.clone()?,
        user: String::new(),
        password: None,
        sslmode: rollback.sslmode.as_str(),
        sslrootcert: rollback.sslrootcert.clone(),
        standby: member.name.clone(),
    })
}

/// Whether a standby is told to follow this upstream as this member.
pub fn is_told_to_follow(server: &Server, upstream: &Address, member: &Member) -> bool {
    server.follows_host.as_deref() == Some(upstream.host.as_str())
        && server.follows_port == Some(upstream.port.get())
        && server.follows_as.as_deref() == Some(member.name.application_name().as_str())
}

/// Brings one target member a step toward streaming from its upstream; nothing when it streams.
pub fn decide_member(seen: &Snapshot, member: &Member, upstream: &Member) -> Option<Decision> {
    let migration = &seen.migration;
    let name = member.name.as_str();
    let plan = Plan {
        migration,
        member: &member.name,
    };
    let act = |actions, reason, message: String| Decision::Act {
        actions,
        told: Told::new(Phase::Seeding, reason, message),
    };
    let wait = |reason, message: String| {
        Some(Decision::Wait {
            told: Told::new(phase_of(seen), reason, message),
            recheck: Duration::from_millis(500),
        })
    };
    if !seen.objects.applied.contains_key(&(Kind::StatefulSet, name.to_owned())) {
        return Some(decide_seeding(seen, &plan, member, upstream));
    }
    let refresh = plan_apply(seen, vec![build_stateful_set(&plan)]);
    if !refresh.is_empty() {
        return Some(act(
            refresh,
            Reason::Preparing,
            format!("the StatefulSet of {name} is brought up to date"),
        ));
    }
    let server = match &member.sight {
        Sight::Seen(server) => server,
        Sight::Unreachable(because) | Sight::Refused(because) => {
            let problem = seen.objects.pod_problems.get(name).unwrap_or(because);
            return wait(
                Reason::Starting,
                format!("{name} does not accept connections yet: {problem}"),
            );
        }
        Sight::NotLooked => return wait(Reason::Starting, format!("{name} starts")),
    };
    if !server.in_recovery {
        return Some(Decision::Halt {
            told: Told::new(
                Phase::Replicating,
                Reason::NeedsAttention,
                format!(
                    "{name} was promoted by somebody else and does not follow {} any more: delete its StatefulSet, volume claim and Job {} to clone it anew",
                    upstream.name,
                    seeding_name(&member.name)
                ),
            ),
        });
    }
    let slot = member.name.slot();
    let Some(upstream_server) = upstream.server() else {
        return wait(
            Reason::LinkBroken,
            format!("{name} cannot follow {}, which was not seen", upstream.name),
        );
    };
    if !upstream_server.has_slot(slot.as_str()) {
        let make = Action::EnsureSlot {
            on: upstream.name.clone(),
            slot,
        };
        return Some(act(
            vec![make],
            Reason::Preparing,
            format!("slot for {name} on {}", upstream.name),
        ));
    }
    if !is_told_to_follow(server, &upstream.address, member) {
        let follow = Action::Follow {
            member: member.name.clone(),
            upstream: Box::new(conninfo_of(seen, member, upstream)),
            slot,
        };
        return Some(act(
            vec![follow],
            Reason::Starting,
            format!("{name} is told to follow {}", upstream.name),
        ));
    }
    if server.replay_paused {
        return wait(
            Reason::LinkBroken,
            format!(
                "replay is paused on {name}: run `SELECT pg_wal_replay_resume()` there, or look into its log for insufficient settings"
            ),
        );
    }
    if !server.streams_within(30.0) {
        return wait(
            Reason::Starting,
            format!("{name} does not stream from {} yet", upstream.name),
        );
    }
    None
}

fn decide_seeding(seen: &Snapshot, plan: &Plan<'_>, member: &Member, upstream: &Member) -> Decision {
    let name = member.name.as_str();
    let seeding = |reason, message: String| Told::new(Phase::Seeding, reason, message);
    match seen.objects.jobs.get(&seeding_name(&member.name)) {
        None => {
            if upstream.server().is_none() {
                return Decision::Wait {
                    told: seeding(
                        Reason::Seeding,
                        format!("{name} is cloned when {} answers", upstream.name),
                    ),
                    recheck: Duration::from_millis(500),
                };
            }
            let slot = member.name.slot();
            let mut conninfo = conninfo_of(seen, member, upstream);
            // The Job reads the password from the mounted Secret; the user is no secret.
            conninfo.user.clone_from(&seen.source_user);
            let job = build_seeding(
                plan,
                &SeedingPlan {
                    upstream: &conninfo,
                    slot: &slot,
                },
            );
            Decision::Act {
                actions: vec![
                    Action::EnsureSlot {
                        on: upstream.name.clone(),
                        slot,
                    },
                    Action::Apply(Box::new(job)),
                ],
                told: seeding(Reason::Seeding, format!("{name} is cloned from {}", upstream.name)),
            }
        }
        Some(JobState::Running) => {
            let told = match seen.objects.pod_problems.get(&seeding_name(&member.name)) {
                Some(problem) => format!("the clone of {name} has not started: {problem}"),
                None => format!("{name} is being cloned from {}", upstream.name),
            };
            Decision::Wait {
                told: seeding(Reason::Seeding, told),
                recheck: Duration::from_millis(500),
            }
        }
        Some(JobState::Failed(said)) => Decision::Halt {
            told: seeding(
                Reason::SeedingFailed,
                format!(
                    "the clone of {name} from {} failed: {said}; cure that, then delete Job {} to try again",
                    upstream.name,
                    seeding_name(&member.name)
                ),
            ),
        },
        Some(JobState::Succeeded(_)) => Decision::Act {
            actions: vec![Action::Apply(Box::new(build_stateful_set(plan)))],
            told: seeding(Reason::Starting, format!("{name} is cloned and starts")),
        },
    }
}

fn phase_of(seen: &Snapshot) -> Phase {
    seen.migration
        .status
        .as_ref()
        .map_or(Phase::Seeding, |status| match status.phase {
            Phase::Pending | Phase::Planned => Phase::Seeding,
            other => other,
        })
}

/// Labels that differ from the observed roles, by which `-rw` and `-ro` find their pods.
pub fn plan_labels(seen: &Snapshot) -> Vec<Action> {
    seen.side(Side::Target)
        .filter_map(|member| {
            let role = if member.server()?.in_recovery {
                "standby"
            } else {
                "primary"
            };
            let labelled = seen.objects.pod_roles.get(member.name.as_str())?;
            (labelled.as_deref() != Some(role)).then(|| Action::LabelRole {
                member: member.name.clone(),
                role,
            })
        })
        .collect()
}
