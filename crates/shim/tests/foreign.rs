//! A shim that is driven as another's: by the standard start protocol, its output copied to the
//! log by a process of its own. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed step is a failed test

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_kernel::rustix;
use berth_shim_client::{ForeignShim, Launcher, Shim, Stdio};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::timeout;

mod bundle;

use bundle::Bundle;

const STEP: Duration = Duration::from_secs(20);
const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-berth-v1");

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root: containers");
    }
    root
}

fn launcher() -> Arc<Launcher> {
    Arc::new(Launcher::new(Path::new(SHIM)).unwrap())
}

async fn run(bundle: &Bundle) -> Shim {
    let foreign = ForeignShim {
        binary: SHIM.into(),
        namespace: "test".into(),
        address: bundle.path("containerd.sock"),
        options: None,
    };
    let launcher = launcher();
    let launching = foreign.launch(&launcher, &bundle.id, bundle.dir.path());
    let shim = launching.await.unwrap();
    assert!(shim.is_foreign());
    bundle.end_if_the_test_fails(SHIM, shim.pids_of_shim_and_init().await.ok().map(|p| p.0));
    shim.create(&[], &bundle.log()).await.unwrap();
    shim.start(None).await.unwrap();
    shim
}

/// The texts of the log, without their times.
fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| line[31..].to_owned()).collect()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + STEP;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn copier(bundle: &Bundle) -> Option<rustix::process::Pid> {
    let socket = bundle.path("copy.sock").display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|process| {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&socket)
        })
        .find_map(|process| process.file_name().to_str()?.parse().ok())
        .and_then(rustix::process::Pid::from_raw)
}

/// Tells the container's script to go on.
fn pass(bundle: &Bundle, gate: &str) {
    std::fs::write(bundle.dir.path().join("rootfs/tmp").join(gate), "").unwrap();
}

async fn end(bundle: &Bundle, shim: &Shim) {
    let _ended = shim.kill(None, 9, true).await;
    timeout(STEP, shim.wait(None)).await.unwrap().unwrap();
    shim.delete(None).await.unwrap();
    shim.shutdown().await.unwrap();
    timeout(STEP, shim.gone()).await.expect("the shim ends");
    until("the copier ends", || copier(bundle).is_none()).await;
}

const WAIT: &str = "await() { while [ ! -e /tmp/$1 ]; do sleep 0.02; done; }";

#[tokio::test]
async fn the_whole_output_is_in_the_log_when_the_end_is_known() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("copied", "echo out; echo err >&2; exit 3", |_| {});
    let shim = run(&bundle).await;
    let exit = timeout(STEP, shim.wait(None)).await.unwrap().unwrap();
    assert_eq!(exit.status, 3);
    let mut found = lines(&bundle.path("0.log"));
    found.sort();
    assert_eq!(found, ["stderr F err", "stdout F out"]);
    end(&bundle, &shim).await;
}

#[tokio::test]
async fn a_copier_that_has_ended_properly_is_not_replaced() {
    if !is_root() {
        return;
    }
    for number in 0..20 {
        let bundle = Bundle::new(&format!("ended-{number}"), "echo out", |_| {});
        let shim = run(&bundle).await;
        timeout(STEP, shim.wait(None)).await.unwrap().unwrap();
        end(&bundle, &shim).await;
    }
}

#[tokio::test]
async fn nothing_is_lost_while_the_daemon_is_away_or_the_copier_dies() {
    if !is_root() {
        return;
    }
    let script = format!("{WAIT}; echo one; await a; echo two; await b; echo three; exit 4");
    let bundle = Bundle::new("away", &script, |_| {});
    let log = bundle.path("0.log");
    let first = run(&bundle).await;
    until("the first line", || lines(&log).len() == 1).await;
    drop(first);
    pass(&bundle, "a");
    until("a line without a daemon", || lines(&log).len() == 2).await;

    let shim = launcher().connect(&bundle.id, bundle.dir.path()).await;
    let shim = shim.unwrap();
    rustix::process::kill_process(copier(&bundle).unwrap(), rustix::process::Signal::KILL).unwrap();
    pass(&bundle, "b");
    let exit = timeout(STEP, shim.wait(None)).await.unwrap().unwrap();
    assert_eq!(exit.status, 4);
    let expected = ["stdout F one", "stdout F two", "stdout F three"];
    until("the last line", || lines(&log) == expected).await;
    end(&bundle, &shim).await;
}

#[tokio::test]
async fn the_log_is_rotated_and_clients_attach_as_with_a_shim_of_our_own() {
    if !is_root() {
        return;
    }
    let script = format!("{WAIT}; echo one; await a; echo two; await b");
    let bundle = Bundle::new("attached", &script, |_| {});
    let (log, old) = (bundle.path("0.log"), bundle.path("0.log.1"));
    let shim = run(&bundle).await;
    until("the first line", || lines(&log).len() == 1).await;
    std::fs::rename(&log, &old).unwrap();
    shim.reopen_log().await.unwrap();
    let path = bundle.path("client");
    berth_kernel::make_fifo(&path, 0o600).unwrap();
    let mut client = pipe::OpenOptions::new().open_receiver(&path).unwrap();
    shim.attach(None, Some(&path), None).await.unwrap();
    pass(&bundle, "a");
    let mut seen = [0; 4];
    timeout(STEP, client.read_exact(&mut seen))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&seen, b"two\n");
    until("the new log", || lines(&log) == ["stdout F two"]).await;
    assert_eq!(lines(&old), ["stdout F one"]);
    pass(&bundle, "b");
    end(&bundle, &shim).await;
    assert!(shim.attach(None, Some(&path), None).await.is_err());
}

#[tokio::test]
async fn a_log_that_cannot_be_written_is_told_and_nothing_stays() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("unwritable", "echo no", |_| {});
    let foreign = ForeignShim {
        binary: SHIM.into(),
        namespace: "test".into(),
        address: bundle.path("containerd.sock"),
        options: None,
    };
    let launcher = launcher();
    let launching = foreign.launch(&launcher, &bundle.id, bundle.dir.path());
    let shim = launching.await.unwrap();
    let stdio = Stdio {
        stdout: format!("cri-log://{}", bundle.dir.path().display()),
        ..Stdio::default()
    };
    let error = shim.create(&[], &stdio).await.unwrap_err().to_string();
    assert!(error.contains("log"), "{error}");
    shim.shutdown().await.unwrap();
    timeout(STEP, shim.gone()).await.expect("the shim ends");
    until("the copier ends", || copier(&bundle).is_none()).await;
}

/// Whoever gets hold of its program, such as a container that executes `/proc/self/exe`, gets one
/// that nobody writes to.
#[tokio::test]
async fn a_shim_that_is_started_by_the_protocol_runs_from_where_nobody_writes() {
    if !is_root() {
        return;
    }
    let bundle = Bundle::new("sealed", "sleep 100", |_| {});
    let shim = run(&bundle).await;
    let (pid, _) = shim.pids_of_shim_and_init().await.unwrap();
    let place = rustix::fs::statvfs(format!("/proc/{pid}/exe")).unwrap();
    assert!(place.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    end(&bundle, &shim).await;
}
