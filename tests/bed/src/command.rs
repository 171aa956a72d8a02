//! Running programs to their end: bounded in time, ended with this process, their complaint part of the error.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// What `timeout` answers when the time was up.
const TIMED_OUT: i32 = 124;

/// A command that is ended after `limit`, and also when this process dies: a killed `bed` leaves no build running behind it.
#[must_use]
pub fn bounded(program: impl AsRef<OsStr>, limit: Duration) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "TERM", "timeout", "--kill-after=10"])
        .arg(limit.as_secs().to_string())
        .arg(program);
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end and returns its standard output.
///
/// Errors: the program cannot be started, or it fails; then the error holds its last lines.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {}", line(command)))?;
    finish(command, &output)
}

/// Like [`run`], with `input` as the standard input.
pub fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", line(command)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early closes its input; its exit status tells more than the broken pipe would.
        stdin.write_all(input.as_bytes()).ok();
    }
    let output = child.wait_with_output()?;
    finish(command, &output)
}

fn finish(command: &Command, output: &Output) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let ending = match output.status.code() {
        Some(TIMED_OUT) => "took too long and was ended".to_owned(),
        _ => format!("failed ({})", output.status),
    };
    let mut complaint = last_lines(&String::from_utf8_lossy(&output.stderr), 15);
    if complaint.is_empty() {
        complaint = last_lines(&String::from_utf8_lossy(&output.stdout), 15);
    }
    bail!("{} {ending}\n{complaint}", line(command))
}

/// The last `count` lines of a text.
#[must_use]
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The command as one line for a message, without the words that [`bounded`] adds.
fn line(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    let added = if words[0] == "setpriv" { 6 } else { 0 };
    words[added..].join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_returned() {
        let mut command = bounded("echo", Duration::from_secs(5));
        assert_eq!(run(command.arg("word")).unwrap(), "word\n");
    }

    #[test]
    fn input_is_passed_on() {
        let mut command = bounded("cat", Duration::from_secs(5));
        assert_eq!(run_with_input(&mut command, "text").unwrap(), "text");
    }

    #[test]
    fn a_failure_names_the_command_and_its_complaint() {
        let mut command = bounded("sh", Duration::from_secs(5));
        let error = run(command.args(["-c", "echo broken >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("sh -c") && error.ends_with("broken"), "{error}");
    }

    #[test]
    fn a_command_that_takes_too_long_is_ended() {
        let mut command = bounded("sleep", Duration::from_secs(1));
        let error = run(command.arg("60")).unwrap_err().to_string();
        assert!(error.contains("took too long"), "{error}");
    }
}
