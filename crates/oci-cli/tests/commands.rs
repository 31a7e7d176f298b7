//! The program as its callers run it, with real containers.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const APPLETS: [&str; 3] = ["sh", "sleep", "true"];

/// A root for states, and a bundle of busybox.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// `None`, with the reason printed, where containers cannot be made.
    fn new() -> Result<Option<Self>> {
        let root = berth_kernel::rustix::process::geteuid().is_root();
        let busybox = Path::new("/usr/bin/busybox");
        if !root || !busybox.exists() || berth_cgroups::CgroupHost::detect().is_err() {
            println!("skipped: needs root, busybox and cgroups: real containers");
            return Ok(None);
        }
        let directory = tempfile::tempdir()?;
        let inside = directory.path().join("bundle/rootfs");
        fs::create_dir_all(inside.join("bin"))?;
        fs::copy(busybox, inside.join("bin/busybox"))?;
        for library in libraries(busybox)? {
            let copy = inside.join(library.strip_prefix("/").unwrap_or(&library));
            fs::create_dir_all(copy.parent().context("library's directory")?)?;
            fs::copy(&library, &copy)?;
        }
        for applet in APPLETS {
            symlink("busybox", inside.join("bin").join(applet))?;
        }
        Ok(Some(Self { directory }))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self, script: &str) -> Result<()> {
        let cgroup = self.directory.path().file_name().unwrap_or_default();
        let config = json!({
            "ociVersion": "1.3.0",
            "process": {
                "user": { "uid": 0, "gid": 0 }, "cwd": "/",
                "args": ["sh", "-c", script], "env": ["PATH=/bin"],
            },
            "root": { "path": "rootfs" },
            "annotations": { "a.b": "c" },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
                {
                    "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                    "options": ["newinstance", "ptmxmode=0666"],
                },
            ],
            "linux": {
                "cgroupsPath": format!("/berth-oci-test{}", cgroup.display()),
                "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }],
            },
        });
        fs::write(self.path("bundle/config.json"), config.to_string()).context("config")
    }

    fn run(&self, words: &[&str]) -> Result<Output> {
        // Files, not pipes: what `create` leaves running keeps them open.
        let (out, err) = (self.path("out"), self.path("err"));
        let status = Command::new(env!("CARGO_BIN_EXE_berth-oci"))
            .arg("--root")
            .arg(self.path("state"))
            .args(words)
            .current_dir(self.path("bundle"))
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out)?)
            .stderr(fs::File::create(&err)?)
            .status()?;
        Ok(Output {
            status,
            stdout: fs::read(out)?,
            stderr: fs::read(err)?,
        })
    }

    /// What a command that succeeds prints.
    fn prints(&self, words: &[&str]) -> Result<String> {
        let output = self.run(words)?;
        ensure!(output.status.success(), "{words:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Exit status and complaint of a command that fails.
    fn fails(&self, words: &[&str]) -> Result<(i32, String)> {
        let output = self.run(words)?;
        ensure!(!output.status.success(), "{words:?}: {output:?}");
        let status = output.status.code().context("killed")?;
        Ok((status, String::from_utf8(output.stderr)?))
    }

    fn state(&self, id: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.prints(&["state", id])?)?)
    }

    fn has_states(&self) -> Result<bool> {
        Ok(fs::read_dir(self.path("state"))?.next().is_some())
    }
}

fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8(output.stdout)?;
    let words = text.split_whitespace();
    Ok(words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

#[test]
fn a_container_lives_through_processes_that_each_do_one_step() -> Result<()> {
    let Some(place) = Place::new()? else {
        return Ok(());
    };
    place.config("sleep 60")?;
    let pid_file = place.path("pid");
    place.prints(&["create", "--pid-file", &pid_file.display().to_string(), "c"])?;
    let state = place.state("c")?;
    ensure!(state["status"] == "created" && state["annotations"]["a.b"] == "c");
    ensure!(state["pid"].to_string() == fs::read_to_string(&pid_file)?);
    ensure!(place.fails(&["create", "c"])?.1.contains("already exists"));

    place.prints(&["start", "c"])?;
    ensure!(place.state("c")?["status"] == "running");
    ensure!(place.fails(&["start", "c"])?.1.contains("already running"));
    let (_, complaint) = place.fails(&["delete", "c"])?;
    ensure!(complaint.contains("is not stopped: running"));
    ensure!(place.prints(&["list", "-q"])? == "c\n");

    ensure!(place.prints(&["exec", "-e", "A=b", "c", "sh", "-c", "echo $A"])? == "b\n");
    let output = place.run(&["exec", "c", "sh", "-c", "exit 7"])?;
    ensure!(output.status.code() == Some(7), "{output:?}");
    let (status, complaint) = place.fails(&["exec", "c", "missing"])?;
    ensure!(status == 255 && complaint.contains("executable file not found in $PATH"));

    place.prints(&["pause", "c"])?;
    ensure!(place.state("c")?["status"] == "paused");
    ensure!(place.fails(&["exec", "c", "true"])?.1.contains("paused"));
    place.prints(&["resume", "c"])?;

    place.prints(&["kill", "c", "KILL"])?;
    while place.state("c")?["status"] != "stopped" {}
    ensure!(
        place
            .fails(&["kill", "c"])?
            .1
            .contains("container not running")
    );
    place.prints(&["delete", "c"])?;
    let (_, complaint) = place.fails(&["state", "c"])?;
    ensure!(complaint.contains("container does not exist"));
    place.prints(&["delete", "--force", "c"])?;
    ensure!(!place.has_states()?);
    Ok(())
}

#[test]
fn a_run_in_the_foreground_ends_as_its_program_and_leaves_nothing() -> Result<()> {
    let Some(place) = Place::new()? else {
        return Ok(());
    };
    place.config("echo out; echo err >&2; exit 3")?;
    let output = place.run(&["run", "f"])?;
    ensure!(output.status.code() == Some(3), "{output:?}");
    ensure!(output.stdout == b"out\n" && output.stderr == b"err\n");
    ensure!(!place.has_states()?);
    Ok(())
}

#[test]
fn a_refused_container_leaves_nothing_and_says_why_in_the_log() -> Result<()> {
    let Some(place) = Place::new()? else {
        return Ok(());
    };
    place.config("true")?;
    let path = place.path("bundle/config.json");
    let config = fs::read_to_string(&path)?.replace("\"sh\"", "\"/missing\"");
    fs::write(&path, config)?;
    let log = place.path("log");
    let option = format!("--log={}", log.display());
    let (status, complaint) = place.fails(&[&option, "--log-format", "json", "create", "r"])?;
    ensure!(status == 1, "{status}");
    let line: Value = serde_json::from_str(&fs::read_to_string(&log)?)?;
    let message = line["msg"].as_str().context("msg")?;
    ensure!(line["level"] == "error" && message == complaint.trim_end());
    ensure!(message.starts_with("berth-oci create failed: unable to start container process"));
    ensure!(message.contains("no such file or directory"), "{message}");
    ensure!(!place.has_states()?);
    Ok(())
}

#[test]
fn a_process_goes_to_a_cgroup_below_the_containers() -> Result<()> {
    let Some(place) = Place::new()? else {
        return Ok(());
    };
    place.config("sleep 1000")?;
    place.prints(&["run", "--detach", "c"])?;
    let pid = place.state("c")?["pid"].as_i64().context("no pid")?;
    let below = berth_cgroups::CgroupPath::parse(&format!("{}/below", own_cgroup(pid)?))?;
    let cgroup = berth_cgroups::CgroupHost::detect()?.create(&below)?;
    let show = [
        "sh",
        "-c",
        "while read line; do echo $line; done < /proc/self/cgroup",
    ];
    let said = place.prints(&[&["exec", "--cgroup", "below", "c"], &show[..]].concat())?;
    let all_below = said
        .lines()
        .filter(|line| line.contains("berth-oci-test"))
        .all(|line| line.ends_with("/below"));
    let missing = place.fails(&["exec", "--cgroup", "nowhere", "c", "true"])?;
    let single = place.fails(&["exec", "--cgroup", "memory:below", "c", "true"])?;
    place.prints(&["kill", "c", "KILL"])?;
    cgroup.kill_all(9)?;
    cgroup.remove()?;
    place.prints(&["delete", "--force", "c"])?;
    ensure!(said.contains("/below") && all_below, "{said}");
    ensure!(missing.1.contains("cgroup"), "{missing:?}");
    ensure!(single.1.contains("one path"), "{single:?}");
    Ok(())
}

/// The path that a process has in the hierarchies of its container.
fn own_cgroup(pid: i64) -> Result<String> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let paths = table.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let path = paths
        .into_iter()
        .find(|path| path.contains("berth-oci-test"));
    Ok(path.context("no cgroup of a test")?.to_owned())
}
