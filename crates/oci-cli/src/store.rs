//! The state directory: containers found by their ids.

use crate::error::{Error, Result};
use crate::state::{State, Status, VERSION};
use berth_cgroups::CgroupHost;
use berth_executor::{Container, Found};
use berth_kernel::Errno;
use berth_kernel::rustix::fs::{FlockOperation, flock};
use berth_kernel::rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const STATE: &str = "state.json";
const START: &str = "start";

/// One container's directory, held open and locked against other commands
/// that change the container.
#[derive(Debug)]
pub struct Entry {
    directory: File,
    path: PathBuf,
}

impl Entry {
    /// Makes the directory of a new container; [`Error::Exists`] if it has one.
    pub fn make(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        let mut builder = DirBuilder::new();
        builder.mode(0o711);
        let path = root.join(id);
        let made = match builder.create(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut parents = DirBuilder::new();
                parents.recursive(true).mode(0o711);
                parents.create(root).map_err(Error::io("make", root))?;
                builder.create(&path)
            }
            made => made,
        };
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Error::Exists),
            Err(error) => Err(Error::io("make", &path)(error)),
            Ok(()) => Self::open(path),
        }
    }

    /// The directory of a container, locked; [`Error::NotExist`] without one.
    pub fn find(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        Self::open(root.join(id))
    }

    fn open(path: PathBuf) -> Result<Self> {
        let directory = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::NotExist),
            opened => opened.map_err(Error::io("open", &path))?,
        };
        loop {
            match flock(&directory, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                locked => break locked.map_err(Error::io("lock", &path))?,
            }
        }
        Ok(Self { directory, path })
    }

    /// Lets other commands at the container while a process of it is waited
    /// for.
    pub fn unlock(&self) {
        // A descriptor of our own and no more than that: it cannot fail.
        let _ = flock(&self.directory, FlockOperation::Unlock);
    }

    /// Replaces the saved state in one step.
    pub fn save(&self, state: &State) -> Result<()> {
        let path = self.path.join(STATE);
        let fresh = self.path.join("state.json.new");
        let text = serde_json::to_vec(state).map_err(|source| Error::Json {
            path: path.clone(),
            source,
        })?;
        // The container's specification is in it, with its environment.
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = options
            .open(&fresh)
            .and_then(|mut file| file.write_all(&text));
        written.map_err(Error::io("write", &fresh))?;
        fs::rename(&fresh, &path).map_err(Error::io("replace", &path))
    }

    pub fn state(&self) -> Result<State> {
        read_state(&self.path)
    }

    /// A listening socket for the start gate.
    pub fn listen(&self) -> Result<OwnedFd> {
        let path = self.path.join(START);
        let made = seqpacket().and_then(|socket| {
            bind(&socket, &self.start_address()?)?;
            listen(&socket, 4)?;
            Ok(socket)
        });
        made.map_err(Error::io("listen on", &path))
    }

    /// A connection to the process at the start gate; `None` if it is gone.
    pub fn connect(&self) -> Result<Option<OwnedFd>> {
        let path = self.path.join(START);
        let address = self.start_address().map_err(Error::io("name", &path))?;
        let socket = seqpacket().map_err(Error::system("make a socket"))?;
        match connect(&socket, &address) {
            Ok(()) => Ok(Some(socket)),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
            Err(errno) => Err(Error::io("connect to", &path)(errno)),
        }
    }

    /// By the descriptor of the directory: a socket's address has room for
    /// 107 bytes, fewer than a long root and id need.
    fn start_address(&self) -> berth_kernel::Result<SocketAddrUnix> {
        SocketAddrUnix::new(format!(
            "/proc/self/fd/{}/{START}",
            self.directory.as_raw_fd()
        ))
    }

    /// The container is not waiting at its gate any more.
    pub fn started(&self) -> Result<()> {
        let path = self.path.join(START);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Forgets the container. `state.json` goes first, so that what a failure
    /// leaves counts as a create that broke off.
    pub fn remove(self) -> Result<()> {
        for name in [STATE, START] {
            let _ = fs::remove_file(self.path.join(name));
        }
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", &self.path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// By the call, not by closing: a process at its gate shares the descriptor,
/// and with it the lock.
impl Drop for Entry {
    fn drop(&mut self) {
        self.unlock();
    }
}

fn seqpacket() -> berth_kernel::Result<OwnedFd> {
    let kind = SocketType::SEQPACKET;
    socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
}

/// The state of a container, without a lock: it is always whole.
pub fn read(root: &Path, id: &str) -> Result<State> {
    check_id(id)?;
    read_state(&root.join(id))
}

fn read_state(directory: &Path) -> Result<State> {
    let path = directory.join(STATE);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::NotExist),
        read => read.map_err(Error::io("read", &path))?,
    };
    let state: State = serde_json::from_slice(&text).map_err(|source| Error::Json {
        path: path.clone(),
        source,
    })?;
    if state.version > VERSION {
        return Err(Error::StateVersion {
            path,
            version: state.version,
            known: VERSION,
        });
    }
    Ok(state)
}

/// What the container does at the moment.
pub fn status(root: &Path, state: &State) -> Result<Status> {
    if !state.container.is_alive() {
        return Ok(Status::Stopped);
    }
    match load(state)? {
        Found::Ended(_) => Ok(Status::Stopped),
        // A host that cannot freeze has nothing frozen.
        Found::Alive(container) if container.cgroup().is_frozen().unwrap_or(false) => {
            Ok(Status::Paused)
        }
        Found::Alive(_) if waits_at_gate(root, state) => Ok(Status::Created),
        Found::Alive(_) => Ok(Status::Running),
    }
}

pub fn waits_at_gate(root: &Path, state: &State) -> bool {
    root.join(&state.id).join(START).exists()
}

pub fn load(state: &State) -> Result<Found> {
    let host = CgroupHost::detect().map_err(Error::Cgroups)?;
    Ok(Container::load(&state.id, &state.container, &host)?)
}

/// The container if its first process lives, [`Error::NotRunning`] otherwise.
pub fn load_alive(state: &State) -> Result<Container> {
    match load(state)? {
        Found::Alive(container) => Ok(*container),
        Found::Ended(_) => Err(Error::NotRunning),
    }
}

/// Letters, digits, `_`, `+`, `-` and `.`, and no name of a directory itself.
fn check_id(id: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    if id.is_empty() || id == "." || id == ".." || !id.bytes().all(plain) {
        return Err(Error::InvalidId);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_cannot_lead_out_of_the_root() {
        for id in ["", ".", "..", "a/b", "../x", "a b", "ä", "a\n"] {
            assert!(matches!(check_id(id), Err(Error::InvalidId)), "{id:?}");
        }
        for id in ["a", "A.b-c_d+1", "...", "-x"] {
            assert!(check_id(id).is_ok(), "{id}");
        }
    }

    #[test]
    fn one_id_has_one_directory_and_a_broken_create_is_no_container() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().join("deep/er");
        let entry = Entry::make(&root, "c").unwrap();
        assert!(matches!(Entry::make(&root, "c"), Err(Error::Exists)));
        assert!(matches!(entry.state(), Err(Error::NotExist)));
        assert!(matches!(read(&root, "c"), Err(Error::NotExist)));
        entry.remove().unwrap();
        assert!(matches!(Entry::find(&root, "c"), Err(Error::NotExist)));
    }

    #[test]
    fn a_start_socket_works_under_a_path_longer_than_an_address() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().join("r".repeat(120));
        let entry = Entry::make(&root, "c").unwrap();
        assert!(entry.connect().unwrap().is_none());
        let listener = entry.listen().unwrap();
        assert!(entry.connect().unwrap().is_some());
        drop(listener);
        assert!(entry.connect().unwrap().is_none());
    }

    #[test]
    fn a_state_of_a_later_program_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("c")).unwrap();
        let text = r#"{"version":99,"ociVersion":"1.3.0","id":"c","bundle":"/b","rootfs":"/b/r",
            "created":0,"ownPids":true,
            "container":{"pid":1,"startTime":1,"cgroup":"/c","namespaces":[]}}"#;
        fs::write(root.path().join("c/state.json"), text).unwrap();
        let refused = read(root.path(), "c").unwrap_err();
        assert!(matches!(refused, Error::StateVersion { version: 99, .. }));
    }
}
