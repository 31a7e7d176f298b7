//! The files of a container that outlive its runs.
//!
//! ```text
//! <root>/containers/<id>/container.log, container.log.1 …   what it wrote, newest first
//!                       /hosts                              its /etc/hosts
//!                       /seccomp.json                       the profile that it was given
//! <root>/volumes/<name>/_data                               a volume's content
//! ```

use std::fs;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A host's own file is small; it is copied up to here.
const MOST_HOSTS: u64 = 64 << 10;

#[derive(Debug, Clone)]
pub(crate) struct Files {
    dir: PathBuf,
}

impl Files {
    pub fn new(root: &Path, id: &str) -> Self {
        let dir = root.join("containers").join(id);
        Self { dir }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join(LOG)
    }

    pub fn hosts(&self) -> PathBuf {
        self.dir.join("hosts")
    }

    pub fn seccomp(&self) -> PathBuf {
        self.dir.join("seccomp.json")
    }

    pub fn create(&self) -> Result<()> {
        make_dir(&self.dir)
    }

    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::file("remove", &self.dir)(error))
            }
            _ => Ok(()),
        }
    }

    /// Writes hosts(5) for a container with these addresses and names, and those that a user added.
    pub fn write_hosts(&self, own: &[(IpAddr, String)], added: &[(String, String)]) -> Result<()> {
        let mut text = String::from(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\n\
             ff02::2\tip6-allrouters\n",
        );
        for (name, address) in added {
            text.push_str(&format!("{address}\t{name}\n"));
        }
        for (address, names) in own {
            text.push_str(&format!("{address}\t{names}\n"));
        }
        self.put_hosts(&text)
    }

    /// The host's own file, for a container on its network.
    pub fn copy_hosts(&self, added: &[(String, String)]) -> Result<()> {
        let mut text = String::new();
        if let Ok(file) = fs::File::open("/etc/hosts") {
            let read = file.take(MOST_HOSTS).read_to_string(&mut text);
            read.map_err(Error::file("read", Path::new("/etc/hosts")))?;
        }
        for (name, address) in added {
            text.push_str(&format!("{address}\t{name}\n"));
        }
        self.put_hosts(&text)
    }

    /// In place: the file is mounted in a container.
    fn put_hosts(&self, text: &str) -> Result<()> {
        let path = self.hosts();
        fs::write(&path, text).map_err(Error::file("write", &path))
    }
}

/// The log's name in its container's directory.
pub(crate) const LOG: &str = "container.log";

/// Others may pass through, to what a container's user must reach, but list nothing.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(Error::file("create", path))
}

/// Runs blocking `work` away from the async workers.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Error::Conflict("the work for it was cut short".to_owned())))
}
