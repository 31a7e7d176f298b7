//! What the daemon's side keeps open. Alone in its program, as it counts the
//! descriptors of the whole process.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed step is a failed test

use std::time::Duration;

use berth_shim_client::{Launcher, Stdio};
use tokio::time::timeout;

const STEP: Duration = Duration::from_secs(10);

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn shims_that_came_and_went_leave_no_descriptor() {
    let test = std::env::current_exe().unwrap();
    let program = test
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples/process_shim");
    let launcher = Launcher::new(&program).unwrap();
    let mut counts = Vec::new();
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let config = serde_json::json!({ "process": { "args": ["true"] } });
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let shim = launcher.launch("c1", dir.path()).await.unwrap();
        shim.create(&[], &Stdio::default()).await.unwrap();
        shim.start(None).await.unwrap();
        timeout(STEP, shim.wait(None)).await.unwrap().unwrap();
        shim.delete(None).await.unwrap();
        shim.shutdown().await.unwrap();
        timeout(STEP, shim.gone()).await.unwrap();
        drop(shim);
        // The tasks of the connection and of the child end on their own.
        tokio::time::sleep(Duration::from_millis(20)).await;
        counts.push(open_descriptors());
    }
    assert!(counts[19] <= counts[1], "{counts:?}");
}
