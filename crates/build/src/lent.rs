//! What a client lends to the commands of a build: secrets, and its ssh agents. Neither is part of
//! a step's key, of its layer or of what it is remembered by; of both the ids alone are.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::dockerfile::Owned;
use crate::error::{Error, Result};

/// Bytes of one secret, as BuildKit has it.
pub const LARGEST_SECRET: usize = 500 << 10;

/// Bytes that nobody prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Secret")
    }
}

/// A command wants to speak to an agent.
#[derive(Debug)]
pub struct AgentCall {
    /// Of the agent.
    pub id: String,
    pub stream: UnixStream,
}

/// What one build is lent.
#[derive(Debug, Default)]
pub struct Lent {
    pub secrets: HashMap<String, Secret>,
    /// Ids of agents.
    pub agents: BTreeSet<String>,
    /// Who connects commands with them; without it there are none.
    pub calls: Option<mpsc::Sender<AgentCall>>,
}

/// A directory in memory, closed to everybody else, for as long as a command runs.
#[derive(Debug)]
pub struct Private(PathBuf);

impl Private {
    /// Makes one below `root`.
    pub fn make(root: &Path) -> Result<Self> {
        let path = root.join(format!("{:016x}", fastrand::u64(..)));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(Error::file("create", &path))?;
        Ok(Self(path))
    }

    pub fn keep(&self, name: &str, secret: &Secret, owned: Owned) -> Result<PathBuf> {
        let path = self.0.join(name);
        let write = || {
            let mut options = OpenOptions::new();
            let mut file = options
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(secret.bytes())
        };
        write().map_err(Error::file("write", &path))?;
        own(&path, owned)?;
        Ok(path)
    }

    /// A socket at which commands find the agent with this id.
    pub fn agent(
        &self,
        name: &str,
        owned: Owned,
        id: String,
        calls: mpsc::Sender<AgentCall>,
    ) -> Result<(PathBuf, Listening)> {
        let path = self.0.join(name);
        // The name of a socket may be no longer than 107 bytes; that of a descriptor is short.
        let directory = File::open(&self.0).map_err(Error::file("open", &self.0))?;
        let short = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
        let listener = UnixListener::bind(short).map_err(Error::file("listen at", &path))?;
        own(&path, owned)?;
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let id = id.clone();
                if calls.send(AgentCall { id, stream }).await.is_err() {
                    break;
                }
            }
        });
        Ok((path, Listening(task)))
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(path = ?self.0, %error, "what a build was lent is not removed");
        }
    }
}

/// A socket that is listened at, until this is dropped.
#[derive(Debug)]
pub struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) fn own(path: &Path, owned: Owned) -> Result<()> {
    chown(path, Some(owned.uid), Some(owned.gid)).map_err(Error::file("own", path))?;
    let mode = Permissions::from_mode(owned.mode);
    std::fs::set_permissions(path, mode).map_err(Error::file("change", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn mine(mode: u32) -> Owned {
        Owned {
            mode,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let lent = Lent {
            secrets: HashMap::from([("id".to_owned(), Secret::new(b"hidden".to_vec()))]),
            ..Lent::default()
        };
        assert!(!format!("{lent:?}").contains("hidden"), "{lent:?}");
    }

    #[test]
    fn a_secret_s_file_is_gone_with_its_command() {
        let root = tempfile::tempdir().unwrap();
        let private = Private::make(root.path()).unwrap();
        let secret = Secret::new(b"hidden".to_vec());
        let path = private.keep("0", &secret, mine(0o440)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"hidden");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o440);
        let above = path.parent().unwrap().metadata().unwrap().permissions();
        assert_eq!(above.mode() & 0o777, 0o700);
        drop(private);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn who_connects_to_an_agent_s_socket_is_handed_on() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let private = Private::make(&deep).unwrap();
        let (calls, mut called) = mpsc::channel(1);
        let made = private.agent("agent", mine(0o600), "default".into(), calls);
        let (path, listening) = made.unwrap();
        let link = root.path().join("short");
        std::os::unix::fs::symlink(path.parent().unwrap(), &link).unwrap();
        let mut client = UnixStream::connect(link.join("agent")).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        drop(client);
        let mut call = called.recv().await.unwrap();
        let mut text = String::new();
        call.stream.read_to_string(&mut text).await.unwrap();
        assert_eq!((call.id.as_str(), text.as_str()), ("default", "hello"));
        drop(listening);
        assert!(called.recv().await.is_none());
    }
}
