//! What a build is to leave besides an image: archives and directories here.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio_util::io::SyncIoBridge;

use crate::commands::copy::unpack::unpack_all;
use crate::commands::transfer::{copy, refuse_terminal, write_out};
use crate::daemon::{Answer, Call, Client, segment};
use crate::error::{Error, Result};

/// Bytes between the side that receives and the side that unpacks.
const PIPE: usize = 256 << 10;

/// One `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    what: What,
    to: To,
    /// Names that the image gets.
    pub names: Vec<String>,
    /// The image goes to its registries.
    pub is_pushed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// The image, in the daemon.
    Image,
    /// The image as an archive: an OCI layout, which is Docker's form at the same time, with what is
    /// said of the image.
    Layout,
    /// The same without, where Docker's form is what is asked for.
    Docker,
    /// The files of the image.
    Files,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum To {
    Daemon,
    Stdout,
    Archive(PathBuf),
    Directory(PathBuf),
}

impl Output {
    /// `DIRECTORY`, `-`, or `type=…,dest=…`.
    pub fn parse(text: &str) -> Result<Self> {
        if text == "-" {
            return Ok(Self::of(What::Files, To::Stdout));
        }
        if !text.contains('=') {
            return Ok(Self::of(What::Files, To::Directory(text.into())));
        }
        let wrong = |what: String| Error::usage(format!("--output {text:?}: {what}"));
        let (mut kind, mut dest, mut names, mut as_tar) = ("", "", Vec::new(), true);
        let mut is_pushed = false;
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("type", value)) => kind = value,
                Some(("dest", value)) => dest = value,
                Some(("name", value)) => names.push(value.to_owned()),
                Some(("tar", value)) => as_tar = value != "false" && value != "0",
                Some(("push", value)) => is_pushed = value != "false" && value != "0",
                _ => return Err(wrong(format!("{field:?} is not understood"))),
            }
        }
        let archive = || match dest {
            "-" | "" => To::Stdout,
            path if as_tar => To::Archive(path.into()),
            path => To::Directory(path.into()),
        };
        let output = match (kind, dest) {
            ("image", "") | ("docker", "") => Self::of(What::Image, To::Daemon),
            ("image", _) => return Err(wrong("an image has no dest: write type=oci".to_owned())),
            ("local", "") => return Err(wrong("write dest=DIRECTORY".to_owned())),
            ("local", path) => Self::of(What::Files, To::Directory(path.into())),
            ("tar", _) => Self::of(What::Files, archive()),
            ("oci", _) => Self::of(What::Layout, archive()),
            ("docker", _) => Self::of(What::Docker, archive()),
            ("registry", "") => {
                is_pushed = true;
                Self::of(What::Image, To::Daemon)
            }
            ("registry", _) => return Err(wrong("a registry has no dest".to_owned())),
            (other, _) => {
                let known = "there are image, docker, oci, tar, local and registry";
                return Err(wrong(format!("type {other:?} is not known: {known}")));
            }
        };
        if is_pushed && !output.is_image() {
            return Err(wrong("only an image is pushed".to_owned()));
        }
        Ok(Self {
            names,
            is_pushed,
            ..output
        })
    }

    fn of(what: What, to: To) -> Self {
        Self {
            what,
            to,
            names: Vec::new(),
            is_pushed: false,
        }
    }

    pub fn is_image(&self) -> bool {
        self.what == What::Image
    }

    /// What it is where it cannot hold what is said of an image.
    pub fn without_attestations(&self) -> Option<&'static str> {
        match self.what {
            What::Image | What::Layout => None,
            What::Docker => Some("an archive of Docker's"),
            What::Files => Some("an output of files"),
        }
    }

    pub fn is_on_stdout(&self) -> bool {
        self.to == To::Stdout
    }

    /// Before anything is built for it.
    pub fn check(&self) -> Result<()> {
        match self.to {
            To::Stdout => refuse_terminal(None),
            _ => Ok(()),
        }
    }

    /// Before an image of several platforms is built for it.
    pub fn check_several(&self) -> Result<()> {
        match (self.what, &self.to) {
            (What::Docker, _) => Err(Error::usage(
                "type=docker has one platform: write type=oci for several",
            )),
            (What::Files, To::Stdout | To::Archive(_)) => Err(Error::usage(
                "files of several platforms go to a directory: write -o DIRECTORY",
            )),
            _ => Ok(()),
        }
    }

    /// Makes it of images by platform and id: an index of them, or a directory for each.
    pub async fn write_several(
        &self,
        client: &Client,
        images: &[(String, String)],
        names: &[String],
    ) -> Result<()> {
        match (self.what, &self.to) {
            (What::Layout, _) => {
                let mut call = Call::get("/images/get").flag("berth-index", true);
                for (_, id) in images {
                    call = call.query("names", id);
                }
                for name in names {
                    call = call.query("berth-name", name);
                }
                self.receive(client.send(call).await?).await
            }
            (What::Files, To::Directory(path)) => {
                for (platform, id) in images {
                    let own = path.join(platform.replace('/', "_"));
                    let own = Self::of(What::Files, To::Directory(own));
                    own.write(client, id, &[]).await?;
                }
                Ok(())
            }
            _ => self.check_several(),
        }
    }

    /// Makes it of an image with these names.
    pub async fn write(&self, client: &Client, image: &str, names: &[String]) -> Result<()> {
        match self.what {
            What::Image => Ok(()),
            What::Layout | What::Docker => {
                let image = [image.to_owned()];
                let wanted = if names.is_empty() { &image } else { names };
                let call = wanted.iter().fold(Call::get("/images/get"), |call, name| {
                    call.query("names", name)
                });
                let call = call.flag("berth-attestations", self.what == What::Layout);
                self.receive(client.send(call).await?).await
            }
            What::Files => {
                // A container that is never started: its files are those of the image.
                let body = json!({ "Image": image, "Entrypoint": [], "Cmd": ["none"] });
                let made: Value = client
                    .ask(Call::post("/containers/create").json(&body))
                    .await?;
                let id = segment(made["Id"].as_str().unwrap_or_default());
                let written = async {
                    let call = Call::get(format!("/containers/{id}/export"));
                    self.receive(client.send(call).await?).await
                }
                .await;
                let remove = Call::delete(format!("/containers/{id}")).flag("force", true);
                let removed = client.tell(remove.flag("v", true)).await;
                written.and(removed)
            }
        }
    }

    async fn receive(&self, answer: Answer) -> Result<()> {
        match &self.to {
            To::Daemon => Ok(()),
            To::Stdout => write_out(answer, None).await,
            To::Archive(path) => write_out(answer, Some(path)).await,
            To::Directory(path) => unpacked(answer, path).await,
        }
    }
}

/// What comes as an archive, in a directory.
pub(super) async fn unpacked(answer: Answer, path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(Error::file("making", path))?;
    let target = std::fs::canonicalize(path).map_err(Error::file("finding", path))?;
    let (near, far) = tokio::io::duplex(PIPE);
    let reader = SyncIoBridge::new(near);
    let unpacking = tokio::task::spawn_blocking(move || unpack_all(reader, &target));
    // If that side gives up, it knows better why.
    let sent = copy(answer, far).await;
    let unpacked = unpacking.await;
    unpacked.map_err(|_| Error::usage("unpacking broke off"))??;
    sent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read_as_docker_s() {
        let files = |to| Output::of(What::Files, to);
        let layout = |to| Output::of(What::Layout, to);
        for (text, expected) in [
            ("out", files(To::Directory("out".into()))),
            ("-", files(To::Stdout)),
            ("type=local,dest=d", files(To::Directory("d".into()))),
            ("type=tar,dest=f.tar", files(To::Archive("f.tar".into()))),
            ("type=tar", files(To::Stdout)),
            ("type=oci,dest=f", layout(To::Archive("f".into()))),
            (
                "type=oci,dest=d,tar=false",
                layout(To::Directory("d".into())),
            ),
            ("type=docker,dest=-", Output::of(What::Docker, To::Stdout)),
            ("type=docker", Output::of(What::Image, To::Daemon)),
        ] {
            assert_eq!(Output::parse(text).unwrap(), expected, "{text}");
        }
        let named = Output::parse("type=image,name=a:1").unwrap();
        assert_eq!(named.names, ["a:1"]);
        assert!(!named.is_pushed);
        for text in ["type=registry", "type=image,push=true"] {
            assert!(Output::parse(text).unwrap().is_pushed, "{text}");
        }
        for text in [
            "type=local",
            "type=registry,dest=f",
            "type=x",
            "type=tar,push=true",
            "a=b",
        ] {
            assert!(Output::parse(text).is_err(), "{text}");
        }
    }
}
