//! File systems that turn read-only, and mounts that hang.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_api::cri::v1::{ContainerState, Mount};

use super::disk::Disk;
use super::session::Session;
use crate::command::retry;
use crate::place::Place;
use crate::suites::fixtures::{marker, pack};
use berth_testkit::image::{Layer, Recipe};

const SIZE: u64 = 192 << 20;
const SOON: Duration = Duration::from_secs(30);
/// What hangs would hang for ever: this is far from that, and far from what anything takes.
const HELD_UP: Duration = Duration::from_secs(10);

/// What is there can be looked at and ended; what would have to be written is refused in words.
pub fn read_only() -> Result<()> {
    let place = Place::new()?;
    let disk = Disk::mount(&place.scratch().join("disk"), &place.root(), SIZE)?;
    let mut session = Session::begin_in(place, "node-read-only", "")?;
    let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..))
        .take(1 << 20)
        .collect();
    let noise = pack(&Layer::new().file("/noise", 0o644, noise))?;
    let other = Recipe::new().layer(noise).layer(marker("other")?).build()?;
    let other = session.publish(&other, "node/other", "one")?;
    let pod_config = session.pod("kept");
    let config = session.container("main", &["sleep", "1000"]);
    let pod = session.cri.run_pod(&pod_config).context("RunPodSandbox")?;
    let container = session.cri.create(&pod, &pod_config, &config);
    let container = container.context("CreateContainer")?;
    session.cri.start(&container).context("StartContainer")?;
    let daemon = session.daemon_pid()?;

    disk.fail()?;
    let pulled = session.cri.pull(&other);
    let message = pulled
        .err()
        .context("it was pulled")?
        .message()
        .to_lowercase();
    ensure!(message.contains("read-only"), "the pull says {message:?}");
    let made = session.cri.run_pod(&session.pod("refused"));
    if let Ok(made) = &made {
        // What lives in the runtime directory needs no disk.
        session.remove_pod(made)?;
    }
    let second = session.container("second", &["sleep", "1000"]);
    let created = session.cri.create(&pod, &pod_config, &second);
    let message = created
        .err()
        .context("it was created")?
        .message()
        .to_lowercase();
    ensure!(
        message.contains("read-only"),
        "the creation says {message:?}"
    );

    let listed = session.cri.pods().context("ListPodSandbox")?.len();
    ensure!(listed == 1, "{listed} pods are listed");
    let images = session.cri.images().context("ListImages")?.len();
    ensure!(images == 1, "{images} images are listed");
    let status = session.cri.status(&container).context("ContainerStatus")?;
    let running = status.state() == ContainerState::ContainerRunning;
    ensure!(running, "the container is {:?}", status.state());
    let said = session
        .cri
        .exec(&container, &["true"])
        .context("ExecSync")?;
    ensure!(
        said.exit_code == 0,
        "a command ended with {}",
        said.exit_code
    );
    session.cri.stop(&container, 0).context("StopContainer")?;
    session.cri.stop_pod(&pod).context("StopPodSandbox")?;
    ensure!(daemon == session.daemon_pid()?, "the daemon is another one");
    let program = fs::read_link(format!("/proc/{daemon}/exe"));
    ensure!(program.is_ok(), "the daemon ended");
    // Whatever it could not write down: it ends, and the host keeps nothing of its pods.
    let _could_not_sync = session.kill_daemon();
    session.place.bridge().remove()
}

/// A container that waits for a mount holds up no other, and is ended when the mount answers.
pub fn hanging_mount(session: &mut Session) -> Result<()> {
    let directory = session.place.scratch().join("hanging");
    fs::create_dir_all(&directory).context("making a directory")?;
    let file = session.place.scratch().join("hanging.disk");
    let mut disk = Disk::mount(&file, &directory, 32 << 20)?;
    let pod_config = session.pod("hanging");
    let mut config = session.container("main", &["sh", "-c", "while :; do date > /v/f; done"]);
    config.mounts = vec![Mount {
        container_path: "/v".to_owned(),
        host_path: directory.display().to_string(),
        ..Default::default()
    }];
    let pod = session.cri.run_pod(&pod_config).context("RunPodSandbox")?;
    let container = session.cri.create(&pod, &pod_config, &config);
    let container = container.context("CreateContainer")?;
    session.cri.start(&container).context("StartContainer")?;
    let other_config = session.pod("beside");
    let other = session
        .cri
        .run_pod(&other_config)
        .context("RunPodSandbox")?;
    disk.freeze()?;
    let hangs = || {
        let pids = session.parent.pids(&container)?;
        let waits = pids.iter().any(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(')')
                .is_some_and(|(_, rest)| rest.trim().starts_with('D'))
        });
        ensure!(waits, "nobody waits for the mount");
        Ok(())
    };
    retry(SOON, hangs)?;

    let begin = Instant::now();
    session.cri.containers().context("ListContainers")?;
    session.cri.status(&container).context("ContainerStatus")?;
    let config = session.container("beside", &["sleep", "1000"]);
    let beside = session.cri.create(&other, &other_config, &config);
    let beside = beside.context("CreateContainer")?;
    session.cri.start(&beside).context("StartContainer")?;
    let said = session.cri.exec(&beside, &["true"]).context("ExecSync")?;
    ensure!(
        said.exit_code == 0,
        "a command ended with {}",
        said.exit_code
    );
    session.tear_down(&other, &beside)?;
    ensure!(
        begin.elapsed() < HELD_UP,
        "others took {:?}",
        begin.elapsed()
    );

    // Nobody can end what sleeps like that; the stop says so in its time, or is done behind.
    let begin = Instant::now();
    let stopped = session.cri.stop(&container, 1);
    ensure!(
        begin.elapsed() < Duration::from_secs(60),
        "the stop took {:?}",
        begin.elapsed()
    );
    println!(
        "  note    a stop beside a mount that hangs took {:.1} s: {:?}",
        begin.elapsed().as_secs_f64(),
        stopped.as_ref().map_err(|status| status.code())
    );
    session.cri.containers().context("ListContainers")?;
    disk.thaw()?;
    retry(SOON, || {
        session.cri.stop(&container, 0).context("StopContainer")
    })?;
    session.tear_down(&pod, &container)
}
