//! The files of a pod and of a container in the runtime directory.
//!
//! ```text
//! <state>/pods/<id>/pod.json       record
//!                  /ns/{user,net,ipc,uts}  pinned namespaces
//!                  /shm            tmpfs that the pod's containers share
//!                  /resolv.conf, /hostname
//!                  /init/          bundle of the pod's init, where PIDs are shared
//! <state>/containers/<id>/container.json, config.json, rootfs/, shim.sock, exit.json, io/,
//!                  /volumes/       images that are mounted as volumes
//! ```

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use crate::confinement::relabel;
use crate::error::{Error, Result};
use crate::pod::give_to_root;
use crate::request::{Dns, PodRequest, Scope, Shm};

/// What Kubernetes users expect of /dev/shm, in bytes: 64 MiB.
const USUAL_SHM: u64 = 64 << 20;
/// A resolver's file is small; the host's is copied up to here.
const MAX_RESOLV_CONF: u64 = 64 << 10;

/// Paths of one pod.
#[derive(Debug, Clone)]
pub struct PodFiles {
    dir: PathBuf,
}

impl PodFiles {
    pub fn new(state: &Path, id: &str) -> Self {
        Self {
            dir: state.join("pods").join(id),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn record(&self) -> PathBuf {
        self.dir.join("pod.json")
    }

    pub fn netns(&self) -> PathBuf {
        self.dir.join("ns/net")
    }

    pub fn ipcns(&self) -> PathBuf {
        self.dir.join("ns/ipc")
    }

    pub fn utsns(&self) -> PathBuf {
        self.dir.join("ns/uts")
    }

    pub fn userns(&self) -> PathBuf {
        self.dir.join("ns/user")
    }

    pub fn shm(&self) -> PathBuf {
        self.dir.join("shm")
    }

    pub fn resolv_conf(&self) -> PathBuf {
        self.dir.join("resolv.conf")
    }

    pub fn hostname(&self) -> PathBuf {
        self.dir.join("hostname")
    }

    pub fn init_bundle(&self) -> PathBuf {
        self.dir.join("init")
    }

    /// Makes the directory. Its undo is [`PodFiles::remove`].
    pub fn create(&self) -> Result<()> {
        make_dir(&self.dir)?;
        make_dir(&self.dir.join("ns"))
    }

    /// Writes what containers of the pod find under /etc and /dev/shm; `joined` is another pod's
    /// /dev/shm that is to be this one's.
    pub fn populate(&self, request: &PodRequest, joined: Option<&Path>) -> Result<()> {
        let write = |path: PathBuf, text: String| {
            fs::write(&path, text)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)))
                .map_err(|source| Error::State {
                    action: "write",
                    path,
                    source,
                })
        };
        write(self.resolv_conf(), resolv_conf(request.dns.as_ref())?)?;
        write(self.hostname(), format!("{}\n", hostname(request)))?;
        let user = request.namespaces.user.as_ref();
        give_to_root(&self.resolv_conf(), user)?;
        give_to_root(&self.hostname(), user)?;
        if request.namespaces.ipc == Scope::Node {
            return Ok(());
        }
        match (joined, request.shm) {
            (Some(other), _) => self.share_shm(other),
            (None, Shm::Missing) => Ok(()),
            (None, Shm::Usual) => self.mount_shm(USUAL_SHM),
            (None, Shm::Bytes(bytes)) => self.mount_shm(bytes),
        }?;
        match self.shm().exists() && joined.is_none() {
            true => give_to_root(&self.shm(), user),
            false => Ok(()),
        }
    }

    /// Writes other resolvers into the file that containers of the pod have mounted. False, and
    /// nothing is done, where it is not any more what was written for `old`.
    pub fn change_resolvers(&self, old: Option<&Dns>, new: &Dns) -> Result<bool> {
        let path = self.resolv_conf();
        let failed = |action| {
            let path = path.clone();
            move |source| Error::State {
                action,
                path,
                source,
            }
        };
        let found = fs::read(&path).map_err(failed("read"))?;
        if found != resolv_conf(old)?.as_bytes() {
            return Ok(false);
        }
        let text = resolv_conf(Some(new))?;
        // In place: another file would not be the one that is mounted.
        fs::write(&path, text).map_err(failed("write"))?;
        Ok(true)
    }

    /// Lets containers whose files have this SELinux label use what the pod shares.
    pub fn relabel(&self, request: &PodRequest, label: Option<&str>) -> Result<()> {
        let Some(label) = label else { return Ok(()) };
        let own = request.namespaces.ipc != Scope::Node && request.joined.ipc.is_none();
        let shm = (own && request.shm != Shm::Missing).then(|| self.shm());
        let files = [self.resolv_conf(), self.hostname()];
        files
            .iter()
            .chain(&shm)
            .try_for_each(|path| relabel(path, label))
    }

    /// Both are one filesystem: neither goes before the other has let it go. Without one there,
    /// there is none here.
    fn share_shm(&self, other: &Path) -> Result<()> {
        if !other.exists() {
            return Ok(());
        }
        let shm = self.shm();
        make_dir(&shm)?;
        rustix::mount::mount_bind(other, &shm).map_err(|errno| Error::State {
            action: "share /dev/shm at",
            path: shm,
            source: errno.into(),
        })
    }

    fn mount_shm(&self, bytes: u64) -> Result<()> {
        let shm = self.shm();
        make_dir(&shm)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let options = std::ffi::CString::new(format!("mode=1777,size={bytes}")).ok();
        rustix::mount::mount("shm", &shm, "tmpfs", flags, options.as_deref()).map_err(|errno| {
            Error::State {
                action: "mount a tmpfs on",
                path: shm,
                source: errno.into(),
            }
        })
    }

    /// Unmounts and removes everything; repeating it is harmless.
    pub fn remove(&self) -> Result<()> {
        unmount(&self.shm())?;
        remove_dir(&self.dir)
    }
}

/// Paths of one container.
#[derive(Debug, Clone)]
pub struct ContainerFiles {
    dir: PathBuf,
}

impl ContainerFiles {
    pub fn new(state: &Path, id: &str) -> Self {
        Self {
            dir: state.join("containers").join(id),
        }
    }

    /// The OCI bundle; the record stands beside its `config.json`.
    pub fn bundle(&self) -> &Path {
        &self.dir
    }

    pub fn record(&self) -> PathBuf {
        self.dir.join("container.json")
    }

    pub fn spec(&self) -> PathBuf {
        self.dir.join("config.json")
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// What the shim writes about the end of the process.
    pub fn exit(&self) -> PathBuf {
        self.dir.join("exit.json")
    }

    /// There while a start that was cut short is taken back.
    pub fn undoing_start(&self) -> PathBuf {
        self.dir.join("start.undoing")
    }

    /// Where the mount number `mount` of the request has its image.
    pub fn volume(&self, mount: usize) -> PathBuf {
        self.volumes().join(mount.to_string())
    }

    fn volumes(&self) -> PathBuf {
        self.dir.join("volumes")
    }

    /// Unmounts the images that are mounted as volumes; repeating it is harmless.
    pub fn unmount_volumes(&self) -> Result<()> {
        let volumes = self.volumes();
        let entries = match fs::read_dir(&volumes) {
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            listed => listed.and_then(Iterator::collect::<std::io::Result<Vec<_>>>),
        };
        let entries = entries.map_err(|source| Error::State {
            action: "list",
            path: volumes,
            source,
        })?;
        entries.iter().try_for_each(|entry| unmount(&entry.path()))
    }

    /// Where FIFOs live: the container's own, those of commands in it and of attached clients.
    pub fn io(&self) -> PathBuf {
        self.dir.join("io")
    }

    /// The FIFO of a container that was made with input.
    pub fn stdin(&self) -> PathBuf {
        self.io().join("stdin")
    }

    pub fn create(&self) -> Result<()> {
        make_dir(&self.dir)?;
        make_dir(&self.rootfs())?;
        make_dir(&self.io())
    }

    /// Unmounts and removes everything; repeating it is harmless.
    pub fn remove(&self) -> Result<()> {
        self.unmount_volumes()?;
        unmount(&self.rootfs())?;
        remove_dir(&self.dir)
    }
}

/// Makes a directory that others may pass through but not list, with missing parents.
pub fn make_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .map_err(|source| Error::State {
            action: "create",
            path: path.to_owned(),
            source,
        })
}

fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::State {
            action: "remove",
            path: path.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Lazily unmounts whatever is on `path`; nothing there is fine.
fn unmount(path: &Path) -> Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::State {
            action: "unmount",
            path: path.to_owned(),
            source: errno.into(),
        }),
    }
}

/// The pod's name for itself, or the host's.
pub fn hostname(request: &PodRequest) -> String {
    if request.hostname.is_empty() {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    } else {
        request.hostname.clone()
    }
}

/// resolv.conf(5) from the pod's DNS configuration, or the host's file.
fn resolv_conf(dns: Option<&Dns>) -> Result<String> {
    let Some(dns) = dns else {
        return host_resolv_conf();
    };
    let clean = |entries: &[String]| {
        entries
            .iter()
            .any(|entry| entry.chars().any(|c| c.is_control()))
            .then(|| {
                Error::invalid(
                    "dns_config",
                    "servers, searches and options are single lines",
                )
            })
    };
    for entries in [&dns.servers, &dns.searches, &dns.options] {
        if let Some(error) = clean(entries) {
            return Err(error);
        }
    }
    if dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty() {
        return host_resolv_conf();
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Ok(text)
}

fn host_resolv_conf() -> Result<String> {
    use std::io::Read;
    let path = Path::new("/etc/resolv.conf");
    let mut text = String::new();
    match fs::File::open(path) {
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Ok(text),
        opened => opened
            .and_then(|file| file.take(MAX_RESOLV_CONF).read_to_string(&mut text))
            .map(|_| text)
            .map_err(|source| Error::State {
                action: "read",
                path: path.to_owned(),
                source,
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_settings_become_a_resolver_file() {
        let dns = Dns {
            servers: vec!["10.0.0.1".into(), "fd00::1".into()],
            searches: vec!["a.example".into(), "b.example".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(Some(&dns)).unwrap(),
            "search a.example b.example\nnameserver 10.0.0.1\nnameserver fd00::1\noptions ndots:5\n"
        );
        let smuggled = Dns {
            servers: vec!["1.1.1.1\nsearch evil".into()],
            ..Dns::default()
        };
        assert!(resolv_conf(Some(&smuggled)).is_err());
    }

    #[test]
    fn removing_twice_is_the_same_as_once() {
        let dir = tempfile::tempdir().unwrap();
        let files = ContainerFiles::new(dir.path(), "c");
        files.create().unwrap();
        assert!(files.rootfs().is_dir());
        files.remove().unwrap();
        files.remove().unwrap();
        assert!(!files.bundle().exists());
    }
}
