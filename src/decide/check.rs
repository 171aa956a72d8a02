//! The checks of the plan: what each looks at, and what its finding means.

use std::fmt::Write as _;

use crate::{
    api::{Finding, Severity},
    observe::Member,
};

/// A check of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // The names are those of the page.
pub enum Check {
    MemberReachable,
    MemberLogin,
    OnePrimary,
    SameCluster,
    VersionSupported,
    Superuser,
    WalLevel,
    FullPageWrites,
    Tablespaces,
    RecoveryTarget,
    StandbySignal,
    StorageSize,
    Parity,
    CloneSource,
    FreeSlots,
    WayBack,
    TargetImage,
    TargetVersion,
    Platform,
    CollationVersion,
    Locale,
    Compression,
    ExtensionMissing,
    ExtensionVersion,
    TimeZone,
    UnknownParameter,
    ImageNotCompared,
    CollationStale,
    UnloggedTables,
    LogicalSlots,
    Subscriptions,
    PreparedTransactions,
    NoRewind,
    Archiving,
    SlotUnbounded,
    SlotAtRisk,
    Clock,
    SynchronousReplication,
    SupervisedServer,
    Bypass,
    Pgbouncer,
    Readers,
    Haproxy,
    HaproxyWithoutAgent,
}

/// What is known of a check.
struct Facts {
    check: Check,
    id: &'static str,
    severity: Severity,
    /// Whether its findings can be accepted in `spec.acknowledged`.
    can_be_accepted: bool,
    looks_at: &'static str,
}

/// Every check, in the order of their declaration and of the page.
const CHECKS: [Facts; 44] = [
    Facts {
        check: Check::MemberReachable,
        id: "member-reachable",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "Each server of the source answers on its host and port.",
    },
    Facts {
        check: Check::MemberLogin,
        id: "member-login",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "Each lets the login of `spec.source.credentials` in, and proves itself as `spec.source.tls` asks.",
    },
    Facts {
        check: Check::OnePrimary,
        id: "one-primary",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "One server of the source is primary.",
    },
    Facts {
        check: Check::SameCluster,
        id: "same-cluster",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "All have one system identifier.",
    },
    Facts {
        check: Check::VersionSupported,
        id: "version-supported",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "The source runs PostgreSQL 14 to 18.",
    },
    Facts {
        check: Check::Superuser,
        id: "superuser",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "The login is a superuser.",
    },
    Facts {
        check: Check::WalLevel,
        id: "wal-level",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "`wal_level` and `max_wal_senders` allow replication.",
    },
    Facts {
        check: Check::FullPageWrites,
        id: "full-page-writes",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "`full_page_writes` is on, which a base backup of a standby needs.",
    },
    Facts {
        check: Check::Tablespaces,
        id: "tablespaces",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "No tablespace lies outside of the data directory.",
    },
    Facts {
        check: Check::RecoveryTarget,
        id: "recovery-target",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "No parameter is left from a restore that would stop a standby or promote it.",
    },
    Facts {
        check: Check::StandbySignal,
        id: "standby-signal",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "The primary has no `standby.signal`, which a restart would obey.",
    },
    Facts {
        check: Check::StorageSize,
        id: "storage-size",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "`spec.target.storage.size` holds the databases, 20 % for growth and 512Mi for WAL.",
    },
    Facts {
        check: Check::Parity,
        id: "parity",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "The target's settings that a standby needs as high as its primary's are, and `parameters` does not lower them.",
    },
    Facts {
        check: Check::CloneSource,
        id: "clone-source",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "There is a server to clone from.",
    },
    Facts {
        check: Check::FreeSlots,
        id: "free-slots",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "It has a replication slot and two walsenders to spare.",
    },
    Facts {
        check: Check::WayBack,
        id: "way-back",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "The source's servers would find the target's leader after the switch.",
    },
    Facts {
        check: Check::TargetImage,
        id: "target-image",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "`spec.target.image` starts and has PostgreSQL's programs.",
    },
    Facts {
        check: Check::TargetVersion,
        id: "target-version",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "It holds the source's major version.",
    },
    Facts {
        check: Check::Platform,
        id: "platform",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "It is for the source's processor, and built with the same sizes of blocks and segments.",
    },
    Facts {
        check: Check::CollationVersion,
        id: "collation-version",
        severity: Severity::Block,
        can_be_accepted: true,
        looks_at: "The libraries by which indexes of the source are sorted, of C and ICU, sort alike in the image: they have the same version there. Where they do not, an index \
             whose order differs finds rows no more and lets duplicates in.",
    },
    Facts {
        check: Check::Locale,
        id: "locale",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "The image has the locales of every database, without which nobody can connect to it, and every collation that an index uses.",
    },
    Facts {
        check: Check::Compression,
        id: "compression",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "The source's version can compress base backups as `spec.seeding.compression` asks.",
    },
    Facts {
        check: Check::ExtensionMissing,
        id: "extension-missing",
        severity: Severity::Block,
        can_be_accepted: true,
        looks_at: "The image has every extension that a database has, and every library that a function or a setting names.",
    },
    Facts {
        check: Check::ExtensionVersion,
        id: "extension-version",
        severity: Severity::Warn,
        can_be_accepted: true,
        looks_at: "It has them in the version that the databases have.",
    },
    Facts {
        check: Check::TimeZone,
        id: "time-zone",
        severity: Severity::Block,
        can_be_accepted: true,
        looks_at: "It knows the time zones that settings name.",
    },
    Facts {
        check: Check::UnknownParameter,
        id: "unknown-parameter",
        severity: Severity::Block,
        can_be_accepted: false,
        looks_at: "It knows every parameter of `spec.target.postgresql.parameters`.",
    },
    Facts {
        check: Check::ImageNotCompared,
        id: "image-not-compared",
        severity: Severity::Block,
        can_be_accepted: true,
        looks_at: "What the source uses could be read, so that the image could be compared with it.",
    },
    Facts {
        check: Check::CollationStale,
        id: "collation-stale",
        severity: Severity::Warn,
        can_be_accepted: true,
        looks_at: "The source's own indexes were built with the rules by which its libraries sort today.",
    },
    Facts {
        check: Check::UnloggedTables,
        id: "unlogged-tables",
        severity: Severity::Warn,
        can_be_accepted: true,
        looks_at: "No table is unlogged: it would be empty after the switch.",
    },
    Facts {
        check: Check::LogicalSlots,
        id: "logical-slots",
        severity: Severity::Warn,
        can_be_accepted: true,
        looks_at: "There is no logical replication slot, which does not exist on the new primary.",
    },
    Facts {
        check: Check::Subscriptions,
        id: "subscriptions",
        severity: Severity::Warn,
        can_be_accepted: true,
        looks_at: "There is no subscription, which goes on from the new primary, from another address.",
    },
    Facts {
        check: Check::PreparedTransactions,
        id: "prepared-transactions",
        severity: Severity::Warn,
        can_be_accepted: true,
        looks_at: "There is no prepared transaction, which keeps the gate closed.",
    },
    Facts {
        check: Check::NoRewind,
        id: "no-rewind",
        severity: Severity::Warn,
        can_be_accepted: true,
        looks_at: "Data checksums or `wal_log_hints` are on: without, a side that diverged cannot be mended by pg_rewind.",
    },
    Facts {
        check: Check::Archiving,
        id: "archiving",
        severity: Severity::Warn,
        can_be_accepted: true,
        looks_at: "The source does not archive WAL: the target would not go on with that by itself.",
    },
    Facts {
        check: Check::SlotUnbounded,
        id: "slot-unbounded",
        severity: Severity::Warn,
        can_be_accepted: true,
        looks_at: "The server that the leader follows has a limit for the WAL that it keeps for a slot (`max_slot_wal_keep_size`): without, a target that stands \
                   still fills its disk.",
    },
    Facts {
        check: Check::SlotAtRisk,
        id: "slot-at-risk",
        severity: Severity::Warn,
        can_be_accepted: false,
        looks_at: "Every slot of the migration has the WAL that its standby still needs, and is far from that limit.",
    },
    Facts {
        check: Check::Clock,
        id: "clock",
        severity: Severity::Warn,
        can_be_accepted: true,
        looks_at: "The servers' clocks agree to five seconds.",
    },
    Facts {
        check: Check::SynchronousReplication,
        id: "synchronous-replication",
        severity: Severity::Warn,
        can_be_accepted: true,
        looks_at: "The source does not commit synchronously, since the target will not.",
    },
    Facts {
        check: Check::SupervisedServer,
        id: "supervised-server",
        severity: Severity::Warn,
        can_be_accepted: true,
        looks_at: "A server that stops from inside is not ended for good by what supervises it.",
    },
    Facts {
        check: Check::Bypass,
        id: "bypass",
        severity: Severity::Warn,
        can_be_accepted: true,
        looks_at: "Every session on the primary came through HAProxy.",
    },
    Facts {
        check: Check::Pgbouncer,
        id: "pgbouncer",
        severity: Severity::Warn,
        can_be_accepted: true,
        looks_at: "PgBouncer can be paused without failing statements.",
    },
    Facts {
        check: Check::Readers,
        id: "readers",
        severity: Severity::Warn,
        can_be_accepted: true,
        looks_at: "Every standby serves readers.",
    },
    Facts {
        check: Check::Haproxy,
        id: "haproxy",
        severity: Severity::Warn,
        can_be_accepted: true,
        looks_at: "HAProxy pods of your own are put together so that they can be led, and run what they should.",
    },
    Facts {
        check: Check::HaproxyWithoutAgent,
        id: "haproxy-without-agent",
        severity: Severity::Inform,
        can_be_accepted: false,
        looks_at: "What it costs that HAProxy pods have no agent.",
    },
];

impl Check {
    /// Every check, in the order of the page.
    pub fn all() -> impl Iterator<Item = Self> {
        CHECKS.iter().map(|facts| facts.check)
    }

    const fn facts(self) -> &'static Facts {
        &CHECKS[self as usize]
    }

    /// Its identity in `status.plan.findings` and `spec.acknowledged`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.facts().id
    }

    /// Whether its findings can be accepted in `spec.acknowledged`.
    #[must_use]
    pub const fn can_be_accepted(self) -> bool {
        self.facts().can_be_accepted
    }

    /// Whether with its finding the copy must not become primary, also where it is found late.
    pub(super) const fn spoils_the_copy(self) -> bool {
        matches!(
            self,
            Self::TargetImage | Self::CollationVersion | Self::Locale | Self::ExtensionMissing | Self::ImageNotCompared
        )
    }

    /// The check of an identity.
    #[must_use]
    pub fn find(id: &str) -> Option<Self> {
        Self::all().find(|check| check.as_str() == id)
    }

    /// What it found: of which member, what that is, and what cures it.
    pub(super) fn finding(
        self,
        member: Option<&Member>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding {
            check: self.as_str().to_owned(),
            severity: self.facts().severity,
            member: member.map(|member| member.name.to_string()),
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

/// Findings as they count: what was accepted is worth knowing only.
pub(super) fn accept(findings: &mut [Finding], acknowledged: &[String]) {
    for finding in findings
        .iter_mut()
        .filter(|finding| acknowledged.contains(&finding.check))
    {
        if Check::find(&finding.check).is_some_and(Check::can_be_accepted) {
            finding.severity = Severity::Inform;
        }
    }
}

/// The page of the checks.
#[must_use]
pub fn render_checks() -> String {
    let mut page = "\
# Checks

What the plan looks at before anything is made, and while it is of use after that. Each finding in `status.plan.findings` names its check, the member, \
what was found and what cures it. `Block` keeps the migration from going on, `Warn` is worth a change, `Inform` is the price of what was asked for.

Findings of the checks that are marked can be accepted: name the check in `spec.acknowledged`, and they are `Inform`.

    spec:
      acknowledged: [unlogged-tables]

This page is printed from the code (`make docs`).

| check | severity | can be accepted | what is so where there is no finding |
|---|---|---|---|
"
    .to_owned();
    for Facts {
        id,
        severity,
        can_be_accepted,
        looks_at,
        ..
    } in &CHECKS
    {
        let accepted = if *can_be_accepted { "yes" } else { "" };
        writeln!(page, "| `{id}` | {severity:?} | {accepted} | {looks_at} |").expect("a String takes every write");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_docs_is_the_list() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/checks.md");
        if std::env::var_os("MITOSIS_WRITE_DOCS").is_some() {
            std::fs::write(page, render_checks()).unwrap();
        }
        assert_eq!(
            std::fs::read_to_string(page).unwrap_or_default(),
            render_checks(),
            "run `make docs`"
        );
    }

    #[test]
    fn each_check_has_its_own_line_and_identity() {
        for (index, facts) in CHECKS.iter().enumerate() {
            assert_eq!(facts.check as usize, index, "{}", facts.id);
            assert_eq!(Check::find(facts.id), Some(facts.check));
        }
    }

    #[test]
    fn what_was_accepted_is_worth_knowing_only_and_what_cannot_be_stays() {
        let mut findings = [Check::UnloggedTables, Check::CollationVersion, Check::WalLevel]
            .map(|check| check.finding(None, "found", "cure"));
        let severities = |findings: &[Finding]| findings.iter().map(|finding| finding.severity).collect::<Vec<_>>();
        accept(&mut findings, &["collation-version".to_owned(), "wal-level".to_owned()]);
        assert_eq!(
            severities(&findings),
            [Severity::Warn, Severity::Inform, Severity::Block]
        );
    }
}
