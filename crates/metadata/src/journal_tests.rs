use super::*;

fn group(number: u64) -> Writes {
    let mut writes = Writes::new();
    writes.insert((6, b"number".to_vec()), Some(number.to_le_bytes().to_vec()));
    writes.insert((5, format!("gone-{number}").into_bytes()), None);
    writes.insert(
        (3, b"padding".to_vec()),
        Some(vec![7; usize::try_from(number % 50).unwrap()]),
    );
    writes
}

fn written(dir: &Path, groups: std::ops::RangeInclusive<u64>) -> PathBuf {
    let mut journal = Journal::open(dir.join("journal"), 1, Disk::default()).unwrap();
    for number in groups {
        journal.append(number, &group(number)).unwrap();
    }
    journal.sync().unwrap();
    journal.current.unwrap().path
}

fn read(dir: &Path, after: u64) -> (Vec<u64>, Replayed) {
    let journal = Journal::open(dir.join("journal"), 1, Disk::default()).unwrap();
    let mut seen = Vec::new();
    let replayed = journal
        .replay(1, after, |sequence, writes| {
            assert_eq!(
                writes,
                group(sequence),
                "group {sequence} came back changed"
            );
            seen.push(sequence);
            Ok(())
        })
        .unwrap();
    (seen, replayed)
}

#[test]
fn groups_come_back_in_order_over_segments_and_only_those_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 1..=9);
    written(dir.path(), 10..=20);
    assert_eq!(read(dir.path(), 0).0, (1..=20).collect::<Vec<_>>());
    let (seen, replayed) = read(dir.path(), 12);
    assert_eq!(seen, (13..=20).collect::<Vec<_>>());
    assert_eq!((replayed.last, replayed.groups), (20, 8));
    assert!(replayed.missing.is_empty());
    assert!(read(dir.path(), 20).0.is_empty());
}

#[test]
fn a_group_larger_than_a_segment_gets_one_of_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path().join("journal"), 1, Disk::default()).unwrap();
    let mut large = Writes::new();
    let value = vec![1; 3 << 20];
    large.insert((6, b"large".to_vec()), Some(value));
    for sequence in 1..=3 {
        journal.append(sequence, &large).unwrap();
    }
    journal.sync().unwrap();
    let mut seen = 0;
    journal
        .replay(1, 0, |_, writes| {
            assert_eq!(writes, large);
            seen += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!((seen, journal.count().unwrap()), (3, 3));
}

#[test]
fn a_record_cut_anywhere_ends_the_journal_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path(), 1..=4);
    let whole = fs::read(&path).unwrap();
    let ends: Vec<usize> = (0..=4)
        .map(|count| {
            SEGMENT_HEADER
                + (1..=count)
                    .map(|n| encode(n, &group(n)).len())
                    .sum::<usize>()
        })
        .collect();
    for cut in SEGMENT_HEADER..ends[4] {
        fs::write(&path, &whole[..cut]).unwrap();
        let complete = ends.iter().filter(|end| **end <= cut).count() as u64 - 1;
        assert_eq!(
            read(dir.path(), 0).0,
            (1..=complete).collect::<Vec<_>>(),
            "cut at {cut}"
        );
    }
}

#[test]
fn a_flipped_byte_never_changes_a_group_and_gaps_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path(), 1..=4);
    written(dir.path(), 5..=6);
    let whole = fs::read(&path).unwrap();
    let used = SEGMENT_HEADER
        + (1..=4u64)
            .map(|n| encode(n, &group(n)).len())
            .sum::<usize>();
    for at in 0..used {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x41;
        fs::write(&path, &bytes).unwrap();
        let (seen, replayed) = read(dir.path(), 0);
        let complete = seen.len() as u64 - 2;
        assert!(complete < 4, "a flip at {at} was not noticed");
        assert_eq!(seen[..seen.len() - 2], (1..=complete).collect::<Vec<_>>());
        assert_eq!(seen[seen.len() - 2..], [5, 6]);
        assert_eq!(replayed.missing, [(complete + 1, 4)], "flip at {at}");
    }
}

#[test]
fn trimming_keeps_what_is_needed_and_the_segment_in_use() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 1..=3);
    written(dir.path(), 4..=6);
    let mut journal = Journal::open(dir.path().join("journal"), 1, Disk::default()).unwrap();
    journal.append(7, &group(7)).unwrap();
    assert_eq!(journal.trim(2).unwrap(), 0);
    assert_eq!(journal.trim(3).unwrap(), 1);
    assert_eq!(read(dir.path(), 3).0, [4, 5, 6, 7]);
    assert_eq!(journal.trim(100).unwrap(), 1);
    assert_eq!(read(dir.path(), 6).0, [7]);
}

#[test]
fn segments_of_another_schema_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path(), 1..=3);
    let journal = Journal::open(dir.path().join("journal"), 2, Disk::default()).unwrap();
    let replayed = journal.replay(2, 0, |_, _| panic!("of schema 1")).unwrap();
    assert_eq!(replayed, Replayed::default());
}
