//! The root of a container: its mount, made where only the child sees it.

use crate::RootfsMount;
use crate::mount_options::MountOptions;
use crate::report::Failure;
use crate::step::Step;
use berth_kernel::rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use berth_kernel::rustix::mount::MountFlags as LegacyFlags;
use berth_kernel::{AttributeChange, Errno, FilesystemContext, MountFlags, Propagation};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What the root is made of.
#[derive(Debug)]
pub(crate) struct RootPlan {
    /// Directory that the root is attached to, or that is the root when
    /// there are no mounts.
    pub(crate) directory: PathBuf,
    pub(crate) mounts: Vec<RootfsMount>,
    /// How the whole namespace propagates before the root is changed.
    pub(crate) propagation: Propagation,
}

/// Stops or limits propagation to the host's namespace, then makes the root
/// and attaches it. The descriptor is the root directory of the new mount.
pub(crate) fn mount(plan: &RootPlan) -> Result<OwnedFd, Failure> {
    let failed = || Failure::at(Step::SetPropagation, Path::new("/"));
    berth_kernel::set_propagation(Path::new("/"), plan.propagation, true).map_err(failed())?;
    if plan.propagation == Propagation::Shared {
        // What is attached below here must not appear on the host.
        isolate(&plan.directory).map_err(Failure::at(Step::SetPropagation, &plan.directory))?;
    }
    let failed = || Failure::at(Step::MountRoot, &plan.directory);
    let Some((base, layered)) = plan.mounts.split_first() else {
        let root = berth_kernel::clone_tree(CWD, &plan.directory, true).map_err(failed())?;
        return attach_private(root, &plan.directory);
    };
    let root = attach_private(make(base, &plan.directory)?, &plan.directory)?;
    for more in layered {
        let target = Path::new(more.target.trim_start_matches('/'));
        let place = plan.directory.join(target);
        attach_private(make(more, &place)?, &place)?;
    }
    Ok(root)
}

fn attach_private(mount: OwnedFd, place: &Path) -> Result<OwnedFd, Failure> {
    let private = AttributeChange {
        propagation: Some(Propagation::Private),
        ..AttributeChange::default()
    };
    berth_kernel::set_attributes(&mount, &private, None, true)
        .map_err(Failure::at(Step::SetPropagation, place))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = berth_kernel::rustix::fs::open(place, flags, Mode::empty())
        .map_err(Failure::at(Step::MountRoot, place))?;
    berth_kernel::attach(&mount, &target).map_err(Failure::at(Step::MountRoot, place))?;
    Ok(mount)
}

/// Makes the mount that holds `path` private, and only that one.
fn isolate(path: &Path) -> berth_kernel::Result<()> {
    let mut top = path;
    let mount = mount_id(path)?;
    while let Some(parent) = top.parent() {
        if mount_id(parent)? != mount {
            break;
        }
        top = parent;
    }
    berth_kernel::set_propagation(top, Propagation::Private, false)
}

fn mount_id(path: &Path) -> berth_kernel::Result<u64> {
    let found = berth_kernel::rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?;
    Ok(found.stx_mnt_id)
}

fn make(mount: &RootfsMount, place: &Path) -> Result<OwnedFd, Failure> {
    let subject = format!("{} of type {}", place.display(), mount.kind);
    let failed = || Failure::of(Step::MountRoot, &subject);
    let options = MountOptions::parse(&mount.options)
        .map_err(|option| Failure::of(Step::SetMountFlags, &option)(Errno::INVAL))?;
    let bind = options.bind.or((mount.kind == "bind").then_some(false));
    let root = match bind {
        Some(recursive) => {
            berth_kernel::clone_tree(CWD, Path::new(&mount.source), recursive).map_err(failed())?
        }
        None if mount.kind == "overlay" => overlay(&options, place)?,
        None => {
            let context = FilesystemContext::open(&mount.kind).map_err(failed())?;
            if !mount.source.is_empty() {
                context.set("source", &mount.source).map_err(failed())?;
            }
            for (key, value) in &options.data {
                set(&context, key, value.as_deref())?;
            }
            context.mount(options.set).map_err(complain(&context))?
        }
    };
    for (change, recursive) in [
        (options.change(), false),
        (options.recursive_change(), true),
    ] {
        if let Some(change) = change {
            berth_kernel::set_attributes(&root, &change, None, recursive)
                .map_err(Failure::at(Step::SetMountFlags, place))?;
        }
    }
    Ok(root)
}

fn set(context: &FilesystemContext, key: &str, value: Option<&str>) -> Result<(), Failure> {
    match value {
        Some(value) => context.set(key, value),
        None => context.set_flag(key),
    }
    .map_err(complain(context))
}

fn complain(context: &FilesystemContext) -> impl FnOnce(Errno) -> Failure {
    |errno| Failure::of(Step::MakeFilesystem, &context.complaint())(errno)
}

/// An overlay with one `lowerdir+` a layer, so that neither the number of
/// layers nor the length of their paths is bound by one page. Kernels before
/// 6.8 do not have that key; they get the whole list in one string.
fn overlay(options: &MountOptions, place: &Path) -> Result<OwnedFd, Failure> {
    let failed = || Failure::at(Step::MountRoot, place);
    let context = FilesystemContext::open("overlay").map_err(failed())?;
    context.set("source", "overlay").map_err(failed())?;
    for (key, value) in &options.data {
        match (key.as_str(), value) {
            ("lowerdir", Some(layers)) => {
                for layer in split_layers(layers) {
                    match context.set("lowerdir+", &layer) {
                        Err(Errno::INVAL) => return overlay_in_one_string(options, place),
                        done => done.map_err(complain(&context))?,
                    }
                }
            }
            (key, value) => set(&context, key, value.as_deref())?,
        }
    }
    context.mount(options.set).map_err(complain(&context))
}

fn overlay_in_one_string(options: &MountOptions, place: &Path) -> Result<OwnedFd, Failure> {
    let failed = || Failure::at(Step::MountRoot, place);
    let data: Vec<String> = options
        .data
        .iter()
        .map(|(key, value)| match value {
            Some(value) => format!("{key}={}", value.replace(',', "\\,")),
            None => key.clone(),
        })
        .collect();
    let data = std::ffi::CString::new(data.join(",")).map_err(|_| failed()(Errno::INVAL))?;
    berth_kernel::rustix::mount::mount(
        "overlay",
        place,
        "overlay",
        LegacyFlags::empty(),
        data.as_c_str(),
    )
    .map_err(failed())?;
    let made = berth_kernel::clone_tree(CWD, place, false).map_err(failed())?;
    berth_kernel::detach(place).map_err(failed())?;
    Ok(made)
}

/// Layers between colons; `\:` is a colon in a path.
fn split_layers(list: &str) -> Vec<String> {
    let mut layers = vec![String::new()];
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        match (character, layers.last_mut()) {
            (':', _) => layers.push(String::new()),
            ('\\', Some(layer)) => layer.extend(characters.next()),
            (other, Some(layer)) => layer.push(other),
            (_, None) => {}
        }
    }
    layers.retain(|layer| !layer.is_empty());
    layers
}

/// Makes the root read-only, and nothing below it.
pub(crate) fn protect(root: &OwnedFd) -> Result<(), Failure> {
    let change = AttributeChange {
        set: MountFlags::MOUNT_ATTR_RDONLY,
        ..AttributeChange::default()
    };
    berth_kernel::set_attributes(root, &change, None, false)
        .map_err(Failure::at(Step::ProtectPath, Path::new("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_split_at_colons_that_are_not_escaped() {
        assert_eq!(split_layers("/a:/b:/c"), ["/a", "/b", "/c"]);
        assert_eq!(split_layers(r"/a\:b:/c\\d:"), ["/a:b", r"/c\d"]);
    }
}
