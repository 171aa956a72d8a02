//! The site as a whole: up, down, reset.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::certificate::{Certificate, authority, issue};
use crate::delay;
use crate::link::Link;
use crate::machine::Machine;
use crate::member::Member;
use crate::network;
use crate::process::Process;
use crate::provision::{on_all, start_fresh};
use crate::state::{Credentials, Running, State, remove_file};

const PGBENCH_DEADLINE: Duration = Duration::from_mins(10);

/// What a site is made from.
#[derive(Debug, Clone)]
pub struct Config {
    /// The state folder of the test bed, see [`default_state`](crate::default_state); the site uses its subfolder `site`.
    pub state: PathBuf,
    /// A Debian root file system with PostgreSQL of the major version in it; it is never changed.
    pub rootfs: PathBuf,
    /// The major version of PostgreSQL, for example 15.
    pub major: u16,
    /// The program of the toxiproxy server, needed for [`Link::delay`] only.
    pub toxiproxy: Option<PathBuf>,
}

/// The source site, up or just taken down.
#[derive(Debug, Clone)]
pub struct Site {
    state: State,
    running: Running,
}

impl Site {
    /// Brings the site up with fresh databases, or leaves it as it is when all its machines are on and it was made from the same
    /// configuration. What a killed run left behind is cleared first. The first time takes some 15 s, later ones a few.
    pub fn up(config: &Config) -> Result<Self> {
        let rootfs = config
            .rootfs
            .canonicalize()
            .with_context(|| format!("no root file system at {}", config.rootfs.display()))?;
        let postgres = rootfs.join(format!("usr/lib/postgresql/{}/bin/postgres", config.major));
        ensure!(
            postgres.exists(),
            "{} does not exist: install postgresql-{} in the root file system",
            postgres.display(),
            config.major
        );
        let toxiproxy = config
            .toxiproxy
            .as_ref()
            .map(|program| program.canonicalize())
            .transpose()
            .context("no toxiproxy server there")?;
        let running = Running {
            major: config.major,
            rootfs,
            toxiproxy,
        };
        let state = State::open(&config.state)?;
        let _lock = state.lock()?;
        if let Some(other) = state.foreign_site() {
            bail!(
                "a site with the state folder {} is up on this host: take that one down first",
                other.display()
            );
        }
        let site = Self { state, running };
        if site.state.running().is_ok_and(|earlier| earlier == site.running)
            && site.machines().iter().all(Machine::is_on)
        {
            return Ok(site);
        }
        site.clear()?;
        site.state.own()?;
        network::create()?;
        start_fresh(&site.state, &site.machines(), &site.running)?;
        site.state.set_running(&site.running)?;
        Ok(site)
    }

    /// The site that an earlier call brought up, which need not be of this program.
    pub fn open(state: &Path) -> Result<Self> {
        let state = State::open(state)?;
        let running = state.running()?;
        Ok(Self { state, running })
    }

    /// Ends everything that belongs to the site of this state folder; nothing to do if it is not up. Kept for the next time: the
    /// certificate authority, the passwords and the pristine disks.
    pub fn down(state: &Path) -> Result<()> {
        let state = State::open(state)?;
        let _lock = state.lock()?;
        if state.foreign_site().is_some() {
            // The names are taken by that site, so nothing of this one can be up.
            return Ok(());
        }
        // The folder may be left from a run that did not come as far as to record what it runs.
        let running = state.running().unwrap_or(Running {
            major: 0,
            rootfs: PathBuf::new(),
            toxiproxy: None,
        });
        Self { state, running }.clear()
    }

    /// Gives the site fresh databases and an undisturbed link, in a few seconds. The databases are copies of the same pristine ones,
    /// so the system identifier is the same after every reset.
    pub fn reset(&self) -> Result<()> {
        let _lock = self.state.lock()?;
        let machines = self.machines();
        on_all(&machines, Machine::power_off)?;
        self.link().restore()?;
        start_fresh(&self.state, &machines, &self.running)
    }

    /// One machine and its server.
    #[must_use]
    pub fn member(&self, member: Member) -> Machine {
        Machine {
            state: self.state.clone(),
            member,
            running: self.running.clone(),
        }
    }

    /// The link between this site and the host.
    #[must_use]
    pub fn link(&self) -> Link {
        Link {
            state: self.state.clone(),
            toxiproxy: self.running.toxiproxy.clone(),
        }
    }

    /// The passwords of the site's roles.
    pub fn credentials(&self) -> Result<Credentials> {
        self.state.credentials()
    }

    /// The certificate of the site's authority as PEM; every machine has it at `/etc/ssl/mitosis/ca.crt`.
    pub fn authority(&self) -> Result<String> {
        authority(&self.state)
    }

    /// The file on the host with the certificate of the site's authority.
    #[must_use]
    pub fn authority_file(&self) -> PathBuf {
        self.state.path("ca.crt")
    }

    /// Issues a certificate that the site's servers trust, for servers and clients; each name is an IP address or a DNS name.
    pub fn issue_certificate(&self, common_name: &str, names: &[String]) -> Result<Certificate> {
        issue(&self.state, common_name, names)
    }

    /// Makes pgbench's tables in database app, owned by app, on a1; one unit of scale is 100,000 accounts, about 15 MB.
    pub fn init_pgbench(&self, scale: u32) -> Result<()> {
        let a1 = self.member(Member::A1);
        let (program, scale) = (a1.program("pgbench"), scale.to_string());
        let command = [
            "env",
            "PGOPTIONS=-c role=app",
            &program,
            "--initialize",
            "--quiet",
            "--scale",
            &scale,
            "app",
        ];
        a1.run("postgres", &command, "", PGBENCH_DEADLINE).map(drop)
    }

    /// The root file system and the major version, for programs that run from it on the host.
    pub(crate) fn running(&self) -> &Running {
        &self.running
    }

    fn machines(&self) -> [Machine; 3] {
        Member::ALL.map(|member| self.member(member))
    }

    fn clear(&self) -> Result<()> {
        on_all(&self.machines(), Machine::power_off)?;
        let proxy = self.state.process_record(delay::PROCESS);
        if let Some(process) = Process::recorded(&proxy) {
            process.kill()?;
        }
        remove_file(&proxy)?;
        network::remove()?;
        self.state.remove_disks()?;
        self.state.clear_running()
    }
}
