//! Which seccomp profile a container gets.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use oci_spec::runtime::{Capability, LinuxSeccomp};

use crate::error::{Error, Result};
use crate::request::{Seccomp, Security};

/// Far above any real profile.
const MAX_PROFILE: u64 = 1 << 20;

/// Whether this kernel can filter system calls.
pub fn supported() -> bool {
    Path::new("/proc/sys/kernel/seccomp/actions_avail").exists()
}

/// The profile that `security` asks for; privileged containers have none.
pub fn load_profile(security: &Security) -> Result<Option<LinuxSeccomp>> {
    if security.privileged {
        return Ok(None);
    }
    match &security.seccomp {
        Seccomp::Unconfined => Ok(None),
        Seccomp::RuntimeDefault => {
            let added: Vec<Capability> = security
                .add_capabilities
                .iter()
                .filter_map(|name| {
                    let upper = name.to_ascii_uppercase();
                    Capability::from_str(upper.strip_prefix("CAP_").unwrap_or(&upper)).ok()
                })
                .collect();
            Ok(Some(berth_seccomp::default_profile(&added)))
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
