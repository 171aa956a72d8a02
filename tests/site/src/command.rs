//! Running external programs with a deadline.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub(crate) const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const KILL_AFTER: &str = "--kill-after=2";
/// What `timeout` returns when the program did not end in time.
const TIMED_OUT: [i32; 2] = [124, 137];

/// Runs a program to its end and returns its standard output without the last line end.
pub(crate) fn run<I, S>(deadline: Duration, program: &str, arguments: I) -> Result<String>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    run_with_input(deadline, program, arguments, "")
}

/// The same, with a text for the program's standard input.
pub(crate) fn run_with_input<I, S>(deadline: Duration, program: &str, arguments: I, input: &str) -> Result<String>
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new("timeout");
    command
        .arg(KILL_AFTER)
        .arg(deadline.as_secs_f64().to_string())
        .arg(program)
        .args(arguments);
    // A machine must not inherit the caller's PG* variables or locale.
    command.env_clear().env("PATH", SYSTEM_PATH).env("LANG", "C.UTF-8");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run 'timeout': install coreutils")?;
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // Written beside the reading, so that neither side waits for the other; a program that does not read is no error.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
        child.wait_with_output()
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout)
            .trim_end_matches('\n')
            .to_owned());
    }
    let called = command
        .get_args()
        .skip(2)
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ");
    if output.status.code().is_some_and(|code| TIMED_OUT.contains(&code)) {
        bail!("'{called}' did not end within {} s", deadline.as_secs());
    }
    bail!(
        "'{called}' failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
}

/// Asks every `pause` until the answer is yes; after the deadline fails with `what`.
pub(crate) fn wait_until(
    what: &str,
    deadline: Duration,
    pause: Duration,
    mut asked: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let started = Instant::now();
    loop {
        let answer = asked();
        if matches!(answer, Ok(true)) {
            return Ok(());
        }
        if started.elapsed() > deadline {
            answer.with_context(|| format!("{what}: not within {} s", deadline.as_secs()))?;
            bail!("{what}: not within {} s", deadline.as_secs());
        }
        std::thread::sleep(pause);
    }
}
