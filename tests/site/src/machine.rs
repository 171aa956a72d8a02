//! A "virtual machine": namespaces of its own, a disk that is an overlay over the root file system, and a supervisor as PID 1.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::{SYSTEM_PATH, run, run_with_input, wait_until};
use crate::member::Member;
use crate::process::Process;
use crate::server::StopMode;
use crate::small_disk::SmallDisk;
use crate::state::{Running, State, remove_file, remove_folder};

const BOOT: &str = include_str!("../files/boot.sh");
const BOOT_DEADLINE: Duration = Duration::from_secs(20);
const COPY_DEADLINE: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(10);
/// Opening a pipe that nobody reads then fails instead of waiting (O_NONBLOCK of Linux).
const NONBLOCKING: i32 = 0o4000;

/// One machine of the site and the server in it.
#[derive(Debug, Clone)]
pub struct Machine {
    pub(crate) state: State,
    pub(crate) member: Member,
    pub(crate) running: Running,
}

impl Machine {
    /// Which member this is.
    #[must_use]
    pub fn member(&self) -> Member {
        self.member
    }

    /// True while the machine is on, whatever its server does.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.supervisor().is_some()
    }

    /// Switches the machine on with the disk it has; the server is not started. Nothing to do if the machine is on.
    pub fn power_on(&self) -> Result<()> {
        if self.is_on() {
            return Ok(());
        }
        let record = self.record();
        remove_file(&record)?;
        let disk = self.state.disk(self.member);
        for folder in ["upper", "work", "root"] {
            fs::create_dir_all(disk.join(folder))?;
        }
        let boot = disk.join("boot.sh");
        fs::write(&boot, BOOT)?;
        let console = self.state.path(&format!("{}-console.log", self.member));
        let log = File::create(&console)?;
        let mut child = Command::new("setsid")
            .args(["nsenter", &format!("--net=/run/netns/{}", self.member.namespace())])
            .args([
                "unshare",
                "--mount",
                "--pid",
                "--uts",
                "--ipc",
                "--fork",
                "--kill-child",
                "bash",
            ])
            .args([
                &boot,
                &record,
                &self.running.rootfs,
                &disk.join("upper"),
                &disk.join("work"),
                &disk.join("root"),
            ])
            .args([&self.running.major.to_string(), self.member.name()])
            .current_dir("/")
            .env_clear()
            .env("PATH", SYSTEM_PATH)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run setsid: install util-linux")?;
        // Reaps it; the machine itself does not depend on this program.
        std::thread::spawn(move || child.wait());
        let what = format!("machine {} to boot (see {})", self.member, console.display());
        wait_until(&what, BOOT_DEADLINE, POLL, || {
            Ok(self.file("run/mitosis/control").is_ok_and(|control| control.exists()))
        })
    }

    /// Switches the machine off at once, as when its power fails. The disk stays. Nothing to do if it is off.
    pub fn power_off(&self) -> Result<()> {
        let record = self.record();
        if let Some(process) = Process::recorded(&record) {
            process.kill()?;
        }
        remove_file(&record)
    }

    /// Moves the machine, which is switched off for it and on again, to a disk of this many bytes. The next reset gives it its own again.
    pub fn move_to_small_disk(&self, bytes: u64) -> Result<SmallDisk> {
        self.stop(StopMode::Fast)?;
        self.power_off()?;
        let disk = self.state.disk(self.member);
        let content = disk.with_extension("moved");
        fs::rename(&disk, &content)?;
        fs::create_dir(&disk)?;
        let small = SmallDisk::mount(&disk, bytes)?;
        let from = content.join("upper");
        run(
            COPY_DEADLINE,
            "cp",
            [
                "--archive".as_ref(),
                "--target-directory".as_ref(),
                disk.as_os_str(),
                from.as_os_str(),
            ],
        )?;
        remove_folder(&content)?;
        self.power_on()?;
        self.start()?;
        Ok(small)
    }

    /// Runs a shell command as root in the machine and returns its standard output.
    pub fn shell(&self, command: &str, deadline: Duration) -> Result<String> {
        self.run("root", &["sh", "-c", command], "", deadline)
    }

    pub(crate) fn run(&self, user: &str, command: &[&str], input: &str, deadline: Duration) -> Result<String> {
        let target = self.on()?.pid.to_string();
        let (user, group) = (format!("--reuid={user}"), format!("--regid={user}"));
        let enter = [
            "--target", &target, "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd",
        ];
        let become_user = ["setpriv", &user, &group, "--init-groups"];
        run_with_input(
            deadline,
            "nsenter",
            enter.iter().chain(&become_user).chain(command),
            input,
        )
        .with_context(|| format!("in machine {}", self.member))
    }

    /// Sends a command to the supervisor.
    pub(crate) fn tell(&self, command: &str) -> Result<()> {
        let control = self.file("run/mitosis/control")?;
        let mut pipe = OpenOptions::new()
            .write(true)
            .custom_flags(NONBLOCKING)
            .open(&control)
            .context("the supervisor does not listen")?;
        Ok(pipe.write_all(format!("{command}\n").as_bytes())?)
    }

    /// The path on the host of a file in the running machine.
    pub(crate) fn file(&self, path: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root", self.on()?.pid)).join(path))
    }

    fn supervisor(&self) -> Option<Process> {
        Process::recorded(&self.record()).filter(|process| process.is_alive())
    }

    fn on(&self) -> Result<Process> {
        self.supervisor()
            .with_context(|| format!("machine {} is off: switch it on first", self.member))
    }

    fn record(&self) -> PathBuf {
        self.state.process_record(self.member.name())
    }
}
