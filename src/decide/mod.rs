//! Decide: pure and synchronous. A [`Snapshot`] in, a [`Decision`] out; no client, no runtime, no clock.

mod bypass;
mod check;
mod decision;
mod ending;
mod image;
mod members;
mod mounted;
mod poolers;
mod preflight;
mod proxies;
mod readers;
mod rehearsal;
mod replicate;
mod rewind;
mod routing;
mod slots;
mod switched;
mod switchover;
mod validate;
mod way_back;

#[cfg(test)]
mod every_world;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod world;

use std::time::Duration;

pub use check::{Check, render_checks};
pub use decision::{Action, Advance, Decided, Decision, Placement, Told};
pub use poolers::{PoolerOrder, is_resumed};
pub use routing::{Drift, find_drift, writes_routing};
pub use switchover::{Answer, Effect, Observation, Row, TABLE, phase_of, render};
pub use way_back::way_back_until;

use image::Fitness;

use crate::{
    api::{DesiredPhase, Finding, Outcome, Phase, Reason, Side, Step},
    observe::Snapshot,
};

/// How long nothing is done when clients were just released: they log in anew now, and need the servers for that.
const RELEASED: Duration = Duration::from_millis(400);
/// How often a resource is looked at while a person must act.
const HALTED_RECHECK: Duration = Duration::from_secs(5);

impl Decision {
    /// The effect that is done or the step that is entered, for logs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Advance(advance) => advance.to.as_str(),
            Self::Act {
                effect: Some(effect), ..
            } => effect.as_str(),
            Self::Act { effect: None, .. } => "Act",
            Self::Wait { .. } => "Wait",
            Self::Halt { .. } => "Halt",
        }
    }

    /// Whether it does or waits for nothing but the marker by which lag is judged.
    fn is_about_marker(&self) -> bool {
        match self {
            Self::Act { actions, .. } => matches!(actions.as_slice(), [Action::WriteMarker { .. }]),
            Self::Wait { told, .. } => told.message == replicate::MARKER_ON_ITS_WAY,
            Self::Advance(_) | Self::Halt { .. } => false,
        }
    }

    /// The same, telling something else.
    fn with(mut self, other: Told) -> Self {
        match &mut self {
            Self::Act { told, .. } | Self::Wait { told, .. } | Self::Halt { told } => *told = other,
            Self::Advance(_) => {}
        }
        self
    }

    /// When to look again at the latest; at once after an action or a step.
    #[must_use]
    pub const fn recheck(&self) -> Duration {
        match self {
            Self::Advance(advance) if matches!(advance.to, Step::Follow | Step::Aborted) => RELEASED,
            Self::Advance(_) | Self::Act { .. } => Duration::ZERO,
            Self::Wait { recheck, .. } => *recheck,
            Self::Halt { .. } => HALTED_RECHECK,
        }
    }
}

/// Decides what to do next. `agent_image` is the image for the agent beside HAProxy.
#[must_use]
pub fn decide(seen: &Snapshot, agent_image: &str) -> Decided {
    let mut findings = preflight::find(seen);
    findings.extend(slots::find_in_slots(seen));
    findings.extend(bypass::find_bypass(seen));
    findings.extend(poolers::find_in_poolers(seen));
    findings.extend(readers::find_in_readers(seen));
    findings.extend(proxies::find_in_proxies(seen));
    check::accept(&mut findings, &seen.migration.spec.acknowledged);
    let decision = decide_from(seen, agent_image, &findings);
    let no_way_back = match seen.primaries().as_slice() {
        [primary] if primary.side == Side::Target => way_back::find_way_back(seen, primary).err(),
        _ => None,
    };
    Decided {
        decision,
        findings,
        no_way_back,
    }
}

fn decide_from(seen: &Snapshot, agent_image: &str, findings: &[Finding]) -> Decision {
    let status = seen.migration.status.clone().unwrap_or_default();
    // What was begun comes first: an intent on record is an effect that may have happened.
    if let Some(running) = status.switchover.as_ref().filter(|record| !record.step.is_terminal()) {
        let decision = switchover::decide_switchover(seen, running);
        // A gate may stay closed for days.
        return match (&decision, running.step) {
            (Decision::Wait { told, .. }, Step::Gate) => {
                readers::decide_readers(seen, &running.old_primary, told).unwrap_or(decision)
            }
            _ => decision,
        };
    }
    if let Some(ended) = &status.switchover
        && let Some(decision) = poolers::decide_left_paused(seen, ended)
    {
        return decision;
    }
    if seen.migration.metadata.deletion_timestamp.is_some() {
        return ending::decide_ending(seen);
    }
    let phase = status.phase;
    let halt = |reason, message: String| Decision::Halt {
        told: Told::new(phase, reason, message),
    };
    if seen.migration.spec.suspend {
        return Decision::Wait {
            told: Told::new(phase, Reason::Suspended, "spec.suspend is set: nothing new is done"),
            recheck: Duration::from_secs(30),
        };
    }
    if let Err(message) = validate::validate(&seen.migration) {
        return halt(Reason::InvalidSpec, message);
    }
    if let Err(message) = &seen.secrets {
        return halt(Reason::SecretUnusable, message.clone());
    }
    if let Some((first, second)) = seen.rivals() {
        return halt(
            Reason::NeedsAttention,
            format!(
                "{} and {} both accept writes: stop the one that is not meant to be primary, nothing is done until then",
                first.name, second.name
            ),
        );
    }
    // The target's member that the last switchover left as primary; nothing while the source is.
    let promoted = status
        .switchover
        .as_ref()
        .and_then(|record| match (record.to, record.step) {
            (Side::Target, Step::Done) => Some(record.new_primary.as_str()),
            (Side::Source, Step::Aborted) => Some(record.old_primary.as_str()),
            _ => None,
        });
    if let Some(promoted) = promoted {
        return switched::decide_switched(seen, promoted, agent_image);
    }
    if let Some(primary) = seen.primaries().into_iter().find(|member| member.side == Side::Target) {
        return switched::decide_found_switched(seen, primary, agent_image);
    }
    if status.system_identifier.is_none() {
        if let Some(decision) = preflight::decide_preflight(seen, findings) {
            return decision;
        }
        if seen.migration.spec.phase == DesiredPhase::Planned {
            return Decision::Wait {
                told: Told::new(
                    Phase::Planned,
                    Reason::PreflightPassed,
                    "preflight passes; set spec.phase to Replicating to clone the target",
                ),
                recheck: Duration::from_secs(15),
            };
        }
    }
    decide_at_source(seen, agent_image, findings)
}

/// The source is primary: the target is brought to follow it, and the switchover begins when that is asked for.
fn decide_at_source(seen: &Snapshot, agent_image: &str, findings: &[Finding]) -> Decision {
    let home = switchover::home_phase(seen);
    let desired = seen.migration.spec.phase;
    let completes = desired == DesiredPhase::Completed && home == Phase::RolledBack;
    if let Some(primary) = seen.primaries().into_iter().find(|_| completes)
        && let Some(decision) = way_back::decide_completion(seen, primary)
    {
        return match &decision {
            Decision::Wait { told, .. } => {
                readers::decide_readers(seen, primary.name.as_str(), told).unwrap_or(decision)
            }
            _ => decision,
        };
    }
    let goes_there = matches!(desired, DesiredPhase::Replicating | DesiredPhase::Switched);
    let fitness = if goes_there {
        image::judge_fitness(seen, findings)
    } else {
        Fitness::Fit
    };
    let unfit = |finding: &Finding| {
        let message = format!(
            "the target must not become primary as it is: {}: {}",
            finding.message, finding.remedy
        );
        Told::new(home, Reason::PreflightFailed, message)
    };
    let pair = match (replicate::decide_replicate(seen, agent_image), &fitness) {
        (Ok(pair), _) => pair,
        // The marker goes on, and says nothing else meanwhile.
        (Err(decision), Fitness::Unfit(finding)) if decision.is_about_marker() => return decision.with(unfit(finding)),
        (Err(decision), _) => return decision,
    };
    if desired == DesiredPhase::Replicating
        && let Some(decision) = rehearsal::decide_rehearsal(seen)
    {
        return decision;
    }
    let rest = |message: String| Decision::Wait {
        told: Told::new(home, Reason::Synchronized, message),
        recheck: Duration::from_secs(2),
    };
    match fitness {
        Fitness::Unfit(finding) => return Decision::Halt { told: unfit(finding) },
        Fitness::Uncompared(probe) => {
            return Decision::Act {
                actions: vec![probe],
                effect: None,
                told: Told::new(
                    home,
                    Reason::Synchronized,
                    "the target's image is compared with what the source uses by now",
                ),
            };
        }
        Fitness::Unknown(what) if desired == DesiredPhase::Switched => {
            return Decision::Wait {
                told: Told::new(home, Reason::Synchronized, format!("before the switchover, {what}")),
                recheck: Duration::from_millis(500),
            };
        }
        Fitness::Unknown(_) | Fitness::Fit => {}
    }
    match (desired, home) {
        (DesiredPhase::Switched, _) => begin_unless_consumed(seen, &pair),
        (DesiredPhase::RolledBack | DesiredPhase::Completed, Phase::RolledBack) => rest(format!(
            "{} is primary again and {} follows it; set spec.phase to Switched to switch over anew, or to Completed",
            pair.primary, pair.follower
        )),
        (DesiredPhase::RolledBack | DesiredPhase::Completed, _) => Decision::Halt {
            told: Told::new(
                home,
                Reason::OutOfOrder,
                format!(
                    "spec.phase is {}, but nothing was switched yet: set it to Replicating or Switched",
                    desired.as_str()
                ),
            ),
        },
        (DesiredPhase::Planned | DesiredPhase::Replicating, _) => rest(format!(
            "{} follows {} and replayed the last marker; set spec.phase to Switched to switch over",
            pair.follower, pair.primary
        )),
    }
}

/// Begins a switchover, unless one with this number was undone: then a person must have looked first, and what an attempt leaves behind must
/// be told apart from another's by its number.
fn begin_unless_consumed(seen: &Snapshot, pair: &replicate::Synchronized) -> Decision {
    let attempt = seen.migration.spec.switchover.attempt;
    let status = seen.migration.status.as_ref();
    let mut undone = status
        .iter()
        .flat_map(|status| &status.attempts)
        .filter(|ended| ended.attempt == attempt && ended.outcome == Outcome::Aborted);
    match undone.next() {
        Some(undone) => Decision::Wait {
            told: Told::new(
                switchover::home_phase(seen),
                Reason::AttemptConsumed,
                format!(
                    "attempt {attempt} was undone: {}; raise spec.switchover.attempt to try again",
                    undone.message
                ),
            ),
            recheck: Duration::from_secs(2),
        },
        None => switchover::begin(seen, pair),
    }
}
