//! What every [`Snapshotter`] has to do, as tests that any implementation can run.
//!
//! [`snapshotter_contract!`](crate::snapshotter_contract) makes one test of each case. The cases
//! need root, because they mount what they are given; they print so and pass without it.
//! Mounts are made detached, so that no case can leave one behind.

// A failed expectation here is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cases;
mod mounting;

use std::fs;
use std::path::{Path, PathBuf};

use berth_names::{ChainId, Digest};
use rustix::fs::{CWD, FileType, Mode};

use crate::{Error, LayerInfo, Mount, Snapshotter};

pub use cases::*;
pub use mounting::Mounted;

/// Opens the implementation under test on a directory, again if it was open before.
pub type Open = fn(&Path) -> Box<dyn Snapshotter>;

/// A store on a scratch directory.
struct Bench {
    open: Open,
    dir: tempfile::TempDir,
    store: Option<Box<dyn Snapshotter>>,
}

impl Bench {
    /// `None` without the privileges that mounting takes.
    fn new(open: Open) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root: overlay mounts and whiteout devices");
            return None;
        }
        let dir = tempfile::tempdir().expect("a scratch directory");
        let store = Some(open(&dir.path().join("store")));
        Some(Self { open, dir, store })
    }

    fn store(&self) -> &dyn Snapshotter {
        self.store.as_deref().expect("the store is open")
    }

    /// Closes the store and opens it again, as a restarted daemon does.
    fn reopen(&mut self) {
        self.store = None;
        self.store = Some((self.open)(&self.dir.path().join("store")));
    }

    /// Commits a layer with the given content over `parent`.
    fn layer(&self, parent: Option<&ChainId>, content: &[Item<'_>]) -> ChainId {
        let diff = Digest::sha256_of(format!("{content:?}").as_bytes());
        let id = ChainId::of(parent, &diff);
        let draft = self.store().begin_layer(&id, parent).expect("a draft");
        fill(draft.path(), content);
        self.store().commit(draft, info(&diff)).expect("a commit");
        id
    }
}

/// Something that a layer contains, in the form in which layers are unpacked.
#[derive(Debug, Clone, Copy)]
enum Item<'a> {
    File(&'a str, &'a str),
    Dir(&'a str),
    Whiteout(&'a str),
    Opaque(&'a str),
}

fn fill(root: &Path, content: &[Item<'_>]) {
    for item in content {
        match item {
            Item::File(path, text) => fs::write(root.join(path), text).unwrap(),
            Item::Dir(path) => fs::create_dir_all(root.join(path)).unwrap(),
            Item::Whiteout(path) => rustix::fs::mknodat(
                CWD,
                root.join(path),
                FileType::CharacterDevice,
                Mode::empty(),
                rustix::fs::makedev(0, 0),
            )
            .unwrap(),
            Item::Opaque(path) => {
                let flags = rustix::fs::XattrFlags::empty();
                let path = root.join(path);
                rustix::fs::setxattr(path, "trusted.overlay.opaque", b"y", flags).unwrap();
            }
        }
    }
}

fn info(diff: &Digest) -> LayerInfo {
    LayerInfo {
        diff_id: diff.clone(),
        size: 5,
        inodes: 2,
    }
}

fn read(root: &Path, path: &str) -> Option<String> {
    fs::read_to_string(root.join(path)).ok()
}

fn mounted(mounts: &[Mount]) -> (Mounted, PathBuf) {
    let mounted = Mounted::new(mounts);
    let path = mounted.path();
    (mounted, path)
}

/// One test for each case of the contract. The argument is an [`Open`](crate::contract::Open).
#[macro_export]
macro_rules! snapshotter_contract {
    ($open:expr) => {
        $crate::snapshotter_contract!(@cases $open;
            a_layer_is_visible_once_committed
            a_dropped_draft_leaves_nothing
            the_first_commit_of_a_layer_wins
            a_writable_snapshot_shows_its_layers_and_keeps_them_unchanged
            snapshots_of_no_layers_are_empty
            a_view_is_read_only
            whiteouts_and_opaque_directories_hide_what_is_beneath
            an_opaque_root_hides_all_layers_beneath
            keys_that_are_no_ids_are_refused
            a_key_is_used_once
            a_missing_layer_fails_the_snapshot_and_leaves_nothing
            a_layer_in_use_stays
            removing_twice_is_harmless
            a_snapshot_survives_a_restart_and_mounts_again_after_a_crash
            usage_counts_what_was_written
            sync_keeps_layers
            a_hundred_and_thirty_layers_mount
            of_many_makers_of_one_key_one_wins
            racing_commits_of_one_layer_all_succeed
            removed_trees_are_purged
            a_retired_layer_stays_for_those_who_have_it_and_makes_room_for_another
            a_layer_is_measured_as_the_disk_counts
        );
    };
    (@cases $open:expr; $($case:ident)*) => {
        $(#[test] fn $case() { $crate::contract::$case($open) })*
    };
}
