//! What a client asks of a container and of what it lives under.

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::Step;
use super::session::{IMAGE, RUNTIME, Session};
use super::tasks::{COUNTER, counts_beyond};
use crate::suites::checks::same;

pub const STEPS: &[(&str, Step)] = &[
    ("a container is what the client asks for", asked),
    ("a user namespace has its own view of a volume", mapped),
    (
        "a shim has one thread, no libraries and little memory",
        small,
    ),
    ("containerd hears of the runtime's features", features),
];

/// Bytes that an idle shim may have for itself.
const LARGEST: u64 = 1 << 20;

/// What a container that is made with these flags says.
fn said(session: &Session, id: &str, flags: &[&str], script: &str) -> Result<String> {
    let fifos = session.fifos();
    let run = ["run", "--rm", "--fifo-dir", &fifos, "--runtime", RUNTIME];
    let words = [&run[..], flags, &[IMAGE, id, "sh", "-c", script]].concat();
    session.text(&words)
}

fn asked(session: &mut Session) -> Result<()> {
    let flags = [
        "--user",
        "33:33",
        "--cwd",
        "/tmp",
        "--env",
        "WORD=given",
        "--hostname",
        "crew",
        "--cpus",
        "0.5",
        "--read-only",
        "--seccomp",
        "--rlimit-nofile",
        "100:200",
    ];
    let script = "id -u; id -g; pwd; echo $WORD; hostname; ulimit -n; \
                  touch /there 2> /dev/null || echo read-only; grep Seccomp: /proc/self/status";
    let expected = "33\n33\n/tmp\ngiven\ncrew\n100\nread-only\nSeccomp:\t2\n";
    let said = said(session, "asked", &flags, script)?;
    same("what it sees", said.as_str(), expected)
}

/// containerd asks the shim for its features before it hands on a mapped mount.
fn mapped(session: &mut Session) -> Result<()> {
    let volume = session.place.scratch().join("volume");
    fs::create_dir(&volume).context("making a volume")?;
    for (name, owner) in [("root", 0), ("crew", 33)] {
        let file = volume.join(name);
        fs::write(&file, "").context("filling a volume")?;
        chown(&file, Some(owner), Some(owner)).context("giving a file away")?;
    }
    let map = "0:200000:65536";
    let mount = format!(
        "type=bind,src={},dst=/srv,options=rbind:idmap",
        volume.display()
    );
    let flags = ["--uidmap", map, "--gidmap", map, "--mount", &mount];
    let script = "stat -c '%u %g' /srv/root /srv/crew /etc/passwd; tr -s ' ' < /proc/self/uid_map";
    let said = said(session, "mapped", &flags, script)?;
    same(
        "owners",
        said.as_str(),
        "0 0\n33 33\n0 0\n 0 200000 65536\n",
    )?;
    fs::remove_dir_all(volume).context("removing a volume")
}

fn small(session: &mut Session) -> Result<()> {
    session.task("small", COUNTER)?;
    counts_beyond(session.running("small")?, 5)?;
    let process = PathBuf::from(format!("/proc/{}", session.shim("small")?));
    let read = |name: &str| fs::read_to_string(process.join(name)).context("looking at a shim");
    let status = read("status")?;
    let threads = status.lines().find(|line| line.starts_with("Threads:"));
    same("threads", threads, Some("Threads:\t1"))?;
    let maps = read("maps")?;
    let library = maps.lines().find(|line| line.contains(".so"));
    same("libraries", library, None)?;
    let own = read("smaps_rollup")?
        .lines()
        .filter(|line| line.starts_with("Private_Dirty:"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum::<u64>()
        * 1024;
    ensure!(own > 0 && own < LARGEST, "it has {own} bytes for itself");
    session.remove("small")
}

fn features(session: &mut Session) -> Result<()> {
    let log = fs::read_to_string(&session.log).context("containerd's log")?;
    let failed = log.lines().find(|line| line.contains("runtime info"));
    same("what containerd could not learn", failed, None)?;
    let words = ["plugins", "inspect-runtime", "--runtime", RUNTIME];
    let text = session.text(&words)?;
    let info: serde_json::Value = serde_json::from_str(&text).context("features")?;
    same("name", info["Name"].as_str(), Some(RUNTIME))?;
    let idmap = info.pointer("/Features/linux/mountExtensions/idmap/enabled");
    same("mapped mounts", idmap, Some(&true.into()))
}
