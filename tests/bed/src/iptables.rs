//! Removing the packet filter rules that Kubernetes and the pods' network have made.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;

use crate::command::{bounded, run, run_with_input};

const LIMIT: Duration = Duration::from_secs(30);

/// Removes the chains of kubelet, kube-proxy and the network plugins, and the rules that lead to them; leaves everything else.
pub(crate) fn remove() -> Result<()> {
    for family in ["iptables", "ip6tables"] {
        let rules = run(&mut bounded(format!("{family}-save"), LIMIT))?;
        let removal = removal(&rules);
        if !removal.is_empty() {
            run_with_input(bounded(format!("{family}-restore"), LIMIT).arg("--noflush"), &removal)?;
        }
    }
    Ok(())
}

fn is_ours(chain: &str) -> bool {
    chain.starts_with("KUBE-") || chain.starts_with("CNI-")
}

/// What to feed to `iptables-restore --noflush`, from the output of `iptables-save`.
fn removal(rules: &str) -> String {
    let mut script = String::new();
    for table in rules.split_inclusive("COMMIT\n") {
        let mut name = "";
        let mut chains = Vec::new();
        let mut leading = Vec::new();
        for line in table.lines() {
            if let Some(table) = line.strip_prefix('*') {
                name = table;
            } else if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
                chains.extend(is_ours(chain).then_some(chain));
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let words: Vec<&str> = rule.split(' ').collect();
                let leads_to_ours = words
                    .windows(2)
                    .any(|pair| matches!(pair, ["-j" | "-g", chain] if is_ours(chain)));
                leading.extend((leads_to_ours && !is_ours(words[0])).then_some(rule));
            }
        }
        if chains.is_empty() {
            continue;
        }
        let _ = writeln!(script, "*{name}");
        for rule in leading {
            let _ = writeln!(script, "-D {rule}");
        }
        for flag in ["-F", "-X"] {
            for chain in &chains {
                let _ = writeln!(script, "{flag} {chain}");
            }
        }
        script.push_str("COMMIT\n");
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_chains_and_what_leads_to_them_go() {
        let rules = "# saved\n*nat\n:OUTPUT ACCEPT [0:0]\n:MINE - [0:0]\n:KUBE-SERVICES - [0:0]\n:CNI-1 - [0:0]\n\
            -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n-A OUTPUT -j MINE\n\
            -A KUBE-SERVICES -j CNI-1\nCOMMIT\n*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n";
        assert_eq!(
            removal(rules),
            "*nat\n-D OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -F KUBE-SERVICES\n-F CNI-1\n-X KUBE-SERVICES\n-X CNI-1\nCOMMIT\n"
        );
    }
}
