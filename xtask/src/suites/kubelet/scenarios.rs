//! One pod each: what the kubelet is given, and what has to come of it.

mod life;
mod logs;
mod network;
mod resources;

use anyhow::Result;
use serde_json::Value;

use super::session::Session;

/// Content, or what is missing.
type Check = fn(&mut Session) -> Result<()>;

pub struct Scenario {
    /// The behaviour that it protects.
    pub name: &'static str,
    pub pod: &'static str,
    pub manifest: fn(&Session) -> Value,
    /// Asked until it is content.
    pub check: Check,
    /// Whether it is ready for good, so that restarts of others may not touch it.
    pub steady: bool,
}

pub const ALL: &[Scenario] = &[
    Scenario {
        name: "init containers and sidecars start in order",
        pod: "ordered",
        manifest: life::ordered,
        check: life::in_order,
        steady: true,
    },
    Scenario {
        name: "probes by exec, HTTP and TCP make a pod ready",
        pod: "probed",
        manifest: life::probed,
        check: life::is_ready,
        steady: true,
    },
    Scenario {
        name: "a failed liveness probe restarts its container alone",
        pod: "revived",
        manifest: life::revived,
        check: life::is_revived,
        steady: false,
    },
    Scenario {
        name: "a crash loop backs off and tells why in termination messages",
        pod: "crashing",
        manifest: life::crashing,
        check: life::backs_off,
        steady: false,
    },
    Scenario {
        name: "a pod that is done succeeds, after a failure that may be repeated",
        pod: "done",
        manifest: life::done,
        check: life::succeeds,
        steady: false,
    },
    Scenario {
        name: "lifecycle hooks run when they should",
        pod: "hooked",
        manifest: life::hooked,
        check: life::hook_ran,
        steady: true,
    },
    Scenario {
        name: "volumes on disk and in memory are shared, with their group",
        pod: "volumes",
        manifest: resources::volumes,
        check: resources::volumes_are_shared,
        steady: true,
    },
    Scenario {
        name: "limits are in force, and beyond memory comes OOMKilled",
        pod: "limited",
        manifest: resources::limited,
        check: resources::limits_hold,
        steady: false,
    },
    Scenario {
        name: "a user, a read-only root and shared PIDs are as asked",
        pod: "secured",
        manifest: resources::secured,
        check: resources::is_secured,
        steady: true,
    },
    Scenario {
        name: "pods have both families, name, resolver, bandwidth and host ports",
        pod: "networked",
        manifest: network::networked,
        check: network::is_connected,
        steady: true,
    },
    Scenario {
        name: "a pod in the host's network has the host's addresses",
        pod: "hostnet",
        manifest: network::hostnet,
        check: network::is_the_host,
        steady: true,
    },
    Scenario {
        name: "logs are rotated and lose no line",
        pod: "talking",
        manifest: logs::talking,
        check: logs::are_whole,
        steady: false,
    },
    Scenario {
        name: "the summary has CPU, memory, network and file systems",
        pod: "counted",
        manifest: resources::counted,
        check: resources::summary_is_filled,
        steady: true,
    },
];

/// What has to be seen once the manifests are gone.
pub const FAREWELLS: &[(&str, Check)] = &[
    (
        "a sidecar outlives the containers it serves",
        life::sidecar_was_last,
    ),
    (
        "preStop comes before SIGTERM, and both within the grace",
        life::said_goodbye,
    ),
];
