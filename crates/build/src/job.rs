//! One build at work: its stages, what they have become, and the files of images that it reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_images::{Image, Images, Platform};
use berth_lifecycle::chain;
use berth_names::{ContainerId, Digest, ImageRef};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::attest::Materials;
use crate::builder::{Core, Request};
use crate::cache::{self, Made};
use crate::config::Config;
use crate::dockerfile::Dockerfile;
use crate::error::{Error, Result};
use crate::exchange::{self, CacheTo, Imported, Trace};
use crate::plan::{self, Base, Origin, Plan, Stage};
use crate::sandbox;
use crate::steps::Steps;
use crate::transcript::{StageLog, Transcript};
use crate::tree::{Context, Hash, Nothing, Root, Tree};

/// A stage so far.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub config: Config,
    /// An image with the layers that the stage has; none while it has none.
    pub image: Option<Digest>,
    /// That image has this config too.
    pub is_stored: bool,
    /// What all of it was made of.
    pub key: Digest,
}

/// The outcome of a stage, once it is there.
pub(crate) type Outcome = Option<Result<State, Arc<Error>>>;

/// One build.
pub(crate) struct Job {
    pub core: Arc<Core>,
    pub file: Dockerfile,
    pub plan: Plan,
    pub request: Request,
    pub context: Arc<Context>,
    pub cancel: CancellationToken,
    /// `SOURCE_DATE_EPOCH`: no time is later.
    pub epoch: Option<u64>,
    pub stages: BTreeMap<usize, watch::Sender<Outcome>>,
    /// What caches elsewhere know.
    pub imported: Imported,
    /// For caches elsewhere.
    pub trace: Trace,
    /// For what is said of the image.
    pub materials: Materials,
    /// The Dockerfile's name and text.
    pub text: (String, String),
    pub began: OffsetDateTime,
}

/// The files of an image, for reading, as long as its layer stands.
pub(crate) struct Opened {
    layer: Option<ContainerId>,
    root: Option<Root>,
}

impl Opened {
    pub fn nothing() -> Self {
        Self {
            layer: None,
            root: None,
        }
    }

    pub fn tree(&self) -> &dyn Tree {
        match &self.root {
            Some(root) => root,
            None => &Nothing,
        }
    }
}

impl State {
    /// An image as it is.
    pub async fn of(images: &Images, image: &Image, key: Digest) -> Result<Self> {
        let bytes = images.config_document(image).await?;
        let config = Config::parse(&bytes).map_err(|source| Error::Config {
            image: image.id.to_string(),
            source,
        })?;
        Ok(Self {
            config,
            image: Some(image.id.clone()),
            is_stored: true,
            key,
        })
    }

    /// The image that it stands on, if it is still there.
    pub fn base(&self, images: &Images) -> Result<Option<Arc<Image>>> {
        let Some(id) = &self.image else {
            return Ok(None);
        };
        let image = images.get(&id.to_string());
        let gone = || Error::invalid(format!("image {id} was removed during the build"));
        image.ok_or_else(gone).map(Some)
    }

    /// Makes it an image with these names.
    pub async fn store(&mut self, images: &Images, names: &[ImageRef]) -> Result<Digest> {
        let base = self.base(images)?;
        let intake = images.intake(base.as_deref()).await?;
        let id = intake
            .for_any_platform()
            .finish(self.config.bytes().into(), None, names)
            .await?;
        self.image = Some(id.clone());
        self.is_stored = true;
        Ok(id)
    }

    /// The id that an image of it has.
    pub fn shown(&self) -> Digest {
        Digest::sha256_of(&self.config.bytes())
    }
}

impl Job {
    /// Builds every stage that is needed; the first failure ends the others.
    pub async fn all_stages(self: &Arc<Self>, transcript: &Arc<Transcript>) -> Result<State> {
        let mut tasks = JoinSet::new();
        for (turn, stage) in self.plan.stages.keys().copied().enumerate() {
            let (job, log) = (Arc::clone(self), self.voice(transcript, turn, stage));
            tasks.spawn(async move {
                let outcome = job.stage(stage, log.clone()).await.map_err(Arc::new);
                let failed = outcome.as_ref().err().cloned();
                if let Some(waiting) = job.stages.get(&stage) {
                    waiting.send_replace(Some(outcome));
                }
                if failed.is_some() {
                    job.cancel.cancel();
                }
                log.done().await;
                failed
            });
        }
        let mut first: Option<Arc<Error>> = None;
        while let Some(ended) = tasks.join_next().await {
            let failed = ended.unwrap_or_else(|_| Some(Arc::new(Error::CutShort("a stage"))));
            let Some(failed) = failed else { continue };
            // What was stopped because of another failure tells nothing.
            let tells = !matches!(failed.root(), Error::Cancelled);
            let knows = first
                .as_ref()
                .is_some_and(|first| !matches!(first.root(), Error::Cancelled));
            if first.is_none() || (tells && !knows) {
                first = Some(failed);
            }
        }
        match first {
            Some(error) => Err(Error::Shared(error)),
            None => self.ready(self.plan.target).await,
        }
    }

    fn voice(&self, transcript: &Arc<Transcript>, turn: usize, index: usize) -> StageLog {
        let named = self.file.stages.get(index);
        let name = named.and_then(|stage| stage.from.name.clone());
        let planned = self.plan.stages.get(&index);
        let (first, steps) = planned.map_or((1, 1), |stage| (stage.first_step, stage.steps.len()));
        let name = name.unwrap_or_else(|| format!("stage-{index}"));
        transcript.stage(turn, name, (first, steps + 1, self.plan.steps))
    }

    /// The outcome of a stage, as soon as it is there.
    pub async fn ready(&self, stage: usize) -> Result<State> {
        let Some(sender) = self.stages.get(&stage) else {
            return Err(Error::invalid(format!(
                "stage {stage} is not part of this build"
            )));
        };
        let mut outcome = sender.subscribe();
        let found = tokio::select! {
            found = outcome.wait_for(Option::is_some) => found,
            () = self.cancel.cancelled() => return Err(Error::Cancelled),
        };
        match found.map(|found| found.clone()) {
            Ok(Some(Ok(state))) => Ok(state),
            Ok(Some(Err(error))) => Err(Error::Shared(error)),
            _ => Err(Error::CutShort("a stage")),
        }
    }

    async fn stage(&self, index: usize, mut log: StageLog) -> Result<State> {
        let Some(stage) = self.plan.stages.get(&index) else {
            return Err(Error::invalid(format!(
                "stage {index} is not part of this build"
            )));
        };
        for needed in &stage.needs {
            self.ready(*needed).await?;
        }
        log.begin(stage.first_step, &stage.text).await;
        let mut state = match self.begin(stage).await {
            Ok(state) => state,
            Err(error) => {
                log.fail().await;
                return Err(error);
            }
        };
        log.end(crate::steps::short(&state.shown())).await;
        let triggers = state.config.take_triggers();
        state.is_stored &= triggers.is_empty();
        state.is_stored &= !state.config.take_cache();
        let mut steps = Steps::new(self, index, log, state);
        steps.triggers(&triggers).await?;
        for (number, instruction) in stage.steps.iter().enumerate() {
            steps
                .step(stage.first_step + 1 + number, instruction)
                .await?;
        }
        if index == self.plan.target {
            steps.labels(&self.request.labels).await;
        }
        Ok(steps.state)
    }

    async fn begin(&self, stage: &Stage) -> Result<State> {
        let platform = &stage.platform;
        match &stage.base {
            Base::Scratch => {
                let variant = Some(platform.variant.as_str());
                let mut hash = Hash::default();
                hash.field(b"scratch");
                if platform != self.core.images.platform() {
                    hash.field(platform.to_string().as_bytes());
                }
                Ok(State {
                    config: Config::new(&platform.architecture, &platform.os, variant),
                    image: None,
                    is_stored: false,
                    key: hash.finish(),
                })
            }
            Base::Stage(stage) => self.ready(*stage).await,
            Base::Image(name) => {
                let image = self.image(name, platform).await?;
                State::of(&self.core.images, &image, image.id.clone()).await
            }
        }
    }

    /// An image by its name, pulled where it is not here for that platform, or newer ones are
    /// wanted.
    pub async fn image(&self, name: &str, platform: &Platform) -> Result<Arc<Image>> {
        let image = self.found(name, platform).await?;
        self.used(name, platform, &image);
        Ok(image)
    }

    async fn found(&self, name: &str, platform: &Platform) -> Result<Arc<Image>> {
        let images = &self.core.images;
        let is_for = |image: &Arc<Image>| {
            let told = image.config.platform();
            told.is_none_or(|told| platform.runs(&told))
        };
        let known = images.get(name).filter(is_for);
        if let Some(image) = known.filter(|_| !self.request.pull) {
            return runnable(name, image);
        }
        let reference = ImageRef::parse(name).map_err(|_| {
            Error::invalid(format!("{name:?} is neither a stage nor an image's name"))
        })?;
        let credentials = (self.request.credentials)(&reference);
        // The name goes on to mean what this machine runs.
        let is_named = platform == images.platform();
        let pulling = images.pull_of(&reference, credentials, platform.clone(), is_named);
        let pulled = tokio::select! {
            pulled = pulling.1 => pulled,
            () = self.cancel.cancelled() => return Err(Error::Cancelled),
        };
        let id = pulled.map_err(|source| Error::Pull {
            image: match is_named {
                true => reference.familiar(),
                false => format!("{} for {platform}", reference.familiar()),
            },
            source,
        })?;
        let image = images.get(&id.to_string());
        let gone = || Error::invalid(format!("image {name} was removed during the build"));
        runnable(name, image.ok_or_else(gone)?)
    }

    /// What `--from` names: it is for what is built for.
    pub async fn image_from(&self, name: &str) -> Result<Arc<Image>> {
        self.image(name, &self.plan.platform).await
    }

    pub fn origin(&self, from: &str, stage: usize) -> Origin {
        plan::origin(&self.file, from, stage)
    }

    /// What the files of a stage or an image were made of.
    pub async fn origin_key(&self, from: &str, stage: usize) -> Result<Digest> {
        match self.origin(from, stage) {
            Origin::Stage(stage) => Ok(self.ready(stage).await?.key),
            Origin::Image(name) => Ok(self.image_from(&name).await?.id.clone()),
        }
    }

    /// An image with the files of a stage.
    pub async fn stored(&self, stage: usize) -> Result<Digest> {
        let state = self.ready(stage).await?;
        let nothing = || Error::invalid(format!("stage {stage} has no files"));
        state.image.ok_or_else(nothing)
    }

    /// Opens the files of an image. To be given back to [`Job::close`].
    pub async fn open(&self, image: &Digest) -> Result<Arc<Opened>> {
        let runtime = &self.core.runtime;
        let (layer, _) = runtime.make_layer(&image.to_string(), None).await?;
        match sandbox::stack(runtime, &layer).await {
            Ok(stack) => Ok(Arc::new(Opened {
                layer: Some(layer),
                root: stack.lower.map(Root),
            })),
            Err(error) => {
                self.remove(&layer).await;
                Err(error)
            }
        }
    }

    pub async fn close(&self, opened: Arc<Opened>) {
        let layer = opened.layer.clone();
        drop(opened);
        if let Some(layer) = layer {
            self.remove(&layer).await;
        }
    }

    async fn remove(&self, layer: &ContainerId) {
        if let Err(error) = self.core.runtime.remove_layer(layer).await {
            tracing::warn!(%layer, error = chain(&error), "a build's layer stays");
        }
    }

    /// Seconds since 1970, for what is made without a source.
    pub fn now(&self) -> u64 {
        self.epoch.unwrap_or_else(cache::now)
    }

    /// The moment at which a step is made, as images say it.
    pub fn created(&self) -> String {
        let moment = match self.epoch {
            Some(epoch) => i64::try_from(epoch)
                .ok()
                .and_then(|epoch| OffsetDateTime::from_unix_timestamp(epoch).ok())
                .unwrap_or(OffsetDateTime::UNIX_EPOCH),
            None => OffsetDateTime::now_utc(),
        };
        moment.format(&Rfc3339).unwrap_or_default()
    }

    /// Gives the outcome its names, as an image that somebody asked for.
    pub async fn finish(&self, state: &mut State) -> Result<Digest> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let images = &self.core.images;
        let mut targets = self.request.cache_to.iter();
        if targets.any(|target| target.to == CacheTo::Inline) {
            let records = exchange::inline(images, &self.trace, &state.key);
            state.config.set_cache(&records);
        }
        let known = images.get(&state.shown().to_string());
        let has_names = |image: &Arc<Image>| {
            let tags = self.request.tags.iter();
            tags.filter_map(ImageRef::tagged)
                .all(|tag| image.repo_tags.contains(&tag))
        };
        let id = match known.filter(has_names) {
            // Nothing changes, and nothing is written.
            Some(image) => image.id.clone(),
            None => state.store(images, &self.request.tags).await?,
        };
        let mut hash = Hash::default();
        hash.field(b"result");
        hash.field(id.as_str().as_bytes());
        let key = hash.finish();
        let before = self.core.cache.get(&key);
        let was_asked_for = before.is_some_and(|made| made.is_result);
        let made = Made {
            image: Some(id.clone()),
            created: self.created(),
            used: cache::now(),
            is_result: was_asked_for || !self.request.is_passing,
        };
        self.core.cache.put(&key, made);
        Ok(id)
    }
}

fn runnable(name: &str, image: Arc<Image>) -> Result<Arc<Image>> {
    match &image.artifact {
        None => Ok(image),
        Some(kind) => Err(Error::invalid(format!(
            "{name} is an artifact ({kind}): nothing can be built on it"
        ))),
    }
}
