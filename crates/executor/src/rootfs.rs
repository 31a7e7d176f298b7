//! The root of a container: its mount, made where only the child sees it.

use crate::RootfsMount;
use crate::id_map;
use crate::mount_options::MountOptions;
use crate::places;
use crate::report::Failure;
use crate::step::Step;
use crate::user_namespace::UserNamespace;
use berth_kernel::rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use berth_kernel::rustix::mount::MountFlags as LegacyFlags;
use berth_kernel::{AttributeChange, Errno, FilesystemContext, MountFlags, Propagation};
use std::os::fd::{AsFd, OwnedFd};
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

/// What the root will be, attached nowhere yet.
#[derive(Debug)]
pub(crate) struct Detached {
    base: OwnedFd,
    /// With their places below the root.
    layered: Vec<(OwnedFd, PathBuf)>,
}

/// Stops or limits propagation to the host's namespace, then makes the mounts
/// of the root. The working directory becomes the one that they go to, so
/// that a clone in another user namespace, which may not be allowed to walk
/// there, is there already.
pub(crate) fn make(plan: &RootPlan, user: Option<&UserNamespace>) -> Result<Detached, Failure> {
    let failed = || Failure::at(Step::SetPropagation, Path::new("/"));
    berth_kernel::set_propagation(Path::new("/"), plan.propagation, true).map_err(failed())?;
    if plan.propagation == Propagation::Shared {
        // What is attached below here must not appear on the host.
        isolate(&plan.directory).map_err(Failure::at(Step::SetPropagation, &plan.directory))?;
    }
    let failed = || Failure::at(Step::MountRoot, &plan.directory);
    berth_kernel::rustix::process::chdir(&plan.directory).map_err(failed())?;
    let private = |mount: OwnedFd| {
        let change = AttributeChange {
            propagation: Some(Propagation::Private),
            ..AttributeChange::default()
        };
        berth_kernel::set_attributes(&mount, &change, None, true)
            .map_err(Failure::at(Step::SetPropagation, &plan.directory))?;
        Ok(mount)
    };
    let Some((base, layered)) = plan.mounts.split_first() else {
        let base = berth_kernel::clone_tree(CWD, &plan.directory, true).map_err(failed())?;
        return Ok(Detached {
            base: private(base)?,
            layered: Vec::new(),
        });
    };
    let make = |mount| private(make_one(mount, &plan.directory, user)?);
    let base = make(base)?;
    let layered = layered
        .iter()
        .map(|mount| Ok((make(mount)?, PathBuf::from(&mount.target))))
        .collect::<Result<_, Failure>>()?;
    Ok(Detached { base, layered })
}

/// Attaches the root to the working directory. The descriptor is the root
/// directory of the new mount.
pub(crate) fn attach(root: Detached) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let failed = || Failure::of(Step::MountRoot, "");
    let place = berth_kernel::rustix::fs::open(".", flags, Mode::empty()).map_err(failed())?;
    berth_kernel::attach(&root.base, &place).map_err(failed())?;
    for (mount, target) in &root.layered {
        let failed = || Failure::at(Step::MountRoot, target);
        let place = places::find(root.base.as_fd(), target).map_err(failed())?;
        berth_kernel::attach(mount, &place).map_err(failed())?;
    }
    Ok(root.base)
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

fn make_one(
    mount: &RootfsMount,
    place: &Path,
    user: Option<&UserNamespace>,
) -> Result<OwnedFd, Failure> {
    let subject = format!("{} of type {}", place.display(), mount.kind);
    let failed = || Failure::of(Step::MountRoot, &subject);
    let options = MountOptions::parse(&mount.options);
    if options.copy_up {
        let words = "tmpcopyup on a root";
        return Err(Failure::of(Step::SetMountFlags, words)(Errno::INVAL));
    }
    let bind = options.bind.or((mount.kind == "bind").then_some(false));
    if options.id_map.is_some() && user.is_none() {
        let words = "root without a user namespace";
        return Err(Failure::of(Step::MapMount, words)(Errno::INVAL));
    }
    let shift = user.filter(|_| options.id_map.is_some());
    let root = match bind {
        Some(recursive) => {
            let source = Path::new(&mount.source);
            let copy = berth_kernel::clone_tree(CWD, source, recursive).map_err(failed())?;
            if let Some(shift) = shift {
                id_map::apply(&copy, &shift.fd, recursive, source)?;
            }
            copy
        }
        None if mount.kind == "overlay" => match shift {
            None => overlay(&options, place)?,
            Some(shift) => {
                id_map::shift_layers(&layers(&options), &shift.fd)?;
                // What the overlay itself makes, such as whiteouts, is made by
                // who mounted it: an owner that the layers can have.
                shift.as_its_root(|| overlay(&options, place))?
            }
        },
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

/// The directories of an overlay: layers, and what holds both the writable
/// one and its work directory, which must lie on one mount.
fn layers(options: &MountOptions) -> Vec<PathBuf> {
    let mut layers = Vec::new();
    let mut writable: Option<PathBuf> = None;
    for (key, value) in &options.data {
        match (key.as_str(), value) {
            ("lowerdir", Some(list)) => {
                layers.extend(split_layers(list).into_iter().map(PathBuf::from));
            }
            ("upperdir" | "workdir", Some(path)) => {
                let path = Path::new(path);
                writable = Some(match writable {
                    Some(other) => common(&other, path),
                    None => path.to_owned(),
                });
            }
            _ => {}
        }
    }
    // First, so that layers that lie inside it are attached on top of it.
    writable.into_iter().chain(layers).collect()
}

fn common(a: &Path, b: &Path) -> PathBuf {
    a.components()
        .zip(b.components())
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a)
        .collect()
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

/// What mount(2) takes of options: a page with its end.
const PAGE: usize = 4095;

/// An overlay with one `lowerdir+` a layer, so that neither the number of
/// layers nor the length of their paths is bound by one page. Kernels before
/// 6.8 do not have that key, unless somebody gave it to them; they get the
/// whole list in one string, at once where it fits. They say so when the key
/// is set, or, where overlay still looks at its options as one string, when
/// the mount is made, and each time in their log.
fn overlay(options: &MountOptions, place: &Path) -> Result<OwnedFd, Failure> {
    if !berth_kernel::overlay_takes_single_layers() && one_string(options).len() <= PAGE {
        return overlay_in_one_string(options, place);
    }
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
    match context.mount(options.set) {
        // What else may be wrong is as wrong there.
        Err(Errno::INVAL) => overlay_in_one_string(options, place),
        made => made.map_err(complain(&context)),
    }
}

fn one_string(options: &MountOptions) -> String {
    let data: Vec<String> = options
        .data
        .iter()
        .map(|(key, value)| match value {
            // SELinux takes its own option out first, and knows quotes only.
            Some(value) if key == "context" => format!("{key}=\"{value}\""),
            Some(value) => format!("{key}={}", value.replace(',', "\\,")),
            None => key.clone(),
        })
        .collect();
    data.join(",")
}

fn overlay_in_one_string(options: &MountOptions, place: &Path) -> Result<OwnedFd, Failure> {
    let failed = || Failure::at(Step::MountRoot, place);
    let data = std::ffi::CString::new(one_string(options)).map_err(|_| failed()(Errno::INVAL))?;
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
    fn an_overlay_is_shifted_by_its_layers_and_where_it_writes() {
        let options = [
            "lowerdir=/l/1:/l/2",
            "upperdir=/s/9/fs",
            "workdir=/s/9/work",
        ];
        let options = options.map(str::to_owned);
        let found = layers(&MountOptions::parse(&options));
        assert_eq!(found, ["/s/9", "/l/1", "/l/2"].map(PathBuf::from));
    }

    #[test]
    fn layers_are_split_at_colons_that_are_not_escaped() {
        assert_eq!(split_layers("/a:/b:/c"), ["/a", "/b", "/c"]);
        assert_eq!(split_layers(r"/a\:b:/c\\d:"), ["/a:b", r"/c\d"]);
    }
}
