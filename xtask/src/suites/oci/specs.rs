//! Specifications to run: one for each entry of a table, then mixtures of
//! entries by seed.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

/// One thing that a specification can ask for.
struct Aspect {
    name: &'static str,
    apply: fn(&mut Value),
}

/// A specification and what it is made of.
#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    pub spec: Value,
}

/// Each entry on its own, then `mixtures` of several.
pub fn cases(mixtures: u64) -> Vec<Case> {
    let plain = Case {
        name: "plain".to_owned(),
        spec: base(),
    };
    let single = ASPECTS.iter().map(|aspect| {
        let mut spec = base();
        (aspect.apply)(&mut spec);
        let name = aspect.name.to_owned();
        Case { name, spec }
    });
    let mixed = (0..mixtures).map(mixture);
    std::iter::once(plain).chain(single).chain(mixed).collect()
}

/// Entries together, in the table's order.
pub fn named(names: &[&str]) -> Result<Case> {
    for name in names {
        let known = ASPECTS.iter().any(|aspect| aspect.name == *name);
        ensure!(known, "no entry {name:?} in the table");
    }
    let mut spec = base();
    for aspect in ASPECTS {
        if names.contains(&aspect.name) {
            (aspect.apply)(&mut spec);
        }
    }
    let name = names.join(" + ");
    Ok(Case { name, spec })
}

fn mixture(seed: u64) -> Case {
    let mut random = fastrand::Rng::with_seed(seed);
    let count = random.usize(2..7);
    let mut chosen = random.choose_multiple(0..ASPECTS.len(), count);
    // In the table's order, so that what is last in it has the last word.
    chosen.sort_unstable();
    let mut spec = base();
    let mut names = Vec::new();
    for index in chosen {
        (ASPECTS[index].apply)(&mut spec);
        names.push(ASPECTS[index].name);
    }
    Case {
        name: format!("seed {seed}: {}", names.join(" + ")),
        spec,
    }
}

/// Sets a member deep inside, making objects on the way.
fn set(spec: &mut Value, path: &[&str], value: Value) {
    let mut place = spec;
    for name in path {
        place = &mut place[*name];
    }
    *place = value;
}

fn push(spec: &mut Value, path: &[&str], value: Value) {
    let mut place = spec;
    for name in path {
        place = &mut place[*name];
    }
    match place {
        Value::Array(list) => list.push(value),
        other => *other = json!([value]),
    }
}

fn without_namespace(spec: &mut Value, kind: &str) {
    if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
        list.retain(|namespace| namespace["type"] != kind);
    }
}

fn mount(spec: &mut Value, to: &str, kind: &str, from: &str, options: &[&str]) {
    let mount = json!({ "destination": to, "type": kind, "source": from, "options": options });
    push(spec, &["mounts"], mount);
}

fn capabilities(spec: &mut Value, sets: [&[&str]; 5]) {
    let names = [
        "bounding",
        "effective",
        "permitted",
        "inheritable",
        "ambient",
    ];
    for (name, set) in names.into_iter().zip(sets) {
        spec["process"]["capabilities"][name] = json!(set);
    }
}

/// A directory of the bundle that holds `file`, for binds.
const SOURCE: &str = "source";

/// What every other specification differs from.
pub fn base() -> Value {
    let quiet = ["nosuid", "noexec", "nodev"];
    let ordinary = [
        "CAP_CHOWN",
        "CAP_KILL",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_NET_BIND_SERVICE",
    ];
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["/probe"],
            "env": ["PATH=/bin:/usr/bin", "HOME=/root"],
            "cwd": "/",
            "capabilities": {
                "bounding": ordinary, "effective": ordinary, "permitted": ordinary,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024 }],
        },
        "root": { "path": "rootfs" },
        "hostname": "probed",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": quiet },
            {
                "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
            },
            {
                "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
            },
            {
                "destination": "/sys", "type": "sysfs", "source": "sysfs",
                "options": ["nosuid", "noexec", "nodev", "ro"],
            },
        ],
        "linux": {
            "cgroupsPath": "/berth-oci-suite/probed",
            "namespaces": [
                { "type": "pid" }, { "type": "network" }, { "type": "ipc" },
                { "type": "uts" }, { "type": "mount" },
            ],
        },
    })
}

const ALL: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_NICE",
];

macro_rules! aspects {
    ($($name:literal => |$spec:ident| $body:block)*) => {
        &[$(Aspect {
            name: $name,
            apply: |$spec| $body,
        },)*]
    };
}

const ASPECTS: &[Aspect] = aspects! {
    "exit 7" => |s| { push(s, &["process", "args"], json!("7")); }
    "user" => |s| { set(s, &["process", "user"], json!({ "uid": 1000, "gid": 1001 })); }
    "user with groups" => |s| {
        let user = json!({ "uid": 5, "gid": 6, "additionalGids": [7, 44, 6] });
        set(s, &["process", "user"], user);
    }
    "root with groups" => |s| {
        set(s, &["process", "user"], json!({ "uid": 0, "gid": 0, "additionalGids": [10] }));
    }
    "umask" => |s| { set(s, &["process", "user", "umask"], json!(0o27)); }
    "no capabilities" => |s| { capabilities(s, [&[]; 5]); }
    "all capabilities" => |s| { capabilities(s, [ALL, ALL, ALL, &[], &[]]); }
    "ambient capabilities" => |s| {
        let some = &["CAP_NET_BIND_SERVICE", "CAP_KILL"];
        capabilities(s, [ALL, some, some, some, some]);
    }
    "bounded capabilities" => |s| {
        capabilities(s, [ALL, &["CAP_KILL"], &["CAP_KILL", "CAP_CHOWN"], &[], &[]]);
    }
    "no new privileges" => |s| { set(s, &["process", "noNewPrivileges"], json!(true)); }
    "core and stack limits" => |s| {
        let limit = json!({ "type": "RLIMIT_CORE", "soft": 0, "hard": 0 });
        push(s, &["process", "rlimits"], limit);
        let limit = json!({ "type": "RLIMIT_STACK", "soft": 4194304, "hard": 8388608 });
        push(s, &["process", "rlimits"], limit);
    }
    "few files" => |s| {
        let limit = json!([{ "type": "RLIMIT_NOFILE", "soft": 64, "hard": 64 }]);
        set(s, &["process", "rlimits"], limit);
    }
    "no limits" => |s| { set(s, &["process", "rlimits"], json!([])); }
    "existing directory" => |s| { set(s, &["process", "cwd"], json!("/tmp")); }
    "missing directory" => |s| { set(s, &["process", "cwd"], json!("/made/here")); }
    "environment" => |s| {
        let env = json!(["PATH=/bin", "A=1", "EMPTY=", "B=x y=z", "HOME=/h"]);
        set(s, &["process", "env"], env);
    }
    "program by name" => |s| {
        set(s, &["process", "args"], json!(["probe", "0"]));
        set(s, &["process", "env"], json!(["PATH=/nowhere:/", "HOME=/"]));
    }
    "score" => |s| { set(s, &["process", "oomScoreAdj"], json!(321)); }
    "no hostname" => |s| { set(s, &["hostname"], json!("")); }
    "host's uts" => |s| {
        without_namespace(s, "uts");
        set(s, &["hostname"], json!(""));
    }
    "host's network" => |s| { without_namespace(s, "network"); }
    "host's ipc" => |s| { without_namespace(s, "ipc"); }
    "cgroup namespace" => |s| { push(s, &["linux", "namespaces"], json!({ "type": "cgroup" })); }
    "joined network" => |s| {
        without_namespace(s, "network");
        let joined = json!({ "type": "network", "path": "/proc/1/ns/net" });
        push(s, &["linux", "namespaces"], joined);
    }
    "read-only root" => |s| { set(s, &["root", "readonly"], json!(true)); }
    "bind" => |s| { mount(s, "/bound", "bind", SOURCE, &["rbind", "rprivate"]); }
    "read-only bind" => |s| { mount(s, "/bound", "bind", SOURCE, &["bind", "ro", "nosuid"]); }
    "bind with flags" => |s| {
        mount(s, "/bound", "none", SOURCE, &["rbind", "nodev", "noexec", "nosuid", "noatime"]);
    }
    "slave bind" => |s| { mount(s, "/bound", "bind", SOURCE, &["rbind", "rslave"]); }
    "bind of a file" => |s| {
        mount(s, "/etc/deep/er/file", "bind", "source/file", &["bind", "ro"]);
    }
    "bind through a link" => |s| { mount(s, "/link/inside", "bind", SOURCE, &["bind"]); }
    "scratch" => |s| {
        mount(s, "/scratch", "tmpfs", "tmpfs", &["nosuid", "size=1m", "mode=700", "noexec"]);
    }
    "read-only scratch" => |s| { mount(s, "/scratch", "tmpfs", "tmpfs", &["ro", "nodev"]); }
    "queue" => |s| {
        mount(s, "/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]);
    }
    "cgroups read-only" => |s| {
        let options = &["nosuid", "noexec", "nodev", "relatime", "ro"];
        mount(s, "/sys/fs/cgroup", "cgroup", "cgroup", options);
    }
    "cgroups writable" => |s| {
        let options = &["nosuid", "noexec", "nodev", "relatime"];
        mount(s, "/sys/fs/cgroup", "cgroup", "cgroup", options);
    }
    "masked paths" => |s| {
        let paths = json!(["/proc/kcore", "/proc/acpi", "/sys/firmware", "/missing"]);
        set(s, &["linux", "maskedPaths"], paths);
    }
    "read-only paths" => |s| {
        let paths = json!(["/proc/sys", "/proc/bus", "/missing"]);
        set(s, &["linux", "readonlyPaths"], paths);
    }
    "private root" => |s| { set(s, &["linux", "rootfsPropagation"], json!("private")); }
    "slave root" => |s| { set(s, &["linux", "rootfsPropagation"], json!("rslave")); }
    "sysctl of network" => |s| {
        let sysctl = json!({ "net.ipv4.ip_forward": "1" });
        set(s, &["linux", "sysctl"], sysctl);
    }
    "sysctl of ipc" => |s| {
        let sysctl = json!({ "kernel.shmmax": "1048576", "fs.mqueue.msg_max": "12" });
        set(s, &["linux", "sysctl"], sysctl);
    }
    "memory" => |s| {
        set(s, &["linux", "resources", "memory"], json!({ "limit": 67108864 }));
    }
    "memory and reservation" => |s| {
        let memory = json!({ "limit": 134217728, "reservation": 33554432 });
        set(s, &["linux", "resources", "memory"], memory);
    }
    "shares" => |s| { set(s, &["linux", "resources", "cpu"], json!({ "shares": 512 })); }
    "quota" => |s| {
        set(s, &["linux", "resources", "cpu"], json!({ "quota": 20000, "period": 50000 }));
    }
    "one processor" => |s| {
        set(s, &["linux", "resources", "cpu"], json!({ "cpus": "0", "mems": "0" }));
    }
    "pids" => |s| { set(s, &["linux", "resources", "pids"], json!({ "limit": 40 })); }
    "no devices" => |s| {
        let devices = json!([{ "allow": false, "access": "rwm" }]);
        set(s, &["linux", "resources", "devices"], devices);
    }
    "a device" => |s| {
        let device = json!({
            "path": "/dev/mine", "type": "c", "major": 1, "minor": 5,
            "fileMode": 0o640, "uid": 3, "gid": 4,
        });
        push(s, &["linux", "devices"], device);
    }
    "a forbidden device" => |s| {
        let device = json!({ "path": "/dev/kmem2", "type": "c", "major": 1, "minor": 11 });
        push(s, &["linux", "devices"], device);
        let devices = json!([{ "allow": false, "access": "rwm" }]);
        set(s, &["linux", "resources", "devices"], devices);
    }
    "a pipe" => |s| {
        let device = json!({ "path": "/dev/pipe", "type": "p", "fileMode": 0o600 });
        push(s, &["linux", "devices"], device);
    }
    "filter" => |s| {
        let filter = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{
                "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95,
            }],
        });
        set(s, &["linux", "seccomp"], filter);
    }
    "missing program" => |s| { set(s, &["process", "args"], json!(["/nothing/here"])); }
    "directory as program" => |s| { set(s, &["process", "args"], json!(["/tmp"])); }
};
