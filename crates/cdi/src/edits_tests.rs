use super::*;
use oci_spec::runtime::SpecBuilder;
use serde_json::{Value, json};

fn edits(value: Value) -> Edits {
    let edits: Edits = serde_json::from_value(value).unwrap();
    edits.check().unwrap();
    edits
}

fn spec() -> Spec {
    let mut spec = SpecBuilder::default().build().unwrap();
    let process = spec.process_mut().as_mut().unwrap();
    process.set_env(Some(vec!["PATH=/bin".into(), "CARD=old".into()]));
    process.user_mut().set_uid(1000);
    spec.linux_mut().as_mut().unwrap().set_devices(None);
    spec
}

fn applied(value: Value) -> Spec {
    let mut spec = spec();
    edits(value).apply(&mut spec).unwrap();
    spec
}

#[test]
fn a_device_is_what_the_host_says_and_may_be_used() {
    let spec = applied(json!({
        "deviceNodes": [{ "path": "/dev/card0", "hostPath": "/dev/zero", "permissions": "r" }],
        "additionalGids": [0, 44, 44],
        "env": ["CARD=new"],
    }));
    let linux = spec.linux().as_ref().unwrap();
    let devices = linux.devices().as_ref().unwrap();
    let device = &devices[0];
    assert_eq!(devices.len(), 1);
    assert_eq!(device.path(), Path::new("/dev/card0"));
    assert_eq!((device.major(), device.minor()), (1, 5));
    assert_eq!(device.typ(), LinuxDeviceType::C);
    assert_eq!(
        (device.uid(), device.file_mode().map(|m| m & 0o600)),
        (Some(1000), Some(0o600))
    );
    let rules = linux
        .resources()
        .as_ref()
        .unwrap()
        .devices()
        .clone()
        .unwrap();
    let rule = rules.last().unwrap();
    assert_eq!(
        (rule.allow(), rule.major(), rule.minor()),
        (true, Some(1), Some(5))
    );
    assert_eq!(rule.access().as_deref(), Some("r"));
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.env().as_ref().unwrap(), &["PATH=/bin", "CARD=new"]);
    assert_eq!(process.user().additional_gids().as_deref(), Some(&[44][..]));
}

#[test]
fn a_device_that_is_described_whole_need_not_be_there() {
    let spec = applied(json!({ "deviceNodes": [
        { "path": "/dev/none", "type": "b", "major": 7, "minor": 3, "fileMode": 0o640, "uid": 0 },
        { "path": "/dev/pipe", "type": "p" },
    ]}));
    let linux = spec.linux().as_ref().unwrap();
    let devices = linux.devices().as_ref().unwrap();
    assert_eq!(
        (devices[0].major(), devices[0].file_mode()),
        (7, Some(0o640))
    );
    assert_eq!(devices[0].uid(), Some(0));
    assert_eq!(devices[1].typ(), LinuxDeviceType::P);
}

#[test]
fn a_node_that_is_missing_or_another_is_refused() {
    let cases = [
        json!({ "path": "/dev/no-such-card" }),
        json!({ "path": "/dev/zero", "type": "b" }),
        json!({ "path": "/dev/card0", "hostPath": "/etc/passwd" }),
    ];
    for node in cases {
        let refused = edits(json!({ "deviceNodes": [node] })).apply(&mut spec());
        assert!(matches!(
            refused,
            Err(Error::Node { .. } | Error::NotADevice { .. })
        ));
    }
}

#[test]
fn a_mount_replaces_what_is_at_its_place_and_comes_before_what_is_in_it() {
    let mut spec = spec();
    let present = |path: &str| {
        MountBuilder::default()
            .destination(path)
            .source("/old")
            .build()
            .unwrap()
    };
    spec.set_mounts(Some(
        ["/proc", "/opt", "/lib/card/fw"].map(present).to_vec(),
    ));
    edits(json!({ "mounts": [
        { "hostPath": "/usr/lib/card", "containerPath": "/lib/card", "options": ["ro"] },
        { "hostPath": "/new", "containerPath": "/opt", "options": ["bind"] },
    ]}))
    .apply(&mut spec)
    .unwrap();
    let mounts = spec.mounts().as_ref().unwrap();
    let places: Vec<_> = mounts
        .iter()
        .map(|m| m.destination().to_str().unwrap())
        .collect();
    assert_eq!(places, ["/proc", "/lib/card", "/lib/card/fw", "/opt"]);
    let options = |at: usize| mounts[at].options().clone().unwrap();
    assert_eq!(options(1), ["ro", "rbind"]);
    assert_eq!(options(3), ["bind"]);
    assert_eq!(mounts[3].source().as_deref(), Some(Path::new("/new")));
}

#[test]
fn hooks_network_devices_and_rdt_reach_the_runtime() {
    let spec = applied(json!({
        "hooks": [
            { "hookName": "createContainer", "path": "/bin/ldconfig", "args": ["ldconfig"], "timeout": 3 },
            { "hookName": "poststop", "path": "/bin/true" },
        ],
        "netDevices": [{ "hostInterfaceName": "eth7", "name": "net1" }],
        "intelRdt": { "closID": "gold", "enableMonitoring": true },
    }));
    let hooks = spec.hooks().as_ref().unwrap();
    let hook = &hooks.create_container().as_ref().unwrap()[0];
    assert_eq!(
        (hook.path().as_path(), hook.timeout()),
        (Path::new("/bin/ldconfig"), Some(3))
    );
    assert_eq!(hooks.poststop().as_ref().unwrap().len(), 1);
    let linux = serde_json::to_value(spec.linux()).unwrap();
    assert_eq!(linux["netDevices"]["eth7"]["name"], "net1");
    assert_eq!(linux["intelRdt"]["closID"], "gold");
}
