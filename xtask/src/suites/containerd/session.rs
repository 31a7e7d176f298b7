//! A private containerd that finds our shim first, with an image, and its client.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use berth_testkit::image::{Image, Layer, Recipe};
use serde_json::json;

use super::inventory::Inventory;
use crate::cgroup_parent::CgroupParent;
use crate::command::{end, output, retry, run};
use crate::place::Place;
use crate::suites::fixtures::{busybox, pack};
use crate::tools::{self, Tool};
use crate::workspace;

pub const IMAGE: &str = "crew.test/busybox:one";
pub const RUNTIME: &str = "io.containerd.berth.v1";
/// Where the CRI plugin keeps what it makes.
pub const PODS: &str = "k8s.io";
const PAUSE: &str = "crew.test/pause:one";
const SHIM: &str = "containerd-shim-berth-v1";

/// What a busy machine takes.
pub const SOON: Duration = Duration::from_secs(10);

pub struct Session {
    /// `PATH` with criu in it, or why there is none.
    pub criu: Result<String, String>,
    pub log: PathBuf,
    pub parent: CgroupParent,
    containerd: Option<Child>,
    ctr: PathBuf,
    /// What containerd keeps and holds while it has nothing to do.
    idle: Inventory,
    // Last: everything above works in it.
    pub place: Place,
}

impl Session {
    pub fn begin() -> Result<Self> {
        let place = Place::new()?;
        let log = workspace::logs()?.join("containerd-suite.log");
        let _of_an_earlier_run = fs::remove_file(&log);
        let mut session = Self {
            criu: tools::criu_path(),
            log,
            parent: CgroupParent::new("containerd"),
            containerd: None,
            ctr: tools::ensure(Tool::Ctr)?,
            idle: Inventory::default(),
            place,
        };
        for directory in ["bin", "run", "fifo"] {
            let path = session.place.scratch().join(directory);
            fs::create_dir(&path).with_context(|| format!("creating {directory}"))?;
        }
        session.install_shim()?;
        session.write_configuration()?;
        session.start()?;
        session.import()?;
        session.idle = Inventory::take(&session)?;
        Ok(session)
    }

    /// Puts the shim where containerd finds it, by rename as package managers do.
    pub fn install_shim(&self) -> Result<()> {
        let fresh = self.place.scratch().join("bin/.new");
        fs::copy(workspace::artefacts().join(SHIM), &fresh)
            .and_then(|_| fs::rename(&fresh, self.shim_file()))
            .context("installing the shim")
    }

    pub fn shim_file(&self) -> PathBuf {
        self.place.scratch().join("bin").join(SHIM)
    }

    /// Starts containerd and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        let scratch = self.place.scratch();
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("opening {}", self.log.display()))?;
        let path = match &self.criu {
            Ok(path) => path.clone(),
            Err(_) => std::env::var("PATH").unwrap_or_default(),
        };
        let mut child = Command::new(tools::ensure(Tool::Containerd)?)
            .arg("--config")
            .arg(scratch.join("config.toml"))
            .env("PATH", format!("{}:{path}", scratch.join("bin").display()))
            // It unpacks checkpoints there.
            .env("XDG_RUNTIME_DIR", scratch.join("run"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing containerd's log")?)
            .stderr(log)
            .spawn()
            .context("starting containerd")?;
        let ready = retry(Duration::from_secs(30), || {
            if let Some(status) = child.try_wait().context("looking at containerd")? {
                return Ok(Err(status));
            }
            UnixStream::connect(self.socket()).context("connecting to containerd")?;
            // It listens before all of it is there.
            let mut asked = self.ctr(&["version"]);
            let answer = output(&mut asked)?;
            ensure!(answer.status.success(), "it does not answer");
            Ok(Ok(()))
        });
        self.containerd = Some(child);
        ready?.or_else(|status| bail!("containerd ended with {status}"))
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.containerd.take().context("no containerd runs")?;
        child.kill().context("killing containerd")?;
        child.wait().context("waiting for containerd").map(drop)
    }

    pub fn end(&mut self) -> Result<()> {
        let mut child = self.containerd.take().context("no containerd runs")?;
        let status = end(&mut child, Duration::from_secs(20))?;
        ensure!(status.success(), "it ended with {status}");
        self.parent.clear()?;
        self.idle.nothing_more(self)
    }

    pub fn pid(&self) -> Option<u32> {
        self.containerd.as_ref().map(Child::id)
    }

    pub fn socket(&self) -> PathBuf {
        self.place.scratch().join("c.sock")
    }

    /// The namespace is the cgroup in which containerd puts its containers.
    pub fn namespace(&self) -> String {
        self.parent.request().trim_start_matches('/').to_owned()
    }

    pub fn ctr(&self, words: &[&str]) -> Command {
        self.ctr_in(&self.namespace(), words)
    }

    pub fn ctr_in(&self, namespace: &str, words: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .env("CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS", "1")
            .args(["--kill-after=5", "60"])
            .arg(&self.ctr)
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", namespace])
            .args(words);
        command
    }

    /// Runs the client to its end, whatever that is.
    pub fn ended(&self, words: &[&str]) -> Result<Output> {
        output(&mut self.ctr(words))
    }

    /// What it says when it succeeds.
    pub fn text(&self, words: &[&str]) -> Result<String> {
        let output = self.ended(words)?;
        let said = String::from_utf8_lossy(&output.stderr);
        let status = output.status;
        ensure!(status.success(), "ctr {words:?}: {status}: {}", said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A shell that runs this client in a terminal of its own; `$ctr` is the client,
    /// `$run` and `$exec` are its commands.
    pub fn in_a_terminal(&self, line: &str) -> Result<String> {
        let client = format!(
            "{} --address {} --namespace {}",
            self.ctr.display(),
            self.socket().display(),
            self.namespace()
        );
        let fifos = self.fifos();
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=5", "60", "script", "-qec", line, "/dev/null"])
            .env("TERM", "xterm")
            .env("ctr", &client)
            .env(
                "run",
                format!("{client} run --rm -t --runtime {RUNTIME} --fifo-dir {fifos} {IMAGE}"),
            )
            .env(
                "exec",
                format!("{client} task exec -t --fifo-dir {fifos} --exec-id term"),
            );
        let output = output(&mut command)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub fn fifos(&self) -> String {
        self.place.scratch().join("fifo").display().to_string()
    }

    /// A task that goes on, in a container of this name; its output goes nowhere.
    pub fn task(&self, id: &str, script: &str) -> Result<()> {
        let words = ["run", "-d", "--null-io", "--runtime", RUNTIME, IMAGE, id];
        self.text(&[&words[..], &["sh", "-c", script]].concat())
            .map(drop)
    }

    /// Runs a command beside a task: its code and its output.
    pub fn exec(&self, id: &str, script: &str) -> Result<(i32, String)> {
        let fifos = self.fifos();
        let exec = ["task", "exec", "--fifo-dir", &fifos, "--exec-id", "beside"];
        let output = self.ended(&[&exec[..], &[id, "sh", "-c", script]].concat())?;
        let code = output.status.code().context("ctr was killed")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok((code, text))
    }

    /// Pid and state of a task as containerd lists it.
    pub fn listed(&self, id: &str) -> Result<Option<(i32, String)>> {
        let list = self.text(&["task", "ls"])?;
        let line = list
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|words| words.first() == Some(&id));
        let Some([_, pid, state]) = line.as_deref() else {
            return Ok(None);
        };
        Ok(Some((pid.parse().context("pid")?, (*state).to_owned())))
    }

    /// The pid of a running task, seen from here.
    pub fn running(&self, id: &str) -> Result<i32> {
        match self.listed(id)? {
            Some((pid, state)) if state == "RUNNING" => Ok(pid),
            other => bail!("{id} is {other:?}"),
        }
    }

    /// Kills a task and removes it with its container.
    pub fn remove(&self, id: &str) -> Result<()> {
        self.text(&["task", "rm", "--force", id])?;
        self.text(&["container", "rm", id]).map(drop)
    }

    /// The process that a container lives under.
    pub fn shim(&self, id: &str) -> Result<i32> {
        let pids = self.place.processes()?;
        let serves = |pid: &&i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            let named = words.windows(2).any(|pair| pair == [b"-id", id.as_bytes()]);
            named && words.contains(&&b"serve"[..])
        };
        let found = pids.iter().find(serves);
        found.copied().with_context(|| format!("no shim of {id}"))
    }

    pub fn nothing_is_left(&self) -> Result<()> {
        self.idle.nothing_more(self)
    }

    /// Takes away what a step that failed has left.
    pub fn sweep(&mut self) -> Result<()> {
        if self.containerd.is_none() {
            self.start()?;
        }
        for id in self.text(&["container", "ls", "-q"])?.lines() {
            let _gone_already = self.ended(&["task", "rm", "--force", id])?;
            let _in_use = self.ended(&["container", "rm", id])?;
        }
        self.parent.kill();
        Ok(())
    }

    fn import(&self) -> Result<()> {
        let shell = Recipe::new().layer(pack(&busybox()?)?).cmd(&["sh"]);
        let program = fs::read(workspace::artefacts().join("berth-pod-init"))
            .context("reading the program of the pause image")?;
        let pause = Recipe::new()
            .layer(pack(&Layer::new().file("/pause", 0o755, program))?)
            .entrypoint(&["/pause"]);
        for (image, name) in [(shell.build()?, IMAGE), (pause.build()?, PAUSE)] {
            let archive = archive(&self.place.scratch(), &image, name)?;
            for namespace in [self.namespace().as_str(), PODS] {
                run(self
                    .ctr_in(namespace, &["image", "import"])
                    .arg(&archive)
                    .stdout(Stdio::null()))?;
            }
        }
        Ok(())
    }

    /// Defaults, but for what being private and this machine's missing rights need.
    fn write_configuration(&self) -> Result<()> {
        let place = &self.place;
        let quoted = |path: PathBuf| format!("{:?}", path.display().to_string());
        let (root, state) = (quoted(place.root()), quoted(place.state()));
        let (socket, conf) = (quoted(self.socket()), quoted(place.cni_conf()));
        let ttrpc = quoted(place.scratch().join("t.sock"));
        let opt = quoted(place.scratch().join("opt"));
        let text = format!(
            r#"version = 3
root = {root}
state = {state}
disabled_plugins = ["io.containerd.nri.v1.nri"]

[grpc]
address = {socket}

[ttrpc]
address = {ttrpc}

[plugins."io.containerd.internal.v1.opt"]
path = {opt}

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{PAUSE}"

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
conf_dir = {conf}

[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "berth"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.berth]
runtime_type = "{RUNTIME}"
"#
        );
        fs::write(place.scratch().join("config.toml"), text).context("configuring containerd")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(mut child) = self.containerd.take()
            && let Err(error) = end(&mut child, Duration::from_secs(20))
        {
            eprintln!("ending containerd: {error:#}");
        }
        self.parent.kill();
    }
}

/// The image as an OCI layout in an archive.
fn archive(scratch: &Path, image: &Image, name: &str) -> Result<PathBuf> {
    let layout = tempfile::tempdir_in(scratch).context("making a layout")?;
    let blobs = layout.path().join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let put = |digest: &str, bytes: &[u8]| {
        let file = digest.trim_start_matches("sha256:");
        fs::write(blobs.join(file), bytes).context("writing a blob")
    };
    put(image.manifest_digest.as_str(), &image.manifest)?;
    put(image.config_digest.as_str(), &image.config)?;
    for layer in &image.layers {
        put(layer.digest.as_str(), &layer.bytes)?;
    }
    let index = json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": image.manifest_media_type,
        "digest": image.manifest_digest.as_str(),
        "size": image.manifest.len(),
        "annotations": { "io.containerd.image.name": name },
    }]});
    fs::write(layout.path().join("index.json"), index.to_string())?;
    let version = json!({ "imageLayoutVersion": "1.0.0" }).to_string();
    fs::write(layout.path().join("oci-layout"), version)?;
    let archive = scratch.join("image.tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(layout.path())
        .arg("-cf")
        .arg(&archive)
        .args(["index.json", "oci-layout", "blobs"]))?;
    Ok(archive)
}
