//! All commands, with their options.

mod checkpoint;
mod delete;
mod events;
mod exec;
mod features;
mod kill;
mod list;
mod pause;
mod ps;
mod restore;
mod spec;
mod start;
mod state;
mod update;

pub use berth_executor::SPEC_VERSION;

use crate::arguments::{Arguments, Flag, switch, value};
use crate::error::{Error, Result};
use crate::global::Global;
use crate::journal::Journal;
use crate::launch;

/// One command. Its function answers with the exit status.
pub struct Command {
    pub name: &'static str,
    pub about: &'static str,
    /// The words after the options.
    pub usage: &'static str,
    pub flags: &'static [Flag],
    /// Options may follow the first word.
    pub interspersed: bool,
    pub least: usize,
    pub most: usize,
    pub expected: &'static str,
    /// How the message of an error begins.
    pub failure: &'static str,
    /// Exit status after an error.
    pub failed_status: u8,
    /// Of containers, which may turn on this program.
    pub starts_processes: bool,
    pub run: fn(&Global, &Journal, &Arguments) -> Result<u8>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// A command that takes one container and nothing else.
const ONE: Command = Command {
    name: "",
    about: "",
    usage: "<container-id>",
    flags: &[],
    interspersed: true,
    least: 1,
    most: 1,
    expected: "exactly 1",
    failure: "",
    failed_status: 1,
    starts_processes: false,
    run: nothing,
};

const NONE: Command = Command {
    usage: "",
    least: 0,
    most: 0,
    expected: "exactly 0",
    ..ONE
};

const BUNDLE: Flag = value(
    "bundle",
    "b",
    "path to the root of the bundle directory, defaults to the current directory",
);
const CONSOLE_SOCKET: Flag = value(
    "console-socket",
    "",
    "path to an AF_UNIX socket which will receive the master end of the console's pseudoterminal",
);
const PIDFD_SOCKET: Flag = value(
    "pidfd-socket",
    "",
    "path to an AF_UNIX socket which will receive a descriptor of the process",
);
const PID_FILE: Flag = value(
    "pid-file",
    "",
    "specify the file to write the process id to",
);
const DETACH: Flag = switch("detach", "d", "detach from the container's process");
const NO_PIVOT: Flag = switch(
    "no-pivot",
    "",
    "do not use pivot root, for a rootfs on top of a ramdisk",
);
const NO_NEW_KEYRING: Flag = switch(
    "no-new-keyring",
    "",
    "do not create a new session keyring for the container",
);
const PRESERVE_FDS: Flag = value(
    "preserve-fds",
    "",
    "pass N additional file descriptors to the container (stdio + $LISTEN_FDS + N in total)",
);
const FORMAT: Flag = value("format", "f", "select one of: table or json");

const CREATE: &[Flag] = &[
    BUNDLE,
    CONSOLE_SOCKET,
    PIDFD_SOCKET,
    PID_FILE,
    NO_PIVOT,
    NO_NEW_KEYRING,
    PRESERVE_FDS,
];
const RUN: &[Flag] = &[
    BUNDLE,
    CONSOLE_SOCKET,
    PIDFD_SOCKET,
    DETACH,
    switch("keep", "", "do not delete the container after it exits"),
    PID_FILE,
    switch("no-subreaper", "", "do not reap reparented processes"),
    NO_PIVOT,
    NO_NEW_KEYRING,
    PRESERVE_FDS,
];

pub const ALL: &[Command] = &[
    Command {
        name: "checkpoint",
        about: "checkpoint a running container",
        flags: checkpoint::FLAGS,
        run: checkpoint::run,
        ..ONE
    },
    Command {
        name: "create",
        about: "create a container",
        flags: CREATE,
        failure: "berth-oci create failed: ",
        starts_processes: true,
        run: launch::create,
        ..ONE
    },
    Command {
        name: "delete",
        about: "delete any resources held by the container",
        flags: delete::FLAGS,
        run: delete::run,
        ..ONE
    },
    Command {
        name: "events",
        about: "display container events such as OOM notifications and usage statistics",
        flags: events::FLAGS,
        run: events::run,
        ..ONE
    },
    Command {
        name: "exec",
        about: "execute new process inside the container",
        usage: "<container-id> <command> [command options]  || -p process.json <container-id>",
        flags: exec::FLAGS,
        interspersed: false,
        most: usize::MAX,
        expected: "a minimum of 1",
        failure: "exec failed: ",
        failed_status: 255,
        starts_processes: true,
        run: exec::run,
        ..ONE
    },
    Command {
        name: "kill",
        about: "send a signal (default: SIGTERM) to the container's init process",
        usage: "<container-id> [signal]",
        flags: kill::FLAGS,
        most: 2,
        expected: "1 or 2",
        run: kill::run,
        ..ONE
    },
    Command {
        name: "list",
        about: "list containers with the given root",
        flags: list::FLAGS,
        run: list::run,
        ..NONE
    },
    Command {
        name: "pause",
        about: "suspend all processes inside the container",
        run: pause::pause,
        ..ONE
    },
    Command {
        name: "ps",
        about: "display the processes running inside a container",
        usage: "<container-id> [ps options]",
        flags: &[FORMAT],
        interspersed: false,
        most: usize::MAX,
        expected: "a minimum of 1",
        run: ps::run,
        ..ONE
    },
    Command {
        name: "restore",
        about: "restore a container from a checkpoint",
        flags: restore::FLAGS,
        failure: "berth-oci restore failed: ",
        starts_processes: true,
        run: launch::restore,
        ..ONE
    },
    Command {
        name: "resume",
        about: "resume all processes that have been paused",
        run: pause::resume,
        ..ONE
    },
    Command {
        name: "run",
        about: "create and run a container",
        flags: RUN,
        failure: "berth-oci run failed: ",
        starts_processes: true,
        run: launch::run,
        ..ONE
    },
    Command {
        name: "spec",
        about: "create a new specification file",
        flags: spec::FLAGS,
        run: spec::run,
        ..NONE
    },
    Command {
        name: "start",
        about: "execute the user defined process in a created container",
        run: start::run,
        ..ONE
    },
    Command {
        name: "state",
        about: "output the state of a container",
        run: state::run,
        ..ONE
    },
    Command {
        name: "update",
        about: "update container resource constraints",
        flags: update::FLAGS,
        run: update::run,
        ..ONE
    },
    Command {
        name: "features",
        about: "show the enabled features",
        run: features::run,
        ..NONE
    },
];

pub fn find(name: &str) -> Option<&'static Command> {
    ALL.iter().find(|command| command.name == name)
}

/// Stands in the templates that the table of commands starts from.
fn nothing(_: &Global, _: &Journal, _: &Arguments) -> Result<u8> {
    Err(Error::NoProgram)
}

/// The container that a command is about: its first word.
fn id(arguments: &Arguments) -> &str {
    arguments.words.first().map_or("", String::as_str)
}
