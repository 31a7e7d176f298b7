use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use berth_names::Digest;
use rustix::fs::CWD;

use super::*;

fn store(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("store")
}

fn commit(overlay: &Overlay, text: &str) -> ChainId {
    let diff = Digest::sha256_of(text.as_bytes());
    let id = ChainId::of(None, &diff);
    let draft = overlay.begin_layer(&id, None).unwrap();
    fs::write(draft.path().join("f"), text).unwrap();
    overlay
        .commit(
            draft,
            LayerInfo {
                diff_id: diff,
                size: 1,
                inodes: 2,
            },
        )
        .unwrap();
    id
}

fn count(path: PathBuf) -> usize {
    fs::read_dir(path).unwrap().count()
}

#[test]
fn a_layer_that_goes_while_layers_are_flushed_leaves_no_mark() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = Overlay::open(&store(&dir)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                overlay.sync().unwrap();
            }
        });
        // So many at a time that a flush always begins with some that are gone when it ends.
        for round in 0..40 {
            let made: Vec<_> = (0..8)
                .map(|number| commit(&overlay, &format!("{round}-{number}")))
                .collect();
            for (number, id) in made.iter().enumerate() {
                match number % 2 {
                    0 => overlay.remove_layer(id).unwrap(),
                    _ => overlay.retire_layer(id).unwrap(),
                }
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(count(store(&dir).join("durable")), 0);
}

#[test]
fn a_layer_that_was_not_flushed_is_dropped_after_a_reboot() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = Overlay::open_in_boot(&store(&dir), "boot one").unwrap();
    let flushed = commit(&overlay, "flushed");
    overlay.sync().unwrap();
    let lost = commit(&overlay, "lost");
    drop(overlay);

    let overlay = Overlay::open_in_boot(&store(&dir), "boot one").unwrap();
    assert!(
        overlay.layer(&lost).unwrap().is_some(),
        "a restart alone loses nothing"
    );
    drop(overlay);

    let overlay = Overlay::open_in_boot(&store(&dir), "boot two").unwrap();
    assert_eq!(overlay.recovery().unflushed_layers, 1);
    assert!(overlay.layer(&flushed).unwrap().is_some());
    assert_eq!(overlay.layer(&lost).unwrap(), None);

    let again = commit(&overlay, "lost");
    overlay.sync().unwrap();
    drop(overlay);
    let overlay = Overlay::open_in_boot(&store(&dir), "boot three").unwrap();
    assert!(overlay.layer(&again).unwrap().is_some());
}

#[test]
fn a_marker_does_not_vouch_for_a_later_copy_of_the_layer() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = Overlay::open_in_boot(&store(&dir), "boot one").unwrap();
    let id = commit(&overlay, "x");
    overlay.sync().unwrap();
    let markers = fs::read_dir(store(&dir).join("durable")).unwrap();
    let marker = markers.map(|e| e.unwrap().path()).next().unwrap();
    overlay.remove_layer(&id).unwrap();
    assert!(!marker.exists());
    commit(&overlay, "x");
    // The removal of the marker did not reach the disk.
    fs::write(&marker, "").unwrap();
    drop(overlay);
    let overlay = Overlay::open_in_boot(&store(&dir), "boot two").unwrap();
    assert_eq!(overlay.layer(&id).unwrap(), None);
    assert!(!marker.exists());
}

#[test]
fn what_a_dead_process_left_is_cleaned_at_open() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = Overlay::open(&store(&dir)).unwrap();
    let id = commit(&overlay, "x");
    std::mem::drop(overlay);
    fs::create_dir_all(store(&dir).join("drafts/dead/fs/a")).unwrap();
    fs::create_dir_all(store(&dir).join("layers/half/fs")).unwrap();
    fs::create_dir_all(store(&dir).join("active/half-deleted/upper/x")).unwrap();
    fs::create_dir_all(store(&dir).join("active/damaged/upper")).unwrap();
    fs::write(store(&dir).join("active/damaged/snapshot.json"), "{").unwrap();
    fs::create_dir_all(store(&dir).join("trash/older")).unwrap();

    let overlay = Overlay::open(&store(&dir)).unwrap();
    let expected = Recovery {
        drafts: 1,
        unflushed_layers: 0,
        damaged_layers: 1,
        unlimited_snapshots: Vec::new(),
        damaged_snapshots: vec![store(&dir).join("active/damaged")],
    };
    assert_eq!(overlay.recovery(), &expected);
    assert!(overlay.layer(&id).unwrap().is_some());
    assert_eq!(overlay.snapshots().unwrap(), []);
    overlay.remove("damaged").unwrap();
    assert!(overlay.purge_trash().unwrap() >= 10);
    for (name, left) in [("drafts", 0), ("layers", 1), ("active", 0), ("trash", 0)] {
        assert_eq!(count(store(&dir).join(name)), left, "{name}");
    }
}

#[test]
fn the_store_is_opened_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = Overlay::open(&store(&dir)).unwrap();
    let waiting = store(&dir);
    let second = std::thread::spawn(move || Overlay::open(&waiting).map(drop));
    std::thread::sleep(std::time::Duration::from_millis(50));
    drop(first);
    second.join().unwrap().unwrap();
}

#[test]
fn a_root_that_mount_options_cannot_carry_is_refused() {
    for root in ["relative", "/tmp/a:b", "/tmp/a,b", "/tmp/a\\b"] {
        assert!(matches!(
            Overlay::open(Path::new(root)),
            Err(Error::InvalidRoot { .. })
        ));
    }
}

#[test]
fn the_store_is_closed_to_other_users() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let _overlay = Overlay::open(&store(&dir)).unwrap();
    assert_eq!(fs::metadata(store(&dir)).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn the_root_of_a_writable_snapshot_looks_like_the_top_layers_root() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root: changes owners");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let overlay = Overlay::open(&store(&dir)).unwrap();
    let id = commit(&overlay, "x");
    let fs_dir = store(&dir).join("layers").join(id.hex()).join("fs");
    std::os::unix::fs::chown(&fs_dir, Some(7), Some(8)).unwrap();
    fs::set_permissions(&fs_dir, fs::Permissions::from_mode(0o1777)).unwrap();
    overlay.prepare("k", &[id]).unwrap();
    let upper = fs::metadata(store(&dir).join("active/k/upper")).unwrap();
    assert_eq!(
        (upper.mode() & 0o7777, upper.uid(), upper.gid()),
        (0o1777, 7, 8)
    );
}

/// Nests directories below `top` without ever using a path.
fn nest(top: &Path, depth: usize) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = rustix::fs::openat(CWD, top, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, "d", flags, Mode::empty()).unwrap();
    }
}

fn open_descriptors() -> usize {
    count(PathBuf::from("/proc/self/fd"))
}

#[test]
fn a_tree_100_000_levels_deep_is_measured_and_removed_with_few_descriptors() {
    const DEPTH: usize = 100_000;
    // In memory: a disk filesystem takes a block for each of these directories.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let overlay = Overlay::open(&store(&dir)).unwrap();
    overlay.prepare("deep", &[]).unwrap();
    nest(&store(&dir).join("active/deep/upper"), DEPTH);
    let before = open_descriptors();
    assert_eq!(overlay.usage("deep").unwrap().inodes, DEPTH as u64 + 1);
    overlay.remove("deep").unwrap();
    // The snapshot's directory, its record, upper and work.
    assert_eq!(overlay.purge_trash().unwrap(), DEPTH as u64 + 4);
    assert_eq!(count(store(&dir).join("trash")), 0);
    // Other tests of this process open a few files of their own.
    assert!(open_descriptors() < before + 100);
}

#[test]
fn removal_does_not_follow_links_and_takes_what_is_immutable() {
    let dir = tempfile::tempdir().unwrap();
    let canary = dir.path().join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("kept"), "1").unwrap();
    let overlay = Overlay::open(&store(&dir)).unwrap();
    overlay.prepare("k", &[]).unwrap();
    let upper = store(&dir).join("active/k/upper");
    std::os::unix::fs::symlink(&canary, upper.join("link")).unwrap();
    fs::create_dir(upper.join("d")).unwrap();
    fs::write(upper.join("d/locked"), "1").unwrap();
    for locked in ["d/locked", "d"] {
        let file = fs::File::open(upper.join(locked)).unwrap();
        let flag = rustix::fs::IFlags::IMMUTABLE;
        if let Err(errno) = rustix::fs::ioctl_setflags(&file, flag) {
            eprintln!("skipped the immutable part: {errno}");
        }
    }
    overlay.remove("k").unwrap();
    overlay.purge_trash().unwrap();
    assert_eq!(count(store(&dir).join("trash")), 0);
    assert!(canary.join("kept").exists());
}
