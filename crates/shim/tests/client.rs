//! The daemon's client against a shim of plain processes.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed step is a failed test

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use berth_kernel::rustix;
use berth_shim_client::{Error, Launcher, Shim, Stdio, TaskStatus, read_exit_record};
use oci_spec::runtime::{LinuxResourcesBuilder, Process, ProcessBuilder};
use tempfile::TempDir;
use tokio::time::timeout;

/// What any step of these tests may take.
const STEP: Duration = Duration::from_secs(10);

struct Bundle {
    dir: TempDir,
    shim: Shim,
}

impl Drop for Bundle {
    /// A failed test must not leave its shim; its process goes first.
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(pid) = self.shim.launched_pid()
        {
            let children = format!("/proc/{pid}/task/{pid}/children");
            let children = std::fs::read_to_string(children).unwrap_or_default();
            let children = children
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok());
            children.chain([pid]).for_each(kill);
        }
    }
}

fn kill(pid: u32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

fn process_shim() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test
        .ancestors()
        .nth(2)
        .unwrap()
        .join("examples/process_shim");
    assert!(
        path.exists(),
        "run the whole package's tests: {}",
        path.display()
    );
    path
}

impl Bundle {
    async fn launch(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let args = ["sh", "-c", script];
        let config = serde_json::json!({ "process": { "args": args } });
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let launcher = Launcher::new(&process_shim()).unwrap();
        let shim = launcher.launch("c1", dir.path()).await.unwrap();
        Self { dir, shim }
    }

    async fn running(script: &str, stdio: &Stdio) -> Self {
        let bundle = Self::launch(script).await;
        bundle.shim.create(&[], stdio).await.unwrap();
        bundle.shim.start(None).await.unwrap();
        bundle
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> Stdio {
        let url = format!("cri-log://{}", self.path("0.log").display());
        Stdio {
            stdout: url.clone(),
            stderr: url,
            ..Stdio::default()
        }
    }

    fn log_lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("0.log")).unwrap();
        text.split_terminator('\n')
            .map(|line| line[31..].to_owned())
            .collect()
    }

    fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        berth_kernel::make_fifo(&path, 0o600).unwrap();
        path
    }

    /// Ends everything and sees the shim go.
    async fn end(self) {
        let _ = self.shim.kill(None, 9, true).await;
        timeout(STEP, self.shim.wait(None)).await.unwrap().unwrap();
        self.shim.delete(None).await.unwrap();
        self.shim.shutdown().await.unwrap();
        timeout(STEP, self.shim.gone())
            .await
            .expect("the shim ends");
    }
}

fn sh(script: &str) -> Process {
    ProcessBuilder::default()
        .args(["sh", "-c", script].map(str::to_owned))
        .cwd("/")
        .build()
        .unwrap()
}

/// The read end of a FIFO, opened before anybody writes. Read from it after
/// the process was started: only then is its end the process's end.
fn reader(path: &Path) -> File {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
    let fifo = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap();
    rustix::io::ioctl_fionbio(&fifo, false).unwrap();
    File::from(fifo)
}

fn read_all(mut fifo: File) -> String {
    let mut text = String::new();
    fifo.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn what_is_made_is_started_by_the_same_exchange_and_nothing_is_where_it_was_not_made() {
    let bundle = Bundle::launch("sleep 60").await;
    let (shim, stdio) = (&bundle.shim, Stdio::default());
    let making = shim.create(&[], &stdio);
    let (pid, started) = shim.make_and_start(making, None).await.unwrap();
    assert_eq!(started.unwrap(), pid);
    assert_eq!(shim.state(None).await.unwrap().status, TaskStatus::Running);

    // Twice the same container: refused, and the first one goes on as it was.
    let making = shim.create(&[], &stdio);
    shim.make_and_start(making, None).await.unwrap_err();
    assert_eq!(shim.state(None).await.unwrap().status, TaskStatus::Running);

    let command = sh("exit 3");
    let adding = shim.exec("one", &command, &stdio);
    let ((), started) = shim.make_and_start(adding, Some("one")).await.unwrap();
    started.unwrap();
    let exit = timeout(STEP, shim.wait(Some("one"))).await.unwrap();
    assert_eq!(exit.unwrap().status, 3);
    let adding = shim.exec("one", &command, &stdio);
    shim.make_and_start(adding, Some("one")).await.unwrap_err();

    // Added, and there is nothing to execute: the start is refused alone.
    let missing = ProcessBuilder::default()
        .args(["/there/is/none".to_owned()])
        .cwd("/")
        .build()
        .unwrap();
    let adding = shim.exec("two", &missing, &stdio);
    let ((), started) = shim.make_and_start(adding, Some("two")).await.unwrap();
    assert!(started.is_err(), "{started:?}");
    bundle.end().await;
}

#[tokio::test]
async fn a_container_goes_through_its_life() {
    let bundle = Bundle::launch("echo out; echo err >&2; exit 7").await;
    let (shim, before) = (&bundle.shim, SystemTime::now());
    assert!(shim.state(None).await.unwrap_err().is_not_found());
    let pid = shim.create(&[], &bundle.log()).await.unwrap();
    assert_eq!(shim.state(None).await.unwrap().status, TaskStatus::Created);
    assert!(
        shim.create(&[], &bundle.log())
            .await
            .unwrap_err()
            .is_already_exists()
    );
    assert_eq!(shim.start(None).await.unwrap(), pid);

    let exit = timeout(STEP, shim.wait(None)).await.unwrap().unwrap();
    assert_eq!(exit.status, 7);
    assert!(
        exit.exited_at
            .duration_since(before)
            .is_ok_and(|age| age < STEP)
    );
    let state = shim.state(None).await.unwrap();
    assert_eq!(
        (state.status, state.exit),
        (TaskStatus::Stopped, Some(exit))
    );
    let mut lines = bundle.log_lines();
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F out"]);
    let record = read_exit_record(bundle.dir.path()).unwrap().unwrap();
    assert_eq!(
        (record.pid, record.exit(), record.oom_killed),
        (pid, exit, false)
    );
    assert!(shim.kill(None, 15, false).await.unwrap_err().is_not_found());
    assert_eq!(shim.delete(None).await.unwrap(), exit);
    assert!(shim.state(None).await.unwrap_err().is_not_found());
    shim.shutdown().await.unwrap();
    timeout(STEP, shim.gone()).await.unwrap();
    assert!(shim.is_gone() && shim.wait(None).await.unwrap_err().is_gone());
}

#[tokio::test]
async fn many_waiters_are_told_the_same_exit_and_the_signal() {
    let bundle = Bundle::running("exec sleep 100", &Stdio::default()).await;
    let waits: Vec<_> = (0..50)
        .map(|_| {
            let shim = bundle.shim.clone();
            tokio::spawn(async move { shim.wait(None).await.unwrap() })
        })
        .collect();
    // Calls go on while the waiters wait.
    assert_eq!(
        bundle.shim.state(None).await.unwrap().status,
        TaskStatus::Running
    );
    // SIGUSR1: plain processes inherit what the shim blocks.
    bundle.shim.kill(None, 10, false).await.unwrap();
    for wait in waits {
        assert_eq!(timeout(STEP, wait).await.unwrap().unwrap().status, 128 + 10);
    }
    bundle.end().await;
}

#[tokio::test]
async fn a_daemon_that_comes_back_finds_the_shim_and_the_container() {
    let bundle = Bundle::running("exec sleep 100", &Stdio::default()).await;
    let second = Shim::connect("c1", bundle.dir.path()).await.unwrap();
    assert_eq!(
        second.state(None).await.unwrap().status,
        TaskStatus::Running
    );
    let (shim_pid, init) = second.pids_of_shim_and_init().await.unwrap();
    assert_eq!(Some(shim_pid), bundle.shim.launched_pid());
    assert_eq!(second.pids().await.unwrap(), [init]);
    assert!(
        second
            .exec("../x", &sh(""), &Stdio::default())
            .await
            .is_err()
    );
    bundle.end().await;
    timeout(STEP, second.gone()).await.unwrap();
}

#[tokio::test]
async fn an_exec_writes_to_its_fifos_and_tells_its_exit() {
    let bundle = Bundle::running("exec sleep 100", &Stdio::default()).await;
    let (shim, out, err) = (&bundle.shim, bundle.fifo("out"), bundle.fifo("err"));
    let stdio = Stdio {
        stdout: out.display().to_string(),
        stderr: err.display().to_string(),
        ..Stdio::default()
    };
    shim.exec("e1", &sh("echo a; echo b >&2; exit 3"), &stdio)
        .await
        .unwrap();
    assert!(
        shim.exec("e1", &sh(""), &stdio)
            .await
            .unwrap_err()
            .is_already_exists()
    );
    let (out, err) = (reader(&out), reader(&err));
    shim.start(Some("e1")).await.unwrap();
    let exit = timeout(STEP, shim.wait(Some("e1"))).await.unwrap().unwrap();
    assert_eq!(exit.status, 3);
    assert_eq!((read_all(out), read_all(err)), ("a\n".into(), "b\n".into()));
    assert_eq!(shim.delete(Some("e1")).await.unwrap(), exit);
    assert!(shim.wait(Some("e1")).await.unwrap_err().is_not_found());
    assert!(
        !bundle.path("exit.json").exists(),
        "only init leaves a record"
    );
    bundle.end().await;
}

#[tokio::test]
async fn input_ends_when_the_client_and_the_shim_have_closed_it() {
    let bundle = Bundle::running("exec sleep 100", &Stdio::default()).await;
    let (shim, input, out) = (&bundle.shim, bundle.fifo("in"), bundle.fifo("out"));
    let stdio = Stdio {
        stdin: input.display().to_string(),
        stdout: out.display().to_string(),
        ..Stdio::default()
    };
    shim.exec("cat", &sh("cat"), &stdio).await.unwrap();
    let out = reader(&out);
    shim.start(Some("cat")).await.unwrap();
    // A first client comes and goes; the process does not notice.
    std::fs::write(&input, "one ").unwrap();
    assert_eq!(
        shim.state(Some("cat")).await.unwrap().status,
        TaskStatus::Running
    );
    std::fs::write(&input, "two").unwrap();
    shim.close_stdin(Some("cat")).await.unwrap();
    let exit = timeout(STEP, shim.wait(Some("cat")))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((exit.status, read_all(out)), (0, "one two".to_owned()));
    bundle.end().await;
}

#[tokio::test]
async fn a_reader_that_vanishes_does_not_kill_the_process() {
    let bundle = Bundle::running("exec sleep 100", &Stdio::default()).await;
    let (shim, out) = (&bundle.shim, bundle.fifo("out"));
    let stdio = Stdio {
        stdout: out.display().to_string(),
        ..Stdio::default()
    };
    let script = "trap '' TERM; echo a; read x < $0; echo b; exit 4";
    let script = script.replace("$0", &bundle.fifo("go").display().to_string());
    shim.exec("e", &sh(&script), &stdio).await.unwrap();
    let mut out = reader(&out);
    shim.start(Some("e")).await.unwrap();
    out.read_exact(&mut [0]).unwrap();
    drop(out);
    std::fs::write(bundle.path("go"), "\n").unwrap();
    let exit = timeout(STEP, shim.wait(Some("e"))).await.unwrap().unwrap();
    assert_eq!(exit.status, 4);
    bundle.end().await;
}

#[tokio::test]
async fn a_grandchild_that_holds_the_output_does_not_hold_up_wait() {
    let bundle = Bundle::launch("echo first; (sleep 2; echo late) & exit 0").await;
    bundle.shim.create(&[], &bundle.log()).await.unwrap();
    let started = Instant::now();
    bundle.shim.start(None).await.unwrap();
    timeout(STEP, bundle.shim.wait(None))
        .await
        .unwrap()
        .unwrap();
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(bundle.log_lines(), ["stdout F first"]);
    bundle.end().await;
}

#[tokio::test]
async fn output_before_the_exit_is_in_the_log_when_wait_returns() {
    for _ in 0..5 {
        let script = "head -c 60000 /dev/zero | tr '\\0' x; echo; echo end";
        let bundle = Bundle::launch(script).await;
        bundle.shim.create(&[], &bundle.log()).await.unwrap();
        bundle.shim.start(None).await.unwrap();
        timeout(STEP, bundle.shim.wait(None))
            .await
            .unwrap()
            .unwrap();
        let lines = bundle.log_lines();
        let tags: Vec<_> = lines.iter().map(|line| &line[..9]).collect();
        let (part, full) = ("stdout P ", "stdout F ");
        assert_eq!(tags, [part, part, part, full, full]);
        assert_eq!(
            lines.iter().map(|line| line.len() - 9).sum::<usize>(),
            60_003
        );
        bundle.end().await;
    }
}

#[tokio::test]
async fn a_rotated_log_is_opened_again() {
    let bundle = Bundle::launch("read x; echo two; exec sleep 100").await;
    let stdio = Stdio {
        stdin: bundle.fifo("in").display().to_string(),
        ..bundle.log()
    };
    bundle.shim.create(&[], &stdio).await.unwrap();
    bundle.shim.start(None).await.unwrap();
    std::fs::rename(bundle.path("0.log"), bundle.path("old.log")).unwrap();
    bundle.shim.reopen_log().await.unwrap();
    assert_eq!(bundle.log_lines(), [""; 0]);
    std::fs::write(bundle.path("in"), "\n").unwrap();
    let deadline = Instant::now() + STEP;
    while bundle.log_lines().is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bundle.log_lines(), ["stdout F two"]);
    bundle.shim.kill(None, 9, false).await.unwrap();
    bundle.shim.wait(None).await.unwrap();
    assert!(
        bundle
            .shim
            .reopen_log()
            .await
            .unwrap_err()
            .is_failed_precondition()
    );
    bundle.end().await;
}

#[tokio::test]
async fn an_attached_client_sees_the_output_beside_the_log() {
    let bundle = Bundle::launch("read x; echo seen; read x; echo alone").await;
    let stdio = Stdio {
        stdin: bundle.fifo("in").display().to_string(),
        ..bundle.log()
    };
    bundle.shim.create(&[], &stdio).await.unwrap();
    bundle.shim.start(None).await.unwrap();
    let fifo = bundle.fifo("attach");
    assert!(
        bundle.shim.attach(None, Some(&fifo), None).await.is_err(),
        "nobody reads"
    );
    let mut client = reader(&fifo);
    bundle.shim.attach(None, Some(&fifo), None).await.unwrap();
    std::fs::write(bundle.path("in"), "\n").unwrap();
    let mut seen = [0; 5];
    client.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"seen\n");
    drop(client);
    std::fs::write(bundle.path("in"), "\n").unwrap();
    timeout(STEP, bundle.shim.wait(None))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(bundle.log_lines(), ["stdout F seen", "stdout F alone"]);
    bundle.end().await;
}

#[tokio::test]
async fn a_terminal_is_pumped_both_ways_and_resized() {
    let bundle = Bundle::running("exec sleep 100", &Stdio::default()).await;
    let (shim, input, out) = (&bundle.shim, bundle.fifo("in"), bundle.fifo("out"));
    let stdio = Stdio {
        terminal: true,
        stdin: input.display().to_string(),
        stdout: out.display().to_string(),
        ..Stdio::default()
    };
    shim.exec("tty", &sh("read x; stty size; echo got $x"), &stdio)
        .await
        .unwrap();
    let out = reader(&out);
    shim.start(Some("tty")).await.unwrap();
    shim.resize_pty(Some("tty"), 100, 40).await.unwrap();
    std::fs::write(&input, "hello\n").unwrap();
    let exit = timeout(STEP, shim.wait(Some("tty")))
        .await
        .unwrap()
        .unwrap();
    let text = read_all(out);
    assert_eq!(
        (exit.status, text.as_str()),
        (0, "hello\r\n40 100\r\ngot hello\r\n")
    );
    shim.delete(Some("tty")).await.unwrap();
    bundle.end().await;
}

#[tokio::test]
async fn a_terminal_is_logged_as_standard_output() {
    let bundle = Bundle::launch("echo a; echo b >&2").await;
    let stdio = Stdio {
        terminal: true,
        ..bundle.log()
    };
    bundle.shim.create(&[], &stdio).await.unwrap();
    bundle.shim.start(None).await.unwrap();
    timeout(STEP, bundle.shim.wait(None))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(bundle.log_lines(), ["stdout F a\r", "stdout F b\r"]);
    bundle.end().await;
}

#[tokio::test]
async fn what_a_terminal_says_goes_to_a_program_until_the_terminal_ends() {
    let bundle = Bundle::launch("echo a; sleep 0.2; echo b >&2").await;
    let (program, told) = (bundle.path("logger"), bundle.path("told"));
    let script = "#!/bin/sh\nexec 5>&-\ncat <&3 >$2.new\nmv $2.new $2\n";
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let stdio = Stdio {
        terminal: true,
        stdout: format!("binary://{}?to={}", program.display(), told.display()),
        ..Stdio::default()
    };
    bundle.shim.create(&[], &stdio).await.unwrap();
    bundle.shim.start(None).await.unwrap();
    let begin = Instant::now();
    while !told.exists() {
        assert!(begin.elapsed() < STEP, "the program has not ended");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(std::fs::read_to_string(&told).unwrap(), "a\r\nb\r\n");
    bundle.end().await;
}

#[tokio::test]
async fn each_operation_is_refused_in_the_wrong_state() {
    let bundle = Bundle::launch("exec sleep 100").await;
    let (shim, none) = (&bundle.shim, Stdio::default());
    let resources = LinuxResourcesBuilder::default().build().unwrap();
    assert!(shim.start(None).await.unwrap_err().is_not_found());
    shim.create(&[], &none).await.unwrap();
    assert!(shim.pause().await.unwrap_err().is_failed_precondition());
    shim.exec("e", &sh("exit 0"), &none).await.unwrap();
    assert!(
        shim.start(Some("e"))
            .await
            .unwrap_err()
            .is_failed_precondition()
    );
    shim.start(None).await.unwrap();
    for error in [
        shim.start(None).await.unwrap_err(),
        shim.resume().await.unwrap_err(),
        shim.delete(None).await.unwrap_err(),
    ] {
        assert!(error.is_failed_precondition(), "{error}");
    }
    shim.pause().await.unwrap();
    assert_eq!(shim.state(None).await.unwrap().status, TaskStatus::Paused);
    assert!(
        shim.start(Some("e"))
            .await
            .unwrap_err()
            .is_failed_precondition()
    );
    shim.resume().await.unwrap();
    shim.update(&resources).await.unwrap();
    assert!(bundle.path("resources.json").exists());
    assert_eq!(
        shim.stats().await.unwrap(),
        ("test".to_owned(), vec![1, 2, 3])
    );
    assert!(shim.kill(None, 0, false).await.is_err());
    assert!(shim.kill(None, 65, false).await.is_err());
    assert!(
        shim.kill(Some("none"), 9, false)
            .await
            .unwrap_err()
            .is_not_found()
    );
    shim.shutdown().await.unwrap();
    assert_eq!(
        shim.state(None).await.unwrap().status,
        TaskStatus::Running,
        "not while it runs"
    );
    bundle.end().await;
}

#[tokio::test]
async fn a_container_that_was_never_started_can_be_deleted() {
    let bundle = Bundle::launch("exit 0").await;
    bundle.shim.create(&[], &Stdio::default()).await.unwrap();
    let exit = bundle.shim.delete(None).await.unwrap();
    assert_eq!(exit.status, 137);
    bundle.shim.shutdown().await.unwrap();
    timeout(STEP, bundle.shim.gone()).await.unwrap();
}

#[tokio::test]
async fn a_stdio_that_cannot_be_opened_fails_the_create_only() {
    let bundle = Bundle::launch("exit 0").await;
    let stdio = Stdio {
        stdout: bundle.path("missing").display().to_string(),
        ..Stdio::default()
    };
    assert!(matches!(
        bundle.shim.create(&[], &stdio).await,
        Err(Error::Refused { .. })
    ));
    bundle.shim.create(&[], &bundle.log()).await.unwrap();
    bundle.shim.start(None).await.unwrap();
    bundle.end().await;
}

#[tokio::test]
async fn a_killed_shim_is_noticed_and_its_socket_is_dead() {
    let bundle = Bundle::running("exec sleep 100", &Stdio::default()).await;
    let (shim_pid, init) = bundle.shim.pids_of_shim_and_init().await.unwrap();
    let wait = {
        let shim = bundle.shim.clone();
        tokio::spawn(async move { shim.wait(None).await })
    };
    kill(shim_pid);
    timeout(STEP, bundle.shim.gone()).await.unwrap();
    assert!(
        timeout(STEP, wait)
            .await
            .unwrap()
            .unwrap()
            .unwrap_err()
            .is_gone()
    );
    // The listener may outlive the connections by a moment.
    let again = match Shim::connect("c1", bundle.dir.path()).await {
        Ok(shim) => timeout(STEP, shim.state(None)).await.unwrap().map(drop),
        Err(error) => Err(error),
    };
    assert!(again.unwrap_err().is_gone());
    kill(init); // no parent-death signal for a plain process
}
