//! Containers under the shims of others: they live, are found again and end as our own do.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use berth_api::cri::v1::{ContainerState, ContainerStatus, Mount};
use rustix::process::{Pid, Signal, kill_process};

use super::inventory::Inventory;
use super::session::Session;
use crate::command::retry;
use crate::suites::handlers::NAMES;

/// Far more than anything takes on a slow machine.
const SOON: Duration = Duration::from_secs(60);
const STORY: &str = "echo out; echo err >&2; \
                     while [ ! -e /told/go ]; do sleep 0.05; done; echo bye; exit 7";
/// More than its memory limit, in pages that are written to.
const GLUTTON: &str = "head -c 200000000 /dev/zero | tail -c 200000000 > /dev/null";

pub fn runc(session: &mut Session) -> Result<()> {
    whole_life(session, "runc")
}

pub fn crun(session: &mut Session) -> Result<()> {
    whole_life(session, "crun")
}

/// A name that is not configured is refused, and those that are, are told, with what they can.
pub fn names_are_told(session: &mut Session) -> Result<()> {
    let listed = session.cri.handlers().context("Status")?;
    let features = |name: &str| {
        let found = listed.iter().find(|handler| handler.name == name);
        let features = found.and_then(|handler| handler.features);
        features.with_context(|| format!("{name:?} is not listed with features"))
    };
    for name in ["", "berth"].iter().chain(&NAMES) {
        features(name)?;
    }
    // The pinned runc says that it can what ours can.
    let (runc, own) = (features("runc")?, features("berth")?);
    ensure!(runc == own, "runc has {runc:?}, ours {own:?}");
    let error = session
        .cri
        .run_pod_by(&session.pod("handler-nobody"), "nobody");
    let message = error.err().context("an unknown handler was taken")?;
    let words = message.message();
    let known = NAMES.iter().all(|name| words.contains(name));
    ensure!(words.contains("nobody") && known, "it says {words:?}");
    Ok(())
}

fn whole_life(session: &mut Session, handler: &str) -> Result<()> {
    let before = Inventory::take(session)?;
    let config = session.pod(&format!("handler-{handler}"));
    let pod = session
        .cri
        .run_pod_by(&config, handler)
        .context("RunPodSandbox")?;
    let run = |session: &mut Session, name: &str, script: &str, volume: Option<&Path>| {
        let mut wish = session.container(name, &["sh", "-c", script]);
        wish.log_path = format!("handler-{handler}-{name}.log");
        wish.mounts.extend(volume.map(|path| Mount {
            container_path: "/told".to_owned(),
            host_path: path.display().to_string(),
            ..Default::default()
        }));
        let id = session
            .cri
            .create(&pod, &config, &wish)
            .context("CreateContainer")?;
        session.cri.start(&id).context("StartContainer")?;
        Ok::<_, anyhow::Error>(id)
    };

    let told = session.place.scratch().join(format!("told-{handler}"));
    fs::create_dir_all(&told).context("creating a volume")?;
    let container = run(session, "story", STORY, Some(&told))?;
    speaks(session, &container).context("while it runs")?;
    outlives_the_daemon(session, &container, &told, handler)?;

    let killed = run(session, "killed", "sleep 1000", None)?;
    session.cri.stop(&killed, 0).context("StopContainer")?;
    ended(session, &killed, 137)?;

    let starved = run(session, "starved", GLUTTON, None)?;
    let status = retry(SOON, || exited(session, &starved))?;
    ensure!(
        status.reason == "OOMKilled",
        "it ended as {}",
        status.reason
    );

    let orphaned = run(session, "orphaned", "sleep 1000", None)?;
    let init = session.cri.pid(&orphaned)?;
    kill(parent(init)?).context("killing the shim")?;
    ended(session, &orphaned, 137).context("after its shim's death")?;

    for id in [container, killed, starved, orphaned] {
        session.cri.remove(&id).context("RemoveContainer")?;
    }
    session.remove_pod(&pod)?;
    before.restored(session)
}

fn speaks(session: &mut Session, container: &str) -> Result<()> {
    let said = session
        .cri
        .exec(container, &["sh", "-c", "echo hi; echo no >&2; exit 3"])
        .context("ExecSync")?;
    ensure!(
        (said.exit_code, &said.stdout[..], &said.stderr[..])
            == (3, b"hi\n".as_slice(), b"no\n".as_slice()),
        "the command said {said:?}"
    );
    session.cri.stats(container).context("ContainerStats")?;
    let status = session.cri.status(container).context("ContainerStatus")?;
    ensure!(
        status.state() == ContainerState::ContainerRunning,
        "it is {:?}",
        status.state()
    );
    Ok(())
}

/// What it says and how it ends while nobody is there is known afterwards.
fn outlives_the_daemon(
    session: &mut Session,
    container: &str,
    told: &Path,
    handler: &str,
) -> Result<()> {
    let init = session.cri.pid(container)?;
    session.kill_daemon()?;
    fs::write(told.join("go"), "").context("telling the container")?;
    retry(SOON, || {
        match Path::new(&format!("/proc/{init}/root/bin")).exists() {
            true => bail!("process {init} goes on"),
            false => Ok(()),
        }
    })?;
    session.start_daemon()?;
    ended(session, container, 7)?;
    let log = session
        .place
        .pod_logs()
        .join(format!("handler-{handler}-story.log"));
    let text = fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
    for line in [" stdout F out", " stderr F err", " stdout F bye"] {
        ensure!(text.contains(line), "no {line:?} in the log: {text:?}");
    }
    Ok(())
}

fn ended(session: &mut Session, container: &str, code: i32) -> Result<()> {
    let status = retry(SOON, || exited(session, container))?;
    ensure!(
        status.exit_code == code,
        "it ended with {}: {}",
        status.exit_code,
        status.message
    );
    Ok(())
}

fn exited(session: &mut Session, container: &str) -> Result<ContainerStatus> {
    let status = session.cri.status(container).context("ContainerStatus")?;
    ensure!(
        status.state() == ContainerState::ContainerExited,
        "it is {:?}",
        status.state()
    );
    Ok(status)
}

fn parent(pid: i32) -> Result<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading stat")?;
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
    let parent = fields.and_then(|fields| fields.split_whitespace().nth(1)?.parse().ok());
    parent.with_context(|| format!("no parent of {pid}"))
}

fn kill(pid: i32) -> Result<()> {
    let pid = Pid::from_raw(pid).context("pid 0")?;
    kill_process(pid, Signal::KILL).with_context(|| format!("killing {pid:?}"))
}
