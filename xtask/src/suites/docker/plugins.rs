//! Steps with plugins of others: volumes and networks that a program beside the daemon has, addresses
//! that it gives, and logs that it is sent.

mod logs;
mod networks;
mod program;
mod volumes;

use anyhow::Result;

use super::Step;
use super::session::Session;

pub const STEPS: &[(&str, Step)] = &[
    ("info lists plugins beside what is built in", volumes::info),
    (
        "a volume of a plugin is made with options and shown with what the plugin says",
        volumes::made,
    ),
    (
        "each run mounts it under its own id, and unmounts it at its end",
        volumes::mounted,
    ),
    (
        "an empty one is filled with what the image has",
        volumes::filled,
    ),
    (
        "what a container at rest has there is copied",
        volumes::at_rest,
    ),
    (
        "a daemon that is killed leaves nothing mounted, and keeps what runs",
        volumes::killed,
    ),
    (
        "what a plugin refuses, and one that is not there, are told in their words",
        volumes::refused,
    ),
    (
        "plugins that hang, talk nonsense or die are told of, and hold nobody up",
        volumes::bad,
    ),
    (
        "log drivers and options that are not there are refused in Docker's words",
        logs::refused,
    ),
    (
        "a log of the driver local is rotated, compressed, and read back whole",
        logs::local,
    ),
    (
        "a log plugin is sent every line, and docker logs has them as well",
        logs::sent,
    ),
    (
        "a plugin that is killed, and a daemon, go on where they were",
        logs::killed,
    ),
    (
        "without its log plugin a container does not start",
        logs::missing,
    ),
    (
        "a network of a plugin is made with options and shown as what it is",
        networks::made,
    ),
    (
        "containers on it have names, addresses and ways as the plugin says, and leave nothing",
        networks::joined,
    ),
    (
        "a plugin gives the addresses of its own network, and of a bridge",
        networks::addressed,
    ),
    (
        "plugin and daemon are killed: what runs keeps its network, what ended is given back",
        networks::killed,
    ),
    (
        "a network's plugin that refuses, talks nonsense or is gone is told of, and costs nothing else",
        networks::bad,
    ),
];

fn teller(session: &Session) -> Result<program::Program> {
    program::Program::start(session, "teller", &["LogDriver"])
}

/// Fresh plugins for each step: the last one's may have died.
fn shelf(session: &Session) -> Result<program::Program> {
    program::Program::start(session, "shelf", &["VolumeDriver"])
}
