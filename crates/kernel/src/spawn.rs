//! Programs that find open files from descriptor 3 on, beside their standard streams. For processes of one
//! thread: what others open meanwhile could be at these places.

#![allow(unsafe_code)] // what runs between fork and exec

use crate::reset_signals;
use rustix::io::fcntl_dupfd_cloexec;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

const FIRST: i32 = 3;

/// Starts a program that has `files` as descriptors 3, 4 and so on; the caller's own are closed. Its signals
/// are as new, whatever the caller blocks.
pub fn spawn_with_files<const N: usize>(
    mut command: Command,
    files: [OwnedFd; N],
) -> io::Result<Child> {
    // Above all places that are about to be filled.
    let beyond = FIRST + i32::try_from(N).unwrap_or(i32::MAX - FIRST);
    let mut copies = Vec::with_capacity(N);
    for file in files {
        copies.push(fcntl_dupfd_cloexec(&file, beyond)?);
    }
    // The standard library opens a pipe of its own for the child's error: it must not get a place.
    let mut placeholders = Vec::new();
    while let Some(first) = copies.first()
        && let placeholder = fcntl_dupfd_cloexec(first, FIRST)?
        && placeholder.as_raw_fd() < beyond
    {
        placeholders.push(placeholder);
    }
    let numbers: Vec<i32> = copies.iter().map(AsRawFd::as_raw_fd).collect();
    let prepare = move || {
        for (place, number) in (FIRST..).zip(&numbers) {
            // SAFETY: integers only; the copies stay open until the parent has spawned, and what is at
            // the places belongs to nobody in a process that is about to execute.
            if unsafe { libc::dup2(*number, place) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        reset_signals().map_err(io::Error::from)
    };
    // SAFETY: system calls only: no heap, no locks.
    unsafe { command.pre_exec(prepare) };
    let spawned = command.spawn();
    drop((copies, placeholders));
    spawned
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::fs::File;
    use std::io::Read;
    use std::process::Stdio;

    #[test]
    fn files_are_the_next_descriptors_and_no_others_are_open() {
        let pipes = [(); 2].map(|()| pipe_with(PipeFlags::CLOEXEC).unwrap());
        let [(first, to_first), (second, to_second)] = pipes;
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo one >&3; echo two >&4; for n in 5 6 7 8 9; do [ ! -e /proc/$$/fd/$n ] || echo $n; done"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        // The other way round, so that each would be the place of the other.
        let child = spawn_with_files(command, [to_second, to_first]).unwrap();
        let open = child.wait_with_output().unwrap().stdout;
        let open = String::from_utf8(open).unwrap();
        assert_eq!(open, "", "others are open");
        for (pipe, expected) in [(second, "one\n"), (first, "two\n")] {
            let mut text = String::new();
            File::from(pipe).read_to_string(&mut text).unwrap();
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn a_program_has_no_signal_blocked() {
        let mut command = Command::new("grep");
        command
            .args(["SigBlk", "/proc/self/status"])
            .stdout(Stdio::piped());
        let output = std::thread::spawn(move || {
            crate::block_signals(&[libc::SIGTERM, libc::SIGCHLD]).unwrap();
            let child = spawn_with_files(command, []).unwrap();
            child.wait_with_output().unwrap()
        });
        let output = output.join().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text, "SigBlk:\t0000000000000000\n");
    }
}
