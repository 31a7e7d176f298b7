use std::collections::BTreeMap;
use std::time::Instant;

use berth_names::Digest;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use crate::schema::{IMAGES, REFERENCES, ReferenceRecord, containers, networks, state};
use crate::{Batch, Error, Options, Store, Table};

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn key(text: &str) -> String {
    text.to_owned()
}

#[test]
fn a_batch_spans_tables_and_keys_keep_their_types() {
    let (_dir, store) = open();
    let image = Digest::sha256_of(b"config");
    let record = ReferenceRecord {
        image: image.clone(),
        target: Digest::sha256_of(b"index"),
    };
    let mut batch = Batch::new();
    batch
        .put(REFERENCES, &key("docker.io/library/a:1"), &record)
        .unwrap();
    batch.put(networks(), &key("cni0"), &7u32).unwrap();
    store.commit(batch).wait().unwrap();
    assert_eq!(
        store
            .get(REFERENCES, &key("docker.io/library/a:1"))
            .unwrap(),
        Some(record)
    );
    assert_eq!(store.get(networks::<u32>(), &key("cni0")).unwrap(), Some(7));
    assert_eq!(store.get(IMAGES, &image).unwrap(), None);
}

#[test]
fn a_record_that_cannot_be_decoded_is_set_aside_and_the_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = Store::open(dir.path()).unwrap();
        let mut batch = Batch::new();
        batch.put(state(), &key("good"), &1u32).unwrap();
        batch.put(state(), &key("bad"), &"no number").unwrap();
        batch
            .put(state(), &key("worse"), &"x".repeat(9000))
            .unwrap();
        store.commit(batch).wait().unwrap();
        let scan = store.scan(state::<u32>()).unwrap();
        assert_eq!(scan.records, [(key("good"), 1)]);
        assert_eq!(scan.set_aside.len(), 2);
        store.commit(Batch::new()).wait().unwrap();
        assert!(store.scan(state::<u32>()).unwrap().set_aside.is_empty());
    }
    let store = Store::open(dir.path()).unwrap();
    let aside = store.set_aside().unwrap();
    let keys: Vec<_> = aside.iter().map(|record| record.key.as_str()).collect();
    assert_eq!(keys, ["bad", "worse"]);
    assert_eq!(
        std::fs::read_dir(dir.path().join("values"))
            .unwrap()
            .count(),
        1,
        "kept as found"
    );
}

#[test]
fn a_key_of_the_wrong_kind_is_set_aside() {
    let (_dir, store) = open();
    let by_text: Table<String, u32> = Table::at(containers::<u32>().index());
    let mut batch = Batch::new();
    batch.put(by_text, &key("../../etc"), &1).unwrap();
    store.commit(batch).wait().unwrap();
    let scan = store.scan(containers::<u32>()).unwrap();
    assert_eq!((scan.records.len(), scan.set_aside.len()), (0, 1));
}

#[test]
fn a_damaged_or_missing_record_file_concerns_that_record_only() {
    let (dir, store) = open();
    for name in ["damaged", "missing", "well"] {
        let mut batch = Batch::new();
        batch.put(state(), &key(name), &name.repeat(5000)).unwrap();
        store.commit(batch).wait().unwrap();
    }
    let mut files: Vec<_> = std::fs::read_dir(dir.path().join("values"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort_by_key(|path| std::fs::read(path).unwrap());
    std::fs::write(&files[0], b"\"other\"").unwrap();
    std::fs::remove_file(&files[1]).unwrap();
    let error = store.get(state::<String>(), &key("damaged")).unwrap_err();
    assert!(matches!(error, Error::Undecodable { .. }), "{error}");
    let scan = store.scan(state::<String>()).unwrap();
    assert!(scan.records.iter().any(|(name, _)| name == "well"));
    assert!(scan.set_aside.iter().any(|record| record.key == "missing"));
}

#[test]
fn replacing_and_removing_large_records_leaves_no_files() {
    let (dir, store) = open();
    let values = dir.path().join("values");
    let count = || std::fs::read_dir(&values).unwrap().count();
    for round in 0..3 {
        let mut batch = Batch::new();
        batch
            .put(state(), &key("k"), &format!("{round}").repeat(10_000))
            .unwrap();
        batch
            .put(state(), &key("k"), &format!("{round}").repeat(20_000))
            .unwrap();
        store.commit(batch).wait().unwrap();
        assert_eq!(count(), 1);
    }
    let mut batch = Batch::new();
    batch.remove(state::<String>(), &key("k"));
    store.commit(batch).wait().unwrap();
    assert_eq!(count(), 0);
}

#[test]
fn many_writers_share_syncs_and_all_are_kept() {
    let (_dir, store) = open();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let store = store.clone();
            scope.spawn(move || {
                for number in 0..25u32 {
                    let mut batch = Batch::new();
                    batch
                        .put(state(), &format!("{writer}/{number}"), &number)
                        .unwrap();
                    store.commit(batch).wait().unwrap();
                }
            });
        }
    });
    assert_eq!(store.scan(state::<u32>()).unwrap().records.len(), 200);
}

#[tokio::test]
async fn a_commit_can_be_awaited_and_a_lazy_one_needs_no_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut lazy = Batch::new();
    lazy.put(state(), &key("lazy"), &1u32).unwrap();
    store.commit_lazily(lazy);
    let mut batch = Batch::new();
    batch.put(state(), &key("awaited"), &2u32).unwrap();
    store.commit(batch).await.unwrap();
    assert_eq!(
        store.get(state::<u32>(), &key("lazy")).unwrap(),
        Some(1),
        "applied in order"
    );
    let mut last = Batch::new();
    last.put(state(), &key("last"), &3u32).unwrap();
    store.commit_lazily(last);
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(
        store.get(state::<u32>(), &key("last")).unwrap(),
        Some(3),
        "closing syncs"
    );
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Fat {
    name: String,
    labels: BTreeMap<String, String>,
}

#[test]
fn ten_thousand_records_are_scanned_in_a_fraction_of_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let labels = (0..20)
        .map(|n| (format!("label-{n}"), "v".repeat(30)))
        .collect();
    let record = Fat {
        name: "n".to_owned(),
        labels,
    };
    let mut batch = Batch::new();
    for number in 0..10_000 {
        batch
            .put(state(), &format!("{number:05}"), &record)
            .unwrap();
    }
    store.commit(batch).wait().unwrap();
    drop(store);
    let began = Instant::now();
    let store = Store::open(dir.path()).unwrap();
    let scan = store.scan(state::<Fat>()).unwrap();
    assert_eq!(scan.records.len(), 10_000);
    assert!(
        scan.records.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "in the order of keys"
    );
    assert!(began.elapsed().as_secs() < 10, "took {:?}", began.elapsed());
}

/// A filesystem of its own, so small that it can be filled.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::empty();
        let data = std::ffi::CString::new(options).unwrap();
        match rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, Some(data.as_c_str())) {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                eprintln!("skipped: needs root to mount a tmpfs: {error}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn on_a_full_disk_additions_fail_and_removals_work() {
    for size in ["size=96m", "size=64m"] {
        fill_and_remove(size);
    }
}

#[test]
fn when_others_took_the_reserve_removals_are_refused_and_the_store_is_well() {
    let Some(disk) = SmallDisk::mount("size=64m") else {
        return;
    };
    let path = disk.0.path();
    let store = Options::new(&path.join("meta"))
        .on_fatal(|error| panic!("the store stopped: {error}"))
        .open()
        .unwrap();
    let mut batch = Batch::new();
    batch.put(state(), &key("a"), &1u32).unwrap();
    store.commit(batch).wait().unwrap();
    std::fs::remove_file(path.join("meta/reserve")).unwrap();
    let mut hog = std::fs::File::create(path.join("hog")).unwrap();
    while std::io::Write::write_all(&mut hog, &[1; 1 << 12]).is_ok() {}

    let removal = || {
        let mut batch = Batch::new();
        batch.remove(state::<u32>(), &key("a"));
        batch
    };
    let error = store.commit(removal()).wait().unwrap_err();
    assert!(error.is_no_space(), "{error:?}");
    std::fs::remove_file(path.join("hog")).unwrap();
    drop(hog);
    store.commit(removal()).wait().unwrap();
    assert_eq!(store.get(state::<u32>(), &key("a")).unwrap(), None);
    drop(store);
}

fn fill_and_remove(size: &str) {
    let Some(disk) = SmallDisk::mount(size) else {
        return;
    };
    let path = disk.0.path();
    let store = Options::new(&path.join("meta"))
        .on_fatal(|error| panic!("the store stopped: {error}"))
        .open()
        .unwrap();
    let mut batch = Batch::new();
    for name in ["a", "b", "c"] {
        batch.put(state(), &key(name), &name.repeat(3000)).unwrap();
    }
    store.commit(batch).wait().unwrap();
    let mut hog = std::fs::File::create(path.join("hog")).unwrap();
    let block = vec![1u8; 1 << 16];
    while std::io::Write::write_all(&mut hog, &block).is_ok() {}

    let mut addition = Batch::new();
    addition.put(state(), &key("d"), &1u32).unwrap();
    let error = store.commit(addition).wait().unwrap_err();
    assert!(error.is_no_space(), "{error:?}");
    for name in ["a", "b", "c"] {
        let mut removal = Batch::new();
        removal.remove(state::<String>(), &key(name));
        store.commit(removal).wait().unwrap();
    }
    assert!(store.scan(state::<String>()).unwrap().records.is_empty());
    drop(hog);
    std::fs::remove_file(path.join("hog")).unwrap();
    let mut addition = Batch::new();
    addition.put(state(), &key("d"), &1u32).unwrap();
    store.commit(addition).wait().unwrap();
    assert!(
        path.join("meta/reserve").exists(),
        "the reserve is made again"
    );
    drop(store);
}

#[derive(Debug, Clone)]
enum Step {
    Put(usize, u8, usize),
    Remove(usize, u8),
    Commit,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2usize, 0..6u8, prop_oneof![0..50usize, 8000..9000usize])
            .prop_map(|(table, key, size)| Step::Put(table, key, size)),
        3 => (0..2usize, 0..6u8).prop_map(|(table, key)| Step::Remove(table, key)),
        3 => Just(Step::Commit),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn batches_behave_like_maps_across_reopening(steps in prop::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let tables: [Table<String, String>; 2] = [state(), networks()];
        let mut model: [BTreeMap<String, String>; 2] = Default::default();
        let mut pending = model.clone();
        let mut batch = Batch::new();
        for step in steps {
            match step {
                Step::Put(table, key, size) => {
                    let value = format!("{key}").repeat(size);
                    batch.put(tables[table], &key.to_string(), &value).unwrap();
                    pending[table].insert(key.to_string(), value);
                }
                Step::Remove(table, key) => {
                    batch.remove(tables[table], &key.to_string());
                    pending[table].remove(&key.to_string());
                }
                Step::Commit => {
                    store.commit(std::mem::take(&mut batch)).wait().unwrap();
                    model = pending.clone();
                }
                Step::Reopen => {
                    batch = Batch::new();
                    pending = model.clone();
                    drop(store);
                    store = Store::open(dir.path()).unwrap();
                }
            }
            for (table, expected) in tables.iter().zip(&model) {
                let found: BTreeMap<_, _> =
                    store.scan(*table).unwrap().records.into_iter().collect();
                prop_assert_eq!(&found, expected);
            }
        }
        let large = model.iter().flat_map(|m| m.values()).filter(|v| v.len() + 2 > 8192).count();
        prop_assert_eq!(std::fs::read_dir(dir.path().join("values")).unwrap().count(), large);
    }
}
