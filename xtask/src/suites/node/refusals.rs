//! Requests that cannot be carried out: each ends with a status that says why, and leaves nothing.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use berth_api::cri::v1::security_profile::ProfileType;
use berth_api::cri::v1::{
    ContainerConfig, ContainerState, PodSandboxConfig, PortMapping, SecurityProfile,
};
use berth_testkit::image::Recipe;
use berth_testkit::registry::Registry as FaultyRegistry;
use tonic::Code;

use super::Part;
use super::inventory::Inventory;
use super::session::Session;
use crate::cri::Answer;
use crate::suites::fixtures::marker;

/// No pod, no container has it.
const NOBODY: &str = "00000000000000000000000000000000000000000000000000000000000000ff";

pub const CASES: &[(&str, Part)] = &[
    ("pull of an unknown image", unknown_image),
    ("pull by a digest that the registry has not", unknown_digest),
    (
        "pull of bytes that do not match their digest",
        altered_bytes,
    ),
    ("pull while the registry is down", registry_down),
    ("pull of a name that is none", bad_name),
    ("container of an image that is not here", image_not_here),
    ("calls for a pod that is not there", missing_pod),
    ("calls for a container that is not there", missing_container),
    ("second pod of the same name", double_pod),
    ("second container of the same name", double_container),
    ("container without a command", empty_command),
    ("container of a user that the image has not", unknown_user),
    ("program that is not in the image", missing_program),
    ("program that cannot be executed", not_executable),
    ("seccomp profile that is not JSON", bad_seccomp),
    ("seccomp profile that is not there", missing_seccomp),
    ("log path that leads out of its directory", escaping_log),
    ("host port that another pod has", taken_port),
    ("host port that a process has", busy_port),
    ("bandwidth that is no rate", senseless_bandwidth),
];

/// The daemon keeps a connection to a registry that it has spoken to: the first is no leak.
pub fn warm_up(session: &mut Session) -> Result<()> {
    let reference = session.reference(":one");
    session.cri.pull(&reference).context("PullImage")?;
    Ok(())
}

/// Runs one case; the daemon stays the same, and the host as it was.
pub fn judge(session: &mut Session, case: Part) -> Result<()> {
    let before = Inventory::take(session)?;
    let images = session.cri.images().context("ListImages")?.len();
    let result = case(session);
    // A zombie has no program.
    let program = format!("/proc/{}/exe", session.daemon_pid()?);
    ensure!(
        fs::read_link(program).is_ok(),
        "the daemon ended: {result:?}"
    );
    result?;
    let now = session.cri.images().context("ListImages")?.len();
    ensure!(now == images, "{now} images instead of {images}");
    before.restored(session)
}

/// Checks the code of a refusal and that its message has all the words.
fn refused<T>(call: &str, answer: Answer<T>, codes: &[Code], words: &[&str]) -> Result<()> {
    let Err(status) = answer else {
        bail!("{call} succeeded");
    };
    let message = status.message();
    ensure!(
        codes.contains(&status.code()),
        "{call}: {:?} instead of {codes:?}: {message}",
        status.code()
    );
    for word in words {
        ensure!(message.contains(word), "{call}: no {word:?} in {message:?}");
    }
    Ok(())
}

fn taken_port(session: &mut Session) -> Result<()> {
    const PORT: i32 = 12120;
    let [first, second] = ["port-first", "port-second"].map(|name| publishing(session, name, PORT));
    let holder = session.cri.run_pod(&first).context("RunPodSandbox")?;
    let answer = session.cri.run_pod(&second);
    let words = ["12120/tcp", holder.as_str()];
    let result = refused("RunPodSandbox", answer, &[Code::AlreadyExists], &words);
    session.remove_pod(&holder)?;
    result
}

fn busy_port(session: &mut Session) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listening")?;
    let port = listener.local_addr().context("reading a port")?.port();
    let pod = publishing(session, "port-busy", port.into());
    let answer = session.cri.run_pod(&pod);
    let words = [&format!("{port}/tcp"), "process of the host"];
    refused("RunPodSandbox", answer, &[Code::AlreadyExists], &words)
}

fn publishing(session: &Session, name: &str, host_port: i32) -> PodSandboxConfig {
    let mut pod = session.pod(name);
    pod.port_mappings = vec![PortMapping {
        container_port: 80,
        host_port,
        ..Default::default()
    }];
    pod
}

fn senseless_bandwidth(session: &mut Session) -> Result<()> {
    let name = "kubernetes.io/egress-bandwidth";
    let mut pod = session.pod("bandwidth");
    pod.annotations.insert(name.to_owned(), "fast".to_owned());
    let answer = session.cri.run_pod(&pod);
    refused(
        "RunPodSandbox",
        answer,
        &[Code::InvalidArgument],
        &[name, "fast"],
    )
}

fn unknown_image(session: &mut Session) -> Result<()> {
    let reference = session.reference(":nine");
    let answer = session.cri.pull(&reference);
    refused("PullImage", answer, &[Code::NotFound], &[&reference])
}

fn unknown_digest(session: &mut Session) -> Result<()> {
    let reference = session.reference(&format!("@sha256:{NOBODY}"));
    let answer = session.cri.pull(&reference);
    refused("PullImage", answer, &[Code::NotFound], &[NOBODY])
}

/// The last byte of a layer is another one.
fn altered_bytes(session: &mut Session) -> Result<()> {
    let registry = session
        .cri
        .beside(FaultyRegistry::start())
        .context("starting a faulty registry")?;
    let layer = marker("altered")?;
    let image = Recipe::new().layer(layer.clone()).build()?;
    registry.add_blob(image.config.clone());
    registry.add_blob(layer.bytes.clone());
    let mut altered = layer.bytes.clone();
    *altered.last_mut().context("an empty layer")? ^= 1;
    registry.replace(&layer.digest, altered);
    let media_type = image.manifest_media_type;
    registry.add_manifest("altered", Some("one"), media_type, image.manifest);
    let reference = format!("{}/altered:one", registry.host());
    let answer = session.cri.pull(&reference);
    let digest = layer.digest.to_string();
    refused("PullImage", answer, &[Code::DataLoss], &[&digest])
}

fn registry_down(session: &mut Session) -> Result<()> {
    let free = TcpListener::bind("127.0.0.1:0").context("looking for a free port")?;
    let host = free
        .local_addr()
        .context("reading a free port")?
        .to_string();
    drop(free);
    let answer = session.cri.pull(&format!("{host}/crew/thing:one"));
    let words = ["RegistryUnavailable", host.as_str()];
    refused("PullImage", answer, &[Code::Unavailable], &words)
}

fn bad_name(session: &mut Session) -> Result<()> {
    let answer = session.cri.pull("Not A Name");
    refused(
        "PullImage",
        answer,
        &[Code::InvalidArgument],
        &["Not A Name"],
    )
}

fn image_not_here(session: &mut Session) -> Result<()> {
    let reference = session.reference(":nine");
    let name = reference.clone();
    in_pod(session, |session, pod, pod_config| {
        let mut config = session.container("main", &["true"]);
        config.image = Some(crate::cri::image(&reference));
        let answer = session.cri.create(pod, pod_config, &config);
        refused("CreateContainer", answer, &[Code::NotFound], &[&name])
    })
}

fn missing_pod(session: &mut Session) -> Result<()> {
    let pod_config = session.pod("nobody");
    let config = session.container("main", &["true"]);
    let answer = session.cri.create(NOBODY, &pod_config, &config);
    refused("CreateContainer", answer, &[Code::NotFound], &[NOBODY])?;
    let answer = session.cri.pod_status(NOBODY);
    refused("PodSandboxStatus", answer, &[Code::NotFound], &[NOBODY])?;
    // Both may be repeated after they succeeded.
    session.cri.stop_pod(NOBODY).context("StopPodSandbox")?;
    session.cri.remove_pod(NOBODY).context("RemovePodSandbox")
}

fn missing_container(session: &mut Session) -> Result<()> {
    let not_found = [Code::NotFound];
    refused(
        "StartContainer",
        session.cri.start(NOBODY),
        &not_found,
        &[NOBODY],
    )?;
    refused(
        "ContainerStatus",
        session.cri.status(NOBODY),
        &not_found,
        &[NOBODY],
    )?;
    refused(
        "ContainerStats",
        session.cri.stats(NOBODY),
        &not_found,
        &[NOBODY],
    )?;
    let answer = session.cri.exec(NOBODY, &["true"]);
    refused("ExecSync", answer, &not_found, &[NOBODY])?;
    session.cri.remove(NOBODY).context("RemoveContainer")
}

fn double_pod(session: &mut Session) -> Result<()> {
    in_pod(session, |session, pod, pod_config| {
        let answer = session.cri.run_pod(pod_config);
        refused("RunPodSandbox", answer, &[Code::AlreadyExists], &[pod])
    })
}

fn double_container(session: &mut Session) -> Result<()> {
    in_pod(session, |session, pod, pod_config| {
        let config = session.container("main", &["true"]);
        let first = session.cri.create(pod, pod_config, &config)?;
        let answer = session.cri.create(pod, pod_config, &config);
        refused("CreateContainer", answer, &[Code::AlreadyExists], &[&first])
    })
}

/// Neither the request nor the image names a program.
fn empty_command(session: &mut Session) -> Result<()> {
    let config = session.container("main", &[]);
    create_refused(session, &config, &["command"])
}

fn unknown_user(session: &mut Session) -> Result<()> {
    let mut config = session.container("main", &["true"]);
    if let Some(security) = security(&mut config) {
        security.run_as_username = "stowaway".to_owned();
    }
    create_refused(session, &config, &["stowaway"])
}

fn missing_program(session: &mut Session) -> Result<()> {
    let words = "exec: \"/no/such/program\": stat /no/such/program: no such file or directory";
    start_fails(session, "/no/such/program", 127, words)
}

fn not_executable(session: &mut Session) -> Result<()> {
    start_fails(
        session,
        "/etc/marker",
        126,
        "exec: \"/etc/marker\": permission denied",
    )
}

fn bad_seccomp(session: &mut Session) -> Result<()> {
    let profile = session.place.scratch().join("bad-seccomp.json");
    fs::write(&profile, "{ \"defaultAction\": ").context("writing a profile")?;
    seccomp_refused(session, &profile)
}

fn missing_seccomp(session: &mut Session) -> Result<()> {
    let profile = session.place.scratch().join("no-seccomp.json");
    seccomp_refused(session, &profile)
}

fn seccomp_refused(session: &mut Session, profile: &Path) -> Result<()> {
    let mut config = session.container("main", &["true"]);
    let path = profile.display().to_string();
    if let Some(security) = security(&mut config) {
        security.seccomp = Some(SecurityProfile {
            profile_type: ProfileType::Localhost as i32,
            localhost_ref: path.clone(),
        });
    }
    create_refused(session, &config, &["seccomp", &path])
}

fn escaping_log(session: &mut Session) -> Result<()> {
    let mut config = session.container("main", &["true"]);
    config.log_path = "../escaped.log".to_owned();
    create_refused(session, &config, &["../escaped.log"])?;
    let outside = session.place.pod_logs().join("../escaped.log");
    ensure!(!outside.exists(), "{} was made", outside.display());
    Ok(())
}

fn create_refused(session: &mut Session, config: &ContainerConfig, words: &[&str]) -> Result<()> {
    in_pod(session, |session, pod, pod_config| {
        let answer = session.cri.create(pod, pod_config, config);
        refused("CreateContainer", answer, &[Code::InvalidArgument], words)?;
        let listed = session.cri.containers().context("ListContainers")?;
        ensure!(listed.is_empty(), "{} containers are listed", listed.len());
        Ok(())
    })
}

/// The error is one sentence that names the container and the file; afterwards the container has
/// exited as a shell would tell.
fn start_fails(session: &mut Session, program: &str, exit_code: i32, words: &str) -> Result<()> {
    in_pod(session, |session, pod, pod_config| {
        let config = session.container("main", &[program]);
        let container = session
            .cri
            .create(pod, pod_config, &config)
            .context("CreateContainer")?;
        let said = format!("container {container}: unable to start container process: {words}");
        let answer = session.cri.start(&container);
        let message = answer
            .as_ref()
            .err()
            .map(|status| status.message().to_owned());
        refused("StartContainer", answer, &[Code::InvalidArgument], &[])?;
        ensure!(
            message.as_deref() == Some(&said),
            "{message:?} is not {said:?}"
        );
        let status = session.cri.status(&container).context("ContainerStatus")?;
        ensure!(
            status.state() == ContainerState::ContainerExited && status.exit_code == exit_code,
            "{:?} with exit code {} instead of {exit_code}",
            status.state(),
            status.exit_code
        );
        ensure!(
            status.message == said,
            "the status says {:?}",
            status.message
        );
        session.cri.remove(&container).context("RemoveContainer")
    })
}

/// Runs `work` with a pod, which goes however it ends.
fn in_pod(
    session: &mut Session,
    work: impl FnOnce(&mut Session, &str, &PodSandboxConfig) -> Result<()>,
) -> Result<()> {
    let pod_config = session.pod("refusing");
    let pod = session.cri.run_pod(&pod_config).context("RunPodSandbox")?;
    let result = work(session, &pod, &pod_config);
    let removed = session.remove_pod(&pod);
    result.and(removed)
}

fn security(
    config: &mut ContainerConfig,
) -> Option<&mut berth_api::cri::v1::LinuxContainerSecurityContext> {
    config.linux.as_mut()?.security_context.as_mut()
}
