//! A private containerd to compare with, from the pinned sources.
//!
//! It has directories, socket, network and cgroups of its own and takes its images, the one of
//! the sandboxes too, from the registry that it is given.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use berth_testkit::image::{Layer, Recipe};
use serde_json::json;

use crate::command::{end, output, retry};
use crate::place::Place;
use crate::registry::Registry;
use crate::suites::fixtures::pack;
use crate::tools::{self, Tool};
use crate::workspace;

/// Made by the plugins, taken away with the value.
const BRIDGE: &str = "btpeer0";
const SUBNET: &str = "10.213.0.0/16";

/// Ends with its value, and everything of it.
pub struct Containerd {
    child: Child,
    place: Place,
}

impl Containerd {
    pub fn start(registry: &Registry) -> Result<Self> {
        let program = tools::ensure(Tool::Containerd)?;
        let place = Place::as_on_a_node()?;
        place.mirror(registry.address(), registry.address())?;
        let config = place.scratch().join("config.toml");
        write(&config, &configuration(&place, &pause(registry)?)?)?;
        write(&place.cni_conf().join("10-peer.conflist"), &network(&place))?;
        let log = workspace::logs()?.join("containerd.log");
        let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let child = Command::new(&program)
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("sharing containerd's log")?)
            .stderr(output)
            .spawn()
            .context("starting containerd")?;
        let mut containerd = Self { child, place };
        containerd
            .wait_until_ready()
            .with_context(|| format!("see {}", log.display()))?;
        Ok(containerd)
    }

    pub fn socket(&self) -> PathBuf {
        self.place.socket()
    }

    pub fn pid(&self) -> Result<i32> {
        i32::try_from(self.child.id()).context("pid of containerd")
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        retry(Duration::from_secs(30), || {
            if let Some(status) = self.child.try_wait().context("looking at containerd")? {
                return Ok(Err(status));
            }
            let answer = UnixStream::connect(self.place.socket());
            answer.map(|_| Ok(())).context("connecting to containerd")
        })?
        .or_else(|status| bail!("containerd ended with {status}"))
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Err(error) = end(&mut self.child, Duration::from_secs(20)) {
            eprintln!("ending containerd: {error:#}");
        }
        // Missing when no pod was ever made.
        let _missing = output(Command::new("ip").args(["link", "delete", BRIDGE]));
    }
}

/// What holds its sandboxes: a static program that only waits. Answers with the image's name.
fn pause(registry: &Registry) -> Result<String> {
    let program = fs::read(workspace::artefacts().join("berth-pod-init"))
        .context("reading the program of the pause image")?;
    let image = Recipe::new()
        .layer(pack(&Layer::new().file("/pause", 0o755, program))?)
        .entrypoint(&["/pause"])
        .build()?;
    registry.remote().push(&image, "peer/pause", &["one"])?;
    Ok(format!("{}/peer/pause:one", registry.address()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// Defaults, except for what being private and this machine's missing right to lower scores of
/// the OOM killer need.
fn configuration(place: &Place, pause: &str) -> Result<String> {
    let shim = tools::ensure(Tool::ContainerdShim)?;
    let runc = tools::ensure(Tool::Runc)?;
    let plugins = tools::path(Tool::CniPlugins)?;
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let [root, state, socket, hosts, conf] = [
        place.root(),
        place.state(),
        place.socket(),
        place.hosts(),
        place.cni_conf(),
    ]
    .map(|path| quoted(&path));
    let ttrpc = quoted(&place.scratch().join("ttrpc.sock"));
    let (shim, runc, plugins) = (quoted(&shim), quoted(&runc), quoted(&plugins));
    Ok(format!(
        r#"version = 3
root = {root}
state = {state}
disabled_plugins = ["io.containerd.nri.v1.nri"]

[grpc]
address = {socket}

[ttrpc]
address = {ttrpc}

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"

[plugins."io.containerd.cri.v1.images".registry]
config_path = {hosts}

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [{plugins}]
conf_dir = {conf}

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
runtime_path = {shim}

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = {runc}
"#
    ))
}

/// What Kubernetes nodes without a network provider of their own use.
fn network(place: &Place) -> String {
    json!({
        "cniVersion": "1.0.0",
        "name": "peer",
        "plugins": [
            {
                "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": place.scratch().join("addresses"),
                    "ranges": [[{ "subnet": SUBNET }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
    .to_string()
}
