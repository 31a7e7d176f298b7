//! `compose watch`: files that change are carried into containers, or images are built anew.
//!
//! ```text
//! eyes ─► batch of changes ─► Rules (crate compose) ─► Work ─► build ─► recreate
//!                                                         └──► carry ─► restart, exec
//! ```

mod carry;
mod eyes;
mod seen;
pub mod shown;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_compose::develop::{Change, Rules, Work};
use berth_compose::node::{Kind, Node};
use berth_compose::{Project, Service};
use clap::{ArgAction, Args};
use futures::future::join_all;
use serde_json::Value;

use super::board::Board;
use super::converge::{Crew, Recreate, hook_in};
use super::found::{self, Found};
use super::{Files, build, lifecycle, logs, up};
use crate::build::Show;
use crate::commands::Outcome;
use crate::daemon::{Call, Client};
use crate::error::{Error, Result};
use crate::output::note;
use eyes::{Eyes, Told};

/// Between questions to a daemon that is away.
const ASK_AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct Watch {
    /// Neither build nor start anything first
    #[arg(long)]
    no_up: bool,
    /// Remove images that a rebuild took the name of
    #[arg(
        long,
        value_name = "YES",
        default_value_t = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        action = ArgAction::Set
    )]
    prune: bool,
    /// Show nothing of builds
    #[arg(long)]
    quiet: bool,
    services: Vec<String>,
}

impl Watch {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let whole = files.project()?;
        let project = whole.select(&self.services, true)?;
        let show = match self.quiet {
            true => Show::Quiet,
            false => Show::Auto,
        };
        let how = How {
            prune: self.prune,
            show,
        };
        let mut watching = Watching::open(client, &project, &self.services, how)?;
        if !self.no_up {
            let services = &self.services;
            tokio::select! {
                up = up::before_watch(client, &whole, &project, services, show) => up?,
                () = logs::interrupted() => return Ok(130),
            }
        }
        watching.run().await?;
        Ok(130)
    }
}

#[derive(Debug, Clone, Copy)]
pub struct How {
    pub prune: bool,
    pub show: Show,
}

/// Services whose files are watched.
pub struct Watching<'a> {
    client: &'a Client,
    project: &'a Project,
    how: How,
    board: Board,
    rules: BTreeMap<String, Rules>,
    eyes: Eyes,
    /// What `initial_sync` asks for.
    initial: Vec<Change>,
}

impl<'a> Watching<'a> {
    /// Of these services, or all that have something to watch. From now on nothing is missed.
    ///
    /// # Errors
    /// If there is nothing to watch, or it cannot be.
    pub fn open(
        client: &'a Client,
        project: &'a Project,
        services: &[String],
        how: How,
    ) -> Result<Self> {
        let mut rules = BTreeMap::new();
        for service in super::services(project, services)? {
            let own = rules_of(service)?;
            if !own.triggers.is_empty() {
                rules.insert(service.name.clone(), own);
            }
        }
        if rules.is_empty() {
            return Err(Error::usage(
                "nothing to watch: no service says by develop.watch which of its files matter",
            ));
        }
        let triggers = rules.values().flat_map(|rules| &rules.triggers);
        let initial = triggers.filter(|trigger| trigger.initial_sync && trigger.action.carries());
        let initial: Vec<PathBuf> = initial.map(|trigger| trigger.path.clone()).collect();
        let (eyes, initial) = Eyes::open(rules.values().cloned().collect(), &initial)?;
        Ok(Self {
            client,
            project,
            how,
            board: Board::new(),
            rules,
            eyes,
            initial,
        })
    }

    /// Until somebody interrupts. What was begun is brought to its end, but for builds; at a second
    /// interrupt it is left as it is.
    pub async fn run(&mut self) -> Result<()> {
        let mut works = self.initial();
        note("Watch enabled");
        loop {
            if !works.is_empty() && !self.act(works).await {
                return Ok(());
            }
            let told = tokio::select! {
                told = self.eyes.next() => told,
                () = logs::interrupted() => return Ok(()),
            };
            works = match told {
                Told::Changes(changes) => self.works(&changes),
                Told::Trouble(error) => {
                    crate::complain(&error);
                    BTreeMap::new()
                }
            };
        }
    }

    /// What each service has to do.
    fn works(&self, changes: &[Change]) -> BTreeMap<String, Work> {
        let work = |(name, rules): (&String, &Rules)| (name.clone(), rules.work(changes));
        let works = self.rules.iter().map(work);
        works.filter(|(_, work)| !work.is_nothing()).collect()
    }

    /// Files alone: nothing has changed that something would have to be started again for.
    fn initial(&mut self) -> BTreeMap<String, Work> {
        let initial = std::mem::take(&mut self.initial);
        let mut works = BTreeMap::new();
        for (name, rules) in &self.rules {
            let mut rules = rules.clone();
            let triggers = &mut rules.triggers;
            triggers.retain(|trigger| trigger.initial_sync && trigger.action.carries());
            let sync = rules.work(&initial).sync;
            if !sync.is_empty() {
                let work = Work {
                    sync,
                    ..Work::default()
                };
                works.insert(name.clone(), work);
            }
        }
        works
    }

    /// Whether to go on.
    async fn act(&self, works: BTreeMap<String, Work>) -> bool {
        let (builds, others): (Vec<_>, Vec<_>) = works.iter().partition(|(_, work)| work.rebuild);
        let all = others
            .iter()
            .map(|(name, work)| self.apply(name, work, None));
        if !self.to_the_end(join_all(all)).await {
            return false;
        }
        for (name, work) in builds {
            let image = tokio::select! {
                image = self.build(name) => image,
                () = logs::interrupted() => return false,
            };
            let Some(image) = image else {
                continue;
            };
            if !self.to_the_end(self.apply(name, work, Some(&image))).await {
                return false;
            }
        }
        true
    }

    async fn to_the_end<T>(&self, act: impl Future<Output = T>) -> bool {
        let mut act = std::pin::pin!(act);
        let is_interrupted = tokio::select! {
            _ = &mut act => false,
            () = logs::interrupted() => true,
        };
        if is_interrupted {
            note("\nEnding when what was begun is done… (once more: at once)");
            tokio::select! {
                _ = act => {}
                () = logs::interrupted() => {}
            }
        }
        self.board.leave();
        !is_interrupted
    }

    /// The new image's id; `None` if that came to nothing, which is told.
    async fn build(&self, name: &str) -> Option<String> {
        let service = &self.project.services[name];
        note(&format!(
            "Rebuilding service {name:?} after changes were detected..."
        ));
        let options = build::Options {
            show: self.how.show,
            ..build::Options::default()
        };
        let built = self
            .persist(async || build::build(self.client, self.project, service, &options).await)
            .await;
        match built {
            Ok(id) => {
                note(&format!("Service {name:?} successfully built"));
                Some(id)
            }
            Err(error) => {
                note(&format!(
                    "Service {name:?} is left as it is: its build failed"
                ));
                crate::complain(&error);
                None
            }
        }
    }

    /// A service that cannot be brought to it is told of, and keeps being watched.
    async fn apply(&self, name: &str, work: &Work, image: Option<&str>) {
        let applied = self
            .persist(async || self.try_apply(name, work, image).await)
            .await;
        if let Err(error) = applied {
            self.board.leave();
            note(&format!("Service {name:?} is not as its files are now:"));
            crate::complain(&error);
        }
    }

    async fn try_apply(&self, name: &str, work: &Work, image: Option<&str>) -> Result<()> {
        if let Some(image) = image {
            self.recreate(name, image).await?;
        }
        let mut containers = self.containers(name).await?;
        if work.restart && image.is_none() {
            // Those that ended are started again, too.
            carry::carry(self.client, &running(&containers), &work.sync).await?;
            self.tell_sync(name, work);
            let words = ("Restarting", "Started");
            let query = [("t", String::new())];
            note(&format!(
                "Restarting service {name:?} after changes were detected..."
            ));
            lifecycle::change(
                self.client,
                &self.board,
                &containers,
                "restart",
                words,
                &query,
            )
            .await?;
            self.board.leave();
        } else if !work.sync.is_empty() {
            carry::carry(self.client, &running(&containers), &work.sync).await?;
            self.tell_sync(name, work);
        }
        containers.retain(Found::is_running);
        for hook in &work.exec {
            self.exec(&containers, hook).await?;
        }
        Ok(())
    }

    fn tell_sync(&self, name: &str, work: &Work) {
        if !work.sync.is_empty() {
            let count = work.sync.len();
            note(&format!(
                "Synced service {name:?} after {count} changes were detected"
            ));
        }
    }

    async fn exec(&self, containers: &[Found], hook: &Value) -> Result<()> {
        for one in containers {
            let code = hook_in(self.client, &one.id, hook).await?;
            let words = hook["command"].as_array().into_iter().flatten();
            let words: Vec<&str> = words.filter_map(Value::as_str).collect();
            let command = words.join(" ");
            match code {
                0 => note(&format!("{}: {command}", one.name)),
                code => note(&format!("berth: {}: {command} ended with {code}", one.name)),
            }
        }
        Ok(())
    }

    async fn containers(&self, name: &str) -> Result<Vec<Found>> {
        let all = found::of_project(self.client, &self.project.name).await?;
        let mine = |one: &Found| one.service == name && !one.one_off;
        Ok(all.into_iter().filter(mine).collect())
    }

    /// Only this service, as many of it as there are, and only where the image is another one.
    async fn recreate(&self, name: &str, image: &str) -> Result<()> {
        let names = [name.to_owned()];
        let mut project = self.project.select(&names, false)?;
        let before = self.containers(name).await?;
        if !before.is_empty() {
            let service = &project.services[name];
            let count = i64::try_from(before.len()).unwrap_or(1);
            let node = Node::new(&service.node.at, Kind::Int(count));
            let scaled = service.with("scale", node);
            project.services.insert(name.to_owned(), scaled);
        }
        let crew = Crew {
            client: self.client,
            project: &project,
            board: &self.board,
            images: BTreeMap::from([(name.to_owned(), image.to_owned())]),
            recreate: Recreate::Changed,
            named: names.into(),
            keep_anonymous: true,
            timeout: None,
            containers: RefCell::new(BTreeMap::new()),
        };
        crew.create().await?;
        crew.start().await?;
        self.board.leave();
        if self.how.prune {
            self.prune(&before, image).await;
        }
        Ok(())
    }

    /// Images that the containers were of, and that have no name any more. Whoever else uses one
    /// keeps it.
    async fn prune(&self, before: &[Found], image: &str) {
        let text = |one: &Found| one.value["ImageID"].as_str().map(str::to_owned);
        let old: BTreeSet<String> = before.iter().filter_map(text).collect();
        for id in old.iter().filter(|id| *id != image) {
            let found = self.client.get(format!("/images/{id}/json")).await;
            let names = found.map(|found| found["RepoTags"].clone());
            if names.is_ok_and(|names| names.as_array().is_none_or(Vec::is_empty)) {
                let remove = Call::delete(format!("/images/{id}")).flag("noprune", true);
                let _kept = self.client.tell(remove).await;
            }
        }
    }

    /// Once more when the daemon is back, where it was away.
    async fn persist<T>(&self, act: impl AsyncFn() -> Result<T>) -> Result<T> {
        loop {
            match act().await {
                Err(error) if error.is_absence() => {
                    self.board.leave();
                    note(&format!("berth: {}; waiting for it", error.report()));
                    while self.client.get("/version").await.is_err() {
                        tokio::time::sleep(ASK_AGAIN).await;
                    }
                    note("berth: the daemon is back");
                }
                outcome => return outcome,
            }
        }
    }
}

fn running(containers: &[Found]) -> Vec<Found> {
    let running = containers.iter().filter(|one| one.is_running());
    running.cloned().collect()
}

/// What is a bind mount in the container is there already.
fn rules_of(service: &Service) -> Result<Rules> {
    let mut rules = Rules::of(service, build::left_out(service)?)?;
    let mounts = service.value["volumes"].as_array().into_iter().flatten();
    let binds = mounts.filter(|mount| mount["type"] == "bind");
    let binds: Vec<PathBuf> = binds
        .filter_map(|mount| mount["source"].as_str())
        .map(PathBuf::from)
        .collect();
    rules.triggers.retain(|trigger| {
        let is_bound = |path: &Path| binds.iter().any(|bind| path.starts_with(bind));
        let is_kept = !trigger.action.carries() || !is_bound(&trigger.path);
        if !is_kept {
            note(&format!(
                "berth: {} is mounted into {}, and is not watched for it",
                trigger.path.display(),
                service.name
            ));
        }
        is_kept
    });
    Ok(rules)
}

#[cfg(test)]
pub mod testing {
    use std::path::Path;

    use berth_compose::develop::Rules;
    use berth_compose::{Options, Project};

    /// Of a service whose `root` is carried to `/app`, but for what a pattern leaves out.
    pub fn rules(root: &Path, ignore: &str) -> Rules {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("compose.yaml");
        let text = format!(
            "services:\n  web:\n    image: x\n    develop:\n      watch:\n        - action: sync\n\
             \x20         path: {}\n          target: /app\n          ignore: ['{ignore}']\n",
            root.display()
        );
        std::fs::write(&file, text).unwrap();
        let options = Options {
            files: vec![file],
            ..Options::default()
        };
        let project = Project::load(&options).unwrap();
        super::rules_of(&project.services["web"]).unwrap()
    }
}
