//! Runtime handlers of other projects, as suites configure them: containerd's shim with runc, and
//! with crun.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::command::{retry, which};
use crate::place::Place;
use crate::tools::{self, Tool};

/// Their names.
pub const NAMES: [&str; 2] = ["runc", "crun"];

const SOON: Duration = Duration::from_secs(10);
const HUGETLB: &str = "/sys/fs/cgroup/hugetlb";
const UNIFIED: &str = "/sys/fs/cgroup/unified";
const CONTROL: &str = "cgroup.subtree_control";

/// Adds both to what the next daemon of a place is configured with.
pub fn configure(place: &Place) -> Result<()> {
    let shim = tools::path(Tool::ContainerdShim)?;
    let runc = tools::path(Tool::Runc)?;
    let crun = which("crun").context("crun is not installed")?;
    // The shim is known by the name that installations give it.
    let named = place.scratch().join("containerd-shim-runc-v2");
    std::os::unix::fs::symlink(&shim, &named).context("naming the shim")?;
    let mut text = String::new();
    for (name, binary) in NAMES.into_iter().zip([runc, crun]) {
        text.push_str(&handler(name, &named, &binary));
    }
    let file = place
        .config()
        .with_extension("toml.d")
        .join("handlers.toml");
    fs::File::create(&file)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("writing {}", file.display()))
}

fn handler(name: &str, shim: &Path, binary: &Path) -> String {
    format!(
        "[runtimes.{name}]\nshim = {:?}\n[runtimes.{name}.options]\nBinaryName = {:?}\n",
        shim.display().to_string(),
        binary.display().to_string(),
    )
}

/// What crun needs of the host, for as long as the value lives: on a hybrid layout it refuses a
/// unified tree that has controllers, and the only one that may be there is hugetlb.
///
/// The kernel moves a controller only while no cgroup uses it: daemons and pods come after.
#[derive(Debug)]
pub struct Hugetlb {
    mounted: Option<PathBuf>,
    /// Whether cgroups of the unified tree were given the controller.
    given: bool,
}

impl Hugetlb {
    pub fn lend() -> Result<Self> {
        let controllers = fs::read_to_string(Path::new(UNIFIED).join("cgroup.controllers"));
        if controllers.unwrap_or_default().trim() != "hugetlb" {
            return Ok(Self {
                mounted: None,
                given: false,
            });
        }
        let given = enabled().contains("hugetlb");
        if given {
            enable("-hugetlb").context("taking the hugetlb controller from the unified tree")?;
        }
        let place = PathBuf::from(HUGETLB);
        fs::create_dir(&place).context("making a place for the hugetlb hierarchy")?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        // Cgroups that are gone hold the controller a little longer.
        let made = retry(SOON, || {
            mount("hugetlb", &place, "cgroup", flags, Some(c"hugetlb")).context("mounting")
        });
        if let Err(error) = made {
            let _empty = fs::remove_dir(&place);
            if given {
                let _as_it_was = enable("+hugetlb");
            }
            return Err(error).context("mounting the hugetlb hierarchy");
        }
        Ok(Self {
            mounted: Some(place),
            given,
        })
    }
}

impl Drop for Hugetlb {
    fn drop(&mut self) {
        let Some(place) = &self.mounted else { return };
        // Unmounted while dying cgroups hold it, the hierarchy would stay, seen by nobody.
        let gone = retry(SOON, settled)
            .and_then(|()| unmount(place, UnmountFlags::empty()).context("unmounting hugetlb"))
            .and_then(|()| fs::remove_dir(place).context("removing the place of hugetlb"))
            .and_then(|()| match self.given {
                true => retry(SOON, || enable("+hugetlb").context("giving hugetlb back")),
                false => Ok(()),
            });
        if let Err(error) = gone {
            eprintln!("{error:#}");
        }
    }
}

fn enabled() -> String {
    fs::read_to_string(Path::new(UNIFIED).join(CONTROL)).unwrap_or_default()
}

fn enable(change: &str) -> std::io::Result<()> {
    fs::write(Path::new(UNIFIED).join(CONTROL), change)
}

/// Only the root of the hugetlb hierarchy is left.
fn settled() -> Result<()> {
    let table = fs::read_to_string("/proc/cgroups").context("reading /proc/cgroups")?;
    let line = table.lines().find(|line| line.starts_with("hugetlb"));
    let count = line.and_then(|line| line.split_whitespace().nth(2));
    ensure!(
        count == Some("1"),
        "{count:?} cgroups have the hugetlb controller"
    );
    Ok(())
}
