//! The target's members: objects, clones, and who follows whom.

use std::time::Duration;

use super::{Action, Decision, Told};
use crate::{
    address::Address,
    api::{Phase, Reason, Side, TlsMode},
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

/// How a member reaches another one, without the login; nothing while the other's address is not known on this member's side.
pub fn conninfo_between(seen: &Snapshot, member: &Member, upstream: &Member) -> Option<Conninfo> {
    let spec = &seen.migration.spec;
    let (address, sslmode, sslrootcert) = match (member.side, upstream.side) {
        (Side::Target, Side::Source) => {
            let verified = spec.source.tls == TlsMode::VerifyFull;
            let ca = verified.then(|| SOURCE_CA_FILE.to_owned());
            (upstream.address.clone(), spec.source.tls.as_str(), ca)
        }
        (Side::Target, Side::Target) => (upstream.address.clone(), "verify-full", Some(CA_FILE.to_owned())),
        (Side::Source, _) => {
            let rollback = &spec.rollback;
            let outside = upstream.outside.clone()?;
            (outside, rollback.sslmode.as_str(), rollback.sslrootcert.clone())
        }
    };
    Some(Conninfo {
        upstream: address,
        user: String::new(),
        password: None,
        sslmode,
        sslrootcert,
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
        effect: None,
        told: Told::new(Phase::Seeding, reason, message),
    };
    let wait = |reason, message: String| {
        Some(Decision::Wait {
            told: Told::new(resting_phase(seen), reason, message),
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
    decide_link(seen, member, server, upstream)
}

/// Brings the link of a member that runs a step toward streaming; nothing when it streams.
fn decide_link(seen: &Snapshot, member: &Member, server: &Server, upstream: &Member) -> Option<Decision> {
    let name = member.name.as_str();
    let act = |actions, reason, message: String| Decision::Act {
        actions,
        effect: None,
        told: Told::new(resting_phase(seen), reason, message),
    };
    let wait = |reason, message: String| {
        Some(Decision::Wait {
            told: Told::new(resting_phase(seen), reason, message),
            recheck: Duration::from_millis(500),
        })
    };
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
        let Some(conninfo) = conninfo_between(seen, member, upstream) else {
            return wait(
                Reason::LinkBroken,
                format!("the address of {} is not known", upstream.name),
            );
        };
        let follow = Action::Follow {
            member: member.name.clone(),
            upstream: Box::new(conninfo),
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
            let Some(mut conninfo) = conninfo_between(seen, member, upstream) else {
                return Decision::Wait {
                    told: seeding(
                        Reason::Seeding,
                        format!("the address of {} is not known", upstream.name),
                    ),
                    recheck: Duration::from_millis(500),
                };
            };
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
                effect: None,
                told: seeding(Reason::Seeding, format!("{name} is cloned from {}", upstream.name)),
            }
        }
        Some(JobState::Running(failed)) => {
            let told = match (seen.objects.pod_problems.get(&seeding_name(&member.name)), failed) {
                (Some(problem), _) => format!("the clone of {name} has not started: {problem}"),
                (None, None) => format!(
                    "{name} is being cloned from {}{}",
                    upstream.name,
                    tell_progress(seen, name)
                ),
                (None, Some(because)) => format!(
                    "{name} is being cloned from {} once more{}; the last attempt said: {because}",
                    upstream.name,
                    tell_progress(seen, name)
                ),
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
            effect: None,
            told: seeding(Reason::Starting, format!("{name} is cloned and starts")),
        },
    }
}

/// How far the clone of a member is, as far as it is known.
fn tell_progress(seen: &Snapshot, member: &str) -> String {
    let status = seen.migration.status.as_ref();
    let seeding = status.and_then(|status| status.seeding.iter().find(|seeding| seeding.member == member));
    let Some(seeding) = seeding.filter(|seeding| seeding.bytes_total > 0) else {
        return String::new();
    };
    let mebibytes = |bytes: u64| bytes >> 20;
    let percent = (seeding.bytes_done * 100 / seeding.bytes_total).min(99);
    let rate = seeding
        .bytes_per_second
        .map(|rate| format!(", {} MiB/s", mebibytes(rate)));
    let left = seeding.remaining_seconds.map(|seconds| match seconds {
        0..90 => format!(", {seconds} s left"),
        90..5400 => format!(", {} min left", seconds.div_ceil(60)),
        _ => format!(", {} h left", seconds.div_ceil(3600)),
    });
    format!(
        ": {percent} % of {} MiB{}{}",
        mebibytes(seeding.bytes_total),
        rate.unwrap_or_default(),
        left.unwrap_or_default()
    )
}

fn resting_phase(seen: &Snapshot) -> Phase {
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
