//! `RUN`.

use std::path::{Path, PathBuf};

use berth_lifecycle::request::{ImageMount, MountRequest};
use tokio::sync::{OwnedMutexGuard, mpsc};

use crate::dockerfile::{Command, Mount, MountKind, Owned, Run, RunNetwork, RunSecurity, Sharing};
use crate::emulation;
use crate::error::{Error, Result, blocking};
use crate::ignore::clean;
use crate::lent::{self, AgentCall, Listening, Private, Secret};
use crate::plan::{Origin, PROXIES};
use crate::sandbox;
use crate::steps::Steps;
use crate::tree::Hash;

/// Where secrets are that become variables.
const VARIABLES: &str = "/run/berth-build-variables";
/// Where the script of a here-document is seen.
const SCRIPT: &str = "/run/berth-build-script";

/// What a command's mounts take as long as it runs.
#[derive(Default)]
struct Mounts {
    requests: Vec<MountRequest>,
    /// Caches that nobody else may have.
    locks: Vec<OwnedMutexGuard<()>>,
    /// A directory of this command's own.
    directory: Option<PathBuf>,
    /// Variables that nothing but the command sees.
    env: Vec<(String, String)>,
    /// What the shell does first: it takes secret variables from files.
    first: String,
    /// Sockets of agents, and where they and secrets are.
    agents: Vec<Listening>,
    private: Option<Private>,
}

impl Steps<'_> {
    pub(crate) async fn run(&mut self, run: &Run) -> Result<()> {
        if run.security == RunSecurity::Insecure {
            return Err(Error::invalid(
                "RUN --security=insecure is not granted: a build has no more rights than its \
                 containers",
            ));
        }
        if self.state.image.is_none() {
            return Err(Error::invalid(
                "there is nothing to run in scratch: COPY a program into it first",
            ));
        }
        let (words, script) = self.command(run)?;
        let arguments = self.visible_arguments();
        let shown: Vec<String> = arguments.iter().map(|(a, b)| format!("{a}={b}")).collect();
        let mut by = "RUN ".to_owned();
        if !shown.is_empty() {
            by += &format!("|{} {} ", shown.len(), shown.join(" "));
        }
        by += &words.join(" ");
        let mut fields: Vec<&str> = vec![&by];
        let described = self.described(&run.mounts).await?;
        let network = self.network(run.network);
        fields.extend([described.as_str(), network.as_str()]);
        fields.extend(script.as_deref());
        fields.extend(words.iter().map(String::as_str));
        let key = self.key("run", &fields);
        if self.cached(&key).await? || self.carried(&key, &by).await? {
            return Ok(());
        }
        self.check_platform()?;
        // Names of users are looked up by what the image's own config says.
        if !sandbox::is_number(self.state.config.user()) {
            self.store().await?;
        }
        let mut mounts = self.mounts(&run.mounts).await?;
        let words = first_of_all(words, &mounts.first, run, script.is_some())?;
        let archive = match self.add_script(&mut mounts, script).await {
            Ok(()) => self.in_sandbox(words, arguments, &mounts, network).await,
            Err(error) => Err(error),
        };
        if let Some(directory) = &mounts.directory {
            let _ = tokio::fs::remove_dir_all(directory).await;
        }
        drop(mounts);
        self.put_layer(key, &by, archive?).await
    }

    /// Once more: what a base had waiting was not known when the build began.
    fn check_platform(&self) -> Result<()> {
        let machine = self.job.core.images.platform();
        let stage = self.job.plan.stages.get(&self.stage);
        let checked = stage.map(|stage| emulation::check(machine, &stage.platform));
        checked.unwrap_or(Ok(())).map_err(Error::invalid)
    }

    async fn in_sandbox(
        &self,
        words: Vec<String>,
        arguments: Vec<(String, String)>,
        mounts: &Mounts,
        network: String,
    ) -> Result<std::fs::File> {
        let core = &self.job.core;
        let config = &self.state.config;
        let proxies = PROXIES.iter().filter_map(|name| {
            let value = self.job.request.arguments.get(*name)?;
            Some(((*name).to_owned(), value.clone()))
        });
        let mut env: Vec<(String, String)> = arguments.into_iter().chain(proxies).collect();
        let own = config.env();
        let own = own.iter().filter_map(|entry| entry.split_once('='));
        env.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        env.extend(mounts.env.iter().cloned());
        let mut limits = self.job.request.limits.clone();
        limits.network = network;
        let command = sandbox::Command {
            words,
            env,
            working_dir: config.working_dir().to_owned(),
            user: config.user().to_owned(),
            mounts: mounts.requests.clone(),
            limits,
        };
        let sandbox = sandbox::Sandbox {
            runtime: &core.runtime,
            images: &core.images,
            networks: &core.networks,
            root: &core.root,
            cancel: &self.job.cancel,
            epoch: self.job.epoch,
        };
        let Some(image) = &self.state.image else {
            return Err(Error::invalid("there is nothing to run in"));
        };
        sandbox.run(image, command, &self.log).await
    }

    fn network(&self, own: RunNetwork) -> String {
        match own {
            RunNetwork::Default => self.job.request.limits.network.clone(),
            RunNetwork::None => "none".to_owned(),
            RunNetwork::Host => "host".to_owned(),
        }
    }

    /// The program and its arguments, and a script that is to be a file.
    fn command(&self, run: &Run) -> Result<(Vec<String>, Option<String>)> {
        let config = &self.state.config;
        let Command::Shell(text) = &run.command else {
            return Ok((config.command(&run.command), None));
        };
        let Some(first) = run.documents.first() else {
            return Ok((config.command(&run.command), None));
        };
        // The shell expands what is meant for it: only what stands alone is taken out.
        let alone = text.trim().starts_with("<<") && text.split_whitespace().count() == 1;
        if alone && first.content.starts_with("#!") {
            return Ok((vec![SCRIPT.to_owned()], Some(first.content.clone())));
        }
        let text = match alone {
            true => first.content.clone(),
            false => {
                let mut whole = format!("{text}\n");
                for document in &run.documents {
                    whole += &format!("{}{}\n", document.content, document.name);
                }
                whole
            }
        };
        Ok((config.command(&Command::Shell(text)), None))
    }

    async fn add_script(&self, mounts: &mut Mounts, script: Option<String>) -> Result<()> {
        let Some(script) = script else {
            return Ok(());
        };
        let directory = self.own_directory(mounts).await?;
        let path = directory.join("script");
        let written = blocking("writing a script", move || {
            use std::os::unix::fs::PermissionsExt;
            let failed = |source| Error::file("write", &path)(source);
            std::fs::write(&path, script).map_err(failed)?;
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&path, mode).map_err(Error::file("write", &path))?;
            Ok(path)
        });
        let path = written.await?;
        mounts.requests.push(MountRequest {
            container_path: SCRIPT.to_owned(),
            host_path: path.display().to_string(),
            readonly: true,
            ..MountRequest::default()
        });
        Ok(())
    }

    async fn own_directory(&self, mounts: &mut Mounts) -> Result<PathBuf> {
        if let Some(directory) = &mounts.directory {
            return Ok(directory.clone());
        }
        let name = format!("mounts-{:016x}", fastrand::u64(..));
        let directory = self.job.core.root.join("run").join(name);
        let made = tokio::fs::create_dir_all(&directory).await;
        made.map_err(Error::file("create", &directory))?;
        mounts.directory = Some(directory.clone());
        Ok(directory)
    }

    /// What the outcome depends on of mounts: not what a cache has in it.
    async fn described(&self, mounts: &[Mount]) -> Result<String> {
        let mut text = String::new();
        for mount in mounts {
            text += &format!("{mount:?};");
            let MountKind::Bind { from, source } = &mount.kind else {
                continue;
            };
            match from {
                Some(from) => text += self.job.origin_key(from, self.stage).await?.as_str(),
                None => {
                    let path = clean(&self.word(source)?);
                    let context = std::sync::Arc::clone(&self.job.context);
                    let digest = blocking("hashing a mount", move || {
                        crate::tree::digest(&*context, &[path])
                    });
                    text += digest.await?.as_str();
                }
            }
        }
        Ok(text)
    }

    async fn mounts(&self, wanted: &[Mount]) -> Result<Mounts> {
        let mut mounts = Mounts::default();
        for mount in wanted {
            let target = self.word(&mount.target)?;
            let target = match target.as_str() {
                "" => String::new(),
                path => format!("/{}", clean(&self.state.config.absolute(path))),
            };
            if target == "/" {
                return Err(Error::invalid("a mount cannot be at /"));
            }
            if let Some(request) = self.mount(mount, target, &mut mounts).await? {
                mounts.requests.push(request);
            }
        }
        Ok(mounts)
    }

    async fn mount(
        &self,
        mount: &Mount,
        target: String,
        mounts: &mut Mounts,
    ) -> Result<Option<MountRequest>> {
        match &mount.kind {
            MountKind::Bind { from, source } => {
                let source = self.word(source)?;
                self.bind(mount, target, from.as_deref(), &source, mounts)
                    .await
                    .map(Some)
            }
            MountKind::Cache {
                id,
                from,
                sharing,
                owned,
                ..
            } => {
                if from.is_some() {
                    return Err(Error::invalid(
                        "a cache that begins with another stage's files is not supported: copy \
                         them in the RUN",
                    ));
                }
                let id = match self.word(id)? {
                    id if id.is_empty() => target.clone(),
                    id => id,
                };
                if *sharing != Sharing::Shared {
                    mounts.locks.push(self.job.core.lock(&id).await);
                }
                let path = self.job.core.cache_directory(&id);
                let (made, owned) = (path.clone(), *owned);
                blocking("making a cache", move || make_cache(&made, owned)).await?;
                Ok(Some(MountRequest {
                    container_path: target,
                    host_path: path.display().to_string(),
                    readonly: mount.read_only,
                    ..MountRequest::default()
                }))
            }
            MountKind::Tmpfs { size } => {
                let mut options = vec!["mode=1777".to_owned()];
                options.extend(size.map(|size| format!("size={size}")));
                Ok(Some(MountRequest {
                    container_path: target,
                    tmpfs: Some(options),
                    ..MountRequest::default()
                }))
            }
            MountKind::Secret {
                id,
                env,
                required,
                owned,
            } => {
                let Some(secret) = self.job.request.lent.secrets.get(id) else {
                    return absent(
                        *required,
                        format!(
                            "secret {id}: not found: berth build --secret id={id},src=FILE sends it"
                        ),
                    );
                };
                let secret = secret.clone();
                self.secret(id, &secret, env.as_deref(), (target, *owned), mounts)
            }
            MountKind::Ssh {
                id,
                required,
                owned,
            } => {
                let lent = &self.job.request.lent;
                match lent.calls.clone().filter(|_| lent.agents.contains(id)) {
                    Some(calls) => self.agent(id, calls, (target, *owned), mounts).map(Some),
                    None => absent(
                        *required,
                        format!("ssh agent {id}: not found: berth build --ssh {id} forwards it"),
                    ),
                }
            }
        }
    }

    fn private<'m>(&self, mounts: &'m mut Mounts) -> Result<&'m Private> {
        let private = match mounts.private.take() {
            Some(private) => private,
            None => Private::make(&self.job.core.private)?,
        };
        Ok(mounts.private.insert(private))
    }

    /// As a variable, as a file, or both.
    fn secret(
        &self,
        id: &str,
        secret: &Secret,
        env: Option<&str>,
        (target, owned): (String, Owned),
        mounts: &mut Mounts,
    ) -> Result<Option<MountRequest>> {
        if let Some(name) = env {
            // The environment of a container is written down with it: a secret is not.
            if !is_variable(name) {
                return Err(Error::invalid(format!("{name:?} is no variable's name")));
            }
            let readable = Owned {
                mode: 0o444,
                ..owned
            };
            let file = format!("env.{}", mounts.requests.len());
            let path = self.private(mounts)?.keep(&file, secret, readable)?;
            let inside = format!("{VARIABLES}/{name}");
            mounts.first += &format!("{name}=\"$(cat {inside})\" && export {name} || exit; ");
            mounts.requests.push(MountRequest {
                container_path: inside,
                host_path: path.display().to_string(),
                readonly: true,
                ..MountRequest::default()
            });
            if target.is_empty() {
                return Ok(None);
            }
        }
        let target = match target.as_str() {
            "" => format!("/run/secrets/{}", id.rsplit('/').next().unwrap_or(id)),
            _ => target,
        };
        let name = mounts.requests.len().to_string();
        let path = self.private(mounts)?.keep(&name, secret, owned)?;
        Ok(Some(MountRequest {
            container_path: target,
            host_path: path.display().to_string(),
            readonly: true,
            ..MountRequest::default()
        }))
    }

    fn agent(
        &self,
        id: &str,
        calls: mpsc::Sender<AgentCall>,
        (target, owned): (String, Owned),
        mounts: &mut Mounts,
    ) -> Result<MountRequest> {
        let number = mounts.agents.len();
        let target = match target.as_str() {
            "" => format!("/run/buildkit/ssh_agent.{number}"),
            _ => target,
        };
        let name = format!("agent.{number}");
        let private = self.private(mounts)?;
        let (path, listening) = private.agent(&name, owned, id.to_owned(), calls)?;
        mounts.agents.push(listening);
        if number == 0 {
            mounts
                .env
                .push(("SSH_AUTH_SOCK".to_owned(), target.clone()));
        }
        Ok(MountRequest {
            container_path: target,
            host_path: path.display().to_string(),
            readonly: true,
            ..MountRequest::default()
        })
    }

    async fn bind(
        &self,
        mount: &Mount,
        target: String,
        from: Option<&str>,
        source: &str,
        mounts: &mut Mounts,
    ) -> Result<MountRequest> {
        let path = clean(source);
        let Some(from) = from else {
            let directory = self.own_directory(mounts).await?;
            let into = directory.join(format!("context-{}", mounts.requests.len()));
            let context = std::sync::Arc::clone(&self.job.context);
            let (made, shown) = (into.clone(), source.to_owned());
            let is_there = blocking("unpacking the context", move || {
                crate::extract::extract(&*context, &path, &made)
            });
            if !is_there.await? {
                let what = format!("mount from {shown:?}: it is not in the build's context");
                return Err(Error::invalid(what));
            }
            return Ok(MountRequest {
                container_path: target,
                host_path: into.display().to_string(),
                readonly: mount.read_only,
                ..MountRequest::default()
            });
        };
        if !mount.read_only {
            return Err(Error::invalid(
                "a writable mount of another stage is not supported: copy what is to be changed",
            ));
        }
        let image = match self.job.origin(from, self.stage) {
            Origin::Stage(stage) => self.job.stored(stage).await?,
            Origin::Image(name) => self.job.image_from(&name).await?.id.clone(),
        };
        Ok(MountRequest {
            container_path: target,
            readonly: true,
            image: Some(ImageMount {
                image: image.to_string(),
                user_specified_image: from.to_owned(),
                sub_path: path,
                ..ImageMount::default()
            }),
            ..MountRequest::default()
        })
    }
}

/// The command, with what its shell does before it.
fn first_of_all(
    mut words: Vec<String>,
    first: &str,
    run: &Run,
    is_script: bool,
) -> Result<Vec<String>> {
    if first.is_empty() {
        return Ok(words);
    }
    let is_shell = matches!(run.command, Command::Shell(_)) && !is_script;
    match words.last_mut().filter(|_| is_shell) {
        Some(text) => {
            text.insert_str(0, first);
            Ok(words)
        }
        None => Err(Error::invalid(
            "a secret as a variable is for a command in the shell's form: take it as a file",
        )),
    }
}

fn is_variable(name: &str) -> bool {
    let begins = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    begins
        && name
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

/// What was not lent is an error only where the command cannot do without.
fn absent(required: bool, problem: String) -> Result<Option<MountRequest>> {
    match required {
        true => Err(Error::invalid(problem)),
        false => Ok(None),
    }
}

fn make_cache(path: &Path, owned: Owned) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(Error::file("create", path))?;
    lent::own(path, owned)
}

/// A cache's directory: whatever its id is, it is one name.
pub(crate) fn cache_name(id: &str) -> String {
    let mut hash = Hash::default();
    hash.field(id.as_bytes());
    hash.finish().hex().to_owned()
}
