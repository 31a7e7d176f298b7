//! A root for states and a bundle of busybox, for real containers.
#![allow(dead_code)] // each test program uses a part

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const APPLETS: [&str; 4] = ["sh", "sleep", "true", "readlink"];

/// A root for states, and a bundle of busybox.
pub struct Place {
    directory: tempfile::TempDir,
    program: PathBuf,
}

impl Place {
    /// `None`, with the reason printed, where containers cannot be made.
    pub fn new() -> Result<Option<Self>> {
        let root = berth_kernel::rustix::process::geteuid().is_root();
        let busybox = Path::new("/usr/bin/busybox");
        if !root || !busybox.exists() || berth_cgroups::CgroupHost::detect().is_err() {
            println!("skipped: needs root, busybox and cgroups: real containers");
            return Ok(None);
        }
        let directory = tempfile::tempdir()?;
        let inside = directory.path().join("bundle/rootfs");
        fs::create_dir_all(inside.join("bin"))?;
        fs::copy(busybox, inside.join("bin/busybox"))?;
        for applet in APPLETS {
            symlink("busybox", inside.join("bin").join(applet))?;
        }
        let program = env!("CARGO_BIN_EXE_berth-oci").into();
        let place = Self { directory, program };
        place.bring_libraries(busybox)?;
        Ok(Some(place))
    }

    /// From here on the program is a copy, which nobody else runs.
    pub fn run_a_copy(&mut self) -> Result<&Path> {
        let copy = self.path("berth-oci");
        // By another process: one that is open for writing here may be so in a child of a test
        // beside this one, and nobody could execute it.
        let status = Command::new("cp").arg(&self.program).arg(&copy).status()?;
        ensure!(status.success(), "cp ended with {status}");
        self.program = copy;
        Ok(&self.program)
    }

    /// What a program of the host needs to run in the bundle.
    pub fn bring_libraries(&self, program: &Path) -> Result<()> {
        let inside = self.path("bundle/rootfs");
        for library in libraries(program)? {
            let copy = inside.join(library.strip_prefix("/").unwrap_or(&library));
            fs::create_dir_all(copy.parent().context("library's directory")?)?;
            fs::copy(&library, &copy)?;
        }
        Ok(())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn config(&self, script: &str) -> Result<()> {
        let cgroup = self.directory.path().file_name().unwrap_or_default();
        let config = json!({
            "ociVersion": "1.3.0",
            "process": {
                "user": { "uid": 0, "gid": 0 }, "cwd": "/",
                "args": ["sh", "-c", script], "env": ["PATH=/bin"],
            },
            "root": { "path": "rootfs" },
            "annotations": { "a.b": "c" },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
                {
                    "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                    "options": ["newinstance", "ptmxmode=0666"],
                },
            ],
            "linux": {
                "cgroupsPath": format!("/berth-oci-test{}", cgroup.display()),
                "namespaces": [{ "type": "pid" }, { "type": "mount" }, { "type": "ipc" }],
            },
        });
        fs::write(self.path("bundle/config.json"), config.to_string()).context("config")
    }

    /// Changes the configuration that was written.
    pub fn edit(&self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let path = self.path("bundle/config.json");
        let mut config = serde_json::from_slice(&fs::read(&path)?)?;
        change(&mut config);
        fs::write(&path, config.to_string()).context("config")
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    pub fn run(&self, words: &[&str]) -> Result<Output> {
        // Files, not pipes: what `create` leaves running keeps them open.
        let (out, err) = (self.path("out"), self.path("err"));
        let status = Command::new(&self.program)
            .arg("--root")
            .arg(self.path("state"))
            .args(words)
            .current_dir(self.path("bundle"))
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out)?)
            .stderr(fs::File::create(&err)?)
            .status()?;
        Ok(Output {
            status,
            stdout: fs::read(out)?,
            stderr: fs::read(err)?,
        })
    }

    /// What a command that succeeds prints.
    pub fn prints(&self, words: &[&str]) -> Result<String> {
        let output = self.run(words)?;
        ensure!(output.status.success(), "{words:?}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Exit status and complaint of a command that fails.
    pub fn fails(&self, words: &[&str]) -> Result<(i32, String)> {
        let output = self.run(words)?;
        ensure!(!output.status.success(), "{words:?}: {output:?}");
        let status = output.status.code().context("killed")?;
        Ok((status, String::from_utf8(output.stderr)?))
    }

    pub fn state(&self, id: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.prints(&["state", id])?)?)
    }

    pub fn has_states(&self) -> Result<bool> {
        Ok(fs::read_dir(self.path("state"))?.next().is_some())
    }
}

fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8(output.stdout)?;
    let words = text.split_whitespace();
    Ok(words
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}
