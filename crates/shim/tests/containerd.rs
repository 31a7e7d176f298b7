//! What containerd expects of a shim beyond the calls: events, and checkpoints while others are
//! answered. Containers are plain processes here.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed step is a failed test

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio as ProcessStdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_shim_client::{Shim, Stdio, TaskStatus};
use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::proto::Request;
use tokio::time::timeout;

const STEP: Duration = Duration::from_secs(20);
/// Waits for a word in its directory, and ends with the code that this is.
const CRIU: &str =
    "#!/bin/sh\nwhile [ ! -e \"$1/go\" ]; do sleep 0.02; done\nexit $(cat \"$1/go\")\n";

struct Scene {
    dir: tempfile::TempDir,
    child: Child,
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Scene {
    fn new() -> Self {
        let test = std::env::current_exe().unwrap();
        let program = test.ancestors().nth(2).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let config = serde_json::json!({ "process": { "args": ["sleep", "1000"] } });
        std::fs::write(path("config.json"), config.to_string()).unwrap();
        std::fs::write(path("criu"), CRIU).unwrap();
        let all = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(path("criu"), all).unwrap();
        let listener = UnixListener::bind(path("shim.sock")).unwrap();
        let system = std::env::var("PATH").unwrap();
        let child = Command::new(program.join("examples/process_shim"))
            .args(["-namespace", "crew", "-events"])
            .arg(path("events"))
            .arg("serve")
            .env("PATH", format!("{}:{system}", dir.path().display()))
            .stdin(ProcessStdio::from(OwnedFd::from(listener)))
            .spawn()
            .unwrap();
        Self { dir, child }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn running(&self) -> Shim {
        let shim = Shim::connect("c1", self.dir.path()).await.unwrap();
        shim.create(&[], &Stdio::default()).await.unwrap();
        shim.start(None).await.unwrap();
        shim
    }
}

async fn end(shim: &Shim) {
    shim.kill(None, 9, true).await.unwrap();
    timeout(STEP, shim.wait(None)).await.unwrap().unwrap();
    shim.delete(None).await.unwrap();
    shim.shutdown().await.unwrap();
    timeout(STEP, shim.gone()).await.expect("the shim ends");
}

/// Namespaces and topics of what is told at this address. The first pause is not answered: its teller
/// is cut off, and has to come again.
fn listen(address: &Path) -> Arc<Mutex<Vec<(String, String)>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listener = UnixListener::bind(address).unwrap();
    let kept = Arc::clone(&heard);
    std::thread::spawn(move || {
        let mut cut = true;
        for peer in listener.incoming() {
            let mut peer = peer.unwrap();
            while let Some((stream, request)) = asked(&mut peer) {
                let envelope = request.envelope.unwrap();
                if cut && envelope.topic == "/tasks/paused" {
                    cut = false;
                    break;
                }
                let told = (envelope.namespace.clone(), envelope.topic.clone());
                kept.lock().unwrap().push(told);
                let answer = [&[0; 4][..], &stream.to_be_bytes(), &[2, 0]].concat();
                peer.write_all(&answer).unwrap();
            }
        }
    });
    heard
}

fn asked(peer: &mut UnixStream) -> Option<(u32, ForwardRequest)> {
    let mut header = [0; 10];
    peer.read_exact(&mut header).ok()?;
    let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
    let mut payload = vec![0; number(0) as usize];
    peer.read_exact(&mut payload).unwrap();
    let request = Request::parse_from_bytes(&payload).unwrap();
    let forward = ForwardRequest::parse_from_bytes(&request.payload).unwrap();
    Some((number(4), forward))
}

#[tokio::test]
async fn events_are_told_in_order_and_the_last_one_before_the_shim_ends() {
    let mut scene = Scene::new();
    let heard = listen(&scene.path("events"));
    let shim = scene.running().await;
    shim.pause().await.unwrap();
    shim.resume().await.unwrap();
    // What was cut off is told again after a while.
    let told = || heard.lock().unwrap().len();
    let deadline = std::time::Instant::now() + STEP;
    while told() < 4 {
        assert!(std::time::Instant::now() < deadline, "{heard:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::fs::write(scene.path("oom"), "").unwrap();
    shim.kill(None, 9, true).await.unwrap();
    timeout(STEP, shim.wait(None)).await.unwrap().unwrap();
    while told() < 6 {
        assert!(std::time::Instant::now() < deadline, "{heard:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    end_of_stopped(&shim).await;
    // It hangs up first.
    scene.child.wait().unwrap();
    let heard = heard.lock().unwrap();
    let topics: Vec<&str> = heard.iter().map(|(_, topic)| topic.as_str()).collect();
    let expected = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/paused",
        "/tasks/resumed",
        "/tasks/oom",
        "/tasks/exit",
        "/tasks/delete",
    ];
    assert_eq!(topics, expected);
    assert!(heard.iter().all(|(namespace, _)| namespace == "crew"));
}

async fn end_of_stopped(shim: &Shim) {
    shim.delete(None).await.unwrap();
    shim.shutdown().await.unwrap();
    timeout(STEP, shim.gone()).await.expect("the shim ends");
}

#[tokio::test]
async fn a_shim_that_nobody_listens_to_ends_at_once() {
    let scene = Scene::new();
    let shim = scene.running().await;
    shim.kill(None, 9, true).await.unwrap();
    timeout(STEP, shim.wait(None)).await.unwrap().unwrap();
    let before = std::time::Instant::now();
    end_of_stopped(&shim).await;
    assert!(before.elapsed() < Duration::from_millis(900));
}

#[tokio::test]
async fn others_are_answered_while_a_checkpoint_is_written() {
    let scene = Scene::new();
    let shim = scene.running().await;
    for (code, expected) in [("0", None), ("3", Some("ended with 3"))] {
        let images = scene.path(code);
        let dumped = tokio::spawn({
            let (shim, images) = (shim.clone(), images.clone());
            async move { shim.checkpoint(&images, &images, STEP).await }
        });
        let deadline = std::time::Instant::now() + STEP;
        while !images.is_dir() {
            assert!(std::time::Instant::now() < deadline, "no checkpoint begins");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(shim.state(None).await.unwrap().status, TaskStatus::Running);
        for refused in [
            shim.pause().await,
            shim.checkpoint(&images, &images, STEP).await,
        ] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("being checkpointed"), "{error}");
        }
        assert!(!dumped.is_finished());
        std::fs::write(images.join("code"), code).unwrap();
        std::fs::rename(images.join("code"), images.join("go")).unwrap();
        let done = timeout(STEP, dumped).await.unwrap().unwrap();
        match (done, expected) {
            (Ok(()), None) => {}
            (Err(error), Some(words)) => assert!(error.to_string().contains(words), "{error}"),
            (done, _) => panic!("{done:?}"),
        }
    }
    let mode = std::fs::metadata(scene.path("0")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o700, "memory is for nobody else");
    end(&shim).await;
}
