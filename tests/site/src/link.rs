//! The link between the sites, and what can be done to it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::command::run;
use crate::delay;
use crate::network::{DEADLINE, LINK_DEVICE, WAN_LINK_DEVICE, WAN_NAMESPACE, iptables};
use crate::state::State;

/// Packets of a veth pair are up to 64 KiB, and a bucket has to hold at least one.
const SMALLEST_BUCKET_BYTES: u64 = 65_536;
/// The bucket holds what passes in a hundredth of a second.
const BUCKETS_PER_SECOND: u64 = 100;
/// How long a packet may queue before it is dropped.
const QUEUE: &str = "50ms";

/// Where packets are dropped while the link is cut. Raw and mangle come before connection tracking and after everything else, so no
/// answer and no reset is ever sent.
const CUTS: [[&str; 4]; 2] = [
    ["raw", "PREROUTING", "--in-interface", WAN_LINK_DEVICE],
    ["mangle", "POSTROUTING", "--out-interface", WAN_LINK_DEVICE],
];

/// One way over the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the host into the site.
    ToSite,
    /// From the site to the host.
    FromSite,
}

/// The link that joins the site with the host. Each fault stays until it is taken back, also when the caller ends.
#[derive(Debug, Clone)]
pub struct Link {
    pub(crate) state: State,
    pub(crate) toxiproxy: Option<PathBuf>,
}

impl Link {
    /// Limits the bandwidth to `bits_per_second` in each direction; replaces an earlier limit.
    pub fn throttle(&self, bits_per_second: u64) -> Result<()> {
        let bucket = SMALLEST_BUCKET_BYTES.max(bits_per_second / 8 / BUCKETS_PER_SECOND);
        let (rate, bucket) = (format!("{bits_per_second}bit"), format!("{bucket}b"));
        traffic_control(
            &["replace"],
            &["root", "tbf", "rate", &rate, "burst", &bucket, "latency", QUEUE],
        )
    }

    /// Takes the limit of the bandwidth back.
    pub fn unthrottle(&self) -> Result<()> {
        // Replacing first makes the deletion succeed also where no limit is set.
        traffic_control(&["replace"], &["root", "pfifo"])?;
        traffic_control(&["delete"], &["root"])
    }

    /// Drops every packet from now on, in both directions and without a reset; connections see silence.
    pub fn cut(&self) -> Result<()> {
        self.heal()?;
        for [table, chain, direction, device] in CUTS {
            iptables(
                Some(WAN_NAMESPACE),
                ["--table", table, "--append", chain, direction, device, "--jump", "DROP"],
            )?;
        }
        Ok(())
    }

    /// Drops every packet of one direction from now on: what is sent arrives, and no answer comes back.
    pub fn cut_one_way(&self, direction: Direction) -> Result<()> {
        self.heal()?;
        let [to_site, from_site] = CUTS;
        let [table, chain, option, device] = match direction {
            Direction::ToSite => to_site,
            Direction::FromSite => from_site,
        };
        let rule = ["--table", table, "--append", chain, option, device, "--jump", "DROP"];
        iptables(Some(WAN_NAMESPACE), rule).map(drop)
    }

    /// Lets packets pass again; connections which neither side has given up go on.
    pub fn heal(&self) -> Result<()> {
        for [table, chain, _, _] in CUTS {
            iptables(Some(WAN_NAMESPACE), ["--table", table, "--flush", chain])?;
        }
        Ok(())
    }

    /// Delays what passes in each direction between the host and port 5432 of the site's servers, so that a round trip takes twice
    /// `one_way` longer. Applies to connections made from now on (a changed delay also to those made through the earlier one); they
    /// reach the server from the address of the site's gateway.
    ///
    /// # Errors
    /// If the site was not given the program of the toxiproxy server.
    pub fn delay(&self, one_way: Duration) -> Result<()> {
        delay::set(&self.state, self.toxiproxy.as_deref(), one_way)
    }

    /// New connections pass without delay; those made through it stay up and lose the delay too.
    pub fn undelay(&self) -> Result<()> {
        delay::clear(&self.state)
    }

    /// Takes all faults back.
    pub fn restore(&self) -> Result<()> {
        self.heal()?;
        self.unthrottle()?;
        self.undelay()
    }
}

/// Sets the queueing of both ends, since each end shapes what it sends.
fn traffic_control(action: &[&str], arguments: &[&str]) -> Result<()> {
    let far = ["-netns", WAN_NAMESPACE];
    for (namespace, device) in [([].as_slice(), LINK_DEVICE), (far.as_slice(), WAN_LINK_DEVICE)] {
        run(
            DEADLINE,
            "tc",
            namespace
                .iter()
                .chain(&["qdisc"])
                .chain(action)
                .chain(&["dev", device])
                .chain(arguments),
        )?;
    }
    Ok(())
}
