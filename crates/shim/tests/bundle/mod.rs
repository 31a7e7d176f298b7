//! Bundles with a root filesystem of busybox and the libraries it needs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use berth_kernel::rustix::process::{Pid, Signal, kill_process};
use berth_shim_client::Stdio;
use oci_spec::runtime::{Process, ProcessBuilder, Spec};
use tempfile::TempDir;

const APPLETS: [&str; 11] = [
    "sh", "sleep", "cat", "echo", "true", "head", "tr", "id", "stty", "mkfifo", "grep",
];

#[allow(dead_code)] // not every user looks at every part
pub struct Bundle {
    pub dir: TempDir,
    pub id: String,
    pub cgroup: String,
    shim: OnceLock<(String, Option<u32>)>,
}

impl Bundle {
    /// A container that runs `script`, unless `change` makes something else of
    /// its spec.
    pub fn new(name: &str, script: &str, change: impl FnOnce(&mut serde_json::Value)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let id = format!("{name}-{}", std::process::id());
        let cgroup = format!("/berth-shim-test-{id}");
        make_rootfs(&dir.path().join("rootfs"));
        let mut spec = serde_json::to_value(Spec::default()).unwrap();
        spec["process"]["args"] = serde_json::json!(["/bin/sh", "-c", script]);
        spec["process"]["terminal"] = false.into();
        spec["root"] = serde_json::json!({ "path": "rootfs", "readonly": false });
        spec["linux"]["cgroupsPath"] = cgroup.clone().into();
        change(&mut spec);
        std::fs::write(dir.path().join("config.json"), spec.to_string()).unwrap();
        Self {
            dir,
            id,
            cgroup,
            shim: OnceLock::new(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Both outputs to one log in the bundle.
    pub fn log(&self) -> Stdio {
        let url = format!("cri-log://{}", self.path("0.log").display());
        Stdio {
            stdout: url.clone(),
            stderr: url,
            ..Stdio::default()
        }
    }
}

#[allow(dead_code)]
impl Bundle {
    /// Tells what to clean up with after a panic, and which shim to end.
    pub fn end_if_the_test_fails(&self, shim: &str, pid: Option<u32>) {
        let _ = self.shim.set((shim.to_owned(), pid));
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if let (true, Some((shim, pid))) = (std::thread::panicking(), self.shim.get()) {
            let pid = pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
            let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
            let mut delete = Command::new(shim);
            delete
                .args(["-id", &self.id, "-bundle"])
                .arg(self.dir.path())
                .arg("delete");
            let _ = delete.output();
        }
    }
}

fn make_rootfs(rootfs: &Path) {
    for dir in ["bin", "proc", "sys", "dev", "etc", "tmp"] {
        std::fs::create_dir_all(rootfs.join(dir)).unwrap();
    }
    std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
    for name in APPLETS {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).unwrap();
    }
    let listed = Command::new("ldd").arg("/bin/busybox").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for library in listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let target = rootfs.join(library.trim_start_matches('/'));
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(library, target).unwrap();
    }
}

/// A process that runs a script.
#[allow(dead_code)]
pub fn sh(script: &str) -> Process {
    ProcessBuilder::default()
        .args(["/bin/sh", "-c", script].map(str::to_owned))
        .env(["PATH=/bin".to_owned()])
        .cwd("/")
        .build()
        .unwrap()
}
