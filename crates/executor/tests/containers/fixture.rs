//! A root file system of busybox, bundles on top of it, and runs of them.

use anyhow::{Context, Result, bail};
use berth_cgroups::{CgroupHost, CgroupPath};
use berth_executor::{Container, Create, CreateOptions, Process, ProcessStdio, RootfsMount};
use berth_kernel::rustix::pipe::{PipeFlags, pipe_with};
use berth_kernel::rustix::process::{Pid, WaitOptions, wait, waitpid};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long what is killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

const APPLETS: [&str; 25] = [
    "sh", "cat", "echo", "ls", "id", "true", "false", "sleep", "touch", "readlink", "hostname",
    "stty", "tty", "mknod", "mkdir", "grep", "pwd", "env", "chmod", "kill", "mount", "head",
    "stat", "ps", "wc",
];

/// What all cases share.
pub struct Host {
    base: tempfile::TempDir,
    pub cgroups: CgroupHost,
    pub cgroup_parent: String,
    next: AtomicU32,
}

/// How a process ended, and what it wrote.
#[derive(Debug)]
pub struct Outcome {
    /// Exit status, or 128 and the signal.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Host {
    pub fn new() -> Result<Self> {
        let base = tempfile::tempdir()?;
        fill_root(base.path())?;
        Ok(Self {
            base,
            cgroups: CgroupHost::detect()?,
            cgroup_parent: format!("/berth-executor-test-{}", std::process::id()),
            next: AtomicU32::new(1),
        })
    }

    /// A bundle that runs `script` in a shell.
    pub fn bundle(&self, script: &str) -> Result<Bundle> {
        let id = format!("c{}", self.next.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir()?;
        for name in ["upper", "work", "rootfs"] {
            fs::create_dir(dir.path().join(name))?;
        }
        let path = |name: &str| dir.path().join(name).display().to_string();
        let rootfs = vec![RootfsMount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            target: String::new(),
            options: vec![
                format!("lowerdir={}", self.base.path().display()),
                format!("upperdir={}", path("upper")),
                format!("workdir={}", path("work")),
            ],
        }];
        let config = config(script, &format!("{}/{id}", self.cgroup_parent));
        Ok(Bundle {
            id,
            dir,
            rootfs,
            config,
        })
    }

    pub fn base(&self) -> &Path {
        self.base.path()
    }

    pub fn cgroup_exists(&self, id: &str) -> bool {
        let path = CgroupPath::parse(&format!("{}/{id}", self.cgroup_parent));
        path.is_ok_and(|path| self.cgroups.open(&path).is_ok())
    }

    /// Ends what a failed case left, and tells of it.
    pub fn clean(&self) -> Result<()> {
        let path = CgroupPath::parse(&self.cgroup_parent)?;
        let Ok(parent) = self.cgroups.open(&path) else {
            return Ok(());
        };
        let left = parent.pids()?;
        parent.kill_all(9)?;
        // All that ended: an init waits for commands in its namespace, which are children of ours.
        let begin = Instant::now();
        while !parent.pids()?.is_empty() && begin.elapsed() < PATIENCE {
            while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
            std::thread::sleep(Duration::from_millis(5));
        }
        parent.remove()?;
        if left.is_empty() {
            Ok(())
        } else {
            bail!("processes left: {left:?}")
        }
    }
}

/// A bundle whose spec can still be changed.
pub struct Bundle {
    pub id: String,
    pub dir: tempfile::TempDir,
    pub rootfs: Vec<RootfsMount>,
    pub config: Value,
}

impl Bundle {
    /// Sets the value at a JSON pointer.
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap_or(("", pointer));
        match self.config.pointer_mut(parent) {
            Some(Value::Array(list)) => list.push(value),
            Some(parent) => parent[key] = value,
            None => panic!("no {parent} in the spec"),
        }
        self
    }

    pub fn mount(self, mount: Value) -> Self {
        self.set("/mounts/-", mount)
    }

    /// A file or directory of the container's root, in its writable layer.
    pub fn upper(&self, path: &str) -> PathBuf {
        self.dir.path().join("upper").join(path)
    }

    pub fn spec(&self) -> Result<Spec> {
        serde_json::from_value(self.config.clone()).context("spec")
    }

    pub fn create_with(&self, host: &Host, stdio: ProcessStdio) -> Result<Container> {
        let spec = self.spec()?;
        Ok(Container::create(Create {
            id: &self.id,
            bundle: self.dir.path(),
            spec: &spec,
            rootfs: &self.rootfs,
            stdio,
            cgroups: &host.cgroups,
            options: CreateOptions::default(),
        })?)
    }

    /// Creates with no streams.
    pub fn create(&self, host: &Host) -> Result<Container> {
        self.create_with(host, quiet())
    }

    /// Creates, starts, collects the output and deletes.
    pub fn run(&self, host: &Host) -> Result<Outcome> {
        let (stdio, output) = pipes()?;
        let mut container = self.create_with(host, stdio)?;
        let outcome = container
            .start()
            .map_err(anyhow::Error::from)
            .and_then(|()| output.collect(container.pid()));
        if outcome.is_err() {
            let _ = container.kill(9, true);
            let _ = reap(container.pid());
        }
        container.delete(true)?;
        outcome
    }

    /// Runs and answers with what a successful run wrote.
    pub fn output(&self, host: &Host) -> Result<String> {
        let outcome = self.run(host)?;
        if outcome.status != 0 {
            bail!("{outcome:?}");
        }
        Ok(outcome.stdout)
    }

    /// The message of the error that create, or else start, is to end with.
    pub fn refusal(&self, host: &Host) -> Result<String> {
        match self.run(host) {
            Ok(outcome) => bail!("was not refused: {outcome:?}"),
            Err(error) => {
                if host.cgroup_exists(&self.id) {
                    bail!("left its cgroup");
                }
                Ok(format!("{error:#}"))
            }
        }
    }
}

pub fn quiet() -> ProcessStdio {
    ProcessStdio::Files {
        stdin: None,
        stdout: None,
        stderr: None,
    }
}

/// The reading ends of a process's output.
pub struct Output {
    stdout: OwnedFd,
    stderr: OwnedFd,
}

pub fn pipes() -> Result<(ProcessStdio, Output)> {
    let (stdout, stdout_end) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC)?;
    let stdio = ProcessStdio::Files {
        stdin: None,
        stdout: Some(stdout_end),
        stderr: Some(stderr_end),
    };
    Ok((stdio, Output { stdout, stderr }))
}

impl Output {
    /// Everything that the process wrote, once it has ended. Outputs here are
    /// small enough for the pipes.
    pub fn collect(self, pid: i32) -> Result<Outcome> {
        let status = reap(pid)?;
        let read = |fd| -> Result<String> {
            let mut text = String::new();
            fs::File::from(fd).read_to_string(&mut text)?;
            Ok(text)
        };
        Ok(Outcome {
            status,
            stdout: read(self.stdout)?,
            stderr: read(self.stderr)?,
        })
    }
}

pub fn reap(pid: i32) -> Result<i32> {
    let pid = Pid::from_raw(pid).context("pid")?;
    let (_, status) = waitpid(Some(pid), WaitOptions::empty())?.context("no status")?;
    Ok(status
        .exit_status()
        .or(status.terminating_signal().map(|signal| 128 + signal))
        .unwrap_or(-1))
}

/// Runs a shell script beside the first process.
pub fn exec(container: &Container, script: &str) -> Result<Outcome> {
    let (stdio, output) = pipes()?;
    let process = exec_process(container, &process(script), stdio)?;
    output.collect(process.pid)
}

pub fn exec_process(
    container: &Container,
    process: &Value,
    stdio: ProcessStdio,
) -> Result<Process> {
    let process: oci_spec::runtime::Process = serde_json::from_value(process.clone())?;
    Ok(container.exec(&process, stdio)?)
}

pub fn process(script: &str) -> Value {
    json!({
        "user": {"uid": 0, "gid": 0},
        "args": ["sh", "-c", script],
        "env": ["PATH=/bin:/usr/bin", "GREETING=ahoy"],
        "cwd": "/",
        "noNewPrivileges": true,
        "capabilities": {
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_MKNOD"],
            "effective": ["CAP_CHOWN", "CAP_KILL", "CAP_MKNOD"],
            "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_MKNOD"],
            "inheritable": ["CAP_CHOWN", "CAP_KILL"],
        },
    })
}

fn config(script: &str, cgroup: &str) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "hostname": "vessel",
        "process": process(script),
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=64k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "resources": {"memory": {"limit": 67_108_864}, "pids": {"limit": 64}},
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "mount"}, {"type": "network"}, {"type": "cgroup"},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware", "/proc/scsi", "/no/such"],
            "readonlyPaths": ["/proc/sys", "/proc/irq", "/no/such"],
        },
    })
}

/// busybox with the libraries that it needs, and a few files.
fn fill_root(root: &Path) -> Result<()> {
    for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "usr/bin"] {
        fs::create_dir_all(root.join(name))?;
    }
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    let program = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .context("no busybox")?;
    fs::copy(program, root.join("bin/busybox"))?;
    let libraries = Command::new("ldd").arg(program).output()?.stdout;
    for word in String::from_utf8_lossy(&libraries).split_whitespace() {
        if word.starts_with('/') {
            let target = root.join(word.trim_start_matches('/'));
            fs::create_dir_all(target.parent().context("no parent")?)?;
            fs::copy(word, target)?;
        }
    }
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    Ok(())
}

/// The error of what must not succeed.
pub fn refused<T, E: Into<anyhow::Error>>(result: Result<T, E>) -> Result<anyhow::Error> {
    match result {
        Ok(_) => bail!("was not refused"),
        Err(error) => Ok(error.into()),
    }
}
