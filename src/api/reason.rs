//! The one closed list of reasons, shared by conditions, Events and metric labels.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Why a condition has its status, an Event was sent, or a reconcile waits.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason, for documentation and for metrics that start at zero.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The reason as it is written to conditions, Events and labels.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

reasons! {
    /// The specification holds a value that no rule of the API server can refuse, but PostgreSQL or HAProxy would.
    InvalidSpec,
    /// A Secret that the specification names is missing, unreadable or lacks a key.
    SecretUnusable,
    /// A member does not answer.
    MemberUnreachable,
    /// A member refuses the credentials or the TLS handshake fails.
    LoginRefused,
    /// At least one check of the preflight blocks.
    PreflightFailed,
    /// Every check of the preflight passes.
    PreflightPassed,
    /// The preflight waits for a probe.
    Probing,
    /// Objects of the migration are being created.
    Preparing,
    /// A target member is being cloned.
    Seeding,
    /// A base backup did not succeed.
    SeedingFailed,
    /// A cloned member starts or begins to follow its upstream.
    Starting,
    /// All target members follow and the marker was replayed.
    Synchronized,
    /// The target replays, but a marker written on the primary has not arrived in time.
    Lagging,
    /// A replication link is broken.
    LinkBroken,
    /// The switchover may start when `spec.phase` says so.
    ReadyToSwitch,
    /// Something forbids to start the switchover now; it is tried again.
    GateClosed,
    /// The switchover is under way.
    Switching,
    /// The switchover was undone before promotion; the source is writable again.
    Aborted,
    /// The attempt ended; a new one needs a new `spec.switchover.attempt`.
    AttemptConsumed,
    /// The old primary was shut down and its last record was replayed on the leader.
    Proven,
    /// The leader was promoted.
    Promoted,
    /// Every HAProxy pod answers with the wanted generation.
    RoutingVerified,
    /// HAProxy pods do not all answer with the wanted generation yet.
    RoutingPending,
    /// Nobody but the operator wrote the routing lately.
    RoutingOwned,
    /// Somebody else changed the routing; it was put right.
    RoutingDrift,
    /// The old side follows the new primary.
    OldSideFollows,
    /// The old side does not follow the new primary (yet).
    OldSideBehind,
    /// A member of the old side holds WAL that the new primary does not have; it is never used as it is.
    Diverged,
    /// The way back is there, and is given up before long: the last tenth of `spec.rollback.keep`, at most a day, has begun.
    EndsSoon,
    /// The time of `spec.rollback.keep` is over and the way back was given up.
    Expired,
    /// `spec.phase` asks for something that cannot follow from where the migration is.
    OutOfOrder,
    /// The migration is where `spec.phase` wants it.
    Done,
    /// The restart of a source server is being rehearsed on a standby.
    Rehearsing,
    /// A member that diverged is being mended with pg_rewind.
    Rewinding,
    /// `spec.suspend` is set.
    Suspended,
    /// A person must act; the message says on what.
    NeedsAttention,
    /// Nothing was observed for this yet.
    NotYet,
    /// The resource is being deleted.
    Ending,
    /// The API server, a database or a proxy gave an error; it is tried again.
    Retrying,
}
