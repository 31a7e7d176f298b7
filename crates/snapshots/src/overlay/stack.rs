//! From a list of layers to directories and mounts.

use std::path::PathBuf;

use super::layout::{Dir, Layout, layer_name};
use super::*;

/// The directories to stack, and the looks of the topmost one.
pub(super) struct Stack {
    /// Top to bottom, as OverlayFS wants them.
    lowers: Vec<PathBuf>,
    /// Mode, uid and gid of the root of the topmost layer.
    top: Option<(Mode, rustix::fs::Uid, rustix::fs::Gid)>,
}

/// Finds the layers' directories. Stops beneath a layer whose root is opaque: the kernel honours
/// its mark on any directory except a layer's root.
pub(super) fn resolve(layout: &Layout, layers: &[ChainId]) -> Result<Stack> {
    let mut stack = Stack {
        lowers: Vec::with_capacity(layers.len()),
        top: None,
    };
    let mut covered = false;
    for id in layers.iter().rev() {
        let name = format!("{}/fs", layer_name(id));
        let dir = match layout.layers.open(&name) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(Error::LayerMissing { layer: id.clone() });
            }
            opened => opened?,
        };
        if covered {
            continue;
        }
        if stack.top.is_none() {
            let stat = rustix::fs::fstat(&dir)
                .attempt("reading the attributes of", layout.layers.path(&name))?;
            stack.top = Some((
                Mode::from_raw_mode(stat.st_mode & 0o7777),
                rustix::fs::Uid::from_raw(stat.st_uid),
                rustix::fs::Gid::from_raw(stat.st_gid),
            ));
        }
        stack.lowers.push(layout.layers.path(&name));
        covered = is_opaque(&dir);
    }
    Ok(stack)
}

fn is_opaque(dir: &OwnedFd) -> bool {
    let mut value = [0u8; 1];
    let read = rustix::fs::fgetxattr(dir, berth_kernel::overlay_marks().opaque, &mut value);
    read.is_ok_and(|n| n == 1) && value == *b"y"
}

/// Makes `upper` and `work` in a new snapshot. The root of an overlay looks like its upper
/// directory, so that one takes the looks of the image's root.
pub(super) fn make_upper(drafts: &Dir, name: &str, stack: &Stack) -> Result<()> {
    let upper = format!("{name}/upper");
    let dir = drafts.make_public(&upper)?;
    if let Some((mode, uid, gid)) = stack.top {
        rustix::fs::fchown(&dir, Some(uid), Some(gid))
            .attempt("setting the owner of", drafts.path(&upper))?;
        rustix::fs::fchmod(&dir, mode).attempt("setting the mode of", drafts.path(&upper))?;
    }
    drafts.make(&format!("{name}/work"))
}

pub(super) fn mounts(layout: &Layout, snapshot: &Snapshot, stack: &Stack) -> Vec<Mount> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let upper = || text(layout.active.path(&snapshot.key).join("upper"));
    match (snapshot.kind, stack.lowers.as_slice()) {
        (SnapshotKind::Writable, []) => vec![bind(upper(), "rw")],
        (SnapshotKind::Writable, lowers) => {
            let work = text(layout.active.path(&snapshot.key).join("work"));
            let mut options = overlay_options(lowers);
            options.push("volatile".to_owned());
            options.push(format!("upperdir={}", upper()));
            options.push(format!("workdir={work}"));
            vec![overlay(options)]
        }
        (SnapshotKind::View, []) => vec![bind(text(layout.empty.path("")), "ro")],
        // OverlayFS refuses a single lower directory without an upper one.
        (SnapshotKind::View, [only]) => vec![bind(text(only.clone()), "ro")],
        (SnapshotKind::View, lowers) => {
            let mut options = overlay_options(lowers);
            options.push("ro".to_owned());
            vec![overlay(options)]
        }
    }
}

fn overlay_options(lowers: &[PathBuf]) -> Vec<String> {
    let list: Vec<_> = lowers.iter().map(|path| path.to_string_lossy()).collect();
    let features = berth_kernel::overlay_marks().options;
    let mut options: Vec<String> = features.iter().map(|&f| f.to_owned()).collect();
    options.push(format!("lowerdir={}", list.join(":")));
    options
}

fn overlay(options: Vec<String>) -> Mount {
    Mount {
        kind: "overlay".to_owned(),
        source: "overlay".to_owned(),
        target: String::new(),
        options,
    }
}

fn bind(source: String, access: &str) -> Mount {
    Mount {
        kind: "bind".to_owned(),
        source,
        target: String::new(),
        options: vec!["bind".to_owned(), access.to_owned()],
    }
}
