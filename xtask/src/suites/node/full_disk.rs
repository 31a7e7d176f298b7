//! A disk of 64 MB, filled at every step: clear errors, what frees space works, and then all is well.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_api::cri::v1::ContainerState;
use berth_testkit::image::{Layer, Recipe};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tonic::Code;

use crate::cgroup_parent::CgroupParent;
use crate::command::retry;
use crate::cri::{self, Cri};
use crate::daemon::Daemon;
use crate::place::Place;
use crate::registry::Registry;
use crate::suites::fixtures::{busybox, pack};
use crate::workspace;

/// Behind a removal its space is given back.
const SOON: Duration = Duration::from_secs(20);
const SIZE: &str = "size=64m";
/// What is left free when something is tried, in KiB.
const FREE: [u64; 8] = [0, 4, 64, 256, 1024, 3072, 6144, 9216];
/// What the image is that is pulled, and cannot be compressed.
const BIG: usize = 6 << 20;

struct Disk {
    cri: Cri,
    // Dropped in this order: the mounts are in the place.
    daemon: Option<Daemon>,
    registry: Registry,
    mounts: Vec<PathBuf>,
    place: Place,
    parent: CgroupParent,
}

/// Everything on disks of its own; the host's is not touched.
pub fn is_borne() -> Result<()> {
    let mut disk = Disk::begin()?;
    disk.pulls().context("pull")?;
    disk.creates().context("create")?;
    disk.runs().context("exec and log")?;
    disk.end()
}

impl Disk {
    fn begin() -> Result<Self> {
        let place = Place::new()?;
        let mut mounts = Vec::new();
        for (path, options) in [(place.root(), SIZE), (place.pod_logs(), "size=1m")] {
            let options = std::ffi::CString::new(options).context("options of a tmpfs")?;
            mount(
                "small",
                &path,
                "tmpfs",
                MountFlags::empty(),
                Some(options.as_c_str()),
            )
            .with_context(|| format!("mounting a tmpfs on {}", path.display()))?;
            mounts.push(path);
        }
        let registry = Registry::start(&place.scratch())?;
        let base = pack(&busybox()?)?;
        let recipe = || {
            Recipe::new()
                .layer(base.clone())
                .env(&["PATH=/usr/bin:/bin"])
        };
        let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
            .take(BIG)
            .collect();
        let noise = pack(&Layer::new().file("/noise", 0o644, noise))?;
        let images = [("small", recipe()), ("big", recipe().layer(noise))];
        for (name, recipe) in images {
            let image = recipe.build()?;
            registry
                .remote()
                .push(&image, &format!("disk/{name}"), &["one"])?;
        }
        let log = workspace::logs()?.join("node-full-disk-berthd.log");
        let _fresh = fs::remove_file(&log);
        let daemon = Daemon::start(&place, &log)?;
        let cri = Cri::connect(&place.socket())?;
        let mut disk = Self {
            cri,
            daemon: Some(daemon),
            registry,
            mounts,
            place,
            parent: CgroupParent::new("disk"),
        };
        let small = disk.reference("small");
        disk.cri.pull(&small).context("pulling the image")?;
        Ok(disk)
    }

    fn reference(&self, name: &str) -> String {
        format!("{}/disk/{name}:one", self.registry.address())
    }

    /// Nothing of a pull that failed stays, and the same pull succeeds when there is room.
    fn pulls(&mut self) -> Result<()> {
        let big = self.reference("big");
        let mut refused = 0;
        for free in FREE {
            let ballast = Ballast::leave(&self.place.root(), free)?;
            let pulled = self.cri.pull(&big);
            let images = self.cri.images().context("ListImages")?;
            let listed = images.iter().any(|image| image.repo_tags.contains(&big));
            match pulled {
                Ok(_) => ensure!(listed, "it was pulled and is not listed"),
                Err(status) => {
                    refused += 1;
                    ensure!(!listed, "it was not pulled and is listed");
                    ensure!(
                        status.code() == Code::ResourceExhausted,
                        "with {free} KiB free: {:?}: {}",
                        status.code(),
                        status.message()
                    );
                    let partial = self.place.root().join("content/ingest");
                    retry(SOON, || empty(&partial))?;
                }
            }
            self.cri
                .remove_image(&big)
                .with_context(|| format!("RemoveImage with {free} KiB left"))?;
            drop(ballast);
        }
        ensure!(refused > 2, "the disk was never full: {refused} refusals");
        self.cri.pull(&big).context("PullImage with room")?;
        let ballast = Ballast::leave(&self.place.root(), 0)?;
        self.cri
            .remove_image(&big)
            .context("RemoveImage on a full disk")?;
        retry(SOON, || {
            let free = free(&self.place.root())?;
            ensure!(free > BIG as u64, "only {free} bytes came back");
            Ok(())
        })?;
        drop(ballast);
        Ok(())
    }

    /// A container is made whole or refused, and what is there can be removed at no free byte.
    fn creates(&mut self) -> Result<()> {
        let pod_config = cri::pod("full", &self.parent.request(), &self.place.pod_logs());
        let pod = self.cri.run_pod(&pod_config).context("RunPodSandbox")?;
        let small = self.reference("small");
        for (number, free) in FREE.into_iter().enumerate() {
            let ballast = Ballast::leave(&self.place.root(), free)?;
            let config = cri::container(&format!("c{number}"), &small, &["sleep", "1000"]);
            match self.cri.create(&pod, &pod_config, &config) {
                Ok(container) => {
                    let full = Ballast::leave(&self.place.root(), 0)?;
                    self.cri.start(&container).context("StartContainer")?;
                    self.cri.stop(&container, 0).context("StopContainer")?;
                    self.cri
                        .remove(&container)
                        .context("RemoveContainer on a full disk")?;
                    drop(full);
                }
                Err(status) => ensure!(
                    status.code() == Code::ResourceExhausted,
                    "with {free} KiB free: {:?}: {}",
                    status.code(),
                    status.message()
                ),
            }
            let left = self.cri.containers().context("ListContainers")?;
            ensure!(left.is_empty(), "half-made containers are listed: {left:?}");
            let snapshots = self.place.root().join("snapshots/active");
            retry(SOON, || empty(&snapshots))?;
            drop(ballast);
        }
        let ballast = Ballast::leave(&self.place.root(), 0)?;
        self.cri
            .stop_pod(&pod)
            .context("StopPodSandbox on a full disk")?;
        self.cri
            .remove_pod(&pod)
            .context("RemovePodSandbox on a full disk")?;
        drop(ballast);
        Ok(())
    }

    /// A program that cannot be logged goes on, and its log does when there is room; commands run.
    fn runs(&mut self) -> Result<()> {
        let pod_config = cri::pod("logs", &self.parent.request(), &self.place.pod_logs());
        let pod = self.cri.run_pod(&pod_config).context("RunPodSandbox")?;
        let script = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.02; done";
        let small = self.reference("small");
        let config = cri::container("talker", &small, &["sh", "-c", script]);
        let container = self
            .cri
            .create(&pod, &pod_config, &config)
            .context("CreateContainer")?;
        self.cri.start(&container).context("StartContainer")?;
        let log = self.place.pod_logs().join("talker.log");
        retry(SOON, || grown(&log, 0))?;

        let full = [
            Ballast::leave(&self.place.pod_logs(), 0)?,
            Ballast::leave(&self.place.root(), 0)?,
        ];
        let write = [
            "sh",
            "-c",
            "echo there; dd if=/dev/zero of=/fill bs=64k count=64 2>&1",
        ];
        let said = self
            .cri
            .exec(&container, &write)
            .context("ExecSync on a full disk")?;
        let text = String::from_utf8_lossy(&said.stdout);
        ensure!(
            text.starts_with("there") && text.contains("No space left") && said.exit_code != 0,
            "a command on a full disk ended with {} and said {text:?}",
            said.exit_code
        );
        std::thread::sleep(Duration::from_secs(1));
        let status = self.cri.status(&container).context("ContainerStatus")?;
        ensure!(
            status.state() == ContainerState::ContainerRunning,
            "a container that cannot be logged is {:?}",
            status.state()
        );
        let written = fs::metadata(&log).context("looking at the log")?.len();
        drop(full);
        retry(SOON, || grown(&log, written)).context("the log with room again")?;
        let full = Ballast::leave(&self.place.root(), 0)?;
        self.cri
            .stop(&container, 0)
            .context("StopContainer on a full disk")?;
        self.cri
            .remove(&container)
            .context("RemoveContainer on a full disk")?;
        drop(full);
        self.cri.stop_pod(&pod).context("StopPodSandbox")?;
        self.cri.remove_pod(&pod).context("RemovePodSandbox")
    }

    fn end(mut self) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.stop()?;
        self.place.bridge().remove()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.daemon = None;
        for path in &self.mounts {
            if let Err(error) = unmount(path, UnmountFlags::DETACH) {
                eprintln!("unmounting {}: {error}", path.display());
            }
        }
    }
}

/// Takes the space of a file system for as long as the value lives.
struct Ballast(PathBuf);

impl Ballast {
    /// All but so many KiB.
    fn leave(disk: &Path, free_kib: u64) -> Result<Self> {
        let path = disk.join(format!("ballast-{}", fastrand::u64(..)));
        let file = File::create(&path).context("creating the ballast")?;
        let ballast = Self(path);
        // What is measured may be taken by the daemon a moment later.
        retry(SOON, || {
            let take = free(disk)?.saturating_sub(free_kib << 10);
            if take > 0 {
                fallocate(&file, FallocateFlags::empty(), 0, take).context("filling the disk")?;
            }
            Ok(())
        })?;
        Ok(ballast)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            eprintln!("removing {}: {error}", self.0.display());
        }
    }
}

fn free(disk: &Path) -> Result<u64> {
    let found = statvfs(disk).with_context(|| format!("looking at {}", disk.display()))?;
    Ok(found.f_bavail * found.f_frsize)
}

fn empty(directory: &Path) -> Result<()> {
    let left = fs::read_dir(directory)
        .with_context(|| format!("listing {}", directory.display()))?
        .count();
    ensure!(
        left == 0,
        "{left} entries are left in {}",
        directory.display()
    );
    Ok(())
}

fn grown(log: &Path, beyond: u64) -> Result<()> {
    let length = fs::metadata(log)
        .map(|found| found.len())
        .unwrap_or_default();
    ensure!(length > beyond, "{} has {length} bytes", log.display());
    Ok(())
}
