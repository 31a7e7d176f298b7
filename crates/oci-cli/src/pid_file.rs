//! A file with a process id, which is whole whenever it is there.

use crate::error::{Error, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The file, absolute, before anything can change the working directory.
pub fn locate(named: Option<&str>) -> Result<Option<PathBuf>> {
    let Some(named) = named.map(Path::new) else {
        return Ok(None);
    };
    let path = std::path::absolute(named).map_err(Error::io("resolve", named))?;
    Ok(Some(path))
}

pub fn write(path: &Path, pid: i32) -> Result<()> {
    let mut hidden = OsString::from(".");
    hidden.push(path.file_name().unwrap_or_default());
    let fresh = path.with_file_name(hidden);
    std::fs::write(&fresh, pid.to_string()).map_err(Error::io("write", &fresh))?;
    std::fs::rename(&fresh, path).map_err(Error::io("replace", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_the_bare_number_and_nothing_else_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pid");
        write(&path, 1).unwrap();
        write(&path, 42).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "42");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
