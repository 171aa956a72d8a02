//! How a pod with the user's own HAProxy is put together, as far as its specification tells.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, KeyToPath, PodSpec, Volume, VolumeMount};

use crate::{
    agent::ROUTING_KEY,
    api::{ClusterMigration, Mounted},
    resources::routing_name,
};

/// What keeps HAProxy in a pod from being led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// No container is an agent that watches the routing.
    NoAgent,
    /// No other container has the volume with the agent's file.
    FileNotShared,
    /// HAProxy has the file by `subPath`: it would go on with the first one.
    FileBySubPath,
    /// HAProxy is not told to read the file.
    FileNotRead,
    /// HAProxy is started without a master that could reload it.
    NoMaster,
    /// HAProxy's master does not listen for commands.
    NoMasterSocket,
    /// HAProxy does not have the volume in which the agent looks for its sockets.
    SocketsNotShared,
    /// Without an agent: no container mounts the ConfigMap with the routing.
    NotMounted,
}

/// Arguments of the agent, and the environment that stands for each.
const CONFIG_MAP: (&str, &str) = ("--configmap", "MITOSIS_CONFIGMAP");
const CONFIG_FILE: (&str, &str) = ("--config-file", "MITOSIS_CONFIG_FILE");
const MASTER_SOCKET: (&str, &str) = ("--master-socket", "MITOSIS_MASTER_SOCKET");

/// What is wrong with a pod; nothing where its specification does not tell.
pub fn find_misfits(pod: &PodSpec, migration: &ClusterMigration) -> Vec<Misfit> {
    let traffic = migration.spec.traffic.as_ref();
    match traffic.and_then(|traffic| traffic.haproxy.mounted()) {
        Some(mounted) => find_in_mounted(pod, migration, mounted),
        None => find_beside_agent(pod, migration),
    }
}

/// Those that stay: one that does beside the others may be an init container since Kubernetes 1.28.
fn list_containers(pod: &PodSpec) -> Vec<&Container> {
    let stays = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = pod.init_containers.iter().flatten().filter(stays);
    pod.containers.iter().chain(sidecars).collect()
}

fn find_in_mounted(pod: &PodSpec, migration: &ClusterMigration, mounted: &Mounted) -> Vec<Misfit> {
    let (name, key) = match &mounted.config_map {
        Some(own) => (own.name.clone(), own.key.clone()),
        None => (routing_name(migration), ROUTING_KEY.to_owned()),
    };
    let containers = list_containers(pod);
    let mounts = pod.volumes.iter().flatten().filter_map(|volume| {
        let path = path_in(volume, &name, &key)?;
        let mounting = containers.iter().filter_map(|container| {
            let mount = mount_named(container, &volume.name)?;
            Some((*container, mount, path.clone()))
        });
        // Others may look at the file as well, such as what reloads HAProxy.
        mounting.max_by_key(|(container, ..)| is_haproxy(container))
    });
    let Some((haproxy, mount, path)) = mounts.max_by_key(|(container, ..)| is_haproxy(container)) else {
        return vec![Misfit::NotMounted];
    };
    let mut misfits = Vec::new();
    let file = if mount.sub_path.is_some() || mount.sub_path_expr.is_some() {
        misfits.push(Misfit::FileBySubPath);
        PathBuf::from(&mount.mount_path)
    } else {
        Path::new(&mount.mount_path).join(path)
    };
    misfits.extend(find_in_command(haproxy, &file));
    misfits
}

/// Where a volume has a key of a ConfigMap.
fn path_in(volume: &Volume, name: &str, key: &str) -> Option<String> {
    let place = |items: &Option<Vec<KeyToPath>>| match items {
        Some(items) => items.iter().find(|item| item.key == key).map(|item| item.path.clone()),
        None => Some(key.to_owned()),
    };
    let whole = volume.config_map.as_ref().filter(|config| config.name == name);
    let sources = volume
        .projected
        .iter()
        .flat_map(|projected| projected.sources.iter().flatten());
    let mut parts = sources.filter_map(|source| source.config_map.as_ref().filter(|config| config.name == name));
    whole
        .and_then(|config| place(&config.items))
        .or_else(|| parts.find_map(|config| place(&config.items)))
}

fn find_beside_agent(pod: &PodSpec, migration: &ClusterMigration) -> Vec<Misfit> {
    let routing = routing_name(migration);
    let containers = list_containers(pod);
    let is_agent = |container: &&&Container| argument(container, CONFIG_MAP).as_deref() == Some(routing.as_str());
    let Some(agent) = containers.iter().find(is_agent) else {
        let unread = containers.iter().any(|container| is_said_elsewhere(container));
        return if unread { Vec::new() } else { vec![Misfit::NoAgent] };
    };
    let file = argument(agent, CONFIG_FILE).unwrap_or_else(|| "/etc/haproxy-mitosis/haproxy.cfg".to_owned());
    let file = PathBuf::from(file);
    let Some(mount) = mount_of(agent, &file) else {
        return vec![Misfit::FileNotShared];
    };
    let others = containers.iter().filter(|other| other.name != agent.name);
    let sharing = others.filter_map(|other| Some((*other, mount_named(other, &mount.name)?)));
    // Others may look at the file as well, such as an exporter.
    let Some((haproxy, its)) = sharing.max_by_key(|(other, _)| is_haproxy(other)) else {
        return vec![Misfit::FileNotShared];
    };
    let mut misfits = Vec::new();
    let inside = file.strip_prefix(&mount.mount_path).unwrap_or(&file);
    let file = if its.sub_path.as_deref().is_some_and(|part| Path::new(part) == inside) {
        misfits.push(Misfit::FileBySubPath);
        PathBuf::from(&its.mount_path)
    } else {
        Path::new(&its.mount_path).join(inside)
    };
    misfits.extend(find_in_command(haproxy, &file));
    if !words(haproxy).iter().any(|word| word == "-S") && names_haproxy(&words(haproxy)) {
        misfits.push(Misfit::NoMasterSocket);
    }
    let master = argument(agent, MASTER_SOCKET).unwrap_or_else(|| "/run/haproxy/master.sock".to_owned());
    let sockets = mount_of(agent, Path::new(&master));
    if sockets.is_none_or(|sockets| mount_named(haproxy, &sockets.name).is_none()) {
        misfits.push(Misfit::SocketsNotShared);
    }
    misfits
}

/// What a container is started with tells of HAProxy's options only where it names HAProxy: else the image or a script has its own. Images of
/// HAProxy begin a command that is not their own with `-W`.
fn find_in_command(container: &Container, file: &Path) -> Vec<Misfit> {
    let mut misfits = Vec::new();
    let words = words(container);
    let has = |options: &[&str]| words.iter().any(|word| options.contains(&word.as_str()));
    if names_haproxy(&words) {
        if container.command.is_some() && !has(&["-W", "-Ws"]) {
            misfits.push(Misfit::NoMaster);
        }
        // The file, or a folder that it is in.
        if !words.iter().any(|word| word.starts_with('/') && file.starts_with(word)) {
            misfits.push(Misfit::FileNotRead);
        }
    }
    misfits
}

fn names_haproxy(words: &[String]) -> bool {
    let is_haproxy = |word: &String| Path::new(word).file_name().is_some_and(|name| name == "haproxy");
    words.iter().any(is_haproxy)
}

fn is_haproxy(container: &Container) -> bool {
    let image = container.image.as_deref().unwrap_or_default();
    let image = image.rsplit('/').next().and_then(|name| name.split([':', '@']).next());
    names_haproxy(&words(container)) || image.is_some_and(|name| name.contains("haproxy") && !name.contains("exporter"))
}

/// Whether a container is given arguments or variables that the specification does not show.
fn is_said_elsewhere(container: &Container) -> bool {
    let mut environment = container.env.iter().flatten();
    container.env_from.is_some()
        || environment.any(|env| env.name == CONFIG_MAP.1 && env.value_from.is_some())
        || argument(container, CONFIG_MAP).is_some_and(|value| value.contains("$("))
}

/// Everything that a container is started with, also inside a command for a shell.
fn words(container: &Container) -> Vec<String> {
    let texts = container.command.iter().chain(&container.args).flatten();
    let words = texts.flat_map(|text| text.split_whitespace());
    words.map(|word| word.trim_matches(['"', '\'']).to_owned()).collect()
}

fn argument(container: &Container, (name, variable): (&str, &str)) -> Option<String> {
    let words = words(container);
    let said = words.iter().position(|word| word.split('=').next() == Some(name));
    let said = said.and_then(|at| match words[at].split_once('=') {
        Some((_, value)) => Some(value.to_owned()),
        None => words.get(at + 1).cloned(),
    });
    let mut environment = container.env.iter().flatten();
    said.or_else(|| environment.find(|env| env.name == variable)?.value.clone())
}

/// The mount that a path is in.
fn mount_of<'a>(container: &'a Container, path: &Path) -> Option<&'a VolumeMount> {
    let mounts = container.volume_mounts.iter().flatten();
    mounts
        .filter(|mount| path.starts_with(&mount.mount_path))
        .max_by_key(|mount| mount.mount_path.len())
}

fn mount_named<'a>(container: &'a Container, volume: &str) -> Option<&'a VolumeMount> {
    container
        .volume_mounts
        .iter()
        .flatten()
        .find(|mount| mount.name == volume)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::Deployment;

    fn example() -> PodSpec {
        pod_of(include_str!("../../examples/own-haproxy.yaml"))
    }

    fn pod_of(text: &str) -> PodSpec {
        let text = text
            .split("\n---\n")
            .find(|text| text.contains("kind: Deployment"))
            .unwrap();
        let deployment: Deployment = serde_saphyr::from_str(text).unwrap();
        deployment.spec.unwrap().template.spec.unwrap()
    }

    fn misfits(pod: &PodSpec) -> Vec<Misfit> {
        let migration: ClusterMigration =
            serde_saphyr::from_str(include_str!("../../examples/clustermigration.yaml")).unwrap();
        find_misfits(pod, &migration)
    }

    fn haproxy(pod: &mut PodSpec) -> &mut Container {
        pod.containers
            .iter_mut()
            .find(|container| container.name == "haproxy")
            .unwrap()
    }

    #[test]
    fn nothing_is_wrong_with_the_example_nor_with_an_image_that_starts_haproxy_by_itself() {
        let mut pod = example();
        assert_eq!(misfits(&pod), []);
        haproxy(&mut pod).command = None;
        assert_eq!(misfits(&pod), []);
        haproxy(&mut pod).args = Some(vec!["/start.sh".to_owned()]);
        assert_eq!(misfits(&pod), []);
        let agent = pod
            .containers
            .iter_mut()
            .find(|container| container.name == "mitosis")
            .unwrap();
        let said = agent
            .args
            .as_mut()
            .unwrap()
            .iter_mut()
            .find(|word| word.starts_with("--configmap"));
        *said.unwrap() = "--configmap=$(ROUTING)".to_owned();
        assert_eq!(misfits(&pod), []);
    }

    #[test]
    fn each_part_that_does_not_fit_is_known_from_the_others() {
        type Break = fn(&mut PodSpec);
        let breaks: [(Misfit, Break); 7] = [
            (Misfit::NoAgent, |pod| {
                pod.containers.retain(|container| container.name != "mitosis");
            }),
            (Misfit::FileNotShared, |pod| {
                let mounts = haproxy(pod).volume_mounts.as_mut().unwrap();
                mounts.retain(|mount| mount.name != "mitosis");
            }),
            (Misfit::FileBySubPath, |pod| {
                let mounts = haproxy(pod).volume_mounts.as_mut().unwrap();
                let mount = mounts.iter_mut().find(|mount| mount.name == "mitosis").unwrap();
                mount.sub_path = Some("mitosis.cfg".to_owned());
                mount.mount_path = "/etc/haproxy-mitosis/mitosis.cfg".to_owned();
            }),
            (Misfit::FileNotRead, |pod| {
                let command = haproxy(pod).command.as_mut().unwrap();
                command.retain(|word| !word.ends_with("mitosis.cfg"));
            }),
            (Misfit::NoMaster, |pod| {
                haproxy(pod).command.as_mut().unwrap().retain(|word| word != "-W");
            }),
            (Misfit::NoMasterSocket, |pod| {
                haproxy(pod).command.as_mut().unwrap().retain(|word| word != "-S");
            }),
            (Misfit::SocketsNotShared, |pod| {
                let mounts = haproxy(pod).volume_mounts.as_mut().unwrap();
                mounts.retain(|mount| mount.name != "sockets");
            }),
        ];
        for (misfit, break_it) in breaks {
            let mut pod = example();
            break_it(&mut pod);
            assert_eq!(misfits(&pod), [misfit]);
        }
    }

    #[test]
    fn without_an_agent_haproxy_must_read_the_file_from_a_mount_that_changes() {
        type Break = fn(&mut PodSpec);
        fn configuration(pod: &mut PodSpec) -> &mut VolumeMount {
            haproxy(pod)
                .volume_mounts
                .iter_mut()
                .flatten()
                .find(|mount| mount.name == "configuration")
                .unwrap()
        }
        let mut migration: ClusterMigration =
            serde_saphyr::from_str(include_str!("../../examples/clustermigration.yaml")).unwrap();
        let own = serde_json::json!({"own": {"selector": {"app": "edge"}, "mounted": {"configMap": {"name": "edge", "key": "haproxy.cfg"}}}});
        migration.spec.traffic.as_mut().unwrap().haproxy = serde_json::from_value(own).unwrap();
        let example = pod_of(include_str!("../../examples/own-haproxy-mounted.yaml"));
        assert_eq!(find_misfits(&example, &migration), []);
        let breaks: [(Misfit, Break); 5] = [
            (Misfit::NotMounted, |pod| {
                pod.volumes.as_mut().unwrap()[0].config_map.as_mut().unwrap().name = "other".to_owned();
            }),
            (Misfit::NotMounted, |pod| haproxy(pod).volume_mounts = None),
            (Misfit::FileBySubPath, |pod| {
                let mount = configuration(pod);
                mount.sub_path = Some("haproxy.cfg".to_owned());
                mount.mount_path = "/etc/haproxy/haproxy.cfg".to_owned();
            }),
            (Misfit::FileNotRead, |pod| {
                configuration(pod).mount_path = "/etc/elsewhere".to_owned();
            }),
            (Misfit::NoMaster, |pod| {
                haproxy(pod).command = Some(vec!["haproxy".to_owned(), "-f".to_owned(), "/etc/haproxy".to_owned()]);
            }),
        ];
        for (misfit, break_it) in breaks {
            let mut pod = example.clone();
            break_it(&mut pod);
            assert_eq!(find_misfits(&pod, &migration), [misfit]);
        }
    }
}
