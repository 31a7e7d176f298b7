//! From a request, an image and a pod to the OCI runtime specification of one container.
//!
//! Pure: what has to be looked up on the host or in the image is given in [`Inputs`].

mod capabilities;
mod devices;
mod mounts;
mod process;
mod resources;
mod seccomp;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capabilities, Linux, LinuxBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType,
    RootBuilder, Spec, SpecBuilder,
};

pub use capabilities::to_give as capabilities_to_give;
pub use process::{exec_process, set_variable};
pub use resources::linux_resources;
pub use seccomp::{load_profile, supported as seccomp_supported};

use crate::cgroup_driver::specified;
use crate::confinement::{Confinement, Labels};
use crate::error::{Error, Result};
use crate::files::PodFiles;
use crate::handlers::Handler;
use crate::record::PodRecord;
use crate::request::{ContainerRequest, MountRequest, Propagation, Scope};
use crate::user::ResolvedUser;
use crate::volumes::Volumes;

/// What an image says about how it wants to be run.
#[derive(Debug, Clone, Default)]
pub struct ImageDefaults {
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub working_dir: String,
    /// Empty where the image names none.
    pub stop_signal: String,
}

/// Everything that a specification is made from.
#[derive(Debug)]
pub struct Inputs<'a> {
    pub pod: &'a PodRecord,
    pub files: &'a PodFiles,
    pub request: &'a ContainerRequest,
    pub image: &'a ImageDefaults,
    pub user: &'a ResolvedUser,
    pub handler: &'a Handler,
    pub volumes: &'a Volumes,
    pub cgroup: &'a str,
    /// PID namespace to join: that of the pod or of a target container.
    pub pid_namespace: Option<PathBuf>,
    pub seccomp: Option<oci_spec::runtime::LinuxSeccomp>,
    /// Lowest `oom_score_adj` that this daemon may hand out.
    pub oom_score_floor: i32,
    /// Capabilities that it may.
    pub capabilities: &'a Capabilities,
    pub confinement: &'a Confinement,
}

impl Inputs<'_> {
    fn labels(&self) -> Result<Labels> {
        let level = &self.pod.selinux_level;
        self.confinement.labels(&self.request.security, level)
    }
}

/// Forms the specification.
pub fn build(inputs: &Inputs<'_>) -> Result<Spec> {
    let request = inputs.request;
    check_user_namespace(inputs)?;
    let root = RootBuilder::default()
        .path("rootfs")
        .readonly(request.security.readonly_rootfs)
        .build()?;
    let annotations: HashMap<String, String> = inputs
        .handler
        .annotations(&inputs.pod.request.annotations, &request.annotations)
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let mut spec = SpecBuilder::default()
        .version(inputs.handler.oci_version.as_str())
        .root(root)
        .process(process::container_process(inputs)?)
        .mounts(mounts::all(inputs)?)
        .annotations(annotations)
        .linux(linux(inputs)?)
        .build()?;
    // The builder's defaults describe a host of its own; a pod names its host by namespace.
    spec.set_hostname(None);
    Ok(spec)
}

/// A container is in the user namespace of its pod, or in none as its pod is.
fn check_user_namespace(inputs: &Inputs<'_>) -> Result<()> {
    let request = inputs.request;
    let pod = &inputs.pod.request.namespaces.user;
    if request.security.user_namespace.is_some() && request.security.user_namespace != *pod {
        let problem = "it is not the user namespace that the pod was made with";
        return Err(Error::invalid("userns_options", problem));
    }
    let both_ways = |mount: &MountRequest| mount.propagation == Propagation::Bidirectional;
    if pod.is_some() && request.mounts.iter().any(both_ways) {
        let problem = "a pod in a user namespace cannot mount for the host: bidirectional \
                       propagation is refused";
        return Err(Error::invalid("mounts.propagation", problem));
    }
    Ok(())
}

fn linux(inputs: &Inputs<'_>) -> Result<Linux> {
    let request = inputs.request;
    let privileged = request.security.privileged;
    let in_user_namespace = inputs.pod.request.namespaces.user.is_some();
    let devices = devices::requested(request, inputs.handler, in_user_namespace)?;
    let mut linux_resources = resources::linux_resources(&request.resources)?;
    linux_resources.set_devices(Some(devices::rules(privileged, &devices)?));
    let mut linux = LinuxBuilder::default()
        .cgroups_path(PathBuf::from(specified(inputs.cgroup)))
        .resources(linux_resources)
        .namespaces(namespaces(inputs)?)
        .devices(
            devices
                .into_iter()
                .map(|device| device.node)
                .collect::<Vec<_>>(),
        )
        .rootfs_propagation(rootfs_propagation(request))
        .build()?;
    let user = inputs.pod.request.namespaces.user.as_ref();
    linux
        .set_uid_mappings(user.map(|user| mounts::mappings(&user.uids)).transpose()?)
        .set_gid_mappings(user.map(|user| mounts::mappings(&user.gids)).transpose()?)
        .set_mount_label(inputs.labels()?.files)
        .set_seccomp(inputs.seccomp.clone());
    if privileged {
        linux.set_masked_paths(None).set_readonly_paths(None);
    } else {
        linux
            .set_masked_paths(Some(request.security.masked_paths.clone()))
            .set_readonly_paths(Some(request.security.readonly_paths.clone()));
    }
    Ok(linux)
}

/// A mount that propagates needs a root that lets it.
fn rootfs_propagation(request: &ContainerRequest) -> &'static str {
    let asks = |wanted| {
        request
            .mounts
            .iter()
            .any(|mount| mount.propagation == wanted)
    };
    if asks(Propagation::Bidirectional) {
        "shared"
    } else if asks(Propagation::HostToContainer) {
        "slave"
    } else {
        "private"
    }
}

fn namespaces(inputs: &Inputs<'_>) -> Result<Vec<LinuxNamespace>> {
    let own = |typ| LinuxNamespaceBuilder::default().typ(typ).build();
    let joined = |typ, path: &Path| LinuxNamespaceBuilder::default().typ(typ).path(path).build();
    let mut list = vec![
        own(LinuxNamespaceType::Mount)?,
        own(LinuxNamespaceType::Cgroup)?,
    ];
    if inputs.request.security.privileged {
        // Privileged containers see the host's cgroup tree, as those who manage it expect.
        list.retain(|namespace| namespace.typ() != LinuxNamespaceType::Cgroup);
    }
    let scopes = &inputs.pod.request.namespaces;
    if scopes.network != Scope::Node {
        list.push(joined(LinuxNamespaceType::Network, &inputs.files.netns())?);
        list.push(joined(LinuxNamespaceType::Uts, &inputs.files.utsns())?);
    }
    if scopes.user.is_some() {
        list.push(joined(LinuxNamespaceType::User, &inputs.files.userns())?);
    }
    if scopes.ipc != Scope::Node {
        list.push(joined(LinuxNamespaceType::Ipc, &inputs.files.ipcns())?);
    }
    match (&inputs.request.security.pid, &inputs.pid_namespace) {
        (Scope::Node, _) => {}
        (_, Some(path)) => list.push(joined(LinuxNamespaceType::Pid, path)?),
        (_, None) => list.push(own(LinuxNamespaceType::Pid)?),
    }
    Ok(list)
}
