//! A daemon, a registry that serves whatever it is told, and what is watched meanwhile.

use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use berth_api::cri::v1::{ContainerConfig, NamespaceMode, NamespaceOption, PodSandboxConfig};
use berth_testkit::image::{Compression, Image, PackedLayer, Recipe};
use berth_testkit::registry::Registry;
use flate2::write::GzEncoder;
use tonic::Code;

use super::Part;
use super::canary::Canary;
use crate::cri::{self, Answer};
use crate::suites::node::inventory::Inventory;
use crate::suites::node::session::Session;

/// What the daemon may take at any moment beyond what it took in the beginning.
const MEMORY_KIB: u64 = 160 << 10;
/// Connections to the registry that a part may leave open for the next pull: far fewer than its
/// pulls, so that a leak would show.
const CONNECTIONS: usize = 8;
/// Which mutants a run tries; another seed tries others.
pub const SEED: u64 = 20_261_121;

pub struct Stage {
    pub session: Session,
    pub registry: Registry,
    pub canary: Canary,
    daemon: u32,
    before_kib: u64,
    peak_kib: u64,
    images: u64,
}

impl Stage {
    pub fn begin() -> Result<Self> {
        // One transfer at a time: how many connections are kept is no leak.
        let mut session =
            Session::begin_with("hostile", "[pull]\nretries = 1\nlayers-at-once = 1\n")?;
        crate::suites::node::warm_up(&mut session)?;
        let registry = session
            .cri
            .beside(Registry::start())
            .context("starting a faulty registry")?;
        let canary = Canary::plant(&session.place.scratch().join("canary"))?;
        let daemon = session.daemon_pid()?;
        let mut stage = Self {
            session,
            registry,
            canary,
            daemon,
            before_kib: 0,
            peak_kib: 0,
            images: 0,
        };
        // A connection to this registry is kept from now on.
        let honest = stage.serve(&Recipe::new().build()?, "honest");
        stage.session.cri.pull(&honest).context("PullImage")?;
        let removed = stage.session.cri.remove_image(&honest);
        removed.context("RemoveImage")?;
        stage.before_kib = stage.memory("VmRSS:")?;
        Ok(stage)
    }

    /// Runs a part, and looks at what must not have changed.
    pub fn judge(&mut self, part: Part) -> Result<()> {
        self.reset_peak();
        let before = Inventory::take(&self.session)?.allowing(CONNECTIONS);
        let listed = self.session.cri.images().context("ListImages")?.len();
        let result = part(self);
        self.is_well(&result)?;
        result?;
        let now = self.session.cri.images().context("ListImages")?.len();
        ensure!(now == listed, "{now} images instead of {listed}");
        before.restored(&self.session)
    }

    /// The same process, its memory bounded, the host as it was.
    fn is_well(&mut self, result: &Result<()>) -> Result<()> {
        let pid = self.session.daemon_pid()?;
        // A zombie has no program.
        let alive = fs::read_link(format!("/proc/{pid}/exe")).is_ok();
        ensure!(pid == self.daemon && alive, "the daemon ended: {result:?}");
        let peak = self.memory("VmHWM:")?;
        self.peak_kib = self.peak_kib.max(peak);
        let most = self.before_kib + MEMORY_KIB;
        ensure!(peak <= most, "the daemon took {peak} KiB: {result:?}");
        self.canary.unharmed()
    }

    /// From here on the peak counts anew (proc(5), "clear_refs").
    fn reset_peak(&self) {
        let _where_it_can = fs::write(format!("/proc/{}/clear_refs", self.daemon), "5");
    }

    fn memory(&self, key: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.daemon);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.with_context(|| format!("no {key} in {path}"))
    }

    /// Serves an image and says its name.
    pub fn serve(&mut self, image: &Image, repository: &str) -> String {
        self.images += 1;
        let tag = format!("n{}", self.images);
        self.registry.add_blob(image.config.clone());
        for layer in &image.layers {
            self.registry.add_blob(layer.bytes.clone());
        }
        self.registry.add_manifest(
            repository,
            Some(&tag),
            image.manifest_media_type,
            image.manifest.clone(),
        );
        format!("{}/{repository}:{tag}", self.registry.host())
    }

    /// Serves an image of one layer, whatever that is.
    pub fn serve_layer(&mut self, archive: Vec<u8>) -> Result<String> {
        let image = Recipe::new().layer(raw(archive)?).build()?;
        Ok(self.serve(&image, "layer"))
    }

    /// An image with a shell and on top of it this layer, pulled.
    pub fn image_with(&mut self, archive: Vec<u8>, recipe: Recipe) -> Result<String> {
        let recipe = recipe.layer(self.session.shell()?).layer(raw(archive)?);
        let image = recipe.env(&["PATH=/usr/bin:/bin"]).build()?;
        let name = self.serve(&image, "root");
        self.session.cri.pull(&name).context("PullImage")?;
        Ok(name)
    }

    /// A container's outcome in a pod that goes afterwards: what a start answers, and what `look`
    /// sees in the one that runs.
    pub fn run(
        &mut self,
        config: &ContainerConfig,
        look: impl FnOnce(&mut Session, &str) -> Result<()>,
    ) -> Result<Answer<()>> {
        let pod = self.pod("hostile");
        self.run_in(&pod, config, look)
    }

    /// A pod whose containers have their own processes only.
    pub fn pod(&self, name: &str) -> PodSandboxConfig {
        let mut pod = self.session.pod(name);
        let linux = pod.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        security.namespace_options = Some(own_processes());
        pod
    }

    pub fn run_in(
        &mut self,
        pod_config: &PodSandboxConfig,
        config: &ContainerConfig,
        look: impl FnOnce(&mut Session, &str) -> Result<()>,
    ) -> Result<Answer<()>> {
        let session = &mut self.session;
        let pod = session.cri.run_pod(pod_config).context("RunPodSandbox")?;
        let outcome = match session.cri.create(&pod, pod_config, config) {
            Err(status) => Ok(Err(status)),
            Ok(container) => match session.cri.start(&container) {
                Err(status) => Ok(Err(status)),
                Ok(()) => look(session, &container).map(Ok),
            },
        };
        session.remove_pod(&pod)?;
        outcome
    }

    /// A container of this image that waits.
    pub fn waiting(&self, image: &str) -> ContainerConfig {
        let mut config = self.session.container("main", &["sleep", "1000"]);
        config.image = Some(cri::image(image));
        let linux = config.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        security.namespace_options = Some(own_processes());
        config
    }

    pub fn remove(&mut self, image: &str) -> Result<()> {
        self.session.cri.remove_image(image).context("RemoveImage")
    }

    /// What a broken-off part left.
    pub fn clear(&mut self) -> Result<()> {
        self.session.ensure_daemon()?;
        self.session.clean_up();
        let host = self.registry.host();
        for image in self.session.cri.images().context("ListImages")? {
            if image.repo_tags.iter().any(|tag| tag.starts_with(&host)) {
                self.remove(&image.id)?;
            }
        }
        Ok(())
    }

    pub fn figures(&self) -> String {
        format!(
            "{} images; the daemon took {} KiB before and {} KiB at most",
            self.images, self.before_kib, self.peak_kib
        )
    }

    pub fn never_panicked(&self) -> Result<()> {
        let log = fs::read_to_string(self.session.daemon_log()).context("reading the log")?;
        match log.lines().find(|line| line.contains("panicked")) {
            Some(line) => bail!("{line}"),
            None => Ok(()),
        }
    }

    pub fn end(self) -> Result<()> {
        self.session.end()
    }
}

fn own_processes() -> NamespaceOption {
    NamespaceOption {
        pid: NamespaceMode::Container as i32,
        ..Default::default()
    }
}

/// A layer with exactly these bytes in its archive.
pub fn raw(archive: Vec<u8>) -> Result<Arc<PackedLayer>> {
    use std::io::Write;
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let packed = gzip.write_all(&archive).and_then(|()| gzip.finish());
    let bytes = packed.context("compressing a layer")?;
    Ok(Arc::new(PackedLayer {
        diff_id: berth_names::Digest::sha256_of(&archive),
        digest: berth_names::Digest::sha256_of(&bytes),
        compression: Compression::Gzip,
        bytes,
    }))
}

/// Whose fault it is has to be told; `Ok` where it was taken after all.
pub fn is_told<T>(what: &str, answer: &Answer<T>) -> Result<bool> {
    let told = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::DataLoss,
        Code::Unavailable,
        Code::Unauthenticated,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        // What a root filesystem has in the way of a container, told in words.
        Code::Unknown,
    ];
    match answer {
        Ok(_) => Ok(true),
        Err(status) if told.contains(&status.code()) && !status.message().is_empty() => Ok(false),
        Err(status) => bail!("{what}: {:?}: {}", status.code(), status.message()),
    }
}

/// Refused, and with these words.
pub fn is_refused<T>(what: &str, answer: &Answer<T>, words: &[&str]) -> Result<()> {
    ensure!(!is_told(what, answer)?, "{what} was taken");
    let message = answer.as_ref().err().map(|status| status.message());
    let message = message.unwrap_or_default();
    match words.iter().find(|word| !message.contains(**word)) {
        Some(word) => bail!("{what}: no {word:?} in {message:?}"),
        None => Ok(()),
    }
}
