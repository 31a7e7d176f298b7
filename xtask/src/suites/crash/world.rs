//! A daemon with fault points, what it works with, and what the host holds before it begins.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_testkit::image::Recipe;
use rustix::process::{Pid, Signal, kill_process};

use crate::artefacts;
use crate::cgroup_parent::CgroupParent;
use crate::command::retry;
use crate::cri::Cri;
use crate::daemon::Daemon;
use crate::place::Place;
use crate::power;
use crate::registry::Registry;
use crate::suites::fixtures::{busybox, marker, pack};
use crate::suites::node::inventory::Inventory;
use crate::workspace;

pub const MARKER: &str = "crash";
/// Images that come and go.
pub const SIDES: usize = 3;
/// For what happens behind an answer.
const SOON: Duration = Duration::from_secs(20);
/// A start that does not end, in either way.
const START: Duration = Duration::from_secs(30);

pub struct World {
    pub cri: Cri,
    registry: Registry,
    daemon: Option<Daemon>,
    programs: PathBuf,
    log: PathBuf,
    // Everything above works in it.
    pub place: Place,
    // Last: what is in it ends with the place.
    pub parent: Arc<CgroupParent>,
}

/// What is there before a story and has to be there after it.
pub struct Baseline {
    host: Inventory,
    stored: BTreeSet<String>,
}

impl World {
    pub fn begin() -> Result<Self> {
        let programs = artefacts::build_with_faults()?;
        let place = Place::new()?;
        let registry = Registry::start(&place.scratch())?;
        let base = pack(&busybox()?)?;
        let recipe = || {
            Recipe::new()
                .layer(base.clone())
                .env(&["PATH=/usr/bin:/bin"])
        };
        let image = recipe()
            .layer(marker(MARKER)?)
            .volumes(&["/srv/data"])
            .build()?;
        registry.remote().push(&image, "crash/base", &["one"])?;
        for number in 0..SIDES {
            let name = format!("side-{number}");
            let side = recipe().layer(marker(&name)?).build()?;
            registry
                .remote()
                .push(&side, &format!("crash/{name}"), &["one"])?;
        }
        let log = workspace::logs()?.join("crash-berthd.log");
        let _fresh = fs::remove_file(&log);
        fs::create_dir_all(place.scratch().join("told")).context("creating a volume")?;
        let daemon = Daemon::start_from(&programs, &place, &log)?;
        let mut cri = Cri::connect(&place.socket())?;
        let base = format!("{}/crash/base:one", registry.address());
        cri.pull(&base).context("pulling the image")?;
        Ok(Self {
            cri,
            parent: Arc::new(CgroupParent::new("crash")),
            registry,
            daemon: Some(daemon),
            programs,
            log,
            place,
        })
    }

    pub fn base(&self) -> String {
        format!("{}/crash/base:one", self.registry.address())
    }

    pub fn side(&self, number: usize) -> String {
        format!("{}/crash/side-{number}:one", self.registry.address())
    }

    /// Where containers are told how to end.
    pub fn told(&self) -> PathBuf {
        self.place.scratch().join("told")
    }

    /// Without it rules mean nothing.
    fn gate(&self) -> PathBuf {
        self.place.scratch().join("gate")
    }

    pub fn open_gate(&self) -> Result<()> {
        fs::write(self.gate(), "").context("opening the gate of faults")
    }

    pub fn close_gate(&self) {
        let _closed_already = fs::remove_file(self.gate());
    }

    /// Kills the daemon, if there is one.
    pub fn kill(&mut self) -> Result<()> {
        match self.daemon.take() {
            Some(daemon) => daemon.kill(),
            None => Ok(()),
        }
    }

    /// Starts a daemon by these rules, which wait for the gate.
    pub fn start(&mut self, rules: &str, seed: u64) -> Result<()> {
        self.close_gate();
        let mut daemon = self.spawn(rules, seed)?;
        daemon
            .wait_until_ready()
            .with_context(|| format!("see {}", self.log.display()))?;
        self.daemon = Some(daemon);
        self.cri = Cri::connect(&self.place.socket())?;
        Ok(())
    }

    /// Starts a daemon that dies by these rules before it serves; says whether it did.
    pub fn start_and_die(&mut self, rules: &str) -> Result<bool> {
        self.open_gate()?;
        let mut daemon = self.spawn(rules, 0)?;
        let died = daemon.wait_until_ready().is_err();
        self.close_gate();
        ensure!(
            died == daemon.has_ended()?,
            "the daemon was not ready after {START:?}"
        );
        daemon.kill()?;
        Ok(died)
    }

    fn spawn(&self, rules: &str, seed: u64) -> Result<Daemon> {
        let variables = [
            ("BERTH_FAULTS", rules.to_owned()),
            ("BERTH_FAULTS_SEED", seed.to_string()),
            ("BERTH_FAULTS_GATE", self.gate().display().to_string()),
        ];
        Daemon::spawn(&self.programs, &self.place, &self.log, &variables)
    }

    pub fn has_ended(&mut self) -> Result<bool> {
        match &mut self.daemon {
            Some(daemon) => daemon.has_ended(),
            None => Ok(true),
        }
    }

    /// Whether the daemon ended by itself within this time.
    pub fn ends_within(&mut self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if self.has_ended()? {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.has_ended()
    }

    /// Where the last daemon was when it was killed by a rule.
    pub fn last_point(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last = log
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("fault point ")?.strip_suffix(": killed"));
        last.unwrap_or("no point").to_owned()
    }

    /// Whether a step was let fail at this point, by any daemon of this world.
    pub fn has_failed_at(&self, point: &str) -> bool {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let line = format!("fault point {point}: failed");
        log.lines().any(|found| found == line)
    }

    pub fn baseline(&self) -> Result<Baseline> {
        Ok(Baseline {
            host: self.inventory()?,
            stored: self.stored(),
        })
    }

    /// Nothing is there that was not there before.
    pub fn restored(&self, before: &Baseline) -> Result<()> {
        before.host.restored_in(|| self.inventory())?;
        retry(SOON, || {
            let now = self.stored();
            let left: Vec<_> = now.difference(&before.stored).cloned().collect();
            ensure!(left.is_empty(), "left in the stores: {}", left.join("; "));
            Ok(())
        })
    }

    fn inventory(&self) -> Result<Inventory> {
        let daemon = self.daemon.as_ref().context("no daemon runs")?;
        Inventory::of(&self.place, &self.parent, daemon.pid())
    }

    /// What images take.
    fn stored(&self) -> BTreeSet<String> {
        let root = self.place.root();
        let mut found = BTreeSet::new();
        for place in [
            "content/blobs/sha256",
            "content/ingest",
            "snapshots/layers",
            "snapshots/durable",
            "snapshots/trash",
        ] {
            let entries = fs::read_dir(root.join(place));
            for entry in entries.into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                // The mark of a layer names its instance, and one that was made again is another.
                let (layer, _instance) = name.split_once('.').unwrap_or((&name, ""));
                let mut known = format!("{place}/{layer}");
                while !found.insert(known.clone()) {
                    known.push_str(" again");
                }
            }
        }
        found
    }

    /// As if the host had lost its power while no daemon ran. With `on_disk` the runtime directory
    /// is still there, as where it is no tmpfs.
    pub fn lose_power(&mut self, on_disk: bool) -> Result<()> {
        self.kill()?;
        power::cut(&self.place, &self.parent, &self.registry)?;
        power::lose_layers(&self.place)?;
        if on_disk {
            let mark = self.place.state().join("boot-id.json");
            return fs::write(mark, "\"of another boot\"").context("marking another boot");
        }
        power::lose_state(&self.place)
    }

    /// Ends the daemon; what its network leaves on the host is an error.
    pub fn end(mut self) -> Result<()> {
        self.daemon.take().context("no daemon runs")?.stop()?;
        self.place.bridge().remove()
    }
}

/// Kills the shim of a container, or of a pod's init; says whether there was one.
pub fn kill_shim(container: &str) -> bool {
    if container.is_empty() {
        return false;
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for entry in entries {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let serves = words.contains(&b"serve".as_slice()) && words.contains(&container.as_bytes());
        let pid = entry.file_name().to_string_lossy().parse().ok();
        if let (true, Some(pid)) = (serves, pid.and_then(Pid::from_raw)) {
            return kill_process(pid, Signal::KILL).is_ok();
        }
    }
    false
}
