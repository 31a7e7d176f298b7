//! Which shared libraries a program of this machine needs.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Error, Result};

/// Libraries and loader of `program` as ldd names them; none for a static one.
pub(super) fn of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .env("LC_ALL", "C")
        .output()
        .map_err(|source| Error::Libraries {
            path: program.to_owned(),
            source,
        })?;
    parse(program, &String::from_utf8_lossy(&output.stdout))
}

fn parse(program: &Path, answer: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in answer.lines().map(str::trim) {
        // `name => path (address)`, `path (address)` for the loader, and
        // `linux-vdso.so.1 (address)` for what is not a file.
        let (name, place) = line.split_once(" => ").unwrap_or((line, line));
        if place.starts_with("not found") {
            let library = name.to_owned();
            return Err(Error::MissingLibrary {
                path: program.to_owned(),
                library,
            });
        }
        if let Some(path) = place
            .split(" (")
            .next()
            .filter(|path| path.starts_with('/'))
        {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loader_and_libraries_are_found_and_the_vdso_is_not() {
        let answer = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n\t/lib64/ld.so (0x7f)\n";
        let found = parse(Path::new("/bin/x"), answer).unwrap();
        assert_eq!(
            found,
            [
                PathBuf::from("/lib/libc.so.6"),
                PathBuf::from("/lib64/ld.so")
            ]
        );
        assert_eq!(
            parse(Path::new("/bin/x"), "\tstatically linked\n")
                .unwrap()
                .len(),
            0
        );
    }

    #[test]
    fn missing_library_is_an_error() {
        let error = parse(Path::new("/bin/x"), "\tlibz.so.9 => not found\n").unwrap_err();
        assert!(matches!(error, Error::MissingLibrary { library, .. } if library == "libz.so.9"));
    }
}
