//! `cp`: between a container and here.

mod pack;
mod place;
pub mod unpack;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde::Deserialize;
use tokio_util::io::SyncIoBridge;

use super::Outcome;
use super::transfer::{TAR, copy};
use crate::daemon::{Answer, Call, Client, segment};
use crate::error::{Error, Result};
use crate::terminal::{is_terminal_input, is_terminal_output};
use place::Place;

/// Bytes between the side that packs and the side that sends.
const PIPE: usize = 256 << 10;

#[derive(Debug, Args)]
pub struct Copy {
    /// Keep owners
    #[arg(short, long)]
    pub(super) archive: bool,
    /// Copy what the source links to
    #[arg(short = 'L', long)]
    pub(super) follow_link: bool,
    /// Say nothing; there is nothing that is said
    #[arg(short, long, hide = true)]
    pub(super) quiet: bool,
    /// path, container:path, or - for a tar archive
    #[arg(allow_hyphen_values = true)]
    pub(super) source: String,
    /// path, container:path, or - for a tar archive
    #[arg(allow_hyphen_values = true)]
    pub(super) destination: String,
}

/// What a path in a container is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Stat {
    pub name: String,
    /// With Go's bits.
    mode: u32,
    #[serde(rename = "linkTarget")]
    pub link_target: String,
}

const GO_DIRECTORY: u32 = 1 << 31;
const GO_LINK: u32 = 1 << 27;

impl Stat {
    pub fn is_directory(&self) -> bool {
        self.mode & GO_DIRECTORY != 0
    }

    fn is_link(&self) -> bool {
        self.mode & GO_LINK != 0
    }
}

impl Copy {
    pub async fn run(self, client: &Client) -> Outcome {
        match (Place::parse(&self.source), Place::parse(&self.destination)) {
            (Place::Inside(container, path), Place::Here(to)) => {
                self.bring_out(client, &container, &path, &to).await
            }
            (Place::Here(from), Place::Inside(container, path)) => {
                self.push_in(client, &from, &container, &path).await
            }
            (Place::Inside(..), Place::Inside(..)) => Err(Error::usage(
                "between two containers: copy here first, and then on",
            )),
            (Place::Here(_), Place::Here(_)) => Err(Error::usage(
                "neither is in a container: write container:/path for one of them",
            )),
        }?;
        Ok(0)
    }

    async fn bring_out(
        &self,
        client: &Client,
        container: &str,
        path: &str,
        to: &str,
    ) -> Result<()> {
        let mut path = path.to_owned();
        // What is not there is said by the next answer: this one has no words.
        if self.follow_link
            && let Ok(resolved) = resolved(client, container, &path).await
        {
            path = resolved;
        }
        if to == "-" && is_terminal_output() {
            return Err(Error::usage(
                "an archive is nothing for a terminal: redirect it, or name a place",
            ));
        }
        let answer = client.send(at(Call::get, container, &path)).await?;
        if to == "-" {
            return copy(answer, tokio::io::stdout()).await;
        }
        let stat = stat_of(&answer)?;
        let target = place::target(to, &stat, place::means_contents(&path))?;
        let (near, far) = tokio::io::duplex(PIPE);
        let owners = self.archive;
        let reader = SyncIoBridge::new(near);
        let unpacking =
            tokio::task::spawn_blocking(move || unpack::unpack(reader, &target, owners));
        // If that side gives up, it knows better why.
        let sent = copy(answer, far).await;
        let unpacked = unpacking.await;
        unpacked.map_err(|_| Error::usage("unpacking broke off"))??;
        sent
    }

    async fn push_in(
        &self,
        client: &Client,
        from: &str,
        container: &str,
        path: &str,
    ) -> Result<()> {
        if from == "-" {
            if is_terminal_input() {
                return Err(Error::usage("an archive is expected: redirect one"));
            }
            let call = self.put(container, path).upload(TAR, tokio::io::stdin());
            return client.tell(call).await;
        }
        let source = pack::Source::find(from, self.follow_link)?;
        let resolved = resolved(client, container, path).await;
        let stat = match &resolved {
            Ok(path) => Some(stat_of(
                &client.send(at(Call::head, container, path)).await?,
            )?),
            Err(error) if error.is_not_found() => None,
            Err(_) => None,
        };
        let path = match resolved {
            Ok(resolved) => resolved,
            // That the container is not there is said by whoever is asked next.
            Err(_) => path.to_owned(),
        };
        let (directory, name) = place::inside(&path, stat.as_ref(), &source)?;
        let (near, far) = tokio::io::duplex(PIPE);
        let writer = SyncIoBridge::new(near);
        let packing = tokio::task::spawn_blocking(move || pack::pack(writer, &source, &name));
        let sent = client
            .tell(self.put(container, &directory).upload(TAR, far))
            .await;
        match packing.await {
            // A daemon that refuses takes no more: its reason counts.
            Ok(Err(error)) if sent.is_ok() => Err(error),
            _ => sent,
        }
    }

    fn put(&self, container: &str, path: &str) -> Call {
        at(Call::put, container, path)
            .query("noOverwriteDirNonDir", "true")
            .flag("copyUIDGID", self.archive)
    }
}

fn at(method: impl Fn(String) -> Call, container: &str, path: &str) -> Call {
    method(format!("/containers/{}/archive", segment(container))).query("path", path)
}

fn stat_of(answer: &Answer) -> Result<Stat> {
    let header = answer.header("x-docker-container-path-stat");
    let bytes = STANDARD
        .decode(header.unwrap_or_default())
        .unwrap_or_default();
    serde_json::from_slice(&bytes).map_err(Error::Answer)
}

/// Where a link leads to, once.
async fn resolved(client: &Client, container: &str, path: &str) -> Result<String> {
    let stat = stat_of(&client.send(at(Call::head, container, path)).await?)?;
    Ok(match stat.is_link() {
        true => place::followed(path, &stat.link_target),
        false => path.to_owned(),
    })
}
