//! Fails each durable step of an ingest in turn, as a dying or full disk would.

use std::cell::{Cell, RefCell};
use std::io;

use berth_names::Digest;

use crate::{Error, Store};

thread_local! {
    static COUNTDOWN: Cell<Option<(u32, i32)>> = const { Cell::new(None) };
    static TAKEN: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

/// Called by [`crate::disk`] before each step.
pub(crate) fn step(name: &'static str) -> io::Result<()> {
    TAKEN.with_borrow_mut(|taken| taken.push(name));
    match COUNTDOWN.get() {
        Some((0, errno)) => {
            COUNTDOWN.set(None);
            Err(io::Error::from_raw_os_error(errno))
        }
        Some((n, errno)) => {
            COUNTDOWN.set(Some((n - 1, errno)));
            Ok(())
        }
        None => Ok(()),
    }
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn store_in_two_writes(store: &Store, digest: &Digest) -> crate::Result<()> {
    let mut ingest = store.ingest(digest, Some(11))?;
    let rest = &b"hello world"[ingest.offset() as usize..];
    let (head, tail) = rest.split_at(rest.len().min(6));
    ingest.write(head)?;
    ingest.write(tail)?;
    ingest.commit().map(|_| ())
}

#[test]
fn each_failing_step_leaves_no_visible_blob_and_a_retry_succeeds() {
    for errno in [EIO, ENOSPC] {
        let mut failed = 0;
        for nth in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path()).unwrap();
            let digest = Digest::sha256_of(b"hello world");
            TAKEN.take();
            COUNTDOWN.set(Some((nth, errno)));
            let result = store_in_two_writes(&store, &digest);
            if COUNTDOWN.take().is_some() {
                result.unwrap();
                break;
            }
            failed += 1;
            let steps = TAKEN.take();
            let error = result.unwrap_err();
            match errno {
                ENOSPC => assert!(
                    matches!(error, Error::NoSpace { .. }),
                    "{steps:?}: {error:?}"
                ),
                _ => assert!(matches!(error, Error::Io { .. }), "{steps:?}: {error:?}"),
            }
            assert_eq!(store.has(&digest).unwrap(), None, "visible after {steps:?}");
            store_in_two_writes(&store, &digest).unwrap();
            assert_eq!(&store.read(&digest, 11).unwrap()[..], b"hello world");
            assert!(store.partials().unwrap().is_empty());
        }
        assert_eq!(
            failed, 6,
            "reserve, two writes, sync, rename and directory sync were failed"
        );
    }
}

#[test]
fn data_that_the_disk_refused_to_sync_is_not_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let digest = Digest::sha256_of(b"hello world");
    let mut ingest = store.ingest(&digest, None).unwrap();
    ingest.write(b"hello world").unwrap();
    COUNTDOWN.set(Some((0, EIO)));
    ingest.commit().unwrap_err();
    assert!(store.partials().unwrap().is_empty());
}
