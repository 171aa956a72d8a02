//! The agent's read-only HTTP interface.
//!
//! - `GET /report`: the [`Report`] as JSON. With `?generation=N&wait=MILLISECONDS` it answers when generation N is held,
//!   runs or has failed, or when the time (at most 30 s) is over, whichever comes first.
//! - `GET /healthz`: the agent runs. `GET /readyz`: what is wanted is held or runs; else 503.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{sync::watch::Receiver, time::timeout};

use super::Report;

const LONGEST_WAIT_MILLISECONDS: u64 = 30_000;

/// The interface that serves these reports.
pub fn router(reports: Receiver<Report>) -> Router {
    Router::new()
        .route("/report", get(report))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(reports)
}

async fn report(State(mut reports): State<Receiver<Report>>, uri: Uri) -> Response {
    let query = match Query::parse(uri.query().unwrap_or_default()) {
        Ok(query) => query,
        Err(sentence) => return (StatusCode::BAD_REQUEST, sentence).into_response(),
    };
    if let Some(generation) = query.generation {
        // Late or at the agent's end, the last report is the answer too.
        let settled = reports.wait_for(|report| report.has_settled(generation));
        let _late = timeout(query.wait, settled).await.is_err();
    }
    let report = reports.borrow().clone();
    Json(report).into_response()
}

async fn ready(State(reports): State<Receiver<Report>>) -> Response {
    let report = reports.borrow();
    if report.is_ready() {
        "ok\n".into_response()
    } else {
        let reason = report
            .error
            .clone()
            .unwrap_or_else(|| "HAProxy is not configured yet".to_owned());
        (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response()
    }
}

#[derive(Debug, Default, PartialEq)]
struct Query {
    generation: Option<u64>,
    wait: Duration,
}

impl Query {
    fn parse(text: &str) -> Result<Self, String> {
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').map(|(key, value)| (key, value.parse::<u64>())) {
                Some(("generation", Ok(number))) => query.generation = Some(number),
                Some(("wait", Ok(number))) => query.wait = Duration::from_millis(number.min(LONGEST_WAIT_MILLISECONDS)),
                _ => return Err("ask with ?generation=NUMBER&wait=MILLISECONDS\n".to_owned()),
            }
        }
        Ok(query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_bounded_and_nonsense_is_refused() {
        let query = Query::parse("generation=7&wait=99999999").unwrap();
        assert_eq!(
            query,
            Query {
                generation: Some(7),
                wait: Duration::from_secs(30)
            }
        );
        assert_eq!(Query::parse("").unwrap(), Query::default());
        for wrong in ["generation", "generation=x", "wait=-1", "other=1"] {
            assert!(Query::parse(wrong).is_err(), "{wrong}");
        }
    }
}
