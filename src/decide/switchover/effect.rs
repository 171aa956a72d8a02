//! What a switchover does to the world, by name. The names are those of the table, of the logs and of the crash tests.

/// One effect of a switchover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Long transactions are ended where that is asked for.
    EndTransactions,
    /// Slot for the old primary, checkpoints and canary, before clients notice anything.
    Prepare,
    /// PgBouncer lets its clients wait once their transactions have ended.
    Pause,
    /// HAProxy holds clients.
    Hold,
    /// The old primary will come back as a standby.
    Arm,
    /// The old primary is stopped cleanly.
    Stop,
    /// The member that is promoted writes down what it replayed.
    ShowReplayed,
    /// The point of no return.
    Promote,
    /// HAProxy leads to the new primary.
    TurnOver,
    /// PgBouncer lets its clients go on.
    Resume,
    /// A row written on the new primary shows that writes are taken again.
    Confirm,
    /// Pods are labelled with their roles.
    Label,
    /// Statistics are renewed, the old slot is dropped.
    Finish,
    /// The old primary is promoted again.
    Reinstate,
    /// The old primary will come back as primary.
    Disarm,
    /// HAProxy leads to the old primary again.
    TurnBack,
}

impl Effect {
    /// Every effect.
    pub const ALL: [Self; 16] = [
        Self::EndTransactions,
        Self::Prepare,
        Self::Pause,
        Self::Hold,
        Self::Arm,
        Self::Stop,
        Self::ShowReplayed,
        Self::Promote,
        Self::TurnOver,
        Self::Resume,
        Self::Confirm,
        Self::Label,
        Self::Finish,
        Self::Reinstate,
        Self::Disarm,
        Self::TurnBack,
    ];

    /// The name in logs and tests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EndTransactions => "EndTransactions",
            Self::Prepare => "Prepare",
            Self::Pause => "Pause",
            Self::Hold => "Hold",
            Self::Arm => "Arm",
            Self::Stop => "Stop",
            Self::ShowReplayed => "ShowReplayed",
            Self::Promote => "Promote",
            Self::TurnOver => "TurnOver",
            Self::Resume => "Resume",
            Self::Confirm => "Confirm",
            Self::Label => "Label",
            Self::Finish => "Finish",
            Self::Reinstate => "Reinstate",
            Self::Disarm => "Disarm",
            Self::TurnBack => "TurnBack",
        }
    }
}
