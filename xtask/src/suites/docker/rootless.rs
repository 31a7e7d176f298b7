//! A daemon of an ordinary user: the same containers, in namespaces of the user's own.
//!
//! The user exists in a mount namespace of the daemon's alone, where `/etc/passwd`, `/etc/subuid`
//! and `/dev/net/tun` are what a machine with such users has.

use std::fs::{self, OpenOptions, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::Value;

use super::client::Docker;
use super::session::{IMAGE, Session};
use super::{Step, contains, same};
use crate::command::{output, retry, run, stdout};
use crate::workspace;

pub const STEPS: &[(&str, Step)] = &[
    ("rootless: a user's daemon runs images as that user", begin),
    ("rootless: exec, diff, commit, volumes and names", works),
    ("rootless: what is root's stays root's", confined),
    ("rootless: what is limited is told, not ignored", unlimited),
    ("rootless: a published port leads in from the host", port),
    ("rootless: containers outlive a killed daemon", killed),
    ("rootless: nothing of it is left behind", gone),
];

const NAME: &str = "berthuser";
const ID: u32 = 4242;
const FIRST: u32 = 2_000_000;
const COUNT: u32 = 65_536;
const SOON: Duration = Duration::from_secs(10);

/// The user's places, made of the session's.
struct Own {
    directory: PathBuf,
    docker: Docker,
    log: PathBuf,
}

impl Own {
    fn of(session: &Session) -> Result<Self> {
        let directory = session.place.scratch().join("own");
        Ok(Self {
            docker: Docker {
                program: session.docker.program.clone(),
                socket: directory.join("run/berth/docker.sock"),
                config: session.docker.config.clone(),
            },
            log: workspace::logs()?.join("docker-rootless-berthd.log"),
            directory,
        })
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn docker(&self, arguments: &[&str]) -> Result<String> {
        self.docker.text(arguments)
    }

    /// Everything that the user's daemon sees otherwise than the machine.
    fn furnish(&self) -> Result<()> {
        // Others pass through to what is the user's.
        let above = self.directory.ancestors().take(3);
        fs::create_dir_all(self.directory.join("bin"))?;
        for directory in above {
            fs::set_permissions(directory, Permissions::from_mode(0o711))?;
        }
        for program in [
            "berthd",
            "containerd-shim-berth-v1",
            "berth-pod-init",
            "berth-unpack",
        ] {
            let from = workspace::artefacts().join(program);
            fs::copy(&from, self.directory.join("bin").join(program))
                .with_context(|| format!("copying {}", from.display()))?;
        }
        for name in ["run", "home"] {
            let directory = self.directory.join(name);
            fs::create_dir(&directory)?;
            std::os::unix::fs::chown(&directory, Some(ID), Some(ID))?;
        }
        let passwd = fs::read_to_string("/etc/passwd")?;
        let line = format!("{NAME}:x:{ID}:{ID}::{}:/bin/sh\n", self.path("home"));
        fs::write(self.directory.join("passwd"), passwd + &line)?;
        for name in ["subuid", "subgid"] {
            let line = format!("{NAME}:{FIRST}:{COUNT}\n");
            fs::write(self.directory.join(name), line)?;
        }
        let tun = self.path("tun");
        run(Command::new("mknod").args(["-m", "666", &tun, "c", "10", "200"]))?;
        run(Command::new("chmod").args(["666", &tun]))
    }

    fn start(&self) -> Result<()> {
        let mounts = [
            ("passwd", "/etc/passwd"),
            ("subuid", "/etc/subuid"),
            ("subgid", "/etc/subgid"),
            ("tun", "/dev/net/tun"),
        ];
        let mut script = String::from("set -e\n");
        for (from, to) in mounts {
            script += &format!("mount --bind {} {to}\n", self.path(from));
        }
        script += &format!(
            "exec setpriv --reuid {ID} --regid {ID} --clear-groups env -i HOME={} \
             XDG_RUNTIME_DIR={} PATH=/usr/bin:/bin:/usr/sbin:/sbin {}\n",
            self.path("home"),
            self.path("run"),
            self.path("bin/berthd"),
        );
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting a user's daemon")?;
        fs::write(self.directory.join("pid"), child.id().to_string())?;
        retry(SOON, || self.docker(&["version"]).map(drop))
            .with_context(|| format!("see {}", self.log.display()))
    }

    fn pid(&self) -> Result<Pid> {
        let text = fs::read_to_string(self.directory.join("pid")).context("no daemon runs")?;
        Pid::from_raw(text.parse()?).context("a pid")
    }

    fn end(&self, signal: Signal) -> Result<()> {
        let pid = self.pid()?;
        kill_process(pid, signal).context("ending the user's daemon")?;
        waitpid(Some(pid), WaitOptions::empty()).context("waiting for it")?;
        fs::remove_file(self.directory.join("pid")).context("forgetting it")
    }

    /// Processes that are the user's, by one of its ids.
    fn processes(&self) -> Result<Vec<(i32, String)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let Some(pid) = pid_of(&path) else { continue };
            let Some(uid) = uid_of(pid) else { continue };
            if uid == ID || (FIRST..FIRST + COUNT).contains(&uid) {
                let line = fs::read(path.join("cmdline")).unwrap_or_default();
                found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ")));
            }
        }
        Ok(found)
    }
}

fn pid_of(path: &Path) -> Option<i32> {
    path.file_name()?.to_str()?.parse().ok()
}

/// The user that the host sees, of a process that is not a zombie.
fn uid_of(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    if field("State:")?.trim().starts_with('Z') {
        return None;
    }
    field("Uid:")?.split_whitespace().next()?.parse().ok()
}

fn fetch(port: u16) -> Result<String> {
    let url = format!("http://127.0.0.1:{port}/");
    let page = stdout(Command::new("curl").args(["-sS", "--fail", "--max-time", "3", &url]))?;
    Ok(page.trim().to_owned())
}

fn begin(session: &mut Session) -> Result<()> {
    session.have_daemon()?;
    let own = Own::of(session)?;
    let _fresh = fs::remove_file(&own.log);
    own.furnish()?;
    own.start()?;
    let archive = own.path("image.tar");
    session
        .docker
        .text(&["save", "--output", &archive, IMAGE])?;
    let told = own.docker(&["load", "--input", &archive])?;
    contains("load", &told, IMAGE)?;
    let info: Value = own.docker.json(&["info", "--format", "json"])?;
    same("cgroups", info["CgroupDriver"].as_str(), Some("none"))?;
    contains(
        "options",
        &info["SecurityOptions"].to_string(),
        "name=rootless",
    )?;
    let inside = own.docker(&["run", "--rm", IMAGE, "id", "-u"])?;
    same("inside", inside.as_str(), "0")?;
    for (name, user, outside) in [("box", "0", ID), ("guest", "1000", FIRST + 999)] {
        let line = [
            "run", "-d", "--name", name, "--user", user, IMAGE, "sleep", "1000",
        ];
        own.docker(&line)?;
        let pid = own.docker(&["inspect", "--format", "{{.State.Pid}}", name])?;
        same("outside", uid_of(pid.parse()?), Some(outside))?;
    }
    own.docker(&["rm", "-f", "guest"]).map(drop)
}

fn works(session: &mut Session) -> Result<()> {
    let own = Own::of(session)?;
    let script =
        "rm -r /var/www; mkdir -p /var/www; echo new >/var/www/file; chown 33 /var/www/file";
    own.docker(&["exec", "box", "sh", "-c", script])?;
    let mut lines = own.docker.lines(&["diff", "box"])?;
    lines.sort();
    contains("diff", &lines.join("\n"), "A /var/www/file")?;
    own.docker(&["commit", "box", "kept:1"])?;
    let line = "ls /var/www; stat -c %u /var/www/file";
    let listed = own.docker(&["run", "--rm", "kept:1", "sh", "-c", line])?;
    same("committed", listed.as_str(), "file\n33")?;
    own.docker(&[
        "run",
        "--rm",
        "-v",
        "vol:/x",
        IMAGE,
        "sh",
        "-c",
        "echo v >/x/f",
    ])?;
    let read = own.docker(&["run", "--rm", "-v", "vol:/x", IMAGE, "cat", "/x/f"])?;
    same("the volume", read.as_str(), "v")?;
    let top = own.docker(&["top", "box", "-o", "pid,args"])?;
    contains("top", &top, "sleep 1000")?;
    own.docker(&["network", "create", "crew"])?;
    let site = "echo found >/index.html; exec httpd -f -p 80 -h /";
    let line = [
        "run",
        "-d",
        "--name",
        "site",
        "--network",
        "crew",
        IMAGE,
        "sh",
        "-c",
        site,
    ];
    own.docker(&line)?;
    let ask = [
        "run",
        "--rm",
        "--network",
        "crew",
        IMAGE,
        "wget",
        "-qO-",
        "http://site/",
    ];
    same(
        "by name",
        retry(SOON, || own.docker(&ask))?.as_str(),
        "found",
    )?;
    own.docker(&["rm", "-f", "site"])?;
    own.docker(&["network", "rm", "crew"]).map(drop)
}

fn confined(session: &mut Session) -> Result<()> {
    let own = Own::of(session)?;
    let secret = own.directory.join("secret");
    fs::write(&secret, "root's\n")?;
    fs::set_permissions(&secret, Permissions::from_mode(0o600))?;
    let bind = format!("{}:/secret", secret.display());
    let refusal = own
        .docker
        .refusal(&["run", "--rm", "-v", &bind, IMAGE, "cat", "/secret"])?;
    contains("a file of root's", &refusal, "Permission denied")?;
    let line = [
        "run",
        "--rm",
        "--privileged",
        "-v",
        &bind,
        IMAGE,
        "cat",
        "/secret",
    ];
    let refusal = own.docker.refusal(&line)?;
    contains("privileged", &refusal, "Permission denied")?;
    let line = [
        "run",
        "--rm",
        "--privileged",
        IMAGE,
        "sh",
        "-c",
        "mknod /d b 254 0",
    ];
    let refusal = own.docker.refusal(&line)?;
    contains("a device", &refusal, "Operation not permitted")
}

fn unlimited(session: &mut Session) -> Result<()> {
    let own = Own::of(session)?;
    let line = [
        "create", "--name", "small", "--memory", "64m", IMAGE, "true",
    ];
    let answer = output(&mut own.docker.command(&line))?;
    contains(
        "a warning",
        &String::from_utf8_lossy(&answer.stderr),
        "discarded",
    )?;
    own.docker(&["rm", "small"])?;
    for line in [&["update", "--memory", "64m", "box"][..], &["pause", "box"]] {
        let refusal = own.docker.refusal(line)?;
        contains("a refusal", &refusal, "who was given no cgroup")?;
    }
    Ok(())
}

fn port(session: &mut Session) -> Result<()> {
    let own = Own::of(session)?;
    let number = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let publish = format!("127.0.0.1:{number}:80");
    let site = "echo a page >/index.html; exec httpd -f -p 80 -h /";
    own.docker(&[
        "run", "-d", "--name", "site", "-p", &publish, IMAGE, "sh", "-c", site,
    ])?;
    same(
        "the page",
        retry(SOON, || fetch(number))?.as_str(),
        "a page",
    )?;
    let refusal = own
        .docker
        .refusal(&["run", "--rm", "-p", &publish, IMAGE, "true"])?;
    contains("a port that is taken", &refusal, &number.to_string())?;
    let other = TcpListener::bind("127.0.0.1:0")?;
    let taken = format!("127.0.0.1:{}:80", other.local_addr()?.port());
    let refusal = own
        .docker
        .refusal(&["run", "--rm", "-p", &taken, IMAGE, "true"])?;
    contains("a port of a program", &refusal, "cannot be forwarded")?;
    own.docker(&["stop", "-t", "0", "site"])?;
    ensure!(
        fetch(number).is_err(),
        "a container that was stopped still answers"
    );
    own.docker(&["start", "site"])?;
    same("again", retry(SOON, || fetch(number))?.as_str(), "a page")?;
    fs::write(own.directory.join("port"), number.to_string()).context("for the next step")
}

fn killed(session: &mut Session) -> Result<()> {
    let own = Own::of(session)?;
    let number: u16 = fs::read_to_string(own.directory.join("port"))?.parse()?;
    own.end(Signal::KILL)?;
    same("without a daemon", fetch(number)?.as_str(), "a page")?;
    own.start()?;
    let mut names = own.docker.lines(&["ps", "--format", "{{.Names}}"])?;
    names.sort();
    same("running", names.join(" ").as_str(), "box site")?;
    let told = own.docker(&["exec", "box", "echo", "here"])?;
    same("exec", told.as_str(), "here")?;
    same(
        "the port",
        retry(SOON, || fetch(number))?.as_str(),
        "a page",
    )?;
    // What has lost its shim has nobody who could find it by a cgroup.
    let pid: i32 = own
        .docker(&["inspect", "--format", "{{.State.Pid}}", "box"])?
        .parse()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let shim = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let shim: i32 = shim.context("a parent")?.trim().parse()?;
    kill_process(Pid::from_raw(shim).context("a shim")?, Signal::KILL)?;
    retry(SOON, || match uid_of(pid) {
        Some(_) => bail!("the container outlives its shim"),
        None => Ok(()),
    })
}

fn gone(session: &mut Session) -> Result<()> {
    let own = Own::of(session)?;
    own.docker(&["rm", "-f", "box", "site"])?;
    let left = own.docker.lines(&["ps", "-aq"])?;
    same("containers", left.len(), 0)?;
    own.end(Signal::TERM)?;
    let state = own.directory.join("run/berth");
    let holder: Value = serde_json::from_slice(&fs::read(state.join("rootless/holder.json"))?)?;
    let slirp = fs::read_to_string(state.join("rootless/slirp4netns.pid"))?;
    let slirp = slirp
        .split_whitespace()
        .next()
        .and_then(|pid| pid.parse().ok());
    let holder = holder["pid"]
        .as_i64()
        .and_then(|pid| i32::try_from(pid).ok());
    for pid in [slirp, holder].into_iter().flatten() {
        kill_process(Pid::from_raw(pid).context("a pid")?, Signal::TERM)?;
    }
    retry(SOON, || {
        let left = own.processes()?;
        ensure!(left.is_empty(), "processes are left: {left:?}");
        Ok(())
    })
}
