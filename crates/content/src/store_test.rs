use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn sha512_of(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(bytes);
    hasher.finish()
}

#[test]
fn a_committed_blob_reads_back_under_both_algorithms() {
    let (dir, store) = store();
    for digest in [Digest::sha256_of(b"layer"), sha512_of(b"layer")] {
        assert_eq!(store.has(&digest).unwrap(), None);
        let mut ingest = store.ingest(&digest, Some(5)).unwrap();
        ingest.write(b"la").unwrap();
        ingest.write(b"yer").unwrap();
        assert_eq!(store.has(&digest).unwrap(), None, "visible before commit");
        assert_eq!(ingest.commit().unwrap(), 5);
        assert_eq!(store.has(&digest).unwrap(), Some(5));
        assert_eq!(&store.read(&digest, 5).unwrap()[..], b"layer");
        store.verify(&digest).unwrap();
        assert!(store.path(&digest).starts_with(dir.path()));
    }
    let listed = store.list().unwrap();
    assert_eq!(listed.len(), 2);
    assert!(store.partials().unwrap().is_empty());
    assert!(store.usage().unwrap().bytes > 0);
    for blob in listed {
        assert!(store.remove(&blob.digest).unwrap());
        assert!(!store.remove(&blob.digest).unwrap(), "removing twice");
    }
    assert_eq!(
        store.usage().unwrap(),
        Usage {
            bytes: 0,
            inodes: 3
        }
    );
}

#[test]
fn a_dropped_ingest_is_resumed_where_it_stopped_even_by_another_store() {
    let (dir, store) = store();
    let digest = Digest::sha256_of(b"hello world");
    let mut ingest = store.ingest(&digest, Some(11)).unwrap();
    ingest.write(b"hello ").unwrap();
    drop(ingest);
    assert_eq!(store.partials().unwrap()[0].size, 6);

    let later = Store::open(dir.path()).unwrap();
    let mut ingest = later.ingest(&digest, Some(11)).unwrap();
    assert_eq!(ingest.offset(), 6);
    ingest.write(b"world").unwrap();
    ingest.commit().unwrap();
    assert_eq!(&store.read(&digest, 100).unwrap()[..], b"hello world");
}

#[test]
fn what_was_reserved_for_data_that_never_came_is_given_back() {
    let (_dir, store) = store();
    let digest = Digest::sha256_of(b"huge");
    let empty = store.usage().unwrap();
    drop(store.ingest(&digest, Some(64 << 20)).unwrap());
    assert_eq!(store.usage().unwrap(), empty, "nothing came");
    let mut ingest = store.ingest(&digest, Some(64 << 20)).unwrap();
    ingest.write(b"a part").unwrap();
    drop(ingest);
    assert_eq!(store.partials().unwrap()[0].size, 6);
    let used = store.usage().unwrap().bytes - empty.bytes;
    assert!(used < 1 << 20, "{used} bytes are kept for six");
}

#[test]
fn abort_leaves_nothing() {
    let (_dir, store) = store();
    let digest = Digest::sha256_of(b"x");
    let mut ingest = store.ingest(&digest, None).unwrap();
    ingest.write(b"partial").unwrap();
    ingest.abort().unwrap();
    assert!(store.partials().unwrap().is_empty());
    assert!(!store.remove_partial(&digest).unwrap());
}

#[test]
fn wrong_data_never_becomes_visible_and_is_not_resumed() {
    let (_dir, store) = store();
    let digest = Digest::sha256_of(b"right");
    let mut ingest = store.ingest(&digest, Some(5)).unwrap();
    ingest.write(b"wrong").unwrap();
    let error = ingest.commit().unwrap_err();
    assert!(
        matches!(&error, Error::DigestMismatch { actual, resumed: false, .. }
            if *actual == Digest::sha256_of(b"wrong")),
        "{error:?}"
    );
    assert_eq!(store.has(&digest).unwrap(), None);
    assert_eq!(store.ingest(&digest, Some(5)).unwrap().offset(), 0);
}

#[test]
fn a_bad_leftover_is_named_as_the_possible_reason() {
    let (_dir, store) = store();
    let digest = Digest::sha256_of(b"right");
    store
        .ingest(&digest, Some(5))
        .unwrap()
        .write(b"wr")
        .unwrap();
    let mut ingest = store.ingest(&digest, Some(5)).unwrap();
    ingest.write(b"ght").unwrap();
    assert!(matches!(
        ingest.commit(),
        Err(Error::DigestMismatch { resumed: true, .. })
    ));
    assert!(store.partials().unwrap().is_empty());
}

#[test]
fn sizes_that_disagree_are_refused() {
    let (_dir, store) = store();
    let digest = Digest::sha256_of(b"12345");
    let mut ingest = store.ingest(&digest, Some(4)).unwrap();
    assert!(matches!(
        ingest.write(b"12345"),
        Err(Error::TooLong { expected: 4, .. })
    ));
    drop(ingest);
    assert!(
        store.partials().unwrap().is_empty(),
        "an oversized partial was kept"
    );

    let mut ingest = store.ingest(&digest, Some(6)).unwrap();
    ingest.write(b"12345").unwrap();
    assert!(matches!(
        ingest.commit(),
        Err(Error::Incomplete {
            expected: 6,
            actual: 5,
            ..
        })
    ));
    assert_eq!(
        store.partials().unwrap()[0].size,
        5,
        "a short partial was thrown away"
    );

    let ingest = store.ingest(&digest, Some(3)).unwrap();
    assert_eq!(
        ingest.offset(),
        0,
        "a partial longer than the blob was resumed"
    );
}

#[test]
fn a_second_writer_of_the_same_blob_is_refused_until_the_first_is_done() {
    let (dir, store) = store();
    let digest = Digest::sha256_of(b"one");
    let mut first = store.ingest(&digest, Some(3)).unwrap();
    let other = Store::open(dir.path()).unwrap();
    assert!(matches!(
        other.ingest(&digest, Some(3)),
        Err(Error::Busy(_))
    ));
    assert!(matches!(other.remove_partial(&digest), Err(Error::Busy(_))));
    assert!(store.ingest(&Digest::sha256_of(b"two"), None).is_ok());

    let waiter = std::thread::spawn({
        let digest = digest.clone();
        move || {
            other
                .ingest_within(&digest, Some(3), Duration::from_secs(10))
                .map(|i| i.offset())
        }
    });
    std::thread::sleep(Duration::from_millis(50));
    first.write(b"one").unwrap();
    first.commit().unwrap();
    assert_eq!(
        waiter.join().unwrap().unwrap(),
        0,
        "the waiter got the renamed file"
    );
    assert_eq!(store.has(&digest).unwrap(), Some(3));
}

#[test]
fn damage_is_found_and_a_new_ingest_heals_it() {
    let (_dir, store) = store();
    let digest = Digest::sha256_of(b"precious");
    store.put(&digest, b"precious").unwrap();
    fs::write(store.path(&digest), b"damaged!").unwrap();
    assert!(matches!(
        store.verify(&digest),
        Err(Error::DigestMismatch { .. })
    ));
    assert!(matches!(
        store.read(&digest, 100),
        Err(Error::DigestMismatch { .. })
    ));
    let mut ingest = store.ingest(&digest, Some(8)).unwrap();
    ingest.write(b"precious").unwrap();
    ingest.commit().unwrap();
    store.verify(&digest).unwrap();
}

#[test]
fn reading_keeps_to_the_callers_limit() {
    let (_dir, store) = store();
    let digest = Digest::sha256_of(b"12345");
    store.put(&digest, b"12345").unwrap();
    store.put(&digest, b"12345").unwrap();
    assert!(matches!(
        store.read(&digest, 4),
        Err(Error::OverLimit {
            size: 5,
            limit: 4,
            ..
        })
    ));
    let missing = Digest::sha256_of(b"missing");
    assert!(matches!(store.read(&missing, 4), Err(Error::NotFound(_))));
    assert!(matches!(store.verify(&missing), Err(Error::NotFound(_))));
}

#[test]
fn an_announced_size_that_no_disk_has_fails_before_any_transfer() {
    let (_dir, store) = store();
    let digest = Digest::sha256_of(b"huge");
    let result = store.ingest(&digest, Some(1 << 60));
    assert!(
        matches!(result, Err(Error::NoSpace { .. } | Error::Io { .. })),
        "an exbibyte was promised"
    );
}

#[test]
fn strangers_in_the_directories_are_left_alone() {
    let (dir, store) = store();
    for name in [
        "blobs/sha256/README",
        "ingest/notes",
        "blobs/sha256/.hidden",
    ] {
        fs::write(dir.path().join(name), b"x").unwrap();
    }
    assert!(store.list().unwrap().is_empty());
    assert!(store.partials().unwrap().is_empty());
    assert!(dir.path().join("ingest/notes").exists());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]
    /// However the data is cut up and wherever the writer gives up in between, the blob is whole.
    #[test]
    fn any_cut_of_the_data_gives_the_same_blob(
        data in proptest::collection::vec(proptest::num::u8::ANY, 0..4096),
        cuts in proptest::collection::vec((1usize..700, proptest::bool::ANY), 1..16),
    ) {
        let (_dir, store) = store();
        let digest = Digest::sha256_of(&data);
        let mut ingest = store.ingest(&digest, Some(data.len() as u64)).unwrap();
        for (length, give_up) in cuts.iter().cycle() {
            let start = ingest.offset() as usize;
            if start == data.len() {
                break;
            }
            ingest.write(&data[start..data.len().min(start + length)]).unwrap();
            if *give_up {
                drop(ingest);
                ingest = store.ingest(&digest, Some(data.len() as u64)).unwrap();
            }
        }
        ingest.commit().unwrap();
        assert_eq!(&store.read(&digest, 4096).unwrap()[..], &data[..]);
    }
}
