//! Decide: pure and synchronous. A [`Snapshot`] in, a [`Decision`] out; no client, no runtime, no clock.

mod decision;
mod ending;
mod gate;
mod members;
mod preflight;
mod replicate;
mod routing;
mod switched;
mod switchover;
mod transitions;
mod validate;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::time::Duration;

pub use decision::{Action, Advance, Decided, Decision, Told};
pub use transitions::{TRANSITIONS, Transition};

use crate::{
    api::{DesiredPhase, Outcome, Phase, Reason, Side, Step},
    observe::Snapshot,
};

/// How often a resource is looked at while a person must act.
const HALTED_RECHECK: Duration = Duration::from_secs(5);

impl Decision {
    /// When to look again at the latest; at once after an action or a step.
    #[must_use]
    pub const fn recheck(&self) -> Duration {
        match self {
            Self::Advance(_) | Self::Act { .. } => Duration::ZERO,
            Self::Wait { recheck, .. } => *recheck,
            Self::Halt { .. } => HALTED_RECHECK,
        }
    }
}

/// Decides what to do next. `agent_image` is the image for the agent beside HAProxy.
#[must_use]
pub fn decide(seen: &Snapshot, agent_image: &str) -> Decided {
    let findings = preflight::find(seen);
    let decision = decide_from(seen, agent_image, &findings);
    Decided { decision, findings }
}

fn decide_from(seen: &Snapshot, agent_image: &str, findings: &[crate::api::Finding]) -> Decision {
    let status = seen.migration.status.clone().unwrap_or_default();
    // What was begun comes first: an intent on record is an effect that may have happened.
    if let Some(running) = status.switchover.as_ref().filter(|record| !record.step.is_terminal()) {
        return switchover::decide_switchover(seen, running);
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
    if status
        .switchover
        .as_ref()
        .is_some_and(|record| record.step == Step::Done)
    {
        return switched::decide_switched(seen, agent_image);
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
    match replicate::decide_replicate(seen, agent_image) {
        Ok(synchronized) if seen.migration.spec.phase == DesiredPhase::Switched => {
            let attempt = seen.migration.spec.switchover.attempt;
            let undone = status
                .attempts
                .iter()
                .find(|ended| ended.attempt == attempt && ended.outcome == Outcome::Aborted);
            match undone {
                Some(ended) => Decision::Wait {
                    told: Told::new(
                        Phase::Replicating,
                        Reason::AttemptConsumed,
                        format!(
                            "attempt {attempt} was undone: {}; raise spec.switchover.attempt to try again",
                            ended.message
                        ),
                    ),
                    recheck: Duration::from_secs(2),
                },
                None => switchover::begin(seen, &synchronized),
            }
        }
        Ok(synchronized) => Decision::Wait {
            told: Told::new(
                Phase::Replicating,
                Reason::Synchronized,
                format!(
                    "{} follows {} and replayed the last marker; set spec.phase to Switched to switch over",
                    synchronized.leader, synchronized.primary
                ),
            ),
            recheck: Duration::from_secs(2),
        },
        Err(decision) => decision,
    }
}
