//! Where the program is.

use std::path::{Path, PathBuf};

/// The program at `configured`, or where `PATH` and the directories of administrators' programs
/// have it.
pub fn find(configured: Option<&Path>) -> Option<PathBuf> {
    if let Some(path) = configured.filter(|path| !path.as_os_str().is_empty()) {
        return path.is_file().then(|| path.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .map(|directory| directory.join("criu"))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_program_is_used_or_missed_and_never_another() {
        let here = std::env::current_exe().unwrap();
        assert_eq!(find(Some(&here)), Some(here));
        assert_eq!(find(Some(Path::new("/missing/criu"))), None);
    }
}
