//! From create to delete, and what is left then.

use crate::Case;
use crate::fixture::{Host, exec, quiet, reap};
use anyhow::{Context, Result, bail, ensure};
use berth_executor::{Container, Error};
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};

pub const CASES: &[Case] = &[
    (
        "a_created_container_waits_and_can_be_deleted",
        created_waits,
    ),
    (
        "a_running_container_is_not_deleted_without_force",
        delete_running,
    ),
    (
        "a_killed_child_is_told_from_a_started_one",
        killed_at_the_gate,
    ),
    ("pause_stops_and_resume_continues", pause),
    ("an_update_changes_the_cgroup", update),
    ("all_processes_are_signalled", kill_all),
    (
        "network_and_pid_namespaces_are_joined_by_path",
        joined_namespaces,
    ),
    (
        "a_neighbour_does_not_look_into_what_is_being_made",
        made_unseen,
    ),
    ("the_pod_process_reaps_and_ends_on_sigterm", pod_init),
    ("two_hundred_lives_leave_nothing", nothing_left),
];

fn is<E: Fn(&Error) -> bool>(result: berth_executor::Result<()>, expected: E) -> Result<()> {
    match result {
        Err(error) if expected(&error) => Ok(()),
        other => bail!("{other:?}"),
    }
}

fn created_waits(host: &Host) -> Result<()> {
    let bundle = host.bundle("touch /tmp/ran")?;
    let mut container = bundle.create(host)?;
    ensure!(container.is_running()?);
    ensure!(container.processes()? == [container.pid()]);
    ensure!(!bundle.upper("tmp/ran").exists());
    container.delete(true)?;
    reap(container.pid())?;
    ensure!(!bundle.upper("tmp/ran").exists());
    ensure!(!host.cgroup_exists(&bundle.id));
    Ok(())
}

fn delete_running(host: &Host) -> Result<()> {
    let mut container = host.bundle("sleep 60")?.create(host)?;
    container.start()?;
    is(container.start(), |error| {
        matches!(error, Error::AlreadyStarted { .. })
    })?;
    is(container.delete(false), |error| {
        matches!(error, Error::StillRunning { .. })
    })?;
    container.kill(15, false)?;
    container.delete(true)?;
    reap(container.pid())?;
    container.delete(true)?;
    is(container.kill(15, false), |error| {
        matches!(error, Error::NotRunning { .. })
    })
}

fn killed_at_the_gate(host: &Host) -> Result<()> {
    let mut container = host.bundle("true")?.create(host)?;
    container.kill(9, false)?;
    reap(container.pid())?;
    is(container.start(), |error| {
        matches!(error, Error::ChildDied { .. })
    })?;
    container.delete(false)?;
    Ok(())
}

fn wait_for<F: FnMut() -> Result<bool>>(what: &str, mut done: F) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done()? {
        ensure!(Instant::now() < deadline, "{what} took too long");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn pause(host: &Host) -> Result<()> {
    let bundle = host.bundle("n=0; while true; do n=$((n+1)); echo $n > /tmp/n; done")?;
    let mut container = bundle.create(host)?;
    container.start()?;
    let count =
        || -> Result<String> { Ok(fs::read_to_string(bundle.upper("tmp/n")).unwrap_or_default()) };
    wait_for("counting", || Ok(!count()?.is_empty()))?;
    container.pause()?;
    let before = count()?;
    std::thread::sleep(Duration::from_millis(60));
    ensure!(count()? == before, "went on");
    container.resume()?;
    wait_for(
        "resuming",
        || Ok(count()? != before && !count()?.is_empty()),
    )?;
    container.delete(true)?;
    reap(container.pid())?;
    Ok(())
}

fn update(host: &Host) -> Result<()> {
    let mut container = host.bundle("sleep 60")?.create(host)?;
    container.start()?;
    let resources = serde_json::from_value(json!({"memory": {"limit": 134_217_728}}))?;
    container.update(&resources)?;
    let limit = container.stats()?.memory.limit;
    container.delete(true)?;
    reap(container.pid())?;
    ensure!(format!("{limit:?}").contains("134217728"), "{limit:?}");
    Ok(())
}

fn kill_all(host: &Host) -> Result<()> {
    // A namespace of the host's: the first process takes nobody with it.
    let mut bundle = host.bundle("sleep 61 & sleep 62 & wait")?;
    let namespaces = bundle
        .config
        .pointer_mut("/linux/namespaces")
        .context("none")?;
    namespaces
        .as_array_mut()
        .context("none")?
        .retain(|namespace| namespace["type"] != "pid");
    berth_kernel::set_child_subreaper(true)?;
    let mut container = bundle.create(host)?;
    container.start()?;
    wait_for("three processes", || Ok(container.processes()?.len() == 3))?;
    container.kill(9, false)?;
    reap(container.pid())?;
    let orphans = container.processes()?;
    ensure!(orphans.len() == 2, "{orphans:?}");
    container.delete(false)?;
    for orphan in orphans {
        ensure!(reap(orphan)? == 137);
    }
    berth_kernel::set_child_subreaper(false)?;
    Ok(())
}

fn joined_namespaces(host: &Host) -> Result<()> {
    let mut first = host.bundle("sleep 60")?.create(host)?;
    first.start()?;
    let outcome = joined_to(host, &first);
    first.delete(true)?;
    reap(first.pid())?;
    outcome
}

fn joined_to(host: &Host, first: &Container) -> Result<()> {
    let script = "readlink /proc/self/ns/net; readlink /proc/self/ns/pid; [ $$ != 1 ] && echo two";
    let path = |kind: &str| format!("/proc/{}/ns/{kind}", first.pid());
    let bundle = host.bundle(script)?.set(
        "/linux/namespaces",
        json!([
            {"type": "mount"}, {"type": "cgroup"},
            {"type": "pid", "path": path("pid")}, {"type": "network", "path": path("net")},
            {"type": "ipc", "path": path("ipc")}, {"type": "uts", "path": path("uts")},
        ]),
    );
    let output = bundle.output(host)?;
    let link =
        |kind: &str| -> Result<String> { Ok(fs::read_link(path(kind))?.display().to_string()) };
    let expected = format!("{}\n{}\ntwo\n", link("net")?, link("pid")?);
    ensure!(output == expected, "{output}");
    let own = fs::read_link("/proc/self/ns/pid_for_children")?;
    ensure!(
        own == fs::read_link("/proc/self/ns/pid")?,
        "children go elsewhere"
    );
    Ok(())
}

fn made_unseen(host: &Host) -> Result<()> {
    let mut first = host.bundle("sleep 60")?.create(host)?;
    first.start()?;
    let outcome = beside_made(host, &first);
    first.delete(true)?;
    reap(first.pid())?;
    outcome
}

fn beside_made(host: &Host, first: &Container) -> Result<()> {
    let pid_namespace = json!([
        {"type": "mount"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
        {"type": "cgroup"}, {"type": "pid", "path": format!("/proc/{}/ns/pid", first.pid())},
    ]);
    let bundle = host.bundle("true")?.set("/linux/namespaces", pid_namespace);
    let mut second = bundle.create(host)?;
    // It waits at its gate: still the runtime's program, with all of its memory, but already with
    // the rights of the container, which are those of the neighbour.
    let script = "for p in /proc/[0-9]*; do \
                  readlink $p/cwd >/dev/null || [ ! -d $p ] || echo refused; done";
    let outcome = exec(first, script);
    second.delete(true)?;
    reap(second.pid())?;
    let outcome = outcome?;
    ensure!(outcome.stdout == "refused\n", "{outcome:?}");
    Ok(())
}

fn pod_init(host: &Host) -> Result<()> {
    let bundle = host
        .bundle("")?
        .set("/process/args", json!(["/pod-init"]))
        .set("/process/env", json!([]));
    fs::copy(
        env!("CARGO_BIN_EXE_berth-pod-init"),
        bundle.upper("pod-init"),
    )?;
    // Linked dynamically in tests: what busybox does not need.
    let libraries = std::process::Command::new("ldd")
        .arg(env!("CARGO_BIN_EXE_berth-pod-init"))
        .output()?
        .stdout;
    for word in String::from_utf8_lossy(&libraries).split_whitespace() {
        if word.starts_with('/') {
            let target = bundle.upper(word.trim_start_matches('/'));
            fs::create_dir_all(target.parent().context("no parent")?)?;
            fs::copy(word, target)?;
        }
    }
    let mut container = bundle.create(host)?;
    container.start()?;
    // The orphan is reaped by process 1: only then is it gone.
    let outcome = exec(
        &container,
        "(sleep 1 &); sleep 0.4; ps -o args; sleep 1.5; ps -o stat,args",
    )?;
    let orphans = outcome
        .stdout
        .lines()
        .filter(|line| *line == "sleep 1")
        .count();
    let zombies = outcome
        .stdout
        .lines()
        .filter(|line| line.starts_with('Z'))
        .count();
    ensure!((orphans, zombies) == (1, 0), "{outcome:?}");
    container.kill(15, false)?;
    let status = reap(container.pid())?;
    container.delete(false)?;
    ensure!(status == 0, "{status}");
    Ok(())
}

fn nothing_left(host: &Host) -> Result<()> {
    let mounts = || fs::read_to_string("/proc/self/mountinfo").map(|text| text.lines().count());
    let descriptors = || fs::read_dir("/proc/self/fd").map(Iterator::count);
    let (mounts_before, descriptors_before) = (mounts()?, descriptors()?);
    let bundle = host.bundle("true")?;
    for round in 0..200 {
        let mut container = bundle.create_with(host, quiet())?;
        if round % 4 != 0 {
            container.start()?;
            ensure!(reap(container.pid())? == 0, "round {round}");
            container.delete(false)?;
        } else {
            container.delete(true)?;
            reap(container.pid())?;
        }
    }
    ensure!(
        mounts()? == mounts_before,
        "mounts: {mounts_before} before, {}",
        mounts()?
    );
    let after = descriptors()?;
    ensure!(
        after == descriptors_before,
        "descriptors: {descriptors_before} before, {after}"
    );
    ensure!(!host.cgroup_exists(&bundle.id), "cgroup is left");
    let children = fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id()))?;
    ensure!(children.trim().is_empty(), "children: {children}");
    Ok(())
}
