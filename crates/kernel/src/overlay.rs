//! Overlays of any number of layers, on kernels with and without a key for
//! one layer at a time.

use crate::mounts::{FilesystemContext, MountFlags, Propagation, clone_tree, set_propagation};
use crate::{Errno, Namespace, NamespaceSet, Result, in_user_namespace, unshare};
use rustix::fs::{CWD, Mode, OFlags};
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::LazyLock;

/// How an overlay's own marks are kept, and what it must be told for that: attributes that only
/// root of the host may set, or, in a user namespace, those that any owner may (Linux 5.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverlayMarks {
    /// With `y`, hides what lies beneath a directory.
    pub opaque: &'static str,
    /// All names that begin with it mean something to the kernel.
    pub prefix: &'static str,
    /// Options, chosen rather than left to the kernel's build.
    pub options: &'static [&'static str],
}

/// - `index=off`: hard links are not followed across copy-up, as image builders expect, and an
///   upper directory never refuses to be mounted over other layers after a restore.
/// - `metacopy=off`, `redirect_dir=off`: what a container wrote is whole files under their own
///   names, so that an upper directory can be read without the layers beneath it. `userxattr`
///   implies both, and an ordinary user must not ask for them.
static MARKS: LazyLock<OverlayMarks> = LazyLock::new(|| match in_user_namespace() {
    false => OverlayMarks {
        opaque: "trusted.overlay.opaque",
        prefix: "trusted.overlay.",
        options: &["index=off", "metacopy=off", "redirect_dir=off"],
    },
    true => OverlayMarks {
        opaque: "user.overlay.opaque",
        prefix: "user.overlay.",
        options: &["index=off", "userxattr"],
    },
});

/// Those of this process. Asked for once, so `/proc` must be there at the first time.
#[must_use]
pub fn overlay_marks() -> OverlayMarks {
    *MARKS
}

/// An overlay of `layers`, the topmost first, as a detached mount; `options`
/// are keys with their values, or without.
///
/// Linux 6.8 has a key for each layer. Before, all of them are one string: a
/// mount of its own thread is made then, in a mount namespace that nobody
/// sees, with the layers as descriptors, so that some two hundred of them fit
/// into the page that mount(2) takes.
pub fn mount_overlay(
    layers: &[&Path],
    options: &[(&str, Option<&str>)],
    flags: MountFlags,
) -> Result<OwnedFd> {
    if !overlay_takes_single_layers() {
        return elsewhere(layers, options, flags);
    }
    match layer_by_layer(layers, options, flags) {
        Err(Errno::INVAL) => elsewhere(layers, options, flags),
        made => made,
    }
}

/// Whether `lowerdir+` is worth an attempt: a kernel without it writes a line
/// into its log each time. What does not look like a release is asked.
#[must_use]
pub fn overlay_takes_single_layers() -> bool {
    let name = rustix::system::uname();
    !name.release().to_str().is_ok_and(is_old)
}

/// Older than 6.8, by the first two numbers of a release.
fn is_old(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse::<u32>().ok();
    matches!((number(), number()), (Some(major), Some(minor)) if (major, minor) < (6, 8))
}

/// `EINVAL` on kernels without the key: from setting it, or, where overlay
/// still looks at its options as one string, from making the mount.
fn layer_by_layer(
    layers: &[&Path],
    options: &[(&str, Option<&str>)],
    flags: MountFlags,
) -> Result<OwnedFd> {
    let context = FilesystemContext::open("overlay")?;
    for layer in layers {
        context.set_path_string("lowerdir+", layer)?;
    }
    for (key, value) in options {
        match value {
            Some(value) => context.set(key, value)?,
            None => context.set_flag(key)?,
        }
    }
    context.mount(flags)
}

/// On a thread, which ends with its namespace.
fn elsewhere(
    layers: &[&Path],
    options: &[(&str, Option<&str>)],
    flags: MountFlags,
) -> Result<OwnedFd> {
    std::thread::scope(|scope| {
        let made = scope.spawn(|| in_one_string(layers, options, flags));
        made.join().unwrap_or(Err(Errno::FAULT))
    })
}

fn in_one_string(
    layers: &[&Path],
    options: &[(&str, Option<&str>)],
    flags: MountFlags,
) -> Result<OwnedFd> {
    unshare(NamespaceSet::EMPTY.with(Namespace::Mount))?;
    set_propagation(Path::new("/"), Propagation::Private, true)?;
    let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = layers
        .iter()
        .map(|layer| rustix::fs::open(*layer, open, Mode::empty()))
        .collect::<Result<Vec<OwnedFd>>>()?;
    let names: Vec<String> = opened
        .iter()
        .map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd()))
        .collect();
    let mut data = format!("lowerdir={}", names.join(":"));
    for (key, value) in options {
        data.push(',');
        data.push_str(key);
        if let Some(value) = value {
            data.push('=');
            data.push_str(&value.replace(',', "\\,"));
        }
    }
    let data = CString::new(data).map_err(|_| Errno::INVAL)?;
    // Any directory will do to see it from.
    let place = *layers.first().ok_or(Errno::INVAL)?;
    let none = rustix::mount::MountFlags::empty();
    rustix::mount::mount("overlay", place, "overlay", none, data.as_c_str())?;
    let made = clone_tree(CWD, place, false)?;
    let change = crate::AttributeChange {
        set: flags,
        ..Default::default()
    };
    crate::set_attributes(&made, &change, None, false)?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn kernels_without_a_key_for_one_layer_are_known_by_their_release() {
        for old in ["6.1.0-39-cloud-amd64", "5.14.0-503.el9", "6.7.12", "4.19"] {
            assert!(is_old(old), "{old}");
        }
        for other in ["6.8.0-31-generic", "6.18.5", "7.0", "10.1", "6", "odd", ""] {
            assert!(!is_old(other), "{other}");
        }
    }

    /// A kernel that has the key must not hide that the other way is broken.
    #[test]
    fn layers_are_stacked_both_ways() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root: mounts an overlay");
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let layers: Vec<_> = (0..40)
            .map(|number| {
                let layer = place.path().join(format!("{number}-{}", "x".repeat(100)));
                fs::create_dir(&layer).unwrap();
                fs::write(layer.join(format!("only-{number}")), "").unwrap();
                fs::write(layer.join("all"), number.to_string()).unwrap();
                layer
            })
            .collect();
        let layers: Vec<&Path> = layers.iter().map(AsRef::as_ref).collect();
        let read_only = MountFlags::MOUNT_ATTR_RDONLY;
        for make in [mount_overlay, elsewhere] {
            let made = make(&layers, &[("index", Some("off"))], read_only).unwrap();
            let root = format!("/proc/self/fd/{}", made.as_raw_fd());
            let root = Path::new(&root);
            assert_eq!(fs::read_to_string(root.join("all")).unwrap(), "0");
            assert!(root.join("only-39").exists());
            let refused = fs::write(root.join("new"), "").unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        }
        assert!(!place.path().join(layers[0]).join("only-39").exists());
    }
}
