//! Waiting for a condition, with a deadline.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

const INTERVAL: Duration = Duration::from_millis(100);

/// Asks `condition` ten times a second until it holds.
///
/// Errors: the condition does not hold within `limit` (the message says that `what` was waited for and gives `advice`), or asking fails.
pub fn until(what: &str, limit: Duration, advice: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        if condition().with_context(|| format!("while waiting for {what}"))? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("{what} is missing after {} s; {advice}", limit.as_secs());
        }
        thread::sleep(INTERVAL);
    }
}

/// Whether an HTTP server (without TLS) answers `GET path` with status 200 within two seconds.
#[must_use]
pub fn http_ok(address: SocketAddr, path: &str) -> bool {
    status_line(address, path).is_ok_and(|line| line.contains(" 200 "))
}

fn status_line(address: SocketAddr, path: &str) -> Result<String> {
    let limit = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = [0; 64];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_deadline_says_what_to_do() {
        let error = until("the moon", Duration::ZERO, "look again at night", || Ok(false)).unwrap_err();
        assert_eq!(error.to_string(), "the moon is missing after 0 s; look again at night");
    }

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut count = 0;
        until("three", Duration::from_secs(5), "", || {
            count += 1;
            Ok(count == 3)
        })
        .unwrap();
    }
}
