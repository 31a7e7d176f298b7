//! The engine that makes containers, on top of the executor library.

use std::path::Path;

use berth_cgroups::{CgroupHost, KillsAbove, Layout};
use berth_executor::{
    Container, Create, CreateOptions, ProcessOptions, ProcessStdio, Restore, RestoreOptions,
    RootfsMount,
};
use containerd_shim_protos::ttrpc::proto::Code;
use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, Process, Spec};

use crate::engine::{Checkpoint, ChildStdio, Dump, Engine, Metrics, RootMount, Spawned};
use crate::journal::note;
use crate::metrics;
use crate::serve::Before;
use crate::status::{EngineError, chain};

const SIGKILL: i32 = 9;

/// One container, made by the executor.
#[derive(Debug)]
pub struct OciEngine {
    before: Before,
    host: Option<CgroupHost>,
    container: Option<Container>,
    /// Init has a pid namespace of its own, so that nothing outlives it.
    owns_pids: bool,
    kills_above: Option<KillsAbove>,
}

impl OciEngine {
    pub fn new(before: Before) -> Self {
        Self {
            before,
            host: None,
            container: None,
            owns_pids: false,
            kills_above: None,
        }
    }

    /// Makes engines that need not look at the host's cgroups again.
    pub fn on_known_host() -> impl FnOnce(Before) -> Self {
        // A failure is found again, and told, by whoever makes a container.
        let host = CgroupHost::detect().ok();
        move |before| Self {
            host,
            ..Self::new(before)
        }
    }

    fn container(&mut self, operation: &'static str) -> Result<&mut Container, EngineError> {
        self.container.as_mut().ok_or_else(|| EngineError::Step {
            operation,
            code: Code::NOT_FOUND,
            source: "there is no container".into(),
        })
    }

    fn read_spec(&self, bundle: &Path) -> Result<Spec, EngineError> {
        let path = bundle.join("config.json");
        let text = std::fs::read(&path).map_err(bad("read config.json"))?;
        let mut spec: Spec = serde_json::from_slice(&text).map_err(bad("parse config.json"))?;
        if let Some(process) = spec.process_mut()
            && process.oom_score_adj().is_none()
        {
            // The shim's own score is not for the container.
            process.set_oom_score_adj(Some(self.before.oom_score_adj));
        }
        Ok(spec)
    }
}

impl Engine for OciEngine {
    fn create(
        &mut self,
        id: &str,
        bundle: &Path,
        rootfs: &[RootMount],
        stdio: ChildStdio,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Spawned, EngineError> {
        let spec = self.read_spec(bundle)?;
        self.owns_pids = owns_pids(&spec);
        let host = match self.host.take() {
            Some(host) => host,
            None => CgroupHost::detect().map_err(bad("look at cgroups"))?,
        };
        let rootfs: Vec<RootfsMount> = rootfs.iter().map(to_executor).collect();
        let create = Create {
            id,
            bundle,
            spec: &spec,
            rootfs: &rootfs,
            stdio: to_stdio(stdio),
            cgroups: &host,
            options: CreateOptions {
                process: ProcessOptions {
                    ends_with_caller: host.layout() == Layout::Absent,
                    ..ProcessOptions::default()
                },
                ..CreateOptions::default()
            },
        };
        let created = match checkpoint {
            None => Container::create(create),
            Some(checkpoint) => Container::restore(restore(create, checkpoint)),
        };
        self.host = Some(host);
        let mut container = created.map_err(EngineError::from)?;
        tell_notices(&mut container);
        let pidfd = container
            .pidfd()
            .try_clone_to_owned()
            .map_err(bad("copy pidfd"));
        let spawned = Spawned {
            pid: container.pid(),
            pidfd: match pidfd {
                Ok(pidfd) => pidfd,
                Err(error) => {
                    let _ = container.delete(true);
                    return Err(error);
                }
            },
            terminal: container.take_terminal(),
        };
        self.kills_above = container.cgroup().kills_above();
        self.container = Some(container);
        Ok(spawned)
    }

    fn start(&mut self) -> Result<(), EngineError> {
        let container = self.container("start")?;
        let started = container.start();
        tell_notices(container);
        started.map_err(EngineError::from)
    }

    fn exec(&mut self, process: &[u8], stdio: ChildStdio) -> Result<Spawned, EngineError> {
        let process: Process = serde_json::from_slice(process).map_err(bad("parse process"))?;
        let made = self
            .container("exec")?
            .exec(&process, to_stdio(stdio))
            .map_err(EngineError::from)?;
        made.notices.iter().for_each(|notice| note!("{notice}"));
        Ok(Spawned {
            pid: made.pid,
            pidfd: made.pidfd,
            terminal: made.terminal,
        })
    }

    fn signal_all(&mut self, signal: i32) -> Result<(), EngineError> {
        self.container("kill")?
            .kill(signal, true)
            .map_err(EngineError::from)
    }

    fn pause(&mut self) -> Result<(), EngineError> {
        self.container("pause")?.pause().map_err(EngineError::from)
    }

    fn resume(&mut self) -> Result<(), EngineError> {
        self.container("resume")?
            .resume()
            .map_err(EngineError::from)
    }

    fn checkpoint(&mut self, bundle: &Path, dump: &Dump) -> Result<i32, EngineError> {
        let spec = self.read_spec(bundle)?;
        let container = self.container("checkpoint")?;
        crate::dump::begin(container, &spec, dump)
    }

    fn update(&mut self, resources: &[u8]) -> Result<(), EngineError> {
        let resources: LinuxResources =
            serde_json::from_slice(resources).map_err(bad("parse resources"))?;
        self.container("update")?
            .update(&resources)
            .map_err(EngineError::from)
    }

    fn pids(&mut self) -> Result<Vec<i32>, EngineError> {
        self.container("list processes")?
            .processes()
            .map_err(EngineError::from)
    }

    fn stats(&mut self) -> Result<Metrics, EngineError> {
        let unified = self
            .host
            .as_ref()
            .is_some_and(|host| host.layout() == Layout::V2);
        let container = self.container("stats")?;
        let stats = container.stats().map_err(EngineError::from)?;
        let oom_kills = container.cgroup().oom_kills().unwrap_or_default();
        let encoded = if unified {
            metrics::unified(&stats, oom_kills)
        } else {
            metrics::legacy(&stats, oom_kills)
        };
        encoded.map_err(bad("encode stats"))
    }

    fn oom_killed(&mut self, killed_by_another: bool) -> bool {
        let Some(container) = &self.container else {
            return false;
        };
        match (container.cgroup().oom_kills(), &self.kills_above) {
            (Ok(kills), _) => kills > 0,
            // The cgroup is gone; what its init died of and what was counted above it tell.
            (Err(_), Some(above)) => killed_by_another && above.have_risen(),
            (Err(error), None) => {
                note!("{}", chain(&error));
                false
            }
        }
    }

    fn init_exited(&mut self) {
        if self.owns_pids {
            return;
        }
        if let Some(container) = &self.container
            && let Err(error) = container.kill(SIGKILL, true)
        {
            note!("{}", chain(&error));
        }
    }

    fn delete(&mut self, force: bool) -> Result<(), EngineError> {
        if let Some(container) = &mut self.container {
            let deleted = container.delete(force);
            tell_notices(container);
            deleted?;
        }
        self.container = None;
        Ok(())
    }
}

/// A container of a pod comes back elsewhere: its connections come back closed, and nothing of the
/// host's is connected to again because the images name it.
fn restore<'a>(create: Create<'a>, checkpoint: &'a Checkpoint) -> Restore<'a> {
    let process = create.spec.process().as_ref();
    let profile = process.and_then(|process| process.apparmor_profile().clone());
    let profile = profile.filter(|profile| !profile.is_empty());
    Restore {
        create,
        criu: &checkpoint.criu,
        images: &checkpoint.images,
        work: &checkpoint.work,
        options: RestoreOptions {
            tcp_close: true,
            file_locks: true,
            lsm_profile: profile.map(|profile| format!("apparmor:{profile}")),
            ..RestoreOptions::default()
        },
    }
}

fn tell_notices(container: &mut Container) {
    for notice in container.take_notices() {
        note!("{notice}");
    }
}

fn owns_pids(spec: &Spec) -> bool {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    namespaces
        .into_iter()
        .flatten()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none())
}

fn to_executor(mount: &RootMount) -> RootfsMount {
    RootfsMount {
        kind: mount.kind.clone(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        options: mount.options.clone(),
    }
}

fn to_stdio(stdio: ChildStdio) -> ProcessStdio {
    match stdio {
        ChildStdio::Files {
            stdin,
            stdout,
            stderr,
        } => ProcessStdio::Files {
            stdin: Some(stdin),
            stdout: Some(stdout),
            stderr: Some(stderr),
        },
        ChildStdio::Terminal => ProcessStdio::Terminal,
    }
}

fn bad<E>(operation: &'static str) -> impl FnOnce(E) -> EngineError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| EngineError::Step {
        operation,
        code: Code::INVALID_ARGUMENT,
        source: Box::new(source),
    }
}
