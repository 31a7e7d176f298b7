//! `pull`, and the pull that a run begins with.

use clap::Args;
use http::HeaderName;

use super::Outcome;
use crate::daemon::{Call, Client};
use crate::error::{Error, Result};
use crate::logins::Logins;
use crate::output::{Progress, print_line};

pub const AUTH: HeaderName = HeaderName::from_static("x-registry-auth");

#[derive(Debug, Args)]
pub struct Pull {
    /// Every tag of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// os/architecture of the image
    #[arg(
        long,
        value_name = "PLATFORM",
        default_value = "",
        hide_default_value = true
    )]
    platform: String,
    /// Only the image's name, once it is here
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "IMAGE[:TAG|@DIGEST]")]
    image: String,
}

impl Pull {
    pub async fn run(self, client: &Client) -> Outcome {
        if self.all_tags {
            return self.every_tag(client).await;
        }
        let (name, tag) = parts(&self.image);
        if tag == "latest" && !self.quiet && !self.image.ends_with(":latest") {
            print_line("Using default tag: latest")?;
        }
        let answer = client.send(call(&self.image, &self.platform)?).await?;
        Progress::on_stdout().follow(answer, self.quiet).await?;
        print_line(&familiar(name, tag))?;
        Ok(0)
    }
}

impl Pull {
    async fn every_tag(self, client: &Client) -> Outcome {
        let last = self.image.rsplit('/').next().unwrap_or_default();
        if last.contains([':', '@']) {
            return Err(Error::usage("tag can't be used with --all-tags/-a"));
        }
        let call = addressed(&self.image, &self.image, "", &self.platform)?;
        let answer = client.send(call).await?;
        Progress::on_stdout().follow(answer, self.quiet).await?;
        let shown = familiar(&self.image, "");
        print_line(shown.trim_end_matches(':'))?;
        Ok(0)
    }
}

/// Told on standard error: standard output is the container's.
pub async fn for_run(client: &Client, image: &str, platform: &str, quiet: bool) -> Result<()> {
    let answer = client.send(call(image, platform)?).await?;
    Progress::on_stderr().follow(answer, quiet).await
}

fn call(image: &str, platform: &str) -> Result<Call> {
    let (name, tag) = parts(image);
    addressed(image, name, tag, platform)
}

/// Without a tag it is every one.
fn addressed(image: &str, name: &str, tag: &str, platform: &str) -> Result<Call> {
    let login = Logins::open()?.header_for(image)?;
    let call = Call::post("/images/create")
        .query("fromImage", name)
        .query("tag", tag)
        .given("platform", platform);
    Ok(match login.as_str() {
        "" => call,
        login => call.header(AUTH, login),
    })
}

/// Name, and tag or digest.
pub fn parts(image: &str) -> (&str, &str) {
    if let Some((name, digest)) = image.split_once('@') {
        return (name, digest);
    }
    // A colon before a slash is that of a port.
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, "latest"),
    }
}

/// With its registry, as it can be pulled from anywhere.
fn familiar(name: &str, tag: &str) -> String {
    let whole = match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    };
    let sign = if tag.contains(':') { '@' } else { ':' };
    format!("{whole}{sign}{tag}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_apart_and_together() {
        for (image, name, tag, whole) in [
            (
                "busybox",
                "busybox",
                "latest",
                "docker.io/library/busybox:latest",
            ),
            ("a/b:1", "a/b", "1", "docker.io/a/b:1"),
            ("r:5000/b", "r:5000/b", "latest", "r:5000/b:latest"),
            (
                "r:5000/b@sha256:ab",
                "r:5000/b",
                "sha256:ab",
                "r:5000/b@sha256:ab",
            ),
        ] {
            assert_eq!(parts(image), (name, tag));
            assert_eq!(familiar(name, tag), whole);
        }
    }
}
