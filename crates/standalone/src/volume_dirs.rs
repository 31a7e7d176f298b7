//! The directories of volumes. A removal puts one aside before its record goes: a crash between
//! leaves neither content that a later volume of that name would show nor a record without content.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::make_dir;

/// Of a volume's directory; what is mounted for containers.
const CONTENT: &str = "_data";
/// No volume's name begins with a dot.
const ASIDE: &str = ".removed.";

#[derive(Debug)]
pub(crate) struct VolumeDirs {
    root: PathBuf,
}

impl VolumeDirs {
    /// Those below `root`, and what was cut short with them brought to an end: of a volume that has
    /// its record everything is there, of others what was put aside is gone. Nothing else is removed
    /// that holds anything.
    pub fn open<V>(root: PathBuf, known: &BTreeMap<String, V>) -> Result<Self> {
        make_dir(&root)?;
        let dirs = Self { root };
        let entries = fs::read_dir(&dirs.root).map_err(Error::file("list", &dirs.root))?;
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            match name.strip_prefix(ASIDE) {
                Some(volume) if known.contains_key(volume) => dirs.put_back(volume)?,
                Some(volume) => dirs.discard(volume)?,
                None if known.contains_key(&name) => {}
                None => dirs.remove_if_empty(&name),
            }
        }
        Ok(dirs)
    }

    pub fn content(&self, volume: &str) -> PathBuf {
        self.root.join(volume).join(CONTENT)
    }

    /// As an empty directory of root's that every user may enter; what an image has there changes
    /// that.
    pub fn make(place: &Path) -> Result<()> {
        if let Some(parent) = place.parent() {
            make_dir(parent)?;
        }
        fs::create_dir_all(place)
            .and_then(|()| fs::set_permissions(place, fs::Permissions::from_mode(0o755)))
            .map_err(Error::file("create", place))
    }

    /// The first half of a removal.
    pub fn put_aside(&self, volume: &str) -> Result<()> {
        // Of a removal whose second half failed, the volume having been made again since.
        self.discard(volume)?;
        let place = self.root.join(volume);
        match fs::rename(&place, self.aside(volume)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::file("remove", &place)(error))
            }
            _ => Ok(()),
        }
    }

    /// Takes the first half back.
    pub fn put_back(&self, volume: &str) -> Result<()> {
        let place = self.root.join(volume);
        fs::rename(self.aside(volume), &place).map_err(Error::file("restore", &place))
    }

    /// The second half.
    pub fn discard(&self, volume: &str) -> Result<()> {
        let aside = self.aside(volume);
        match fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::file("remove", &aside)(error))
            }
            _ => Ok(()),
        }
    }

    fn aside(&self, volume: &str) -> PathBuf {
        self.root.join(format!("{ASIDE}{volume}"))
    }

    /// One that was made for a volume that never came to be.
    fn remove_if_empty(&self, name: &str) {
        let place = self.root.join(name);
        // One that holds anything stays, and may be somebody's.
        let _not_empty = fs::remove_dir(place.join(CONTENT)).and_then(|()| fs::remove_dir(&place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(root: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn known(names: &[&str]) -> BTreeMap<String, ()> {
        names.iter().map(|name| ((*name).to_owned(), ())).collect()
    }

    fn with_file(dirs: &VolumeDirs, volume: &str) -> PathBuf {
        let content = dirs.content(volume);
        VolumeDirs::make(&content).unwrap();
        fs::write(content.join("page"), volume).unwrap();
        content.join("page")
    }

    #[test]
    fn a_removal_that_was_cut_short_is_finished_or_taken_back_by_what_the_records_say() {
        let root = tempfile::tempdir().unwrap();
        let open = |volumes: &[&str]| VolumeDirs::open(root.path().join("v"), &known(volumes));
        let dirs = open(&[]).unwrap();
        let (kept, _gone) = (with_file(&dirs, "kept"), with_file(&dirs, "gone"));
        dirs.put_aside("kept").unwrap();
        dirs.put_aside("gone").unwrap();
        assert!(!kept.exists());
        open(&["kept"]).unwrap();
        assert_eq!(fs::read_to_string(kept).unwrap(), "kept");
        assert_eq!(names(&root.path().join("v")), ["kept"]);
    }

    #[test]
    fn only_empty_directories_without_a_record_go() {
        let root = tempfile::tempdir().unwrap();
        let open = || VolumeDirs::open(root.path().join("v"), &known(&["recorded"]));
        let dirs = open().unwrap();
        with_file(&dirs, "strange");
        for volume in ["empty", "recorded"] {
            VolumeDirs::make(&dirs.content(volume)).unwrap();
        }
        open().unwrap();
        assert_eq!(names(&root.path().join("v")), ["recorded", "strange"]);
    }

    #[test]
    fn a_volume_of_the_same_name_has_nothing_of_one_that_was_removed() {
        let root = tempfile::tempdir().unwrap();
        let dirs = VolumeDirs::open(root.path().join("v"), &known(&[])).unwrap();
        for _ in 0..2 {
            let page = with_file(&dirs, "book");
            dirs.put_aside("book").unwrap();
            VolumeDirs::make(&dirs.content("book")).unwrap();
            assert!(!page.exists());
            dirs.put_aside("book").unwrap();
        }
        dirs.discard("book").unwrap();
        assert_eq!(names(&root.path().join("v")), Vec::<String>::new());
    }
}
