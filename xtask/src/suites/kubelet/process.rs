//! The kubelet's process, alone: no API server, pods from a directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::command::{end, retry};
use crate::place::Place;
use crate::tools::{self, Tool};
use crate::workspace;

/// What static pods' names end with.
pub const NODE: &str = "suite";
/// Given to every pod that asks for nothing else.
pub const RESOLV_CONF: &str = "search harbour.test\nnameserver 198.18.255.53\noptions ndots:3\n";

const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(30);

/// What differs between the kubelets of one run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// Asks for the room of nearly a whole disk, so that unused images have to go.
    pub short_of_disk: bool,
    /// Learns of changes by GetContainerEvents instead of relisting.
    pub evented: bool,
}

/// Ends with its value; pods go on.
#[derive(Debug)]
pub struct Kubelet {
    child: Child,
    port: u16,
}

impl Kubelet {
    /// Returns once it is healthy; `runtime` is the socket of what runs its pods. Output is appended to `log`.
    pub fn start(
        place: &Place,
        runtime: &Path,
        cgroup_root: &str,
        settings: Settings,
        log: &Path,
    ) -> Result<Self> {
        let port = free_port()?;
        let config = place.scratch().join("kubelet.json");
        let text = configuration(place, cgroup_root, settings, port)?;
        fs::write(&config, text.to_string()).context("writing the kubelet's configuration")?;
        let output = OpenOptions::new().create(true).append(true).open(log);
        let output = output.with_context(|| format!("opening {}", log.display()))?;
        let child = Command::new(tools::path(Tool::Kubelet)?)
            .arg("--config")
            .arg(&config)
            .arg("--config-dir")
            .arg(drop_ins(place, runtime)?)
            .arg("--root-dir")
            .arg(directory(place))
            .arg("--cert-dir")
            .arg(place.scratch().join("pki"))
            .args(["--hostname-override", NODE])
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("sharing the kubelet's log")?)
            .stderr(output)
            .spawn()
            .context("starting the kubelet")?;
        let mut kubelet = Self { child, port };
        kubelet
            .wait_until_healthy()
            .with_context(|| format!("see {}", log.display()))?;
        Ok(kubelet)
    }

    /// Pods with their statuses.
    pub fn pods(&self) -> Result<Vec<Value>> {
        let list: Value =
            serde_json::from_str(&self.get("/pods")?).context("reading the kubelet's pods")?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    pub fn summary(&self) -> Result<Value> {
        serde_json::from_str(&self.get("/stats/summary")?).context("reading the kubelet's summary")
    }

    /// Seconds that the calls to the runtime took so far, listings left out: they go on in the
    /// background, whatever pods do.
    pub fn seconds_in_runtime(&self) -> Result<f64> {
        let text = self.get("/metrics")?;
        let sum = "kubelet_runtime_operations_duration_seconds_sum{operation_type=\"";
        Ok(text
            .lines()
            .filter_map(|line| line.strip_prefix(sum)?.split_once("\"} "))
            .filter(|(operation, _)| !operation.contains("list") && !operation.contains("status"))
            .filter_map(|(_, seconds)| seconds.parse::<f64>().ok())
            .sum())
    }

    /// How often it began to listen to the runtime's events.
    pub fn event_connections(&self) -> Result<f64> {
        let name = "kubelet_evented_pleg_connection_success_count ";
        let text = self.get("/metrics")?;
        let mut lines = text.lines();
        let count = lines.find_map(|line| line.strip_prefix(name)?.parse().ok());
        Ok(count.unwrap_or_default())
    }

    /// Asks it to end.
    pub fn stop(mut self) -> Result<()> {
        end(&mut self.child, STOP).map(drop)
    }

    /// One request to the read-only port; HTTP/1.0, so that the answer ends with the connection.
    fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))
            .context("connecting to the kubelet")?;
        stream.set_read_timeout(Some(ANSWER))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {NODE}\r\n\r\n")
            .with_context(|| format!("asking the kubelet for {path}"))?;
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .with_context(|| format!("reading {path}"))?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .with_context(|| format!("{path}: an answer without a body"))?;
        let status = head.lines().next().unwrap_or_default();
        ensure!(status.contains(" 200 "), "{path}: {status}: {body}");
        Ok(body.to_owned())
    }

    fn wait_until_healthy(&mut self) -> Result<()> {
        retry(START, || {
            if let Some(status) = self.child.try_wait().context("looking at the kubelet")? {
                return Ok(Err(status));
            }
            self.get("/healthz").map(|_| Ok(()))
        })?
        .or_else(|status| bail!("the kubelet ended with {status}"))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        if let Err(error) = end(&mut self.child, STOP) {
            eprintln!("ending the kubelet: {error:#}");
        }
    }
}

/// Where it keeps its volumes.
pub fn directory(place: &Place) -> PathBuf {
    place.scratch().join("kubelet")
}

/// Where manifests are put.
pub fn manifests(place: &Place) -> PathBuf {
    place.scratch().join("manifests")
}

/// The drop-in that administrators are given, with the suite's socket.
fn drop_ins(place: &Place, runtime: &Path) -> Result<PathBuf> {
    let given = workspace::root().join("deploy/kubelet-berth.yaml");
    let text =
        fs::read_to_string(&given).with_context(|| format!("reading {}", given.display()))?;
    let usual = "/run/berth/cri.sock";
    ensure!(text.contains(usual), "{} names no {usual}", given.display());
    let directory = place.scratch().join("kubelet.conf.d");
    let text = text.replace(usual, &runtime.display().to_string());
    fs::create_dir_all(&directory)
        .and_then(|()| fs::write(directory.join("10-berth.conf"), text))
        .context("writing the kubelet's drop-in")?;
    Ok(directory)
}

fn configuration(
    place: &Place,
    cgroup_root: &str,
    settings: Settings,
    read_only_port: u16,
) -> Result<Value> {
    let resolv_conf = place.scratch().join("resolv.conf");
    fs::write(&resolv_conf, RESOLV_CONF).context("writing the node's resolv.conf")?;
    fs::create_dir_all(manifests(place)).context("creating the directory of manifests")?;
    // A threshold of a hundred per cent would never be left again.
    let room = if settings.short_of_disk { "99%" } else { "1Mi" };
    Ok(json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "staticPodPath": manifests(place),
        "fileCheckFrequency": "1s",
        "podLogsDir": place.pod_logs(),
        "volumePluginDir": place.scratch().join("plugins"),
        "resolvConf": resolv_conf,
        "address": "127.0.0.1",
        "port": free_port()?,
        "readOnlyPort": read_only_port,
        "healthzPort": 0,
        "authentication": { "anonymous": { "enabled": true }, "webhook": { "enabled": false } },
        "authorization": { "mode": "AlwaysAllow" },
        "registerNode": false,
        "failCgroupV1": false,
        "failSwapOn": false,
        "cgroupRoot": cgroup_root,
        "makeIPTablesUtilChains": false,
        "oomScoreAdj": 0,
        "imageMinimumGCAge": "1s",
        "evictionHard": {
            "memory.available": "1Mi",
            "nodefs.available": room,
            "imagefs.available": room,
        },
        "evictionPressureTransitionPeriod": "1s",
        "containerLogMaxSize": "32Ki",
        "containerLogMaxFiles": 5,
        "containerLogMonitorInterval": "3s",
        "crashLoopBackOff": { "maxContainerRestartPeriod": "2s" },
        "featureGates": {
            "EventedPLEG": settings.evented,
        },
    }))
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    Ok(listener.local_addr().context("reading a free port")?.port())
}

/// Of a kubelet's directories the one that it makes wherever the others are.
const FIXED: &str = "/var/lib/kubelet";

/// What a kubelet changes of its node: settings of the kernel, and a directory. Put back, or taken
/// away where it was not there before, with the value.
#[derive(Debug)]
pub struct Node {
    settings: Vec<(PathBuf, String)>,
    had_directory: bool,
}

impl Node {
    pub fn remember() -> Self {
        let names = [
            "vm/overcommit_memory",
            "vm/panic_on_oom",
            "kernel/panic",
            "kernel/panic_on_oops",
            "kernel/keys/root_maxkeys",
            "kernel/keys/root_maxbytes",
        ];
        let values = names.iter().filter_map(|name| {
            let path = Path::new("/proc/sys").join(name);
            let value = fs::read_to_string(&path).ok()?;
            Some((path, value))
        });
        Self {
            settings: values.collect(),
            had_directory: Path::new(FIXED).exists(),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for (path, value) in &self.settings {
            let put_back = File::create(path).and_then(|mut file| file.write_all(value.as_bytes()));
            if let Err(error) = put_back {
                eprintln!("putting {} back: {error}", path.display());
            }
        }
        if !self.had_directory
            && let Err(error) = fs::remove_dir_all(FIXED)
            && error.kind() != io::ErrorKind::NotFound
        {
            eprintln!("removing {FIXED}: {error}");
        }
    }
}
