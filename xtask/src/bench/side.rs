//! One runtime and what was measured with it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use berth_api::cri::v1::NamespaceMode;
use serde_json::{Value, json};

use super::figures::{self, Figures};
use super::load::{self, Images};
use super::{machine, rate};
use crate::cri::{Answer, Cri};

/// Pods that come and go in a round.
pub const CYCLES: usize = 15;
/// A node does not ask for one thing right after another.
pub const PAUSE: Duration = Duration::from_millis(50);
/// Pods that run while memory and lists are measured.
pub const PODS: usize = 20;
/// Calls that only read are short and many.
const READS: usize = 40;
const READ_PAUSE: Duration = Duration::from_millis(5);

pub struct Side {
    name: &'static str,
    version: String,
    cri: Cri,
    socket: PathBuf,
    pid: i32,
    logs: PathBuf,
    /// Numbers the pods: no name is used twice.
    made: usize,
    running: Vec<Running>,
    figures: Figures,
    /// Between two calls about pods.
    pub pause: Duration,
}

struct Running {
    pod: String,
    /// None until it is created.
    container: Option<String>,
}

impl Side {
    /// `pid` is that of the daemon behind `socket`.
    pub fn connect(name: &'static str, socket: &Path, pid: i32, logs: &Path) -> Result<Self> {
        let mut cri = Cri::connect(socket)?;
        let version = cri.version().context("asking for the version")?;
        Ok(Self {
            name,
            version: format!("{} {}", version.runtime_name, version.runtime_version),
            cri,
            socket: socket.to_owned(),
            pid,
            logs: logs.to_owned(),
            made: 0,
            running: Vec::new(),
            figures: Figures::default(),
            pause: PAUSE,
        })
    }

    pub fn name(&self) -> &str {
        self.name
    }

    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    pub fn to_json(&self) -> Value {
        json!({ "version": self.version, "figures": self.figures.to_json() })
    }

    /// Everything once; a single pod first, which is not measured.
    pub fn round(&mut self, images: &Images) -> Result<()> {
        self.cri.pull(&images.busybox).context("pulling busybox")?;
        self.launch(&images.busybox, None)?;
        self.clear()?;
        for _ in 0..CYCLES {
            self.cycle(&images.busybox)?;
            self.on_host_network(&images.busybox)?;
        }
        self.rates(&images.busybox)?;
        self.at_rest(&images.busybox)?;
        self.pull(&images.large)
    }

    /// Removes what a broken-off round left.
    pub fn clear_away(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("removing the pods of {}: {error:#}", self.name);
        }
    }

    fn cycle(&mut self, image: &str) -> Result<()> {
        let mut times = Vec::new();
        let container = self.launch(image, Some(&mut times))?;
        for (measure, time) in [figures::RUN_POD, figures::CREATE, figures::START]
            .into_iter()
            .zip(&times)
        {
            self.figures.add(measure, *time);
        }
        self.figures.add(figures::POD_START, times.iter().sum());

        let time = timed(|| self.cri.exec(&container, &["/bin/true"]))?;
        ensure!(
            time.value.exit_code == 0,
            "/bin/true ended with {}",
            time.value.exit_code
        );
        self.figures.add(figures::EXEC, time.millis);
        thread::sleep(self.pause);

        let running = self.running.pop().context("no pod runs")?;
        let pod = &running.pod;
        let mut sum = 0.0;
        for call in [
            &mut |cri: &mut Cri| cri.stop(&container, 0),
            &mut |cri: &mut Cri| cri.remove(&container),
            &mut |cri: &mut Cri| cri.stop_pod(pod),
            &mut |cri: &mut Cri| cri.remove_pod(pod),
        ] as [&mut dyn FnMut(&mut Cri) -> Answer<()>; 4]
        {
            sum += timed(|| call(&mut self.cri))?.millis;
            thread::sleep(self.pause);
        }
        self.figures.add(figures::TEARDOWN, sum);
        Ok(())
    }

    fn on_host_network(&mut self, image: &str) -> Result<()> {
        let mut times = Vec::new();
        let network = NamespaceMode::Node;
        self.launch_on(network, image, Some(&mut times))?;
        self.figures
            .add(figures::HOST_POD_START, times.iter().sum());
        self.clear()
    }

    /// Without pauses: what a node does that has to start much at once.
    fn rates(&mut self, image: &str) -> Result<()> {
        for (measure, clients) in [(figures::RATE_OF_ONE, 1), (figures::RATE_OF_EIGHT, 8)] {
            self.made += 1;
            let load = rate::Load {
                socket: &self.socket,
                logs: &self.logs.join(self.name),
                image,
                prefix: &format!("bench-{}-{}", std::process::id(), self.made),
            };
            self.figures.add(measure, load.cycles_per_second(clients)?);
        }
        Ok(())
    }

    fn at_rest(&mut self, image: &str) -> Result<()> {
        let mut last = String::new();
        for _ in 0..PODS {
            last = self.launch(image, None)?;
        }
        // What starting needed may be given back.
        thread::sleep(Duration::from_secs(1));
        for _ in 0..READS {
            let listed = timed(|| self.cri.containers())?;
            ensure!(
                listed.value.len() >= PODS,
                "{} are listed",
                listed.value.len()
            );
            self.figures.add(figures::LIST, listed.millis);
            thread::sleep(READ_PAUSE);
            let time = timed(|| self.cri.status(&last))?.millis;
            self.figures.add(figures::STATUS, time);
            thread::sleep(READ_PAUSE);
            let time = timed(|| self.cri.stats(&last))?.millis;
            self.figures.add(figures::STATS, time);
            thread::sleep(READ_PAUSE);
        }
        self.figures.add(
            figures::DAEMON,
            as_figure(machine::resident(self.pid)?) / 1024.0,
        );
        let mut shims = BTreeSet::new();
        for running in &self.running {
            let container = running
                .container
                .as_ref()
                .context("a pod without container")?;
            shims.insert(machine::parent(self.cri.pid(container)?)?);
        }
        let mut sum = 0;
        for pid in &shims {
            sum += machine::share(*pid)?;
        }
        let count = u64::try_from(shims.len()).context("number of shims")?;
        self.figures
            .add(figures::SHIM, as_figure(sum) / as_figure(count));
        self.clear()
    }

    /// The image is not there before; its removal is not measured.
    fn pull(&mut self, image: &str) -> Result<()> {
        self.cri.remove_image(image).context("RemoveImage")?;
        thread::sleep(Duration::from_secs(2));
        let time = timed(|| self.cri.pull(image))?.millis;
        self.figures.add(figures::PULL, time);
        Ok(())
    }

    /// A running pod with its container, whose id is the answer. Pauses only where times are kept.
    fn launch(&mut self, image: &str, times: Option<&mut Vec<f64>>) -> Result<String> {
        self.launch_on(NamespaceMode::Pod, image, times)
    }

    fn launch_on(
        &mut self,
        network: NamespaceMode,
        image: &str,
        times: Option<&mut Vec<f64>>,
    ) -> Result<String> {
        self.made += 1;
        let name = format!("bench-{}-{}", std::process::id(), self.made);
        let logs = self.logs.join(self.name);
        let (pod_config, config) = load::requests(&name, image, &logs, network);
        let pod = timed(|| self.cri.run_pod(&pod_config)).context("RunPodSandbox")?;
        self.running.push(Running {
            pod: pod.value.clone(),
            container: None,
        });
        let length = times.as_ref().map_or(Duration::ZERO, |_| self.pause);
        let pause = || thread::sleep(length);
        pause();
        let created = timed(|| self.cri.create(&pod.value, &pod_config, &config))
            .context("CreateContainer")?;
        let container = created.value;
        if let Some(running) = self.running.last_mut() {
            running.container = Some(container.clone());
        }
        pause();
        let started = timed(|| self.cri.start(&container)).context("StartContainer")?;
        pause();
        if let Some(times) = times {
            times.extend([pod.millis, created.millis, started.millis]);
        }
        Ok(container)
    }

    fn clear(&mut self) -> Result<()> {
        while let Some(running) = self.running.pop() {
            if let Some(container) = &running.container {
                self.cri.stop(container, 0).context("StopContainer")?;
                self.cri.remove(container).context("RemoveContainer")?;
            }
            self.cri.stop_pod(&running.pod).context("StopPodSandbox")?;
            self.cri
                .remove_pod(&running.pod)
                .context("RemovePodSandbox")?;
        }
        Ok(())
    }
}

struct Timed<T> {
    value: T,
    millis: f64,
}

fn timed<T>(call: impl FnOnce() -> Answer<T>) -> Answer<Timed<T>> {
    let begin = Instant::now();
    let value = call()?;
    let millis = begin.elapsed().as_secs_f64() * 1000.0;
    Ok(Timed { value, millis })
}

/// Exact up to 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "memory in KiB stays far below 2^53"
)]
fn as_figure(count: u64) -> f64 {
    count as f64
}
