//! A private place for one suite: directories of its own for a daemon, and a
//! look at what the daemon left behind.

mod bridge;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, process};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use bridge::Bridge;

/// Removed when dropped, with mounts and processes that are still there.
#[derive(Debug)]
pub struct Place {
    directory: TempDir,
    bridge: Bridge,
}

impl Place {
    /// The path is short: sockets below it have to fit into 108 bytes.
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("bt-")
            .tempdir_in("/tmp")
            .context("creating a private directory")?;
        let bridge = Bridge::of(directory.path());
        let place = Self { directory, bridge };
        for path in [
            place.root(),
            place.state(),
            place.hosts(),
            place.cni_conf(),
            place.cdi(),
            place.plugins(),
            place.pod_logs(),
            place.scratch(),
        ] {
            fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        place.configure("")?;
        place.settle_network(false)?;
        place.settle_devices()?;
        place.settle_plugins()?;
        Ok(place)
    }

    /// Its run directory is memory, as `/run` is on a node: what a bench measures in.
    pub fn as_on_a_node() -> Result<Self> {
        let place = Self::new()?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", place.state(), "tmpfs", flags, c"mode=0711")
            .context("mounting a run directory")?;
        Ok(place)
    }

    /// Pods get an address of each family.
    pub fn with_both_families() -> Result<Self> {
        let place = Self::new()?;
        place.settle_network(true)?;
        Ok(place)
    }

    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    fn settle_network(&self, both_families: bool) -> Result<()> {
        let drop_ins = self.config().with_extension("toml.d");
        fs::create_dir_all(&drop_ins)
            .and_then(|()| {
                let text = self.bridge.configuration(both_families);
                fs::write(drop_ins.join("bridge.toml"), text)
            })
            .context("writing the network of the daemon")
    }

    /// The daemon gives no device that the host describes, and leaves cgroups to a systemd that
    /// has the say.
    fn settle_devices(&self) -> Result<()> {
        let text = format!("cdi-dirs = [{:?}]\ncgroup-driver = \"auto\"\n", self.cdi());
        fs::write(
            self.config().with_extension("toml.d").join("devices.toml"),
            text,
        )
        .context("writing where the daemon finds devices")
    }

    /// The daemon sees no plugin of the host, and is not patient with those of the suite.
    fn settle_plugins(&self) -> Result<()> {
        let text = format!(
            "[docker.plugins]\nsockets = {:?}\nspecs = [{:?}]\nlook-timeout-secs = 1\n",
            self.plugins(),
            self.plugins()
        );
        fs::write(
            self.config().with_extension("toml.d").join("plugins.toml"),
            text,
        )
        .context("writing where the daemon finds plugins")
    }

    /// Sockets of plugins, and files that say where plugins are.
    pub fn plugins(&self) -> PathBuf {
        self.directory.path().join("p")
    }

    /// Files that describe CDI devices.
    pub fn cdi(&self) -> PathBuf {
        self.directory.path().join("cdi")
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("r")
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("cri.sock")
    }

    /// hosts.toml files, one directory per registry.
    pub fn hosts(&self) -> PathBuf {
        self.directory.path().join("hosts")
    }

    pub fn cni_conf(&self) -> PathBuf {
        self.directory.path().join("cni")
    }

    pub fn pod_logs(&self) -> PathBuf {
        self.directory.path().join("logs")
    }

    /// Configuration of the daemon beyond its flags.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("berthd.toml")
    }

    /// What the next daemon is configured with; its network stays the place's own.
    pub fn configure(&self, text: &str) -> Result<()> {
        fs::write(self.config(), text).context("writing the configuration of the daemon")
    }

    /// For files that the suite itself writes.
    pub fn scratch(&self) -> PathBuf {
        self.directory.path().join("x")
    }

    /// Sends every pull from `registry` to `mirror` (`host:port`, plain HTTP).
    pub fn mirror(&self, registry: &str, mirror: &str) -> Result<()> {
        let directory = self.hosts().join(registry);
        let text = format!(
            "server = \"http://{mirror}\"\n\n[host.\"http://{mirror}\"]\n\
             capabilities = [\"pull\", \"resolve\"]\n"
        );
        fs::create_dir_all(&directory)
            .and_then(|()| fs::write(directory.join("hosts.toml"), text))
            .with_context(|| format!("writing hosts.toml of {registry}"))
    }

    /// Mount points under the daemon's directories, outermost first.
    pub fn mounts(&self) -> Result<Vec<PathBuf>> {
        let table = fs::read_to_string("/proc/self/mountinfo").context("reading mountinfo")?;
        let mut mounts: Vec<PathBuf> = table
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .map(PathBuf::from)
            .filter(|path| path.starts_with(self.directory.path()))
            .collect();
        mounts.sort();
        Ok(mounts)
    }

    /// Pids that work in this place (by command line, current directory or open
    /// files), ourselves excluded, each before its descendants. The zygote of a
    /// daemon that lives is a part of it.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mut parents = BTreeMap::new();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").context("listing /proc")? {
            let path = entry.context("listing /proc")?.path();
            let Some(pid) = path
                .file_name()
                .and_then(|name| name.to_str()?.parse().ok())
            else {
                continue;
            };
            // Whatever ends while we look is no longer of interest.
            if let Some(parent) = parent_of(&path) {
                parents.insert(pid, parent);
            }
            if self.is_at_work_here(&path) {
                found.push(pid);
            }
        }
        let mut index = 0;
        while let Some(pid) = found.get(index).copied() {
            let children = parents.iter().filter(|(_, parent)| **parent == pid);
            let fresh: Vec<i32> = children
                .map(|(child, _)| *child)
                .filter(|child| !found.contains(child))
                .collect();
            found.extend(fresh);
            index += 1;
        }
        let own = i32::try_from(process::id()).unwrap_or_default();
        let name_of = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm"));
        let is_called = |pid, name| name_of(pid).is_ok_and(|found| found.trim() == name);
        found.retain(|pid| {
            let of_daemon = |parent: &i32| is_called(*parent, "berthd");
            let is_part =
                is_called(*pid, "berth-zygote") && parents.get(pid).is_some_and(of_daemon);
            *pid != own && !is_part
        });
        Ok(found)
    }

    fn is_at_work_here(&self, proc: &Path) -> bool {
        let place = self.directory.path();
        let cwd = fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(place));
        let arguments = fs::read(proc.join("cmdline")).unwrap_or_default();
        cwd || String::from_utf8_lossy(&arguments).contains(&*place.to_string_lossy())
            || self.has_open_files_here(proc)
    }

    /// A shim that outlives its daemon is known by nothing but its log.
    fn has_open_files_here(&self, proc: &Path) -> bool {
        let Ok(descriptors) = fs::read_dir(proc.join("fd")) else {
            return false;
        };
        descriptors
            .flatten()
            .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
            .any(|file| file.starts_with(self.directory.path()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for pid in self.processes().unwrap_or_default() {
            if let Some(pid) = Pid::from_raw(pid) {
                let _gone_already = kill_process(pid, Signal::KILL);
            }
        }
        for mount in self.mounts().unwrap_or_default().iter().rev() {
            if let Err(error) = unmount(mount, UnmountFlags::DETACH) {
                eprintln!("unmounting {}: {error}", mount.display());
            }
        }
        self.bridge.sweep();
        self.bridge.of_docker().sweep();
    }
}

/// Fourth field of `stat`; the second may hold blanks and parentheses.
fn parent_of(proc: &Path) -> Option<i32> {
    let stat = fs::read_to_string(proc.join("stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}
