//! The program as its callers run it, with real containers.

mod place;

use anyhow::{Context, Result, ensure};
use place::Place;
use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

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

#[test]
fn a_container_without_a_mount_namespace_leaves_no_mount_whoever_ends_it() -> Result<()> {
    let Some(place) = Place::new()? else {
        return Ok(());
    };
    place.config("echo told >/note; sleep 60")?;
    place.edit(without_mount_namespace)?;
    place.prints(&["create", "c"])?;
    ensure!(mounts_of(&place)?.is_empty());
    place.prints(&["start", "c"])?;
    ensure!(mounts_of(&place)?.is_empty());
    let script = "while [ ! -e /note ]; do :; done; readlink /proc/self/ns/mnt";
    let said = place.prints(&["exec", "c", "sh", "-c", script])?;
    let own = fs::read_link("/proc/self/ns/mnt")?;
    ensure!(said.trim_end() == own.display().to_string(), "{said}");
    let (_, complaint) = place.fails(&["checkpoint", "c"])?;
    ensure!(complaint.contains("mount namespace"), "{complaint}");
    place.prints(&["delete", "--force", "c"])?;
    ensure!(mounts_of(&place)?.is_empty() && !place.has_states()?);

    // Killed at any moment, a create leaves a container or none, and never a mount.
    let mut made = 0;
    for pause in 0..24 {
        let mut create = Command::new(place.program())
            .arg("--root")
            .arg(place.path("state"))
            .args(["create", "k"])
            .current_dir(place.path("bundle"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        std::thread::sleep(Duration::from_millis(pause));
        create.kill()?;
        create.wait()?;
        let left = mounts_of(&place)?;
        ensure!(left.is_empty(), "after {pause} ms: {left:?}");
        made += u32::from(place.run(&["state", "k"])?.status.success());
        place.prints(&["delete", "--force", "k"])?;
    }
    println!("{made} of 24 creates were done when they were killed");
    ensure!(mounts_of(&place)?.is_empty() && !place.has_states()?);
    // What was mounted for it is free: the root can be taken away.
    fs::remove_dir_all(place.path("bundle/rootfs")).context("the root is in use")
}

fn without_mount_namespace(config: &mut Value) {
    if let Some(list) = config["linux"]["namespaces"].as_array_mut() {
        list.retain(|namespace| namespace["type"] != "mount");
    }
}

/// Lines of the host's mount table that have to do with a place.
fn mounts_of(place: &Place) -> Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let directory = place.path("").display().to_string();
    let lines = table.lines().filter(|line| line.contains(&directory));
    Ok(lines.map(str::to_owned).collect())
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
