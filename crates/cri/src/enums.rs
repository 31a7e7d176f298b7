//! Enum values that this version of the contract does not know. The wire lets them through and the
//! generated accessors read them as the default; what a client asks for and does not get is worse
//! than a refusal.

use berth_api::cri::v1::{
    ContainerConfig, MountPropagation, NamespaceMode, NamespaceOption, PodSandboxConfig, Protocol,
    SecurityProfile, SupplementalGroupsPolicy, security_profile::ProfileType,
};
use tonic::Status;

use crate::status::invalid;

pub fn of_pod(config: &PodSandboxConfig) -> Result<(), Status> {
    for mapping in &config.port_mappings {
        known::<Protocol>("port_mappings.protocol", mapping.protocol)?;
    }
    let linux = config.linux.as_ref();
    match linux.and_then(|linux| linux.security_context.as_ref()) {
        Some(security) => of_security(
            security.namespace_options.as_ref(),
            security.seccomp.as_ref(),
            security.apparmor.as_ref(),
            security.supplemental_groups_policy,
        ),
        None => Ok(()),
    }
}

pub fn of_container(config: &ContainerConfig) -> Result<(), Status> {
    for mount in &config.mounts {
        known::<MountPropagation>("mounts.propagation", mount.propagation)?;
    }
    let linux = config.linux.as_ref();
    match linux.and_then(|linux| linux.security_context.as_ref()) {
        Some(security) => of_security(
            security.namespace_options.as_ref(),
            security.seccomp.as_ref(),
            security.apparmor.as_ref(),
            security.supplemental_groups_policy,
        ),
        None => Ok(()),
    }
}

/// What pods' and containers' contexts have in common; the contract gives them two types.
fn of_security(
    options: Option<&NamespaceOption>,
    seccomp: Option<&SecurityProfile>,
    apparmor: Option<&SecurityProfile>,
    groups: i32,
) -> Result<(), Status> {
    namespaces(options)?;
    profile("seccomp.profile_type", seccomp)?;
    profile("apparmor.profile_type", apparmor)?;
    known::<SupplementalGroupsPolicy>("supplemental_groups_policy", groups)
}

fn namespaces(options: Option<&NamespaceOption>) -> Result<(), Status> {
    let Some(options) = options else {
        return Ok(());
    };
    for (field, mode) in [
        ("namespace_options.network", options.network),
        ("namespace_options.pid", options.pid),
        ("namespace_options.ipc", options.ipc),
    ] {
        known::<NamespaceMode>(field, mode)?;
    }
    match &options.userns_options {
        Some(userns) => known::<NamespaceMode>("userns_options.mode", userns.mode),
        None => Ok(()),
    }
}

fn profile(field: &str, profile: Option<&SecurityProfile>) -> Result<(), Status> {
    match profile {
        Some(profile) => known::<ProfileType>(field, profile.profile_type),
        None => Ok(()),
    }
}

fn known<E: TryFrom<i32>>(field: &str, value: i32) -> Result<(), Status> {
    match E::try_from(value) {
        Ok(_) => Ok(()),
        Err(_) => Err(invalid(format!(
            "{field} is {value}: this runtime knows no such value"
        ))),
    }
}
