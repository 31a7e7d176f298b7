//! The init of a pod that shares its PID namespace: our own static binary in an empty root.

use std::path::PathBuf;
use std::sync::Arc;

use berth_shim_client::{Shim, Stdio};
use futures::FutureExt;
use futures::future::{self, BoxFuture};
use oci_spec::runtime::{
    Capabilities, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxNamespaceBuilder,
    LinuxNamespaceType, MountBuilder, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
};

use crate::cgroup_driver::specified;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::files::{PodFiles, make_dir};
use crate::handlers::Runner;
use crate::private;
use crate::record::PodRecord;
use crate::shim::{self, Launch, Work};
use crate::undo::{Undo, blocking};

/// A running init. Its end is awaited by the pod's task.
pub(crate) struct Init {
    shim: Arc<Shim>,
    pid: u32,
    cgroup: String,
    ended: BoxFuture<'static, ()>,
}

impl Init {
    pub(super) async fn start(
        core: &Arc<Core>,
        record: &PodRecord,
        files: &PodFiles,
        undo: &mut Undo,
    ) -> Result<Self> {
        let bundle = files.init_bundle();
        let spec = spec(core, record, files)?;
        let prepared = bundle.clone();
        let user = record.request.namespaces.user.clone();
        blocking("prepare the init of", move || {
            write_bundle(&prepared, &spec)?;
            // The init makes its mount points as the pod's root.
            super::give_to_root(&prepared.join("rootfs"), user.as_ref())
        })
        .await?;
        let launch = Launch {
            id: record.id.as_str(),
            name: format!("init of pod sandbox {}", record.id),
            bundle: &bundle,
            cgroup: cgroup(core, record),
            runner: Runner::Own,
        };
        let work = Work {
            rootfs: Vec::new(),
            stdio: Stdio::default(),
            checkpoint: None,
            clients: &[],
        };
        let started = shim::start(core, launch, future::ready(Ok(work)), undo).await?;
        Ok(Self::adopt(core, record, started.shim, started.pid))
    }

    /// Takes over an init that runs, as after a restart.
    pub(crate) fn adopt(core: &Core, record: &PodRecord, shim: Arc<Shim>, pid: u32) -> Self {
        let waiting = Arc::clone(&shim);
        let ended = async move {
            let _ = waiting.wait(None).await;
        };
        Self {
            shim,
            pid,
            cgroup: cgroup(core, record),
            ended: ended.boxed(),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Resolves when the process has ended or its shim is gone. Cancel-safe.
    pub(super) async fn ended(&mut self) {
        (&mut self.ended).await;
    }

    pub(super) async fn stop(self, core: Arc<Core>) -> Result<()> {
        shim::dispose(core, self.shim, self.cgroup).await
    }
}

/// Where the init's own cgroup is; pods without an init have none there.
pub(crate) fn cgroup(core: &Core, record: &PodRecord) -> String {
    let driver = core.config.cgroup_driver;
    driver.member(&record.cgroup_parent, record.id.as_str())
}

fn write_bundle(bundle: &std::path::Path, spec: &Spec) -> Result<()> {
    make_dir(&bundle.join("rootfs"))?;
    let path = bundle.join("config.json");
    let failed = |source| Error::State {
        action: "write",
        path: path.clone(),
        source,
    };
    let bytes = serde_json::to_vec(spec).map_err(|error| failed(error.into()))?;
    private::write(&path, &bytes).map_err(failed)
}

/// In every set: the default of the specification's types has a few.
fn no_capabilities() -> Result<LinuxCapabilities> {
    let none = Capabilities::default;
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(none())
        .effective(none())
        .permitted(none())
        .inheritable(none())
        .ambient(none())
        .build()?)
}

/// One process without capabilities in a root that holds nothing but itself.
fn spec(core: &Core, record: &PodRecord, files: &PodFiles) -> Result<Spec> {
    let own = |typ| LinuxNamespaceBuilder::default().typ(typ).build();
    let joined = |typ, path: PathBuf| LinuxNamespaceBuilder::default().typ(typ).path(path).build();
    let mut namespaces = vec![
        own(LinuxNamespaceType::Pid)?,
        own(LinuxNamespaceType::Mount)?,
    ];
    if files.userns().exists() {
        namespaces.push(joined(LinuxNamespaceType::User, files.userns())?);
    }
    if files.ipcns().exists() {
        namespaces.push(joined(LinuxNamespaceType::Ipc, files.ipcns())?);
    }
    if files.netns().exists() {
        namespaces.push(joined(LinuxNamespaceType::Network, files.netns())?);
    }
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .cgroups_path(PathBuf::from(specified(&cgroup(core, record))))
        .build()?;
    linux
        .set_masked_paths(None)
        .set_readonly_paths(None)
        .set_devices(None)
        .set_resources(None);
    let mut process = ProcessBuilder::default()
        .args(vec!["/init".to_owned()])
        .env(Vec::<String>::new())
        .cwd("/")
        .no_new_privileges(true)
        .build()?;
    process
        .set_capabilities(Some(no_capabilities()?))
        .set_rlimits(None);
    let binary = MountBuilder::default()
        .destination("/init")
        .typ("bind")
        .source(&core.config.pod_init)
        .options(vec!["bind".to_owned(), "ro".to_owned()])
        .build()?;
    let proc = MountBuilder::default()
        .destination("/proc")
        .typ("proc")
        .source("proc")
        .options(["nosuid", "noexec", "nodev"].map(str::to_owned).to_vec())
        .build()?;
    let mut spec = SpecBuilder::default()
        .version("1.2.0")
        .root(
            RootBuilder::default()
                .path("rootfs")
                .readonly(false)
                .build()?,
        )
        .process(process)
        .mounts(vec![proc, binary])
        .linux(linux)
        .build()?;
    spec.set_hostname(None);
    Ok(spec)
}
