//! A shim that died while no daemon ran, and a stranger that has its pid by then.

use std::fs;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use berth_api::cri::v1::ContainerState;
use rustix::process::{Pid, Signal, kill_process};

use super::restart::start_time;
use super::session::Session;

/// Others on this machine fork too.
const ATTEMPTS: u32 = 2000;

pub fn is_left_alone(session: &mut Session) -> Result<()> {
    let pod_config = session.pod("reused");
    let config = session.container("main", &["sleep", "1000"]);
    let pod = session.cri.run_pod(&pod_config).context("RunPodSandbox")?;
    let container = session.cri.create(&pod, &pod_config, &config);
    let container = container.context("CreateContainer")?;
    session.cri.start(&container).context("StartContainer")?;
    let first = session.cri.pid(&container)?;
    let shim = parent_of(first).context("no shim")?;
    session.kill_daemon()?;
    for pid in [shim, first] {
        let pid = Pid::from_raw(pid).context("a pid of 0")?;
        let _gone_with_the_other = kill_process(pid, Signal::KILL);
    }
    let mut strangers = Vec::new();
    for pid in [shim, first] {
        strangers.push(stranger_with(pid)?);
    }
    let born: Vec<_> = strangers.iter().map(start_of).collect();

    let looked = (|| {
        session.start_daemon()?;
        let status = session.cri.status(&container).context("ContainerStatus")?;
        ensure!(
            status.state() == ContainerState::ContainerExited,
            "the container is {:?}",
            status.state()
        );
        session.tear_down(&pod, &container)
    })();
    let now: Vec<_> = strangers.iter().map(start_of).collect();
    for stranger in &mut strangers {
        stranger
            .kill()
            .and_then(|()| stranger.wait())
            .context("ending a stranger")?;
    }
    looked?;
    ensure!(now == born, "a stranger was signalled");
    Ok(())
}

fn start_of(child: &Child) -> Option<String> {
    start_time(i32::try_from(child.id()).ok()?)
}

/// A process of ours with this pid, which has to be free.
fn stranger_with(pid: i32) -> Result<Child> {
    for _ in 0..ATTEMPTS {
        if fs::exists(format!("/proc/{pid}")).unwrap_or_default() {
            // Somebody was faster, or it has not been waited for.
            std::thread::sleep(std::time::Duration::from_millis(5));
            continue;
        }
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())
            .context("choosing the next pid")?;
        let mut child = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("starting a stranger")?;
        if i32::try_from(child.id()) == Ok(pid) {
            return Ok(child);
        }
        child
            .kill()
            .and_then(|()| child.wait())
            .context("ending a stranger")?;
    }
    bail!("pid {pid} was not free")
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    fields.nth(1)?.parse().ok()
}
