//! Answers: from the core's records to the CRI's types.

use std::collections::{BTreeMap, HashMap};

use berth_api::cri::v1::{self as cri, NamespaceMode};
use berth_images::Image;
use berth_lifecycle::record::{ContainerRecord, ContainerState, PodRecord, PodState};
use berth_lifecycle::request::{
    IdRange, ImageMount, MountRequest, PodRequest, Propagation, Resources, Scope, UserNamespace,
};
use berth_lifecycle::{Event, EventKind};

use crate::ask::signal_of;

pub fn pod(record: &PodRecord) -> cri::PodSandbox {
    cri::PodSandbox {
        id: record.id.to_string(),
        metadata: Some(pod_metadata(&record.request)),
        state: pod_state(record.state) as i32,
        created_at: record.created_at,
        labels: unsorted(&record.request.labels),
        annotations: unsorted(&record.request.annotations),
        runtime_handler: record.request.runtime_handler.clone(),
    }
}

pub fn pod_status(record: &PodRecord) -> cri::PodSandboxStatus {
    let mut ips = record.ips.iter().map(ToString::to_string);
    let network = cri::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
    };
    let scopes = &record.request.namespaces;
    let options = cri::NamespaceOption {
        network: mode(&scopes.network) as i32,
        pid: mode(&scopes.pid) as i32,
        ipc: mode(&scopes.ipc) as i32,
        userns_options: Some(user_namespace(scopes.user.as_ref())),
        ..Default::default()
    };
    cri::PodSandboxStatus {
        id: record.id.to_string(),
        metadata: Some(pod_metadata(&record.request)),
        state: pod_state(record.state) as i32,
        created_at: record.created_at,
        network: Some(network),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace {
                options: Some(options),
            }),
        }),
        labels: unsorted(&record.request.labels),
        annotations: unsorted(&record.request.annotations),
        runtime_handler: record.request.runtime_handler.clone(),
    }
}

/// An event with the pod and all its containers as they are after it.
pub fn event(event: &Event) -> cri::ContainerEventResponse {
    let kind = match event.kind {
        EventKind::Created => cri::ContainerEventType::ContainerCreatedEvent,
        EventKind::Started => cri::ContainerEventType::ContainerStartedEvent,
        EventKind::Stopped => cri::ContainerEventType::ContainerStoppedEvent,
        EventKind::Deleted => cri::ContainerEventType::ContainerDeletedEvent,
    };
    cri::ContainerEventResponse {
        container_id: event.id.clone(),
        container_event_type: kind as i32,
        created_at: event.at,
        pod_sandbox_status: Some(pod_status(&event.pod)),
        containers_statuses: event
            .containers
            .iter()
            .map(|container| container_status(container))
            .collect(),
    }
}

pub fn pod_metadata(request: &PodRequest) -> cri::PodSandboxMetadata {
    cri::PodSandboxMetadata {
        name: request.name.clone(),
        uid: request.uid.clone(),
        namespace: request.namespace.clone(),
        attempt: request.attempt,
    }
}

pub fn pod_state(state: PodState) -> cri::PodSandboxState {
    match state {
        PodState::Ready => cri::PodSandboxState::SandboxReady,
        PodState::Creating | PodState::NotReady => cri::PodSandboxState::SandboxNotready,
    }
}

pub fn container(record: &ContainerRecord) -> cri::Container {
    cri::Container {
        id: record.id.to_string(),
        pod_sandbox_id: record.pod.to_string(),
        metadata: Some(container_metadata(record)),
        image: Some(image_spec(record)),
        image_ref: record.image_id.to_string(),
        state: container_state(record.state) as i32,
        created_at: record.created_at,
        labels: unsorted(&record.request.labels),
        annotations: unsorted(&record.request.annotations),
        image_id: record.image_id.to_string(),
    }
}

pub fn container_status(record: &ContainerRecord) -> cri::ContainerStatus {
    let exit = record.exit.as_ref();
    let user = cri::LinuxContainerUser {
        uid: i64::from(record.user.uid),
        gid: i64::from(record.user.gid),
        supplemental_groups: record
            .user
            .additional_gids
            .iter()
            .map(|g| i64::from(*g))
            .collect(),
    };
    let log_path = record
        .log_path
        .as_ref()
        .map(|path| path.display().to_string());
    cri::ContainerStatus {
        id: record.id.to_string(),
        metadata: Some(container_metadata(record)),
        state: container_state(record.state) as i32,
        created_at: record.created_at,
        started_at: record.started_at,
        finished_at: exit.map_or(0, |exit| exit.finished_at),
        exit_code: exit.map_or(0, |exit| exit.code),
        image: Some(image_spec(record)),
        image_ref: record.image_id.to_string(),
        reason: exit.map_or_else(String::new, |exit| exit.reason.clone()),
        message: exit.map_or_else(String::new, |exit| exit.message.clone()),
        labels: unsorted(&record.request.labels),
        annotations: unsorted(&record.request.annotations),
        mounts: record.request.mounts.iter().map(mount).collect(),
        log_path: log_path.unwrap_or_default(),
        resources: Some(cri::ContainerResources {
            linux: Some(resources(&record.request.resources)),
            windows: None,
        }),
        image_id: record.image_id.to_string(),
        user: Some(cri::ContainerUser { linux: Some(user) }),
        stop_signal: signal_of(&record.stop_signal) as i32,
    }
}

pub fn container_metadata(record: &ContainerRecord) -> cri::ContainerMetadata {
    cri::ContainerMetadata {
        name: record.request.name.clone(),
        attempt: record.request.attempt,
    }
}

pub fn container_state(state: ContainerState) -> cri::ContainerState {
    match state {
        ContainerState::Creating | ContainerState::Created => cri::ContainerState::ContainerCreated,
        ContainerState::Running => cri::ContainerState::ContainerRunning,
        ContainerState::Exited => cri::ContainerState::ContainerExited,
    }
}

pub fn image(image: &Image) -> cri::Image {
    let name = image.config.user().split(':').next().unwrap_or_default();
    let uid = name.parse::<i64>().ok();
    cri::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: uid.map(|value| cri::Int64Value { value }),
        username: if uid.is_some() {
            String::new()
        } else {
            name.to_owned()
        },
        spec: Some(cri::ImageSpec {
            image: image.id.to_string(),
            ..Default::default()
        }),
        pinned: image.pinned,
    }
}

fn image_spec(record: &ContainerRecord) -> cri::ImageSpec {
    let asked = &record.request;
    let shown = if asked.user_specified_image.is_empty() {
        &asked.image
    } else {
        &asked.user_specified_image
    };
    cri::ImageSpec {
        image: shown.clone(),
        annotations: unsorted(&asked.image_annotations),
        user_specified_image: asked.user_specified_image.clone(),
        ..Default::default()
    }
}

fn user_namespace(ids: Option<&UserNamespace>) -> cri::UserNamespace {
    let mode = match ids {
        Some(_) => NamespaceMode::Pod,
        None => NamespaceMode::Node,
    };
    cri::UserNamespace {
        mode: mode as i32,
        uids: ids.map_or_else(Vec::new, |ids| ranges(&ids.uids)),
        gids: ids.map_or_else(Vec::new, |ids| ranges(&ids.gids)),
    }
}

fn ranges(ranges: &[IdRange]) -> Vec<cri::IdMapping> {
    let mapping = |range: &IdRange| cri::IdMapping {
        container_id: range.inside,
        host_id: range.outside,
        length: range.length,
    };
    ranges.iter().map(mapping).collect()
}

fn mount(mount: &MountRequest) -> cri::Mount {
    let ids = mount.id_map.as_ref();
    let propagation = match mount.propagation {
        Propagation::Private => cri::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
    };
    cri::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.readonly,
        selinux_relabel: mount.selinux_relabel,
        propagation: propagation as i32,
        recursive_read_only: mount.recursive_read_only,
        uid_mappings: ids.map_or_else(Vec::new, |ids| ranges(&ids.uids)),
        gid_mappings: ids.map_or_else(Vec::new, |ids| ranges(&ids.gids)),
        image: mount.image.as_ref().map(mounted_image),
        image_sub_path: mount
            .image
            .as_ref()
            .map_or_else(String::new, |image| image.sub_path.clone()),
    }
}

/// By its id, whatever the request called it: kubelets keep an image that a mount names so.
fn mounted_image(image: &ImageMount) -> cri::ImageSpec {
    cri::ImageSpec {
        image: image.image_id.clone(),
        annotations: unsorted(&image.annotations),
        user_specified_image: image.user_specified_image.clone(),
        image_ref: image.image_id.clone(),
        ..Default::default()
    }
}

fn resources(limits: &Resources) -> cri::LinuxContainerResources {
    let unsigned = |value: Option<u64>| i64::try_from(value.unwrap_or(0)).unwrap_or(i64::MAX);
    cri::LinuxContainerResources {
        cpu_period: unsigned(limits.cpu_period),
        cpu_quota: limits.cpu_quota.unwrap_or(0),
        cpu_shares: unsigned(limits.cpu_shares),
        memory_limit_in_bytes: limits.memory_limit.unwrap_or(0),
        oom_score_adj: i64::from(limits.oom_score_adj.unwrap_or(0)),
        cpuset_cpus: limits.cpuset_cpus.clone(),
        cpuset_mems: limits.cpuset_mems.clone(),
        hugepage_limits: limits
            .hugepage_limits
            .iter()
            .map(|(size, limit)| cri::HugepageLimit {
                page_size: size.clone(),
                limit: *limit,
            })
            .collect(),
        unified: unsorted(&limits.unified),
        memory_swap_limit_in_bytes: limits.memory_swap_limit.unwrap_or(0),
    }
}

fn mode(scope: &Scope) -> NamespaceMode {
    match scope {
        Scope::Pod => NamespaceMode::Pod,
        Scope::Container => NamespaceMode::Container,
        Scope::Node => NamespaceMode::Node,
        Scope::Target(_) => NamespaceMode::Target,
    }
}

pub fn unsorted(map: &BTreeMap<String, String>) -> HashMap<String, String> {
    map.iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}
