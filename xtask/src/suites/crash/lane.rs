//! One client: what it asks for, one call after the other, and what it learns of it.

use std::error::Error as _;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use berth_api::cri::v1 as api;
use rustix::fs::{CWD, FileType, Mode, OFlags};

use super::ledger::{Container, ContainerIs, Pod, PodIs, container_state};
use super::world::{MARKER, World, kill_shim};
use crate::cgroup_parent::CgroupParent;
use crate::command::retry;
use crate::cri::{self, Answer, Cri};
use crate::suites::node::restart::start_time;

/// For what happens behind an answer.
const SOON: Duration = Duration::from_secs(10);
/// Pods of one client, and containers of one pod.
const PODS: usize = 2;
const CONTAINERS: usize = 2;
/// How an injected failure reads.
const INJECTED: &str = "failed as told";
/// SIGTERM and SIGKILL, as shells tell them.
pub const STOPPED: [i32; 2] = [143, 137];

/// What the clients of one round share with who kills the daemon.
#[derive(Debug, Default)]
pub struct Moment {
    /// The daemon is dead, or about to be.
    pub over: AtomicBool,
    /// Begin nothing new.
    pub enough: AtomicBool,
}

/// What came of a call.
enum Told<T> {
    Done(T),
    /// Nobody knows: the daemon died.
    Cut,
    /// A rule let it fail.
    Failed,
}

pub struct Lane {
    pub pods: Vec<Pod>,
    rng: fastrand::Rng,
    number: usize,
    names: usize,
    base: String,
    side: String,
    told: PathBuf,
    logs: PathBuf,
    socket: PathBuf,
    parent: Arc<CgroupParent>,
    first_port: i32,
}

impl Lane {
    pub fn new(world: &World, number: usize, seed: u64) -> Self {
        let mixed = seed.wrapping_mul(1009).wrapping_add(number as u64);
        Self {
            rng: fastrand::Rng::with_seed(mixed),
            pods: Vec::new(),
            number,
            names: 0,
            base: world.base(),
            side: world.side(number),
            told: world.told(),
            logs: world.place.pod_logs(),
            socket: world.place.socket(),
            parent: Arc::clone(&world.parent),
            // Below what the kernel gives to clients.
            first_port: 21_500 + i32::try_from(number).unwrap_or_default() * 10,
        }
    }

    /// Calls at random until the daemon is dead or `enough` is said.
    pub fn run(&mut self, moment: &Moment) -> Result<()> {
        let mut client = match Cri::connect(&self.socket) {
            Ok(cri) => Client { cri, moment },
            Err(_) if moment.dies() => return Ok(()),
            Err(error) => return Err(error),
        };
        while !moment.over.load(Ordering::Acquire) && !moment.enough.load(Ordering::Acquire) {
            if let Told::Cut = self.step(&mut client)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn step(&mut self, client: &mut Client<'_>) -> Result<Told<()>> {
        if self.pods.len() < PODS && (self.pods.is_empty() || self.rng.u8(..) < 80) {
            let shared = self.rng.bool();
            return self.run_pod(client, shared);
        }
        if self.rng.u8(..) < 40 {
            return match self.rng.bool() {
                true => self.pull(client),
                false => self.remove_image(client),
            };
        }
        let pod = self.rng.usize(..self.pods.len());
        let (ready, containers) = (
            self.pods[pod].is(PodIs::Ready),
            self.pods[pod].containers.len(),
        );
        if !ready || self.rng.u8(..) < 30 {
            return match self.rng.bool() {
                true => self.stop_pod(client, pod),
                false => self.remove_pod(client, pod),
            };
        }
        if containers == 0 || (containers < CONTAINERS && self.rng.u8(..) < 90) {
            return self.create(client, pod);
        }
        let index = self.rng.usize(..containers);
        let dice = self.rng.u8(..10);
        match (self.pods[pod].containers[index].may_be.as_slice(), dice) {
            (_, 0) => self.remove(client, pod, index),
            ([ContainerIs::Created], _) => self.start(client, pod, index),
            ([ContainerIs::Running], 1..5) => self.exec(client, pod, index),
            ([ContainerIs::Running], 5) => self.update(client, pod, index),
            ([ContainerIs::Running], 6) => self.reopen_log(client, pod, index),
            ([ContainerIs::Running], 7) => self.end(client, pod, index),
            ([ContainerIs::Running], 8) => self.lose_shim(client, pod, index),
            ([ContainerIs::Running], _) => {
                let grace = self.rng.i64(0..2);
                self.stop(client, pod, index, grace)
            }
            _ => self.remove(client, pod, index),
        }
    }

    /// Every call once, in the order of a life; each passes the fault points on its way.
    pub fn whole_life(&mut self, moment: &Moment) -> Result<()> {
        self.live(moment, false)
    }

    /// The same until a call fails, and then the end of its pods.
    pub fn life_until_failure(&mut self, moment: &Moment) -> Result<()> {
        self.live(moment, true)?;
        let cri = Cri::connect(&self.socket)?;
        let mut client = Client { cri, moment };
        for pod in 0..self.pods.len() {
            self.stop_pod(&mut client, pod)?;
        }
        Ok(())
    }

    fn live(&mut self, moment: &Moment, until_failure: bool) -> Result<()> {
        type Step = fn(&mut Lane, &mut Client<'_>) -> Result<Told<()>>;
        let steps: [Step; 19] = [
            |lane, client| lane.pull(client),
            |lane, client| lane.run_pod(client, true),
            |lane, client| lane.create(client, 0),
            |lane, client| lane.start(client, 0, 0),
            |lane, client| lane.exec(client, 0, 0),
            |lane, client| lane.update(client, 0, 0),
            |lane, client| lane.update_pod(client, 0),
            |lane, client| lane.reopen_log(client, 0, 0),
            |lane, client| lane.create(client, 0),
            |lane, client| lane.start(client, 0, 1),
            |lane, client| lane.end(client, 0, 1),
            |lane, client| lane.stop(client, 0, 0, 1),
            |lane, client| lane.remove(client, 0, 1),
            |lane, client| lane.create(client, 0),
            |lane, client| lane.start(client, 0, 1),
            |lane, client| lane.stop(client, 0, 1, 0),
            |lane, client| lane.stop_pod(client, 0),
            |lane, client| lane.remove_pod(client, 0),
            |lane, client| lane.remove_image(client),
        ];
        let cri = Cri::connect(&self.socket)?;
        let mut client = Client { cri, moment };
        for step in steps {
            match step(self, &mut client)? {
                Told::Cut => break,
                Told::Failed if until_failure => break,
                Told::Failed | Told::Done(()) => {}
            }
        }
        Ok(())
    }

    /// A pod with one container that runs and one that does not.
    pub fn half_a_life(&mut self, moment: &Moment) -> Result<()> {
        let cri = Cri::connect(&self.socket)?;
        let mut client = Client { cri, moment };
        self.run_pod(&mut client, true)?;
        self.create(&mut client, 0)?;
        self.start(&mut client, 0, 0)?;
        self.create(&mut client, 0).map(drop)
    }

    fn run_pod(&mut self, client: &mut Client<'_>, shared_pids: bool) -> Result<Told<()>> {
        self.names += 1;
        let name = format!("lane-{}-{}", self.number, self.names);
        let mut config = cri::pod(&name, &self.parent.request(), &self.logs);
        if shared_pids {
            let pid = api::NamespaceMode::Pod as i32;
            let options = api::NamespaceOption {
                pid,
                ..Default::default()
            };
            let security = api::LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            };
            config.linux.get_or_insert_default().security_context = Some(security);
        }
        config.port_mappings = vec![api::PortMapping {
            container_port: 80,
            host_port: self.free_port(),
            ..Default::default()
        }];
        self.pods.push(Pod {
            name,
            config: config.clone(),
            id: None,
            may_be: vec![PodIs::Absent, PodIs::Ready],
            ip: String::new(),
            containers: Vec::new(),
        });
        let told = client.told("RunPodSandbox", |cri| cri.run_pod(&config))?;
        match told {
            Told::Done(id) => {
                let pod = self.pods.last_mut().context("the pod just made")?;
                (pod.id, pod.may_be) = (Some(id), vec![PodIs::Ready]);
                Ok(Told::Done(()))
            }
            Told::Failed => {
                self.pods.pop();
                Ok(Told::Failed)
            }
            Told::Cut => Ok(Told::Cut),
        }
    }

    /// One that no pod of this client may have.
    fn free_port(&self) -> i32 {
        let mut port = self.first_port;
        let taken = |port| {
            let mappings = self.pods.iter().flat_map(|pod| &pod.config.port_mappings);
            mappings
                .into_iter()
                .any(|mapping| mapping.host_port == port)
        };
        while taken(port) {
            port += 1;
        }
        port
    }

    fn stop_pod(&mut self, client: &mut Client<'_>, pod: usize) -> Result<Told<()>> {
        let pod = &mut self.pods[pod];
        pod.may_be.push(PodIs::NotReady);
        for container in &mut pod.containers {
            container.may_end_if_it_runs(&STOPPED);
        }
        let id = pod.id();
        let told = client.told("StopPodSandbox", |cri| cri.stop_pod(&id))?;
        if let Told::Done(()) = told {
            pod.has_stopped();
        }
        Ok(told)
    }

    fn remove_pod(&mut self, client: &mut Client<'_>, index: usize) -> Result<Told<()>> {
        let pod = &mut self.pods[index];
        pod.may_be.extend([PodIs::NotReady, PodIs::Absent]);
        for container in &mut pod.containers {
            container.may_end_if_it_runs(&STOPPED);
            container.may_be_also(ContainerIs::Absent);
        }
        let id = pod.id();
        let told = client.told("RemovePodSandbox", |cri| cri.remove_pod(&id))?;
        if let Told::Done(()) = told {
            self.pods.remove(index);
        }
        Ok(told)
    }

    fn create(&mut self, client: &mut Client<'_>, pod: usize) -> Result<Told<()>> {
        self.names += 1;
        let name = format!("c-{}-{}", self.number, self.names);
        let code = 10 + i32::try_from(self.names % 90)?;
        let fifo = self.told.join(&name);
        match rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(errno) => bail!("making {}: {errno}", fifo.display()),
        }
        // Blocks without work until it is told.
        let script = format!("read code < /told/{name}; exit $code");
        let mut config = cri::container(&name, &self.base, &["sh", "-c", &script]);
        config.mounts = vec![api::Mount {
            container_path: "/told".to_owned(),
            host_path: self.told.display().to_string(),
            ..Default::default()
        }];
        let pod = &mut self.pods[pod];
        pod.containers.push(Container {
            name,
            config: config.clone(),
            id: None,
            may_be: vec![ContainerIs::Absent, ContainerIs::Created],
            process: None,
            code,
            ends: Vec::new(),
        });
        let (id, pod_config) = (pod.id(), pod.config.clone());
        let told = client.told("CreateContainer", |cri| {
            cri.create(&id, &pod_config, &config)
        })?;
        match told {
            Told::Done(id) => {
                let container = pod
                    .containers
                    .last_mut()
                    .context("the container just made")?;
                (container.id, container.may_be) = (Some(id), vec![ContainerIs::Created]);
                Ok(Told::Done(()))
            }
            Told::Failed => {
                pod.containers.pop();
                Ok(Told::Failed)
            }
            Told::Cut => Ok(Told::Cut),
        }
    }

    fn start(&mut self, client: &mut Client<'_>, pod: usize, index: usize) -> Result<Told<()>> {
        let container = &mut self.pods[pod].containers[index];
        container.may_be_also(ContainerIs::Running);
        let id = container.id();
        let told = client.told("StartContainer", |cri| cri.start(&id))?;
        match told {
            Told::Done(()) => {
                container.may_be = vec![ContainerIs::Running];
                container.process = first_process(&self.parent, &id);
            }
            Told::Failed => {
                container.may_be = vec![ContainerIs::Exited];
                container.ends = vec![128];
            }
            Told::Cut => {}
        }
        Ok(told)
    }

    fn exec(&mut self, client: &mut Client<'_>, pod: usize, index: usize) -> Result<Told<()>> {
        let id = self.pods[pod].containers[index].id();
        let told = client.told("ExecSync", |cri| {
            cri.exec_within(&id, &["cat", "/etc/marker"], 20)
        })?;
        if let Told::Done(said) = &told {
            ensure!(
                said.exit_code == 0 && said.stdout.trim_ascii() == MARKER.as_bytes(),
                "a command in {id} ended with {} and said {:?} {:?}",
                said.exit_code,
                String::from_utf8_lossy(&said.stdout),
                String::from_utf8_lossy(&said.stderr),
            );
        }
        Ok(told.map(drop))
    }

    fn update(&mut self, client: &mut Client<'_>, pod: usize, index: usize) -> Result<Told<()>> {
        let id = self.pods[pod].containers[index].id();
        let resources = api::LinuxContainerResources {
            cpu_shares: self.rng.i64(200..900),
            ..Default::default()
        };
        client.told("UpdateContainerResources", |cri| {
            cri.update(&id, &resources)
        })
    }

    fn update_pod(&mut self, client: &mut Client<'_>, pod: usize) -> Result<Told<()>> {
        let id = self.pods[pod].id();
        let resources = api::LinuxContainerResources {
            cpu_shares: 700,
            ..Default::default()
        };
        client.told("UpdatePodSandboxResources", |cri| {
            cri.update_pod(&id, &resources)
        })
    }

    fn reopen_log(
        &mut self,
        client: &mut Client<'_>,
        pod: usize,
        index: usize,
    ) -> Result<Told<()>> {
        let id = self.pods[pod].containers[index].id();
        client.told("ReopenContainerLog", |cri| cri.reopen_log(&id))
    }

    /// Has the container end by itself, and waits until it is known.
    fn end(&mut self, client: &mut Client<'_>, pod: usize, index: usize) -> Result<Told<()>> {
        let told = self.told.clone();
        let container = &mut self.pods[pod].containers[index];
        container.tell(&told)?;
        exited(client, container)
    }

    /// Its shim is killed: its process must not outlive that.
    fn lose_shim(&mut self, client: &mut Client<'_>, pod: usize, index: usize) -> Result<Told<()>> {
        let container = &mut self.pods[pod].containers[index];
        ensure!(
            kill_shim(&container.id()),
            "container {} has no shim",
            container.id()
        );
        container.may_end(&[137, 255]);
        exited(client, container)
    }

    fn stop(
        &mut self,
        client: &mut Client<'_>,
        pod: usize,
        index: usize,
        grace: i64,
    ) -> Result<Told<()>> {
        let container = &mut self.pods[pod].containers[index];
        container.may_end_if_it_runs(&STOPPED);
        let id = container.id();
        let told = client.told("StopContainer", |cri| cri.stop(&id, grace))?;
        if let Told::Done(()) = told {
            container.has_ended_if_it_ran();
        }
        Ok(told)
    }

    fn remove(&mut self, client: &mut Client<'_>, pod: usize, index: usize) -> Result<Told<()>> {
        let containers = &mut self.pods[pod].containers;
        let container = &mut containers[index];
        container.may_end_if_it_runs(&STOPPED);
        container.may_be_also(ContainerIs::Absent);
        let id = container.id();
        let told = client.told("RemoveContainer", |cri| cri.remove(&id))?;
        if let Told::Done(()) = told {
            containers.remove(index);
        }
        Ok(told)
    }

    fn pull(&mut self, client: &mut Client<'_>) -> Result<Told<()>> {
        let side = self.side.clone();
        Ok(client.told("PullImage", |cri| cri.pull(&side))?.map(drop))
    }

    fn remove_image(&mut self, client: &mut Client<'_>) -> Result<Told<()>> {
        let side = self.side.clone();
        client.told("RemoveImage", |cri| cri.remove_image(&side))
    }
}

fn exited(client: &mut Client<'_>, container: &mut Container) -> Result<Told<()>> {
    let id = container.id();
    let deadline = std::time::Instant::now() + SOON;
    loop {
        match client.told("ContainerStatus", |cri| cri.status(&id))? {
            Told::Done(status) if container_state(status.state()) == ContainerIs::Exited => {
                container.may_be = vec![ContainerIs::Exited];
                let code = status.exit_code;
                ensure!(container.ends.contains(&code), "{id} exited with {code}");
                return Ok(Told::Done(()));
            }
            Told::Done(_) if std::time::Instant::now() > deadline => {
                bail!("{id} has ended and is not told to have, after {SOON:?}")
            }
            Told::Done(_) => std::thread::sleep(Duration::from_millis(10)),
            Told::Cut => return Ok(Told::Cut),
            Told::Failed => return Ok(Told::Failed),
        }
    }
}

impl Container {
    /// Has its program end with the code that it knows.
    pub fn tell(&mut self, told: &Path) -> Result<()> {
        let path = told.join(&self.name);
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        // Refused until somebody reads.
        let mut writer = retry(SOON, || {
            let opened = OpenOptions::new()
                .write(true)
                .custom_flags(flags)
                .open(&path);
            opened.with_context(|| format!("opening {}", path.display()))
        })?;
        let code = self.code;
        self.may_end(&[code]);
        writeln!(writer, "{code}").with_context(|| format!("telling {}", self.name))
    }

    pub fn may_end_if_it_runs(&mut self, codes: &[i32]) {
        if self.may_be.contains(&ContainerIs::Running) {
            self.may_end(codes);
        }
    }
}

/// The oldest process in the container's cgroup, and since when.
pub fn first_process(parent: &CgroupParent, container: &str) -> Option<(i32, String)> {
    let first = *parent.pids(container).ok()?.first()?;
    Some((first, start_time(first)?))
}

impl<T> Told<T> {
    fn map<U>(self, with: impl FnOnce(T) -> U) -> Told<U> {
        match self {
            Told::Done(value) => Told::Done(with(value)),
            Told::Cut => Told::Cut,
            Told::Failed => Told::Failed,
        }
    }
}

impl Moment {
    /// Whether the daemon is dead; waits for the word of who watches it.
    fn dies(&self) -> bool {
        retry(SOON, || {
            ensure!(self.over.load(Ordering::Acquire), "it lives");
            Ok(())
        })
        .is_ok()
    }
}

/// One connection in one round.
struct Client<'a> {
    cri: Cri,
    moment: &'a Moment,
}

impl Client<'_> {
    /// An error that no rule made, of a daemon that lives, is one.
    fn told<T>(&mut self, call: &str, make: impl FnOnce(&mut Cri) -> Answer<T>) -> Result<Told<T>> {
        match make(&mut self.cri) {
            Ok(value) => Ok(Told::Done(value)),
            Err(status) if status.message().contains(INJECTED) => Ok(Told::Failed),
            // What the daemon itself answers has no cause on this side.
            Err(status) if status.source().is_some() && self.moment.dies() => Ok(Told::Cut),
            Err(status) => bail!("{call}: {:?}: {}", status.code(), status.message()),
        }
    }
}
