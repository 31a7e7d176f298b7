//! Builds for other platforms than this machine's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::builds::context;
use super::{Step, berth, contains, ended, same};
use crate::command::stdout;
use crate::suites::docker::session::Session;

pub const STEPS: &[(&str, Step)] = &[
    (
        "platforms: several are built, and pushed under one name",
        pushed,
    ),
    ("platforms: each build takes its own base", bases),
    ("platforms: several are written as one layout", written),
    (
        "platforms: commands that nothing runs are refused before anything is done",
        refused,
    ),
    ("platforms: compose builds and pushes several", composed),
];

const BOTH: &str = "linux/amd64,linux/arm64";
const REPOSITORY: &str = "made/several";

fn reference(session: &Session, name: &str) -> String {
    format!("{}/{name}", session.registry.address())
}

/// A stage of this machine that compiles for the other, in its manner.
fn project(session: &Session) -> Result<PathBuf> {
    let base = session.reference(":one");
    let text = format!(
        "FROM --platform=$BUILDPLATFORM {base} AS made\nRUN echo common > /common\n\
         ARG TARGETARCH BUILDARCH\nRUN echo \"for $TARGETARCH on $BUILDARCH\" > /made\n\
         FROM scratch\nARG TARGETPLATFORM\nLABEL for=$TARGETPLATFORM\n\
         COPY --from=made /common /made /\nCMD [\"/made\"]\n"
    );
    context(session, "several", &[("Dockerfile", &text)])
}

fn build(session: &Session, directory: &Path, more: &[&str]) -> Result<String> {
    let directory = directory.display().to_string();
    let plain = ["build", "--progress", "plain"];
    let (code, _, err) = ended(session, &[&plain, more, &[&directory]].concat())?;
    ensure!(code == 0, "berth build ended with {code}: {err}");
    Ok(err)
}

/// `architecture` of each image of an index, with its digest.
fn members(index: &Value) -> Vec<(String, String)> {
    let all = index["manifests"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.map(|one| {
        let platform = &one["platform"];
        (text(&platform["architecture"]), text(&one["digest"]))
    })
    .collect()
}

fn architectures(index: &Value) -> Vec<String> {
    members(index).into_iter().map(|(name, _)| name).collect()
}

fn pushed(session: &mut Session) -> Result<()> {
    let directory = project(session)?;
    let name = reference(session, &format!("{REPOSITORY}:1"));
    let told = session.place.scratch().join("several.json");
    let told = told.display().to_string();
    let tag = ["--platform", BOTH, "-t", &name];
    let push = ["--push", "--metadata-file", &told];
    let err = build(session, &directory, &[&tag[..], &push].concat())?;
    contains("the second", &err, "Building for linux/arm64")?;
    let common = err.matches("RUN echo common").count();
    ensure!(common >= 2 && err.contains("CACHED"), "done twice: {err}");
    let remote = session.registry.remote();
    let index: Value = serde_json::from_slice(&remote.manifest(REPOSITORY, "1")?)?;
    same(
        "platforms",
        architectures(&index),
        vec!["amd64".into(), "arm64".into()],
    )?;
    let told: Value = serde_json::from_slice(&fs::read(&told)?)?;
    let digest = told["containerimage.digest"].as_str().context("a digest")?;
    let by_digest: Value = serde_json::from_slice(&remote.manifest(REPOSITORY, digest)?)?;
    same("by its digest", by_digest, index)?;
    let (code, _, err) = ended(session, &["build", "--platform", BOTH, "-t", "x", "."])?;
    same("exit code", code, 1)?;
    contains("several that are to stay here", &err, "type=oci")?;
    let named = berth(session, &["images", "-q", &name])?;
    same("images of that name here", named.as_str(), "")
}

fn inspected(session: &Session, image: &str) -> Result<String> {
    let format = "{{.Architecture}} {{index .Config.Labels \"for\"}}";
    berth(session, &["image", "inspect", "-f", format, image])
}

fn bases(session: &mut Session) -> Result<()> {
    let base = reference(session, &format!("{REPOSITORY}:1"));
    let text = format!("FROM {base}\nCOPY Dockerfile /\n");
    let directory = context(session, "on-several", &[("Dockerfile", &text)])?;
    build(session, &directory, &["-t", "on/own"])?;
    let platform = ["--platform", "linux/arm64"];
    build(
        session,
        &directory,
        &[&platform[..], &["-t", "on/arm64"]].concat(),
    )?;
    same(
        "the own",
        inspected(session, "on/own")?.as_str(),
        "amd64 linux/amd64",
    )?;
    let other = "arm64 linux/arm64";
    same("the other", inspected(session, "on/arm64")?.as_str(), other)?;
    // What the base's name means is what it was.
    same(
        "the base",
        inspected(session, &base)?.as_str(),
        "amd64 linux/amd64",
    )?;
    let files = session.place.scratch().join("of-arm64");
    let output = files.display().to_string();
    build(
        session,
        &directory,
        &[&platform[..], &["-o", &output]].concat(),
    )?;
    let made = fs::read_to_string(files.join("made"))?;
    same("its files", made.as_str(), "for arm64 on amd64\n")?;
    let create = ["create", "--platform", "linux/arm64", "on/own"];
    let (code, _, err) = ended(session, &create)?;
    ensure!(
        code != 0,
        "a container for arm64 has an image for amd64: {err}"
    );
    berth(session, &["pull", "--platform", "linux/arm64", &base])?;
    same("pulled", inspected(session, &base)?.as_str(), other)?;
    berth(session, &["pull", &base])?;
    same(
        "pulled again",
        inspected(session, &base)?.as_str(),
        "amd64 linux/amd64",
    )?;
    let (code, _, err) = ended(session, &["pull", "--platform", "linux/s390x", &base])?;
    same("exit code", code, 1)?;
    contains("what there is", &err, "linux/arm64")
}

fn written(session: &mut Session) -> Result<()> {
    let directory = project(session)?;
    let scratch = session.place.scratch().to_owned();
    let layout = scratch.join("several-layout");
    let output = format!("type=oci,tar=false,dest={}", layout.display());
    let tag = ["--platform", BOTH, "-t", "several/written:1"];
    build(session, &directory, &[&tag[..], &["-o", &output]].concat())?;
    let read = |path: &Path| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let top = read(&layout.join("index.json"))?;
    let digest = top["manifests"][0]["digest"].as_str().context("a digest")?;
    let blob = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
    let index = read(&blob(digest))?;
    same(
        "platforms",
        architectures(&index),
        vec!["amd64".into(), "arm64".into()],
    )?;
    for (architecture, digest) in members(&index) {
        let manifest = read(&blob(&digest))?;
        let config = manifest["config"]["digest"].as_str().context("a config")?;
        let config = read(&blob(config))?;
        same(
            "a config",
            config["architecture"].as_str(),
            Some(architecture.as_str()),
        )?;
        for layer in manifest["layers"].as_array().into_iter().flatten() {
            let layer = layer["digest"].as_str().context("a layer")?;
            ensure!(blob(layer).exists(), "{layer} is not there");
        }
    }
    let archive = scratch.join("several.tar").display().to_string();
    let all = layout.display().to_string();
    stdout(Command::new("tar").args([
        "-C",
        &all,
        "-cf",
        &archive,
        "index.json",
        "oci-layout",
        "blobs",
    ]))?;
    berth(session, &["load", "-i", &archive])?;
    let own = inspected(session, "several/written:1")?;
    same("what is loaded", own.as_str(), "amd64 linux/amd64")?;
    let files = scratch.join("several-files");
    let output = files.display().to_string();
    build(session, &directory, &["--platform", BOTH, "-o", &output])?;
    for architecture in ["amd64", "arm64"] {
        let made = fs::read_to_string(files.join(format!("linux_{architecture}/made")))?;
        same("files", made, format!("for {architecture} on amd64\n"))?;
    }
    Ok(())
}

/// For a processor that no handler is registered for.
fn refused(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!(
        "FROM --platform=$BUILDPLATFORM {base} AS first\nRUN echo before-anything\n\
         FROM scratch\nCOPY --from=first /bin/sh /bin/sh\nRUN true\n"
    );
    let directory = context(session, "elsewhere-run", &[("Dockerfile", &text)])?;
    let directory = directory.display().to_string();
    let line = ["build", "--progress", "plain", "--no-cache"];
    let platform = ["--platform", "linux/sparc64", &directory];
    let (code, _, err) = ended(session, &[&line[..], &platform].concat())?;
    same("exit code", code, 1)?;
    contains("what is missing", &err, "binfmt_misc has no handler")?;
    contains("where", &err, "Dockerfile:5")?;
    ensure!(
        !err.contains("before-anything"),
        "something was done: {err}"
    );
    Ok(())
}

fn composed(session: &mut Session) -> Result<()> {
    let image = reference(session, "made/composed:1");
    let text = format!(
        "services:\n  app:\n    image: {image}\n    build:\n      context: .\n\
         \x20     platforms: [linux/amd64, linux/arm64]\n"
    );
    let files = [
        ("compose.yaml", text.as_str()),
        (
            "Dockerfile",
            "FROM scratch\nARG TARGETARCH\nLABEL for=$TARGETARCH\nCOPY a /\n",
        ),
        ("a", "a"),
    ];
    let directory = context(session, "composed-several", &files)?;
    let file = directory.join("compose.yaml").display().to_string();
    berth(session, &["compose", "-f", &file, "build"])?;
    same(
        "its own",
        inspected(session, &image)?.as_str(),
        "amd64 amd64",
    )?;
    berth(session, &["compose", "-f", &file, "build", "--push"])?;
    let manifest = session.registry.remote().manifest("made/composed", "1")?;
    let index: Value = serde_json::from_slice(&manifest)?;
    same(
        "platforms",
        architectures(&index),
        vec!["amd64".into(), "arm64".into()],
    )
}
