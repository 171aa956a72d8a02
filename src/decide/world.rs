//! A world for tests of decisions: a source of three servers, a target of three, two HAProxy pods.

use jiff::{SignedDuration, Timestamp};

use super::{Decided, Decision, decide};
use crate::{
    agent::{Desired, Report, ReportState},
    api::{
        ClusterMigration, ClusterMigrationStatus, DesiredPhase, Mounted, OwnConfigMap, OwnForm, OwnHaproxy, Part,
        Phase, Side, Step, SwitchoverStatus,
    },
    haproxy::State,
    observe::{
        JobState, Lead, Listed, Member, Objects, Placed, Pooler, PoolerPlace, ProxyPod, Sight, Snapshot, Traffic,
        target_members,
    },
    pgbouncer::{Database, Instance, Settings},
    postgres::{Clients, Listing, MemberName, Server},
    resources::{Kind, probe_name},
};

/// Image of the agent in these worlds.
pub const AGENT: &str = "mitosis:test";

/// A server of the cluster `7` on timeline 1 that replayed or wrote up to 0/5000100.
pub fn server(in_recovery: bool) -> Server {
    let settings = serde_json::json!({
        "max_connections": "100", "max_worker_processes": "8", "max_wal_senders": "10", "max_prepared_transactions": "0",
        "max_locks_per_transaction": "64", "max_replication_slots": "10", "wal_level": "replica", "wal_keep_size": "0",
        "full_page_writes": "on", "max_slot_wal_keep_size": "1024",
    });
    serde_json::from_value(serde_json::json!({
        "in_recovery": in_recovery, "version": 150_004, "system_identifier": "7", "timeline": 1, "lsn": "0/5000100",
        "segment_bytes": 16_777_216, "receiver_status": in_recovery.then_some("streaming"), "sender_host": null, "sender_port": null,
        "receiver_silence": 0.1, "replay_paused": false, "follows_as": null, "follows_host": null, "follows_port": null,
        "standby_signal": in_recovery, "checkpoint": "0/4000028", "redo": "0/4000000", "superuser": true, "replication": true,
        "slots": [], "free_slots": 9, "free_walsenders": 9, "standbys": [], "prepared_transactions": 0, "oldest_transaction": 0.0,
        "oldest_idle_transaction": 0.0, "received": null, "canary_schema": false, "manager": null, "backups": [], "database_bytes": 1_000_000, "tablespaces": [], "settings": settings, "data_directory": "/data",
    }))
    .expect("the fields of a server")
}

/// The world.
#[derive(Clone)]
pub struct World {
    /// What is seen.
    pub seen: Snapshot,
}

impl World {
    /// A source whose preflight passes, and nothing made yet.
    pub fn new(phase: DesiredPhase) -> Self {
        let mut migration: ClusterMigration =
            serde_saphyr::from_str(include_str!("../../examples/clustermigration.yaml")).expect("the example");
        migration.spec.phase = phase;
        migration.metadata.uid = Some("u".to_owned());
        migration.status = Some(ClusterMigrationStatus::default());
        let mut members: Vec<Member> = migration
            .spec
            .source
            .members
            .iter()
            .map(|member| Member {
                name: MemberName::try_from(member.name.as_str()).expect("a name"),
                side: Side::Source,
                address: format!("{}:5432", member.host).parse().expect("an address"),
                outside: None,
                sight: Sight::Seen(Box::new(server(member.name != "a1"))),
            })
            .collect();
        members.extend(target_members(&migration).into_iter().map(|name| Member {
            address: format!("{name}.shop.svc:5432").parse().expect("an address"),
            outside: "10.244.0.1:30001".parse().ok(),
            name,
            side: Side::Target,
            sight: Sight::NotLooked,
        }));
        let mut objects = Objects::default();
        for (member, ip) in [
            ("shop-1", "10.96.0.9"),
            ("shop-2", "10.96.0.8"),
            ("shop-3", "10.96.0.7"),
        ] {
            objects.cluster_ips.insert(member.to_owned(), ip.to_owned());
        }
        Self {
            seen: Snapshot {
                now: "2026-01-01T00:00:00Z".parse().expect("a time"),
                migration,
                secrets: Ok(()),
                members,
                objects,
                traffic: Traffic::default(),
                inventory: Listed::NotYet,
                source_user: "mitosis".to_owned(),
                canary_replayed: false,
                fork: None,
            },
        }
        .probed(&Listing::default(), &serde_json::json!({}))
    }

    /// The source uses this, and the probe found an image of PostgreSQL 15 that lacks that.
    pub fn probed(mut self, listing: &Listing, lacks: &serde_json::Value) -> Self {
        let mut answer = serde_json::json!({
            "version": 150_004, "platform": listing.inventory.platform, "layout": {}, "collations": [], "locales": [], "extensions": {},
            "libraries": [], "time_zones": [], "parameters": [],
        });
        for (key, value) in lacks.as_object().expect("an object") {
            answer[key] = value.clone();
        }
        let probe = probe_name(&self.seen.migration, &listing.inventory);
        let said = JobState::Succeeded(answer.to_string());
        self.seen
            .objects
            .applied
            .insert((Kind::Job, probe.clone()), String::new());
        self.seen.objects.jobs.insert(probe, said);
        self.seen.inventory = Listed::Seen(Box::new(listing.clone()));
        self
    }

    /// A switchover that has come to a step, with everything seen as that step expects it to begin with.
    pub fn switching(step: Step) -> Self {
        let mut world = Self::new(DesiredPhase::Switched);
        for name in ["shop-1", "shop-2", "shop-3"] {
            world.set(name, server(true));
            world
                .seen
                .objects
                .pod_roles
                .insert(name.to_owned(), Some("standby".to_owned()));
        }
        let now = world.seen.now;
        let mut record = SwitchoverStatus {
            id: "u-1".to_owned(),
            attempt: 1,
            step,
            old_primary: "a1".to_owned(),
            new_primary: "shop-1".to_owned(),
            to: Side::Target,
            began_in: Phase::Replicating,
            way_back_since: None,
            system_identifier: "7".to_owned(),
            timeline: 1,
            generation: 4,
            deadline: (step != Step::Gate).then(|| now + SignedDuration::from_secs(30)),
            canary_lsn: Some("0/5000080".to_owned()),
            armed_lsn: Some("0/50000C0".to_owned()),
            end_of_wal: None,
            proof: None,
            first_write: None,
            alarm: None,
            unresumed: Vec::new(),
            left_out: Vec::new(),
            analyzed: false,
            abort_reason: None,
            steps: Vec::new(),
            certificate: None,
        };
        let status = world.status();
        status.phase = Phase::Switching;
        status.system_identifier = Some("7".to_owned());
        status.clone_source = Some("a2".to_owned());
        if step.is_past_no_return() {
            record.end_of_wal = Some("0/5000178".to_owned());
            record.proof = Some(crate::api::Proof::ShutdownCheckpoint);
        }
        status.switchover = Some(record);
        match step {
            Step::Gate | Step::Arm | Step::Restore | Step::Release | Step::Aborted => {}
            Step::Hold | Step::Stop => world.arm(),
            Step::Prove | Step::Promote | Step::Route | Step::Follow | Step::Finish | Step::Done => {
                world.set("a1", server(true));
            }
        }
        world.seen.traffic.pods = ["haproxy-1", "haproxy-2"]
            .map(|name| ProxyPod {
                name: name.to_owned(),
                addresses: vec!["10.244.0.7".parse().expect("an address")],
                report: Some(Report::default()),
                was_asked: true,
                lead: Lead::Unknown,
                misfits: Vec::new(),
                refreshed: None,
            })
            .into();
        world
    }

    /// The recorded status.
    pub fn status(&mut self) -> &mut ClusterMigrationStatus {
        self.seen.migration.status.as_mut().expect("a status")
    }

    /// Lets a server be seen as it is given.
    pub fn set(&mut self, name: &str, server: Server) {
        self.member(name).sight = Sight::Seen(Box::new(server));
    }

    /// Changes what is seen of a server.
    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut Server)) {
        if let Sight::Seen(server) = &mut self.member(name).sight {
            change(server);
        }
    }

    /// A server is not seen.
    pub fn lose(&mut self, name: &str) {
        self.member(name).sight = Sight::Unreachable("no route to host".to_owned());
    }

    fn member(&mut self, name: &str) -> &mut Member {
        self.seen
            .members
            .iter_mut()
            .find(|member| member.name.as_str() == name)
            .expect("the member")
    }

    /// The old primary comes back as a standby of the leader.
    pub fn arm(&mut self) {
        self.change("a1", |a1| {
            a1.standby_signal = true;
            a1.armed_by = Some("u-1".to_owned());
            a1.follows_as = Some("mitosis_a1".to_owned());
            a1.follows_host = Some("10.244.0.1".to_owned());
            a1.follows_port = Some(30001);
        });
    }

    /// Nothing forbids to begin a switchover.
    pub fn open_gate(&mut self) {
        if self.seen.migration.spec.traffic.is_some() {
            self.route(false, 3, State::Open);
        }
        for name in ["shop-2", "shop-3"] {
            self.change(name, |follower| {
                follower.follows_as = Some(format!("mitosis_{}", name.replace('-', "_")));
                follower.follows_host = Some("shop-1.shop.svc".to_owned());
                follower.follows_port = Some(5432);
            });
        }
    }

    /// The leader replayed the shutdown checkpoint of the old primary, and the canary is there.
    pub fn prove(&mut self) {
        self.seen.canary_replayed = true;
        self.change("shop-1", |server| {
            server.checkpoint = "0/5000100".parse().expect("a position");
            server.redo = server.checkpoint;
            server.lsn = "0/5000178".parse().ok();
        });
    }

    /// A row on the new primary was acknowledged after clients were released.
    pub fn confirm(&mut self) {
        let now = self.seen.now;
        if let Some(record) = self.status().switchover.as_mut() {
            record.first_write = Some(now);
        }
    }

    /// A client is connected to a1 itself.
    pub fn bypass(&mut self) {
        self.change("a1", |a1| {
            a1.clients = vec![Clients {
                address: "10.20.0.5".parse().ok(),
                user: "shop".to_owned(),
                application: "cron".to_owned(),
                sessions: 1,
            }];
        });
    }

    /// A person gives up what a1 alone holds up to a position.
    pub fn ask_to_rewind(&mut self, discard: &str) {
        self.seen.migration.spec.rollback.rewind = Some(crate::api::Rewind {
            member: "a1".to_owned(),
            discard: discard.to_owned(),
            attempt: 1,
        });
    }

    /// Two instances of PgBouncer stand before HAProxy.
    pub fn pool(&mut self) {
        let traffic = self.seen.migration.spec.traffic.as_mut().expect("routes");
        let spec = serde_json::json!({"hosts": ["10.20.0.31:6432", "10.20.0.32:6432"], "credentials": {"secretName": "shop-pgbouncer"}});
        traffic.pgbouncer = Some(serde_json::from_value(spec).expect("the specification of PgBouncer"));
        self.seen.traffic.poolers = [1, 2]
            .map(|number| Pooler {
                place: PoolerPlace {
                    name: format!("pgbouncer-{number}"),
                    address: format!("10.20.0.3{number}:6432").parse().expect("an address"),
                },
                sight: Ok(Instance {
                    databases: vec![Database {
                        name: "app".parse().expect("a name"),
                        paused: false,
                        server_connections: 3,
                        pools_sessions: None,
                        keeps_servers: false,
                    }],
                    settings: Some(Settings {
                        shares_port: false,
                        pools_sessions: false,
                        query_wait: Some(std::time::Duration::from_secs(120)),
                    }),
                }),
            })
            .into();
    }

    /// Both instances of PgBouncer let their clients wait, and have this many server connections left.
    pub fn pause(&mut self, server_connections: u64) {
        for pooler in 0..2 {
            self.change_pooler(pooler, |instance| {
                instance.databases[0].paused = true;
                instance.databases[0].server_connections = server_connections;
            });
        }
    }

    /// Changes what is seen of an instance of PgBouncer.
    pub fn change_pooler(&mut self, index: usize, change: impl FnOnce(&mut Instance)) {
        change(self.seen.traffic.poolers[index].sight.as_mut().expect("it is seen"));
    }

    /// Every agent reports what the routing of the running switchover asks for.
    pub fn route(&mut self, leader_is_primary: bool, generation: u64, state: State) {
        let name = if leader_is_primary { "shop-1" } else { "a1" };
        let primary = self.seen.member(name).expect("the primary").clone();
        let configuration =
            super::routing::plan_configuration(&self.seen, &primary, generation, state).expect("a configuration");
        self.seen.traffic.routing = Some(Desired::from(&configuration));
        for pod in &mut self.seen.traffic.pods {
            pod.lead = match state {
                State::Open => Lead::ToPrimary,
                State::Held => Lead::Unknown,
            };
            pod.report = Some(Report {
                generation: Some(if state == State::Held {
                    generation - 1
                } else {
                    generation
                }),
                wanted: generation,
                state: if state == State::Held {
                    ReportState::Held
                } else {
                    ReportState::Running
                },
                ..Report::default()
            });
        }
    }

    /// HAProxy has no agent, and mounts a ConfigMap of the user's own with a marked block for the routing.
    pub fn mount(&mut self) {
        let traffic = self.seen.migration.spec.traffic.as_mut().expect("there are routes");
        traffic.haproxy.managed = None;
        traffic.haproxy.own = Some(OwnHaproxy {
            selector: [("app".to_owned(), "edge".to_owned())].into(),
            service_account_name: None,
            form: OwnForm::File,
            mounted: Some(Mounted {
                config_map: Some(OwnConfigMap {
                    name: "edge".to_owned(),
                    key: "haproxy.cfg".to_owned(),
                    part: Part::Block,
                }),
            }),
        });
        self.place("");
    }

    /// What stands in the block, written by the operator for its present routing.
    pub fn place(&mut self, block: &str) {
        self.seen.traffic.placed = Placed::Seen {
            resource_version: "12".to_owned(),
            text: Some(format!("global\n# BEGIN mitosis shop\n{block}# END mitosis shop\n")),
            generation: self.seen.traffic.routing.as_ref().map(|routing| routing.generation),
            editor: None,
        };
    }

    /// The user's ConfigMap has what the routing says.
    pub fn place_routing(&mut self) {
        let routing = self.seen.traffic.routing.clone().expect("a routing");
        self.place(&routing.configuration);
    }

    /// Time passes.
    pub fn pass(&mut self, seconds: i64) {
        let now: Timestamp = self.seen.now;
        self.seen.now = now + SignedDuration::from_secs(seconds);
    }

    /// What is decided.
    pub fn decide(&self) -> Decided {
        decide(&self.seen, AGENT)
    }

    /// The step that is entered.
    pub fn advances_to(&self) -> Option<Step> {
        match self.decide().decision {
            Decision::Advance(advance) => Some(advance.to),
            _ => None,
        }
    }

    /// The sentence for a person when nothing goes on.
    pub fn halts(&self) -> Option<String> {
        match self.decide().decision {
            Decision::Halt { told } => Some(told.message),
            _ => None,
        }
    }
}
