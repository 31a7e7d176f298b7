//! Creating a container: everything that can be refused is refused here, before a process exists.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use berth_images::Image;
use berth_names::ContainerId;
use oci_spec::runtime::Spec;

use super::{Container, Phase, Task};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::files::ContainerFiles;
use crate::handlers::Handler;
use crate::pod::Pod;
use crate::private;
use crate::record::{self, ContainerRecord, ContainerState, PodRecord};
use crate::request::{ContainerRequest, Owner, Scope};
use crate::restore::{self, Archive};
use crate::spec::{self, ImageDefaults, Inputs};
use crate::undo::{Undo, blocking};
use crate::user::ResolvedUser;
use crate::volumes;

const DEFAULT_STOP_SIGNAL: &str = "SIGTERM";

/// Makes the container `request` asks for in `pod` and starts its task. On failure nothing stays.
pub(crate) async fn create(
    core: Arc<Core>,
    pod: Arc<Pod>,
    mut request: ContainerRequest,
) -> Result<ContainerId> {
    request.owner = pod.view().request.owner;
    let id = match &request.on_layer {
        Some(layer) => layer.clone(),
        None => core.new_container_id()?,
    };
    let mut undo = Undo::default();
    match steps(&core, &pod, request, &id, &mut undo).await {
        Ok(container) => Ok(container.id().clone()),
        Err(error) => {
            undo.run().await;
            Err(error)
        }
    }
}

async fn steps(
    core: &Arc<Core>,
    pod: &Pod,
    mut request: ContainerRequest,
    id: &ContainerId,
    undo: &mut Undo,
) -> Result<Arc<Container>> {
    let pod_record = pod.ready("create a container")?;
    if request.security.privileged && !pod_record.request.privileged {
        return Err(Error::invalid(
            "security_context.privileged",
            "the pod sandbox was not made for privileged containers",
        ));
    }
    core.check_resources(&request.resources)?;
    let handler = core.config.handlers.find(&pod_record.handler)?;
    let archive = Archive::of(core, &pod_record, &handler, &mut request).await?;
    let (image, hold) = core.image(&request.image).await?;
    if let Some(kind) = &image.artifact {
        let name = &request.image;
        let problem = format!("{name:?} is an artifact ({kind}): mount it, it cannot be run");
        return Err(Error::invalid("image", problem));
    }
    let defaults = image_defaults(&image);
    check_features(&handler, &request)?;
    let log_path = log_path(&pod_record, &request)?;
    let pid_namespace = pid_namespace(core, &pod_record, &request)?;
    let planned = volumes::plan(core, id, &mut request, &image).await?;
    let volume_keys = planned.keys();

    let files = ContainerFiles::new(&core.config.state_dir, id.as_str());
    let dropped = files.clone();
    undo.push(
        "container directory",
        blocking("remove", move || dropped.remove()),
    );
    let snapshots = Arc::clone(&core.snapshots);
    let key = id.to_string();
    let kept = request.on_layer.is_some();
    if !kept {
        let (core, key) = (Arc::clone(core), key.clone());
        let removal = async move { core.remove_snapshot(key).await };
        undo.push("snapshot", removal);
    }
    undo.push("checkpoint", {
        let (core, key) = (Arc::clone(core), key.clone());
        async move { restore::forget(&core, &key).await }
    });
    undo.push("volumes", {
        let (core, files, keys) = (Arc::clone(core), files.clone(), volume_keys.clone());
        async move { volumes::release(&core, &files, &keys).await }
    });

    let driver = core.config.cgroup_driver;
    let cgroup = driver.member(&pod_record.cgroup_parent, id.as_str());
    let stop_signal = stop_signal(&request, &defaults)?;
    let worker = Arc::clone(core);
    let record = blocking("create", {
        let files = files.clone();
        let id = id.clone();
        move || {
            let seccomp = spec::load_profile(&request.security, &worker.config.capabilities)?;
            let mounts = tracing::info_span!("snapshot").in_scope(|| {
                if !kept {
                    return worker.prepare_layer(&key, &image.layers, worker.config.layer_limit);
                }
                snapshots.mounts(&key).map_err(|source| Error::Snapshot {
                    id: key.clone(),
                    source,
                })
            })?;
            drop(hold);
            berth_faults::at("container.create.after-snapshot")?;
            if let Some(archive) = archive {
                // A layer that outlives the container has what was written by now.
                let onto: &[_] = if kept { &[] } else { &mounts };
                archive.unpack(&worker.restore_dir(&key), onto)?;
            }
            let mut user = worker.resolve_user(&image, &mounts, &request.security.run_as)?;
            files.create()?;
            berth_faults::at("container.create.after-directory")?;
            let pod_files = worker.pod_files(&pod_record.id);
            let in_user_namespace = pod_record.request.namespaces.user.is_some();
            let user_namespace = in_user_namespace.then(|| pod_files.userns());
            let user_namespace = user_namespace.as_deref();
            let volumes = volumes::make(&worker, &files, planned, &mounts, user_namespace)?;
            berth_faults::at("container.create.after-volumes")?;
            let mut spec = spec::build(&Inputs {
                pod: &pod_record,
                files: &pod_files,
                request: &request,
                image: &defaults,
                user: &user,
                handler: &handler,
                volumes: &volumes,
                cgroup: &cgroup,
                pid_namespace,
                seccomp,
                oom_score_floor: worker.config.oom_score_floor,
                capabilities: &worker.config.capabilities,
                confinement: &worker.config.confinement,
            })?;
            inject_devices(&worker, &request, &mut spec, &mut user)?;
            let label = spec
                .linux()
                .as_ref()
                .and_then(|linux| linux.mount_label().as_deref());
            volumes::ensure_host_paths(&request.mounts, label)?;
            pod_files.relabel(&pod_record.request, label)?;
            write_spec(&files.spec(), &spec)?;
            berth_faults::at("container.create.after-spec")?;
            let record = created_record(
                id,
                &pod_record,
                request,
                &image,
                log_path,
                cgroup,
                user,
                stop_signal,
                volume_keys,
            );
            record::write(&files.record(), &record)?;
            berth_faults::at("container.create.after-record")?;
            Ok(record)
        }
    })
    .await?;
    pod.ready("create a container")?;
    core.store_container(&record);
    let container = Task::spawn(Arc::clone(core), record, files, Phase::Created);
    core.tell_container(EventKind::Created, &container.view());
    berth_faults::passing("container.create.before-answer");
    Ok(container)
}

#[allow(clippy::too_many_arguments)] // one field each, used once
fn created_record(
    id: ContainerId,
    pod: &PodRecord,
    request: ContainerRequest,
    image: &Image,
    log_path: Option<PathBuf>,
    cgroup: String,
    user: ResolvedUser,
    stop_signal: String,
    volumes: Vec<String>,
) -> ContainerRecord {
    ContainerRecord {
        id,
        pod: pod.id.clone(),
        request,
        state: ContainerState::Created,
        created_at: record::now(),
        started_at: 0,
        exit: None,
        pid: None,
        image_id: image.id.clone(),
        log_path,
        cgroup,
        stop_signal,
        user: user.identity,
        volumes,
    }
}

fn write_spec(path: &Path, spec: &oci_spec::runtime::Spec) -> Result<()> {
    let failed = |source| Error::State {
        action: "write",
        path: path.to_owned(),
        source,
    };
    let bytes = serde_json::to_vec(spec).map_err(|error| failed(error.into()))?;
    private::write(path, &bytes).map_err(failed)
}

fn image_defaults(image: &Image) -> ImageDefaults {
    let config = &image.config;
    ImageDefaults {
        env: config.env().to_vec(),
        entrypoint: config.entrypoint().to_vec(),
        cmd: config.cmd().to_vec(),
        working_dir: config.working_dir().to_owned(),
        stop_signal: config.stop_signal().to_owned(),
    }
}

fn stop_signal(request: &ContainerRequest, image: &ImageDefaults) -> Result<String> {
    if let Some(asked) = &request.stop_signal {
        return crate::signal::parse(asked)
            .map(|_| asked.clone())
            .ok_or_else(|| Error::invalid("stop_signal", format!("{asked:?} is not a signal")));
    }
    // An image's nonsense must not keep its containers from running: it was never checked.
    let named = crate::signal::parse(&image.stop_signal).map(|_| image.stop_signal.clone());
    Ok(named.unwrap_or_else(|| DEFAULT_STOP_SIGNAL.to_owned()))
}

/// What a handler cannot do is refused in the words that kubelets know, rather than left out.
fn check_features(handler: &Handler, request: &ContainerRequest) -> Result<()> {
    let recursive = request.mounts.iter().any(|mount| mount.recursive_read_only);
    if recursive && !handler.features.recursive_read_only_mounts {
        let problem = format!(
            "RROUnsupported: runtime handler {:?} cannot make mounts read-only recursively",
            handler.name
        );
        return Err(Error::invalid("mounts.recursive_read_only", problem));
    }
    Ok(())
}

/// Gives the container the CDI devices that it asks for, and its user their groups.
fn inject_devices(
    core: &Core,
    request: &ContainerRequest,
    spec: &mut Spec,
    user: &mut ResolvedUser,
) -> Result<()> {
    let listed = request.cdi_devices.iter().map(String::as_str);
    let devices = berth_cdi::requested(listed, &request.annotations)?;
    core.cdi.inject(&devices, spec)?;
    let process = spec.process().as_ref();
    if let Some(gids) = process.and_then(|process| process.user().additional_gids().as_ref()) {
        user.identity.additional_gids.clone_from(gids);
    }
    Ok(())
}

/// The log lies inside the pod's log directory, whatever the request says (CVE-2025-0750).
fn log_path(pod: &PodRecord, request: &ContainerRequest) -> Result<Option<PathBuf>> {
    if pod.request.log_directory.is_empty() || request.log_path.is_empty() {
        return Ok(None);
    }
    let relative = Path::new(&request.log_path);
    if relative
        .components()
        .any(|part| !matches!(part, Component::Normal(_) | Component::CurDir))
    {
        let problem = format!(
            "{:?} leads out of the pod's log directory",
            request.log_path
        );
        return Err(Error::invalid("log_path", problem));
    }
    let directory = Path::new(&pod.request.log_directory);
    if !directory.is_absolute() {
        let problem = format!("{:?} is not absolute", pod.request.log_directory);
        return Err(Error::invalid("log_directory", problem));
    }
    let mut above = directory.to_owned();
    for part in relative.parent().into_iter().flat_map(Path::components) {
        above.push(part);
        if above.is_symlink() {
            let problem = format!("{} is a link", above.display());
            return Err(Error::invalid("log_path", problem));
        }
    }
    Ok(Some(directory.join(relative)))
}

fn pid_namespace(
    core: &Core,
    pod: &PodRecord,
    request: &ContainerRequest,
) -> Result<Option<PathBuf>> {
    let of = |pid: u32| Some(PathBuf::from(format!("/proc/{pid}/ns/pid")));
    match &request.security.pid {
        Scope::Container | Scope::Node => Ok(None),
        Scope::Pod => match pod.init_pid {
            Some(pid) => Ok(of(pid)),
            None => Err(Error::invalid(
                "namespace_options.pid",
                "the pod was not made with a shared PID namespace",
            )),
        },
        Scope::Target(id) => {
            let target = core.container(id)?.view();
            let across = |owner| owner == Owner::Docker;
            let may_join = across(pod.request.owner) && across(target.request.owner);
            if target.pod != pod.id && !may_join {
                let problem = format!("container {id} is not in this pod");
                return Err(Error::invalid("namespace_options.target_id", problem));
            }
            match (target.state, target.pid) {
                (ContainerState::Running, Some(pid)) => Ok(of(pid)),
                (state, _) => Err(Error::ContainerState {
                    id: target.id.clone(),
                    state: super::state_name(state),
                    expected: "running",
                    action: "share its PID namespace",
                }),
            }
        }
    }
}
