//! Brings a real site up and disturbs it. Needs root, because it makes namespaces and mounts; without root it only says so.
//!
//! `MITOSIS_SITE_ROOTFS` names a Debian root file system with PostgreSQL 15 (another version: `MITOSIS_SITE_MAJOR`); without it one of
//! bookworm is made with mmdebstrap once. `MITOSIS_TOXIPROXY` names the program of the toxiproxy server; without it delay is left out.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mitosis_site::{Config, Direction, HOST_ADDRESS, LINK_DEVICE, Member, Pgbench, PgbenchOptions, Site};

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Takes the site down also when the test fails.
struct Down(PathBuf);

impl Drop for Down {
    fn drop(&mut self) {
        Site::down(&self.0).unwrap();
    }
}

fn rootfs() -> PathBuf {
    if let Some(given) = env::var_os("MITOSIS_SITE_ROOTFS") {
        return given.into();
    }
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bookworm-postgresql-15");
    if !made.exists() {
        let new = made.with_extension("new");
        let arguments = ["--variant=essential", "--include=postgresql-15", "bookworm"];
        let done = Command::new("mmdebstrap")
            .args(arguments)
            .arg(&new)
            .status()
            .expect("cannot run mmdebstrap: install it");
        assert!(done.success(), "mmdebstrap failed: {done}");
        fs::rename(new, &made).unwrap();
    }
    made
}

fn config(state: PathBuf) -> Config {
    let major = env::var("MITOSIS_SITE_MAJOR").map_or(15, |major| major.parse().unwrap());
    Config {
        state,
        rootfs: rootfs(),
        major,
        toxiproxy: env::var_os("MITOSIS_TOXIPROXY").map(PathBuf::from),
    }
}

/// Opens a connection across the link and waits for the server's first answer.
fn first_answer() -> std::io::Result<Duration> {
    let started = Instant::now();
    let address = SocketAddr::from((Member::A1.address(), 5432));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(&SSL_REQUEST)?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, *b"S", "the server must offer TLS");
    Ok(started.elapsed())
}

/// How long two megabytes take from a machine to the host.
fn two_megabytes(site: &Site) -> Duration {
    let listener = TcpListener::bind((HOST_ADDRESS, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let received =
        std::thread::spawn(move || std::io::copy(&mut listener.accept().unwrap().0, &mut std::io::sink()).unwrap());
    let started = Instant::now();
    let command = format!("bash -c 'head -c 2000000 /dev/zero >/dev/tcp/{HOST_ADDRESS}/{port}'");
    site.member(Member::A1)
        .shell(&command, Duration::from_secs(20))
        .unwrap();
    assert_eq!(received.join().unwrap(), 2_000_000);
    started.elapsed()
}

fn wait_for(what: &str, mut asked: impl FnMut() -> bool) {
    let started = Instant::now();
    while !asked() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_site_comes_up_bears_faults_and_leaves_nothing() {
    use std::os::unix::fs::MetadataExt;
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("left out: making namespaces and mounts needs root");
        return;
    }
    let state = Path::new(env!("CARGO_TARGET_TMPDIR")).join("state");
    let config = config(state.clone());
    let down = Down(state.clone());

    killed_while_coming_up(&config);
    let site = Site::up(&config).unwrap();
    assert_streaming(&site);
    verifies_certificates(&site);
    link_faults(&site, config.toxiproxy.is_some());
    server_faults(&site);
    load(&site);
    site.member(Member::A1)
        .psql("postgres", "CREATE TABLE leftover ()")
        .unwrap();
    site.reset().unwrap();
    assert_streaming(&site);
    assert_eq!(
        site.member(Member::A1)
            .psql("postgres", "SELECT to_regclass('leftover') IS NULL")
            .unwrap(),
        "t"
    );

    drop(down);
    let namespaces = Command::new("ip").args(["netns", "list"]).output().unwrap();
    assert!(
        !String::from_utf8(namespaces.stdout).unwrap().contains("mitosis-"),
        "namespaces are left"
    );
    assert!(
        !fs::exists(format!("/sys/class/net/{LINK_DEVICE}")).unwrap(),
        "the link is left"
    );
    assert!(
        !fs::read_to_string("/proc/mounts")
            .unwrap()
            .contains(state.to_str().unwrap()),
        "mounts are left"
    );
    assert!(Site::open(&state).is_err());
}

/// Nothing of a run that was killed may be in the way of the next.
fn killed_while_coming_up(config: &Config) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_site"));
    command
        .arg("--state")
        .arg(&config.state)
        .arg("up")
        .arg("--rootfs")
        .arg(&config.rootfs);
    let mut killed = command.args(["--major", &config.major.to_string()]).spawn().unwrap();
    wait_for("the first machine", || {
        fs::exists(config.state.join("site/run/a1")).unwrap()
    });
    killed.kill().unwrap();
    killed.wait().unwrap();
}

fn assert_streaming(site: &Site) {
    let sql = "SELECT string_agg(application_name, ',' ORDER BY application_name) FROM pg_stat_replication WHERE state = 'streaming'";
    assert_eq!(site.member(Member::A1).psql("postgres", sql).unwrap(), "a2,a3");
}

fn verifies_certificates(site: &Site) {
    let a2 = site.member(Member::A2);
    let password = site.credentials().unwrap().mitosis;
    let connect = |host: &str, mode: &str| {
        let target = format!("host={host} user=mitosis dbname=app sslmode={mode} sslrootcert=/etc/ssl/mitosis/ca.crt");
        let psql = a2.program("psql");
        a2.shell(
            &format!("PGPASSWORD={password} {psql} '{target}' -Atc 'SELECT current_user'"),
            Duration::from_secs(10),
        )
    };
    for host in ["a1", "a1.source.test", "10.20.0.11"] {
        assert_eq!(connect(host, "verify-full").unwrap(), "mitosis");
    }
    assert!(
        connect("a1", "disable").is_err(),
        "a session without TLS must be refused"
    );
}

fn link_faults(site: &Site, with_delay: bool) {
    let link = site.link();
    first_answer().unwrap();
    link.cut().unwrap();
    assert!(first_answer().is_err(), "the link is not cut");
    link.heal().unwrap();
    first_answer().unwrap();
    for direction in [Direction::ToSite, Direction::FromSite] {
        link.cut_one_way(direction).unwrap();
        assert!(first_answer().is_err(), "the link is not cut {direction:?}");
        link.heal().unwrap();
        first_answer().unwrap();
    }

    link.throttle(16_000_000).unwrap();
    let slow = two_megabytes(site);
    link.unthrottle().unwrap();
    let fast = two_megabytes(site);
    assert!(
        slow > Duration::from_millis(800) && fast < slow / 2,
        "throttled {slow:?}, not throttled {fast:?}"
    );

    if with_delay {
        link.delay(Duration::from_millis(100)).unwrap();
        let delayed = first_answer().unwrap();
        assert!(delayed > Duration::from_millis(200), "{delayed:?}");
        link.undelay().unwrap();
        let direct = first_answer().unwrap();
        assert!(direct < Duration::from_millis(150), "{direct:?}");
    }
}

fn server_faults(site: &Site) {
    let a1 = site.member(Member::A1);
    let started = || a1.psql("postgres", "SELECT pg_postmaster_start_time()");
    let first = started().unwrap();
    let restart = format!(
        "setsid {} -D {} -m fast restart >/dev/null 2>&1 </dev/null &",
        a1.program("pg_ctl"),
        a1.data()
    );
    // The restart may end the session before it is answered.
    let _ = a1.psql("postgres", &format!("COPY (SELECT '') TO PROGRAM '{restart}'"));
    wait_for("the server restarted from SQL", || {
        started().is_ok_and(|now| now != first)
    });

    a1.kill().unwrap();
    wait_for("the server to be gone", || !a1.is_running().unwrap());
    a1.set_restart_policy(true).unwrap();
    wait_for("the supervisor to start the server", || started().is_ok());
    a1.set_restart_policy(false).unwrap();

    a1.pause().unwrap();
    assert!(a1.is_running().unwrap());
    assert!(first_answer().is_err(), "the server is not frozen");
    a1.resume().unwrap();
    assert!(first_answer().is_ok());

    a1.power_off().unwrap();
    assert!(!a1.is_on() && !a1.is_running().unwrap());
    a1.power_on().unwrap();
    a1.start().unwrap();
    assert!(a1.logs().contains("database system was not properly shut down"));
}

fn load(site: &Site) {
    site.init_pgbench(1).unwrap();
    let options = PgbenchOptions {
        host: Member::A1.address().to_string(),
        port: 5432,
        user: "app".to_owned(),
        password: site.credentials().unwrap().app,
        database: "app".to_owned(),
        sslmode: "require".to_owned(),
        rate: 50,
        clients: 2,
    };
    let load = Pgbench::start(site, &options);
    wait_for("the load", || load.counts().transactions > 20);
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgbench'";
    site.member(Member::A1).psql("app", end).unwrap();
    wait_for("the load to be started again", || load.counts().runs == 2);
    let counts = load.stop().unwrap();
    assert_eq!((counts.runs, counts.aborted), (2, 1), "{counts:?}");
}
