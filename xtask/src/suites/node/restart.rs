//! A daemon that is killed, and what goes on without it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_api::cri::v1::{ContainerState, Mount, PodSandboxState};
use tonic::Code;

use super::inventory::Inventory;
use super::session::{MARKER, Session};
use crate::command::retry;

const PODS: usize = 20;
/// Far more than a takeover takes on a slow machine.
const SOON: Duration = Duration::from_secs(60);
/// Ends with 7 once it is told to.
const WAITING: &str = "while [ ! -e /told/go ]; do sleep 0.05; done; exit 7";

/// One pod with its container.
pub struct Running {
    pub pod: String,
    pub container: String,
    /// Pid and start time of each process.
    processes: BTreeMap<i32, String>,
}

impl Running {
    /// Without asking a daemon.
    pub fn is_alive(&self) -> Result<()> {
        for (pid, since) in &self.processes {
            let same = start_time(*pid).as_ref() == Some(since);
            ensure!(same, "process {pid} of {} has ended", self.container);
        }
        Ok(())
    }
}

/// Containers neither notice the kill nor are they lost.
pub fn takes_over(session: &mut Session) -> Result<()> {
    let before = Inventory::take(session)?;
    let told = session.place.scratch().join("told");
    fs::create_dir_all(&told).context("creating a volume")?;
    let mut crew = Vec::new();
    for number in 0..PODS {
        let command = if number == 0 {
            WAITING
        } else {
            "while :; do sleep 1; done"
        };
        crew.push(launch(session, number, command, &told)?);
    }

    session.kill_daemon()?;
    fs::write(told.join("go"), "").context("telling the container")?;
    let ending = crew.first().context("no pods")?;
    retry(SOON, || {
        let alive = ending
            .processes
            .keys()
            .find(|pid| start_time(**pid).is_some());
        alive.map_or(Ok(()), |pid| bail!("process {pid} goes on"))
    })
    .context("waiting for an exit while the daemon is away")?;

    let begin = Instant::now();
    session.start_daemon()?;
    retry(SOON, || all_listed(session, &crew)).context("after the restart")?;
    println!(
        "  note    {PODS} pods were listed again {} ms after the daemon's start",
        begin.elapsed().as_millis()
    );
    known_names_are_taken(session, &crew)?;
    for (number, running) in crew.iter().enumerate() {
        if number == 0 {
            retry(SOON, || exited_with_7(session, &running.container))?;
        } else {
            goes_on(session, running).with_context(|| format!("container {number}"))?;
        }
    }
    for running in &crew {
        session.tear_down(&running.pod, &running.container)?;
    }
    before.restored(session)
}

/// A kubelet may ask for a pod once more that it has forgotten. Were it given the one that has
/// containers already, it would start them a second time in it.
fn known_names_are_taken(session: &mut Session, crew: &[Running]) -> Result<()> {
    for number in 0..crew.len() {
        let name = format!("kept-{number}");
        let config = session.pod(&name);
        let answer = session.cri.run_pod(&config);
        let refused = answer.as_ref().is_err_and(|error| {
            error.code() == Code::AlreadyExists && error.message().contains(&name)
        });
        ensure!(refused, "{name} once more: {answer:?}");
    }
    Ok(())
}

/// As many pods, with what runs in each of them.
pub fn crew(session: &mut Session, pods: usize, command: &str) -> Result<Vec<Running>> {
    let told = session.place.scratch();
    (0..pods)
        .map(|number| launch(session, number, command, &told))
        .collect()
}

pub fn launch(session: &mut Session, number: usize, command: &str, told: &Path) -> Result<Running> {
    let pod_config = session.pod(&format!("kept-{number}"));
    let mut config = session.container("main", &["sh", "-c", command]);
    config.log_path = format!("kept-{number}.log");
    config.mounts = vec![Mount {
        container_path: "/told".to_owned(),
        host_path: told.display().to_string(),
        ..Default::default()
    }];
    let pod = session.cri.run_pod(&pod_config).context("RunPodSandbox")?;
    let container = session
        .cri
        .create(&pod, &pod_config, &config)
        .context("CreateContainer")?;
    session.cri.start(&container).context("StartContainer")?;
    // The loops' own `sleep` come and go: the oldest process is the one that lasts.
    let first = *session
        .parent
        .pids(&container)?
        .first()
        .with_context(|| format!("no process in the cgroup of {container}"))?;
    let since = start_time(first).with_context(|| format!("process {first} is gone"))?;
    Ok(Running {
        pod,
        container,
        processes: BTreeMap::from([(first, since)]),
    })
}

/// Every pod as ready, every container as it is, nothing else.
pub fn all_listed(session: &mut Session, crew: &[Running]) -> Result<()> {
    let pods = session.cri.pods().context("ListPodSandbox")?;
    let containers = session.cri.containers().context("ListContainers")?;
    ensure!(pods.len() == crew.len(), "{} pods are listed", pods.len());
    ensure!(
        containers.len() == crew.len(),
        "{} containers are listed",
        containers.len()
    );
    for running in crew {
        let pod = pods.iter().find(|pod| pod.id == running.pod);
        let pod = pod.with_context(|| format!("pod {} is not listed", running.pod))?;
        ensure!(
            pod.state() == PodSandboxState::SandboxReady,
            "pod {} is {:?}",
            pod.id,
            pod.state()
        );
        ensure!(
            containers.iter().any(|found| found.id == running.container),
            "container {} is not listed",
            running.container
        );
    }
    Ok(())
}

fn exited_with_7(session: &mut Session, container: &str) -> Result<()> {
    let status = session.cri.status(container).context("ContainerStatus")?;
    ensure!(
        status.state() == ContainerState::ContainerExited && status.exit_code == 7,
        "{:?} with exit code {} instead of an exit with 7",
        status.state(),
        status.exit_code
    );
    Ok(())
}

/// All of them are listed, and go on.
pub fn go_on(session: &mut Session, crew: &[Running]) -> Result<()> {
    all_listed(session, crew)?;
    for running in crew {
        goes_on(session, running).with_context(|| format!("pod {}", running.pod))?;
    }
    Ok(())
}

/// The same processes, reported as running, open to commands.
pub fn goes_on(session: &mut Session, running: &Running) -> Result<()> {
    let status = session
        .cri
        .status(&running.container)
        .context("ContainerStatus")?;
    ensure!(
        status.state() == ContainerState::ContainerRunning,
        "it is {:?}",
        status.state()
    );
    let pids = session.parent.pids(&running.container)?;
    for (pid, since) in &running.processes {
        ensure!(
            pids.contains(pid) && start_time(*pid).as_ref() == Some(since),
            "process {pid} is another one now: {pids:?}"
        );
    }
    let said = session
        .cri
        .exec(&running.container, &["cat", "/etc/marker"])
        .context("ExecSync")?;
    let out = String::from_utf8_lossy(&said.stdout);
    ensure!(
        said.exit_code == 0 && out.trim() == MARKER,
        "the command ended with {} and said {out:?}",
        said.exit_code
    );
    Ok(())
}

/// Ticks since boot, field 22 of `stat`; none for a process that has ended, waited for or not.
pub fn start_time(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (state != "Z").then(|| fields.nth(18).map(str::to_owned))?
}
