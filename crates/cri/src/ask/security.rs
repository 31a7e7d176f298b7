//! The security context of a container.

use std::path::Path;

use berth_api::cri::v1::{
    self as cri, LinuxContainerSecurityContext, security_profile::ProfileType,
};
use berth_lifecycle::request::{AppArmor, RunAs, Seccomp, Security, SelinuxOptions};

use super::Result;
use super::namespaces::{scope, user_namespace};
use crate::status::invalid;

pub fn security(context: LinuxContainerSecurityContext, seccomp_dir: &Path) -> Result<Security> {
    let options = context.namespace_options.clone().unwrap_or_default();
    let apparmor = apparmor(&context)?;
    let capabilities = context.capabilities.clone().unwrap_or_default();
    let strict = context.supplemental_groups_policy() == cri::SupplementalGroupsPolicy::Strict;
    Ok(Security {
        privileged: context.privileged,
        seccomp: seccomp(&context, seccomp_dir)?,
        add_capabilities: capabilities.add_capabilities,
        drop_capabilities: capabilities.drop_capabilities,
        add_ambient_capabilities: capabilities.add_ambient_capabilities,
        pid: scope(options.pid, &options.target_id)?,
        user_namespace: user_namespace(options.userns_options)?,
        run_as: RunAs {
            uid: context
                .run_as_user
                .map(|uid| id("run_as_user", uid.value))
                .transpose()?,
            username: context.run_as_username,
            gid: context
                .run_as_group
                .map(|gid| id("run_as_group", gid.value))
                .transpose()?,
            supplemental_groups: context
                .supplemental_groups
                .iter()
                .map(|gid| id("supplemental_groups", *gid))
                .collect::<Result<_>>()?,
            strict_groups: strict,
            ..RunAs::default()
        },
        readonly_rootfs: context.readonly_rootfs,
        no_new_privs: context.no_new_privs,
        masked_paths: context.masked_paths,
        readonly_paths: context.readonly_paths,
        apparmor,
        selinux: selinux(context.selinux_options),
    })
}

/// The field wins over the string that it superseded.
#[allow(deprecated)] // the string is still what some clients send
fn apparmor(context: &LinuxContainerSecurityContext) -> Result<AppArmor> {
    let local = |name: &str| match name {
        "" => Err(invalid("apparmor.localhost_ref is empty: name a profile")),
        name => Ok(AppArmor::Localhost(name.to_owned())),
    };
    if let Some(profile) = &context.apparmor {
        let reference = profile.localhost_ref.as_str();
        return match ProfileType::try_from(profile.profile_type) {
            Ok(ProfileType::RuntimeDefault) => Ok(AppArmor::RuntimeDefault),
            Ok(ProfileType::Unconfined) => Ok(AppArmor::Unconfined),
            Ok(ProfileType::Localhost) => {
                local(reference.strip_prefix("localhost/").unwrap_or(reference))
            }
            Err(_) => Err(invalid(format!(
                "apparmor.profile_type {} is not known",
                profile.profile_type
            ))),
        };
    }
    match context.apparmor_profile.as_str() {
        "" | "runtime/default" => Ok(AppArmor::RuntimeDefault),
        "unconfined" => Ok(AppArmor::Unconfined),
        profile => match profile.strip_prefix("localhost/") {
            Some(name) => local(name),
            None => Err(invalid(format!(
                "apparmor_profile {profile:?} is not a profile: use localhost/<name>"
            ))),
        },
    }
}

/// Clients send an empty message for none.
pub fn selinux(options: Option<cri::SeLinuxOption>) -> Option<SelinuxOptions> {
    let options = options.map(|given| SelinuxOptions {
        user: given.user,
        role: given.role,
        kind: given.r#type,
        level: given.level,
    });
    options.filter(|options| *options != SelinuxOptions::default())
}

/// No profile means unconfined, as the contract has it.
#[allow(deprecated)] // the old path is still what some clients send
fn seccomp(context: &LinuxContainerSecurityContext, dir: &Path) -> Result<Seccomp> {
    let local = |reference: &str| {
        if reference.is_empty() {
            return Err(invalid(
                "seccomp.localhost_ref is empty: name a profile file",
            ));
        }
        // Absolute references stay; others are looked up in the configured directory.
        Ok(Seccomp::Localhost(dir.join(reference)))
    };
    if let Some(profile) = &context.seccomp {
        return match ProfileType::try_from(profile.profile_type) {
            Ok(ProfileType::RuntimeDefault) => Ok(Seccomp::RuntimeDefault),
            Ok(ProfileType::Unconfined) => Ok(Seccomp::Unconfined),
            Ok(ProfileType::Localhost) => local(&profile.localhost_ref),
            Err(_) => Err(invalid(format!(
                "seccomp.profile_type {}",
                profile.profile_type
            ))),
        };
    }
    match context.seccomp_profile_path.as_str() {
        "" | "unconfined" => Ok(Seccomp::Unconfined),
        "runtime/default" | "docker/default" => Ok(Seccomp::RuntimeDefault),
        path => match path.strip_prefix("localhost/") {
            Some(reference) => local(reference),
            None => Err(invalid(format!(
                "seccomp_profile_path {path:?} is not a profile"
            ))),
        },
    }
}

/// Ids are 32 bits wide in the kernel and 64 on the wire: what does not fit is refused, because
/// what is cut off could be root (CVE-2024-40635).
fn id(field: &str, value: i64) -> Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| {
            invalid(format!(
                "{field} {value} is not an id: 0 to {}",
                u32::MAX - 1
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_would_be_cut_to_root_are_refused() {
        for value in [-1, 1 << 32, (1 << 32) + 1, i64::from(u32::MAX), i64::MAX] {
            assert!(id("run_as_user", value).is_err(), "{value} was taken");
        }
        assert_eq!(id("run_as_user", 1 << 31).unwrap(), 1 << 31);
    }

    #[test]
    #[allow(deprecated)]
    fn an_apparmor_profile_is_read_from_the_field_or_else_from_the_old_string() {
        let profile = |kind: ProfileType, name: &str| {
            Some(cri::SecurityProfile {
                profile_type: kind as i32,
                localhost_ref: name.to_owned(),
            })
        };
        let of = |field, old: &str| {
            apparmor(&LinuxContainerSecurityContext {
                apparmor: field,
                apparmor_profile: old.to_owned(),
                ..Default::default()
            })
        };
        let named = AppArmor::Localhost("p".to_owned());
        assert_eq!(of(None, "").unwrap(), AppArmor::RuntimeDefault);
        assert_eq!(of(None, "localhost/p").unwrap(), named);
        assert_eq!(of(None, "unconfined").unwrap(), AppArmor::Unconfined);
        assert!(of(None, "p").is_err());
        let field = profile(ProfileType::Localhost, "p");
        assert_eq!(of(field, "localhost/other").unwrap(), named);
        assert!(of(profile(ProfileType::Localhost, ""), "").is_err());
        let field = profile(ProfileType::Unconfined, "");
        assert_eq!(of(field, "localhost/p").unwrap(), AppArmor::Unconfined);
    }
}
