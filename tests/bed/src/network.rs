//! The network of the pods: a bridge on the host, whose address is the node's.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::command::{bounded, run};

/// Name of the node.
pub(crate) const NODE: &str = "node1";
/// Address of the node on the pods' bridge: API server, DNS and node ports are reached at it.
pub const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 244, 0, 1));
/// Address of the Service `kubernetes`.
pub(crate) const API_SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));
/// Addresses of pods. What leaves them for anywhere else comes from the node's address there.
pub const PODS: &str = "10.244.0.0/16";
/// Addresses of Services.
pub const SERVICES: &str = "10.96.0.0/16";
/// Name of the pods' network, and so of the files which plugins keep about it.
pub(crate) const POD_NETWORK: &str = "mitosis_bed";
/// The pods' bridge.
pub(crate) const BRIDGE: &str = "cni0";

#[derive(Deserialize)]
struct Link {
    ifname: String,
}

#[derive(Deserialize)]
struct Namespace {
    name: String,
}

/// Makes the bridge, before anything binds to its address, and lets the host forward.
pub(crate) fn make() -> Result<()> {
    if !exists() {
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
    }
    ip(&["address", "replace", &format!("{GATEWAY}/16"), "dev", BRIDGE])?;
    ip(&["link", "set", BRIDGE, "up"])?;
    // Without the second, answers between pods of the bridge would pass by the translation of Service addresses.
    for setting in ["ipv4/ip_forward", "bridge/bridge-nf-call-iptables"] {
        let file = Path::new("/proc/sys/net").join(setting);
        fs::write(&file, "1")
            .with_context(|| format!("cannot set {}: load the kernel module br_netfilter", file.display()))?;
    }
    Ok(())
}

/// Whether the bridge is there.
pub(crate) fn exists() -> bool {
    Path::new("/sys/class/net").join(BRIDGE).exists()
}

/// Removes the bridge, what is attached to it, and the pods' network namespaces.
pub(crate) fn remove() -> Result<()> {
    if exists() {
        for link in list::<Link>(&["link", "show", "master", BRIDGE])? {
            // The other end may go away first and take this one with it.
            ip(&["link", "delete", &link.ifname]).ok();
        }
        ip(&["link", "delete", BRIDGE])?;
    }
    for namespace in list::<Namespace>(&["netns", "list"])? {
        if namespace.name.starts_with("cni-") {
            ip(&["netns", "delete", &namespace.name])?;
        }
    }
    Ok(())
}

fn list<T: for<'de> Deserialize<'de>>(arguments: &[&str]) -> Result<Vec<T>> {
    let output = ip(&[&["-json"], arguments].concat())?;
    // Nothing at all is written for an empty list of namespaces.
    if output.trim().is_empty() {
        return Ok(Vec::new());
    }
    Ok(serde_json::from_str(&output)?)
}

fn ip(arguments: &[&str]) -> Result<String> {
    run(bounded("ip", Duration::from_secs(10)).args(arguments))
}
