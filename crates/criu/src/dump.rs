//! The command line of a dump.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The log's name in the work directory.
pub const LOG: &str = "dump.log";

/// What is dumped, and where to.
#[derive(Debug, Clone, Copy)]
pub struct Dump<'a> {
    /// The first process.
    pub init: u32,
    pub images: &'a Path,
    pub work: &'a Path,
    pub options: &'a Options,
}

/// How the processes and what hangs on them are dumped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Only memory that has changed; the processes go on.
    pub pre_dump: bool,
    pub leave_running: bool,
    pub tcp_established: bool,
    pub tcp_skip_in_flight: bool,
    pub link_remap: bool,
    pub ext_unix_sk: bool,
    pub shell_job: bool,
    pub file_locks: bool,
    pub auto_dedup: bool,
    /// Images of an earlier dump, relative to these.
    pub parent: Option<String>,
    /// Address and port.
    pub page_server: Option<(String, u16)>,
    /// The network namespace comes back empty.
    pub empty_network: bool,
    /// Seconds after which criu lets go of the processes by itself.
    pub timeout: Option<u64>,
    /// The directory of the freezer that the processes are in, if they are frozen: criu lets them
    /// go as far as it needs, and leaves them frozen.
    pub frozen: Option<PathBuf>,
}

/// Arguments for criu, with all that lies outside of the container.
pub fn arguments(dump: &Dump<'_>, externals: &[String]) -> Vec<OsString> {
    let options = dump.options;
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(OsString::from));
    add(&[if options.pre_dump { "pre-dump" } else { "dump" }]);
    add(&["--manage-cgroups=ignore", "--network-lock", "skip"]);
    add(&["--log-file", LOG, "-v2", "--tree", &dump.init.to_string()]);
    let switches = [
        (
            options.leave_running && !options.pre_dump,
            "--leave-running",
        ),
        (options.tcp_established, "--tcp-established"),
        (options.tcp_skip_in_flight, "--skip-in-flight"),
        (options.link_remap, "--link-remap"),
        (options.ext_unix_sk, "--ext-unix-sk"),
        (options.shell_job, "--shell-job"),
        (options.file_locks, "--file-locks"),
        (options.auto_dedup, "--auto-dedup"),
    ];
    for (on, word) in switches {
        if on {
            add(&[word]);
        }
    }
    if let Some(parent) = &options.parent {
        add(&["--prev-images-dir", parent, "--track-mem"]);
    } else if options.pre_dump {
        add(&["--track-mem"]);
    }
    if let Some((address, port)) = &options.page_server {
        add(&[
            "--page-server",
            "--address",
            address,
            "--port",
            &port.to_string(),
        ]);
    }
    if options.empty_network {
        add(&["--empty-ns", "net"]);
    }
    if let Some(seconds) = options.timeout {
        add(&["--timeout", &seconds.max(1).to_string()]);
    }
    for external in externals {
        add(&["--external", external]);
    }
    let directories = [("--images-dir", dump.images), ("--work-dir", dump.work)];
    let frozen = options.frozen.as_deref().map(|it| ("--freeze-cgroup", it));
    for (name, path) in directories.into_iter().chain(frozen) {
        arguments.push(name.into());
        arguments.push(path.into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pre_dump_tracks_memory_and_never_ends_the_processes() {
        let options = Options {
            pre_dump: true,
            leave_running: true,
            parent: Some("../first".to_owned()),
            frozen: Some("/sys/fs/cgroup/freezer/c".into()),
            ..Options::default()
        };
        let dump = Dump {
            init: 7,
            images: Path::new("/i"),
            work: Path::new("/w"),
            options: &options,
        };
        let said = arguments(&dump, &["mnt[/a]:/a".to_owned()]);
        let said: Vec<String> = said
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect();
        let said = said.join(" ");
        assert!(said.starts_with("pre-dump "), "{said}");
        assert!(
            said.contains("--prev-images-dir ../first --track-mem"),
            "{said}"
        );
        assert!(said.contains("--external mnt[/a]:/a"), "{said}");
        assert!(!said.contains("--leave-running"), "{said}");
        let frozen = "--freeze-cgroup /sys/fs/cgroup/freezer/c";
        assert!(said.ends_with(frozen), "{said}");
    }
}
