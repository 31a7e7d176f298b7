use super::{BUNDLE, CONSOLE_SOCKET, DETACH, NO_PIVOT, PID_FILE};
use crate::arguments::{Flag, switch, value};
use crate::images;

pub const FLAGS: &[Flag] = &[
    CONSOLE_SOCKET,
    images::IMAGE_PATH,
    images::WORK_PATH,
    images::TCP_ESTABLISHED,
    images::EXT_UNIX_SK,
    images::SHELL_JOB,
    images::FILE_LOCKS,
    images::MANAGE_CGROUPS,
    BUNDLE,
    DETACH,
    PID_FILE,
    switch("no-subreaper", "", "do not reap reparented processes"),
    NO_PIVOT,
    images::EMPTY_NS,
    images::AUTO_DEDUP,
    images::LAZY_PAGES,
    value(
        "lsm-profile",
        "",
        "security profile of the restored processes, as TYPE:NAME",
    ),
    value(
        "lsm-mount-context",
        "",
        "security context of the restored mounts",
    ),
];
