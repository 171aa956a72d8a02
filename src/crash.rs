//! Points at which the crash tests end or freeze the operator. Compiled in by the feature `crash-points` only; otherwise nothing happens.
//!
//! `FAILPOINTS="before-Arm=return(abort)"` in the environment ends the process there, `return(freeze)` stops it until SIGCONT.

/// When a point is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Right before.
    Before,
    /// Right after, before anything else is known of it.
    After,
}

impl Moment {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Before, Self::After];

    /// The name of the point at this moment of an effect or of the record of a step.
    #[must_use]
    pub fn of(self, what: &str) -> String {
        match self {
            Self::Before => format!("before-{what}"),
            Self::After => format!("after-{what}"),
        }
    }
}

/// Comes to a point.
#[cfg(not(feature = "crash-points"))]
pub const fn reach(_: Moment, _: &str) {}

/// Comes to a point.
#[cfg(feature = "crash-points")]
pub fn reach(moment: Moment, what: &str) {
    let name = moment.of(what);
    fail::fail_point!(&name, |order: Option<String>| {
        if order.as_deref() == Some("freeze") {
            tracing::warn!(point = name, "frozen by a test");
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
        } else {
            tracing::warn!(point = name, "ended by a test");
            std::process::abort()
        }
    });
}
