//! A specification to start from.

use crate::arguments::{Arguments, Flag, switch, value};
use crate::bundle::CONFIG;
use crate::error::{Error, Result};
use crate::global::Global;
use crate::journal::Journal;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

pub const FLAGS: &[Flag] = &[
    value("bundle", "b", "path to the root of the bundle directory"),
    switch(
        "rootless",
        "",
        "generate a configuration for a rootless container",
    ),
];

pub fn run(_: &Global, _: &Journal, given: &Arguments) -> Result<u8> {
    let mut spec = general();
    if given.is_on("rootless") {
        make_rootless(&mut spec);
    }
    let path = Path::new(given.value("bundle").unwrap_or(".")).join(CONFIG);
    let json = |source| Error::Json {
        path: path.clone(),
        source,
    };
    let mut text = serde_json::to_string_pretty(&spec).map_err(json)?;
    text.push('\n');
    // What somebody wrote by hand is not replaced.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(Error::io("create", &path))?;
    file.write_all(text.as_bytes())
        .map_err(Error::io("write", &path))?;
    Ok(0)
}

fn general() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": super::SPEC_VERSION,
        "process": {
            "terminal": true,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "berth",
        "mounts": mounts(),
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" },
                { "type": "uts" }, { "type": "mount" }, { "type": "cgroup" },
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore",
                "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
                "/proc/timer_list", "/proc/timer_stats",
                "/sys/devices/virtual/powercap", "/sys/firmware",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    })
}

fn mounts() -> Value {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": kind, "options": options });
    let quiet = ["nosuid", "noexec", "nodev"];
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc" },
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        {
            "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        },
        mount("/dev/mqueue", "mqueue", &quiet),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ])
}

/// For the user who runs this: that user is root in a namespace of its own,
/// with the host's network and a bound `/sys`, and nothing that needs more
/// ids or cgroups.
fn make_rootless(spec: &mut Value) {
    let uid = berth_kernel::rustix::process::geteuid().as_raw();
    let gid = berth_kernel::rustix::process::getegid().as_raw();
    let map = |host: u32| json!([{ "containerID": 0, "hostID": host, "size": 1 }]);
    let linux = &mut spec["linux"];
    linux["uidMappings"] = map(uid);
    linux["gidMappings"] = map(gid);
    linux["resources"] = Value::Null;
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({ "type": "user" }));
    }
    let Some(mounts) = spec["mounts"].as_array_mut() else {
        return;
    };
    for mount in mounts.iter_mut() {
        if mount["destination"] == "/sys" {
            mount["type"] = json!("none");
            mount["source"] = json!("/sys");
            mount["options"] = json!(["rbind", "nosuid", "noexec", "nodev", "ro"]);
        }
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| option != "gid=5");
        }
    }
    mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Spec;

    #[test]
    fn what_is_written_is_a_specification() {
        let spec: Spec = serde_json::from_value(general()).unwrap();
        assert_eq!(spec.version(), super::super::SPEC_VERSION);
        let mut rootless = general();
        make_rootless(&mut rootless);
        let spec: Spec = serde_json::from_value(rootless).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        assert!(linux.uid_mappings().is_some() && linux.resources().is_none());
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), 6);
    }
}
