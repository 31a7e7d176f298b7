//! Which seccomp profile a container gets.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use oci_spec::runtime::{Capabilities, Capability, LinuxSeccomp};

use super::capabilities;
use crate::error::{Error, Result};
use crate::request::{Seccomp, Security};

/// Far above any real profile.
const MAX_PROFILE: u64 = 1 << 20;

/// Whether this kernel can filter system calls.
pub fn supported() -> bool {
    Path::new("/proc/sys/kernel/seccomp/actions_avail").exists()
}

/// The profile that `security` asks for; privileged containers have none. What a capability is for
/// is in the default one with the capability, of those that there are `to_give`.
pub fn load_profile(security: &Security, to_give: &Capabilities) -> Result<Option<LinuxSeccomp>> {
    if security.privileged {
        return Ok(None);
    }
    match &security.seccomp {
        Seccomp::Unconfined => Ok(None),
        Seccomp::RuntimeDefault => {
            let sets = capabilities::of(security, to_give)?;
            let bounding: Vec<Capability> = sets.bounding().iter().flatten().copied().collect();
            Ok(Some(berth_seccomp::default_profile(&bounding)))
        }
        Seccomp::Localhost(path) => localhost(path).map(Some),
    }
}

fn localhost(path: &Path) -> Result<LinuxSeccomp> {
    let failed = |source| Error::SeccompFile {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_PROFILE + 1).read_to_end(&mut bytes))
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_PROFILE {
        return Err(failed(std::io::Error::other(
            "the file is larger than 1 MiB",
        )));
    }
    let invalid = |source| Error::SeccompProfile {
        path: path.to_owned(),
        source,
    };
    let profile = berth_seccomp::profile_from_json(&bytes).map_err(invalid)?;
    berth_seccomp::compile(&profile).map_err(invalid)?;
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(security: &Security) -> Vec<String> {
        let to_give = [Capability::SysChroot, Capability::SysAdmin].into();
        let security = Security {
            seccomp: Seccomp::RuntimeDefault,
            ..security.clone()
        };
        let profile = load_profile(&security, &to_give).unwrap().unwrap();
        let rules = profile.syscalls().iter().flatten();
        rules.flat_map(|rule| rule.names().clone()).collect()
    }

    #[test]
    fn the_default_profile_follows_the_capabilities_that_a_container_has() {
        let has = |security: &Security, name: &str| allowed(security).iter().any(|n| n == name);
        let usual = Security::default();
        assert!(has(&usual, "chroot") && !has(&usual, "mount"));
        let none = Security {
            drop_capabilities: vec!["ALL".into()],
            ..Security::default()
        };
        assert!(!has(&none, "chroot"));
        let all = Security {
            add_capabilities: vec!["ALL".into()],
            ..Security::default()
        };
        // Of a capability that cannot be given the calls are not either.
        assert!(has(&all, "mount") && !has(&all, "reboot"));
    }
}
