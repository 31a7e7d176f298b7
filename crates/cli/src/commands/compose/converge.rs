//! Containers of services brought to what the files say: made, made anew, taken away, started.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use berth_compose::{Condition, Dependency, Project, Service};
use futures::future::{join_all, try_join_all};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::board::Board;
use super::body::{self, Individual};
use super::found::{self, Found};
use super::{files, labels, lifecycle, references};
use crate::daemon::{Call, Client};
use crate::error::{Error, Result};

const POLL: Duration = Duration::from_millis(150);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recreate {
    #[default]
    Changed,
    Always,
    Never,
}

/// Everything that making and starting needs.
pub struct Crew<'a> {
    pub client: &'a Client,
    pub project: &'a Project,
    pub board: &'a Board,
    pub images: BTreeMap<String, String>,
    pub recreate: Recreate,
    /// Services to which `recreate` applies; others only where they changed.
    pub named: BTreeSet<String>,
    /// Volumes without a name stay with the service.
    pub keep_anonymous: bool,
    pub timeout: Option<i64>,
    /// Containers as they are, by service.
    pub containers: RefCell<BTreeMap<String, Vec<Found>>>,
}

impl Crew<'_> {
    /// Makes what is not there, in the order of dependencies: who joins another's namespace has to
    /// know its id. Independent services are made at the same time.
    pub async fn create(&self) -> Result<()> {
        self.look().await?;
        self.in_order(async |service, _| self.create_service(service).await)
            .await
    }

    /// Starts what does not run, each when what it waits for is as far as was asked.
    pub async fn start(&self) -> Result<()> {
        self.look().await?;
        self.in_order(async |service, dependencies| {
            for on in &dependencies {
                self.wait_for(&service.name, on).await?;
            }
            let all = self.of(&service.name);
            let starting = all.iter().filter(|one| !one.is_running());
            try_join_all(starting.map(|one| self.start_one(service, one))).await?;
            Ok(())
        })
        .await
    }

    async fn look(&self) -> Result<()> {
        let mut by_service: BTreeMap<String, Vec<Found>> = BTreeMap::new();
        for one in found::of_project(self.client, &self.project.name).await? {
            if !one.one_off {
                by_service.entry(one.service.clone()).or_default().push(one);
            }
        }
        *self.containers.borrow_mut() = by_service;
        Ok(())
    }

    pub fn of(&self, service: &str) -> Vec<Found> {
        self.containers
            .borrow()
            .get(service)
            .cloned()
            .unwrap_or_default()
    }

    /// Each service as soon as those that it waits for are done. The first failure is told; what
    /// waits for the failed one is left.
    async fn in_order(
        &self,
        act: impl AsyncFn(&Service, Vec<Dependency>) -> Result<()>,
    ) -> Result<()> {
        let done: BTreeMap<&String, watch::Sender<Option<bool>>> = self
            .project
            .services
            .keys()
            .map(|name| (name, watch::Sender::new(None)))
            .collect();
        let act = &act;
        let done = &done;
        let all = self
            .project
            .services
            .iter()
            .map(|(name, service)| async move {
                let dependencies: Vec<Dependency> = service
                    .dependencies()
                    .into_iter()
                    .filter(|on| done.contains_key(&on.service))
                    .collect();
                for on in &dependencies {
                    let mut seen = done[&on.service].subscribe();
                    let outcome = seen.wait_for(Option::is_some).await;
                    if outcome.map_or(true, |outcome| *outcome == Some(false)) && on.required {
                        done[name].send_replace(Some(false));
                        return Ok(());
                    }
                }
                let outcome = act(service, dependencies).await;
                done[name].send_replace(Some(outcome.is_ok()));
                outcome
            });
        join_all(all).await.into_iter().collect()
    }

    async fn create_service(&self, service: &Service) -> Result<()> {
        let service =
            &references::resolved(service, &self.project.name, &self.containers.borrow())?;
        let hash = service.hash();
        let mut all = self.of(&service.name);
        // What is as it should be stays first, and of those the lowest numbers.
        all.sort_by_key(|one| (self.is_outdated(service, one, &hash), one.number));
        let wanted = service.scale();
        let surplus = all.split_off(wanted.min(all.len()));
        let removing = surplus.iter().map(|one| self.remove(one));
        let replacing = all
            .iter()
            .filter(|one| self.is_outdated(service, one, &hash));
        let replacing: Vec<&Found> = replacing.collect();
        if !replacing.is_empty() {
            self.stop_dependents(&service.name).await?;
        }
        let last = all.iter().chain(&surplus).map(|one| one.number).max();
        let first = last.unwrap_or(0) + 1;
        let numbers = first..first + wanted.saturating_sub(all.len());
        try_join_all(removing).await?;
        let replaced = replacing.into_iter().map(|one| self.replace(service, one));
        try_join_all(replaced).await?;
        let made = numbers.map(|number| self.make(service, number));
        try_join_all(made).await?;
        let now = found::of_project(self.client, &self.project.name).await?;
        let now = now
            .into_iter()
            .filter(|one| one.service == service.name && !one.one_off);
        self.containers
            .borrow_mut()
            .insert(service.name.clone(), now.collect());
        Ok(())
    }

    fn is_outdated(&self, service: &Service, one: &Found, hash: &str) -> bool {
        let policy = match self.named.contains(&service.name) {
            true => self.recreate,
            false => Recreate::Changed,
        };
        match (self.recreate, policy) {
            (Recreate::Never, _) => return false,
            (_, Recreate::Always) => return true,
            _ => {}
        }
        let image = self.images.get(&service.name).map_or("", String::as_str);
        if one.label(labels::HASH) != hash || one.label(labels::IMAGE) != image {
            return true;
        }
        // Somebody took it off its network, or the network is another one by now.
        let on = &one.value["NetworkSettings"]["Networks"];
        let lost = |key: &String| on[self.project.networks[key].name()].is_null();
        one.is_running() && service.networks().iter().any(lost)
    }

    /// Those that said `restart: true` of it: they are started again with the rest.
    async fn stop_dependents(&self, name: &str) -> Result<()> {
        let waits = |service: &&Service| {
            let on = service.dependencies();
            on.iter().any(|on| on.service == name && on.restart)
        };
        for service in self.project.services.values().filter(waits) {
            let running = self.of(&service.name);
            let running: Vec<Found> = running.into_iter().filter(Found::is_running).collect();
            lifecycle::stop(self.client, self.board, &running, self.timeout).await?;
        }
        Ok(())
    }

    async fn remove(&self, one: &Found) -> Result<()> {
        lifecycle::stop(
            self.client,
            self.board,
            std::slice::from_ref(one),
            self.timeout,
        )
        .await?;
        lifecycle::remove(self.client, self.board, one, false).await
    }

    fn name(&self, service: &Service, number: usize) -> String {
        match service.text("container_name") {
            "" => format!("{}-{}-{number}", self.project.name, service.name),
            name => name.to_owned(),
        }
    }

    async fn make(&self, service: &Service, number: usize) -> Result<()> {
        let name = self.name(service, number);
        let make = self.post(service, &name, &name, number, None);
        self.board
            .during(&format!("Container {name}"), ("Creating", "Created"), make)
            .await
            .map(drop)
    }

    /// Another in its place: made beside it, so that a failure leaves the old one as it is.
    async fn replace(&self, service: &Service, old: &Found) -> Result<()> {
        let name = self.name(service, old.number);
        let what = format!("Container {}", old.name);
        let replace = async {
            let short = old.id.get(..12).unwrap_or(&old.id);
            let beside = format!("{short}_{name}");
            self.post(service, &beside, &name, old.number, Some(old))
                .await?;
            let path = format!("/containers/{}/stop", old.id);
            let stop = Call::post(path).given("t", seconds(self.timeout));
            self.client.tell(stop).await?;
            self.client
                .tell(Call::delete(format!("/containers/{}", old.id)))
                .await?;
            let rename = Call::post(format!("/containers/{beside}/rename"));
            self.client.tell(rename.query("name", &name)).await
        };
        self.board
            .during(&what, ("Recreate", "Recreated"), replace)
            .await
    }

    async fn post(
        &self,
        service: &Service,
        name: &str,
        lasting: &str,
        number: usize,
        old: Option<&Found>,
    ) -> Result<String> {
        let image = self.images.get(&service.name).map_or("", String::as_str);
        let mut labels = labels::of_container(self.project, service, image, Some(number));
        if old.is_some() {
            let replaced = format!("{}-{number}", service.name);
            labels.insert(labels::REPLACE.to_owned(), Value::from(replaced));
        }
        let own = Individual {
            name: lasting.to_owned(),
            labels,
            inherited: match old {
                Some(old) if self.keep_anonymous => self.anonymous(service, old).await?,
                _ => BTreeMap::new(),
            },
            links: references::links(service, &self.containers.borrow()),
            with_aliases: true,
            ..Individual::default()
        };
        make(self.client, self.project, service, name, &own).await
    }

    /// Volumes of the old container that nobody named.
    async fn anonymous(&self, service: &Service, old: &Found) -> Result<BTreeMap<String, String>> {
        let image = format!("/images/{}/json", self.images[&service.name]);
        let image = self.client.get(image).await?;
        let declared = &image["Config"]["Volumes"];
        let mounts = service.value["volumes"].as_array().into_iter().flatten();
        let mounts: Vec<&Value> = mounts.collect();
        let mut kept = BTreeMap::new();
        for volume in old.value["Mounts"].as_array().into_iter().flatten() {
            let (Some(target), Some(name)) =
                (volume["Destination"].as_str(), volume["Name"].as_str())
            else {
                continue;
            };
            let mount = mounts.iter().find(|mount| mount["target"] == target);
            let is_anonymous = match mount {
                Some(mount) => mount["type"] == "volume" && mount["source"].is_null(),
                None => !declared[target].is_null(),
            };
            if volume["Type"] == "volume" && is_anonymous {
                kept.insert(target.to_owned(), name.to_owned());
            }
        }
        Ok(kept)
    }

    async fn start_one(&self, service: &Service, one: &Found) -> Result<()> {
        let start = async {
            files::inject(self.client, self.project, service, &one.id).await?;
            let path = match one.state.as_str() {
                "paused" => format!("/containers/{}/unpause", one.id),
                _ => format!("/containers/{}/start", one.id),
            };
            self.client.tell(Call::post(path)).await?;
            hooks(self.client, service, "post_start", &one.id).await
        };
        let what = format!("Container {}", one.name);
        self.board
            .during(&what, ("Starting", "Started"), start)
            .await
    }

    pub async fn wait_for(&self, waiting: &str, on: &Dependency) -> Result<()> {
        let wanted = match on.condition {
            Condition::Started => return Ok(()),
            wanted => wanted,
        };
        let all = self.of(&on.service);
        let waits = all.iter().map(|one| async move {
            let what = format!("Container {}", one.name);
            self.board.working(&what, "Waiting");
            let outcome = reach(self.client, &one.id, wanted).await;
            match &outcome {
                Ok(()) if wanted == Condition::Healthy => self.board.done(&what, "Healthy"),
                Ok(()) => self.board.done(&what, "Exited"),
                Err(error) => self.board.failed(&what, error),
            }
            outcome
        });
        let outcome: Result<Vec<()>> = try_join_all(waits).await;
        match outcome {
            Err(_) if !on.required => Ok(()),
            Err(error) => Err(Error::Failed(format!(
                "{waiting} waits for {}, which failed: {}",
                on.service,
                error.report()
            ))),
            Ok(_) => Ok(()),
        }
    }
}

pub fn seconds(timeout: Option<i64>) -> String {
    timeout
        .map(|seconds| seconds.to_string())
        .unwrap_or_default()
}

/// Makes one container.
pub async fn make(
    client: &Client,
    project: &Project,
    service: &Service,
    name: &str,
    own: &Individual,
) -> Result<String> {
    let body = body::body(project, service, own)?;
    let call = Call::post("/containers/create")
        .query("name", name)
        .given("platform", service.text("platform"));
    let created: Value = client.ask(call.json(&body)).await?;
    for warning in created["Warnings"].as_array().into_iter().flatten() {
        let warning = warning.as_str().unwrap_or_default();
        crate::output::note(&format!("berth: {name}: {warning}"));
    }
    Ok(created["Id"].as_str().unwrap_or_default().to_owned())
}

/// Commands that run in a container by what happens to it.
pub async fn hooks(client: &Client, service: &Service, when: &str, id: &str) -> Result<()> {
    for hook in service.value[when].as_array().into_iter().flatten() {
        let code = hook_in(client, id, hook).await?;
        if code != 0 {
            return Err(Error::Failed(format!(
                "{when} of {} ended with {code}",
                service.name
            )));
        }
    }
    Ok(())
}

/// One command, as the files write hooks: what it ended with.
pub async fn hook_in(client: &Client, id: &str, hook: &Value) -> Result<i64> {
    let environment = hook["environment"].as_object().into_iter().flatten();
    let environment = environment
        .filter_map(|(name, value)| value.as_str().map(|value| format!("{name}={value}")));
    let body = json!({
        "Cmd": hook["command"],
        "User": hook["user"].as_str().unwrap_or_default(),
        "WorkingDir": hook["working_dir"].as_str().unwrap_or_default(),
        "Privileged": hook["privileged"] == true,
        "Env": environment.collect::<Vec<_>>(),
        "AttachStdout": true,
        "AttachStderr": true,
    });
    let call = Call::post(format!("/containers/{id}/exec"));
    let created: Value = client.ask(call.json(&body)).await?;
    let exec = created["Id"].as_str().unwrap_or_default();
    let start = Call::post(format!("/exec/{exec}/start")).json(&json!({"Detach": true}));
    client.tell(start).await?;
    loop {
        let state = client.get(format!("/exec/{exec}/json")).await?;
        match state["ExitCode"].as_i64() {
            _ if state["Running"] == true => tokio::time::sleep(POLL).await,
            code => return Ok(code.unwrap_or(0)),
        }
    }
}

/// Until a container is as far as that, or cannot be any more.
pub async fn reach(client: &Client, id: &str, wanted: Condition) -> Result<()> {
    loop {
        let found = client.get(format!("/containers/{id}/json")).await?;
        let state = &found["State"];
        let name = found["Name"]
            .as_str()
            .unwrap_or_default()
            .trim_start_matches('/');
        let code = state["ExitCode"].as_i64().unwrap_or(0);
        let has_ended = matches!(state["Status"].as_str(), Some("exited" | "dead"));
        let health = state["Health"]["Status"].as_str().unwrap_or("none");
        match wanted {
            Condition::Completed if has_ended && code == 0 => return Ok(()),
            _ if has_ended => {
                return Err(Error::Failed(format!(
                    "{name} ended with {code}; `berth logs {name}` shows what it said"
                )));
            }
            Condition::Started if state["Running"] == true => return Ok(()),
            Condition::Healthy => match health {
                "healthy" => return Ok(()),
                "unhealthy" => {
                    return Err(Error::Failed(format!(
                        "{name} is unhealthy; `berth inspect {name}` shows what its check said"
                    )));
                }
                "none" => {
                    return Err(Error::Failed(format!(
                        "{name} has no health check; give its service one, or wait for \
                         service_started"
                    )));
                }
                _ => {}
            },
            _ => {}
        }
        tokio::time::sleep(POLL).await;
    }
}
