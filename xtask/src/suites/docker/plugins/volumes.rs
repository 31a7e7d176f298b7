//! Volumes that a plugin has.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::shelf;
use crate::command::retry;
use crate::suites::checks::{contains, same};
use crate::suites::docker::session::{IMAGE, Session};

/// More than any answer takes with one plugin that hangs, which is waited for one second.
const SOON: Duration = Duration::from_secs(10);

/// What is asked of docker to make a container whose new volumes are a plugin's.
fn with_driver<'a>(
    verb: &'a str,
    driver: &'a str,
    options: &[&'a str],
    command: &[&'a str],
) -> Vec<&'a str> {
    let begin = [verb, "--volume-driver", driver];
    [&begin[..], options, &[IMAGE], command].concat()
}

pub fn info(session: &mut Session) -> Result<()> {
    let _shelf = shelf(session)?;
    let docker = &session.docker;
    let told = docker.text(&["info", "--format", "{{json .Plugins.Volume}}"])?;
    same("info", told.as_str(), r#"["local","shelf"]"#)
}

pub fn made(session: &mut Session) -> Result<()> {
    let shelf = shelf(session)?;
    let docker = &session.docker;
    let make = [
        "volume", "create", "-d", "shelf", "-o", "size=3", "--label", "for=us", "books",
    ];
    same("create", docker.text(&make)?.as_str(), "books")?;
    let asked = shelf.asked("VolumeDriver.Create")?;
    let expected = serde_json::json!({"Name": "books", "Opts": {"size": "3"}});
    same("the plugin is asked", &asked[..], &[expected][..])?;
    let told = docker.json(&["volume", "inspect", "books"])?[0].clone();
    for (field, expected) in [
        ("Driver", "\"shelf\""),
        ("Scope", "\"global\""),
        ("Status", "{\"size\":\"3\"}"),
        ("Options", "{\"size\":\"3\"}"),
        ("Labels", "{\"for\":\"us\"}"),
        ("Mountpoint", "\"\""),
        ("CreatedAt", "\"2026-01-02T03:04:05Z\""),
    ] {
        same(field, told[field].to_string().as_str(), expected)?;
    }
    let list = [
        "volume",
        "ls",
        "--filter",
        "driver=shelf",
        "--format",
        "{{.Driver}} {{.Name}}",
    ];
    same("ls", docker.text(&list)?.as_str(), "shelf books")?;
    // Again it is the same one; of another driver it cannot be.
    docker.text(&make)?;
    same("made", shelf.asked("VolumeDriver.Create")?.len(), 1)?;
    let other = docker.refusal(&["volume", "create", "-d", "local", "books"])?;
    contains(
        "another driver",
        &other,
        "already exists with the shelf driver",
    )?;
    docker.text(&["volume", "rm", "books"])?;
    same("ls", docker.text(&list)?.as_str(), "")
}

pub fn mounted(session: &mut Session) -> Result<()> {
    let shelf = shelf(session)?;
    let docker = &session.docker;
    let run = |name: &str, line: &str| {
        let options = [
            "-d",
            "--name",
            name,
            "-v",
            "notes:/n",
            "-v",
            "notes:/again:ro",
        ];
        docker.text(&with_driver("run", "shelf", &options, &["sh", "-c", line]))
    };
    let first = run("first", "echo written > /n/f; exec sleep 1000")?;
    let second = run("second", "sleep 1000")?;
    let mut expected = vec![first.clone(), second.clone()];
    expected.sort();
    let mut holders = shelf.holders("notes")?;
    holders.sort();
    same("holders", holders, expected)?;
    let seen = docker.text(&["exec", "second", "cat", "/again/f"])?;
    same("the other's file", seen.as_str(), "written")?;
    let form = "{{range .Mounts}}{{.Type}} {{.Driver}} {{.Name}} {{.Destination}};{{end}}";
    let told = docker.text(&["inspect", "-f", form, "first"])?;
    contains("inspect", &told, "volume shelf notes /n;")?;
    let in_use = docker.refusal(&["volume", "rm", "notes"])?;
    contains("rm", &in_use, "volume is in use")?;
    docker.text(&["stop", "-t", "0", "first"])?;
    same("holders", shelf.holders("notes")?, vec![second])?;
    docker.text(&["start", "first"])?;
    same("holders", shelf.holders("notes")?.len(), 2)?;
    docker.text(&["rm", "-f", "first", "second"])?;
    same("holders", shelf.holders("notes")?, Vec::<String>::new())?;
    docker.text(&["volume", "rm", "notes"]).map(drop)
}

pub fn filled(session: &mut Session) -> Result<()> {
    let shelf = shelf(session)?;
    let docker = &session.docker;
    docker.text(&with_driver(
        "run",
        "shelf",
        &["--rm", "-v", "full:/etc"],
        &["true"],
    ))?;
    ensure!(shelf.file("full", "passwd").exists(), "nothing was copied");
    same("holders", shelf.holders("full")?, Vec::<String>::new())?;
    // Nobody names the driver: what is there under that name is meant.
    fs::write(shelf.file("full", "mine"), "kept")?;
    let seen = docker.text(&["run", "--rm", "-v", "full:/x", IMAGE, "cat", "/x/mine"])?;
    same("by its name alone", seen.as_str(), "kept")?;
    docker.text(&["volume", "rm", "full"]).map(drop)
}

pub fn at_rest(session: &mut Session) -> Result<()> {
    let shelf = shelf(session)?;
    let docker = &session.docker;
    let options = ["--name", "rests", "-v", "drawer:/d"];
    docker.text(&with_driver("create", "shelf", &options, &["true"]))?;
    fs::write(shelf.file("drawer", "note"), "inside")?;
    let to = session.place.scratch().join("copied");
    let to = to.to_str().context("a path of ours")?;
    docker.text(&["cp", "rests:/d/note", to])?;
    same("copied", fs::read_to_string(to)?.as_str(), "inside")?;
    docker.text(&["cp", to, "rests:/d/back"])?;
    ensure!(
        shelf.file("drawer", "back").exists(),
        "it was not copied back"
    );
    retry(SOON, || {
        same("holders", shelf.holders("drawer")?, Vec::<String>::new())
    })?;
    docker.text(&["rm", "rests"])?;
    docker.text(&["volume", "rm", "drawer"]).map(drop)
}

pub fn killed(session: &mut Session) -> Result<()> {
    let shelf = shelf(session)?;
    let run = |name: &str| {
        let options = ["-d", "--name", name, "-v", "left:/l"];
        let line = with_driver("run", "shelf", &options, &["sleep", "1000"]);
        session.docker.text(&line)
    };
    let (stays, _ends) = (run("stays")?, run("ends")?);
    let pid = session
        .docker
        .text(&["inspect", "-f", "{{.State.Pid}}", "ends"])?;
    session.restart_daemon_after(|| {
        let pid = rustix::process::Pid::from_raw(pid.parse()?).context("a pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).context("killing it")
    })?;
    retry(SOON, || {
        same("holders", shelf.holders("left")?, vec![stays.clone()])
    })?;
    let docker = &session.docker;
    docker.text(&["exec", "stays", "touch", "/l/f"])?;
    docker.text(&["rm", "-f", "stays", "ends"])?;
    same("holders", shelf.holders("left")?, Vec::<String>::new())?;
    docker.text(&["volume", "rm", "left"]).map(drop)
}

pub fn refused(session: &mut Session) -> Result<()> {
    let _shelf = shelf(session)?;
    let docker = &session.docker;
    let said = docker.refusal(&["volume", "create", "-d", "nobody", "vase"])?;
    let missing = "create vase: error looking up volume plugin nobody: plugin \"nobody\" not found";
    contains("no such plugin", &said, missing)?;
    let run = with_driver("run", "nobody", &["--rm", "-v", "vase:/v"], &["true"]);
    contains("run", &docker.refusal(&run)?, missing)?;
    let said = docker.refusal(&[
        "volume",
        "create",
        "-d",
        "shelf",
        "-o",
        "shape=round",
        "vase",
    ])?;
    contains(
        "its own words",
        &said,
        "create vase: VolumeDriver.Create: shapes are not known here",
    )?;
    same(
        "ls",
        docker
            .text(&["volume", "ls", "-q", "--filter", "driver=shelf"])?
            .as_str(),
        "",
    )
}

pub fn bad(session: &mut Session) -> Result<()> {
    let shelf = shelf(session)?;
    let docker = &session.docker;
    docker.text(&["volume", "create", "-d", "shelf", "held"])?;
    let run = [
        "run", "--rm", "--name", "unlucky", "-v", "held:/h", IMAGE, "true",
    ];
    shelf.behave(&[("VolumeDriver.Mount", "garbage")])?;
    let said = docker.refusal(&run)?;
    contains(
        "garbage",
        &said,
        "plugin \"shelf\" answered VolumeDriver.Mount with no JSON: <html>",
    )?;
    shelf.behave(&[("VolumeDriver.Mount", "refuse")])?;
    contains(
        "refusal",
        &docker.refusal(&run)?,
        "VolumeDriver.Mount: not today",
    )?;
    shelf.behave(&[("VolumeDriver.List", "hang"), ("VolumeDriver.Get", "hang")])?;
    let began = Instant::now();
    let listed = docker.output(&[
        "volume",
        "ls",
        "--filter",
        "driver=shelf",
        "--format",
        "{{.Name}} {{.Driver}}",
    ])?;
    let text = String::from_utf8_lossy(&listed.stdout).trim().to_owned();
    same("what is known of it", text.as_str(), "held shelf")?;
    let answer = docker.request("GET", "/volumes", &[])?.json()?;
    contains(
        "the warning",
        &answer["Warnings"].to_string(),
        "volume plugin shelf: ",
    )?;
    docker.text(&["ps", "-a"])?;
    let said = docker.refusal(&["volume", "inspect", "held"])?;
    contains(
        "inspect",
        &said,
        "has not answered VolumeDriver.Get within 1 s",
    )?;
    ensure!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    shelf.behave(&[("VolumeDriver.Mount", "die")])?;
    contains(
        "death",
        &docker.refusal(&run)?,
        "broke off its answer to VolumeDriver.Mount",
    )?;
    // Whether it had mounted it nobody knows: once it is back it is asked to unmount.
    let shelf = super::shelf(session)?;
    retry(SOON, || {
        let asked = shelf.asked("VolumeDriver.Unmount")?;
        ensure!(!asked.is_empty(), "it was not asked to unmount");
        Ok(())
    })?;
    same("run", docker.output(&run)?.status.code(), Some(0))?;
    drop(shelf);
    contains(
        "away",
        &docker.refusal(&["volume", "rm", "held"])?,
        "error looking up volume plugin",
    )?;
    docker.text(&["volume", "rm", "-f", "held"])?;
    same(
        "ls",
        docker
            .text(&["volume", "ls", "-q", "--filter", "driver=shelf"])?
            .as_str(),
        "",
    )?;
    same("containers", docker.text(&["ps", "-aq"])?.as_str(), "")
}
