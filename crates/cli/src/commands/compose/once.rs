//! `compose exec` and `compose run`.

use std::cell::RefCell;
use std::collections::BTreeMap;

use berth_compose::node::{Kind, Node};
use berth_compose::{Project, Service};
use clap::Args;
use serde_json::Value;

use super::board::Board;
use super::body::Individual;
use super::converge::{Crew, Recreate, make};
use super::found;
use super::images::{self, Wanted};
use super::{Files, files as contents, labels, one, parts, references};
use crate::commands::{Outcome, exec, run};
use crate::daemon::{Call, Client};
use crate::error::{Error, Result};
use crate::output::print_line;
use crate::terminal::{is_terminal_input, is_terminal_output};

#[derive(Debug, Args)]
pub struct Exec {
    /// Run it in the background
    #[arg(short, long)]
    detach: bool,
    /// NAME=value, or NAME for this shell's value
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// Which of the service's containers, by number
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 0,
        hide_default_value = true
    )]
    index: usize,
    /// No terminal; without one here there is none anyhow
    #[arg(short = 'T', long)]
    no_tty: bool,
    /// user[:group], by name or number
    #[arg(short, long)]
    user: Option<String>,
    /// Directory in which it starts
    #[arg(short, long, value_name = "DIRECTORY")]
    workdir: Option<String>,
    /// Everything that the host may do
    #[arg(long)]
    privileged: bool,
    /// Service, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_names = ["SERVICE", "COMMAND"], num_args = 2..)]
    words: Vec<String>,
}

impl Exec {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let mut words = self.words;
        let container = one(client, files, &words[0], self.index).await?;
        words[0] = container.id;
        let tty = !self.no_tty && !self.detach && is_terminal_input() && is_terminal_output();
        let exec = exec::Exec {
            detach: self.detach,
            interactive: !self.detach,
            tty,
            env: self.env,
            env_file: Vec::new(),
            user: self.user,
            workdir: self.workdir,
            privileged: self.privileged,
            detach_keys: String::new(),
            words,
        };
        exec.run(client).await
    }
}

#[derive(Debug, Args)]
pub struct Run {
    /// Run it in the background, and show the container's name
    #[arg(short, long)]
    detach: bool,
    /// Remove the container when it ends
    #[arg(long)]
    rm: bool,
    /// The container's name
    #[arg(long)]
    name: Option<String>,
    /// NAME=value, or NAME for this shell's value
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// name=value
    #[arg(short, long, value_name = "LABEL")]
    label: Vec<String>,
    /// Program that is run in place of the image's
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// No terminal; without one here there is none anyhow
    #[arg(short = 'T', long)]
    no_tty: bool,
    /// Let nothing that is typed in
    #[arg(long)]
    no_stdin: bool,
    /// Do not start what the service waits for
    #[arg(long)]
    no_deps: bool,
    /// Publish these ports: 8080:80
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<String>,
    /// Publish the service's ports
    #[arg(short = 'P', long)]
    service_ports: bool,
    /// Answer to the service's name on its networks
    #[arg(long)]
    use_aliases: bool,
    /// user[:group], by name or number
    #[arg(short, long)]
    user: Option<String>,
    /// source:target
    #[arg(short, long, value_name = "VOLUME")]
    volume: Vec<String>,
    /// Directory in which it starts
    #[arg(short, long, value_name = "DIRECTORY")]
    workdir: Option<String>,
    /// Build the image first
    #[arg(long)]
    build: bool,
    /// Service, then the command in place of its own
    #[arg(required = true, trailing_var_arg = true, value_names = ["SERVICE", "COMMAND"], num_args = 1..)]
    words: Vec<String>,
}

impl Run {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let (name, command) = self
            .words
            .split_first()
            .ok_or_else(|| Error::usage("a service is missing"))?;
        let whole = files.project()?;
        let project = whole.select(std::slice::from_ref(name), true)?;
        let board = Board::new();
        let own = self.changed(project.service(name)?, command)?;
        let containers = self.dependencies(client, &whole, &own, &board).await?;
        let only = {
            let mut only = whole.select(std::slice::from_ref(name), false)?;
            only.services.insert(name.clone(), own.clone());
            only
        };
        parts::ensure(client, &only, &board).await?;
        let wanted = Wanted {
            build: self.build,
            ..Wanted::default()
        };
        let images = images::ensure(client, &only, &wanted).await?;
        let own = references::resolved(&own, &project.name, &containers)?;
        let image = images.get(name).map_or("", String::as_str);
        let slug = format!("{:08x}", fresh());
        let container = match &self.name {
            Some(name) => name.clone(),
            None => format!("{}-{name}-run-{slug}", project.name),
        };
        let mut labels = labels::of_container(&only, &own, image, None);
        labels.insert(labels::SLUG.to_owned(), Value::from(slug));
        for label in &self.label {
            let (name, value) = label.split_once('=').unwrap_or((label, ""));
            labels.insert(name.to_owned(), Value::from(value));
        }
        let stdin = !self.detach && !self.no_stdin;
        let individual = Individual {
            name: container.clone(),
            labels,
            links: references::links(&own, &containers),
            with_aliases: self.use_aliases,
            stdin,
            auto_remove: self.rm,
            ..Individual::default()
        };
        let id = make(client, &only, &own, &container, &individual).await?;
        contents::inject(client, &only, &own, &id).await?;
        board.leave();
        if self.detach {
            client
                .tell(Call::post(format!("/containers/{id}/start")))
                .await?;
            print_line(&container)?;
            return Ok(0);
        }
        let tty = own.value["tty"] == true;
        run::watch(client, &id, tty, stdin, self.rm).await
    }

    /// What the service waits for runs first.
    async fn dependencies(
        &self,
        client: &Client,
        whole: &Project,
        own: &Service,
        board: &Board,
    ) -> Result<BTreeMap<String, Vec<found::Found>>> {
        let on: Vec<String> = own
            .dependencies()
            .into_iter()
            .map(|on| on.service)
            .collect();
        if self.no_deps || on.is_empty() {
            let mut by_service: BTreeMap<String, Vec<found::Found>> = BTreeMap::new();
            for one in found::of_project(client, &whole.name).await? {
                if !one.one_off {
                    by_service.entry(one.service.clone()).or_default().push(one);
                }
            }
            return Ok(by_service);
        }
        let project = whole.select(&on, true)?;
        parts::ensure(client, &project, board).await?;
        let crew = Crew {
            client,
            project: &project,
            board,
            images: images::ensure(client, &project, &Wanted::default()).await?,
            recreate: Recreate::Never,
            named: Default::default(),
            keep_anonymous: true,
            timeout: None,
            containers: RefCell::default(),
        };
        crew.create().await?;
        crew.start().await?;
        for dependency in own.dependencies() {
            crew.wait_for(&own.name, &dependency).await?;
        }
        Ok(crew.containers.into_inner())
    }

    /// The service as this one container wants it.
    fn changed(&self, service: &Service, command: &[String]) -> Result<Service> {
        let at = service.node.at.clone();
        let mut node = service.node.clone();
        let texts = |all: &[String]| {
            Kind::List(
                all.iter()
                    .map(|text| Node::text(&at, text.clone()))
                    .collect(),
            )
        };
        for field in ["container_name", "scale"] {
            node.take(field);
        }
        if !self.service_ports {
            node.take("ports");
        }
        let tty = !self.no_tty && !self.detach && is_terminal_input() && is_terminal_output();
        node.set("tty", Node::new(&at, Kind::Bool(tty)));
        node.set(
            "stdin_open",
            Node::new(&at, Kind::Bool(!self.detach && !self.no_stdin)),
        );
        node.take("restart");
        if let Some(program) = &self.entrypoint {
            let words = berth_compose::words::split(program).map_err(Error::Usage)?;
            node.set("entrypoint", Node::new(&at, texts(&words)));
            node.take("command");
        }
        if !command.is_empty() {
            node.set("command", Node::new(&at, texts(command)));
        }
        for (field, value) in [("user", &self.user), ("working_dir", &self.workdir)] {
            if let Some(value) = value {
                node.set(field, Node::text(&at, value.clone()));
            }
        }
        for (field, added) in [
            ("environment", crate::options::environment(&self.env, &[])?),
            ("ports", self.publish.clone()),
            ("volumes", self.volume.clone()),
        ] {
            if !added.is_empty() {
                let path = berth_compose::error::Path::of(field);
                let added = Node::new(&at, texts(&added));
                node = berth_compose::project::with_more(node, field, &added, &path)?;
            }
        }
        Ok(Service::new(&service.name, node))
    }
}

/// Enough to tell containers of one service apart.
fn fresh() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish() as u32
}
