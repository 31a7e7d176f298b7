//! Shims as copies of a zygote: what outlives what. The containers are plain processes.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed step is a failed test

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_kernel::rustix::process::{Pid, Signal, kill_process, test_kill_process};
use berth_shim_client::{Launcher, Shim, Stdio};
use tempfile::TempDir;
use tokio::time::timeout;

const STEP: Duration = Duration::from_secs(10);

fn launcher() -> Launcher {
    let test = std::env::current_exe().unwrap();
    let examples: PathBuf = test.ancestors().nth(2).unwrap().join("examples");
    Launcher::new(&examples.join("process_shim")).unwrap()
}

struct Container {
    _dir: TempDir,
    shim: Shim,
}

impl Container {
    async fn start(launcher: &Launcher, id: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = serde_json::json!({ "process": { "args": ["sleep", "1000"] } });
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let shim = launcher.launch(id, dir.path()).await.unwrap();
        shim.create(&[], &Stdio::default()).await.unwrap();
        shim.start(None).await.unwrap();
        Self { _dir: dir, shim }
    }

    fn pid(&self) -> Pid {
        let pid = self.shim.launched_pid().unwrap();
        Pid::from_raw(pid.cast_signed()).unwrap()
    }

    fn zygote(&self) -> Pid {
        let path = format!("/proc/{}/status", self.pid().as_raw_pid());
        let status = std::fs::read_to_string(path).unwrap();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        Pid::from_raw(parent.unwrap().trim().parse().unwrap()).unwrap()
    }

    async fn works(&self) {
        self.shim.state(None).await.unwrap();
    }

    async fn end(self) {
        self.shim.kill(None, 9, true).await.unwrap();
        timeout(STEP, self.shim.wait(None)).await.unwrap().unwrap();
        self.shim.delete(None).await.unwrap();
        self.shim.shutdown().await.unwrap();
        timeout(STEP, self.shim.gone()).await.unwrap();
    }
}

async fn until_gone(pid: Pid) {
    let gone = async {
        while test_kill_process(pid).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(STEP, gone).await.unwrap();
}

#[tokio::test]
async fn ps_shows_whose_shim_a_copy_is() {
    let launcher = launcher();
    let first = Container::start(&launcher, "first").await;
    let second = Container::start(&launcher, "second").await;
    assert_eq!(first.zygote(), second.zygote());
    for (container, id) in [(&first, "first"), (&second, "second")] {
        let pid = container.pid().as_raw_pid();
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let words: Vec<_> = line.split(|byte| *byte == 0).collect();
        assert_eq!(words[1..4], [b"-id".as_slice(), id.as_bytes(), b"serve"]);
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        assert_eq!(name.trim(), "berth-shim");
    }
    first.end().await;
    second.end().await;
}

#[tokio::test]
async fn a_zygote_that_was_killed_is_replaced_and_its_copies_go_on() {
    let launcher = launcher();
    let before = Container::start(&launcher, "before").await;
    let zygote = before.zygote();
    kill_process(zygote, Signal::KILL).unwrap();
    until_gone(zygote).await;
    let after = Container::start(&launcher, "after").await;
    assert_ne!(after.zygote(), zygote);
    before.works().await;
    before.end().await;
    after.end().await;
}

#[tokio::test]
async fn a_zygote_ends_with_who_started_it_and_its_copies_do_not() {
    let launcher = launcher();
    let container = Container::start(&launcher, "left").await;
    let zygote = container.zygote();
    drop(launcher);
    until_gone(zygote).await;
    container.works().await;
    container.end().await;
}

#[tokio::test]
async fn a_copy_that_ended_is_reaped() {
    let launcher = launcher();
    let container = Container::start(&launcher, "reaped").await;
    let pid = container.pid();
    container.end().await;
    until_gone(pid).await;
}

#[tokio::test]
async fn many_at_a_time_each_get_a_shim_of_their_own() {
    let launcher = Arc::new(launcher());
    let starts: Vec<_> = (0..8)
        .map(|number| {
            let launcher = Arc::clone(&launcher);
            tokio::spawn(async move { Container::start(&launcher, &format!("c{number}")).await })
        })
        .collect();
    let mut containers = Vec::new();
    for start in starts {
        containers.push(start.await.unwrap());
    }
    let pids: BTreeSet<_> = containers.iter().map(|c| c.pid().as_raw_pid()).collect();
    assert_eq!(pids.len(), 8);
    for container in containers {
        container.end().await;
    }
}
