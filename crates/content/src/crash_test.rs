//! Kills a writing process at arbitrary moments and looks at what it left.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use berth_names::Digest;

use crate::Store;

const ROOT: &str = "BERTH_CONTENT_CRASH_ROOT";
const ROUNDS: u64 = 12;

fn data(n: u32) -> Vec<u8> {
    n.to_le_bytes().repeat(40_000)
}

/// The victim: stores one blob after another and says so after each acknowledgement.
#[test]
fn victim() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    let store = Store::open(root.as_ref()).unwrap();
    for n in 0..u32::MAX {
        let data = data(n);
        let digest = Digest::sha256_of(&data);
        if store.has(&digest).unwrap().is_some() {
            continue;
        }
        let mut ingest = store.ingest(&digest, Some(data.len() as u64)).unwrap();
        for piece in data[ingest.offset() as usize..].chunks(7_000) {
            ingest.write(piece).unwrap();
        }
        ingest.commit().unwrap();
        println!("\nstored {digest}");
    }
}

#[test]
fn whatever_a_killed_writer_left_is_complete_or_resumable() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0.. {
        // On a busy machine the victim may need longer to get anywhere at all.
        if round >= ROUNDS && (acknowledged > 0 || round >= 20 * ROUNDS) {
            break;
        }
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash_test::victim", "--nocapture"])
            .env(ROOT, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(15 + round * 7));
        victim.kill().unwrap();
        let mut output = String::new();
        victim
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut output)
            .unwrap();
        victim.wait().unwrap();

        let store = Store::open(dir.path()).unwrap();
        for digest in output
            .lines()
            .filter_map(|line| line.strip_prefix("stored "))
        {
            // The last line may be cut off.
            let Ok(digest) = Digest::parse(digest) else {
                continue;
            };
            assert!(
                store.has(&digest).unwrap().is_some(),
                "{digest} was acknowledged and is gone"
            );
            acknowledged += 1;
        }
        for blob in store.list().unwrap() {
            store.verify(&blob.digest).unwrap();
        }
        assert!(
            store.partials().unwrap().len() <= 1,
            "partial files pile up"
        );
    }
    assert!(acknowledged > 0, "the victim never got to store anything");
}
