//! `RUN`: a command in a container of ours, on a layer of its own.
//!
//! ```text
//! layer ─► pod ─► network ─► container ─► output … exit code ─► (all gone) ─► layer's archive
//! ```
//!
//! The pod is a Docker one that nobody wrote down: a kubelet is not shown it, and what a crash
//! leaves is swept with the strays of that door.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_images::Images;
use berth_lifecycle::request::{
    ContainerRequest, Dns, MountRequest, Namespaces, Owner, PodRequest, Resources, Rlimit, RunAs,
    Scope, Security,
};
use berth_lifecycle::{Pipes, Runtime, StdStreams, chain};
use berth_names::{ContainerId, Digest, SandboxId};
use berth_network::{EndpointRequest, Member, Networks};
use rustix::fs::{CWD, Mode, OFlags};
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result, blocking};
use crate::transcript::StageLog;

/// Bytes of output that are sent on at once.
const PIECE: usize = 32 << 10;
/// For how long they are gathered.
const MOMENT: Duration = Duration::from_millis(10);
/// Bytes of /dev/shm where nothing else is asked for.
const SHM: u64 = 64 << 20;

/// What every command of a build has.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// A network's name, `default`, `host` or `none`.
    pub network: String,
    pub resources: Resources,
    pub rlimits: Vec<Rlimit>,
    /// Bytes; zero for the usual.
    pub shm: u64,
    /// `name:address` each.
    pub extra_hosts: Vec<String>,
    pub cgroup_parent: String,
    /// Without an image's own: see `confined` of the standalone containers.
    pub security: Security,
}

/// One command.
#[derive(Debug, Default)]
pub struct Command {
    pub words: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: String,
    pub user: String,
    pub mounts: Vec<MountRequest>,
    pub limits: Limits,
}

/// Runs commands.
pub struct Sandbox<'a> {
    pub runtime: &'a Runtime,
    pub images: &'a Images,
    pub networks: &'a Networks,
    /// Files that last as long as a command.
    pub root: &'a Path,
    pub cancel: &'a CancellationToken,
    /// `SOURCE_DATE_EPOCH`.
    pub epoch: Option<u64>,
}

/// The directories that a layer is made of.
pub struct Stack {
    pub upper: Option<OwnedFd>,
    /// What is below as one; none where nothing is.
    pub lower: Option<OwnedFd>,
}

/// A layer that stands for as long as something is read from it, or run on it.
pub async fn stack(runtime: &Runtime, layer: &ContainerId) -> Result<Stack> {
    let mounts = runtime.layer_mounts(layer).await?;
    blocking("opening a layer", move || {
        let options = mounts.iter().flat_map(|mount| &mount.options);
        let mut lowers: Vec<PathBuf> = Vec::new();
        let mut upper = None;
        for option in options {
            if let Some(list) = option.strip_prefix("lowerdir=") {
                lowers.extend(list.split(':').map(PathBuf::from));
            } else if let Some(path) = option.strip_prefix("upperdir=") {
                upper = Some(directory(Path::new(path))?);
            }
        }
        let lower = match lowers.as_slice() {
            [] => None,
            [only] => Some(directory(only)?),
            [top, ..] => {
                let all: Vec<&Path> = lowers.iter().map(PathBuf::as_path).collect();
                let flags = rustix::mount::MountAttrFlags::MOUNT_ATTR_RDONLY;
                let made = berth_kernel::mount_overlay(&all, &[], flags);
                let failed = |errno: rustix::io::Errno| Error::file("mount", top)(errno.into());
                Some(made.map_err(failed)?)
            }
        };
        Ok(Stack { upper, lower })
    })
    .await
}

fn directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|errno| Error::file("open", path)(errno.into()))
}

impl Sandbox<'_> {
    /// Runs a command on top of an image. Returns the archive of what it changed.
    pub async fn run(
        &self,
        image: &Digest,
        command: Command,
        log: &StageLog,
    ) -> Result<std::fs::File> {
        let (layer, _) = self.runtime.make_layer(&image.to_string(), None).await?;
        let directory = self.root.join("run").join(layer.as_str());
        let outcome = match self
            .on_layer(&layer, image, &command, &directory, log)
            .await
        {
            Ok(()) => self.changes(&layer, &command).await,
            Err(error) => Err(error),
        };
        let _ = tokio::fs::remove_dir_all(&directory).await;
        if let Err(error) = self.runtime.remove_layer(&layer).await {
            tracing::warn!(%layer, error = chain(&error), "a build's layer stays");
        }
        outcome
    }

    /// Everything that was made is gone again when this returns, but the layer.
    async fn on_layer(
        &self,
        layer: &ContainerId,
        image: &Digest,
        command: &Command,
        directory: &Path,
        log: &StageLog,
    ) -> Result<()> {
        let hosts = directory.join("hosts");
        self.write_hosts(directory, &hosts, &command.limits).await?;
        let pod = self.runtime.run_pod(self.pod(layer, command)).await?;
        let ran = self.in_pod(&pod, layer, image, command, &hosts, log).await;
        if let Err(error) = self.networks.release(layer).await {
            tracing::warn!(%layer, %error, "a build's network is not released");
        }
        if let Err(error) = self.runtime.remove_pod(pod.as_str()).await {
            tracing::warn!(%pod, error = chain(&error), "a build's pod stays");
        }
        ran
    }

    async fn write_hosts(&self, directory: &Path, path: &Path, limits: &Limits) -> Result<()> {
        let mut text =
            String::from("127.0.0.1\tlocalhost build\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        for entry in &limits.extra_hosts {
            let parts = entry.split_once('=').or_else(|| entry.split_once(':'));
            let (name, address) = parts.ok_or_else(|| {
                Error::invalid(format!(
                    "--add-host {entry:?} is not of the form name:address"
                ))
            })?;
            let bare = address.trim_matches(['[', ']']);
            if bare.parse::<std::net::IpAddr>().is_err() || name.contains(char::is_whitespace) {
                let what = format!("--add-host {entry:?}: {address:?} is no address");
                return Err(Error::invalid(what));
            }
            text.push_str(&format!("{bare}\t{name}\n"));
        }
        let made = tokio::fs::create_dir_all(directory).await;
        made.map_err(Error::file("write", directory))?;
        let written = tokio::fs::write(path, text).await;
        written.map_err(Error::file("write", path))
    }

    fn network(command: &Command) -> &str {
        match command.limits.network.as_str() {
            "" | "default" => "bridge",
            other => other,
        }
    }

    fn pod(&self, layer: &ContainerId, command: &Command) -> PodRequest {
        let network = Self::network(command);
        let dns = match network {
            "host" | "none" => None,
            name => {
                let found = self
                    .networks
                    .resolver(&berth_network::Dns::default(), &[name]);
                Some(Dns {
                    servers: found.servers,
                    searches: found.searches,
                    options: found.options,
                })
            }
        };
        PodRequest {
            name: format!("build-{}", berth_names::short(layer.as_str())),
            uid: layer.to_string(),
            namespace: "build".to_owned(),
            hostname: "build".to_owned(),
            dns,
            cgroup_parent: command.limits.cgroup_parent.clone(),
            namespaces: Namespaces {
                network: match network {
                    "host" => Scope::Node,
                    _ => Scope::Pod,
                },
                pid: Scope::Container,
                ipc: Scope::Pod,
                user: None,
            },
            owner: Owner::Docker,
            unattached: network != "host",
            ..PodRequest::default()
        }
    }

    async fn in_pod(
        &self,
        pod: &SandboxId,
        layer: &ContainerId,
        image: &Digest,
        command: &Command,
        hosts: &Path,
        log: &StageLog,
    ) -> Result<()> {
        let network = Self::network(command);
        if !matches!(network, "host" | "none") {
            let member = Member {
                id: layer.clone(),
                name: format!("build-{}", berth_names::short(layer.as_str())),
                netns: self.runtime.netns(pod),
                ports: Vec::new(),
                dns: berth_network::Dns::default(),
            };
            self.networks
                .attach(member, network, EndpointRequest::default())
                .await?;
        }
        let wanted = container(layer, image, command, hosts);
        let id = self.runtime.create_container(pod.as_str(), wanted).await?;
        let container = self.runtime.container(id.as_str())?;
        let streams = StdStreams {
            stdout: true,
            stderr: true,
            ..StdStreams::default()
        };
        let mut joined = container.start_attached(&[streams]).await?;
        let pipes = joined.pop().map(|(pipes, _)| pipes).unwrap_or_default();
        let ended = async {
            pass_on(pipes, log).await;
            container.finished().await
        };
        let view = tokio::select! {
            view = ended => view,
            () = self.cancel.cancelled() => return Err(Error::Cancelled),
        };
        let exit = view.exit.as_ref();
        match exit.map_or(255, |exit| exit.code) {
            0 => Ok(()),
            code => Err(Error::Command {
                command: command.words.join(" "),
                code,
            }),
        }
    }

    async fn changes(&self, layer: &ContainerId, command: &Command) -> Result<std::fs::File> {
        let stack = stack(self.runtime, layer).await?;
        let file = self.images.spool().await?;
        let mut points: Vec<Vec<u8>> = [
            "dev",
            "proc",
            "sys",
            "dev/pts",
            "dev/shm",
            "dev/mqueue",
            "dev/console",
            "etc/hosts",
            "etc/hostname",
            "etc/resolv.conf",
            "sys/fs/cgroup",
        ]
        .map(|path| path.as_bytes().to_vec())
        .to_vec();
        for mount in &command.mounts {
            let path = crate::ignore::clean(&mount.container_path);
            points.push(path.into_bytes());
        }
        let epoch = self.epoch;
        blocking("packing a layer", move || {
            let Some(upper) = &stack.upper else {
                return Err(Error::invalid("nothing can run in an image without files"));
            };
            let upper = berth_unpack::Upper {
                dir: upper.as_fd(),
                lower: stack.lower.as_ref().map(AsFd::as_fd),
                mount_points: &points,
            };
            let out = std::io::BufWriter::with_capacity(256 << 10, &file);
            berth_unpack::pack_layer(&upper, epoch, out).map_err(Error::Pack)?;
            Ok(file)
        })
        .await
    }
}

fn container(
    layer: &ContainerId,
    image: &Digest,
    command: &Command,
    hosts: &Path,
) -> ContainerRequest {
    let limits = &command.limits;
    let mut mounts = command.mounts.clone();
    mounts.push(MountRequest {
        container_path: "/etc/hosts".to_owned(),
        host_path: hosts.display().to_string(),
        ..MountRequest::default()
    });
    if limits.shm > 0 && limits.shm != SHM {
        mounts.push(MountRequest {
            container_path: "/dev/shm".to_owned(),
            tmpfs: Some(vec![
                "noexec".into(),
                "mode=1777".into(),
                format!("size={}", limits.shm),
            ]),
            ..MountRequest::default()
        });
    }
    ContainerRequest {
        name: "run".to_owned(),
        image: image.to_string(),
        command: command.words.clone(),
        working_dir: command.working_dir.clone(),
        envs: command.env.clone(),
        mounts,
        resources: limits.resources.clone(),
        security: Security {
            run_as: run_as(&command.user),
            ..limits.security.clone()
        },
        on_layer: Some(layer.clone()),
        rlimits: limits.rlimits.clone(),
        ..ContainerRequest::default()
    }
}

/// Whether who runs is told by numbers, or not at all.
pub fn is_number(user: &str) -> bool {
    user.is_empty() || run_as(user) != RunAs::default()
}

/// Numbers alone: names are left to the image's config, which says the same.
fn run_as(user: &str) -> RunAs {
    let (user, group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    match (user.parse(), group.map(str::parse)) {
        (Ok(uid), None) => RunAs {
            uid: Some(uid),
            ..RunAs::default()
        },
        (Ok(uid), Some(Ok(gid))) => RunAs {
            uid: Some(uid),
            gid: Some(gid),
            ..RunAs::default()
        },
        _ => RunAs::default(),
    }
}

/// What the command writes, as it writes it, to the end of both streams.
async fn pass_on(pipes: Pipes, log: &StageLog) {
    let read = |pipe: Option<tokio::net::unix::pipe::Receiver>| async move {
        let Some(mut pipe) = pipe else { return };
        let mut piece = vec![0; PIECE];
        let mut rest: Vec<u8> = Vec::new();
        while gather(&mut pipe, &mut piece, &mut rest).await {
            // A letter may be cut in two.
            let whole = whole_letters(&rest);
            let text = String::from_utf8_lossy(rest.get(..whole).unwrap_or_default()).into_owned();
            rest.drain(..whole);
            log.output(text).await;
        }
        if !rest.is_empty() {
            log.output(String::from_utf8_lossy(&rest).into_owned())
                .await;
        }
    };
    tokio::join!(read(pipes.stdout), read(pipes.stderr));
}

/// Takes what the command writes within a moment, as one: a program may write each line by itself,
/// and each of these becomes an object for the client. False at the end.
async fn gather(
    pipe: &mut tokio::net::unix::pipe::Receiver,
    piece: &mut [u8],
    rest: &mut Vec<u8>,
) -> bool {
    let add = |rest: &mut Vec<u8>, piece: &[u8], read: std::io::Result<usize>| match read {
        Ok(0) | Err(_) => false,
        Ok(count) => {
            rest.extend_from_slice(piece.get(..count).unwrap_or_default());
            true
        }
    };
    let read = pipe.read(piece).await;
    if !add(rest, piece, read) {
        return false;
    }
    let moment = tokio::time::sleep(MOMENT);
    tokio::pin!(moment);
    while rest.len() < PIECE {
        let read = tokio::select! {
            read = pipe.read(piece) => read,
            () = &mut moment => break,
        };
        // The next call finds the end again.
        if !add(rest, piece, read) {
            break;
        }
    }
    true
}

/// Bytes up to a letter in UTF-8 that has not come whole yet.
fn whole_letters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_that_is_cut_in_two_waits_for_its_rest() {
        let text = "aé".as_bytes();
        assert_eq!(whole_letters(text), 3);
        assert_eq!(whole_letters(&text[..2]), 1);
        assert_eq!(whole_letters(b"\xff\xfe"), 2);
    }

    #[test]
    fn numbers_say_who_runs_and_names_are_the_image_s() {
        assert_eq!(run_as("5:6").gid, Some(6));
        assert_eq!(run_as("5").uid, Some(5));
        assert_eq!(run_as("me:us"), RunAs::default());
        assert_eq!(run_as("5:us"), RunAs::default());
    }
}
