//! The cases. Each is named after what an implementation promises.

use std::thread;

use super::*;
use crate::SnapshotKind;

pub fn a_layer_is_visible_once_committed(open: Open) {
    let Some(bench) = Bench::new(open) else {
        return;
    };
    let diff = Digest::sha256_of(b"layer");
    let id = ChainId::of(None, &diff);
    assert_eq!(bench.store().layer(&id).unwrap(), None);
    let draft = bench.store().begin_layer(&id, None).unwrap();
    fill(draft.path(), &[Item::File("f", "1")]);
    assert_eq!(bench.store().layer(&id).unwrap(), None);
    bench.store().commit(draft, info(&diff)).unwrap();
    assert_eq!(bench.store().layer(&id).unwrap(), Some(info(&diff)));
    let layers = bench.store().layers().unwrap();
    assert_eq!(layers.len(), 1);
    assert_eq!((&layers[0].id, &layers[0].parent), (&id, &None));
}

pub fn a_dropped_draft_leaves_nothing(open: Open) {
    let Some(bench) = Bench::new(open) else {
        return;
    };
    let id = ChainId::of(None, &Digest::sha256_of(b"x"));
    let draft = bench.store().begin_layer(&id, None).unwrap();
    fill(
        draft.path(),
        &[Item::Dir("a/b/c"), Item::File("a/b/f", "1")],
    );
    let path = draft.path().to_path_buf();
    drop(draft);
    assert!(!path.exists());
    assert_eq!(bench.store().layers().unwrap(), []);
    assert_eq!(bench.store().purge_trash().unwrap(), 0);
}

pub fn the_first_commit_of_a_layer_wins(open: Open) {
    let Some(bench) = Bench::new(open) else {
        return;
    };
    let diff = Digest::sha256_of(b"x");
    let id = ChainId::of(None, &diff);
    let drafts = ["first", "second"].map(|text| {
        let draft = bench.store().begin_layer(&id, None).unwrap();
        fill(draft.path(), &[Item::File("f", text)]);
        draft
    });
    for draft in drafts {
        bench.store().commit(draft, info(&diff)).unwrap();
    }
    let (_mount, root) = mounted(&bench.store().view("v", &[id]).unwrap());
    assert_eq!(read(&root, "f").as_deref(), Some("first"));
}

pub fn a_writable_snapshot_shows_its_layers_and_keeps_them_unchanged(open: Open) {
    let Some(bench) = Bench::new(open) else {
        return;
    };
    let base = bench.layer(None, &[Item::File("a", "base"), Item::File("b", "base")]);
    let top = bench.layer(Some(&base), &[Item::File("b", "top")]);
    let layers = [base, top];
    let (_one, one) = mounted(&bench.store().prepare("one", &layers).unwrap());
    let (_two, two) = mounted(&bench.store().prepare("two", &layers).unwrap());
    assert_eq!(read(&one, "a").as_deref(), Some("base"));
    assert_eq!(read(&one, "b").as_deref(), Some("top"));
    fs::write(one.join("a"), "changed").unwrap();
    fs::remove_file(one.join("b")).unwrap();
    assert_eq!(read(&one, "b"), None);
    assert_eq!(read(&two, "a").as_deref(), Some("base"));
    assert_eq!(read(&two, "b").as_deref(), Some("top"));
}

pub fn snapshots_of_no_layers_are_empty(open: Open) {
    let Some(bench) = Bench::new(open) else {
        return;
    };
    let (_writable, writable) = mounted(&bench.store().prepare("w", &[]).unwrap());
    assert_eq!(fs::read_dir(&writable).unwrap().count(), 0);
    fs::write(writable.join("f"), "1").unwrap();
    let mounts = bench.store().view("v", &[]).unwrap();
    assert!(mounts[0].options.iter().any(|o| o == "ro"));
    let (_view, view) = mounted(&mounts);
    assert_eq!(fs::read_dir(&view).unwrap().count(), 0);
}

pub fn a_view_is_read_only(open: Open) {
    let Some(bench) = Bench::new(open) else {
        return;
    };
    let base = bench.layer(None, &[Item::File("a", "base")]);
    let top = bench.layer(Some(&base), &[Item::File("b", "top")]);
    let single = bench
        .store()
        .view("single", std::slice::from_ref(&base))
        .unwrap();
    assert!(single[0].options.iter().any(|o| o == "ro"));
    let (_single, root) = mounted(&single);
    assert_eq!(read(&root, "a").as_deref(), Some("base"));
    let several = bench.store().view("several", &[base, top]).unwrap();
    assert!(several[0].options.iter().any(|o| o == "ro"));
    let (_several, root) = mounted(&several);
    assert_eq!(read(&root, "a").as_deref(), Some("base"));
    assert_eq!(read(&root, "b").as_deref(), Some("top"));
    assert!(fs::write(root.join("a"), "x").is_err());
}

pub fn whiteouts_and_opaque_directories_hide_what_is_beneath(open: Open) {
    let Some(bench) = Bench::new(open) else {
        return;
    };
    let base = [
        Item::Dir("d"),
        Item::File("d/old", "1"),
        Item::File("gone", "1"),
    ];
    let base = bench.layer(None, &base);
    let top = [
        Item::Whiteout("gone"),
        Item::Dir("d"),
        Item::File("d/new", "2"),
        Item::Opaque("d"),
    ];
    let top = bench.layer(Some(&base), &top);
    let layers = [base, top];
    for mounts in [
        bench.store().prepare("w", &layers).unwrap(),
        bench.store().view("v", &layers).unwrap(),
    ] {
        let (_mount, root) = mounted(&mounts);
        assert!(!root.join("gone").exists());
        assert_eq!(read(&root, "d/old"), None);
        assert_eq!(read(&root, "d/new").as_deref(), Some("2"));
    }
}

pub fn an_opaque_root_hides_all_layers_beneath(open: Open) {
    let Some(bench) = Bench::new(open) else {
        return;
    };
    let base = bench.layer(None, &[Item::File("old", "1")]);
    let middle = bench.layer(Some(&base), &[Item::File("new", "2"), Item::Opaque("")]);
    let top = bench.layer(Some(&middle), &[Item::File("newer", "3")]);
    let mounts = bench.store().prepare("w", &[base, middle, top]).unwrap();
    let (_mount, root) = mounted(&mounts);
    assert_eq!(read(&root, "old"), None);
    assert_eq!(read(&root, "new").as_deref(), Some("2"));
    assert_eq!(read(&root, "newer").as_deref(), Some("3"));
}

pub fn keys_that_are_no_ids_are_refused(open: Open) {
    let Some(bench) = Bench::new(open) else {
        return;
    };
    let long = "k".repeat(129);
    for key in [
        "", ".", "..", "a/b", "../x", "-a", ".hidden", "a b", "a\0b", "a:b", "é", &long,
    ] {
        let store = bench.store();
        let results = [
            store.prepare(key, &[]).map(drop),
            store.view(key, &[]).map(drop),
            store.mounts(key).map(drop),
            store.remove(key),
            store.usage(key).map(drop),
        ];
        for result in results {
            assert!(
                matches!(result, Err(Error::InvalidKey { .. })),
                "{key:?}: {result:?}"
            );
        }
    }
    for key in ["a", "A-1_b.c", &long[..128]] {
        bench.store().prepare(key, &[]).unwrap();
    }
}

pub fn a_key_is_used_once(open: Open) {
    let Some(bench) = Bench::new(open) else {
        return;
    };
    bench.store().prepare("k", &[]).unwrap();
    let again = [
        bench.store().prepare("k", &[]),
        bench.store().view("k", &[]),
    ];
    for result in again {
        assert!(
            matches!(result, Err(Error::SnapshotExists { .. })),
            "{result:?}"
        );
    }
    bench.store().remove("k").unwrap();
    bench.store().view("k", &[]).unwrap();
    assert_eq!(
        bench.store().snapshots().unwrap()[0].kind,
        SnapshotKind::View
    );
}

pub fn a_missing_layer_fails_the_snapshot_and_leaves_nothing(open: Open) {
    let Some(bench) = Bench::new(open) else {
        return;
    };
    let here = bench.layer(None, &[Item::File("a", "1")]);
    let absent = ChainId::of(Some(&here), &Digest::sha256_of(b"absent"));
    let result = bench.store().prepare("k", &[here.clone(), absent.clone()]);
    assert!(matches!(result, Err(Error::LayerMissing { layer }) if layer == absent));
    assert_eq!(bench.store().snapshots().unwrap(), []);
    bench.store().remove_layer(&here).unwrap();
}

pub fn a_layer_in_use_stays(open: Open) {
    let Some(mut bench) = Bench::new(open) else {
        return;
    };
    let base = bench.layer(None, &[Item::File("a", "1")]);
    bench
        .store()
        .prepare("k", std::slice::from_ref(&base))
        .unwrap();
    bench.reopen();
    let refused = bench.store().remove_layer(&base);
    assert!(matches!(refused, Err(Error::LayerInUse { key, .. }) if key == "k"));
    bench.store().remove("k").unwrap();
    bench.store().remove_layer(&base).unwrap();
    assert_eq!(bench.store().layer(&base).unwrap(), None);
}

pub fn removing_twice_is_harmless(open: Open) {
    let Some(bench) = Bench::new(open) else {
        return;
    };
    let base = bench.layer(None, &[Item::File("a", "1")]);
    bench
        .store()
        .prepare("k", std::slice::from_ref(&base))
        .unwrap();
    for _ in 0..2 {
        bench.store().remove("k").unwrap();
        assert!(matches!(
            bench.store().mounts("k"),
            Err(Error::SnapshotMissing { .. })
        ));
        assert!(matches!(
            bench.store().usage("k"),
            Err(Error::SnapshotMissing { .. })
        ));
    }
    for _ in 0..2 {
        bench.store().remove_layer(&base).unwrap();
    }
    assert_eq!(bench.store().layers().unwrap(), []);
}

pub fn a_snapshot_survives_a_restart_and_mounts_again_after_a_crash(open: Open) {
    let Some(mut bench) = Bench::new(open) else {
        return;
    };
    let base = bench.layer(None, &[Item::File("a", "base")]);
    let mounts = bench.store().prepare("k", &[base]).unwrap();
    let (mount, root) = mounted(&mounts);
    fs::write(root.join("a"), "written").unwrap();
    drop(mount);
    let (mount, root) = mounted(&bench.store().mounts("k").unwrap());
    assert_eq!(read(&root, "a").as_deref(), Some("written"));
    drop(mount);
    bench.reopen();
    assert_eq!(bench.store().snapshots().unwrap().len(), 1);
    assert_eq!(bench.store().mounts("k").unwrap(), mounts);
    let (_mount, root) = mounted(&mounts);
    assert_eq!(read(&root, "a").as_deref(), Some("written"));
}

pub fn usage_counts_what_was_written(open: Open) {
    let Some(bench) = Bench::new(open) else {
        return;
    };
    let base = bench.layer(None, &[Item::File("a", "base")]);
    let (_mount, root) = mounted(&bench.store().prepare("k", &[base]).unwrap());
    let before = bench.store().usage("k").unwrap();
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/f"), vec![7u8; 1 << 20]).unwrap();
    fs::hard_link(root.join("d/f"), root.join("d/g")).unwrap();
    let hole = fs::File::create(root.join("hole")).unwrap();
    hole.set_len(1 << 30).unwrap();
    // Blocks are allocated when the file is flushed, which a volatile mount does not do.
    bench.store().sync().unwrap();
    let after = bench.store().usage("k").unwrap();
    assert_eq!(after.inodes - before.inodes, 3);
    let grown = after.bytes - before.bytes;
    assert!(
        (1 << 20..(1 << 20) + (64 << 10)).contains(&grown),
        "grew by {grown} bytes"
    );
}

pub fn sync_keeps_layers(open: Open) {
    let Some(mut bench) = Bench::new(open) else {
        return;
    };
    let base = bench.layer(None, &[Item::File("a", "base")]);
    bench.store().sync().unwrap();
    bench.store().sync().unwrap();
    bench.reopen();
    assert!(bench.store().layer(&base).unwrap().is_some());
    bench.store().remove_layer(&base).unwrap();
    bench.store().sync().unwrap();
    bench.reopen();
    assert_eq!(bench.store().layers().unwrap(), []);
}

pub fn a_hundred_and_thirty_layers_mount(open: Open) {
    let Some(bench) = Bench::new(open) else {
        return;
    };
    let mut chain: Vec<ChainId> = Vec::new();
    for n in 0..130 {
        let (own, text) = (format!("f{n}"), n.to_string());
        let content = [Item::File(&own, "1"), Item::File("last", &text)];
        chain.push(bench.layer(chain.last(), &content));
    }
    let (_mount, root) = mounted(&bench.store().prepare("k", &chain).unwrap());
    assert_eq!(fs::read_dir(&root).unwrap().count(), 131);
    assert_eq!(read(&root, "last").as_deref(), Some("129"));
}

pub fn of_many_makers_of_one_key_one_wins(open: Open) {
    let Some(bench) = Bench::new(open) else {
        return;
    };
    let base = bench.layer(None, &[Item::File("a", "base")]);
    let store = bench.store();
    let layers = [base];
    for _ in 0..20 {
        let wins = thread::scope(|scope| {
            let makers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| store.prepare("k", &layers).is_ok()))
                .collect();
            makers
                .into_iter()
                .map(|m| m.join().unwrap())
                .filter(|&w| w)
                .count()
        });
        assert_eq!(wins, 1);
        store.remove("k").unwrap();
    }
}

pub fn racing_commits_of_one_layer_all_succeed(open: Open) {
    let Some(bench) = Bench::new(open) else {
        return;
    };
    let diff = Digest::sha256_of(b"raced");
    let id = ChainId::of(None, &diff);
    let store = bench.store();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let draft = store.begin_layer(&id, None).unwrap();
                fill(draft.path(), &[Item::File("f", "1")]);
                store.commit(draft, info(&diff)).unwrap();
            });
        }
    });
    assert_eq!(store.layers().unwrap().len(), 1);
}

pub fn removed_trees_are_purged(open: Open) {
    let Some(bench) = Bench::new(open) else {
        return;
    };
    let base = bench.layer(None, &[Item::Dir("a/b"), Item::File("a/b/f", "1")]);
    let (mount, root) = mounted(
        &bench
            .store()
            .prepare("k", std::slice::from_ref(&base))
            .unwrap(),
    );
    fs::create_dir_all(root.join("x/y/z")).unwrap();
    drop(mount);
    bench.store().remove("k").unwrap();
    bench.store().remove_layer(&base).unwrap();
    assert!(bench.store().purge_trash().unwrap() >= 8);
    assert_eq!(bench.store().purge_trash().unwrap(), 0);
}

pub fn a_retired_layer_stays_for_those_who_have_it_and_makes_room_for_another(open: Open) {
    let Some(mut bench) = Bench::new(open) else {
        return;
    };
    let layer = bench.layer(None, &[Item::File("f", "good")]);
    let store = bench.store();
    let (_held, held) = mounted(&store.prepare("user", std::slice::from_ref(&layer)).unwrap());
    store.sync().unwrap();
    store.retire_layer(&layer).unwrap();
    store.retire_layer(&layer).unwrap();
    assert_eq!(store.layer(&layer).unwrap(), None);
    assert!(store.layer_content(&layer).unwrap().is_none());
    assert!(matches!(
        store.mounts("user"),
        Err(Error::LayerMissing { .. })
    ));
    store.purge_trash().unwrap();
    assert_eq!(read(&held, "f").as_deref(), Some("good"));

    let again = bench.layer(None, &[Item::File("f", "good")]);
    assert_eq!(again, layer);
    bench.reopen();
    let store = bench.store();
    store.mounts("user").unwrap();
    assert!(store.layer_content(&layer).unwrap().is_some());
    store.purge_trash().unwrap();
    assert_eq!(read(&held, "f").as_deref(), Some("good"));
    assert!(matches!(
        store.remove_layer(&layer),
        Err(Error::LayerInUse { .. })
    ));
    store.remove("user").unwrap();
    assert!(store.purge_trash().unwrap() > 0);
    store.retire_layer(&layer).unwrap();
    assert!(store.purge_trash().unwrap() > 0, "nothing stands on it");
}

pub fn a_layer_is_measured_as_the_disk_counts(open: Open) {
    let Some(bench) = Bench::new(open) else {
        return;
    };
    let layer = bench.layer(
        None,
        &[Item::Dir("d"), Item::File("d/f", "1"), Item::File("g", "")],
    );
    let usage = bench.store().layer_usage(&layer).unwrap();
    assert_eq!(usage.inodes, 4);
    assert!(usage.bytes >= 512 && usage.bytes % 512 == 0, "{usage:?}");
    assert_eq!(bench.store().layer_usage(&layer).unwrap(), usage);
    let none = ChainId::of(None, &Digest::sha256_of(b"none"));
    assert!(bench.store().layer_usage(&none).is_err());
}
