//! `checkpoint` and `restore`: processes that come back and go on, and images that would come back
//! as more than their specification allows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_testkit::image::Compression;
use serde_json::{Value, json};

use super::specs;
use crate::artefacts;
use crate::command::{output, run};
use crate::outcome::Tally;
use crate::suites::fixtures;
use crate::tools;

/// Counts in memory, shows the count in a file, and ends with 7 when it is told to.
const COUNTER: &str = "i=0; while [ ! -e /tmp/stop ]; do i=$((i+1)); echo $i > /tmp/new; \
                       mv /tmp/new /tmp/count; sleep 0.05; done; exit 7";
const SOON: Duration = Duration::from_secs(20);
const CGROUP: &str = "/berth-oci-suite/dumped";

type Check = (&'static str, fn(&Side) -> Result<()>);

pub fn run_all() -> Result<Tally> {
    let mut tally = Tally::default();
    let path = match tools::criu_path() {
        Ok(path) => path,
        Err(reason) => {
            tally.skip("checkpoint and restore", &reason);
            return Ok(tally);
        }
    };
    let place = tempfile::tempdir().context("making a place for bundles")?;
    let checks: [Check; 4] = [
        ("a container comes back and goes on", goes_on),
        ("a restore in the foreground ends with the container", ends),
        (
            "images that are more than the specification are refused",
            confined,
        ),
        ("images that are none are refused", broken),
    ];
    for (name, check) in checks {
        let side = Side::new(place.path(), &path)?;
        let result = check(&side);
        side.end();
        tally.check(name, result);
    }
    Ok(tally)
}

/// A bundle, and the program beside it.
struct Side {
    place: PathBuf,
    path: String,
}

impl Side {
    fn new(place: &Path, path: &str) -> Result<Self> {
        let side = Self {
            place: place.to_owned(),
            path: path.to_owned(),
        };
        let rootfs = side.rootfs();
        fs::create_dir_all(&rootfs).context("making a root")?;
        let archive = place.join("rootfs.tar");
        let layer = fixtures::busybox()?.pack(Compression::Plain)?;
        fs::write(&archive, &layer.bytes).context("writing a root")?;
        run(Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(&rootfs))?;
        fs::create_dir_all(place.join("source")).context("making a volume")?;
        side.describe(&spec(place))?;
        Ok(side)
    }

    fn rootfs(&self) -> PathBuf {
        self.place.join("bundle/rootfs")
    }

    fn images(&self) -> PathBuf {
        self.place.join("images")
    }

    fn describe(&self, spec: &Value) -> Result<()> {
        let path = self.place.join("bundle/config.json");
        fs::write(path, spec.to_string()).context("writing a specification")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(artefacts::oci());
        self.add(&mut command, words);
        command
    }

    fn add(&self, command: &mut Command, words: &[&str]) {
        let state = self.place.join("state");
        command
            .env("PATH", &self.path)
            .arg("--root")
            .arg(state)
            .args(words);
        if matches!(words.first(), Some(&("run" | "restore"))) {
            command.arg("--bundle").arg(self.place.join("bundle"));
        }
        if matches!(words.first(), Some(&("checkpoint" | "restore"))) {
            command.arg("--image-path").arg(self.images());
        }
    }

    /// Detached programs keep what they are given: nothing here is a pipe.
    fn detached(&self, words: &[&str]) -> Result<()> {
        let said = self.place.join("said");
        let mut command = Command::new(artefacts::oci());
        command.arg("--log").arg(&said);
        self.add(&mut command, words);
        let status = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("running berth-oci")?;
        let said = fs::read_to_string(&said).unwrap_or_default();
        ensure!(status.success(), "{words:?} ended with {status}: {said}");
        Ok(())
    }

    fn text(&self, words: &[&str]) -> Result<String> {
        let output = output(&mut self.command(words))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{words:?}: {}", said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn count(&self) -> Option<u64> {
        let text = fs::read_to_string(self.rootfs().join("tmp/count")).ok()?;
        text.trim().parse().ok()
    }

    fn counts_beyond(&self, least: u64) -> Result<u64> {
        let deadline = Instant::now() + SOON;
        loop {
            match self.count() {
                Some(count) if count > least => return Ok(count),
                count if Instant::now() > deadline => bail!("the count stays at {count:?}"),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// A container that has counted for a while, dumped and gone.
    fn dumped(&self) -> Result<u64> {
        self.detached(&["run", "--detach", "before"])?;
        self.counts_beyond(3)?;
        self.text(&["checkpoint", "before"])?;
        let refused = output(&mut self.command(&["state", "before"]))?;
        ensure!(!refused.status.success(), "the container is still there");
        self.count().context("nothing was counted")
    }

    fn end(&self) {
        for id in ["before", "after", "again"] {
            let _never_made = output(&mut self.command(&["delete", "--force", id]));
        }
        for part in ["images", "bundle", "state"] {
            let _never_made = fs::remove_dir_all(self.place.join(part));
        }
    }
}

/// What containers of pods have: masks, read-only paths, and a volume behind a link.
fn spec(place: &Path) -> Value {
    let mut spec = specs::base();
    spec["process"]["args"] = json!(["sh", "-c", COUNTER]);
    spec["process"]["noNewPrivileges"] = json!(true);
    spec["linux"]["cgroupsPath"] = json!(CGROUP);
    spec["linux"]["maskedPaths"] = json!(["/proc/kcore", "/sys/firmware", "/proc/timer_list"]);
    spec["linux"]["readonlyPaths"] = json!(["/proc/sys", "/proc/irq"]);
    let volume = json!({
        "destination": "/var/run/volume", "type": "bind", "source": place.join("source"),
        "options": ["rbind", "ro"],
    });
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        mounts.push(volume);
    }
    spec
}

fn goes_on(side: &Side) -> Result<()> {
    let before = side.dumped()?;
    side.detached(&["restore", "--detach", "after"])?;
    let count = side.counts_beyond(before)?;
    ensure!(
        count < before + 400,
        "it counts anew: {count} after {before}"
    );
    let state: Value = serde_json::from_str(&side.text(&["state", "after"])?)?;
    ensure!(state["status"] == "running", "{state}");
    let said = side.text(&["exec", "after", "sh", "-c", "cat /proc/1/comm; ls /var/run"])?;
    ensure!(said == "sh\nvolume\n", "exec said {said:?}");

    // What was restored can be dumped.
    fs::remove_dir_all(side.images()).context("removing images")?;
    side.text(&["checkpoint", "--leave-running", "after"])?;
    let during = side.counts_beyond(count)?;
    side.counts_beyond(during)?;
    side.text(&["kill", "after", "KILL"])?;
    side.text(&["delete", "--force", "after"])?;
    nothing_left()
}

fn ends(side: &Side) -> Result<()> {
    let before = side.dumped()?;
    let mut command = side.command(&["restore", "after"]);
    let streams = || Stdio::null();
    command.stdin(streams()).stdout(streams()).stderr(streams());
    let mut restored = command.spawn().context("running berth-oci")?;
    side.counts_beyond(before)?;
    fs::write(side.rootfs().join("tmp/stop"), "").context("ending the container")?;
    let status = restored.wait().context("waiting for berth-oci")?;
    ensure!(status.code() == Some(7), "the restore ended with {status}");
    nothing_left()
}

fn confined(side: &Side) -> Result<()> {
    side.dumped()?;
    let plain = spec(&side.place);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut spec = plain.clone();
        change(&mut spec);
        spec
    };
    let without_kill = [
        "CAP_CHOWN",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_NET_BIND_SERVICE",
    ];
    let masks = [
        "/proc/kcore",
        "/sys/firmware",
        "/proc/timer_list",
        "/proc/stat",
    ];
    let cases = [
        (
            with(&|spec| spec["process"]["capabilities"]["bounding"] = json!(without_kill)),
            "capabilities",
        ),
        (
            with(&|spec| spec["root"]["readonly"] = json!(true)),
            "can be written to",
        ),
        (
            with(&|spec| spec["linux"]["maskedPaths"] = json!(masks)),
            "is not masked",
        ),
        (
            with(&|spec| {
                spec["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                    { "names": ["swapon"], "action": "SCMP_ACT_ERRNO" },
                ]});
            }),
            "seccomp",
        ),
        (
            with(&|spec| {
                let mounts = spec["mounts"].as_array_mut().into_iter().flatten();
                for mount in mounts.filter(|mount| mount["destination"] == "/dev/shm") {
                    mount["destination"] = json!("/tmp");
                }
            }),
            "which the container does not",
        ),
    ];
    for (spec, words) in cases {
        side.describe(&spec)?;
        refused(side, words)?;
    }
    Ok(())
}

fn broken(side: &Side) -> Result<()> {
    side.dumped()?;
    let images = side.images();
    let damage = |name: &str, bytes: &[u8]| {
        let path = images.join(name);
        let whole = fs::read(&path).with_context(|| format!("reading {name}"))?;
        fs::write(&path, bytes).with_context(|| format!("damaging {name}"))?;
        let refused = refused(side, "cannot be restored");
        fs::write(&path, whole).with_context(|| format!("mending {name}"))?;
        refused.with_context(|| format!("with another {name}"))
    };
    for name in [
        "inventory.img",
        "pstree.img",
        "ids-1.img",
        "core-1.img",
        "descriptors.json",
    ] {
        damage(name, b"")?;
        damage(name, &[0xff; 64])?;
    }
    side.detached(&["restore", "--detach", "after"])
        .context("the whole images again")
}

/// A restore fails with these words and leaves nothing.
fn refused(side: &Side, words: &str) -> Result<()> {
    let restored = output(&mut side.command(&["restore", "--detach", "after"]))?;
    let said = String::from_utf8_lossy(&restored.stderr);
    ensure!(
        !restored.status.success(),
        "it was restored, without {words:?}"
    );
    ensure!(said.contains(words), "{said:?} does not say {words:?}");
    let state = output(&mut side.command(&["state", "after"]))?;
    ensure!(!state.status.success(), "a container is left");
    nothing_left()
}

fn nothing_left() -> Result<()> {
    let memory = Path::new("/sys/fs/cgroup/memory");
    for tree in [Path::new("/sys/fs/cgroup"), memory] {
        let left = tree.join(CGROUP.trim_start_matches('/'));
        ensure!(!left.exists(), "{} is left", left.display());
    }
    Ok(())
}
