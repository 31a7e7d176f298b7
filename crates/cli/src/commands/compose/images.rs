//! Images of services: pulled or built before their containers are made.

use std::collections::BTreeMap;

use berth_compose::{Project, Service};

use super::board::Board;
use super::build;
use crate::build::Show;
use crate::commands::{pull, push};
use crate::daemon::{Call, Client, segment};
use crate::error::{Error, Result};
use crate::output::{Progress, note};

/// What `up` is told about images.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Of the command line: always, missing or never; else each service's own.
    pub pull: Option<String>,
    pub build: bool,
    pub no_build: bool,
    pub quiet: bool,
    pub show: Show,
}

/// The id of each service's image, once it is here.
pub async fn ensure(
    client: &Client,
    project: &Project,
    wanted: &Wanted,
) -> Result<BTreeMap<String, String>> {
    let mut ids = BTreeMap::new();
    for service in project.services.values() {
        let image = service.image(&project.name);
        let here = id_for(client, &image, service.text("platform")).await?;
        let own = service.text("pull_policy");
        let policy = match wanted.pull.as_deref() {
            Some(policy) => policy,
            None if own.is_empty() => "missing",
            None => own,
        };
        if service.has_build() {
            let must = wanted.build || policy == "build" || here.is_none();
            if must && wanted.no_build {
                return Err(Error::Failed(format!(
                    "{image} is not here, and --no-build keeps it from being built"
                )));
            }
            if must {
                let options = build::Options {
                    show: wanted.show,
                    ..build::Options::default()
                };
                build::build(client, project, service, &options).await?;
            }
        } else if must_pull(policy, here.is_some()) {
            let platform = service.text("platform");
            if !wanted.quiet {
                note(&format!("Pulling {} ({image})", service.name));
            }
            pull::for_run(client, &image, platform, wanted.quiet).await?;
        }
        let id = id(client, &image).await?.ok_or_else(|| {
            Error::Failed(format!(
                "the service {} needs the image {image}, which is not here, and its pull policy \
                 is {policy}",
                service.name
            ))
        })?;
        ids.insert(service.name.clone(), id);
    }
    Ok(ids)
}

/// A policy of days or weeks asks the registry each time: only what changed is fetched.
fn must_pull(policy: &str, is_here: bool) -> bool {
    match policy {
        "always" | "daily" | "weekly" => true,
        "never" => false,
        other => other.starts_with("every_") || !is_here,
    }
}

/// Of another architecture it is not what the service wants.
async fn id_for(client: &Client, image: &str, platform: &str) -> Result<Option<String>> {
    let Some(id) = id(client, image).await? else {
        return Ok(None);
    };
    let Some(wanted) = architecture(platform) else {
        return Ok(Some(id));
    };
    let found = client.get(format!("/images/{id}/json")).await?;
    let found = found["Architecture"].as_str().unwrap_or_default();
    let is_same = found.is_empty() || architecture(found) == Some(wanted);
    Ok(Some(id).filter(|_| is_same))
}

/// The architecture that a platform names, as images are marked with it: `os/architecture`, an
/// architecture alone, or an operating system alone, which names none.
fn architecture(platform: &str) -> Option<&str> {
    let named = match platform.split_once('/') {
        Some((_, rest)) => rest.split('/').next().unwrap_or(rest),
        None if platform == "linux" => "",
        None => platform,
    };
    match named {
        "" => None,
        "x86_64" => Some("amd64"),
        "aarch64" => Some("arm64"),
        named => Some(named),
    }
}

async fn id(client: &Client, image: &str) -> Result<Option<String>> {
    match client.get(format!("/images/{}/json", segment(image))).await {
        Ok(found) => Ok(found["Id"].as_str().map(str::to_owned)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

pub async fn pull_all(
    client: &Client,
    services: &[&Service],
    project: &str,
    quiet: bool,
    ignore_failures: bool,
) -> Result<()> {
    for service in services {
        if service.text("image").is_empty() {
            note(&format!("{} is built: nothing is pulled", service.name));
            continue;
        }
        let image = service.image(project);
        if !quiet {
            note(&format!("Pulling {} ({image})", service.name));
        }
        let pulled = pull::for_run(client, &image, service.text("platform"), quiet).await;
        match pulled {
            Err(error) if ignore_failures => note(&format!("berth: {}", error.report())),
            // It may be one that is built.
            Err(error) if service.has_build() => note(&format!("berth: {}", error.report())),
            outcome => outcome?,
        }
    }
    Ok(())
}

pub async fn push_all(client: &Client, services: &[&Service], quiet: bool) -> Result<()> {
    for service in services.iter().filter(|service| service.has_build()) {
        let image = service.text("image");
        if image.is_empty() {
            note(&format!(
                "{} has no image name, and is not pushed: give it one with image:",
                service.name
            ));
            continue;
        }
        note(&format!("Pushing {} ({image})", service.name));
        let answer = client.send(push::call(image, false)?).await?;
        Progress::on_stderr().follow(answer, quiet).await?;
    }
    Ok(())
}

pub async fn remove(client: &Client, board: &Board, image: &str) -> Result<()> {
    let remove = client.tell(Call::delete(format!("/images/{}", segment(image))));
    let what = format!("Image {image}");
    board.working(&what, "Removing");
    match remove.await {
        Ok(()) => board.done(&what, "Removed"),
        Err(error) if error.is_not_found() => board.done(&what, "Was not here"),
        // Others may use it.
        Err(error) => board.failed(&what, &error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_names_an_architecture_or_none() {
        for (platform, wanted) in [
            ("", None),
            ("linux", None),
            ("linux/arm64/v8", Some("arm64")),
            ("linux/x86_64", Some("amd64")),
            ("aarch64", Some("arm64")),
            ("amd64", Some("amd64")),
        ] {
            assert_eq!(architecture(platform), wanted, "{platform:?}");
        }
    }
}
