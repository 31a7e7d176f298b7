//! Limits on what containers write, where file systems have project quotas: this host's kernel need
//! not have them. What the kernel holds to is asked of it by repquota, not by the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::command::{retry, run as run_command, stdout};
use crate::outcome::Tally;
use crate::place::Place;
use crate::suites::docker::client::Docker;
use crate::suites::node::disk::Disk;
use crate::suites::node::session::Session;
use crate::workspace;

const SOON: Duration = Duration::from_secs(60);
/// The least that XFS is made for, and more than all containers may write.
const DISK: u64 = 512 << 20;
/// Of the daemon's projects; what an administrator counts is far below.
const FIRST: u32 = 1 << 21;
/// How often the daemon dies while containers come and go.
const KILLS: u64 = 3;
/// Longer than an emulated client takes for a few calls.
const LIFE_MS: u64 = 5000;

type Part = fn(&mut Room) -> Result<()>;

const PARTS: [(&str, Part); 6] = [
    ("a container writes to its limit and others go on", bites),
    ("what a limited layer takes is told", told),
    ("limits outlive the daemon, and are set again", outlive),
    (
        "the daemon's default holds at either door",
        default_of_daemon,
    ),
    (
        "a daemon killed at any moment leaves no limit and gives no id twice",
        killed,
    ),
    ("removal lifts limits and frees ids", freed),
];

pub fn run() -> Result<Tally> {
    let mut tally = Tally::default();
    for kind in ["xfs", "ext4"] {
        println!("  quotas of {kind}");
        run_command(Command::new("modprobe").args(["-q", kind]))?;
        match on(kind, &mut tally) {
            Ok(()) => {}
            Err(error) => tally.check(&format!("quotas of {kind}"), Err(error)),
        }
    }
    Ok(tally)
}

fn on(kind: &'static str, tally: &mut Tally) -> Result<()> {
    let mut room = Room::open(kind)?;
    for (name, part) in PARTS {
        let result = part(&mut room);
        tally.check(&format!("{kind}: {name}"), result);
        room.session.ensure_daemon()?;
    }
    tally.check(&format!("{kind}: no network is left"), room.session.end());
    Ok(())
}

/// A daemon whose root is on a disk with quotas.
struct Room {
    kind: &'static str,
    docker: Docker,
    image: String,
    session: Session,
    // Last: the daemon works on it.
    _disk: Disk,
}

impl Room {
    fn open(kind: &'static str) -> Result<Self> {
        let place = Place::new()?;
        let file = place.scratch().join("disk");
        let disk = Disk::with_quotas(kind, &file, &place.root(), DISK)?;
        let socket = place.socket().with_file_name("docker.sock");
        let config = place.scratch().join("client");
        fs::create_dir_all(&config).context("creating the client's configuration")?;
        let session = Session::begin_in(place, &format!("quotas-{kind}"), "")?;
        let docker = Docker {
            program: workspace::artefacts().join("berth"),
            socket,
            config,
        };
        Ok(Self {
            kind,
            docker,
            image: session.reference(":one"),
            session,
            _disk: disk,
        })
    }

    /// Starts a container that waits, without a network: it only writes.
    fn start(&self, name: &str, size: Option<&str>) -> Result<()> {
        let size = size.map(|size| format!("size={size}"));
        let mut words = vec!["run", "-d", "--name", name, "--network", "none"];
        if let Some(size) = &size {
            words.extend(["--storage-opt", size]);
        }
        words.extend([self.image.as_str(), "sleep", "10000"]);
        self.docker.text(&words).map(drop)
    }

    fn said(&self, name: &str, script: &str) -> Result<String> {
        self.docker.text(&["exec", name, "sh", "-c", script])
    }

    /// So many MiB into a new file; the file system must not run out.
    fn writes(&self, name: &str, mib: u32) -> Result<()> {
        self.said(name, &filling(mib)).map(drop)
    }

    /// Fills the layer: a write has to fail for want of space, close to the limit and not beyond it.
    fn is_full_at(&self, name: &str, limit: u32) -> Result<()> {
        let script = format!("{} || true; stat -c %s /fill", filling(3 * limit));
        let said = self.said(name, &script)?;
        full(self.kind, &said, limit).with_context(|| format!("container {name}"))
    }

    /// Used and limit in KiB by project, of the daemon's alone.
    fn quotas(&self) -> Result<BTreeMap<u32, (u64, u64)>> {
        let root = self.session.place.root();
        let told = stdout(
            Command::new("repquota")
                .args(["-P", "-n", "-v", "-O", "csv"])
                .arg(&root),
        )?;
        let lines = told.lines().filter_map(|line| line.strip_prefix('#'));
        let all = lines.map(quota).collect::<Result<BTreeMap<_, _>>>()?;
        Ok(all
            .into_iter()
            .filter(|(id, what)| *id >= FIRST && *what != (0, 0))
            .collect())
    }

    fn limits(&self) -> Result<BTreeMap<u32, u64>> {
        let limited = self
            .quotas()?
            .into_iter()
            .map(|(id, (_, limit))| (id, limit));
        Ok(limited.filter(|(_, limit)| *limit > 0).collect())
    }

    /// Nobody's project takes or may take anything.
    fn is_free(&self) -> Result<()> {
        let left = self.quotas()?;
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.session.kill_daemon()?;
        self.session.start_daemon()
    }
}

fn filling(mib: u32) -> String {
    format!(
        "rm -f /fill; dd if=/dev/zero of=/fill bs=64k count={} 2>&1",
        mib * 16
    )
}

fn full(kind: &str, said: &str, limit: u32) -> Result<()> {
    // XFS has one word for both.
    let word = match kind {
        "ext4" => "quota exceeded",
        _ => "No space left",
    };
    ensure!(said.contains(word), "a write beyond the limit: {said:?}");
    let size: u64 = said
        .lines()
        .last()
        .and_then(|line| line.trim().parse().ok())
        .with_context(|| format!("no size in {said:?}"))?;
    let limit = u64::from(limit) << 20;
    ensure!(
        (limit * 3 / 4..=limit).contains(&size),
        "{size} bytes are written, {limit} are allowed"
    );
    Ok(())
}

/// `ID,status,status,used,soft,hard,…`, in KiB.
fn quota(line: &str) -> Result<(u32, (u64, u64))> {
    let fields: Vec<&str> = line.split(',').collect();
    let field = |place: usize| {
        let text = fields.get(place).map(|field| field.trim());
        text.and_then(|text| text.parse::<u64>().ok())
            .with_context(|| format!("no number at {place} of {line:?}"))
    };
    Ok((u32::try_from(field(0)?)?, (field(3)?, field(5)?)))
}

fn bites(room: &mut Room) -> Result<()> {
    room.start("small", Some("8m"))?;
    room.start("large", Some("32m"))?;
    room.start("free", None)?;
    room.is_full_at("small", 8)?;
    room.writes("large", 24)?;
    room.writes("free", 64)?;
    let shown = room.said("small", "df -k / | tail -1")?;
    let total = shown.split_whitespace().nth(1);
    ensure!(total == Some("8192"), "df shows {shown:?}");
    // What the image has does not count, what is changed of it does.
    let script =
        "echo more >>/etc/passwd && ln /etc/passwd /again && mkdir /d && mv /etc/group /d/";
    room.said("large", script).map(drop)
}

fn told(room: &mut Room) -> Result<()> {
    let answer = room
        .docker
        .request("GET", "/v1.43/containers/small/json?size=1", &[])?
        .json()?;
    let size = answer["SizeRw"].as_u64().context("no size")?;
    ensure!((6 << 20..=8 << 20).contains(&size), "{size} bytes are told");
    let asked = &answer["HostConfig"]["StorageOpt"]["size"];
    ensure!(asked == "8m", "the option is shown as {asked}");
    let info = room.docker.request("GET", "/v1.43/info", &[])?.json()?;
    let status = info["DriverStatus"].to_string();
    let backing = match room.kind {
        "ext4" => "extfs",
        other => other,
    };
    for (name, value) in [("Backing Filesystem", backing), ("Project Quotas", "true")] {
        let expected = format!("[{name:?},{value:?}]");
        ensure!(status.contains(&expected), "{status} has no {expected}");
    }
    Ok(())
}

/// Also where somebody lifted them while the daemon was away.
fn outlive(room: &mut Room) -> Result<()> {
    let before = room.limits()?;
    ensure!(before.len() == 2, "two containers are limited: {before:?}");
    room.session.kill_daemon()?;
    for project in before.keys() {
        let root = room.session.place.root();
        run_command(
            Command::new("setquota")
                .args(["-P", &project.to_string(), "0", "0", "0", "0"])
                .arg(&root),
        )?;
    }
    ensure!(room.limits()?.is_empty(), "the limits cannot be lifted");
    room.session.start_daemon()?;
    let after = room.limits()?;
    ensure!(after == before, "{after:?} instead of {before:?}");
    room.is_full_at("small", 8)?;
    // It is full, and its kernel makes directories in it when it is mounted again.
    room.docker.text(&["restart", "-t", "0", "small"])?;
    room.is_full_at("small", 8)?;
    let after = room.limits()?;
    ensure!(after == before, "{after:?} instead of {before:?}");
    Ok(())
}

fn default_of_daemon(room: &mut Room) -> Result<()> {
    let configured = "[snapshots]\nwritable-max-bytes = 16777216\n";
    room.session.place.configure(configured)?;
    room.restart()?;
    room.start("usual", None)?;
    room.start("lifted", Some("0"))?;
    room.is_full_at("usual", 16)?;
    room.writes("lifted", 24)?;

    let pod_config = room.session.pod("limited");
    let config = room.session.container("main", &["sleep", "10000"]);
    let cri = &mut room.session.cri;
    let pod = cri.run_pod(&pod_config).context("RunPodSandbox")?;
    let container = cri.create(&pod, &pod_config, &config);
    let container = container.context("CreateContainer")?;
    cri.start(&container).context("StartContainer")?;
    let script = format!("{}; stat -c %s /fill", filling(48));
    let answer = cri.exec_within(&container, &["sh", "-c", &script], 120);
    let said = String::from_utf8_lossy(&answer.context("ExecSync")?.stdout).into_owned();
    room.session.tear_down(&pod, &container)?;
    full(room.kind, &said, 16).context("a container of a pod")?;

    room.session.place.configure("")?;
    room.restart()?;
    room.docker.text(&["rm", "-f", "usual", "lifted"]).map(drop)
}

fn killed(room: &mut Room) -> Result<()> {
    for name in ["small", "large", "free"] {
        room.docker.text(&["rm", "-f", name])?;
    }
    retry(SOON, || room.is_free())?;
    for round in 0..KILLS {
        std::thread::scope(|scope| {
            let docker = &room.docker;
            let image = room.image.as_str();
            let busy = scope.spawn(move || come_and_go(docker, image, round));
            std::thread::sleep(Duration::from_millis(fastrand::u64(..LIFE_MS)));
            let killed = room.session.kill_daemon();
            // It ends with the first call that nobody answers.
            let called = busy.join().is_ok();
            ensure!(called, "the client panicked");
            killed
        })?;
        room.session.start_daemon()?;
        retry(SOON, || consistent(room)).with_context(|| format!("after kill {round}"))?;
    }
    let left = room.docker.lines(&["ps", "-aq"])?;
    println!("  note    {} containers outlived {KILLS} kills", left.len());
    for container in left {
        room.docker.text(&["rm", "-f", &container])?;
    }
    retry(SOON, || room.is_free())
}

/// Makes and removes containers until a call fails.
fn come_and_go(docker: &Docker, image: &str, round: u64) {
    for number in 0.. {
        let name = format!("c{round}-{number}");
        let make = [
            "create",
            "--name",
            &name,
            "--network",
            "none",
            "--storage-opt",
            "size=4m",
        ];
        let command = [image, "true"];
        let gone = match number {
            0 => None,
            // Every other one stays.
            number if number % 2 == 0 => Some(format!("c{round}-{}", number - 1)),
            _ => None,
        };
        let made = docker.text(&[&make[..], &command].concat());
        let removed = gone.map(|gone| docker.text(&["rm", "-f", &gone]));
        if made.is_err() || removed.is_some_and(|removed| removed.is_err()) {
            return;
        }
    }
}

/// Each layer has a project of its own with its limit, and no other project is limited.
fn consistent(room: &Room) -> Result<()> {
    let active = room.session.place.root().join("snapshots/active");
    let mut layers: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&active).context("listing the snapshots")? {
        let upper = entry.context("listing the snapshots")?.path().join("upper");
        layers.extend(upper.exists().then_some(upper));
    }
    let containers = room.docker.lines(&["ps", "-aq"])?.len();
    ensure!(
        layers.len() == containers,
        "{layers:?} of {containers} containers"
    );
    let mut projects = BTreeSet::new();
    for upper in &layers {
        let told = stdout(Command::new("lsattr").arg("-pd").arg(upper))?;
        let project = told
            .split_whitespace()
            .next()
            .and_then(|id| id.parse().ok());
        let project: u32 = project.with_context(|| format!("no project in {told:?}"))?;
        ensure!(projects.insert(project), "project {project} is given twice");
    }
    let limits = room.limits()?;
    let expected: BTreeMap<u32, u64> = projects.into_iter().map(|id| (id, 4096)).collect();
    ensure!(limits == expected, "{limits:?} instead of {expected:?}");
    Ok(())
}

fn freed(room: &mut Room) -> Result<()> {
    room.start("one", Some("8m"))?;
    room.writes("one", 4)?;
    let limits = room.limits()?;
    ensure!(limits.len() == 1, "{limits:?}");
    room.docker.text(&["rm", "-f", "one"])?;
    retry(SOON, || room.is_free())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_repquota_are_read() {
        let line = "2097152,ok,ok,12,0,8192,,3,0,0,";
        assert_eq!(quota(line).unwrap(), (2_097_152, (12, 8192)));
        assert!(quota("Project,BlockStatus").is_err());
    }

    #[test]
    fn a_limit_that_does_not_bite_is_told() {
        let said = "dd: error writing '/fill': Disk quota exceeded\n8380416";
        assert!(full("ext4", said, 8).is_ok());
        assert!(full("xfs", said, 8).is_err());
        assert!(full("ext4", "25165824", 8).is_err());
        assert!(full("ext4", "Disk quota exceeded\n25165824", 8).is_err());
    }
}
