//! A part of the context as real files: for `RUN --mount=type=bind`.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::error::{Error, Result};
use crate::tree::{NodeKind, Tree, joined};

/// Makes what is at `path` of a tree anew at `into`, which is not there. `false` if the tree has
/// nothing at `path`. Names come one by one from the tree, which has no `..`, and what is made is
/// made new: nothing is followed.
pub fn extract(tree: &dyn Tree, path: &str, into: &Path) -> Result<bool> {
    let path = tree.resolve(path)?;
    let Some(node) = tree.node(&path)? else {
        return Ok(false);
    };
    let failed = Error::file("write", into);
    match node.kind {
        NodeKind::Directory => {
            fs::create_dir(into).map_err(failed)?;
            for name in tree.list(&path)? {
                item(tree, &joined(&path, &name), &into.join(&name))?;
            }
            mode(into, node.attributes.mode)?;
        }
        _ => item(tree, &path, into)?,
    }
    Ok(true)
}

fn item(tree: &dyn Tree, path: &str, into: &Path) -> Result<()> {
    let Some(node) = tree.node(path)? else {
        return Ok(());
    };
    let failed = Error::file("write", into);
    match &node.kind {
        NodeKind::Directory => {
            fs::create_dir(into).map_err(failed)?;
            for name in tree.list(path)? {
                item(tree, &joined(path, &name), &into.join(&name))?;
            }
            mode(into, node.attributes.mode)
        }
        NodeKind::File { .. } => {
            let mut file = File::create_new(into).map_err(failed)?;
            io::copy(&mut tree.open(path)?, &mut file).map_err(Error::file("write", into))?;
            mode(into, node.attributes.mode)
        }
        NodeKind::Symlink(target) => {
            symlink(std::ffi::OsStr::from_bytes(target), into).map_err(failed)
        }
        NodeKind::Other(..) => Ok(()),
    }
}

fn mode(path: &Path, mode: u32) -> Result<()> {
    let mode = fs::Permissions::from_mode(mode);
    fs::set_permissions(path, mode).map_err(Error::file("write", path))
}
