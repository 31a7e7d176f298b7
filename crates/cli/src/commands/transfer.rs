//! Archives: `save`, `load`, `import` and `export`.

use std::path::{Path, PathBuf};

use clap::Args;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::Outcome;
use crate::daemon::{Answer, Call, Client, segment};
use crate::error::{Error, Result};
use crate::output::{Progress, print_line};
use crate::terminal::{is_terminal_input, is_terminal_output};

pub const TAR: &str = "application/x-tar";

#[derive(Debug, Args)]
pub struct Save {
    /// A file, in place of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Save {
    pub async fn run(self, client: &Client) -> Outcome {
        refuse_terminal(self.output.as_deref())?;
        let names = self.images.iter();
        let call = names.fold(Call::get("/images/get"), |call, name| {
            call.query("names", name)
        });
        write_out(client.send(call).await?, self.output.as_deref()).await?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub struct Export {
    /// A file, in place of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    container: String,
}

impl Export {
    pub async fn run(self, client: &Client) -> Outcome {
        refuse_terminal(self.output.as_deref())?;
        let path = format!("/containers/{}/export", segment(&self.container));
        let answer = client.send(Call::get(path)).await?;
        write_out(answer, self.output.as_deref()).await?;
        Ok(0)
    }
}

pub fn refuse_terminal(output: Option<&Path>) -> Result<()> {
    match output.is_none() && is_terminal_output() {
        true => Err(Error::usage(
            "an archive is nothing for a terminal: name a file with --output, or redirect it",
        )),
        false => Ok(()),
    }
}

/// A file is there whole, under its name, or not at all.
pub async fn write_out(answer: Answer, output: Option<&Path>) -> Result<()> {
    let Some(path) = output else {
        return copy(answer, tokio::io::stdout()).await;
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let fresh = path.with_file_name(name);
    let written = async {
        let file = File::create(&fresh).await;
        copy(answer, file.map_err(Error::file("making", &fresh))?).await?;
        let renamed = tokio::fs::rename(&fresh, path).await;
        renamed.map_err(Error::file("writing", path))
    }
    .await;
    if written.is_err() {
        let _absent = tokio::fs::remove_file(&fresh).await;
    }
    written
}

pub async fn copy(mut answer: Answer, mut to: impl AsyncWrite + Unpin) -> Result<()> {
    while let Some(chunk) = answer.chunk().await? {
        to.write_all(&chunk).await.map_err(Error::Output)?;
    }
    to.flush().await.map_err(Error::Output)
}

#[derive(Debug, Args)]
pub struct Load {
    /// A file, in place of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Only what was loaded
    #[arg(short, long)]
    quiet: bool,
}

impl Load {
    pub async fn run(self, client: &Client) -> Outcome {
        let input = read_in(self.input.as_deref()).await?;
        let call = Call::post("/images/load").query("quiet", "1");
        let answer = client.send(call.upload(TAR, input)).await?;
        Progress::on_stdout().follow(answer, false).await?;
        Ok(0)
    }
}

async fn read_in(input: Option<&Path>) -> Result<Box<dyn AsyncRead + Send + Unpin>> {
    match input {
        Some(path) => {
            let file = File::open(path).await;
            Ok(Box::new(file.map_err(Error::file("opening", path))?))
        }
        None if is_terminal_input() => Err(Error::usage(
            "an archive is expected: name a file, or redirect one to standard input",
        )),
        None => Ok(Box::new(tokio::io::stdin())),
    }
}

#[derive(Debug, Args)]
pub struct Import {
    /// An instruction of a Dockerfile for its configuration, as in 'CMD ["sh"]'
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// What the history says of it
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// os/architecture
    #[arg(long, default_value = "", hide_default_value = true)]
    platform: String,
    /// A file, an address, or - for standard input
    source: String,
    /// name[:tag]
    image: Option<String>,
}

impl Import {
    pub async fn run(self, client: &Client) -> Outcome {
        let (name, tag) = self
            .image
            .as_deref()
            .map(super::pull::parts)
            .unwrap_or_default();
        let is_far = self.source.starts_with("http://") || self.source.starts_with("https://");
        let source = if is_far { self.source.as_str() } else { "-" };
        let mut call = Call::post("/images/create")
            .query("fromSrc", source)
            .given("repo", name)
            .given("tag", tag)
            .given("message", &self.message)
            .given("platform", &self.platform);
        for change in &self.change {
            call = call.query("changes", change);
        }
        if !is_far {
            let path = (self.source != "-").then(|| Path::new(&self.source));
            call = call.upload(TAR, read_in(path).await?);
        }
        let answer = client.send(call).await?;
        let mut objects = answer.objects();
        while let Some(object) = objects.next().await? {
            if let Some(message) = object["error"].as_str() {
                return Err(Error::Failed(message.to_owned()));
            }
            // The id, at last.
            if let Some(status) = object["status"].as_str() {
                print_line(status)?;
            }
        }
        Ok(0)
    }
}
