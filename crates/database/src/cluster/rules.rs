//! The rules that safety rests on, by name, so that the simulation can break one at a time and must notice.

/// A rule of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// A primary that can prove neither lease nor acknowledgement ends its writes.
    SelfFence,
    /// A primary that sees another epoch ends its writes.
    YieldToEpoch,
    /// A primary with waiting commits is fenced by SIGKILL alone.
    FenceByKill,
    /// A renewal counts from its sending.
    CountFromSending,
    /// Nobody opens while another has more.
    ComparePositions,
    /// All of the synchronous set revoke before anything is compared.
    RevokeAll,
    /// The relay log is applied before a promotion.
    DrainFirst,
    /// A primary that did not end cleanly starts as SLAVE where replicas vouch for its commits.
    StartAsSlave,
    /// A replica loses nothing by a start: it starts as MASTER, which commits all that its binary log has.
    StartReplicasWhole,
    /// Where nobody is proven to have everything, only the last primary leads.
    OnlyTheLastPrimary,
    /// A set is strict at the opening only if one of it has everything.
    ProveAtOpening,
    /// A set becomes strict only when one of it has everything.
    ProveBeforeStrict,
    /// Who leaves the set cannot acknowledge any more.
    ExcludeBeforeShrink,
    /// The set shrinks only when another of it has everything.
    ProveBeforeShrink,
    /// Who is not of the set does not acknowledge.
    OnlyMembersAcknowledge,
    /// Slave threads start only when the relay log is applied.
    RescueRelay,
    /// Data that is no part of history is not joined to it.
    CheckLineage,
    /// What an unanswered transaction may have done is settled before the next.
    SettleDoubt,
    /// Commits wait for acknowledgements before writes open.
    SemiSyncBeforeOpen,
}
