//! The files that make a disk the disk of one member.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result};

use crate::certificate::{authority, issue};
use crate::member::Member;
use crate::state::State;

const SUPERVISOR: &str = include_str!("../files/supervisor.sh");
const POSTGRESQL: &str = include_str!("../files/postgresql.conf");
const HBA: &str = include_str!("../files/pg_hba.conf");

/// The part of a disk that does not depend on the state folder: a disk made from other content is out of date.
pub(crate) fn fingerprint(major: u16, rootfs: &Path) -> String {
    let conf = postgresql_conf(Member::A1, major);
    format!("{}\n{SUPERVISOR}\n{conf}\n{HBA}", rootfs.display())
}

/// Writes a member's configuration into the upper folder of its disk.
pub(crate) fn write(state: &State, upper: &Path, member: Member, major: u16, rootfs: &Path) -> Result<()> {
    let owner = postgres_user(rootfs)?;
    let conf = format!("etc/postgresql/{major}/main");
    let names = [
        member.address().to_string(),
        member.name().to_owned(),
        member.host_name(),
    ];
    let certificate = issue(state, &member.host_name(), &names)?;
    let files = [
        ("etc/hostname".to_owned(), 0o644, format!("{member}\n")),
        ("etc/hosts".to_owned(), 0o644, hosts()),
        ("etc/mitosis/restart".to_owned(), 0o644, "no\n".to_owned()),
        (
            "usr/local/lib/mitosis/supervisor".to_owned(),
            0o755,
            SUPERVISOR.to_owned(),
        ),
        ("etc/ssl/mitosis/ca.crt".to_owned(), 0o644, authority(state)?),
        ("etc/ssl/mitosis/server.crt".to_owned(), 0o644, certificate.certificate),
        ("etc/ssl/mitosis/server.key".to_owned(), 0o600, certificate.key),
        (format!("{conf}/postgresql.conf"), 0o644, postgresql_conf(member, major)),
        (format!("{conf}/pg_hba.conf"), 0o640, HBA.to_owned()),
        (format!("{conf}/pg_ident.conf"), 0o640, String::new()),
        (
            format!("{conf}/conf.d/README"),
            0o644,
            "Files here that end in .conf are read after postgresql.conf.\n".to_owned(),
        ),
    ];
    for (path, mode, content) in files {
        let file = upper.join(&path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        if path.starts_with("etc/postgresql") || path.ends_with("server.key") {
            chown(&file, Some(owner.0), Some(owner.1))?;
        }
    }
    Ok(())
}

fn postgresql_conf(member: Member, major: u16) -> String {
    POSTGRESQL
        .replace("@NAME@", member.name())
        .replace("@MAJOR@", &major.to_string())
}

fn hosts() -> String {
    Member::ALL
        .iter()
        .fold("127.0.0.1 localhost\n".to_owned(), |text, member| {
            format!("{text}{} {} {member}\n", member.address(), member.host_name())
        })
}

/// User and group of `postgres` in the root file system, which are rarely those of the host.
fn postgres_user(rootfs: &Path) -> Result<(u32, u32)> {
    let file = rootfs.join("etc/passwd");
    let text = fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}: give a Debian root file system", file.display()))?;
    let line = text
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .context("the root file system has no user postgres: install PostgreSQL in it")?;
    let mut fields = line.split(':').skip(2).map(str::parse);
    match (fields.next(), fields.next()) {
        (Some(Ok(user)), Some(Ok(group))) => Ok((user, group)),
        _ => anyhow::bail!("the line of postgres in {} is damaged", file.display()),
    }
}
