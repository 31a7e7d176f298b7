//! What happens, in order.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_api::cri::v1::{
    ContainerConfig, ContainerMetadata, ContainerState, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, PodSandboxState, SecurityProfile, UInt64Value,
    security_profile::ProfileType,
};

use super::census::{self, Census};
use super::cri::{Cri, named};
use super::image::{self, PROGRAM, Published};
use super::teller::{bytes, detail, shown, step};
use crate::cgroup_parent::CgroupParent;
use crate::daemon::Daemon;
use crate::place::Place;

const LOG: &str = "hello/0.log";
const MEMORY_LIMIT: i64 = 64 << 20;
/// Shims and the collector of layers end after the call that makes them end.
const PATIENCE: Duration = Duration::from_secs(10);

struct Pod {
    id: String,
    container: String,
}

/// Everything that it made is gone when this returns, also after an error.
pub async fn tell(daemon_log: &Path) -> Result<()> {
    let began = Instant::now();
    // Dropped last to first: the daemon before what it works in.
    let parent = CgroupParent::new("demo");
    let place = Place::new()?;

    println!("\nA registry and a daemon");
    let image = step("serve an image of one static program", image::publish()).await?;
    detail(&format!("{} ({})", image.reference, image.summary));
    let (daemon, mut cri) = step("start berthd", start(&place, daemon_log)).await?;
    let version = cri.version().await?;
    detail(&format!(
        "{} {}, CRI {}, on {}",
        version.runtime_name,
        version.runtime_version,
        version.runtime_api_version,
        daemon.endpoint()
    ));
    let before = Census::take(&place, &parent, daemon.pid())?;

    println!("\nA pod");
    let image_id = pull(&mut cri, &image).await?;
    let pod = run(&mut cri, &place, &parent, &image_id).await?;
    let log = place.pod_logs().join(LOG);
    step("read its log", until_logged(&log, "Hello from")).await?;
    show(&log)?;
    exec(&mut cri, &pod).await?;
    statistics(&mut cri, &pod).await?;
    let during = Census::take(&place, &parent, daemon.pid())?;
    during.has_seen_more_than(&before)?;

    println!("\nIts end");
    stop_and_remove(&mut cri, &pod, &log).await?;
    step("remove the image", cri.remove_image(&image_id)).await?;

    println!("\nWhat is left");
    let gone = until_as(&before, || Census::take(&place, &parent, daemon.pid()));
    let counted = step("count again", async { Ok(gone.await) }).await?;
    let after = Census::take(&place, &parent, daemon.pid())?;
    census::print(&before, &during, &after);
    counted?;
    drop(cri);
    step("stop berthd", async { daemon.stop() }).await?;
    ensure!(
        place.processes()?.is_empty() && place.mounts()?.is_empty(),
        "the daemon left processes {:?} and mounts {:?}",
        place.processes()?,
        place.mounts()?
    );
    place.bridge().remove()?;
    parent.remove()?;
    println!(
        "\nNothing is left. All of it took {}.",
        shown(began.elapsed())
    );
    Ok(())
}

async fn start(place: &Place, log: &Path) -> Result<(Daemon, Cri)> {
    let daemon = Daemon::start(place, log)?;
    let cri = Cri::connect(place.socket()).await?;
    Ok((daemon, cri))
}

async fn pull(cri: &mut Cri, published: &Published) -> Result<String> {
    let asked = published.registry.requests().len();
    let image = step("pull the image", cri.pull(&published.reference)).await?;
    detail(&format!(
        "{}, {}, in {} requests to the registry",
        image.id,
        bytes(image.size),
        published.registry.requests().len() - asked
    ));
    Ok(image.id)
}

async fn run(cri: &mut Cri, place: &Place, parent: &CgroupParent, image: &str) -> Result<Pod> {
    let config = pod_config(place, parent);
    let id = step("run the pod sandbox", cri.run_pod(&config)).await?;
    let status = cri.pod_status(&id).await?;
    ensure!(
        status.state() == PodSandboxState::SandboxReady,
        "the pod is not ready"
    );
    let address = status.network.map(|network| network.ip);
    let address = address.filter(|ip| !ip.is_empty());
    let address = address.context("the pod has no address")?;
    detail(&format!("{}, address {address}", short(&id)));

    let request = container_config(image);
    let created = cri.create(&id, &config, request);
    let container = step("create a container", created).await?;
    detail(&format!(
        "{}, as user {}, at most {} of memory, default seccomp profile",
        short(&container),
        image::USER,
        bytes(MEMORY_LIMIT.unsigned_abs())
    ));
    step("start it", cri.start(&container)).await?;
    Ok(Pod { id, container })
}

async fn exec(cri: &mut Cri, pod: &Pod) -> Result<()> {
    let asked = cri.exec(&pod.container, &[PROGRAM, "show"]);
    let answer = step("look around inside it (ExecSync)", asked).await?;
    let output = String::from_utf8_lossy(&answer.stdout);
    ensure!(
        answer.exit_code == 0 && output.contains("host name     hello-pod"),
        "exit code {}, {output:?}, {:?}",
        answer.exit_code,
        String::from_utf8_lossy(&answer.stderr)
    );
    output.lines().for_each(detail);

    let asked = cri.exec(&pod.container, &[PROGRAM, "nonsense"]);
    let answer = step("run something that fails in it", asked).await?;
    ensure!(answer.exit_code == 1, "exit code {}", answer.exit_code);
    let complaint = String::from_utf8_lossy(&answer.stderr);
    detail(&format!("exit code 1, {:?}", complaint.trim()));
    Ok(())
}

async fn statistics(cri: &mut Cri, pod: &Pod) -> Result<()> {
    let stats = step("ask for its statistics", cri.stats(&pod.container)).await?;
    let cpu = value(stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds));
    let memory = stats.memory.unwrap_or_default();
    let layer = value(stats.writable_layer.and_then(|layer| layer.used_bytes));
    let working_set = value(memory.working_set_bytes);
    ensure!(cpu > 0 && working_set > 0, "empty statistics");
    detail(&format!(
        "CPU {}, working set {}, {} page faults, writable layer {}",
        shown(Duration::from_nanos(cpu)),
        bytes(working_set),
        value(memory.page_faults),
        bytes(layer)
    ));

    let stats = step("ask for those of the pod", cri.pod_stats(&pod.id)).await?;
    let stats = stats.linux.context("no Linux statistics of the pod")?;
    let network = stats.network.and_then(|network| network.default_interface);
    let network = network.unwrap_or_default();
    detail(&format!(
        "CPU {}, working set {}, {} processes, {} in, {} out on {}",
        shown(Duration::from_nanos(value(
            stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds)
        ))),
        bytes(value(
            stats.memory.and_then(|memory| memory.working_set_bytes)
        )),
        value(stats.process.and_then(|process| process.process_count)),
        bytes(value(network.rx_bytes)),
        bytes(value(network.tx_bytes)),
        network.name
    ));
    Ok(())
}

async fn stop_and_remove(cri: &mut Cri, pod: &Pod, log: &Path) -> Result<()> {
    step("stop the container", cri.stop(&pod.container)).await?;
    let status = cri.status(&pod.container).await?;
    ensure!(
        status.state() == ContainerState::ContainerExited && status.exit_code == 0,
        "state {:?}, exit code {}, {}",
        status.state(),
        status.exit_code,
        status.message
    );
    until_logged(log, "Goodbye").await?;
    detail("it said goodbye and ended with exit code 0");
    step("remove the container", cri.remove(&pod.container)).await?;
    step("stop the pod", cri.stop_pod(&pod.id)).await?;
    step("remove the pod", cri.remove_pod(&pod.id)).await
}

fn pod_config(place: &Place, parent: &CgroupParent) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: "hello".to_owned(),
            uid: "berth-demo".to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: "hello-pod".to_owned(),
        log_directory: place.pod_logs().display().to_string(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: parent.request(),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container_config(image: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: "hello".to_owned(),
            attempt: 0,
        }),
        image: Some(named(image)),
        log_path: LOG.to_owned(),
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                memory_limit_in_bytes: MEMORY_LIMIT,
                cpu_shares: 256,
                ..Default::default()
            }),
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                no_new_privs: true,
                seccomp: Some(SecurityProfile {
                    profile_type: ProfileType::RuntimeDefault as i32,
                    ..Default::default()
                }),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// A kubelet's choice for pods that ask for nothing else.
fn namespaces() -> NamespaceOption {
    NamespaceOption {
        network: NamespaceMode::Pod as i32,
        pid: NamespaceMode::Container as i32,
        ipc: NamespaceMode::Pod as i32,
        ..Default::default()
    }
}

/// Waits until a line of the log has `part`.
async fn until_logged(log: &Path, part: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = fs::read_to_string(log).with_context(|| format!("reading {}", log.display()));
        match text {
            Ok(text) if text.contains(part) => return Ok(()),
            _ if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(2)).await,
            text => anyhow::bail!("no {part:?} in {:?}", text?),
        }
    }
}

/// Waits until the counts are those of `before`.
async fn until_as(before: &Census, mut take: impl FnMut() -> Result<Census>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match take()?.is_back_to(before) {
            Err(_) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => return result,
        }
    }
}

fn show(log: &Path) -> Result<()> {
    let text = fs::read_to_string(log).with_context(|| format!("reading {}", log.display()))?;
    text.lines().for_each(detail);
    Ok(())
}

fn value(count: Option<UInt64Value>) -> u64 {
    count.map_or(0, |count| count.value)
}

/// As much of an id as people compare.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
