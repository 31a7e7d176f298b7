//! A tar archive of a container as a tree here. A container may have put anything in it: nothing
//! is written outside the target.

use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use tar::{Archive, Entry, EntryType};

use crate::error::{Error, Result};
use crate::output::note;

/// The archive's first part becomes `target`.
pub fn unpack(from: impl Read, target: &Path, owners: bool) -> Result<()> {
    entries(from, target, owners, 1)
}

/// What the archive has comes below `target`, and belongs to whoever runs this.
pub fn unpack_all(from: impl Read, target: &Path) -> Result<()> {
    entries(from, target, false, 0)
}

/// Without so many parts of each name.
fn entries(from: impl Read, target: &Path, owners: bool, skipped: usize) -> Result<()> {
    let mut archive = Archive::new(from);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(owners);
    archive.set_overwrite(true);
    // Only once everything is in them: a directory may not be writable itself.
    let mut directories = Vec::new();
    for entry in archive.entries().map_err(Error::Stream)? {
        let mut entry = entry.map_err(Error::Stream)?;
        let path = entry.path().map_err(Error::Stream)?.into_owned();
        let place = place(target, &path, skipped)?;
        check(target, &place)?;
        // A container's archive names every directory; others need not.
        if skipped == 0
            && let Some(above) = place.parent()
        {
            fs::create_dir_all(above).map_err(Error::file("making", above))?;
        }
        if entry.header().entry_type() == EntryType::Directory {
            make_directory(&place)?;
            directories.push((place, entry.header().mode().unwrap_or(0o755)));
        } else {
            one(&mut entry, target, &place, skipped)?;
        }
    }
    // Whoever sends waits until everything was read.
    let _rest = std::io::copy(&mut archive.into_inner(), &mut std::io::sink());
    for (place, mode) in directories.into_iter().rev() {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(mode & 0o7777);
        fs::set_permissions(&place, mode).map_err(Error::file("setting the mode of", &place))?;
    }
    Ok(())
}

/// Without the first parts, below the target.
fn place(target: &Path, path: &Path, skipped: usize) -> Result<PathBuf> {
    let mut place = target.to_owned();
    for part in path.components().skip(skipped) {
        match part {
            Component::Normal(name) => place.push(name),
            Component::CurDir => {}
            _ => return Err(outside(path)),
        }
    }
    Ok(place)
}

fn outside(path: &Path) -> Error {
    Error::Failed(format!(
        "the archive has {} in it, which leads out of it: nothing more is copied",
        path.display()
    ))
}

/// No link on the way there leads elsewhere.
fn check(target: &Path, place: &Path) -> Result<()> {
    let Ok(below) = place.strip_prefix(target) else {
        return Err(outside(place));
    };
    let mut at = target.to_owned();
    let parts: Vec<_> = below.components().collect();
    for part in parts.iter().take(parts.len().saturating_sub(1)) {
        at.push(part);
        if fs::symlink_metadata(&at).is_ok_and(|found| found.is_symlink()) {
            return Err(outside(place));
        }
    }
    Ok(())
}

fn make_directory(place: &Path) -> Result<()> {
    match fs::symlink_metadata(place) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) if fs::metadata(place).is_ok_and(|found| found.is_dir()) => Ok(()),
        Ok(_) => Err(Error::Failed(format!(
            "{} is a file: a directory cannot take its place",
            place.display()
        ))),
        Err(_) => fs::create_dir(place).map_err(Error::file("making", place)),
    }
}

fn one<R: Read>(
    entry: &mut Entry<'_, R>,
    target: &Path,
    place: &Path,
    skipped: usize,
) -> Result<()> {
    let kind = entry.header().entry_type();
    match kind {
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse | EntryType::Symlink => {
            // What was a link is not written through.
            if place != target && fs::symlink_metadata(place).is_ok_and(|f| f.is_symlink()) {
                fs::remove_file(place).map_err(Error::file("replacing", place))?;
            }
            let unpacked = entry.unpack(place);
            unpacked.map(drop).map_err(Error::file("writing", place))
        }
        EntryType::Link => {
            let named = entry.link_name().map_err(Error::Stream)?;
            let first = self::place(target, &named.unwrap_or_default(), skipped)?;
            check(target, &first)?;
            let _absent = fs::remove_file(place);
            fs::hard_link(&first, place).map_err(Error::file("linking", place))
        }
        EntryType::Block | EntryType::Char | EntryType::Fifo => {
            note(&format!(
                "{}: devices and pipes are left out",
                place.display()
            ));
            Ok(())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::copy::pack::{Source, pack};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_tree_is_the_same_on_the_other_side() {
        let scratch = tempfile::tempdir().unwrap();
        let from = scratch.path().join("from");
        fs::create_dir_all(from.join("inner")).unwrap();
        fs::write(from.join("inner/file"), "text").unwrap();
        std::os::unix::fs::symlink("file", from.join("inner/link")).unwrap();
        fs::set_permissions(from.join("inner"), fs::Permissions::from_mode(0o500)).unwrap();
        let source = Source::find(&from.display().to_string(), false).unwrap();
        let mut archive = Vec::new();
        pack(&mut archive, &source, &source.name).unwrap();

        let to = scratch.path().join("to");
        unpack(archive.as_slice(), &to, false).unwrap();
        assert_eq!(fs::read_to_string(to.join("inner/link")).unwrap(), "text");
        assert!(
            fs::symlink_metadata(to.join("inner/link"))
                .unwrap()
                .is_symlink()
        );
        let mode = fs::metadata(to.join("inner")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o500);
    }

    #[test]
    fn nothing_is_written_outside() {
        let scratch = tempfile::tempdir().unwrap();
        let to = scratch.path().join("to");
        let mut evil = tar::Builder::new(Vec::new());
        let mut add = |kind: EntryType, name: &str, link: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_size(0);
            header.set_link_name_literal(link).unwrap();
            // Names that the builder would refuse are written as they are.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            evil.append(&header, std::io::empty()).unwrap();
        };
        add(EntryType::Directory, "d", "");
        add(
            EntryType::Symlink,
            "d/way",
            scratch.path().to_str().unwrap(),
        );
        add(EntryType::Regular, "d/way/stolen", "");
        let archive = evil.into_inner().unwrap();
        assert!(unpack(archive.as_slice(), &to, false).is_err());
        assert!(!scratch.path().join("stolen").exists());
        assert!(place(&to, Path::new("d/../../x"), 1).is_err());
        // An absolute one is as if it was not.
        assert_eq!(place(&to, Path::new("d/x"), 1).unwrap(), to.join("x"));
    }
}
