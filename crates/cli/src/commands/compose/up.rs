//! `compose up` and `compose create`.

use std::cell::RefCell;
use std::collections::BTreeMap;

use berth_compose::node::{Kind, Node};
use berth_compose::{Condition, Project};
use clap::Args;
use futures::future::try_join_all;

use super::board::Board;
use super::converge::{Crew, Recreate, reach};
use super::found::{self, Found};
use super::images::{self, Wanted};
use super::watch::{How, Watching, shown};
use super::{Files, lifecycle, logs, parts};
use crate::build::Show;
use crate::commands::Outcome;
use crate::daemon::{Call, Client};
use crate::error::{Error, Result};
use crate::output::note;

const WATCHED: How = How {
    prune: true,
    show: Show::Auto,
};

#[derive(Debug, Default, Args)]
pub struct Made {
    /// Build images, also those that are here
    #[arg(long, conflicts_with = "no_build")]
    build: bool,
    /// Build nothing
    #[arg(long)]
    no_build: bool,
    /// Make containers anew, whether they changed or not
    #[arg(long, conflicts_with = "no_recreate")]
    force_recreate: bool,
    /// Leave containers as they are, even where the files say otherwise
    #[arg(long)]
    no_recreate: bool,
    /// Whether to pull images: always, missing or never
    #[arg(long, value_parser = ["always", "missing", "never"])]
    pull: Option<String>,
    /// Tell nothing of pulls
    #[arg(long)]
    quiet_pull: bool,
    /// Remove containers of services that the files do not have
    #[arg(long)]
    remove_orphans: bool,
    /// SERVICE=NUMBER of containers
    #[arg(long, value_name = "SERVICE=NUMBER")]
    scale: Vec<String>,
    services: Vec<String>,
    #[arg(skip)]
    show: Show,
}

#[derive(Debug, Args)]
pub struct Up {
    /// Leave once everything has started
    #[arg(short, long)]
    detach: bool,
    /// Leave once everything runs and is healthy
    #[arg(long)]
    wait: bool,
    /// Give up waiting after so many seconds
    #[arg(long, value_name = "SECONDS", requires = "wait")]
    wait_timeout: Option<u64>,
    /// Only these services, not what they wait for
    #[arg(long)]
    no_deps: bool,
    /// Make anew what these services wait for, too
    #[arg(long, conflicts_with = "no_recreate")]
    always_recreate_deps: bool,
    /// Make without starting
    #[arg(long)]
    no_start: bool,
    /// New volumes in place of those without a name
    #[arg(short = 'V', long)]
    renew_anon_volumes: bool,
    /// Seconds until a container that is stopped is killed
    #[arg(short, long, value_name = "SECONDS", allow_hyphen_values = true)]
    timeout: Option<i64>,
    /// Stop everything once one container has ended
    #[arg(long, conflicts_with = "detach")]
    abort_on_container_exit: bool,
    /// End with the code of this service's container; implies --abort-on-container-exit
    #[arg(long, value_name = "SERVICE", conflicts_with = "detach")]
    exit_code_from: Option<String>,
    /// Carry files that change into containers, or build anew, as develop.watch says
    #[arg(short, long, conflicts_with_all = [
        "detach", "wait", "no_start", "abort_on_container_exit", "exit_code_from",
    ])]
    watch: bool,
    #[command(flatten)]
    lines: logs::Lines,
    #[command(flatten)]
    made: Made,
}

#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    made: Made,
}

impl Made {
    fn wanted(&self) -> Wanted {
        Wanted {
            pull: self.pull.clone(),
            build: self.build,
            no_build: self.no_build,
            quiet: self.quiet_pull,
            show: self.show,
        }
    }

    fn recreate(&self) -> Recreate {
        match (self.force_recreate, self.no_recreate) {
            (true, _) => Recreate::Always,
            (_, true) => Recreate::Never,
            _ => Recreate::Changed,
        }
    }

    fn project(&self, whole: &Project, no_deps: bool) -> Result<Project> {
        let mut project = whole.select(&self.services, !no_deps)?;
        for scale in &self.scale {
            let parsed = scale
                .split_once('=')
                .and_then(|(name, number)| Some((name, number.parse::<u16>().ok()?)));
            let Some((name, number)) = parsed else {
                return Err(Error::usage(format!(
                    "--scale {scale:?} cannot be meant: write SERVICE=NUMBER, as in web=3"
                )));
            };
            let service = project.service(name)?;
            if number > 1 && !service.text("container_name").is_empty() {
                return Err(Error::usage(format!(
                    "{name} has a container_name: {number} containers cannot have one name"
                )));
            }
            let node = Node::new(&service.node.at, Kind::Int(number.into()));
            let scaled = service.with("scale", node);
            project.services.insert(name.to_owned(), scaled);
        }
        Ok(project)
    }

    /// Networks, volumes, images, containers.
    async fn make<'a>(
        &self,
        client: &'a Client,
        whole: &Project,
        project: &'a Project,
        board: &'a Board,
        change: impl FnOnce(&mut Crew<'a>),
    ) -> Result<Crew<'a>> {
        let images = images::ensure(client, project, &self.wanted()).await?;
        orphans(client, whole, board, self.remove_orphans).await?;
        parts::ensure(client, project, board).await?;
        let named = match self.services.is_empty() {
            true => project.services.keys().cloned().collect(),
            false => self.services.iter().cloned().collect(),
        };
        let mut crew = Crew {
            client,
            project,
            board,
            images,
            recreate: self.recreate(),
            named,
            keep_anonymous: true,
            timeout: None,
            containers: RefCell::new(BTreeMap::new()),
        };
        change(&mut crew);
        crew.create().await?;
        Ok(crew)
    }
}

/// Everything runs, with images that are as the files are now.
pub async fn before_watch(
    client: &Client,
    whole: &Project,
    project: &Project,
    services: &[String],
    show: Show,
) -> Result<()> {
    let made = Made {
        build: true,
        quiet_pull: show == Show::Quiet,
        services: services.to_vec(),
        show,
        ..Made::default()
    };
    let board = Board::new();
    let crew = made.make(client, whole, project, &board, |_| {}).await?;
    crew.start().await?;
    board.leave();
    Ok(())
}

/// Containers of services that the files do not have any more.
pub async fn orphans(
    client: &Client,
    project: &Project,
    board: &Board,
    remove: bool,
) -> Result<()> {
    let all = found::of_project(client, &project.name).await?;
    let is_orphan = |one: &Found| {
        !one.one_off
            && !project.services.contains_key(&one.service)
            && !project.disabled.contains_key(&one.service)
    };
    let orphans: Vec<Found> = all.into_iter().filter(is_orphan).collect();
    if remove {
        lifecycle::stop(client, board, &orphans, None).await?;
        for one in &orphans {
            lifecycle::remove(client, board, one, false).await?;
        }
    } else if !orphans.is_empty() {
        let names: Vec<&str> = orphans.iter().map(|one| one.name.as_str()).collect();
        note(&format!(
            "berth: {} of this project are of services that the files do not have; \
             --remove-orphans removes them",
            names.join(", ")
        ));
    }
    Ok(())
}

impl Create {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let whole = files.project()?;
        let project = self.made.project(&whole, false)?;
        let board = Board::new();
        self.made
            .make(client, &whole, &project, &board, |_| {})
            .await?;
        Ok(0)
    }
}

impl Up {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let whole = files.project()?;
        let project = self.made.project(&whole, self.no_deps)?;
        if let Some(service) = &self.exit_code_from {
            project.service(service)?;
        }
        let board = Board::new();
        let adjust = |crew: &mut Crew<'_>| {
            crew.keep_anonymous = !self.renew_anon_volumes;
            crew.timeout = self.timeout;
            if self.always_recreate_deps {
                crew.recreate = Recreate::Always;
                crew.named = crew.project.services.keys().cloned().collect();
            }
        };
        // Before anything is made: what is watched is looked at first.
        let watching = match self.watch {
            true => Some(Watching::open(
                client,
                &project,
                &self.made.services,
                WATCHED,
            )?),
            false => None,
        };
        let making = self.made.make(client, &whole, &project, &board, adjust);
        let crew = tokio::select! {
            crew = making => crew?,
            () = logs::interrupted() => return Ok(130),
        };
        if self.no_start {
            return Ok(0);
        }
        if self.detach || self.wait {
            tokio::select! {
                started = crew.start() => started?,
                () = logs::interrupted() => return Ok(130),
            }
            if self.wait {
                self.wait_for(client, &project, &board).await?;
            }
            return Ok(0);
        }
        match watching {
            Some(watching) => self.watched(&crew, watching).await,
            None => self.attached(&crew).await,
        }
    }

    /// Shows what containers write, and keeps them as their files are, until somebody interrupts:
    /// then they are stopped.
    async fn watched(&self, crew: &Crew<'_>, mut watching: Watching<'_>) -> Outcome {
        let (client, board) = (crew.client, crew.board);
        let all = mine(crew, found::of_project(client, &crew.project.name).await?);
        let follower = logs::Follower::new(client, &self.lines, &all);
        let mut seen = BTreeMap::new();
        for (one, state) in all.iter().zip(follower.look().await?) {
            let ended = logs::moment_of(&state["State"]["FinishedAt"])?;
            seen.insert(one.id.clone(), ended);
        }
        let watch = async {
            tokio::select! {
                started = crew.start() => started?,
                () = logs::interrupted() => return Ok(()),
            }
            board.leave();
            watching.run().await
        };
        tokio::select! {
            watched = watch => watched?,
            shown = shown::show(client, crew.project, &self.lines, seen) => shown?,
        }
        self.stop(crew).await?;
        Ok(130)
    }

    async fn stop(&self, crew: &Crew<'_>) -> Result<()> {
        let (client, board) = (crew.client, crew.board);
        let now = mine(crew, found::of_project(client, &crew.project.name).await?);
        let stop = lifecycle::stop_in_order(client, board, Some(crew.project), &now, self.timeout);
        tokio::select! {
            stopped = stop => stopped?,
            () = logs::interrupted() => kill(client, board, &now).await,
        }
        Ok(())
    }

    async fn wait_for(&self, client: &Client, project: &Project, board: &Board) -> Result<()> {
        let all = found::of_project(client, &project.name).await?;
        let all: Vec<Found> = all
            .into_iter()
            .filter(|one| !one.one_off && project.services.contains_key(&one.service))
            .collect();
        let waits = all.iter().map(|one| async move {
            let found = client.get(format!("/containers/{}/json", one.id)).await?;
            let condition = match found["State"]["Health"].is_null() {
                true => Condition::Started,
                false => Condition::Healthy,
            };
            let wait = reach(client, &one.id, condition);
            let done = if condition == Condition::Healthy {
                "Healthy"
            } else {
                "Running"
            };
            let what = format!("Container {}", one.name);
            board.during(&what, ("Waiting", done), wait).await
        });
        let waits = try_join_all(waits);
        match self.wait_timeout {
            None => waits.await.map(drop),
            Some(seconds) => {
                let limit = std::time::Duration::from_secs(seconds);
                let waited = tokio::time::timeout(limit, waits).await;
                waited
                    .map_err(|_| Error::Failed(format!("not all is healthy after {seconds} s")))?
                    .map(drop)
            }
        }
    }

    /// Shows what containers write, from their first line, until all have ended or somebody
    /// interrupts: then they are stopped.
    async fn attached(&self, crew: &Crew<'_>) -> Outcome {
        let (client, board) = (crew.client, crew.board);
        let of_services = mine(crew, found::of_project(client, &crew.project.name).await?);
        let quiet = |one: &Found| crew.project.services[&one.service].value["attach"] == false;
        let shown: Vec<Found> = of_services
            .iter()
            .filter(|one| !quiet(one))
            .cloned()
            .collect();
        let follower = logs::Follower::new(client, &self.lines, &shown);
        let abort = self.abort_on_container_exit || self.exit_code_from.is_some();
        let showing = follower.follow_started(follower.look().await?, abort);
        let both = async { tokio::try_join!(crew.start(), showing).map(|((), ended)| ended) };
        let ended = tokio::select! {
            ended = both => Some(ended?),
            () = logs::interrupted() => None,
        };
        let mut code = 0;
        if ended.is_none() || abort {
            board.leave();
            if ended.is_none() {
                note("\nStopping… (once more: at once)");
            }
            self.stop(crew).await?;
            if ended.is_none() {
                return Ok(130);
            }
        }
        if let Some(Some((service, ended))) = ended {
            code = ended;
            if let Some(wanted) = &self.exit_code_from
                && *wanted != service
            {
                code = self.code_of(crew, wanted).await?;
            }
        }
        Ok(u8::try_from(code & 0xff).unwrap_or(1))
    }

    async fn code_of(&self, crew: &Crew<'_>, service: &str) -> Result<i64> {
        let Some(one) = crew.of(service).into_iter().next() else {
            return Ok(0);
        };
        let found = crew
            .client
            .get(format!("/containers/{}/json", one.id))
            .await?;
        Ok(found["State"]["ExitCode"].as_i64().unwrap_or(0))
    }
}

/// Those of the services that were asked for.
fn mine(crew: &Crew<'_>, all: Vec<Found>) -> Vec<Found> {
    let services = &crew.project.services;
    all.into_iter()
        .filter(|one| !one.one_off && services.contains_key(&one.service))
        .collect()
}

/// Whoever has ended meanwhile is as good as killed.
async fn kill(client: &Client, board: &Board, all: &[Found]) {
    for one in all.iter().filter(|one| one.is_running()) {
        let kill = client.tell(Call::post(format!("/containers/{}/kill", one.id)));
        if kill.await.is_ok() {
            board.done(&format!("Container {}", one.name), "Killed");
        }
    }
}
