//! What would go wrong with HAProxy pods, found long before the switch.

use super::check::Check;
use crate::{
    agent::Report,
    api::{Finding, ProxyPolicy},
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
            "HAProxy has the file with the routes by subPath, and would go on with the first one",
            "mount the whole volume, without subPath",
        ),
        Misfit::FileNotRead => (
            "HAProxy is not told to read the file with the routes",
            "add `-f` with it, as docs/own-haproxy.md shows",
        ),
        Misfit::NotMounted => (
            "no container mounts the ConfigMap with the routes",
            "mount it in HAProxy's container as docs/own-haproxy.md shows",
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

/// What pods without an agent cost. The bound is the kubelet's: its sync period and the life of what it keeps of a ConfigMap, a minute each by
/// default, where it misses the annotation.
const WITHOUT_AGENT: &str = "the HAProxy pods have no agent: at a switch their clients are not held, but get errors from the stop of the old \
    primary until the kubelet has brought the file and HAProxy was reloaded: usually a second or two (make bench-routing), two minutes at worst";
const ADD_AN_AGENT: &str = "nothing, where that is good enough; else put the agent beside HAProxy, or PgBouncer before it, whose clients wait \
    (docs/own-haproxy.md)";

/// What is wrong with HAProxy pods of the user's own, or that a switch would go on without, as findings.
pub fn find_in_proxies(seen: &Snapshot) -> Vec<Finding> {
    let Some(traffic) = &seen.migration.spec.traffic else {
        return Vec::new();
    };
    let is_mounted = traffic.haproxy.mounted().is_some();
    let mut found = Vec::new();
    if is_mounted {
        found.push(Check::HaproxyWithoutAgent.finding(None, WITHOUT_AGENT, ADD_AN_AGENT));
    }
    let is_watched = traffic.haproxy.own.is_some() || traffic.haproxy.policy == ProxyPolicy::BestEffort;
    if !is_watched || seen.traffic.routing.is_none() {
        return found;
    }
    let mut tell = |message: String, remedy: &str| found.push(Check::Haproxy.finding(None, message, remedy));
    if seen.traffic.pods.is_empty() {
        tell(
            "no HAProxy pod was found".to_owned(),
            "correct spec.traffic.haproxy.own.selector, or start one",
        );
    }
    for pod in &seen.traffic.pods {
        // Where the agent leads HAProxy, nothing keeps it from that, whatever the specification looks like.
        let written = seen.traffic.routing.as_ref().map_or(0, |routing| routing.generation);
        let leads = |report: &Report| report.error.is_none() && (!is_mounted || report.is_running(written));
        let leads = pod.report.as_ref().is_some_and(leads);
        for misfit in pod.misfits.iter().filter(|_| !leads) {
            let (message, remedy) = describe(*misfit);
            tell(format!("HAProxy pod {}: {message}", pod.name), remedy);
        }
        match &pod.report {
            None if is_mounted => tell(
                format!("HAProxy in pod {} does not tell what it runs", pod.name),
                "see its log: it runs without the routes, or the operator's pod does not reach port 8405 of it (docs/own-haproxy.md)",
            ),
            Some(_) if is_mounted && !leads => tell(
                format!("HAProxy in pod {} goes on with a former routing", pod.name),
                "let something in the pod reload HAProxy when its file changes (docs/own-haproxy.md), and see its log for what it refuses",
            ),
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
            service_account_name: Some("edge".to_owned()),
            form: crate::api::OwnForm::File,
            mounted: None,
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

    #[test]
    fn pods_without_an_agent_have_their_price_told_and_what_keeps_them_from_following() {
        let mut world = World::switching(Step::Gate);
        world.mount();
        world.route(false, 3, State::Open);
        world.place_routing();
        let told = |world: &World| told(world)[1..].to_vec();
        assert!(find_in_proxies(&world.seen)[0].message.contains("two minutes at worst"));
        assert_eq!(told(&world), Vec::<String>::new());
        world.seen.traffic.pods[0].misfits = vec![Misfit::FileBySubPath];
        world.seen.traffic.pods[0].report.as_mut().unwrap().wanted = 2;
        assert!(told(&world)[0].contains("haproxy-1: HAProxy has the file with the routes by subPath"));
        assert!(told(&world)[1].contains("haproxy-1 goes on with a former routing"));
        world.seen.traffic.pods[0].report = None;
        assert!(told(&world)[1].contains("haproxy-1 does not tell what it runs"));
    }
}
