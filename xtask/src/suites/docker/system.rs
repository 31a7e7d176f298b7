//! Steps that concern the daemon as a whole.

use anyhow::{Context, Result, ensure};

use super::session::Session;
use super::{contains, same};

pub fn version(session: &mut Session) -> Result<()> {
    let format = "{{.Server.Platform.Name}}|{{.Server.APIVersion}}|{{.Server.MinAPIVersion}}";
    let told = session.docker.text(&["version", "--format", format])?;
    ensure!(told.starts_with("Berth "), "{told}");
    ensure!(told.ends_with("|1.50|1.24"), "{told}");
    let whole = session.docker.text(&["version"])?;
    contains("docker version", &whole, "berthd:")
}

pub fn info(session: &mut Session) -> Result<()> {
    let format =
        "{{.Driver}}|{{.Swarm.LocalNodeState}}|{{.OSType}}|{{.NCPU}}|{{.LiveRestoreEnabled}}";
    let told = session.docker.text(&["info", "--format", format])?;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    same(
        "docker info",
        told,
        format!("overlay2|inactive|linux|{processors}|true"),
    )?;
    let whole = session.docker.text(&["info"])?;
    for part in [
        "Storage Driver: overlay2",
        "Swarm: inactive",
        "Kernel Version: ",
    ] {
        contains("docker info", &whole, part)?;
    }
    Ok(())
}

pub fn events(session: &mut Session) -> Result<()> {
    let now = |ahead: u64| -> Result<String> {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let since = since.context("the clock")?;
        Ok(format!(
            "{}.{:09}",
            since.as_secs() + ahead,
            since.subsec_nanos()
        ))
    };
    let begin = now(0)?;
    let name = session.reference(":seen");
    session
        .docker
        .text(&["tag", &session.reference(":one"), &name])?;
    session.docker.text(&["rmi", &name])?;
    let until = now(1)?;
    let told = session.docker.lines(&[
        "events",
        "--since",
        &begin,
        "--until",
        &until,
        "--filter",
        "type=image",
        "--format",
        "{{.Type}} {{.Action}} {{.Actor.Attributes.tier}}",
    ])?;
    same(
        "docker events",
        told,
        vec!["image tag front".to_owned(), "image untag front".to_owned()],
    )?;
    let path = format!(
        "/v1.41/events?since={begin}&until={until}&filters=%7B%22event%22%3A%5B%22tag%22%5D%7D"
    );
    let answer = session.docker.request("GET", &path, &[])?;
    let event = answer.json()?;
    let id = session.image.config_digest.to_string();
    for (field, value) in [("status", "tag"), ("id", id.as_str()), ("Type", "image")] {
        same(field, event[field].as_str(), Some(value))?;
    }
    Ok(())
}

pub fn df(session: &mut Session) -> Result<()> {
    let told = session
        .docker
        .text(&["system", "df", "--format", "{{.Type}}|{{.TotalCount}}"])?;
    let images = session.docker.lines(&["images", "--quiet", "--no-trunc"])?;
    let mut images: Vec<String> = images;
    images.sort();
    images.dedup();
    contains(
        "docker system df",
        &told,
        &format!("Images|{}", images.len()),
    )?;
    let all = session
        .docker
        .request("GET", "/system/df?type=image", &[])?
        .json()?;
    ensure!(all["LayersSize"].as_u64().unwrap_or(0) > 100_000, "{all}");
    ensure!(all.get("Volumes").is_none(), "volumes were not asked for");
    let shared = all["Images"].as_array().context("no images")?;
    ensure!(
        shared
            .iter()
            .any(|image| image["SharedSize"].as_i64() > Some(100_000)),
        "no image shares the base layer: {all}"
    );
    session
        .docker
        .text(&["system", "df", "--verbose"])
        .map(drop)
}

pub fn restart(session: &mut Session) -> Result<()> {
    session
        .docker
        .text(&["pull", "--quiet", &session.reference(":one")])?;
    session.restart_daemon()?;
    let shown = session
        .docker
        .text(&["images", "--format", "{{.Repository}}:{{.Tag}}"])?;
    same("images", shown, session.reference(":one"))?;
    session.end_daemon()?;
    ensure!(!session.docker.socket.exists(), "the socket is still there");
    Ok(())
}
