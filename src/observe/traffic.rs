//! What the agents beside HAProxy report.

use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::{agent::Report, haproxy::REPORT_PORT};

/// How long an agent may take to answer beyond the time it was asked to wait.
const ANSWER: Duration = Duration::from_millis(500);
/// How long an agent waits for the wanted generation before it answers with what it has.
const LONG_POLL: Duration = Duration::from_millis(250);

/// Asks the agent of a pod for its report, at once or as soon as it has reached the awaited generation; nothing when it does not
/// answer in time.
pub async fn fetch_report(pod_ip: &str, awaited: Option<u64>) -> Option<Report> {
    let (path, patience) = match awaited {
        Some(generation) => (
            format!("/report?generation={generation}&wait={}", LONG_POLL.as_millis()),
            LONG_POLL + ANSWER,
        ),
        None => ("/report".to_owned(), ANSWER),
    };
    timeout(patience, ask(pod_ip, &path)).await.ok()?
}

async fn ask(pod_ip: &str, path: &str) -> Option<Report> {
    let ip: std::net::IpAddr = pod_ip.parse().ok()?;
    let stream = TcpStream::connect((ip, REPORT_PORT)).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let served = tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", "agent")
        .body(Empty::<Bytes>::new())
        .ok()?;
    let response = sender.send_request(request).await.ok()?;
    let body = response.into_body().collect().await.ok()?.to_bytes();
    served.abort();
    serde_json::from_slice(&body).ok()
}
