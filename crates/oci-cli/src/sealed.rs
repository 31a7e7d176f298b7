//! This program where nobody can write to it.
//!
//! What a container executes may be, by `/proc/self/exe` as its program or as
//! the interpreter of a script, this very program; whoever then opens that
//! link holds the file that root runs next time (CVE-2019-5736). So commands
//! that start processes of containers run from a read-only view of it.

use berth_kernel::rustix::fs::{StatVfsMountFlags, statvfs};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

const OWN: &str = "/proc/self/exe";

/// Begins anew from a view, unless this is one. Comes back as well where none
/// can be made: who may not mount may not write to root's programs either.
pub fn ensure() {
    if is_read_only(OWN) {
        // Named after the descriptor that it was executed by.
        let _cosmetic = berth_kernel::set_process_name(c"berth-oci");
        return;
    }
    let Ok(view) = berth_kernel::read_only_view(Path::new(OWN)) else {
        return;
    };
    let program = format!("/proc/self/fd/{}", view.as_raw_fd());
    if !is_read_only(&program) {
        return;
    }
    let mut words = std::env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    // A return is a failure, with which the old process goes on.
    let _error = command.args(words).exec();
}

fn is_read_only(path: &str) -> bool {
    statvfs(path).is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::RDONLY))
}
