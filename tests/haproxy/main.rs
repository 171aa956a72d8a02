//! The agent against a real HAProxy, which must be installed: no Kubernetes is needed.

mod bed;
mod mounted;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bed::{Bed, Echo, TALK, WORK, exchange, free_port, request};
use mitosis::{
    address::Address,
    agent::{Report, ReportState, router},
    haproxy::State,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{interval, sleep},
};

/// Holds, switches and releases under load.
#[tokio::test(flavor = "multi_thread")]
async fn a_switch_loses_no_new_client_and_cuts_each_session_once() {
    let (a, b) = (Echo::start("A").await, Echo::start("B").await);
    let mut bed = Bed::start(&[&a]).await;
    bed.wish(1, State::Open, &[&a]);
    bed.until("generation 1 runs", |report| report.is_running(1)).await;

    let stop = Arc::new(AtomicBool::new(false));
    let mut sessions = JoinSet::new();
    for _ in 0..10 {
        sessions.spawn(long_session(bed.port, stop.clone()));
    }
    let clients = tokio::spawn(new_clients(bed.port, stop.clone()));
    sleep(Duration::from_millis(500)).await;

    let start = Instant::now();
    bed.wish(2, State::Held, &[&a]);
    bed.until("it is held", |report| report.is_holding(2)).await;
    let (held, reached_a) = (start.elapsed(), a.requests());
    sleep(Duration::from_millis(300)).await;
    assert_eq!(
        a.requests(),
        reached_a,
        "requests reached A although the hold was reported"
    );
    assert_eq!(b.requests(), 0);

    let address = serve(&bed).await;
    let start = Instant::now();
    let waiting = tokio::spawn(get(address, "/report?generation=3&wait=5000"));
    bed.wish(3, State::Open, &[&b]);
    let report: Report = serde_json::from_str(&waiting.await.unwrap()).unwrap();
    let released = start.elapsed();
    assert!(report.is_running(3), "{report:?}");
    sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);

    let (served, slowest) = clients.await.unwrap();
    assert!(
        served.iter().any(|by| by == "A") && served.iter().any(|by| by == "B"),
        "{served:?}"
    );
    assert!(
        served.iter().all(|by| by == "A" || by == "B"),
        "a new client was turned away: {served:?}"
    );
    assert_eq!(a.requests(), reached_a);
    for cuts in sessions.join_all().await {
        assert_eq!(cuts, 1, "a session was cut {cuts} times");
    }
    println!(
        "held after {held:?}, released after {released:?}; {} new clients, the slowest took {slowest:?}; HAProxy {}",
        served.len(),
        report.haproxy_version.unwrap()
    );
}

/// Neither of these sessions can be ended by command: HAProxy has closed one side of each already, or has yet to deliver what a client
/// does not take. An ordinary hold takes milliseconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_not_kept_up_by_a_client_that_left_its_statement_nor_by_one_that_reads_no_more() {
    let (a, b) = (Echo::start("A").await, Echo::start("B").await);
    let mut bed = Bed::start(&[&a]).await;
    bed.wish(1, State::Open, &[&a]);
    bed.until("generation 1 runs", |report| report.is_running(1)).await;
    let mut deaf = TcpStream::connect(("127.0.0.1", bed.port)).await.unwrap();
    deaf.write_all(TALK.as_bytes()).await.unwrap();
    let mut leaving = TcpStream::connect(("127.0.0.1", bed.port)).await.unwrap();
    leaving.write_all(WORK.as_bytes()).await.unwrap();
    a.until_requests(2).await;
    drop(leaving);

    bed.wish(2, State::Held, &[&a]);
    let report = bed.until("it is held", |report| report.is_holding(2)).await;
    let took = Duration::from_millis(report.took_milliseconds.unwrap());
    // The one that left has a server for a second after it did.
    let expected = Duration::from_millis(500)..Duration::from_secs(2);
    assert!(expected.contains(&took), "held after {took:?}");

    bed.wish(3, State::Open, &[&b]);
    bed.until("generation 3 runs", |report| report.is_running(3)).await;
    assert_eq!(request(bed.port).await.unwrap(), "B");
    drop(deaf);
}

/// A configuration with a proxy of the user's own, limits and defaults that nobody else wants.
fn users(port: u16, to: &Echo) -> String {
    format!(
        "global\n    maxconn 300\ndefaults\n    mode tcp\n    timeout connect 1s\n    timeout client 1m\n    timeout server 1m\n    retries 0\n\
         listen users\n    bind 127.0.0.1:{port}\n    server one {}\n",
        to.address
    )
}

/// The user's proxies and those of Mitosis share a HAProxy, and neither is disturbed by the other.
#[tokio::test(flavor = "multi_thread")]
async fn beside_a_configuration_of_the_users_own_clients_are_held_and_led_and_the_users_are_not_disturbed() {
    let (a, b, own) = (Echo::start("A").await, Echo::start("B").await, Echo::start("own").await);
    let port = free_port().await;
    let mut bed = Bed::start_beside(&users(port, &own), &[&a]).await;
    bed.wish(1, State::Open, &[&a]);
    bed.until("generation 1 runs", |report| report.is_running(1)).await;
    let mut session = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert_eq!(exchange(&mut session).await.unwrap(), "own");

    bed.wish(2, State::Held, &[&a]);
    bed.until("it is held", |report| report.is_holding(2)).await;
    let waiting = tokio::spawn(request(bed.port));
    assert_eq!(
        request(port).await.unwrap(),
        "own",
        "a hold is none of the user's proxies"
    );
    bed.wish(3, State::Open, &[&b]);
    bed.until("generation 3 runs", |report| report.is_running(3)).await;
    assert_eq!(waiting.await.unwrap().unwrap(), "B");
    assert_eq!(
        exchange(&mut session).await.unwrap(),
        "own",
        "the user's session was ended"
    );

    // What the user breaks is told, and what ran goes on.
    bed.write_users("nonsense\n");
    bed.wish(4, State::Open, &[&a]);
    let report = bed
        .until("the refusal is told", |report| report.state == ReportState::Failed)
        .await;
    println!("{:?}", report.error);
    assert_eq!(
        (
            request(bed.port).await.unwrap().as_str(),
            request(port).await.unwrap().as_str()
        ),
        ("B", "own")
    );
    bed.write_users(&users(port, &own));
    bed.wish(5, State::Open, &[&a]);
    bed.until("generation 5 runs", |report| report.is_running(5)).await;
    assert_eq!(request(bed.port).await.unwrap(), "A");
}

/// Where the operator's file has a variable only, the user's own frontend is held and their own server is led.
#[tokio::test(flavor = "multi_thread")]
async fn one_variable_in_the_users_own_server_line_is_enough_to_hold_their_clients_and_lead_them() {
    let (a, b) = (Echo::start("A").await, Echo::start("B").await);
    let users = "global\n    hard-stop-after 1s\ndefaults\n    mode tcp\n    timeout connect 1s\n    timeout client 1m\n    timeout server 1m\n\
         frontend fe_write\n    bind 127.0.0.1:PORT backlog 4096\n    default_backend be_write\n\
         backend be_write\n    server s1 \"${MITOSIS_ROUTE_WRITE-127.0.0.1:9}\"\n";
    let mut bed = Bed::start_before(users, &[&a]).await;
    bed.wish(1, State::Open, &[&a]);
    bed.until("generation 1 runs", |report| report.is_running(1)).await;
    let mut session = session_on(&bed, "A").await;

    bed.wish(2, State::Held, &[&a]);
    bed.until("it is held", |report| report.is_holding(2)).await;
    assert!(exchange(&mut session).await.is_err(), "a session outlives the hold");
    let reached = a.requests();
    let port = bed.port;
    let waiting = tokio::spawn(async move { request(port).await });
    // One that starts anew while held leads nobody to A.
    bed.kill_haproxy().await;
    assert!(waiting.await.unwrap().is_err());
    bed.until("the loss is reported", |report| report.state == ReportState::Waiting)
        .await;
    bed.start_haproxy();
    let again = bed.until("it is held again", |report| report.is_holding(2)).await;
    assert_eq!(
        again.generation,
        Some(2),
        "the file that HAProxy started with leads to A"
    );
    assert_eq!(a.requests(), reached);

    let waiting = tokio::spawn(async move { request(port).await });
    bed.wish(3, State::Open, &[&b]);
    bed.until("generation 3 runs", |report| report.is_running(3)).await;
    assert_eq!(waiting.await.unwrap().unwrap(), "B");
    assert_eq!(ten_clients(&bed).await, ["B".to_owned()].into());
}

/// What a variable is for must be there before clients are to be held.
#[tokio::test(flavor = "multi_thread")]
async fn a_frontend_that_is_named_otherwise_than_its_route_is_told_while_clients_are_led() {
    let a = Echo::start("A").await;
    let users = "defaults\n    mode tcp\n    timeout connect 1s\n    timeout client 1m\n    timeout server 1m\n\
         frontend postgres\n    bind 127.0.0.1:PORT\n    default_backend be_write\n\
         backend be_write\n    server s1 \"${MITOSIS_ROUTE_WRITE-127.0.0.1:9}\"\n";
    let mut bed = Bed::start_before(users, &[&a]).await;
    bed.wish(1, State::Open, &[&a]);
    let missing = |report: &Report| {
        report
            .error
            .as_deref()
            .is_some_and(|error| error.contains("no frontend fe_write"))
    };
    bed.until("the name is missed", missing).await;
}

/// Readers are led to standbys only, and to the primary rather than nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn readers_are_led_to_the_primary_only_when_no_standby_answers() {
    let (standby, primary) = (Echo::start("standby").await, Echo::start("primary").await);
    let nobody = || Address::new("127.0.0.1", 9).unwrap();
    let mut bed = Bed::start(&[&primary]).await;
    bed.wish_replicas(2, &[nobody(), standby.address.clone(), primary.address.clone()], &[]);
    bed.until("generation 2 runs", |report| report.is_running(2)).await;
    for _ in 0..10 {
        assert_eq!(request(bed.port).await.unwrap(), "standby");
    }
    bed.wish_replicas(3, &[nobody(), nobody(), primary.address.clone()], &[]);
    bed.until("generation 3 runs", |report| report.is_running(3)).await;
    let start = Instant::now();
    // Two checks fail first.
    while request(bed.port).await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(10), "readers are led nowhere");
    }
    assert_eq!(request(bed.port).await.unwrap(), "primary");
}

/// A session that some server answers.
async fn session_on(bed: &Bed, name: &str) -> TcpStream {
    // They take turns.
    for _ in 0..10 {
        let mut session = TcpStream::connect(("127.0.0.1", bed.port)).await.unwrap();
        if exchange(&mut session).await.unwrap() == name {
            return session;
        }
    }
    panic!("no session is led to {name}");
}

/// HAProxy ends a session some milliseconds after it was told to.
async fn until_ended(session: &mut TcpStream) {
    let ended = async { while exchange(session).await.is_ok() {} };
    let ended = tokio::time::timeout(Duration::from_millis(500), ended).await;
    ended.expect("a reader is left on what is stale");
}

/// Who answers ten new clients.
async fn ten_clients(bed: &Bed) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for _ in 0..10 {
        names.insert(request(bed.port).await.unwrap());
    }
    names
}

/// Standbys come and go at run time, in every version; a reload would end the sessions of the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_left_out_gets_no_reader_and_disturbs_none_elsewhere() {
    let (a, b, primary) = (Echo::start("A").await, Echo::start("B").await, Echo::start("P").await);
    // One by its name, that nobody answers for: no change of it is needed to know its IP address.
    let named = Address::new("localhost", 9).unwrap();
    let to = [&a.address, &b.address, &named, &primary.address].map(Clone::clone);
    let mut bed = Bed::start(&[&primary]).await;
    bed.wish_replicas(2, &to, &[]);
    bed.until("generation 2 runs", |report| report.is_running(2)).await;
    let reloads = bed.reloads().await;
    let (mut on_a, mut on_b) = (session_on(&bed, "A").await, session_on(&bed, "B").await);

    bed.wish_replicas(3, &to, &[&to[0]]);
    bed.until("generation 3 runs", |report| report.is_running(3)).await;
    assert_eq!(ten_clients(&bed).await, ["B".to_owned()].into());
    until_ended(&mut on_a).await;
    bed.wish_replicas(4, &to, &[&to[0], &to[1]]);
    bed.until("generation 4 runs", |report| report.is_running(4)).await;
    assert_eq!(ten_clients(&bed).await, ["P".to_owned()].into());
    until_ended(&mut on_b).await;

    let mut on_primary = session_on(&bed, "P").await;
    bed.wish_replicas(5, &to, &[&to[1]]);
    bed.until("generation 5 runs", |report| report.is_running(5)).await;
    assert_eq!(ten_clients(&bed).await, ["A".to_owned()].into());
    assert_eq!(exchange(&mut on_primary).await.unwrap(), "P");
    // One that starts anew does as the others do, and can be changed like them.
    assert_eq!(bed.reloads().await, reloads);
    bed.kill_haproxy().await;
    bed.start_haproxy();
    let back = async {
        while request(bed.port).await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let back = tokio::time::timeout(Duration::from_secs(10), back).await;
    back.expect("HAProxy starts anew");
    assert_eq!(ten_clients(&bed).await, ["A".to_owned()].into());
    let mut on_a = session_on(&bed, "A").await;
    bed.wish_replicas(6, &to, &[]);
    bed.until("generation 6 runs", |report| report.is_running(6)).await;
    assert_eq!(ten_clients(&bed).await, ["A".to_owned(), "B".to_owned()].into());
    assert_eq!(exchange(&mut on_a).await.unwrap(), "A");
    assert_eq!(bed.reloads().await, 0);
}

/// What HAProxy refuses is reported, and the former configuration goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_configuration_changes_nothing() {
    let (a, b) = (Echo::start("A").await, Echo::start("B").await);
    let mut bed = Bed::start(&[&a]).await;
    bed.wish(1, State::Open, &[&a]);
    bed.until("generation 1 runs", |report| report.is_running(1)).await;
    bed.wish_text(2, State::Open, "nonsense\n");
    let report = bed
        .until("the refusal is reported", |report| report.state == ReportState::Failed)
        .await;
    assert_eq!((report.generation, report.wanted), (Some(1), 2));
    assert!(report.error.unwrap().contains("refuses generation 2"));
    assert_eq!(request(bed.port).await.unwrap(), "A");

    bed.wish(3, State::Open, &[&b]);
    bed.until("generation 3 runs", |report| report.is_running(3)).await;
    assert_eq!(request(bed.port).await.unwrap(), "B");
    // A name that does not resolve is reported and stops nothing.
    bed.wish_text(
        4,
        State::Open,
        &bed.configuration(4, State::Open, &["nowhere.invalid:1".parse().unwrap()])
            .render(),
    );
    let report = bed
        .until("generation 4 runs with a complaint", |report| {
            report.is_running(4) && report.error.is_some()
        })
        .await;
    assert!(report.error.unwrap().contains("be_write/s1 does not resolve"));
}

/// A hold outlives both HAProxy and the agent.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_survives_restarts() {
    let (a, b) = (Echo::start("A").await, Echo::start("B").await);
    let mut bed = Bed::start(&[&a]).await;
    bed.wish(1, State::Open, &[&a]);
    bed.until("generation 1 runs", |report| report.is_running(1)).await;
    assert_eq!(request(bed.port).await.unwrap(), "A");
    bed.wish(2, State::Held, &[&a]);
    bed.until("it is held", |report| report.is_holding(2)).await;
    let reached_a = a.requests();

    let stop = Arc::new(AtomicBool::new(false));
    let clients = tokio::spawn(new_clients(bed.port, stop.clone()));
    bed.kill_haproxy().await;
    bed.until("the loss is reported", |report| report.state == ReportState::Waiting)
        .await;
    bed.start_haproxy();
    let report = bed.until("it is held again", |report| report.is_holding(2)).await;
    assert_eq!(
        report.generation,
        Some(2),
        "the file that HAProxy started with leads nowhere"
    );

    bed.restart_agent();
    bed.wish(2, State::Held, &[&a]);
    bed.until("a new agent sees the hold", |report| report.is_holding(2))
        .await;
    bed.wish(1, State::Open, &[&a]);
    let report = bed
        .until("the older generation is refused", |report| report.error.is_some())
        .await;
    assert!(report.is_holding(2) && report.error.unwrap().contains("went back"));
    bed.wish(2, State::Open, &[&a]);
    bed.until("something else under the same number is refused", |report| {
        report.conflict
    })
    .await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(a.requests(), reached_a);

    bed.wish(3, State::Open, &[&b]);
    bed.until("generation 3 runs", |report| report.is_running(3)).await;
    sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let (served, _) = clients.await.unwrap();
    assert!(served.iter().any(|by| by == "B"));
    assert!(!served.iter().any(|by| by == "A"));
    assert_eq!(a.requests(), reached_a);
}

/// Connects for each request, 100 times a second; who served each, or the error, and the longest time of one.
async fn new_clients(port: u16, stop: Arc<AtomicBool>) -> (Vec<String>, Duration) {
    let mut pace = interval(Duration::from_millis(10));
    let mut requests = JoinSet::new();
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        requests.spawn(async move {
            let start = Instant::now();
            (
                request(port).await.unwrap_or_else(|error| error.to_string()),
                start.elapsed(),
            )
        });
    }
    let (served, times): (Vec<_>, Vec<_>) = requests.join_all().await.into_iter().unzip();
    (served, times.into_iter().max().unwrap())
}

/// Keeps a session and comes back when it is cut; how often it was.
async fn long_session(port: u16, stop: Arc<AtomicBool>) -> u32 {
    let mut cuts = 0;
    loop {
        let mut stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .expect("connections are never refused");
        loop {
            if stop.load(Ordering::Relaxed) {
                return cuts;
            }
            if bed::exchange(&mut stream).await.is_err() {
                cuts += 1;
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn serve(bed: &Bed) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, router(bed.reports.clone())).into_future());
    assert_eq!(get(address, "/healthz").await, "ok\n");
    assert_eq!(get(address, "/readyz").await, "ok\n");
    address
}

/// The body of the answer.
async fn get(address: std::net::SocketAddr, path: &'static str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let question = format!("GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}
