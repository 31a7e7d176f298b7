//! What a specification looks like for what was asked.

use std::net::IpAddr;

use berth_names::SandboxId;
use oci_spec::runtime::{Capability, LinuxNamespaceType, Spec};

use super::{ImageDefaults, Inputs, build};
use crate::confinement::Confinement;
use crate::error::Error;
use crate::files::PodFiles;
use crate::handlers::Handler;
use crate::record::{PodRecord, PodState};
use crate::request::{
    ContainerRequest, IdRange, ImageMount, MountRequest, PodRequest, Propagation, Resources, Scope,
    Security, UserNamespace,
};
use crate::user::ResolvedUser;
use crate::volumes::{Anonymous, Volumes};

fn pod() -> PodRecord {
    PodRecord {
        id: SandboxId::from_random([7; 32]),
        request: PodRequest {
            hostname: "web".into(),
            ..PodRequest::default()
        },
        handler: "berth".into(),
        state: PodState::Ready,
        created_at: 1,
        ips: Vec::<IpAddr>::new(),
        cgroup_made: false,
        cgroup_parent: "/pods".into(),
        network_held: true,
        init_pid: None,
        selinux_level: String::new(),
    }
}

fn request() -> ContainerRequest {
    ContainerRequest {
        name: "app".into(),
        security: Security {
            pid: Scope::Container,
            ..Security::default()
        },
        ..ContainerRequest::default()
    }
}

fn image() -> ImageDefaults {
    ImageDefaults {
        env: vec!["PATH=/bin".into(), "A=image".into()],
        entrypoint: vec!["/entry".into()],
        cmd: vec!["arg".into()],
        working_dir: "/srv".into(),
        stop_signal: String::new(),
    }
}

fn made(pod: &PodRecord, request: &ContainerRequest) -> Result<Spec, Error> {
    made_with(pod, request, &Volumes::default())
}

fn made_with(
    pod: &PodRecord,
    request: &ContainerRequest,
    volumes: &Volumes,
) -> Result<Spec, Error> {
    build(&Inputs {
        pod,
        files: &PodFiles::new(std::path::Path::new("/run/berth"), pod.id.as_str()),
        request,
        image: &image(),
        handler: &Handler::own("berth"),
        user: &ResolvedUser {
            home: "/home/u".into(),
            ..ResolvedUser::default()
        },
        volumes,
        cgroup: "/pods/c",
        pid_namespace: None,
        seccomp: None,
        oom_score_floor: -500,
        capabilities: &super::capabilities_to_give(),
        confinement: &Confinement::default(),
    })
}

fn args(request: &ContainerRequest) -> Vec<String> {
    let spec = made(&pod(), request).unwrap();
    spec.process().as_ref().unwrap().args().clone().unwrap()
}

#[test]
fn command_and_arguments_replace_the_image_s_as_kubernetes_says() {
    let with = |command: &[&str], given: &[&str]| ContainerRequest {
        command: command.iter().map(|&s| s.to_owned()).collect(),
        args: given.iter().map(|&s| s.to_owned()).collect(),
        ..request()
    };
    let cases: [(&[&str], &[&str], &[&str]); 4] = [
        (&[], &[], &["/entry", "arg"]),
        (&[], &["x"], &["/entry", "x"]),
        (&["/c"], &[], &["/c"]),
        (&["/c"], &["x"], &["/c", "x"]),
    ];
    for (command, given, expected) in cases {
        assert_eq!(
            args(&with(command, given)),
            expected,
            "{command:?} {given:?}"
        );
    }
    assert!(made(&pod(), &with(&[""], &[])).is_err(), "an empty program");
}

#[test]
fn the_environment_is_the_image_s_with_the_request_s_over_it() {
    let mut request = request();
    request.envs = vec![("A".into(), "request".into()), ("B".into(), "=x=".into())];
    let spec = made(&pod(), &request).unwrap();
    let env = spec.process().as_ref().unwrap().env().clone().unwrap();
    assert_eq!(
        env,
        [
            "HOSTNAME=web",
            "PATH=/bin",
            "A=request",
            "B==x=",
            "HOME=/home/u"
        ]
    );
}

#[test]
fn inheritable_capabilities_stay_empty_and_drop_all_means_all() {
    let mut request = request();
    request.security.drop_capabilities = vec!["ALL".into()];
    request.security.add_capabilities = vec!["cap_net_admin".into()];
    let spec = made(&pod(), &request).unwrap();
    let caps = spec
        .process()
        .as_ref()
        .unwrap()
        .capabilities()
        .clone()
        .unwrap();
    assert!(caps.inheritable().as_ref().unwrap().is_empty());
    assert_eq!(
        caps.bounding().as_ref().unwrap().iter().collect::<Vec<_>>(),
        [&Capability::NetAdmin]
    );
    request.security.add_capabilities = vec!["NOT_A_CAP".into()];
    assert!(matches!(made(&pod(), &request), Err(Error::Invalid { .. })));
}

#[test]
fn a_requested_mount_wins_over_the_pod_s_file() {
    let mut request = request();
    request.mounts = vec![
        MountRequest {
            container_path: "/etc/resolv.conf".into(),
            host_path: "/mine".into(),
            readonly: true,
            ..MountRequest::default()
        },
        MountRequest {
            container_path: "/data".into(),
            host_path: "/d".into(),
            propagation: Propagation::Bidirectional,
            ..MountRequest::default()
        },
    ];
    let spec = made(&pod(), &request).unwrap();
    let mounts = spec.mounts().clone().unwrap();
    let resolv: Vec<_> = mounts
        .iter()
        .filter(|m| m.destination().ends_with("resolv.conf"))
        .collect();
    assert_eq!(resolv.len(), 1);
    assert_eq!(
        resolv[0].source().as_deref(),
        Some(std::path::Path::new("/mine"))
    );
    assert!(
        resolv[0]
            .options()
            .as_ref()
            .unwrap()
            .contains(&"ro".to_owned())
    );
    let propagation = spec.linux().as_ref().unwrap().rootfs_propagation().clone();
    assert_eq!(propagation.as_deref(), Some("shared"));
}

#[test]
fn volumes_come_in_the_order_of_their_depth_and_images_are_read_only() {
    let mut request = request();
    request.mounts = vec![MountRequest {
        container_path: "/srv/model".into(),
        image: Some(ImageMount::default()),
        ..MountRequest::default()
    }];
    let anonymous = |destination: &str| Anonymous {
        destination: destination.into(),
        source: "/snapshot".into(),
    };
    let volumes = Volumes {
        images: [(0, "/run/berth/volume".into())].into(),
        anonymous: vec![anonymous("/srv"), anonymous("/etc")],
        ..Volumes::default()
    };
    let spec = made_with(&pod(), &request, &volumes).unwrap();
    let mounts = spec.mounts().clone().unwrap();
    let place = |path: &str| {
        let path = std::path::Path::new(path);
        mounts.iter().position(|m| m.destination() == path).unwrap()
    };
    assert!(place("/srv") < place("/srv/model"));
    assert!(place("/etc") < place("/etc/resolv.conf"));
    let image = &mounts[place("/srv/model")];
    let options = image.options().clone().unwrap();
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(options.iter().any(|present| present == option), "{option}");
    }
    assert_eq!(
        image.source().as_deref(),
        Some(std::path::Path::new("/run/berth/volume"))
    );
}

#[test]
fn who_brings_a_dev_brings_what_is_in_it() {
    let mut request = request();
    request.mounts = vec![MountRequest {
        container_path: "/dev".into(),
        host_path: "/dev".into(),
        ..MountRequest::default()
    }];
    let spec = made(&pod(), &request).unwrap();
    let mounts = spec.mounts().clone().unwrap();
    let below: Vec<_> = mounts
        .iter()
        .filter(|m| m.destination().starts_with("/dev"))
        .map(|m| m.destination().display().to_string())
        .collect();
    assert_eq!(below, ["/dev", "/dev/shm"]);
}

#[test]
fn bad_mounts_are_refused_by_field() {
    let cases = [
        ("/", "/host", false, false),
        ("/../.", "/host", false, false),
        ("relative", "/host", false, false),
        ("/ok", "relative", false, false),
        ("/ok", "/host", false, true),
    ];
    for (container, host, readonly, recursive) in cases {
        let mut request = request();
        request.mounts = vec![MountRequest {
            container_path: container.into(),
            host_path: host.into(),
            readonly,
            recursive_read_only: recursive,
            ..MountRequest::default()
        }];
        assert!(
            matches!(made(&pod(), &request), Err(Error::Invalid { .. })),
            "{container}"
        );
    }
}

#[test]
fn namespaces_follow_the_pod_and_the_container() {
    let types = |pod: &PodRecord, request: &ContainerRequest| {
        let spec = made(pod, request).unwrap();
        let list = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        list.iter()
            .map(|n| (n.typ(), n.path().is_some()))
            .collect::<Vec<_>>()
    };
    let own = types(&pod(), &request());
    assert!(own.contains(&(LinuxNamespaceType::Network, true)));
    assert!(own.contains(&(LinuxNamespaceType::Pid, false)));
    let mut host = pod();
    host.request.namespaces.network = Scope::Node;
    host.request.namespaces.ipc = Scope::Node;
    let mut sharing = request();
    sharing.security.pid = Scope::Node;
    let shared = types(&host, &sharing);
    assert!(
        shared
            .iter()
            .all(|(typ, _)| matches!(typ, LinuxNamespaceType::Mount | LinuxNamespaceType::Cgroup))
    );
}

#[test]
fn oom_scores_are_raised_to_what_may_be_given() {
    let mut request = request();
    request.resources = Resources {
        oom_score_adj: Some(-998),
        ..Resources::default()
    };
    let spec = made(&pod(), &request).unwrap();
    assert_eq!(spec.process().as_ref().unwrap().oom_score_adj(), Some(-500));
}

#[test]
fn a_container_is_in_the_user_namespace_of_its_pod_and_in_no_other() {
    let ids = |outside: u32| {
        let range = IdRange {
            inside: 0,
            outside,
            length: 65536,
        };
        UserNamespace {
            uids: vec![range],
            gids: vec![range],
        }
    };
    let mut mapped = pod();
    mapped.request.namespaces.user = Some(ids(70_000));
    let spec = made(&mapped, &request()).unwrap();
    let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
    let user = namespaces
        .iter()
        .find(|namespace| namespace.typ() == LinuxNamespaceType::User)
        .unwrap();
    assert!(user.path().as_ref().unwrap().ends_with("ns/user"));

    let mut repeated = request();
    repeated.security.user_namespace = Some(ids(70_000));
    made(&mapped, &repeated).unwrap();
    repeated.security.user_namespace = Some(ids(80_000));
    assert!(made(&mapped, &repeated).is_err(), "other ids");
    assert!(made(&pod(), &repeated).is_err(), "a pod without");

    let mut shared = request();
    shared.mounts = vec![MountRequest {
        container_path: "/data".into(),
        host_path: "/d".into(),
        propagation: Propagation::Bidirectional,
        ..MountRequest::default()
    }];
    assert!(made(&mapped, &shared).is_err(), "a mount for the host");
    made(&pod(), &shared).unwrap();
}

#[test]
fn a_volume_is_mapped_whole_by_user_and_group() {
    let range = IdRange {
        inside: 0,
        outside: 70_000,
        length: 10,
    };
    let with = |gids: Vec<IdRange>| {
        let mut request = request();
        request.mounts = vec![MountRequest {
            container_path: "/data".into(),
            host_path: "/d".into(),
            id_map: Some(UserNamespace {
                uids: vec![range],
                gids,
            }),
            ..MountRequest::default()
        }];
        made(&pod(), &request)
    };
    let spec = with(vec![range]).unwrap();
    let mounts = spec.mounts().clone().unwrap();
    let volume = mounts.iter().find(|m| m.destination().ends_with("data"));
    let volume = volume.unwrap();
    assert!(
        volume
            .options()
            .as_ref()
            .unwrap()
            .contains(&"ridmap".to_owned())
    );
    assert_eq!(volume.uid_mappings().as_ref().unwrap()[0].host_id(), 70_000);
    assert!(with(Vec::new()).is_err(), "only user ids");
}
