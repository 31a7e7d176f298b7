//! Steps that concern archives of images and of file systems.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::session::Session;
use super::{contains, same};
use crate::command::{run, stdout};

fn scratch(session: &Session, name: &str) -> PathBuf {
    session.place.scratch().join(name)
}

fn text(path: &std::path::Path) -> String {
    path.display().to_string()
}

/// Unpacks an archive, or packs a directory, with the system's tar.
fn tar(mode: &str, archive: &std::path::Path, directory: &std::path::Path) -> Result<()> {
    let mut command = Command::new("tar");
    command
        .arg("-C")
        .arg(directory)
        .arg(mode)
        .arg("-f")
        .arg(archive);
    if mode == "-c" {
        command.arg(".");
    }
    run(&mut command)
}

pub fn save_and_load(session: &mut Session) -> Result<()> {
    let name = session.reference(":one");
    session.docker.text(&["pull", "--quiet", &name])?;
    let archive = scratch(session, "one.tar");
    session
        .docker
        .text(&["save", "--output", &text(&archive), &name])?;
    let listed = stdout(Command::new("tar").arg("-tf").arg(&archive))?;
    for member in ["oci-layout", "index.json", "manifest.json", "repositories"] {
        ensure!(
            listed.lines().any(|line| line == member),
            "no {member} in {listed}"
        );
    }
    session.docker.text(&["rmi", &name])?;
    let told = session.docker.text(&["load", "--input", &text(&archive)])?;
    same("docker load", told, format!("Loaded image: {name}"))?;
    let id = session
        .docker
        .text(&["images", "-q", "--no-trunc", &name])?;
    same("the id", id, session.image.config_digest.to_string())?;
    // By id there is no name in the archive.
    let short = Session::short_id(&session.image);
    session
        .docker
        .text(&["save", "--output", &text(&archive), &short])?;
    session.docker.text(&["rmi", &name])?;
    let told = session.docker.text(&["load", "--input", &text(&archive)])?;
    let id = session.image.config_digest.to_string();
    same("docker load", told, format!("Loaded image ID: {id}"))?;
    session.docker.text(&["tag", &id, &name]).map(drop)
}

pub fn save_two(session: &mut Session) -> Result<()> {
    let (one, small) = (session.reference(":one"), session.reference(":small"));
    session.docker.text(&["pull", "--quiet", &small])?;
    let archive = scratch(session, "two.tar");
    session
        .docker
        .text(&["save", "--output", &text(&archive), &one, &small])?;
    let directory = scratch(session, "two");
    fs::create_dir(&directory).context("creating a directory")?;
    tar("-x", &archive, &directory)?;
    let read = fs::read_to_string(directory.join("manifest.json")).context("manifest.json")?;
    let entries: Value = serde_json::from_str(&read).context("manifest.json")?;
    same("images", entries.as_array().map(Vec::len), Some(2))?;
    session.docker.text(&["rmi", &one, &small])?;
    let told = session
        .docker
        .lines(&["load", "--input", &text(&archive)])?;
    let expected = [&one, &small].map(|name| format!("Loaded image: {name}"));
    same("docker load", told, expected.to_vec())
}

pub fn load_compressed(session: &mut Session) -> Result<()> {
    let archive = scratch(session, "two.tar");
    run(Command::new("gzip")
        .arg("--keep")
        .arg("--fast")
        .arg(&archive))?;
    let one = session.reference(":one");
    session.docker.text(&["rmi", &one])?;
    let packed = archive.with_extension("tar.gz");
    let told = session.docker.text(&["load", "--input", &text(&packed)])?;
    contains("docker load", &told, &format!("Loaded image: {one}"))
}

/// As Docker wrote them before version 25: layers by directory, one of them a link to another.
pub fn load_old(session: &mut Session) -> Result<()> {
    let directory = scratch(session, "old");
    let layer = directory.join("first");
    fs::create_dir_all(&layer).context("creating a directory")?;
    let content = scratch(session, "content");
    fs::create_dir_all(content.join("etc")).context("creating a directory")?;
    fs::write(content.join("etc/old"), "old\n").context("writing a file")?;
    tar("-c", &layer.join("layer.tar"), &content)?;
    fs::create_dir(directory.join("second")).context("creating a directory")?;
    std::os::unix::fs::symlink("../first/layer.tar", directory.join("second/layer.tar"))
        .context("linking a layer")?;
    let bytes = fs::read(layer.join("layer.tar")).context("reading a layer")?;
    let diff = berth_names::Digest::sha256_of(&bytes);
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Cmd": ["/bin/old"] },
        "rootfs": { "type": "layers", "diff_ids": [diff, diff] },
    });
    let manifest = json!([{
        "Config": "config.json",
        "RepoTags": ["old/image:1"],
        "Layers": ["first/layer.tar", "second/layer.tar"],
    }]);
    fs::write(directory.join("config.json"), config.to_string()).context("writing a config")?;
    fs::write(directory.join("manifest.json"), manifest.to_string()).context("a manifest")?;
    let archive = scratch(session, "old.tar");
    tar("-c", &archive, &directory)?;
    let told = session.docker.text(&["load", "--input", &text(&archive)])?;
    same("docker load", told, "Loaded image: old/image:1".to_owned())?;
    let cmd = session
        .docker
        .text(&["inspect", "--format", "{{.Config.Cmd}}", "old/image:1"])?;
    same("its command", cmd, "[/bin/old]".to_owned())
}

pub fn load_garbage(session: &mut Session) -> Result<()> {
    let archive = scratch(session, "garbage.tar");
    fs::write(&archive, vec![7; 10_000]).context("writing garbage")?;
    let said = session
        .docker
        .refusal(&["load", "--input", &text(&archive)])?;
    contains("docker load", &said, "no tar archive of images")?;
    let directory = scratch(session, "empty");
    fs::create_dir(&directory).context("creating a directory")?;
    tar("-c", &archive, &directory)?;
    let said = session
        .docker
        .refusal(&["load", "--input", &text(&archive)])?;
    contains("docker load", &said, "manifest.json")
}

pub fn import(session: &mut Session) -> Result<()> {
    let archive = scratch(session, "root.tar");
    tar("-c", &archive, &scratch(session, "content"))?;
    let mut child = session
        .docker
        .command(&[
            "import",
            "--message",
            "by hand",
            "--change",
            "CMD [\"/bin/x\", \"-y\"]",
            "--change",
            "ENV A=1",
            "-",
            "imported:1",
        ])
        .stdin(Stdio::from(
            File::open(&archive).context("opening the archive")?,
        ))
        .stdout(Stdio::piped())
        .spawn()
        .context("starting docker import")?;
    let mut told = String::new();
    let output = child.stdout.as_mut().context("its output")?;
    std::io::Read::read_to_string(output, &mut told).context("reading its output")?;
    ensure!(
        child.wait().context("docker import")?.success(),
        "docker import failed"
    );
    let id = told.trim();
    ensure!(id.starts_with("sha256:"), "docker import said {told:?}");
    let format = "{{.Id}} {{.Config.Cmd}} {{.Config.Env}} {{.Comment}}";
    let shown = session
        .docker
        .text(&["inspect", "--format", format, "imported:1"])?;
    same(
        "docker inspect",
        shown,
        format!("{id} [/bin/x -y] [A=1] by hand"),
    )?;
    let mut bad = File::create(scratch(session, "bad.tar")).context("creating an archive")?;
    bad.write_all(b"not an archive at all")
        .context("writing it")?;
    let bad = text(&scratch(session, "bad.tar"));
    session.docker.refusal(&["import", &bad, "bad:1"])?;
    let none = session.docker.lines(&["images", "-q", "bad"])?;
    same("what a bad archive leaves", none, Vec::new())
}
