//! The next status, from the last one and what was seen, decided and done. Pure.

use super::{
    catch_up::{build_catch_up, describe_lag},
    conditions::build_conditions,
    seeding::{build_seeding, measure_progress},
};
use crate::{
    act::Effects,
    api::{
        Attempt, ClusterMigrationStatus, DesiredPhase, MemberStatus, Outcome, Phase, PlanStatus, Role, RoutingDrift,
        Side, Step,
    },
    decide::{Decided, Decision, Told, find_drift, is_resumed, phase_of, writes_routing},
    observe::{Member, Sight, Snapshot},
    postgres::{Lsn, Server},
};

/// How many ended attempts are kept.
const KEPT_ATTEMPTS: usize = 10;

/// The next status.
#[must_use]
pub fn build_status(seen: &Snapshot, decided: &Decided, effects: &Effects) -> ClusterMigrationStatus {
    let last = seen.migration.status.clone().unwrap_or_default();
    let mut next = last.clone();
    next.observed_generation = seen.migration.metadata.generation;
    match &decided.decision {
        Decision::Advance(advance) => {
            next.phase = phase_of(&advance.record, advance.to);
            next.message = format!("{}: {}", advance.to.as_str(), advance.because);
            next.switchover = Some((*advance.record).clone());
            if advance.to.is_terminal() {
                let aborted = advance.to == Step::Aborted;
                let message = match (&advance.record.abort_reason, aborted) {
                    (Some(why), true) => why.clone(),
                    _ => advance.because.clone(),
                };
                next.attempts.insert(
                    0,
                    Attempt {
                        attempt: advance.record.attempt,
                        outcome: match advance.record.to {
                            _ if aborted => Outcome::Aborted,
                            Side::Target => Outcome::Switched,
                            Side::Source => Outcome::RolledBack,
                        },
                        message,
                        end_time: seen.now,
                    },
                );
                next.attempts.truncate(KEPT_ATTEMPTS);
            }
        }
        Decision::Act { told, .. } | Decision::Wait { told, .. } | Decision::Halt { told } => {
            next.phase = told.phase;
            next.message.clone_from(&told.message);
        }
    }
    let looked = seen
        .members
        .iter()
        .any(|member| !matches!(member.sight, Sight::NotLooked));
    if looked && !matches!(next.phase, Phase::Switching | Phase::RollingBack) {
        next.members = build_members(seen);
        next.seeding = build_seeding(seen, &last);
        next.progress = measure_progress(&next.seeding).map(|percent| format!("{percent}%"));
        next.catch_up = build_catch_up(seen, last.catch_up.as_ref());
        next.lag = describe_lag(seen, next.catch_up.as_ref());
        next.plan = Some(PlanStatus {
            findings: decided.findings.clone(),
            database_bytes: seen
                .side(Side::Source)
                .find_map(|member| member.server())
                .map(|server| server.database_bytes),
        });
    }
    if let Some((system_identifier, clone_source)) = &effects.identity {
        next.system_identifier = Some(system_identifier.clone());
        next.clone_source = Some(clone_source.clone());
    }
    if let Decision::Act { actions, .. } = &decided.decision
        && let Some(drift) = find_drift(seen).filter(|_| writes_routing(seen, actions))
    {
        next.routing_drift = Some(RoutingDrift {
            repairs: last.routing_drift.map_or(0, |drift| drift.repairs) + 1,
            config_map_name: drift.config_map.map(ToOwned::to_owned),
            last_by: drift.by.to_owned(),
            last_repair: seen.now,
        });
    }
    if let Some(rehearsal) = &effects.rehearsal {
        next.rehearsal = Some(rehearsal.clone());
    }
    if let Some(rewind) = &effects.rewind {
        next.rewind = Some(rewind.clone());
    }
    if let Some(marker) = &effects.marker {
        next.marker = Some(marker.clone());
    }
    if let (Decision::Halt { told }, Some(record)) = (&decided.decision, next.switchover.as_mut())
        && !record.step.is_terminal()
        && record.alarm.is_none()
    {
        record.alarm = Some(told.message.clone());
    }
    if let Some(record) = next.switchover.as_mut() {
        record.unresumed.retain(|name| !is_resumed(seen, name));
    }
    if let Some(record) = next.switchover.as_mut().filter(|_| effects.analyzed) {
        record.analyzed = true;
    }
    if let Some(marker) = next.marker.as_mut().filter(|marker| marker.replayed_time.is_none()) {
        let position: Option<Lsn> = marker.lsn.parse().ok();
        let replayed = seen.leader().and_then(Member::server).and_then(|server| server.lsn);
        if position.is_some() && replayed >= position {
            marker.replayed_time = Some(seen.now);
        }
    }
    next.conditions = build_conditions(seen, &next, decided, &told_of(&decided.decision, &next));
    next
}

/// What the decision tells; for an advance what status tells now.
fn told_of(decision: &Decision, next: &ClusterMigrationStatus) -> Told {
    match decision {
        Decision::Act { told, .. } | Decision::Wait { told, .. } | Decision::Halt { told } => told.clone(),
        Decision::Advance(advance) => {
            let reason = match advance.to {
                Step::Restore | Step::Release | Step::Aborted => crate::api::Reason::Aborted,
                Step::Done => crate::api::Reason::Done,
                _ => crate::api::Reason::Switching,
            };
            Told::new(next.phase, reason, next.message.clone())
        }
    }
}

fn build_members(seen: &Snapshot) -> Vec<MemberStatus> {
    let written = seen
        .primaries()
        .first()
        .and_then(|member| member.server())
        .and_then(|server| server.lsn);
    seen.members
        .iter()
        .map(|member| {
            let server = member.server();
            let streaming = server.filter(|server| server.in_recovery);
            let upstream = streaming.and_then(|server| name_upstream(seen, member, server));
            MemberStatus {
                name: member.name.to_string(),
                side: member.side,
                role: match server {
                    Some(server) if server.in_recovery => Role::Standby,
                    Some(_) => Role::Primary,
                    None => Role::Unknown,
                },
                upstream,
                streaming: streaming.map(|server| server.streams_within(30.0)),
                timeline: server.map(|server| server.timeline),
                lsn: server.and_then(|server| server.lsn).map(|lsn| lsn.to_string()),
                lag_bytes: streaming.and_then(|server| Some(written?.bytes_after(server.lsn?))),
                problem: match &member.sight {
                    Sight::Unreachable(because) | Sight::Refused(because) => Some(because.clone()),
                    Sight::Seen(_) | Sight::NotLooked => None,
                },
            }
        })
        .collect()
}

/// The member that a standby streams from: by the address that it was told, else by who sees it come from its address.
fn name_upstream(seen: &Snapshot, member: &Member, server: &Server) -> Option<String> {
    let (host, port) = (server.sender_host.as_deref()?, server.sender_port?);
    let by_address = || {
        seen.members.iter().find(|upstream| {
            upstream.server().is_some_and(|upstream| {
                upstream
                    .standbys
                    .iter()
                    .any(|standby| standby.address.as_deref() == Some(member.address.host.as_str()))
            })
        })
    };
    let known = seen.member_at(host, port).or_else(by_address);
    Some(known.map_or_else(|| format!("{host}:{port}"), |upstream| upstream.name.to_string()))
}

/// Whether the migration is where the specification wants it.
pub(super) fn is_where_wanted(seen: &Snapshot, next: &ClusterMigrationStatus) -> bool {
    matches!(
        (seen.migration.spec.phase, next.phase),
        (DesiredPhase::Planned, Phase::Planned)
            | (DesiredPhase::Replicating, Phase::Replicating)
            | (DesiredPhase::Switched, Phase::Switched)
            | (DesiredPhase::RolledBack, Phase::RolledBack)
            | (DesiredPhase::Completed, Phase::Completed)
    )
}
