//! The wrappers against the running kernel.

use berth_kernel::rustix::fs::{CWD, Mode, OFlags};
use berth_kernel::{
    AttributeChange, Clone3, Errno, FilesystemContext, IdMapping, MountFlags, Namespace,
    NamespaceHolder, NamespaceSet, NodeKind,
};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

fn root_or_skip(test: &str) -> bool {
    let root = berth_kernel::rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root: {test}");
    }
    root
}

#[test]
fn a_process_with_threads_is_not_cloned() {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || receiver.recv());
    assert_eq!(Clone3::default().run().unwrap_err(), Errno::BUSY);
    drop(sender);
    let _ = thread.join();
}

#[test]
fn descriptors_travel_over_a_socket_pair() {
    let (near, far) = berth_kernel::socket_pair().unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"cargo").unwrap();
    berth_kernel::send_with_fds(&near, b"x", &[file.as_fd()]).unwrap();
    let mut bytes = [0u8; 8];
    let received = berth_kernel::receive_with_fds(&far, &mut bytes).unwrap();
    assert_eq!((received.length, received.fds.len()), (1, 1));
    let stat = berth_kernel::rustix::fs::fstat(&received.fds[0]).unwrap();
    assert_eq!(stat.st_ino, file.metadata().unwrap().ino());
    drop(near);
    let end = berth_kernel::receive_with_fds(&far, &mut bytes).unwrap();
    assert_eq!(end.length, 0);
}

#[test]
fn links_in_a_root_stay_in_the_root() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("etc")).unwrap();
    std::fs::write(dir.path().join("etc/passwd"), "inside").unwrap();
    symlink("/etc/passwd", dir.path().join("absolute")).unwrap();
    symlink("../../../../etc/passwd", dir.path().join("climbing")).unwrap();
    symlink("/proc/self/root/etc/passwd", dir.path().join("magic")).unwrap();
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let root = berth_kernel::rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap();
    let inside = std::fs::metadata(dir.path().join("etc/passwd")).unwrap();
    for name in ["absolute", "climbing", "/etc/passwd", "/../etc/passwd"] {
        let file = berth_kernel::open_in_root(&root, Path::new(name), OFlags::PATH, Mode::empty())
            .unwrap();
        let found = berth_kernel::rustix::fs::fstat(&file).unwrap();
        assert_eq!(found.st_ino, inside.ino(), "{name}");
    }
    for name in ["magic", "missing"] {
        berth_kernel::open_in_root(&root, Path::new(name), OFlags::PATH, Mode::empty())
            .unwrap_err();
    }
    let beneath =
        berth_kernel::open_beneath(&root, Path::new("absolute"), OFlags::PATH, Mode::empty());
    assert_eq!(beneath.unwrap_err(), Errno::XDEV);
}

#[test]
fn fifos_are_made_with_their_mode() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    berth_kernel::make_fifo(&path, 0o600).unwrap();
    let made = std::fs::symlink_metadata(&path).unwrap();
    assert!(made.file_type().is_fifo());
    assert_eq!(made.mode() & 0o777, 0o600);
}

#[test]
fn a_terminal_has_two_ends_and_a_size() {
    let pty = berth_kernel::open_pty().unwrap();
    let size = berth_kernel::WindowSize {
        rows: 25,
        columns: 80,
    };
    berth_kernel::set_window_size(&pty.master, size).unwrap();
    assert_eq!(berth_kernel::window_size(&pty.slave).unwrap(), size);
}

#[test]
fn a_pinned_namespace_outlives_its_thread() {
    if !root_or_skip("pinned namespaces") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("net");
    std::fs::write(&target, "").unwrap();
    let pinned = target.clone();
    std::thread::spawn(move || {
        berth_kernel::unshare(NamespaceSet::EMPTY.with(Namespace::Network)).unwrap();
        berth_kernel::pin_namespace(Path::new("/proc/thread-self/ns/net"), &pinned).unwrap();
    })
    .join()
    .unwrap();
    let mine = std::fs::metadata("/proc/self/ns/net").unwrap().ino();
    assert_ne!(std::fs::metadata(&target).unwrap().ino(), mine);
    let namespace = berth_kernel::open_namespace(&target).unwrap();
    let joined = std::thread::spawn(move || {
        berth_kernel::join(&namespace, NamespaceSet::EMPTY.with(Namespace::Network)).unwrap();
        std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
    })
    .join()
    .unwrap();
    assert_eq!(joined, std::fs::metadata(&target).unwrap().ino());
    berth_kernel::detach(&target).unwrap();
}

#[test]
fn a_mount_is_shaped_before_it_is_attached() {
    if !root_or_skip("detached mounts") {
        return;
    }
    let context = FilesystemContext::open("tmpfs").unwrap();
    context.set("mode", "0711").unwrap();
    let mount = context.mount(MountFlags::MOUNT_ATTR_NODEV).unwrap();
    berth_kernel::make_node(&mount, Path::new("fifo"), NodeKind::Fifo, 0o600).unwrap();
    let change = AttributeChange {
        set: MountFlags::MOUNT_ATTR_RDONLY,
        ..AttributeChange::default()
    };
    berth_kernel::set_attributes(&mount, &change, None, true).unwrap();
    let refused = berth_kernel::make_node(&mount, Path::new("late"), NodeKind::Fifo, 0o600);
    assert_eq!(refused.unwrap_err(), Errno::ROFS);

    let dir = tempfile::tempdir().unwrap();
    let place = berth_kernel::rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
    berth_kernel::attach(&mount, &place).unwrap();
    assert!(dir.path().join("fifo").exists());
    let copy = berth_kernel::clone_tree(CWD, dir.path(), true).unwrap();
    berth_kernel::detach(dir.path()).unwrap();
    assert!(!dir.path().join("fifo").exists());
    assert!(
        berth_kernel::open_beneath(&copy, Path::new("fifo"), OFlags::PATH, Mode::empty()).is_ok()
    );
}

#[test]
fn a_bad_option_brings_the_kernels_complaint() {
    if !root_or_skip("file system contexts") {
        return;
    }
    let context = FilesystemContext::open("tmpfs").unwrap();
    assert_eq!(context.set("no-such-key", "1").unwrap_err(), Errno::INVAL);
    assert!(context.complaint().contains("no-such-key"));
}

#[test]
fn a_held_user_namespace_has_the_ids_that_it_was_given_and_ends_with_its_holder() {
    if !root_or_skip("a user namespace") {
        return;
    }
    let range = IdMapping {
        inside: 0,
        outside: 70_000,
        length: 1000,
    };
    let kinds = NamespaceSet::EMPTY
        .with(Namespace::User)
        .with(Namespace::Uts);
    let holder = NamespaceHolder::new(kinds).unwrap();
    let overlapping = [range, range];
    assert_eq!(
        holder.map_ids(&[range], &overlapping).unwrap_err(),
        Errno::INVAL
    );
    holder.map_ids(&[range], &[range]).unwrap();
    let user = berth_kernel::open_namespace(&holder.namespace(Namespace::User)).unwrap();
    let place = holder.namespace(Namespace::Uts);
    assert!(place.exists());
    drop(holder);
    assert!(!place.exists(), "the process is still there");

    // The namespace itself lives on in its descriptor.
    let looking = NamespaceHolder::within(user.as_fd()).unwrap();
    assert_eq!(looking.ids().unwrap(), (vec![range], vec![range]));
}
