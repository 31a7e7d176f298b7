//! Whatever happens to the files of the database: what was acknowledged is there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::disk::Disk;
use crate::schema::{networks, state};
use crate::{Batch, Error, Options, Store};

type Records = BTreeMap<String, String>;

fn put(store: &Store, key: &str, value: &str) -> Result<(), Error> {
    let mut batch = Batch::new();
    batch.put(state(), &key.to_owned(), &value.to_owned())?;
    batch.put(networks(), &key.to_owned(), &value.to_owned())?;
    store.commit(batch).wait()
}

fn remove(store: &Store, key: &str) -> Result<(), Error> {
    let mut batch = Batch::new();
    batch.remove(state::<String>(), &key.to_owned());
    batch.remove(networks::<String>(), &key.to_owned());
    store.commit(batch).wait()
}

fn all(store: &Store) -> Records {
    let one: Records = store.scan(state()).unwrap().records.into_iter().collect();
    let other: Records = store
        .scan(networks())
        .unwrap()
        .records
        .into_iter()
        .collect();
    assert_eq!(one, other, "half a batch");
    one
}

/// Some records, one of them in a file of its own.
fn furnish(store: &Store, prefix: &str, count: usize) -> Records {
    let mut records = Records::new();
    for number in 0..count {
        let value = match number % 10 {
            3 => "large ".repeat(3000),
            _ => format!("value {number}"),
        };
        let key = format!("{prefix}-{number}");
        put(store, &key, &value).unwrap();
        records.insert(key, value);
    }
    let gone = format!("{prefix}-0");
    remove(store, &gone).unwrap();
    records.remove(&gone);
    records
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else if !path.ends_with("lock") {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn exports(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = fs::read_dir(dir.join("exports"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "jsonl"))
        .collect();
    found.sort();
    found
}

fn until_exported(dir: &Path, count: usize) {
    let begin = std::time::Instant::now();
    while exports(dir).len() < count {
        assert!(begin.elapsed() < Duration::from_secs(20), "no export came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_the_engine_has_not_written_is_applied_from_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("a")).unwrap();
    let records = furnish(&store, "r", 40);
    // As after a power cut: nothing of what the engine only has in memory.
    copy(&dir.path().join("a"), &dir.path().join("b"));
    let copied = Store::open(dir.path().join("b")).unwrap();
    assert_eq!(all(&copied), records);
    assert!(copied.restored().is_none());
    assert_eq!(all(&store), records);
}

#[test]
fn a_missing_database_is_rebuilt_from_the_journal_alone() {
    let dir = tempfile::tempdir().unwrap();
    let records = furnish(&Store::open(dir.path()).unwrap(), "r", 25);
    fs::remove_dir_all(dir.path().join("sled")).unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(all(&store), records);
    let restored = store.restored().unwrap();
    assert!(restored.is_whole() && restored.export.is_none() && restored.kept.is_none());
    drop(store);
    assert!(Store::open(dir.path()).unwrap().restored().is_none());
}

#[test]
fn damage_at_every_block_of_the_database_loses_nothing() {
    let origin = tempfile::tempdir().unwrap();
    let records = {
        let store = Options::new(origin.path())
            .export_every(Duration::from_millis(10))
            .open()
            .unwrap();
        let mut records = furnish(&store, "before", 30);
        until_exported(origin.path(), 1);
        records.extend(furnish(&store, "after", 30));
        records
    };
    let database = origin.path().join("sled/db");
    let whole = fs::read(&database).unwrap();
    // The engine fills its file up with zeros.
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let mut rebuilt = 0;
    for block in (0..used).step_by(512) {
        for cut in [false, true] {
            let place = tempfile::tempdir().unwrap();
            copy(origin.path(), place.path());
            let mut bytes = whole.clone();
            if cut {
                bytes.truncate(block);
            } else {
                bytes[block] ^= 0xff;
            }
            fs::write(place.path().join("sled/db"), &bytes).unwrap();
            let store = Store::open(place.path()).unwrap();
            assert_eq!(all(&store), records, "block {block}, cut {cut}");
            if let Some(restored) = store.restored() {
                rebuilt += 1;
                assert!(restored.is_whole(), "{restored:?}");
            }
        }
    }
    assert!(rebuilt > 0, "no damage was ever noticed");
}

#[test]
fn a_damaged_export_is_passed_over_for_an_older_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut records = Records::new();
    {
        let store = Options::new(dir.path())
            .export_every(Duration::from_millis(5))
            .open()
            .unwrap();
        for (round, prefix) in ["a", "b", "c"].iter().enumerate() {
            records.extend(furnish(&store, prefix, 12));
            until_exported(dir.path(), round + 1);
        }
    }
    let newest = exports(dir.path()).pop().unwrap();
    let text = fs::read_to_string(&newest).unwrap();
    fs::write(&newest, text.replacen("value", "Value", 1)).unwrap();
    fs::write(dir.path().join("sled/db"), b"nonsense").unwrap();
    let store = Store::open(dir.path()).unwrap();
    let restored = store.restored().unwrap();
    let used = restored.export.as_ref().unwrap().sequence;
    assert!(!newest.ends_with(format!("{used:016x}.jsonl")));
    assert!(restored.is_whole(), "{restored:?}");
    assert!(restored.kept.as_ref().unwrap().join("db").exists());
    assert_eq!(all(&store), records);
}

#[test]
fn exports_let_the_journal_forget_and_only_three_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Options::new(dir.path())
        .export_every(Duration::from_millis(1))
        .open()
        .unwrap();
    let large = "x".repeat(8000);
    for number in 0..700 {
        put(&store, &format!("r-{}", number % 7), &large).unwrap();
    }
    until_exported(dir.path(), 1);
    drop(store);
    assert!(exports(dir.path()).len() <= 3);
    let segments = fs::read_dir(dir.path().join("journal")).unwrap().count();
    assert!(segments < 11, "{segments} segments of 11 are still there");
}

#[test]
fn a_disk_that_fails_at_any_operation_loses_nothing_acknowledged() {
    let mut failures = 0;
    for n in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let (disk, left) = Disk::failing_at(n);
        let mut acknowledged = Records::new();
        let mut uncertain = BTreeMap::new();
        let mut options = Options::new(dir.path());
        options.disk = disk;
        if let Ok(store) = options.open() {
            for number in 0..6 {
                let value = match number {
                    2 | 4 => "large ".repeat(3000),
                    _ => format!("value {number}"),
                };
                let key = format!("k{}", number % 4);
                match put(&store, &key, &value) {
                    Ok(()) => {
                        acknowledged.insert(key, value);
                    }
                    Err(_) => {
                        uncertain.entry(key).or_insert_with(Vec::new).push(value);
                    }
                }
            }
        }
        let untouched = left.load(Ordering::SeqCst) >= 0;
        let store = Store::open(dir.path()).unwrap();
        let found = all(&store);
        for (key, value) in &acknowledged {
            let new = uncertain.get(key).into_iter().flatten();
            let allowed: Vec<&String> = [value].into_iter().chain(new).collect();
            assert!(
                found.get(key).is_some_and(|found| allowed.contains(&found)),
                "failing at {n}: {key} was acknowledged and is lost"
            );
        }
        for (key, value) in &found {
            let tried = uncertain
                .get(key)
                .is_some_and(|values| values.contains(value));
            assert!(
                acknowledged.get(key) == Some(value) || tried,
                "failing at {n}: {key} is there and nobody wrote it"
            );
        }
        if untouched {
            break;
        }
        failures += 1;
    }
    assert!(
        failures > 15,
        "only {failures} operations were made to fail"
    );
}

#[test]
fn an_export_goes_into_an_empty_store_and_into_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("a")).unwrap();
    let records = furnish(&store, "r", 30);
    let file = dir.path().join("export");
    let summary = store.export(fs::File::create(&file).unwrap()).unwrap();
    assert_eq!(summary.total(), 58);
    drop(store);

    let other = Options::new(&dir.path().join("b"));
    assert_eq!(other.import(&file).unwrap(), summary);
    match other.import(&file).unwrap_err() {
        Error::NotEmpty { records: 58, .. } => {}
        error => panic!("{error}"),
    }
    assert_eq!(all(&other.open().unwrap()), records);

    let text = fs::read_to_string(&file).unwrap();
    for (what, changed) in [
        ("a changed value", text.replacen("value 1", "value 7", 1)),
        (
            "a missing line",
            text.replacen(text.lines().nth(2).unwrap(), "", 1),
        ),
        ("a cut", text[..text.len() / 2].to_owned()),
        ("nothing", String::new()),
        ("other text", "hello\n".to_owned()),
        ("more behind the end", format!("{text}{text}")),
    ] {
        fs::write(&file, changed).unwrap();
        let empty = Options::new(&dir.path().join("c"));
        match empty.import(&file) {
            Err(Error::BadExport { .. }) => {}
            outcome => panic!("{what}: {outcome:?}"),
        }
    }
}

#[test]
fn a_check_tells_what_is_wrong_and_a_repair_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options::new(dir.path());
    let records = furnish(&Store::open(dir.path()).unwrap(), "r", 15);
    let report = options().check().unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.records["state"], 14);

    for entry in fs::read_dir(dir.path().join("values")).unwrap() {
        fs::write(entry.unwrap().path(), "not what it was").unwrap();
    }
    let report = options().check().unwrap();
    assert_eq!(report.unreadable.len(), 4, "{report:?}");
    let (restored, aside) = options().repair().unwrap();
    assert!(restored.is_none());
    assert_eq!(aside, report.unreadable);
    let report = options().check().unwrap();
    assert!(report.is_sound() && report.set_aside == 4, "{report:?}");

    fs::write(dir.path().join("sled/db"), b"nonsense").unwrap();
    assert!(options().check().unwrap().database.is_some());
    let (restored, _) = options().repair().unwrap();
    assert!(restored.unwrap().is_whole());
    let store = Store::open(dir.path()).unwrap();
    let small: Records = records
        .into_iter()
        .filter(|(_, value)| value.len() < 100)
        .collect();
    let found: Records = all(&store);
    assert!(
        small
            .iter()
            .all(|(key, value)| found.get(key) == Some(value))
    );

    match options().lock_wait(Duration::ZERO).check().unwrap_err() {
        Error::Locked { .. } => {}
        error => panic!("{error}"),
    }
}
