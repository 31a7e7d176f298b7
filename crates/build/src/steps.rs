//! One stage: its instructions one after the other, each from the cache if it is there.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use berth_images::Section;
use berth_names::Digest;

use crate::cache::{self, Made};
use crate::config::Config;
use crate::dockerfile::{self, Document, Expander, Instruction, Kind};
use crate::error::{Error, Result, blocking};
use crate::exchange::{Layer, Traced};
use crate::job::{Job, State};
use crate::plan::PROXIES;
use crate::transcript::StageLog;
use crate::tree::Hash;

/// Characters of a digest that people see.
const SHORT: usize = 12;

/// A stage at work.
pub struct Steps<'j> {
    pub job: &'j Job,
    /// Its number in the Dockerfile.
    pub stage: usize,
    pub log: StageLog,
    pub state: State,
    /// `ARG` so far, with their values.
    arguments: BTreeMap<String, String>,
    /// A CMD of this stage outlives an ENTRYPOINT.
    cmd_is_own: bool,
}

impl<'j> Steps<'j> {
    pub fn new(job: &'j Job, stage: usize, log: StageLog, state: State) -> Self {
        Self {
            job,
            stage,
            log,
            state,
            arguments: BTreeMap::new(),
            cmd_is_own: false,
        }
    }

    /// Carries out an instruction; what went wrong names its line.
    pub async fn step(&mut self, number: usize, instruction: &Instruction) -> Result<()> {
        if self.job.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.log.begin(number, &instruction.text).await;
        match self.carry_out(instruction).await {
            Ok(()) => {
                self.log.end(short(&self.state.shown())).await;
                Ok(())
            }
            Err(error) => {
                self.log.fail().await;
                Err(match error {
                    Error::Invalid(problem) => Error::Step {
                        line: instruction.line,
                        text: instruction.text.clone(),
                        problem,
                    },
                    other => other,
                })
            }
        }
    }

    async fn carry_out(&mut self, instruction: &Instruction) -> Result<()> {
        match &instruction.kind {
            Kind::Arg(arguments) => self.arg(arguments),
            Kind::Run(run) => self.run(run).await,
            Kind::Copy(copy) => self.copy(copy, instruction, false).await,
            Kind::Add(copy) => self.copy(copy, instruction, true).await,
            Kind::WorkDir(path) => self.work_dir(path).await,
            kind => self.configure(kind).await,
        }
    }

    /// A variable as words see it: of the image, or an argument.
    fn lookup(&self, name: &str) -> Option<String> {
        let config = &self.state.config;
        let proxy = || {
            let known = PROXIES.contains(&name);
            self.job
                .request
                .arguments
                .get(name)
                .filter(|_| known)
                .cloned()
        };
        config
            .variable(name)
            .or_else(|| self.arguments.get(name).cloned())
            .or_else(proxy)
    }

    pub fn word(&self, text: &str) -> Result<String> {
        let lookup = |name: &str| self.lookup(name);
        let expander = Expander {
            escape: self.job.plan.escape,
            lookup: &lookup,
        };
        Ok(expander.word(text)?)
    }

    fn words(&self, text: &str) -> Result<Vec<String>> {
        let lookup = |name: &str| self.lookup(name);
        let expander = Expander {
            escape: self.job.plan.escape,
            lookup: &lookup,
        };
        Ok(expander.words(text)?)
    }

    /// The content of a here-document.
    pub fn document(&self, document: &Document) -> Result<String> {
        if !document.expands {
            return Ok(document.content.clone());
        }
        let lookup = |name: &str| self.lookup(name);
        let expander = Expander {
            escape: self.job.plan.escape,
            lookup: &lookup,
        };
        Ok(expander.document(&document.content)?)
    }

    fn arg(&mut self, arguments: &[dockerfile::Argument]) -> Result<()> {
        for argument in arguments {
            let name = self.word(&argument.name)?;
            let given = self.job.request.arguments.get(&name).cloned();
            let value = match (given, &argument.default) {
                (Some(given), _) => Some(given),
                (None, Some(default)) => Some(self.word(default)?),
                (None, None) => self.job.plan.arguments.get(&name).cloned(),
            };
            if let Some(value) = value {
                self.arguments.insert(name, value);
            }
        }
        Ok(())
    }

    /// Arguments that a command sees, and its outcome depends on.
    pub fn visible_arguments(&self) -> Vec<(String, String)> {
        let hidden =
            |name: &str| PROXIES.contains(&name) || self.state.config.variable(name).is_some();
        let all = self.arguments.iter().filter(|(name, _)| !hidden(name));
        all.map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// What changes the config alone.
    async fn configure(&mut self, kind: &Kind) -> Result<()> {
        let mut config = self.state.config.clone();
        let by = self.changed(&mut config, kind)?;
        self.state.config = config;
        let key = self.key("config", &[&by]);
        self.note(key, &by).await;
        Ok(())
    }

    /// Changes the config, and says by what in full.
    fn changed(&mut self, config: &mut Config, kind: &Kind) -> Result<String> {
        Ok(match kind {
            Kind::Env(pairs) => {
                let mut by = "ENV".to_owned();
                for (name, value) in pairs {
                    let (name, value) = (self.word(name)?, self.word(value)?);
                    config.set_variable(&name, &value);
                    by += &format!(" {name}={value}");
                }
                by
            }
            Kind::Label(pairs) => {
                let mut by = "LABEL".to_owned();
                for (name, value) in pairs {
                    let (name, value) = (self.word(name)?, self.word(value)?);
                    config.set_label(&name, &value);
                    by += &format!(" {name}={value}");
                }
                by
            }
            Kind::Expose(ports) => {
                let mut by = "EXPOSE".to_owned();
                for port in ports {
                    for port in self.words(port)? {
                        for port in crate::ports::read(&port)? {
                            config.expose(&port);
                            by += &format!(" {port}");
                        }
                    }
                }
                by
            }
            Kind::Volume(paths) => {
                let mut by = "VOLUME".to_owned();
                for path in paths {
                    let path = self.word(path)?;
                    config.add_volume(&path);
                    by += &format!(" {path}");
                }
                by
            }
            Kind::User(user) => {
                let user = self.word(user)?;
                if user.is_empty() {
                    return Err(Error::invalid("USER is empty: give a name or a number"));
                }
                config.set_user(&user);
                format!("USER {user}")
            }
            Kind::StopSignal(signal) => {
                let signal = self.word(signal)?;
                if berth_lifecycle::signal::parse(&signal).is_none() {
                    return Err(Error::invalid(format!("{signal:?} is not a signal")));
                }
                config.set_stop_signal(&signal);
                format!("STOPSIGNAL {signal}")
            }
            Kind::Shell(words) => {
                config.set_shell(words);
                format!("SHELL {words:?}")
            }
            Kind::Cmd(command) => {
                self.cmd_is_own = true;
                config.set_cmd(command);
                format!("CMD {:?}", config.command(command))
            }
            Kind::Entrypoint(command) => {
                config.set_entrypoint(command, self.cmd_is_own);
                format!("ENTRYPOINT {:?}", config.command(command))
            }
            Kind::Healthcheck(check) => {
                config.set_healthcheck(check);
                format!("HEALTHCHECK {check:?}")
            }
            Kind::OnBuild(trigger) => {
                config.add_trigger(trigger);
                format!("ONBUILD {trigger}")
            }
            Kind::Maintainer(author) => {
                config.set_author(author);
                format!("MAINTAINER {author}")
            }
            other => return Err(Error::invalid(format!("{other:?} changes no config"))),
        })
    }

    /// The key of a step that follows what the state is now.
    pub fn key(&self, kind: &str, fields: &[&str]) -> Digest {
        let mut hash = Hash::default();
        hash.field(self.state.key.as_str().as_bytes());
        hash.field(kind.as_bytes());
        for field in fields {
            hash.field(field.as_bytes());
        }
        if let Some(epoch) = self.job.epoch {
            hash.field(epoch.to_string().as_bytes());
        }
        hash.finish()
    }

    /// Notes a change of the config alone: at the time at which it was made first, so that the same
    /// build gives the same image.
    pub async fn note(&mut self, key: Digest, by: &str) {
        let known = self.cached_record(&key).map(|made| made.created);
        let known = known.or_else(|| self.job.imported.created(&key).map(str::to_owned));
        if known.is_some() {
            self.log.cached().await;
        }
        let created = known.unwrap_or_else(|| self.job.created());
        self.trace(&key, Some(&created), None);
        self.state.config.remember(&created, by, false);
        self.state.is_stored = false;
        self.job.core.cache.put(
            &key,
            Made {
                image: None,
                created,
                used: cache::now(),
                is_result: false,
            },
        );
        self.state.key = key;
    }

    pub fn cached_record(&self, key: &Digest) -> Option<Made> {
        match self.job.request.no_cache {
            true => None,
            false => self.job.core.cache.get(key),
        }
    }

    /// Takes a step's outcome from the cache, if it is there.
    pub async fn cached(&mut self, key: &Digest) -> Result<bool> {
        let Some(made) = self.cached_record(key) else {
            return Ok(false);
        };
        let Some(image) = made.image.as_ref() else {
            return Ok(false);
        };
        let Some(image) = self.job.core.images.get(&image.to_string()) else {
            return Ok(false);
        };
        self.log.cached().await;
        self.trace(key, Some(&made.created), Some(&image.id));
        self.state = State::of(&self.job.core.images, &image, key.clone()).await?;
        let used = cache::now();
        self.job.core.cache.put(key, Made { used, ..made });
        Ok(true)
    }

    /// Takes a step's layer from a cache elsewhere, if one has it. What is wrong with it is told, and
    /// the step is to be carried out.
    pub async fn carried(&mut self, key: &Digest, by: &str) -> Result<bool> {
        let job = self.job;
        let Some((layer, created)) = job.imported.layer(key) else {
            return Ok(false);
        };
        let taken = tokio::select! {
            taken = self.take_over(key, by, layer, created) => taken,
            () = job.cancel.cancelled() => return Err(Error::Cancelled),
        };
        match taken {
            Ok(()) => {
                self.log.cached().await;
                Ok(true)
            }
            Err(error) => {
                job.imported.refuse(key, &error).await;
                Ok(false)
            }
        }
    }

    async fn take_over(
        &mut self,
        key: &Digest,
        by: &str,
        layer: &Layer,
        created: &str,
    ) -> Result<()> {
        let job = self.job;
        let (archive, digest) = job.imported.fetch(&job.core.images, key).await?;
        let said = Some((digest, layer.diff_id.clone()));
        self.lay(key.clone(), by, archive, created.to_owned(), said)
            .await
    }

    /// Puts a layer on top of the state, as an image that later builds find.
    pub async fn put_layer(&mut self, key: Digest, by: &str, archive: File) -> Result<()> {
        let created = self.job.created();
        self.lay(key, by, archive, created, None).await
    }

    /// `said` are the digests of a stranger's archive, and of what is in it. The state is as before
    /// where this fails.
    async fn lay(
        &mut self,
        key: Digest,
        by: &str,
        archive: File,
        created: String,
        said: Option<(Digest, Digest)>,
    ) -> Result<()> {
        let images = &self.job.core.images;
        let base = self.state.base(images)?;
        let archive = Section::whole(archive).map_err(Error::Layer)?;
        let intake = images.intake(base.as_deref()).await?;
        let mut intake = intake.for_any_platform();
        match said {
            Some((digest, diff_id)) => intake.announced_layer(archive, digest, diff_id).await?,
            None => intake.layer(archive).await?,
        }
        let mut config = self.state.config.clone();
        config.set_layers(intake.diff_ids());
        config.remember(&created, by, true);
        let id = intake.finish(config.bytes().into(), None, &[]).await?;
        self.trace(&key, Some(&created), Some(&id));
        self.state.config = config;
        self.state.image = Some(id.clone());
        self.state.is_stored = true;
        self.state.key = key.clone();
        let made = Made {
            image: Some(id),
            created,
            used: cache::now(),
            is_result: false,
        };
        self.job.core.cache.put(&key, made);
        Ok(())
    }

    /// Notes for caches elsewhere what follows the state.
    fn trace(&self, key: &Digest, created: Option<&str>, image: Option<&Digest>) {
        self.job.trace.add(Traced {
            key: key.clone(),
            parent: self.state.key.clone(),
            created: created.map(str::to_owned),
            image: image.cloned(),
        });
    }

    /// Makes the state an image by itself: for who reads it by its id.
    pub async fn store(&mut self) -> Result<()> {
        if !self.state.is_stored {
            let key = self.key("stored", &[]);
            let id = self.state.store(&self.job.core.images, &[]).await?;
            let made = Made {
                image: Some(id),
                created: self.job.created(),
                used: cache::now(),
                is_result: false,
            };
            self.job.core.cache.put(&key, made);
        }
        Ok(())
    }

    /// What a base image has waiting for whoever builds on it.
    pub async fn triggers(&mut self, triggers: &[String]) -> Result<()> {
        if triggers.is_empty() {
            return Ok(());
        }
        let count = triggers.len();
        let end = if count == 1 { "" } else { "s" };
        self.log
            .output(format!("# Executing {count} build trigger{end}\n"))
            .await;
        let key = self.key("triggers", &[]);
        self.trace(&key, None, None);
        self.state.key = key;
        for trigger in triggers {
            let instruction = dockerfile::trigger(trigger)?;
            self.log.output(format!("# {trigger}\n")).await;
            self.carry_out(&instruction).await?;
        }
        Ok(())
    }

    /// Labels of the request, on top of everything.
    pub async fn labels(&mut self, labels: &BTreeMap<String, String>) {
        if labels.is_empty() {
            return;
        }
        let mut by = "LABEL".to_owned();
        for (name, value) in labels {
            self.state.config.set_label(name, value);
            by += &format!(" {name}={value}");
        }
        let key = self.key("config", &[&by]);
        self.note(key, &by).await;
    }

    async fn work_dir(&mut self, path: &str) -> Result<()> {
        let path = self.word(path)?;
        if path.is_empty() {
            return Err(Error::invalid("WORKDIR is empty"));
        }
        let path = format!(
            "/{}",
            crate::ignore::clean(&self.state.config.absolute(&path))
        );
        let by = format!("WORKDIR {path}");
        let key = self.key("workdir", &[&path]);
        if self.cached(&key).await? {
            return Ok(());
        }
        self.state.config.set_working_dir(&path);
        if self.carried(&key, &by).await? {
            return Ok(());
        }
        // A directory that is there needs no layer; that is remembered as a change of the config.
        let is_noted = self
            .cached_record(&key)
            .is_some_and(|made| made.image.is_none());
        if is_noted || self.job.imported.created(&key).is_some() {
            self.note(key, &by).await;
            return Ok(());
        }
        match self.made_directory(&path).await? {
            Some(archive) => self.put_layer(key, &by, archive).await,
            None => {
                self.note(key, &by).await;
                Ok(())
            }
        }
    }

    /// A layer with a directory, unless it is there.
    async fn made_directory(&self, path: &str) -> Result<Option<File>> {
        let below = self.below().await?;
        let (file, path) = (self.job.core.images.spool().await?, path.to_owned());
        let (epoch, now) = (self.job.epoch, self.job.now());
        let made = blocking("making a directory", {
            let below = Arc::clone(&below);
            move || {
                let mut layer = crate::layer::Layer::new(file, epoch);
                crate::copy::Copier::new(below.tree(), &mut layer, now).make(&path)?;
                match layer.is_empty() {
                    true => Ok(None),
                    false => layer.finish().map(Some).map_err(Error::Layer),
                }
            }
        })
        .await;
        self.job.close(below).await;
        made
    }
}

pub fn short(digest: &Digest) -> String {
    digest.hex().chars().take(SHORT).collect()
}
