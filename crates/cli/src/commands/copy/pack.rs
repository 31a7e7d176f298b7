//! A tree here as a tar archive.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use tar::{Builder, Header};

use super::place::means_contents;
use crate::error::{Error, Result};
use crate::output::note;

#[derive(Debug)]
pub struct Source {
    pub path: PathBuf,
    /// Its last part.
    pub name: PathBuf,
    pub is_directory: bool,
    /// What is in it, not itself.
    pub contents: bool,
}

impl Source {
    /// # Errors
    /// If it is not there.
    pub fn find(text: &str, follow: bool) -> Result<Self> {
        let mut path = PathBuf::from(text);
        let contents = means_contents(text);
        if follow || contents || text.ends_with('/') {
            path = fs::canonicalize(&path).map_err(Error::file("finding", &path))?;
        }
        let found = fs::symlink_metadata(&path).map_err(Error::file("looking at", &path))?;
        let named = path.file_name().map(PathBuf::from);
        // `..` and `.` have a name by where they are.
        let named = named.or_else(|| Some(fs::canonicalize(&path).ok()?.file_name()?.into()));
        Ok(Self {
            name: named.unwrap_or_default(),
            is_directory: found.is_dir(),
            contents,
            path,
        })
    }
}

/// `name` is empty for the contents of a directory.
pub fn pack(to: impl Write, source: &Source, name: &Path) -> Result<()> {
    let mut builder = Builder::new(to);
    builder.follow_symlinks(false);
    add(&mut builder, &source.path, name)?;
    builder
        .into_inner()
        .and_then(|mut to| to.flush())
        .map_err(Error::Stream)
}

fn add(builder: &mut Builder<impl Write>, path: &Path, name: &Path) -> Result<()> {
    let found = fs::symlink_metadata(path).map_err(Error::file("looking at", path))?;
    let kind = found.file_type();
    if kind.is_socket() {
        note(&format!("{}: a socket is left out", path.display()));
        return Ok(());
    }
    if !kind.is_dir() {
        let appended = match kind.is_file() {
            true => File::open(path)
                .map_err(Error::file("opening", path))
                .map(|mut file| builder.append_file(name, &mut file))?,
            false => builder.append_path_with_name(path, name),
        };
        return appended.map_err(Error::Stream);
    }
    if !name.as_os_str().is_empty() {
        let mut header = Header::new_gnu();
        header.set_metadata(&found);
        let appended = builder.append_data(&mut header, name, std::io::empty());
        appended.map_err(Error::Stream)?;
    }
    let mut names: Vec<_> = fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
        .map_err(Error::file("listing", path))?;
    names.sort();
    names
        .into_iter()
        .try_for_each(|entry| add(builder, &path.join(&entry), &name.join(&entry)))
}
