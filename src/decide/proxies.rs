//! What would go wrong with HAProxy pods, found long before the switch.

use crate::{
    api::{Finding, Haproxy, ProxyPolicy, Severity},
    observe::{Misfit, ProxyPod, Snapshot},
};

/// Sessions of a former worker stay where they were led, and no command ends them.
pub fn find_former_workers(pod: &ProxyPod) -> Option<String> {
    let count = pod.report.as_ref()?.old_workers;
    (count > 0).then(|| {
        format!(
            "{} has {count} former workers, whose sessions no command ends: set hard-stop-after in its global section, or wait until they leave",
            pod.name
        )
    })
}

/// What is wrong, and what cures it.
const fn describe(misfit: Misfit) -> (&'static str, &'static str) {
    match misfit {
        Misfit::NoAgent => (
            "no container is an agent for this migration",
            "add `mitosis agent --configmap=NAME-routing` as in docs/own-haproxy.md",
        ),
        Misfit::FileNotShared => (
            "HAProxy does not have the volume in which the agent keeps its file",
            "mount the volume with the agent's --config-file in HAProxy's container as well",
        ),
        Misfit::FileBySubPath => (
            "HAProxy has the agent's file by subPath, and would go on with the first one",
            "mount the whole volume, without subPath",
        ),
        Misfit::FileNotRead => (
            "HAProxy is not told to read the agent's file",
            "add `-f` with the agent's --config-file, as docs/own-haproxy.md shows",
        ),
        Misfit::NoMaster => (
            "HAProxy is started without a master that could reload it",
            "start HAProxy with -W, or write master-worker in its global section",
        ),
        Misfit::NoMasterSocket => (
            "HAProxy's master does not listen for the agent's commands",
            "start HAProxy with -S /run/haproxy/master.sock,level,admin",
        ),
        Misfit::SocketsNotShared => (
            "HAProxy does not have the volume in which the agent looks for its sockets",
            "mount the volume with the agent's --master-socket in HAProxy's container as well",
        ),
    }
}

/// What is wrong with HAProxy pods of the user's own, or that a switch would go on without, as findings.
pub fn find_in_proxies(seen: &Snapshot) -> Vec<Finding> {
    let watched = |haproxy: &Haproxy| haproxy.own.is_some() || haproxy.policy == ProxyPolicy::BestEffort;
    let traffic = seen.migration.spec.traffic.as_ref();
    if !traffic.is_some_and(|traffic| watched(&traffic.haproxy)) || seen.traffic.routing.is_none() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut tell = |message: String, remedy: &str| {
        found.push(Finding {
            check: "haproxy".to_owned(),
            severity: Severity::Warn,
            member: None,
            message,
            remedy: remedy.to_owned(),
        });
    };
    if seen.traffic.pods.is_empty() {
        tell(
            "no HAProxy pod was found".to_owned(),
            "correct spec.traffic.haproxy.own.selector, or start one",
        );
    }
    for pod in &seen.traffic.pods {
        // Where the agent leads HAProxy, nothing keeps it from that, whatever the specification looks like.
        let leads = pod.report.as_ref().is_some_and(|report| report.error.is_none());
        for misfit in pod.misfits.iter().filter(|_| !leads) {
            let (message, remedy) = describe(*misfit);
            tell(format!("HAProxy pod {}: {message}", pod.name), remedy);
        }
        match &pod.report {
            None => tell(
                format!("no agent answers in HAProxy pod {}", pod.name),
                "look into its log; of your own pods each needs `mitosis agent` (docs/own-haproxy.md), and the operator's must reach port 8405",
            ),
            Some(report) => {
                if let Some(error) = &report.error {
                    tell(
                        format!("the agent in HAProxy pod {} says: {error}", pod.name),
                        "see the logs of HAProxy, which may not start with these routes, and of the agent; docs/own-haproxy.md tells how both are put together",
                    );
                }
            }
        }
        if let Some(message) = find_former_workers(pod) {
            tell(
                format!("HAProxy pod {message}"),
                "without it, a switch waits for them as soon as it holds clients",
            );
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{OwnHaproxy, Step},
        decide::world::World,
        haproxy::State,
    };

    fn own() -> World {
        let mut world = World::switching(Step::Gate);
        let haproxy = &mut world.seen.migration.spec.traffic.as_mut().unwrap().haproxy;
        haproxy.managed = None;
        haproxy.own = Some(OwnHaproxy {
            selector: [("app".to_owned(), "edge".to_owned())].into(),
            service_account_name: "edge".to_owned(),
            form: crate::api::OwnForm::File,
        });
        world.route(false, 3, State::Open);
        world
    }

    fn told(world: &World) -> Vec<String> {
        find_in_proxies(&world.seen)
            .into_iter()
            .map(|finding| finding.message)
            .collect()
    }

    #[test]
    fn haproxy_with_an_agent_that_runs_what_it_should_has_no_finding() {
        assert_eq!(told(&own()), Vec::<String>::new());
    }

    #[test]
    fn what_keeps_haproxy_from_being_led_is_told_with_its_pod() {
        type Break = fn(&mut World);
        let breaks: [(&str, Break); 4] = [
            ("no HAProxy pod was found", |world| world.seen.traffic.pods.clear()),
            ("no agent answers in HAProxy pod haproxy-1", |world| {
                world.seen.traffic.pods[0].report = None;
            }),
            ("haproxy-2 says: no master", |world| {
                world.seen.traffic.pods[1].report.as_mut().unwrap().error = Some("no master".to_owned());
            }),
            ("haproxy-1 has 2 former workers", |world| {
                world.seen.traffic.pods[0].report.as_mut().unwrap().old_workers = 2;
            }),
        ];
        for (words, break_it) in breaks {
            let mut world = own();
            break_it(&mut world);
            let told = told(&world);
            assert!(told.len() == 1 && told[0].contains(words), "{words}: {told:?}");
        }
    }

    #[test]
    fn how_a_pod_is_put_together_is_told_where_its_agent_does_not_lead_haproxy() {
        let mut world = own();
        world.seen.traffic.pods[0].misfits = vec![Misfit::NoMasterSocket];
        assert_eq!(told(&world), Vec::<String>::new());
        world.seen.traffic.pods[0].report.as_mut().unwrap().error = Some("no master".to_owned());
        let told = told(&world);
        assert!(
            told.len() == 2 && told[0].contains("haproxy-1: HAProxy's master does not listen"),
            "{told:?}"
        );
    }
}
