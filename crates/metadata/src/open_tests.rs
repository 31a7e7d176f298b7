use std::collections::BTreeMap;

use super::*;
use crate::schema::{Migration, OldRecords, Rewrite};
use crate::{Batch, schema::state};

fn put(store: &Store, key: &str, value: &str) {
    let mut batch = Batch::new();
    batch
        .put(state(), &key.to_owned(), &value.to_owned())
        .unwrap();
    store.commit(batch).wait().unwrap();
}

fn all(store: &Store) -> BTreeMap<String, String> {
    store
        .scan(state::<String>())
        .unwrap()
        .records
        .into_iter()
        .collect()
}

#[test]
fn records_are_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let large = "x".repeat(100_000);
    {
        let store = Store::open(dir.path()).unwrap();
        put(&store, "small", "1");
        put(&store, "large", &large);
    }
    let store = Store::open(dir.path()).unwrap();
    let expected = [
        ("large".to_owned(), large),
        ("small".to_owned(), "1".to_owned()),
    ];
    assert_eq!(all(&store), BTreeMap::from(expected));
}

#[test]
fn a_snapshot_left_half_made_does_not_stop_the_open() {
    let dir = tempfile::tempdir().unwrap();
    put(&Store::open(dir.path()).unwrap(), "a", "1");
    let leftover = dir.path().join("sled/snap.00000000000000FF.generating");
    fs::write(&leftover, b"cut short").unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(all(&store)["a"], "1");
    assert!(!leftover.exists());
}

#[test]
fn a_second_opener_is_told_who_holds_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let second = Options::new(dir.path()).lock_wait(Duration::ZERO).open();
    match second.unwrap_err() {
        Error::Locked { pid, .. } => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other}"),
    }
    drop(store);
    Options::new(dir.path())
        .lock_wait(Duration::ZERO)
        .open()
        .unwrap();
}

#[test]
fn an_opener_waits_for_a_holder_that_is_about_to_go() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let holder = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        drop(store);
    });
    Store::open(dir.path()).unwrap();
    holder.join().unwrap();
}

#[test]
fn record_files_without_a_record_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    put(
        &Store::open(dir.path()).unwrap(),
        "large",
        &"x".repeat(20_000),
    );
    let values = dir.path().join("values");
    fs::write(values.join("abc-1-0"), b"{}").unwrap();
    fs::write(values.join("abc-1-1.new"), b"{}").unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(fs::read_dir(&values).unwrap().count(), 1);
    assert_eq!(all(&store)["large"].len(), 20_000);
}

#[test]
fn a_store_from_the_future_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(
        Options {
            plan: Plan {
                version: 9,
                migrations: &[],
            },
            ..Options::new(dir.path())
        }
        .open()
        .unwrap(),
    );
    match Store::open(dir.path()).unwrap_err() {
        Error::SchemaTooNew {
            found: 9,
            supported: schema::VERSION,
            ..
        } => {}
        other => panic!("{other}"),
    }
}

fn shout(old: &dyn OldRecords) -> Result<Vec<Rewrite>, Error> {
    let table = state::<String>().index();
    let mut rewrites = Vec::new();
    for (key, value) in old.read(table)? {
        let shouted = value.as_str().unwrap_or_default().to_uppercase();
        rewrites.push(Rewrite {
            table,
            key: format!("{key}!"),
            value: Some(shouted.into()),
        });
        rewrites.push(Rewrite {
            table,
            key,
            value: None,
        });
    }
    Ok(rewrites)
}

fn refuse(_: &dyn OldRecords) -> Result<Vec<Rewrite>, Error> {
    Err(Error::Closed)
}

#[test]
fn an_old_database_is_migrated_step_by_step_and_once() {
    const STEPS: &[Migration] = &[
        Migration {
            from: 1,
            step: "shout",
            run: shout,
        },
        Migration {
            from: 2,
            step: "shout again",
            run: shout,
        },
    ];
    let dir = tempfile::tempdir().unwrap();
    put(&Store::open(dir.path()).unwrap(), "a", "quiet");
    for _ in 0..2 {
        let options = Options {
            plan: Plan {
                version: 3,
                migrations: STEPS,
            },
            ..Options::new(dir.path())
        };
        let store = options.open().unwrap();
        assert_eq!(
            all(&store),
            BTreeMap::from([("a!!".to_owned(), "QUIET".to_owned())])
        );
    }
}

#[test]
fn a_failed_migration_names_its_step_and_changes_nothing() {
    const STEPS: &[Migration] = &[Migration {
        from: 1,
        step: "refuse",
        run: refuse,
    }];
    let dir = tempfile::tempdir().unwrap();
    put(&Store::open(dir.path()).unwrap(), "a", "quiet");
    let options = Options {
        plan: Plan {
            version: 2,
            migrations: STEPS,
        },
        ..Options::new(dir.path())
    };
    match options.open().unwrap_err() {
        Error::Migration {
            from: 1,
            step: "refuse",
            ..
        } => {}
        other => panic!("{other}"),
    }
    assert_eq!(all(&Store::open(dir.path()).unwrap())["a"], "quiet");
}

#[test]
fn a_database_whose_configuration_is_damaged_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    put(&Store::open(dir.path()).unwrap(), "a", "1");
    fs::write(dir.path().join("sled/conf"), b"segment_size: nonsense\nuse").unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(all(&store)["a"], "1");
    assert!(store.restored().is_some());
}
