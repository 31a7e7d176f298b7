//! A build from its Dockerfile to an image: stages at the same time, each when what it needs is
//! ready.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use berth_images::{Images, Platform};
use berth_lifecycle::{Runtime, chain};
use berth_metadata::Store;
use berth_names::{Digest, ImageRef};
use berth_network::Networks;
use berth_registry::Credentials;
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::attest::{Attest, Materials};
use crate::cache::{self, Cache};
use crate::collect::{self, Keep};
use crate::dockerfile::{self, Dockerfile};
use crate::error::{Error, Result, blocking};
use crate::exchange::{self, CacheSource, CacheTarget, CacheTo, LayoutFile, Trace};
use crate::ignore::Ignore;
use crate::job::{Job, State};
use crate::lent::Lent;
use crate::plan::{self, Plan};
use crate::run_step::cache_name;
use crate::sandbox::Limits;
use crate::transcript::{Said, Transcript};
use crate::tree::Context;

/// What somebody wants built.
pub struct Request {
    /// Path in the context; empty for `Dockerfile`.
    pub dockerfile: String,
    /// `--build-arg`.
    pub arguments: BTreeMap<String, String>,
    /// A stage's name or number; empty for the last.
    pub target: String,
    pub labels: BTreeMap<String, String>,
    pub tags: Vec<ImageRef>,
    /// What is built for, in place of this machine's.
    pub platform: Option<Platform>,
    pub no_cache: bool,
    /// Asks registries for newer images.
    pub pull: bool,
    pub limits: Limits,
    /// What happens is said in records, as it happens, in place of texts.
    pub recorded: bool,
    /// The Dockerfile was sent along with the context, and is no part of it.
    pub is_beside: bool,
    /// Nobody asks for the image itself: it is kept as steps are.
    pub is_passing: bool,
    pub lent: Lent,
    /// `--cache-from`: those before others are believed first.
    pub cache_from: Vec<CacheSource>,
    /// `--cache-to`.
    pub cache_to: Vec<CacheTarget>,
    /// What is to be said of the image.
    pub attest: Attest,
    /// Where the context came from, if not from the client.
    pub source: Option<String>,
    /// For the registry of an image.
    pub credentials: Box<dyn Fn(&ImageRef) -> Credentials + Send + Sync>,
}

/// What every build shares.
pub(crate) struct Core {
    pub runtime: Runtime,
    pub images: Arc<Images>,
    pub networks: Networks,
    pub cache: Cache,
    /// What is on the disk beside images: `run/` for as long as a step, `cache/` for `RUN --mount`.
    pub root: PathBuf,
    /// What is in memory alone, for as long as a step.
    pub private: PathBuf,
    keep: Keep,
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// Builds images. Cheap to clone.
#[derive(Clone)]
pub struct Builder {
    pub(crate) core: Arc<Core>,
}

impl Builder {
    /// Takes over what earlier builds left in the cache. `root` is on a disk, `private` is made anew
    /// on a file system in memory. Blocking.
    pub fn open(
        runtime: Runtime,
        images: Arc<Images>,
        networks: Networks,
        store: Store,
        (root, private): (PathBuf, PathBuf),
        keep: Keep,
    ) -> Result<Self> {
        // What commands of a former daemon had.
        let _ = std::fs::remove_dir_all(root.join("run"));
        let _ = std::fs::remove_dir_all(&private);
        let made = DirBuilder::new().mode(0o700).create(&private);
        made.map_err(Error::file("create", &private))?;
        for name in ["run", "cache"] {
            let path = root.join(name);
            std::fs::create_dir_all(&path).map_err(Error::file("create", &path))?;
        }
        Ok(Self {
            core: Arc::new(Core {
                runtime,
                images,
                networks,
                cache: Cache::open(store)?,
                root,
                private,
                keep,
                locks: Mutex::default(),
            }),
        })
    }

    /// Images that are only steps on the way to others, which nobody asked for.
    pub fn steps(&self) -> HashSet<Digest> {
        self.core.cache.steps()
    }

    /// Builds an image, and says on the way what is done. Returns its id. To be driven to its end:
    /// `cancel` ends it early.
    pub async fn build(
        &self,
        mut request: Request,
        context: Context,
        out: mpsc::Sender<Said>,
        cancel: CancellationToken,
    ) -> Result<Digest> {
        let began = OffsetDateTime::now_utc();
        let (text, file, context) = blocking("reading the Dockerfile", {
            let (path, is_beside) = (request.dockerfile.clone(), request.is_beside);
            move || read(&path, context, is_beside)
        })
        .await?;
        let machine = self.core.images.platform();
        let wish = plan::Wish {
            target: request.target.clone(),
            arguments: request.arguments.clone(),
            platform: (request.platform.clone()).unwrap_or_else(|| machine.clone()),
            machine: machine.clone(),
        };
        let plan = Plan::new(&file, &wish)?;
        plan.check_commands(machine)?;
        for warning in &file.warnings {
            let (rule, text, line) = (warning.rule, &warning.text, warning.line);
            let text = format!("[Warning] {rule}: {text} (line {line})\n");
            let _ = out.send(Said::Text(text)).await;
        }
        let epoch = request.arguments.get("SOURCE_DATE_EPOCH");
        let epoch = epoch.map(|text| {
            text.parse().map_err(|_| {
                Error::invalid(format!("SOURCE_DATE_EPOCH={text} is no number of seconds"))
            })
        });
        let cache_from = std::mem::take(&mut request.cache_from);
        let cache_from = match request.no_cache {
            true => Vec::new(),
            false => cache_from,
        };
        let images = &self.core.images;
        let credentials = &*request.credentials;
        let imported =
            exchange::import(images, cache_from, credentials, out.clone(), &cancel).await?;
        let job = Arc::new(Job {
            core: Arc::clone(&self.core),
            stages: (plan.stages.keys())
                .map(|stage| (*stage, watch::Sender::new(None)))
                .collect(),
            file,
            plan,
            request,
            context: Arc::new(context),
            cancel: cancel.child_token(),
            epoch: epoch.transpose()?,
            imported,
            trace: Trace::default(),
            materials: Materials::default(),
            text,
            began,
        });
        let transcript = Transcript::new(out.clone(), job.plan.stages.len(), job.request.recorded);
        let built = job.all_stages(&transcript).await;
        let mut state = built?;
        if !job.plan.unused.is_empty() {
            let names = job.plan.unused.join(" ");
            let text = format!("[Warning] One or more build-args [{names}] were not consumed\n");
            let _ = out.send(Said::Text(text)).await;
        }
        let id = job.finish(&mut state).await?;
        job.attest(&id).await?;
        job.export(&state, &out).await?;
        let builder = self.clone();
        tokio::spawn(async move {
            if let Err(error) = builder.collect().await {
                tracing::warn!(
                    error = chain(&error),
                    "the cache of builds is not collected"
                );
            }
        });
        let _ = out.send(Said::Image(id.to_string())).await;
        Ok(id)
    }

    /// Gives up what is beyond the cache's limits.
    async fn collect(&self) -> Result<()> {
        let Keep { bytes, age } = self.core.keep;
        self.prune(Some(cache::now().saturating_sub(age)), false)
            .await?;
        if bytes == 0 {
            return Ok(());
        }
        let images = &self.core.images;
        let steps = self.core.cache.steps();
        let sizes = images.layer_sizes().await?;
        let mut held = HashSet::new();
        for image in images.list() {
            if !steps.contains(&image.id) || !image.repo_tags.is_empty() {
                held.extend(image.layers.iter().cloned());
            }
        }
        let all = self.core.cache.all().into_iter();
        let known = all.filter_map(|(key, made)| {
            let image = made.image.filter(|image| steps.contains(image))?;
            let image = images.get(&image.to_string())?;
            Some(collect::Step {
                key,
                used: made.used,
                layers: image.layers.clone(),
            })
        });
        let known = known.filter(|step| !step.layers.is_empty()).collect();
        self.forget(&collect::beyond(known, &held, &sizes, bytes))
            .await
    }

    /// Takes steps out of the cache, with their images, but for those that somebody else has.
    async fn forget(&self, keys: &[Digest]) -> Result<()> {
        let core = &self.core;
        let steps = core.cache.steps();
        for key in keys {
            let made = core.cache.get(key);
            let image = made.and_then(|made| made.image);
            let Some(image) = image.filter(|image| steps.contains(image)) else {
                continue;
            };
            let known = core.images.get(&image.to_string());
            let is_named = known.is_some_and(|known| !known.repo_tags.is_empty());
            if !is_named && !core.runtime.image_in_use(&image) {
                core.images.remove(&image.to_string()).await?;
            }
        }
        core.cache.forget(keys);
        Ok(())
    }

    /// Forgets what the cache has, but for what was of use since `until` (seconds since 1970), and
    /// removes the images of steps. Caches of `RUN --mount` go with `all`. Returns the keys.
    pub async fn prune(&self, until: Option<u64>, all: bool) -> Result<Vec<String>> {
        let core = &self.core;
        let known = core.cache.all().into_iter();
        let keys: Vec<Digest> = known
            .filter(|(_, made)| until.is_none_or(|until| made.used <= until))
            .map(|(key, _)| key)
            .collect();
        self.forget(&keys).await?;
        if all {
            let caches = core.root.join("cache");
            blocking("removing caches", move || {
                let _ = std::fs::remove_dir_all(&caches);
                std::fs::create_dir_all(&caches).map_err(Error::file("create", &caches))
            })
            .await?;
        }
        Ok(keys.iter().map(|key| key.hex().to_owned()).collect())
    }
}

impl Job {
    /// Writes the caches that are asked for.
    async fn export(&self, state: &State, out: &mpsc::Sender<Said>) -> Result<()> {
        for (number, target) in self.request.cache_to.iter().enumerate() {
            if target.to == CacheTo::Inline {
                continue;
            }
            let plan = self.trace.plan(&state.key, target.has_all_stages);
            let credentials = &*self.request.credentials;
            let exporting = exchange::export(&self.core.images, &plan, target, credentials);
            let exported = tokio::select! {
                exported = exporting => exported,
                () = self.cancel.cancelled() => return Err(Error::Cancelled),
            };
            let said = match exported {
                Ok(None) => continue,
                Ok(Some(file)) => Said::Cache(LayoutFile {
                    target: number,
                    file,
                }),
                Err(error) if target.ignores_errors => {
                    let problem = chain(&error);
                    Said::Text(format!("[Warning] a cache is not exported: {problem}\n"))
                }
                Err(error) => return Err(error),
            };
            let _gone = out.send(said).await;
        }
        Ok(())
    }
}

/// Finds the Dockerfile, with its name and text, and leaves out of the context what is to be left out.
fn read(
    path: &str,
    mut context: Context,
    is_beside: bool,
) -> Result<((String, String), Dockerfile, Context)> {
    let path = if path.is_empty() { "Dockerfile" } else { path };
    let text = context.text(path, dockerfile::LARGEST)?;
    let Some(text) = text else {
        return Err(Error::invalid(format!(
            "Cannot locate specified Dockerfile: {path}: name it with --file"
        )));
    };
    // What lies beside the context has the name there that the client gave it.
    let shown = match is_beside {
        true => path.rsplit('/').next().unwrap_or(path),
        false => path,
    };
    let file = Dockerfile::parse(shown, &text)?;
    let its_own = format!("{path}.dockerignore");
    let own = context.text(&its_own, dockerfile::LARGEST)?;
    if is_beside {
        context.take_out(path);
        context.take_out(&its_own);
    }
    let ignore = match own {
        Some(own) => Some(own),
        None => context.text(".dockerignore", dockerfile::LARGEST)?,
    };
    if let Some(ignore) = ignore {
        context.leave_out(&Ignore::parse(&ignore)?);
    }
    Ok(((shown.to_owned(), text), file, context))
}

impl Core {
    /// The turn of who alone may use a cache.
    pub async fn lock(&self, id: &str) -> OwnedMutexGuard<()> {
        let lock = Arc::clone(self.locks.lock().entry(id.to_owned()).or_default());
        lock.lock_owned().await
    }

    pub fn cache_directory(&self, id: &str) -> PathBuf {
        self.root.join("cache").join(cache_name(id))
    }
}
