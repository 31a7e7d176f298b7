//! Special files.

use crate::Result;
use rustix::fs::{FileType, Mode};
use std::os::fd::AsFd;
use std::path::Path;

/// What kind of device or pipe a special file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    Character { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

/// Makes a special file at `path` relative to `directory`; the mode passes
/// the umask. `EPERM` without the right to make devices.
pub fn make_node<Fd: AsFd>(directory: Fd, path: &Path, kind: NodeKind, mode: u32) -> Result<()> {
    let (file_type, device) = match kind {
        NodeKind::Character { major, minor } => {
            (FileType::CharacterDevice, rustix::fs::makedev(major, minor))
        }
        NodeKind::Block { major, minor } => {
            (FileType::BlockDevice, rustix::fs::makedev(major, minor))
        }
        NodeKind::Fifo => (FileType::Fifo, 0),
    };
    rustix::fs::mknodat(
        directory,
        path,
        file_type,
        Mode::from_raw_mode(mode),
        device,
    )
}

/// Makes a named pipe; the mode passes the umask.
pub fn make_fifo(path: &Path, mode: u32) -> Result<()> {
    make_node(rustix::fs::CWD, path, NodeKind::Fifo, mode)
}
