//! Every field of the Compose specification, in the order of the stock client's types: that order
//! is part of the hash.

use crate::shape::Keep::{AsNull, AsObject, Given};
use crate::shape::Shape::{
    Any, Bool, Command, Context, Driver, Duration, Environment, File, Hosts, Int, List, Map,
    Mapping, Mode, Number, Object, Short, Size, Test, Text, Ulimit,
};
use crate::shape::{Field, Key, Shape, field};
use crate::{ports, short};

const WORDS: Shape = List(&Text, Key::None);
/// Each word once.
const SET: Shape = List(&Text, Key::Word);
/// One word, or a list of them.
const WORD_OR_WORDS: Shape = Short(short::one_or_more, &SET);
const ONE_OR_MORE: Shape = Short(short::one_or_more, &WORDS);

/// Of a whole file.
pub static MODEL: Shape = Object(&[
    field("version", Text),
    field("name", Text),
    field(
        "include",
        List(&Short(short::include, &Object(INCLUDE)), Key::None),
    ),
    field("services", Map(&SERVICE)),
    field("networks", Map(&NETWORK)),
    field("volumes", Map(&VOLUME)),
    field(
        "secrets",
        Map(&Short(short::external, &Object(FILE_OBJECT))),
    ),
    field(
        "configs",
        Map(&Short(short::external, &Object(FILE_OBJECT))),
    ),
    field("models", Map(&Any)),
]);

const INCLUDE: &[Field] = &[
    field("path", Short(short::one_or_more, &List(&File, Key::None))),
    field("project_directory", File),
    field(
        "env_file",
        Short(short::one_or_more, &List(&File, Key::None)),
    ),
];

pub static SERVICE: Shape = Object(SERVICE_FIELDS);

pub static SERVICE_FIELDS: &[Field] = &[
    field("profiles", SET),
    field("annotations", Mapping),
    field("attach", Bool).keep(Given),
    field("build", Short(short::build, &Object(BUILD))).keep(Given),
    field("develop", Object(DEVELOP)).keep(Given),
    field("blkio_config", Object(BLKIO)).keep(Given),
    field("cap_add", SET),
    field("cap_drop", SET),
    field("cgroup_parent", Text),
    field("cgroup", Text),
    field("cpu_count", Int),
    field("cpu_percent", Number),
    field("cpu_period", Int),
    field("cpu_quota", Int),
    field("cpu_rt_period", Int),
    field("cpu_rt_runtime", Int),
    field("cpus", Number),
    field("cpuset", Text),
    field("cpu_shares", Int),
    field("command", Command).keep(AsNull),
    field(
        "configs",
        List(&Short(short::grant, &Object(GRANT)), Key::Grant),
    ),
    field("container_name", Text),
    field("credential_spec", Object(CREDENTIAL)).keep(Given),
    field(
        "depends_on",
        Short(short::depends_on, &Map(&Object(DEPENDENCY))),
    ),
    field("deploy", Object(DEPLOY)).keep(Given),
    field("device_cgroup_rules", WORDS),
    field(
        "devices",
        List(&Short(short::device, &Object(DEVICE)), Key::Target),
    ),
    field("dns", WORD_OR_WORDS),
    field("dns_opt", SET),
    field("dns_search", WORD_OR_WORDS),
    field("dockerfile", Text),
    field("domainname", Text),
    field("entrypoint", Command).keep(AsNull),
    field("provider", Any).keep(Given),
    field("environment", Environment),
    field(
        "env_file",
        Short(short::env_files, &List(&Object(ENV_FILE), Key::Path)),
    ),
    field("expose", WORD_OR_WORDS),
    field("extends", Short(short::extends, &Object(EXTENDS))).keep(Given),
    field("external_links", WORDS),
    field("extra_hosts", Hosts),
    field("group_add", WORDS),
    field(
        "gpus",
        Short(short::gpus, &List(&Object(DEVICE_REQUEST), Key::None)),
    ),
    field("hostname", Text),
    field("healthcheck", Object(HEALTH)).keep(Given),
    field("image", Text),
    field("init", Bool).keep(Given),
    field("ipc", Text),
    field("isolation", Text),
    field("labels", Mapping),
    field(
        "label_file",
        Short(short::one_or_more, &List(&File, Key::None)),
    ),
    field("links", SET),
    field("logging", Driver(LOGGING)).keep(Given),
    field("log_driver", Text),
    field("log_opt", Mapping),
    field("mem_limit", Size),
    field("mem_reservation", Size),
    field("memswap_limit", Size),
    field("mem_swappiness", Size),
    field("mac_address", Text),
    field("models", Short(short::names, &Map(&Any))),
    field("net", Text),
    field("network_mode", Text),
    field("networks", Short(short::names, &Map(&Object(ENDPOINT)))),
    field("oom_kill_disable", Bool),
    field("oom_score_adj", Int),
    field("pid", Text),
    field("pids_limit", Int),
    field("platform", Text),
    field("ports", Short(ports::long, &List(&Object(PORT), Key::Port))),
    field("privileged", Bool),
    field("pull_policy", Text),
    field("read_only", Bool),
    field("restart", Text),
    field("runtime", Text),
    field("scale", Int).keep(Given),
    field(
        "secrets",
        List(&Short(short::secret, &Object(GRANT)), Key::Grant),
    ),
    field("security_opt", WORDS),
    field("shm_size", Size),
    field("stdin_open", Bool),
    field("stop_grace_period", Duration).keep(Given),
    field("stop_signal", Text),
    field("storage_opt", Mapping),
    field("sysctls", Mapping),
    field("tmpfs", WORD_OR_WORDS),
    field("tty", Bool),
    field("ulimits", Map(&Ulimit)),
    field("use_api_socket", Bool),
    field("user", Text),
    field("userns_mode", Text),
    field("uts", Text),
    field("volume_driver", Text),
    field(
        "volumes",
        List(&Short(short::mount, &Object(MOUNT)), Key::Target),
    ),
    field("volumes_from", WORDS),
    field("working_dir", Text),
    field("post_start", List(&Object(HOOK), Key::None)),
    field("pre_stop", List(&Object(HOOK), Key::None)),
];

const BUILD: &[Field] = &[
    field("context", Context),
    field("dockerfile", Text),
    field("dockerfile_inline", Text),
    field("entitlements", WORDS),
    field("args", Environment),
    field("provenance", Text),
    field("sbom", Text),
    field("ssh", Short(short::names, &Map(&Text))),
    field("labels", Mapping),
    field("cache_from", ONE_OR_MORE),
    field("cache_to", ONE_OR_MORE),
    field("no_cache", Bool),
    field("additional_contexts", Short(short::pairs, &Map(&Context))),
    field("pull", Bool),
    field("extra_hosts", Hosts),
    field("isolation", Text),
    field("network", Text),
    field("target", Text),
    field(
        "secrets",
        List(&Short(short::grant, &Object(GRANT)), Key::None),
    ),
    field("shm_size", Size),
    field("tags", WORD_OR_WORDS),
    field("ulimits", Map(&Ulimit)),
    field("platforms", ONE_OR_MORE),
    field("privileged", Bool),
];

const DEVELOP: &[Field] = &[field("watch", List(&Object(TRIGGER), Key::None))];

const TRIGGER: &[Field] = &[
    field("path", File),
    field("action", Text),
    field("target", Text),
    field("exec", Object(HOOK)).keep(AsObject),
    field("include", ONE_OR_MORE),
    field("ignore", ONE_OR_MORE),
    field("initial_sync", Bool),
];

const HOOK: &[Field] = &[
    field("command", Command).keep(AsNull),
    field("user", Text),
    field("privileged", Bool),
    field("working_dir", Text),
    field("environment", Environment),
];

const BLKIO: &[Field] = &[
    field("weight", Int),
    field("weight_device", List(&Object(WEIGHT), Key::None)),
    field("device_read_bps", List(&Object(THROTTLE), Key::None)),
    field("device_read_iops", List(&Object(THROTTLE), Key::None)),
    field("device_write_bps", List(&Object(THROTTLE), Key::None)),
    field("device_write_iops", List(&Object(THROTTLE), Key::None)),
];

const WEIGHT: &[Field] = &[
    field("path", Text).keep(Given).json("Path"),
    field("weight", Int).keep(Given).json("Weight"),
];

const THROTTLE: &[Field] = &[
    field("path", Text).keep(Given).json("Path"),
    field("rate", Size).keep(Given).json("Rate"),
];

const GRANT: &[Field] = &[
    field("source", Text),
    field("target", Text),
    field("uid", Text),
    field("gid", Text),
    field("mode", Mode).keep(Given),
];

const CREDENTIAL: &[Field] = &[
    field("config", Text),
    field("file", Text),
    field("registry", Text),
];

const DEPENDENCY: &[Field] = &[
    field("condition", Text),
    field("restart", Bool),
    field("required", Bool).keep(Given),
];

const DEPLOY: &[Field] = &[
    field("mode", Text),
    field("replicas", Int).keep(Given),
    field("labels", Mapping),
    field("update_config", Object(UPDATE)).keep(Given),
    field("rollback_config", Object(UPDATE)).keep(Given),
    field("resources", Object(RESOURCES)).keep(AsObject),
    field("restart_policy", Object(RESTART)).keep(Given),
    field("placement", Object(PLACEMENT)).keep(AsObject),
    field("endpoint_mode", Text),
];

const UPDATE: &[Field] = &[
    field("parallelism", Int).keep(Given),
    field("delay", Duration),
    field("failure_action", Text),
    field("monitor", Duration),
    field("max_failure_ratio", Number),
    field("order", Text),
];

const RESOURCES: &[Field] = &[
    field("limits", Object(RESOURCE)).keep(Given),
    field("reservations", Object(RESOURCE)).keep(Given),
];

const RESOURCE: &[Field] = &[
    field("cpus", Number),
    field("memory", Size),
    field("pids", Int),
    field("devices", List(&Object(DEVICE_REQUEST), Key::None)),
    field("generic_resources", List(&Any, Key::None)),
];

const DEVICE_REQUEST: &[Field] = &[
    field("capabilities", WORDS),
    field("driver", Text),
    field("count", Short(short::device_count, &Int)),
    field("device_ids", WORDS),
    field("options", Mapping),
];

const RESTART: &[Field] = &[
    field("condition", Text),
    field("delay", Duration).keep(Given),
    field("max_attempts", Int).keep(Given),
    field("window", Duration).keep(Given),
];

const PLACEMENT: &[Field] = &[
    field("constraints", WORDS),
    field("preferences", List(&Object(SPREAD), Key::None)),
    field("max_replicas_per_node", Int),
];

const SPREAD: &[Field] = &[field("spread", Text)];

const DEVICE: &[Field] = &[
    field("source", Text),
    field("target", Text),
    field("permissions", Text),
];

const ENV_FILE: &[Field] = &[
    field("path", File),
    field("required", Bool).keep(Given),
    field("format", Text),
];

const EXTENDS: &[Field] = &[field("file", File), field("service", Text)];

const HEALTH: &[Field] = &[
    field("test", Test),
    field("timeout", Duration).keep(Given),
    field("interval", Duration).keep(Given),
    field("retries", Int).keep(Given),
    field("start_period", Duration).keep(Given),
    field("start_interval", Duration).keep(Given),
    field("disable", Bool),
];

const LOGGING: &[Field] = &[field("driver", Text), field("options", Mapping)];

const ENDPOINT: &[Field] = &[
    field("aliases", SET),
    field("driver_opts", Mapping),
    field("gw_priority", Int),
    field("interface_name", Text),
    field("ipv4_address", Text),
    field("ipv6_address", Text),
    field("link_local_ips", SET),
    field("mac_address", Text),
    field("priority", Int),
];

const PORT: &[Field] = &[
    field("name", Text),
    field("mode", Text),
    field("host_ip", Text),
    field("target", Int),
    field("published", Text),
    field("protocol", Text),
    field("app_protocol", Text),
];

const MOUNT: &[Field] = &[
    field("type", Text),
    field("source", Text),
    field("target", Text),
    field("read_only", Bool),
    field("consistency", Text),
    field("bind", Object(MOUNT_BIND)).keep(Given),
    field("volume", Object(MOUNT_VOLUME)).keep(Given),
    field("tmpfs", Object(MOUNT_TMPFS)).keep(Given),
    field("image", Object(MOUNT_IMAGE)).keep(Given),
];

const MOUNT_BIND: &[Field] = &[
    field("selinux", Text),
    field("propagation", Text),
    field("create_host_path", Bool),
    field("recursive", Text),
];

const MOUNT_VOLUME: &[Field] = &[
    field("labels", Mapping),
    field("nocopy", Bool),
    field("subpath", Text),
];

const MOUNT_TMPFS: &[Field] = &[field("size", Size), field("mode", Int)];

const MOUNT_IMAGE: &[Field] = &[field("subpath", Text)];

pub static NETWORK: Shape = Short(
    short::external,
    &Object(&[
        field("name", Text),
        field("driver", Text),
        field("driver_opts", Mapping),
        field("ipam", Object(IPAM)).keep(AsObject),
        field("external", Bool),
        field("internal", Bool),
        field("attachable", Bool),
        field("labels", Mapping),
        field("enable_ipv4", Bool).keep(Given),
        field("enable_ipv6", Bool).keep(Given),
    ]),
);

const IPAM: &[Field] = &[
    field("driver", Text),
    field("config", List(&Object(POOL), Key::Subnet)),
    field("options", Mapping),
];

const POOL: &[Field] = &[
    field("subnet", Text),
    field("gateway", Text),
    field("ip_range", Text),
    field("aux_addresses", Mapping),
];

pub static VOLUME: Shape = Short(
    short::external,
    &Object(&[
        field("name", Text),
        field("driver", Text),
        field("driver_opts", Mapping),
        field("external", Bool),
        field("labels", Mapping),
    ]),
);

const FILE_OBJECT: &[Field] = &[
    field("name", Text),
    field("file", File),
    field("environment", Text),
    field("content", Text),
    field("external", Bool),
    field("labels", Mapping),
    field("driver", Text),
    field("driver_opts", Mapping),
    field("template_driver", Text),
];
