//! What the CRI says and does about cgroups where all controllers are in one
//! tree.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_api::cri::v1 as cri;

use crate::command::retry;
use crate::outcome::Tally;
use crate::suites::node::session::Session;

const MIB: i64 = 1 << 20;
const SOON: Duration = Duration::from_secs(60);

type Part = fn(&mut Session) -> Result<()>;

const PARTS: [(&str, Part); 6] = [
    ("limits of every kind are in force", limits),
    ("a container sees its own cgroup and no other", view),
    ("statistics are whole", statistics),
    (
        "a container that is killed for memory says so",
        out_of_memory,
    ),
    ("what a container leaves behind is killed with it", forks),
    ("a killed daemon finds its containers again", recovery),
];

pub fn run() -> Result<Tally> {
    println!("  unified");
    let mut tally = Tally::default();
    let mut session = Session::begin()?;
    for (name, part) in PARTS {
        let result = part(&mut session);
        let failed = result.is_err();
        tally.check(name, result);
        if failed {
            session.ensure_daemon()?;
            session.clean_up();
        }
    }
    tally.check("no cgroup is left", {
        let left = session.parent.directories();
        let none = left.is_empty();
        none.then_some(()).with_context(|| format!("{left:?}"))
    });
    if tally.failed > 0 {
        let log = std::fs::read_to_string(session.daemon_log()).unwrap_or_default();
        for line in log.lines().filter(|line| !line.contains(" INFO ")) {
            println!("    {line}");
        }
    }
    tally.check("no network is left", session.end());
    Ok(tally)
}

/// Runs a container in a pod of its own, and takes both away again.
fn with_container(
    session: &mut Session,
    name: &str,
    script: &str,
    resources: cri::LinuxContainerResources,
    work: impl FnOnce(&mut Session, &str) -> Result<()>,
) -> Result<()> {
    let config = session.pod(name);
    let pod = session.cri.run_pod(&config).context("RunPodSandbox")?;
    let mut container = session.container("main", &["sh", "-c", script]);
    let linux = container.linux.get_or_insert_default();
    linux.resources = Some(resources);
    let container = session
        .cri
        .create(&pod, &config, &container)
        .context("CreateContainer")?;
    session.cri.start(&container).context("StartContainer")?;
    let result = work(session, &container);
    session.tear_down(&pod, &container)?;
    result
}

/// What a command in the container prints.
fn said(session: &mut Session, container: &str, script: &str) -> Result<String> {
    let answer = session
        .cri
        .exec_within(container, &["sh", "-c", script], 120)
        .context("ExecSync")?;
    ensure!(
        answer.exit_code == 0,
        "{script:?} ended with {}: {}",
        answer.exit_code,
        String::from_utf8_lossy(&answer.stderr)
    );
    Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
}

fn holds(session: &mut Session, container: &str, expected: &[(&str, &str)]) -> Result<()> {
    for (file, value) in expected {
        let found = said(session, container, &format!("cat /sys/fs/cgroup/{file}"))?;
        ensure!(found == *value, "{file} is {found:?} instead of {value:?}");
    }
    Ok(())
}

fn limits(session: &mut Session) -> Result<()> {
    let resources = cri::LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        cpuset_cpus: "1".to_owned(),
        cpuset_mems: "0".to_owned(),
        memory_limit_in_bytes: 64 * MIB,
        memory_swap_limit_in_bytes: 64 * MIB,
        unified: HashMap::from([
            ("memory.high".to_owned(), (48 * MIB).to_string()),
            ("memory.oom.group".to_owned(), "1".to_owned()),
            ("pids.max".to_owned(), "64".to_owned()),
            ("io.weight".to_owned(), "default 50".to_owned()),
        ]),
        ..Default::default()
    };
    with_container(
        session,
        "limits",
        "sleep 3600",
        resources,
        |session, container| {
            holds(
                session,
                container,
                &[
                    ("cpu.weight", "59"),
                    ("cpu.max", "50000 100000"),
                    ("cpuset.cpus", "1"),
                    ("cpuset.cpus.effective", "1"),
                    ("cpuset.mems", "0"),
                    ("memory.max", "67108864"),
                    ("memory.swap.max", "0"),
                    ("memory.high", "50331648"),
                    ("memory.oom.group", "1"),
                    ("io.weight", "default 50"),
                    ("pids.max", "64"),
                ],
            )?;
            let update = cri::LinuxContainerResources {
                cpu_shares: 1024,
                cpu_quota: -1,
                cpuset_cpus: "0-1".to_owned(),
                memory_limit_in_bytes: 96 * MIB,
                memory_swap_limit_in_bytes: 96 * MIB,
                unified: HashMap::from([("memory.high".to_owned(), "max".to_owned())]),
                ..Default::default()
            };
            session.cri.update(container, &update).context("update")?;
            holds(
                session,
                container,
                &[
                    ("cpu.weight", "100"),
                    ("cpu.max", "max 100000"),
                    ("cpuset.cpus", "0-1"),
                    ("memory.max", "100663296"),
                    ("memory.high", "max"),
                    ("pids.max", "64"),
                ],
            )
        },
    )
}

/// The mount is the container's own cgroup, which it cannot change.
fn view(session: &mut Session) -> Result<()> {
    let resources = cri::LinuxContainerResources::default();
    with_container(
        session,
        "view",
        "sleep 3600",
        resources,
        |session, container| {
            let own = said(session, container, "cat /proc/self/cgroup")?;
            ensure!(own == "0::/", "its cgroup is {own:?}");
            let kind = said(session, container, "grep ' /sys/fs/cgroup ' /proc/mounts")?;
            ensure!(kind.contains(" cgroup2 ro,"), "{kind:?}");
            // In no order, and whoever is not in its PID namespace is 0.
            let members = "cd /sys/fs/cgroup && grep -qx $$ cgroup.procs && \
                           ! grep -qx 0 cgroup.procs && echo own";
            let members = said(session, container, members)?;
            ensure!(members == "own", "it is not in its own cgroup: {members:?}");
            let denied = said(
                session,
                container,
                "mkdir /sys/fs/cgroup/x 2>/dev/null && echo made || echo denied",
            )?;
            ensure!(denied == "denied", "a cgroup was {denied}");
            let devices = "head -c 1 /dev/zero >/dev/null && mknod /dev/disk b 7 0 2>/dev/null; \
                       head -c 1 /dev/disk 2>/dev/null || echo refused";
            let devices = said(session, container, devices)?;
            ensure!(devices == "refused", "devices: {devices:?}");
            Ok(())
        },
    )
}

fn statistics(session: &mut Session) -> Result<()> {
    let resources = cri::LinuxContainerResources {
        memory_limit_in_bytes: 64 * MIB,
        ..Default::default()
    };
    let script = "dd if=/dev/zero of=/dev/shm/some bs=1M count=8 2>/dev/null; sleep 3600";
    with_container(
        session,
        "counted",
        script,
        resources,
        |session, container| {
            // The second of two samples has a rate.
            retry(SOON, || {
                let sample = session.cri.sample(container).context("ContainerStats")?;
                whole(&sample).with_context(|| format!("{sample:?}"))
            })
        },
    )
}

fn whole(sample: &cri::ContainerStats) -> Result<()> {
    let value = |of: &Option<cri::UInt64Value>| of.as_ref().map(|number| number.value);
    let cpu = sample.cpu.as_ref().context("no cpu")?;
    ensure!(value(&cpu.usage_core_nano_seconds) > Some(0), "cpu time");
    ensure!(cpu.usage_nano_cores.is_some(), "cpu rate");
    ensure!(cpu.psi.is_some(), "pressure of cpu");
    let memory = sample.memory.as_ref().context("no memory")?;
    ensure!(value(&memory.usage_bytes) >= Some(8 << 20), "usage");
    ensure!(value(&memory.working_set_bytes) > Some(0), "working set");
    ensure!(memory.available_bytes.is_some(), "what is available");
    ensure!(memory.rss_bytes.is_some(), "resident set");
    ensure!(value(&memory.page_faults) > Some(0), "page faults");
    ensure!(memory.major_page_faults.is_some(), "major page faults");
    ensure!(memory.psi.is_some(), "pressure of memory");
    let swap = sample.swap.as_ref().context("no swap")?;
    ensure!(value(&swap.swap_usage_bytes) == Some(0), "swap");
    let io = sample.io.as_ref().context("no io")?;
    ensure!(io.psi.is_some(), "pressure of io");
    Ok(())
}

/// Again and again: systemd may take the empty scope away before the shim of this slow machine has looked.
fn out_of_memory(session: &mut Session) -> Result<()> {
    (0..3).try_for_each(|_| killed_for_memory(session))
}

fn killed_for_memory(session: &mut Session) -> Result<()> {
    let resources = cri::LinuxContainerResources {
        memory_limit_in_bytes: 24 * MIB,
        memory_swap_limit_in_bytes: 24 * MIB,
        ..Default::default()
    };
    let script = "exec dd if=/dev/zero of=/dev/shm/full bs=1M count=60";
    with_container(
        session,
        "greedy",
        script,
        resources,
        |session, container| {
            let status = ended(session, container)?;
            ensure!(
                (status.reason.as_str(), status.exit_code) == ("OOMKilled", 137),
                "{} with {}",
                status.reason,
                status.exit_code
            );
            Ok(())
        },
    )
}

fn ended(session: &mut Session, container: &str) -> Result<cri::ContainerStatus> {
    retry(SOON, || {
        let status = session.cri.status(container).context("ContainerStatus")?;
        let state = status.state();
        ensure!(state == cri::ContainerState::ContainerExited, "{state:?}");
        Ok(status)
    })
}

/// Processes that left their session and ignore signals go with the cgroup.
fn forks(session: &mut Session) -> Result<()> {
    let script = "for n in 1 2 3; do setsid sh -c 'trap \"\" TERM; sleep 3600 & wait' & done; \
                  sleep 3600";
    let resources = cri::LinuxContainerResources::default();
    with_container(session, "forks", script, resources, |session, container| {
        retry(SOON, || {
            let pids = session.parent.pids(container)?.len();
            ensure!(pids >= 7, "{pids} processes");
            Ok(())
        })?;
        session.cri.stop(container, 0).context("StopContainer")?;
        let left = session.parent.pids(container)?;
        ensure!(left.is_empty(), "{left:?} are left");
        Ok(())
    })
}

fn recovery(session: &mut Session) -> Result<()> {
    let script = "echo here >/token; sleep 3600";
    let resources = cri::LinuxContainerResources::default();
    with_container(session, "kept", script, resources, |session, container| {
        session.kill_daemon()?;
        session.start_daemon()?;
        let status = session.cri.status(container).context("ContainerStatus")?;
        let state = status.state();
        ensure!(state == cri::ContainerState::ContainerRunning, "{state:?}");
        let token = said(session, container, "cat /token")?;
        ensure!(token == "here", "{token:?}");
        session.cri.stop(container, 0).context("StopContainer")?;
        let status = ended(session, container)?;
        ensure!(
            status.exit_code == 137,
            "it ended with {}",
            status.exit_code
        );
        Ok(())
    })
}
