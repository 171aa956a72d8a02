//! The last looks: between a decision and an act that cannot be taken back the world may have changed, and then nothing is done.

use std::time::Duration;

use mitosis::{
    act::{Actor, Effects, Error, StopBy},
    api::{ClusterMigration, Proof, Side},
    decide::Action,
    lease::Lease,
    observe::{Credentials, Member, Objects, Refreshes, Sessions, Sight, Snapshot, Traffic},
    postgres::{Lsn, Session, fetch_server_switching, write_marker},
};
use tokio::time::Instant;

use crate::{conninfo, name, pair, replayed, servers::Server, until};

/// How long the Lease is held in these tests.
const HELD: Duration = Duration::from_secs(60);

/// Two servers a1 and b1, and what the operator needs to act on them.
pub struct Place {
    lease: Lease,
    sessions: Sessions,
    credentials: Credentials,
    seen: Snapshot,
    /// Age of what the API server said.
    age: Duration,
}

impl Place {
    pub fn of(a1: &Server, b1: &Server) -> Self {
        let migration: ClusterMigration =
            serde_saphyr::from_str(include_str!("../../examples/clustermigration.yaml")).unwrap();
        let member = |text: &str, side, server: &Server| Member {
            name: name(text),
            side,
            address: server.address(),
            outside: None,
            sight: Sight::NotLooked,
        };
        Self {
            lease: Lease::for_now(HELD),
            sessions: Sessions::default(),
            credentials: Credentials {
                source: Server::login(),
                target: Server::login(),
                pgbouncer: Err("there is none".to_owned()),
            },
            seen: Snapshot {
                inventory: mitosis::observe::Listed::NotYet,
                now: jiff::Timestamp::now(),
                migration,
                secrets: Ok(()),
                members: vec![member("a1", Side::Source, a1), member("b1", Side::Target, b1)],
                objects: Objects::default(),
                traffic: Traffic::default(),
                source_user: Server::login().user,
                canary_replayed: true,
                fork: None,
            },
            age: Duration::ZERO,
        }
    }

    async fn act(&self, action: Action) -> Result<(), Error> {
        self.effects_of(action).await.map(drop)
    }

    /// Somebody else may act from now on.
    pub fn lose_lease(&mut self) {
        self.lease = Lease::for_now(Duration::ZERO);
    }

    /// Why a rewind was refused; nothing when it was begun.
    pub async fn rewind(&self, action: Action) -> Option<String> {
        self.effects_of(action).await.unwrap().rewind?.message
    }

    pub async fn effects_of(&self, action: Action) -> Result<Effects, Error> {
        // Nothing listens there.
        let nowhere = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let actor = Actor {
            client: &kube::Client::try_from(nowhere).unwrap(),
            lease: &self.lease,
            sessions: &self.sessions,
            refreshes: &Refreshes::default(),
            credentials: Some(&self.credentials),
            seen: &self.seen,
            read: Instant::now().checked_sub(self.age).unwrap(),
        };
        actor.act(&[action]).await
    }
}

fn arming(b1: &Server, token: &str) -> Action {
    Action::Arm {
        member: name("a1"),
        upstream: Box::new(conninfo(b1, "a1")),
        slot: name("a1").slot(),
        token: token.to_owned(),
    }
}

fn stop(armed_by: &str) -> Action {
    Action::Stop {
        member: name("a1"),
        armed_by: armed_by.to_owned(),
        by: StopBy::ShutDown,
    }
}

fn promotion(end: Lsn, proof: Proof) -> Action {
    Action::Promote {
        member: name("b1"),
        end,
        proof,
    }
}

async fn is_in_recovery(session: &Session) -> bool {
    fetch_server_switching(session).await.unwrap().in_recovery
}

#[tokio::test]
async fn a_server_that_replayed_more_than_was_proven_is_not_promoted() {
    let (a1, on_a1, b1, on_b1) = pair().await;
    let place = Place::of(&a1, &b1);
    let proven = fetch_server_switching(&on_b1).await.unwrap().lsn.unwrap();
    let written = write_marker(&on_a1, "late").await.unwrap();
    replayed(&on_b1, written).await;
    let refused = place.act(promotion(proven, Proof::SameEnd)).await;
    assert!(matches!(refused, Err(Error::Outdated(_))), "{refused:?}");
    assert!(is_in_recovery(&on_b1).await);

    a1.stop_at_once();
    let end = fetch_server_switching(&on_b1).await.unwrap().lsn.unwrap();
    place.act(promotion(end, Proof::SameEnd)).await.unwrap();
    assert!(!is_in_recovery(&on_b1).await);
}

#[tokio::test]
async fn a_server_is_promoted_for_a_shutdown_checkpoint_only_when_that_is_the_last_that_it_replayed() {
    let (a1, on_a1, b1, on_b1) = pair().await;
    let place = Place::of(&a1, &b1);
    let end = fetch_server_switching(&on_b1).await.unwrap().lsn.unwrap();
    let refused = place.act(promotion(end, Proof::ShutdownCheckpoint)).await;
    assert!(matches!(refused, Err(Error::Outdated(_))), "{refused:?}");

    place.act(arming(&b1, "u-1")).await.unwrap();
    place.act(stop("u-1")).await.unwrap();
    drop(on_a1);
    let proven = until("the checkpoint is replayed", async || {
        fetch_server_switching(&on_b1)
            .await
            .unwrap()
            .replayed_shutdown_checkpoint()
    })
    .await;
    let refused = place.act(promotion(end, Proof::ShutdownCheckpoint)).await;
    assert!(matches!(refused, Err(Error::Outdated(_))), "{refused:?}");
    assert!(is_in_recovery(&on_b1).await);
    place.act(promotion(proven, Proof::ShutdownCheckpoint)).await.unwrap();
    assert!(!is_in_recovery(&on_b1).await);
}

#[tokio::test]
async fn a_primary_is_stopped_only_by_the_order_that_armed_it() {
    let (a1, on_a1, b1, _on_b1) = pair().await;
    let place = Place::of(&a1, &b1);
    for armed_by in [None, Some("u-2")] {
        if let Some(token) = armed_by {
            place.act(arming(&b1, token)).await.unwrap();
        }
        let refused = place.act(stop("u-1")).await;
        assert!(matches!(refused, Err(Error::Outdated(_))), "{armed_by:?}: {refused:?}");
        assert!(!is_in_recovery(&on_a1).await, "{armed_by:?}");
    }
    place.act(stop("u-2")).await.unwrap();
    assert!(fetch_server_switching(&on_a1).await.is_err(), "it still serves");
}

#[tokio::test]
async fn a_server_is_made_primary_again_only_on_its_own_timeline_and_while_it_replays() {
    let (a1, _on_a1, b1, on_b1) = pair().await;
    let place = Place::of(&a1, &b1);
    let reinstate = |timeline| Action::Reinstate {
        member: name("b1"),
        timeline,
    };
    let client = b1.session_of("somebody").await;
    let refused = place.act(reinstate(2)).await;
    assert!(matches!(refused, Err(Error::Outdated(_))), "{refused:?}");
    client.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    let refused = place.act(reinstate(1)).await;
    assert!(matches!(refused, Err(Error::Outdated(_))), "{refused:?}");
    client.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    assert!(is_in_recovery(&on_b1).await);
    place.act(reinstate(1)).await.unwrap();
    assert!(!is_in_recovery(&on_b1).await);
}

fn disarming() -> Action {
    Action::Disarm {
        member: name("a1"),
        armed_by: Some("u-1".to_owned()),
    }
}

/// Everything that does harm when it comes late, in an order in which each could be done.
fn dangerous(b1: &Server, end: Lsn) -> [Action; 5] {
    let reinstate = Action::Reinstate {
        member: name("b1"),
        timeline: 1,
    };
    [
        promotion(end, Proof::SameEnd),
        reinstate,
        arming(b1, "u-2"),
        stop("u-1"),
        disarming(),
    ]
}

async fn assert_that_nothing_is_done(place: &Place, b1: &Server, on_a1: &Session, on_b1: &Session) {
    let before = fetch_server_switching(on_a1).await.unwrap();
    let end = fetch_server_switching(on_b1).await.unwrap().lsn.unwrap();
    for action in dangerous(b1, end) {
        let told = format!("{action:?}");
        assert!(place.act(action).await.is_err(), "{told}");
    }
    let after = fetch_server_switching(on_a1).await.unwrap();
    assert_eq!((after.armed_by.as_deref(), after.in_recovery), (Some("u-1"), false));
    assert_eq!(after.postmaster, before.postmaster);
    assert!(is_in_recovery(on_b1).await);
}

#[tokio::test]
async fn without_the_lease_nothing_is_done_that_cannot_be_taken_back() {
    let (a1, on_a1, b1, on_b1) = pair().await;
    let mut place = Place::of(&a1, &b1);
    place.act(arming(&b1, "u-1")).await.unwrap();
    place.lose_lease();
    assert_that_nothing_is_done(&place, &b1, &on_a1, &on_b1).await;
    place.lease = Lease::for_now(HELD);
    place.act(disarming()).await.unwrap();
    assert_eq!(fetch_server_switching(&on_a1).await.unwrap().armed_by, None);
}

#[tokio::test]
async fn nothing_that_cannot_be_taken_back_is_done_by_an_old_reading_while_the_api_server_is_away() {
    let (a1, on_a1, b1, on_b1) = pair().await;
    let mut place = Place::of(&a1, &b1);
    place.act(arming(&b1, "u-1")).await.unwrap();
    place.age = Duration::from_secs(1);
    assert_that_nothing_is_done(&place, &b1, &on_a1, &on_b1).await;
}
