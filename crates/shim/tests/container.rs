//! The real shim with real containers: a root filesystem with busybox, its own
//! namespaces and cgroup. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed step is a failed test

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_cgroups::{CgroupHost, CgroupPath};
use berth_kernel::rustix;
use berth_shim_client::{ForeignShim, Launcher, Shim, Stdio, TaskStatus, read_exit_record};
use tokio::time::timeout;

mod bundle;

use bundle::{Bundle, sh};

/// What any step of these tests may take.
const STEP: Duration = Duration::from_secs(60);
const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-berth-v1");

fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root: {what}");
    }
    root
}

/// What only these tests do with a bundle.
trait Driven {
    fn log_lines(&self) -> Vec<String>;
    async fn launch(&self) -> Shim;
    async fn run(&self) -> Shim;
    fn cgroup_exists(&self) -> bool;
    async fn end(&self, shim: &Shim);
    async fn shut_down(&self, shim: &Shim);
}

impl Driven for Bundle {
    fn log_lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("0.log")).unwrap();
        text.lines().map(|line| line[31..].to_owned()).collect()
    }

    async fn launch(&self) -> Shim {
        let launcher = Launcher::new(Path::new(SHIM)).unwrap();
        assert!(launcher.is_sealed());
        let shim = launcher.launch(&self.id, self.dir.path()).await.unwrap();
        self.end_if_the_test_fails(SHIM, shim.launched_pid());
        assert!(
            cannot_be_written(&shim).await,
            "a container could write the shim by /proc/self/exe"
        );
        shim
    }

    async fn run(&self) -> Shim {
        let shim = self.launch().await;
        shim.create(&[], &self.log()).await.unwrap();
        shim.start(None).await.unwrap();
        shim
    }

    fn cgroup_exists(&self) -> bool {
        let path = CgroupPath::parse(&self.cgroup).unwrap();
        CgroupHost::detect()
            .unwrap()
            .open(&path)
            .is_ok_and(|cgroup| cgroup.exists())
    }

    /// Deletes the container, ends the shim, and sees that nothing is left.
    async fn end(&self, shim: &Shim) {
        let _ = shim.kill(None, 9, true).await;
        timeout(STEP, shim.wait(None)).await.unwrap().unwrap();
        shim.delete(None).await.unwrap();
        self.shut_down(shim).await;
    }

    async fn shut_down(&self, shim: &Shim) {
        shim.shutdown().await.unwrap();
        timeout(STEP, shim.gone()).await.expect("the shim ends");
        assert!(!self.cgroup_exists(), "the cgroup is gone");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let bundle = self.dir.path().to_str().unwrap();
        assert!(!mounts.contains(bundle), "no mount is left below {bundle}");
    }
}

async fn cannot_be_written(shim: &Shim) -> bool {
    let (pid, _) = shim.pids_of_shim_and_init().await.unwrap();
    let place = rustix::fs::statvfs(format!("/proc/{pid}/exe")).unwrap();
    place.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)
}

fn fifo(path: &Path) -> File {
    berth_kernel::make_fifo(path, 0o600).unwrap();
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
    let fifo = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap();
    rustix::io::ioctl_fionbio(&fifo, false).unwrap();
    File::from(fifo)
}

async fn exec(shim: &Shim, bundle: &Bundle, exec_id: &str, script: &str) -> (u32, String) {
    let path = bundle.path(exec_id);
    let mut output = fifo(&path);
    let stdio = Stdio {
        stdout: path.display().to_string(),
        ..Stdio::default()
    };
    shim.exec(exec_id, &sh(script), &stdio).await.unwrap();
    shim.start(Some(exec_id)).await.unwrap();
    let exit = timeout(STEP, shim.wait(Some(exec_id)))
        .await
        .unwrap()
        .unwrap();
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    shim.delete(Some(exec_id)).await.unwrap();
    (exit.status, text)
}

fn kill_shim(shim: &Shim) {
    let pid = rustix::process::Pid::from_raw(shim.launched_pid().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Waits until no process has this pid.
async fn dies(pid: u32) -> bool {
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    false
}

#[tokio::test]
async fn a_container_runs_and_its_end_is_known_everywhere() {
    if !is_root("containers") {
        return;
    }
    let bundle = Bundle::new("life", "echo out; echo err >&2; exit 42", |_| {});
    let shim = bundle.launch().await;
    let pid = shim.create(&[], &bundle.log()).await.unwrap();
    assert_eq!(shim.state(None).await.unwrap().status, TaskStatus::Created);
    assert!(bundle.cgroup_exists());
    let waits: Vec<_> = (0..10)
        .map(|_| {
            let shim = shim.clone();
            tokio::spawn(async move { shim.wait(None).await.unwrap() })
        })
        .collect();
    assert_eq!(shim.start(None).await.unwrap(), pid);
    for wait in waits {
        assert_eq!(timeout(STEP, wait).await.unwrap().unwrap().status, 42);
    }
    let mut lines = bundle.log_lines();
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F out"]);
    let record = read_exit_record(bundle.dir.path()).unwrap().unwrap();
    assert_eq!(
        (record.pid, record.exit_status, record.oom_killed),
        (pid, 42, false)
    );
    assert_eq!(shim.delete(None).await.unwrap(), record.exit());
    bundle.shut_down(&shim).await;
}

#[tokio::test]
async fn execs_run_in_the_container_and_are_reaped() {
    if !is_root("containers") {
        return;
    }
    let bundle = Bundle::new("exec", "", |spec| {
        spec["process"]["args"] = serde_json::json!(["/bin/sleep", "1000"]);
    });
    let shim = bundle.run().await;
    let (status, text) = exec(
        &shim,
        &bundle,
        "one",
        "echo $$; cat /proc/1/cmdline; exit 5",
    )
    .await;
    assert_eq!(status, 5);
    assert!(text.contains("sleep"), "{text}");
    let (status, _) = exec(&shim, &bundle, "two", "kill -9 $$").await;
    assert_eq!(status, 128 + 9);
    // Signals and descriptors of the shim do not reach the container. The C
    // library leaves two signals of its own, above 31, ignored in all it spawns.
    let init = std::fs::read_to_string(format!("/proc/{}/status", shim.pids().await.unwrap()[0]));
    let init = init.unwrap();
    let mask = |name: &str| {
        let line = init
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap() & 0x7fff_ffff
    };
    assert_eq!((mask("SigBlk:"), mask("SigIgn:")), (0, 0));
    let (_, text) = exec(
        &shim,
        &bundle,
        "fds",
        "for f in /proc/self/fd/*; do echo ${f##*/}; done",
    )
    .await;
    assert!(
        text.lines().all(|fd| fd.parse::<u32>().unwrap() <= 3),
        "{text}"
    );
    // An orphan of an exec neither holds up its exit nor stays a zombie.
    let (status, _) = exec(&shim, &bundle, "orphan", "(sleep 0.2) > /dev/null & exit 0").await;
    assert_eq!(status, 0);
    let pids = shim.pids().await.unwrap();
    assert!(pids.len() <= 2 && pids.contains(&shim.state(None).await.unwrap().pid));
    let failed = shim.exec("missing", &sh(""), &Stdio::default()).await;
    failed.unwrap();
    let mut missing = sh("");
    missing.set_args(Some(vec!["/no/such".to_owned()]));
    shim.exec("nothing", &missing, &Stdio::default())
        .await
        .unwrap();
    let error = shim.start(Some("nothing")).await.unwrap_err();
    assert!(error.to_string().contains("no such file"), "{error}");
    assert_eq!(error.exit_status(), Some(127));
    bundle.end(&shim).await;
}

#[tokio::test]
async fn a_terminal_works_in_a_container() {
    if !is_root("containers") {
        return;
    }
    let bundle = Bundle::new("tty", "sleep 1000", |_| {});
    let shim = bundle.run().await;
    let mut output = fifo(&bundle.path("out"));
    drop(fifo(&bundle.path("in")));
    let stdio = Stdio {
        terminal: true,
        stdin: bundle.path("in").display().to_string(),
        stdout: bundle.path("out").display().to_string(),
        ..Stdio::default()
    };
    let mut process = sh("read x; stty size; echo got $x");
    process.set_terminal(Some(true));
    shim.exec("tty", &process, &stdio).await.unwrap();
    shim.start(Some("tty")).await.unwrap();
    shim.resize_pty(Some("tty"), 90, 30).await.unwrap();
    std::fs::write(bundle.path("in"), "word\n").unwrap();
    let exit = timeout(STEP, shim.wait(Some("tty")))
        .await
        .unwrap()
        .unwrap();
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(
        (exit.status, text.as_str()),
        (0, "word\r\n30 90\r\ngot word\r\n")
    );
    shim.delete(Some("tty")).await.unwrap();
    bundle.end(&shim).await;
}

#[tokio::test]
async fn a_container_is_paused_and_killed_while_it_is() {
    if !is_root("containers") {
        return;
    }
    let bundle = Bundle::new("pause", "sleep 1000", |_| {});
    let shim = bundle.run().await;
    shim.pause().await.unwrap();
    assert_eq!(shim.state(None).await.unwrap().status, TaskStatus::Paused);
    shim.resume().await.unwrap();
    shim.pause().await.unwrap();
    shim.kill(None, 9, true).await.unwrap();
    let exit = timeout(STEP, shim.wait(None)).await.unwrap().unwrap();
    assert_eq!(exit.status, 137);
    bundle.end(&shim).await;
}

#[tokio::test]
async fn a_container_on_the_hosts_pid_namespace_ends_with_its_init() {
    if !is_root("containers") {
        return;
    }
    let bundle = Bundle::new("hostpid", "(sleep 1000) & echo started; exit 0", |spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
    });
    let shim = bundle.run().await;
    timeout(STEP, shim.wait(None)).await.unwrap().unwrap();
    assert_eq!(bundle.log_lines(), ["stdout F started"]);
    shim.delete(None).await.unwrap();
    bundle.shut_down(&shim).await;
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_fails_the_start_and_leaves_nothing() {
    if !is_root("containers") {
        return;
    }
    let bundle = Bundle::new("missing", "", |spec| {
        spec["process"]["args"] = serde_json::json!(["/no/such/program"]);
    });
    let shim = bundle.launch().await;
    let error = match shim.create(&[], &bundle.log()).await {
        Ok(_) => shim.start(None).await.unwrap_err(),
        Err(error) => error,
    };
    let words = "unable to start container process: \
                 exec: \"/no/such/program\": stat /no/such/program: no such file or directory";
    assert_eq!(error.to_string(), words);
    assert_eq!(error.exit_status(), Some(127));
    match shim.delete(None).await {
        Ok(_) => {}
        Err(error) => assert!(error.is_not_found(), "{error}"),
    }
    bundle.shut_down(&shim).await;
}

#[tokio::test]
async fn a_container_that_was_never_started_is_deleted() {
    if !is_root("containers") {
        return;
    }
    let bundle = Bundle::new("unstarted", "exit 0", |_| {});
    let shim = bundle.launch().await;
    shim.create(&[], &bundle.log()).await.unwrap();
    assert_eq!(shim.delete(None).await.unwrap().status, 137);
    bundle.shut_down(&shim).await;
}

#[tokio::test]
async fn the_container_of_a_killed_shim_is_cleaned_up_twice() {
    if !is_root("containers") {
        return;
    }
    let bundle = Bundle::new("killed", "sleep 1000", |_| {});
    let shim = bundle.run().await;
    let init = shim.state(None).await.unwrap().pid;
    kill_shim(&shim);
    timeout(STEP, shim.gone()).await.unwrap();
    assert!(
        dies(shim.launched_pid().unwrap()).await,
        "the zombie is reaped"
    );
    let launcher = Arc::new(Launcher::new(Path::new(SHIM)).unwrap());
    for _ in 0..2 {
        let exit = launcher
            .clean_up(&bundle.id, bundle.dir.path())
            .await
            .unwrap();
        assert_eq!(exit.status, 137);
    }
    assert!(dies(init).await, "nothing of the container is left");
    assert!(!bundle.cgroup_exists());
}

#[tokio::test]
async fn the_standard_start_protocol_leads_to_the_same_shim() {
    if !is_root("containers") {
        return;
    }
    let bundle = Bundle::new("start", "exit 9", |_| {});
    let foreign = ForeignShim {
        binary: SHIM.into(),
        namespace: "test".into(),
        address: bundle.path("containerd.sock"),
        options: None,
    };
    let launcher = Arc::new(Launcher::new(Path::new(SHIM)).unwrap());
    let launching = foreign.launch(&launcher, &bundle.id, bundle.dir.path());
    let shim = launching.await.unwrap();
    assert!(bundle.path("address").exists());
    shim.create(&[], &bundle.log()).await.unwrap();
    shim.start(None).await.unwrap();
    assert_eq!(
        timeout(STEP, shim.wait(None))
            .await
            .unwrap()
            .unwrap()
            .status,
        9
    );
    shim.delete(None).await.unwrap();
    bundle.shut_down(&shim).await;
    launcher
        .clean_up(&bundle.id, bundle.dir.path())
        .await
        .unwrap();
    assert_eq!(std::fs::read_dir(bundle.path("s")).unwrap().count(), 0);
}

fn descriptors_of(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

fn children_of(pid: u32) -> usize {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap();
    text.split_whitespace().count()
}

#[tokio::test]
async fn many_execs_leave_no_descriptor_and_no_zombie_behind() {
    if !is_root("containers") {
        return;
    }
    let bundle = Bundle::new("many", "exec sleep 1000", |_| {});
    let shim = bundle.run().await;
    let pid = shim.launched_pid().unwrap();
    let before = (descriptors_of(pid), children_of(pid));
    for number in 0..100 {
        let (status, text) = exec(&shim, &bundle, &format!("e{number}"), "echo $0; exit 1").await;
        assert_eq!((status, text.as_str()), (1, "/bin/sh\n"));
    }
    assert_eq!((descriptors_of(pid), children_of(pid)), before);
    bundle.end(&shim).await;
}

#[tokio::test]
async fn limits_are_changed_and_counted_and_an_out_of_memory_kill_is_told() {
    if !is_root("containers") {
        return;
    }
    let script = "read go < /go; exec /bin/busybox dd if=/dev/zero of=/dev/null bs=64M count=1";
    let bundle = Bundle::new("oom", script, |_| {});
    drop(fifo(&bundle.path("rootfs/go")));
    let shim = bundle.run().await;
    let (type_url, value) = shim.stats().await.unwrap();
    assert!(type_url.starts_with("io.containerd.cgroups.v") && value.len() > 20);
    let resources: oci_spec::runtime::LinuxResources =
        serde_json::from_str(r#"{"memory":{"limit":20971520,"swap":20971520}}"#).unwrap();
    shim.update(&resources).await.unwrap();
    std::fs::write(bundle.path("rootfs/go"), "\n").unwrap();
    let exit = timeout(STEP, shim.wait(None)).await.unwrap().unwrap();
    assert_eq!(exit.status, 137);
    let record = read_exit_record(bundle.dir.path()).unwrap().unwrap();
    assert!(record.oom_killed);
    bundle.end(&shim).await;
}
