//! How a pod with the user's own HAProxy is put together, as far as its specification tells.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, PodSpec, VolumeMount};

use crate::{api::ClusterMigration, resources::routing_name};

/// What keeps the agent of a pod from leading HAProxy.
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
}

/// Arguments of the agent, and the environment that stands for each.
const CONFIG_MAP: (&str, &str) = ("--configmap", "MITOSIS_CONFIGMAP");
const CONFIG_FILE: (&str, &str) = ("--config-file", "MITOSIS_CONFIG_FILE");
const MASTER_SOCKET: (&str, &str) = ("--master-socket", "MITOSIS_MASTER_SOCKET");

/// What is wrong with a pod; nothing where its specification does not tell.
pub fn find_misfits(pod: &PodSpec, migration: &ClusterMigration) -> Vec<Misfit> {
    let routing = routing_name(migration);
    // One that stays beside the others may be an init container since Kubernetes 1.28.
    let stays = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = pod.init_containers.iter().flatten().filter(stays);
    let containers: Vec<&Container> = pod.containers.iter().chain(sidecars).collect();
    let is_agent = |container: &&&Container| argument(container, CONFIG_MAP).as_deref() == Some(routing.as_str());
    let Some(agent) = containers.iter().find(is_agent) else {
        return vec![Misfit::NoAgent];
    };
    let others: Vec<&Container> = containers
        .iter()
        .filter(|other| other.name != agent.name)
        .copied()
        .collect();
    let file = argument(agent, CONFIG_FILE).unwrap_or_else(|| "/etc/haproxy-mitosis/haproxy.cfg".to_owned());
    let file = PathBuf::from(file);
    let Some(mount) = mount_of(agent, &file) else {
        return vec![Misfit::FileNotShared];
    };
    let Some((haproxy, its)) = others
        .iter()
        .find_map(|other| Some((other, mount_named(other, &mount.name)?)))
    else {
        return vec![Misfit::FileNotShared];
    };
    let mut misfits = Vec::new();
    if its.sub_path.is_some() || its.sub_path_expr.is_some() {
        misfits.push(Misfit::FileBySubPath);
    }
    let inside = file.strip_prefix(&mount.mount_path).unwrap_or(&file);
    misfits.extend(find_in_command(
        &words(haproxy),
        &Path::new(&its.mount_path).join(inside),
    ));
    let master = argument(agent, MASTER_SOCKET).unwrap_or_else(|| "/run/haproxy/master.sock".to_owned());
    let sockets = mount_of(agent, Path::new(&master));
    if sockets.is_none_or(|sockets| mount_named(haproxy, &sockets.name).is_none()) {
        misfits.push(Misfit::SocketsNotShared);
    }
    misfits
}

/// Without a command the image's own is what counts, which is not seen.
fn find_in_command(words: &[String], file: &Path) -> Vec<Misfit> {
    let mut misfits = Vec::new();
    let names_haproxy = words
        .iter()
        .any(|word| Path::new(word).file_name().is_some_and(|name| name == "haproxy"));
    let has = |options: &[&str]| words.iter().any(|word| options.contains(&word.as_str()));
    if names_haproxy && !has(&["-W", "-Ws"]) {
        misfits.push(Misfit::NoMaster);
    }
    if !words.is_empty() && !has(&["-S"]) {
        misfits.push(Misfit::NoMasterSocket);
    }
    // The file, or a folder that it is in.
    if !words.is_empty() && !words.iter().any(|word| word.starts_with('/') && file.starts_with(word)) {
        misfits.push(Misfit::FileNotRead);
    }
    misfits
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
        let text = include_str!("../../examples/own-haproxy.yaml");
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
                mount.sub_path = Some("here".to_owned());
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
}
