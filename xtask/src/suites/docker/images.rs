//! Steps that concern images here.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::session::{REPOSITORY, Session};
use super::{contains, same};
use crate::cri::Cri;

const HEADING: &str = "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE";

pub fn none_yet(session: &mut Session) -> Result<()> {
    same(
        "docker images",
        session.docker.text(&["images"])?,
        HEADING.to_owned(),
    )?;
    let answer = session.docker.request("GET", "/images/json", &[])?;
    same(
        "content type",
        answer.header("content-type"),
        Some("application/json"),
    )?;
    same("body", answer.body.as_str(), "[]\n")
}

pub fn inspect_missing(session: &mut Session) -> Result<()> {
    let said = session
        .docker
        .refusal(&["image", "inspect", "nobody/nothing:1"])?;
    contains(
        "docker image inspect",
        &said,
        "No such image: nobody/nothing:1",
    )?;
    let answer = session
        .docker
        .request("GET", "/images/nobody/nothing:1/json", &[])?;
    same("status", answer.status, 404)?;
    same(
        "body",
        answer.body.as_str(),
        "{\"message\":\"No such image: nobody/nothing:1\"}\n",
    )
}

/// The short digest of a layer as it is stored.
fn layer_ids(session: &Session) -> Vec<String> {
    let layers = session.image.layers.iter();
    layers
        .map(|layer| layer.digest.hex().chars().take(12).collect())
        .collect()
}

pub fn pull(session: &mut Session) -> Result<()> {
    let name = session.reference(":one");
    let told = session.docker.lines(&["pull", &name])?;
    let first = told.first().context("nothing was told")?;
    let expected = format!("one: Pulling from {REPOSITORY}");
    same("first line", first, &expected)?;
    for layer in layer_ids(session) {
        for status in ["Pulling fs layer", "Download complete", "Pull complete"] {
            let line = format!("{layer}: {status}");
            ensure!(told.contains(&line), "no {line:?} in {told:?}");
        }
    }
    let end = [
        format!("Digest: {}", session.image.manifest_digest),
        format!("Status: Downloaded newer image for {name}"),
        name,
    ];
    ensure!(told.ends_with(&end), "{told:?} does not end with {end:?}");
    Ok(())
}

pub fn pull_again(session: &mut Session) -> Result<()> {
    let name = session.reference(":one");
    let told = session.docker.text(&["pull", &name])?;
    contains(
        "docker pull",
        &told,
        &format!("Status: Image is up to date for {name}"),
    )?;
    // Another tag of the same image is new, and no layer is.
    let name = session.reference(":two");
    let told = session.docker.text(&["pull", &name])?;
    contains("docker pull", &told, "Already exists")?;
    contains(
        "docker pull",
        &told,
        &format!("Status: Downloaded newer image for {name}"),
    )
}

pub fn pull_by_digest(session: &mut Session) -> Result<()> {
    let digest = session.image.manifest_digest.to_string();
    let name = session.reference(&format!("@{digest}"));
    let told = session.docker.text(&["pull", &name])?;
    contains("docker pull", &told, &format!("{digest}: Pulling from "))?;
    contains("docker pull", &told, &format!("Digest: {digest}"))?;
    session
        .docker
        .text(&["pull", &session.reference(":small")])
        .map(drop)
}

pub fn pull_missing(session: &mut Session) -> Result<()> {
    let name = session.reference(":three");
    let said = session.docker.refusal(&["pull", &name])?;
    contains(
        "docker pull",
        &said,
        &format!("manifest for {name} not found: manifest unknown: manifest unknown"),
    )
}

pub fn pull_from_nowhere(session: &mut Session) -> Result<()> {
    let answer =
        session
            .docker
            .request("POST", "/images/create?fromImage=127.0.0.1:9/x&tag=1", &[])?;
    same("status", answer.status, 500)?;
    let message = answer.json()?["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    contains("the message", &message, "127.0.0.1:9")
}

pub fn pull_other_platform(session: &mut Session) -> Result<()> {
    let name = session.reference(":one");
    let said = session
        .docker
        .refusal(&["pull", "--platform", "linux/s390x", &name])?;
    contains("docker pull", &said, "linux/s390x")
}

pub fn list(session: &mut Session) -> Result<()> {
    let format = "{{.Repository}}|{{.Tag}}|{{.ID}}";
    let mut told = session.docker.lines(&["images", "--format", format])?;
    told.sort();
    let (id, small) = (
        Session::short_id(&session.image),
        Session::short_id(&session.small),
    );
    let repository = session.reference("");
    let mut expected = vec![
        format!("{repository}|one|{id}"),
        format!("{repository}|small|{small}"),
        format!("{repository}|two|{id}"),
    ];
    expected.sort();
    same("docker images", told, expected)?;
    let digests = session.docker.text(&["images", "--digests"])?;
    contains(
        "--digests",
        &digests,
        session.image.manifest_digest.as_str(),
    )?;
    let all = session.docker.request("GET", "/images/json", &[])?.json()?;
    let listed = all.as_array().context("no list")?;
    same("images", listed.len(), 2)?;
    for image in listed {
        ensure!(image["Size"].as_u64() > Some(100_000), "size: {image}");
        same("SharedSize", image["SharedSize"].as_i64(), Some(-1))?;
    }
    let old = session
        .docker
        .request("GET", "/v1.43/images/json", &[])?
        .json()?;
    ensure!(
        old[0]["VirtualSize"].is_u64(),
        "old clients read VirtualSize: {old}"
    );
    Ok(())
}

pub fn filter(session: &mut Session) -> Result<()> {
    let (id, small) = (
        Session::short_id(&session.image),
        Session::short_id(&session.small),
    );
    for (filter, expected) in [
        ("label=tier=front", vec![&id, &id]),
        ("label=tier", vec![&id, &id]),
        ("label=tier=back", vec![]),
        ("reference=*/crew/busybox:s*", vec![&small]),
        ("reference=nothing", vec![]),
        ("dangling=true", vec![]),
    ] {
        let told = session
            .docker
            .lines(&["images", "-q", "--filter", filter])?;
        same(filter, told.iter().collect::<Vec<_>>(), expected)?;
    }
    let named = session
        .docker
        .lines(&["images", "-q", &session.reference(":small")])?;
    same("docker images NAME", named, vec![small])?;
    let said = session
        .docker
        .refusal(&["images", "--filter", "nonsense=1"])?;
    contains("an unknown filter", &said, "invalid filter 'nonsense'")
}

pub fn inspect(session: &mut Session) -> Result<()> {
    let name = session.reference(":one");
    let told = session.docker.json(&["image", "inspect", &name])?;
    let image = &told[0];
    let id = session.image.config_digest.to_string();
    same("Id", image["Id"].as_str(), Some(id.as_str()))?;
    same("Cmd", image["Config"]["Cmd"][0].as_str(), Some("sh"))?;
    let variable = image["Config"]["Env"][1].as_str();
    same("Env", variable, Some("FROM_IMAGE=yes"))?;
    same("Os", image["Os"].as_str(), Some("linux"))?;
    same(
        "label",
        image["Config"]["Labels"]["tier"].as_str(),
        Some("front"),
    )?;
    let layers = image["RootFS"]["Layers"].as_array().map(Vec::len);
    same("layers", layers, Some(2))?;
    let digest = session.reference(&format!("@{}", session.image.manifest_digest));
    same(
        "RepoDigests",
        &image["RepoDigests"],
        &Value::from(vec![digest]),
    )?;
    // By a short id, and by a template that names a field without a value.
    let short = Session::short_id(&session.image);
    let told = session
        .docker
        .text(&["inspect", "--format", "{{.Config.Entrypoint}}", &short])?;
    same("a template", told, "[]".to_owned())
}

pub fn history(session: &mut Session) -> Result<()> {
    let name = session.reference(":one");
    let told = session
        .docker
        .lines(&["history", "--quiet", "--no-trunc", &name])?;
    let id = session.image.config_digest.to_string();
    same("the first step", told.first(), Some(&id))?;
    ensure!(
        told.iter().skip(1).all(|step| step == "<missing>"),
        "{told:?}"
    );
    let answer = session
        .docker
        .request("GET", &format!("/images/{name}/history"), &[])?;
    let steps = answer.json()?;
    let sizes = steps.as_array().context("no steps")?.iter();
    let total: u64 = sizes.filter_map(|step| step["Size"].as_u64()).sum();
    ensure!(total > 100_000, "sizes of steps: {steps}");
    Ok(())
}

pub fn at_the_other_door(session: &mut Session) -> Result<()> {
    let mut cri = Cri::connect(&session.place.socket())?;
    let listed = cri.images()?;
    let id = session.image.config_digest.to_string();
    let found = listed.iter().find(|image| image.id == id);
    let tags = &found.context("the CRI does not list it")?.repo_tags;
    ensure!(tags.contains(&session.reference(":one")), "{tags:?}");
    Ok(())
}

pub fn tag(session: &mut Session) -> Result<()> {
    let name = session.reference(":one");
    for further in ["local", "local:2", "other.example.com/team/app:v1"] {
        session.docker.text(&["tag", &name, further])?;
    }
    let told = session
        .docker
        .lines(&["images", "--format", "{{.Repository}}:{{.Tag}}"])?;
    for shown in ["local:latest", "local:2", "other.example.com/team/app:v1"] {
        ensure!(
            told.iter().any(|line| line == shown),
            "no {shown} in {told:?}"
        );
    }
    // A name that moves to another image.
    session
        .docker
        .text(&["tag", &session.reference(":small"), "local:2"])?;
    let id = session.docker.text(&["images", "-q", "local:2"])?;
    same("local:2", id, Session::short_id(&session.small))
}

pub fn tag_missing(session: &mut Session) -> Result<()> {
    let said = session.docker.refusal(&["tag", "nobody/nothing", "x"])?;
    contains("docker tag", &said, "No such image: nobody/nothing:latest")?;
    let said = session
        .docker
        .refusal(&["tag", &session.reference(":one"), "UPPER"])?;
    contains(
        "docker tag",
        &said.to_lowercase(),
        "invalid reference format",
    )
}

pub fn untag(session: &mut Session) -> Result<()> {
    for name in ["local:2", "other.example.com/team/app:v1"] {
        let told = session.docker.text(&["rmi", name])?;
        same("docker rmi", told, format!("Untagged: {name}"))?;
    }
    session
        .docker
        .text(&["image", "inspect", &session.reference(":one")])
        .map(drop)
}

pub fn remove_in_two_repositories(session: &mut Session) -> Result<()> {
    let short = Session::short_id(&session.image);
    let said = session.docker.refusal(&["rmi", &short])?;
    let expected = format!(
        "conflict: unable to delete {short} (must be forced) - image is referenced in multiple \
         repositories"
    );
    contains("docker rmi", &said, &expected)?;
    let path = format!("/images/{short}");
    same(
        "status",
        session.docker.request("DELETE", &path, &[])?.status,
        409,
    )?;
    session.docker.text(&["rmi", "local:latest"]).map(drop)
}

pub fn remove_by_id(session: &mut Session) -> Result<()> {
    let short = Session::short_id(&session.image);
    let told = session.docker.lines(&["rmi", &short])?;
    let id = session.image.config_digest.to_string();
    for name in [":one", ":two"] {
        let line = format!("Untagged: {}", session.reference(name));
        ensure!(told.contains(&line), "no {line:?} in {told:?}");
    }
    same(
        "the last line",
        told.last(),
        Some(&format!("Deleted: {id}")),
    )?;
    let left = session.docker.lines(&["images", "-q"])?;
    same(
        "what is left",
        left,
        vec![Session::short_id(&session.small)],
    )
}

pub fn remove_missing(session: &mut Session) -> Result<()> {
    let said = session.docker.refusal(&["rmi", REPOSITORY])?;
    contains(
        "docker rmi",
        &said,
        &format!("No such image: {REPOSITORY}:latest"),
    )
}

/// An image whose only tag moved away, and that nothing names by digest either.
pub fn prune_dangling(session: &mut Session) -> Result<()> {
    session
        .docker
        .text(&["pull", "--quiet", &session.reference(":one")])?;
    session
        .docker
        .text(&["pull", "--quiet", &session.reference(":small")])?;
    session
        .docker
        .text(&["tag", &session.reference(":small"), "moving:1"])?;
    session
        .docker
        .text(&["rmi", &session.reference(":small")])?;
    session
        .docker
        .text(&["tag", &session.reference(":one"), "moving:1"])?;
    let dangling = session
        .docker
        .lines(&["images", "-q", "--filter", "dangling=true"])?;
    let small = Session::short_id(&session.small);
    ensure!(dangling.contains(&small), "{dangling:?} has no {small}");
    let told = session.docker.text(&["image", "prune", "--force"])?;
    contains(
        "docker image prune",
        &told,
        &format!("deleted: {}", session.small.config_digest),
    )?;
    contains("docker image prune", &told, "Total reclaimed space:")?;
    session
        .docker
        .text(&["image", "inspect", "moving:1"])
        .map(drop)
}

pub fn prune_all(session: &mut Session) -> Result<()> {
    let told = session
        .docker
        .text(&["image", "prune", "--all", "--force"])?;
    contains(
        "docker image prune",
        &told,
        &format!("deleted: {}", session.image.config_digest),
    )?;
    same(
        "docker images",
        session.docker.text(&["images"])?,
        HEADING.to_owned(),
    )
}
