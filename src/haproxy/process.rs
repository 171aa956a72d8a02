//! The processes of HAProxy, as its master tells.

/// What `show proc` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Processes {
    /// How often the master has reloaded.
    pub reloads: u64,
    /// How many reloads in a row have failed.
    pub failed: u64,
    /// Workers of a former configuration that still serve sessions.
    pub old_workers: u32,
}

impl Processes {
    pub(super) fn parse(answer: &str) -> Option<Self> {
        let mut processes = None;
        let mut old = false;
        for line in answer.lines() {
            if line.starts_with('#') {
                old = line.starts_with("# old workers");
                continue;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [_, "master", reloads, "[failed:", failed, ..] => {
                    processes = Some(Self {
                        reloads: reloads.parse().ok()?,
                        failed: failed.trim_end_matches(']').parse().ok()?,
                        old_workers: 0,
                    });
                }
                [_, "worker", ..] if old => processes.as_mut()?.old_workers += 1,
                _ => {}
            }
        }
        processes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_workers_and_failures_are_counted() {
        let answer = "#<PID>          <type>          <reloads>       <uptime>        <version>
16121           master          2 [failed: 1]   0d00h00m00s     2.6.12-1+deb12u4
# workers
16182           worker          0               0d00h00m00s     2.6.12-1+deb12u4
# old workers
16124           worker          1               0d00h00m00s     2.6.12-1+deb12u4
# programs

";
        let processes = Processes {
            reloads: 2,
            failed: 1,
            old_workers: 1,
        };
        assert_eq!(Processes::parse(answer), Some(processes));
        assert_eq!(Processes::parse("Unknown command"), None);
    }
}
