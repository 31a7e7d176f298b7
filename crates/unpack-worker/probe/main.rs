//! A program that serves as a worker, and one that tries what a worker that was taken over would.

// A failed expectation here is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, ExitCode};

use berth_unpack::Options;
use berth_unpack_worker::{Program, Unpacker};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketType};

fn main() -> ExitCode {
    if berth_unpack_worker::is_asked_for() {
        return berth_unpack_worker::serve();
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["try", what, layer] => try_it(what, Path::new(layer)),
        ["feed-for-ever", layer] => feed_for_ever(Path::new(layer)),
        _ => panic!("{words:?}"),
    }
}

fn try_it(what: &str, layer: &Path) -> ExitCode {
    let mount = berth_unpack_worker::layer(File::open(layer).unwrap().as_fd()).unwrap();
    if let Some(status) = berth_unpack_worker::shut_in().unwrap() {
        return ExitCode::from(status);
    }
    let opened = |path: &str| {
        let opened = rustix::fs::openat(rustix::fs::CWD, path, OFlags::RDONLY, Mode::empty());
        opened.err().map(|errno| errno.to_string())
    };
    match what {
        "socket" => drop(rustix::net::socket(
            AddressFamily::INET,
            SocketType::STREAM,
            None,
        )),
        "program" => drop(Command::new("/bin/true").status()),
        "mount" => drop(rustix::mount::mount_bind("/", "/")),
        "signal" => drop(rustix::process::kill_process_group(
            rustix::process::Pid::INIT,
            rustix::process::Signal::TERM,
        )),
        "files" => {
            for path in ["/etc/passwd", "/proc/self/status", "/dev/null", "/sys"] {
                println!("{path}: {}", opened(path).expect("it is there"));
            }
            let made = rustix::fs::openat(
                rustix::fs::CWD,
                "/new",
                OFlags::CREATE | OFlags::WRONLY,
                Mode::RUSR,
            );
            println!("/new: {}", made.unwrap_err());
        }
        "above" => {
            let up = OFlags::PATH | OFlags::DIRECTORY;
            let above = rustix::fs::openat(&mount, "..", up, Mode::empty()).unwrap();
            let (here, above) = (rustix::fs::fstat(&mount), rustix::fs::fstat(above));
            assert_eq!(here.unwrap().st_ino, above.unwrap().st_ino);
            println!("nothing above");
        }
        "device" => {
            let null = rustix::fs::makedev(1, 3);
            let kind = rustix::fs::FileType::CharacterDevice;
            rustix::fs::mknodat(&mount, "null", kind, Mode::RUSR, null).unwrap();
            let opened = rustix::fs::openat(&mount, "null", OFlags::RDONLY, Mode::empty());
            println!("null: {}", opened.unwrap_err());
        }
        "mark" => {
            let flags = rustix::fs::XattrFlags::empty();
            let dir = rustix::fs::openat(&mount, ".", OFlags::RDONLY, Mode::empty()).unwrap();
            let set = rustix::fs::fsetxattr(&dir, "trusted.overlay.redirect", b"/", flags);
            println!("mark: {}", set.unwrap_err());
        }
        _ => panic!("{what}"),
    }
    ExitCode::SUCCESS
}

/// As a daemon whose registry sends nothing any more.
fn feed_for_ever(layer: &Path) -> ExitCode {
    let unpacker = Unpacker::Apart(Program::own());
    let target = File::open(layer).unwrap();
    let silent = Silent;
    let _never = unpacker.unpack(silent, target.as_fd(), &Options::default());
    ExitCode::SUCCESS
}

struct Silent;

impl Read for Silent {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        loop {
            std::thread::park();
        }
    }
}
