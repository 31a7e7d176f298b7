//! The store is killed with SIGKILL at whatever it does; what it acknowledged must be there.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::schema::{networks, state};
use crate::{Batch, Store};

const DIR: &str = "BERTH_METADATA_CRASH_DIR";

/// Not a test of its own: what the killed process runs.
#[test]
fn writer_for_the_crash_test() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let store = Store::open(dir).unwrap();
    let first = store
        .get(state::<u64>(), &"number".to_owned())
        .unwrap()
        .unwrap_or(0)
        + 1;
    for number in first.. {
        let mut batch = Batch::new();
        batch.put(state(), &"number".to_owned(), &number).unwrap();
        batch.put(networks(), &"same".to_owned(), &number).unwrap();
        let large = vec![number; 9000];
        batch
            .put(networks(), &format!("large-{}", number % 4), &large)
            .unwrap();
        store.commit(batch).wait().unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "\nacknowledged {number}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn what_was_acknowledged_survives_sigkill_and_batches_stay_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..12u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "crash_tests::writer_for_the_crash_test",
                "--nocapture",
            ])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Early rounds hit the open, later ones the commits.
        std::thread::sleep(Duration::from_millis(3 + round * round * 3));
        child.kill().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        for line in output.lines() {
            if let Some(number) = line.unwrap().strip_prefix("acknowledged ") {
                acknowledged = number.parse::<u64>().unwrap();
            }
        }
        child.wait().unwrap();

        let store = Store::open(dir.path()).unwrap();
        let number = store
            .get(state::<u64>(), &"number".to_owned())
            .unwrap()
            .unwrap_or(0);
        assert!(
            number >= acknowledged,
            "round {round}: {acknowledged} was lost, {number} is there"
        );
        let same = store
            .get(networks::<u64>(), &"same".to_owned())
            .unwrap()
            .unwrap_or(0);
        assert_eq!(number, same, "round {round}: half a batch");
        if number > 0 {
            let name = format!("large-{}", number % 4);
            let large = store.get(networks::<Vec<u64>>(), &name).unwrap().unwrap();
            assert_eq!(large, vec![number; 9000], "round {round}");
        }
        assert!(store.set_aside().unwrap().is_empty());
        assert_eq!(
            std::fs::read_dir(dir.path().join("values"))
                .unwrap()
                .count() as u64,
            number.min(4),
            "round {round}: record files without a record"
        );
        acknowledged = number;
    }
    assert!(acknowledged > 0, "the writer never got to write");
}
