//! Steps that concern builds by the stock CLI without BuildKit.

mod clients;
mod instructions;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::session::Session;
use super::{Step, contains, same};
use crate::command::{end, retry, run};

const SOON: Duration = Duration::from_secs(10);

/// In order: later steps build on what earlier ones made.
pub const STEPS: &[(&str, Step)] = &[
    ("build of two stages with RUN and COPY runs", two_stages),
    (
        "the same build again is the same image, from the cache",
        again,
    ),
    (
        "a file that changed rebuilds what follows it, a new time does not",
        changed,
    ),
    (
        "stages run at the same time, and unreached ones not at all",
        stages,
    ),
    (
        "arguments, labels, a target and a name for the Dockerfile",
        arguments,
    ),
    ("a command that fails ends the build with its code", failing),
    ("what cannot be read is shown with its place", unreadable),
    (
        "what COPY and ADD make: owners, modes, links, patterns",
        instructions::copies,
    ),
    (
        "commands run as the user, in the directory, on the network asked for",
        instructions::runs,
    ),
    (
        "here-documents and mounts: cache, bind, tmpfs",
        instructions::mounts,
    ),
    (
        "triggers of a base image are carried out",
        instructions::triggers,
    ),
    (
        "a client that leaves ends the build, and nothing is left",
        leaving,
    ),
    (
        "docker, docker-py, compose and berth make the same image",
        clients::same_image,
    ),
    (
        "ADD unpacks what common programs pack, and fetches URLs",
        clients::added,
    ),
    ("a build is cancelled by its id", clients::cancelled),
    ("what is not done is refused", refused),
    (
        "the cache outlives the daemon, and prune empties it",
        kept_and_pruned,
    ),
];

/// A context, made anew.
fn context(session: &Session, files: &[(&str, &str)]) -> Result<PathBuf> {
    let directory = session.place.scratch().join("context");
    let _fresh = fs::remove_dir_all(&directory);
    for (name, text) in files {
        let path = directory.join(name);
        let parent = path.parent().context("a file in a directory")?;
        fs::create_dir_all(parent).context("creating a directory")?;
        fs::write(&path, text).with_context(|| format!("writing {name}"))?;
    }
    Ok(directory)
}

fn build(session: &Session, directory: &Path, more: &[&str]) -> Result<String> {
    let directory = directory.display().to_string();
    let arguments = [&["build"], more, &[&directory]].concat();
    session.docker.text(&arguments)
}

fn refusal(session: &Session, directory: &Path, more: &[&str]) -> Result<String> {
    let directory = directory.display().to_string();
    let arguments = [&["build"], more, &[&directory]].concat();
    session.docker.refusal(&arguments)
}

fn container(session: &Session, image: &str, command: &[&str]) -> Result<String> {
    let arguments = [&["run", "--rm", image], command].concat();
    session.docker.text(&arguments)
}

fn id(session: &Session, image: &str) -> Result<String> {
    let format = ["inspect", "--format", "{{.Id}}", image];
    session.docker.text(&format)
}

fn two_stages_text(session: &Session) -> String {
    let base = session.reference(":one");
    format!(
        "FROM {base} AS build\nWORKDIR /src\nCOPY . .\nARG GREETING=hello\n\
         RUN echo \"$GREETING from $(cat name)\" > /out && rm /etc/marker\n\
         FROM {base}\nENV KIND=built\nCOPY --from=build /out /srv/greeting\n\
         CMD cat /srv/greeting\n"
    )
}

fn dangling_images(session: &Session) -> Result<String> {
    let arguments = ["images", "--filter", "dangling=true", "-q"];
    session.docker.text(&arguments)
}

fn two_stages(session: &mut Session) -> Result<()> {
    session.have_daemon()?;
    let name = session.reference(":one");
    session.docker.text(&["pull", "--quiet", &name])?;
    let containers = session.docker.text(&["ps", "-aq"])?;
    let dangling = dangling_images(session)?;
    let text = two_stages_text(session);
    let directory = context(session, &[("Dockerfile", &text), ("name", "berth\n")])?;
    let told = build(
        session,
        &directory,
        &["-t", "built/app:1", "-t", "built/app:2"],
    )?;
    for part in [
        "Step 1/9 : FROM ",
        "Step 5/9 : RUN echo",
        "Step 9/9 : CMD cat",
        "Successfully built ",
        "Successfully tagged built/app:1",
        "Successfully tagged built/app:2",
    ] {
        contains("docker build", &told, part)?;
    }
    let said = container(session, "built/app:1", &[])?;
    same("what it says", said, "hello from berth".to_owned())?;
    let layers = "{{len .RootFS.Layers}}";
    let inspected = ["inspect", "--format", layers, "built/app:1"];
    same("layers", session.docker.text(&inspected)?, "3".to_owned())?;
    let history = session
        .docker
        .text(&["history", "--no-trunc", "built/app:1"])?;
    contains("history", &history, "COPY --from=build /out /srv/greeting")?;
    // Steps are nobody's images and nobody's containers.
    same("dangling images", dangling_images(session)?, dangling)?;
    same(
        "containers",
        session.docker.text(&["ps", "-aq"])?,
        containers,
    )
}

fn again(session: &mut Session) -> Result<()> {
    let before = id(session, "built/app:1")?;
    let directory = session.place.scratch().join("context");
    let began = Instant::now();
    let told = build(session, &directory, &["-t", "built/app:3"])?;
    println!(
        "    no-op build by the CLI: {} ms",
        began.elapsed().as_millis()
    );
    same("cached", told.matches("Using cache").count(), 6)?;
    same("the id", id(session, "built/app:3")?, before)?;
    let told = build(session, &directory, &["--no-cache", "-t", "built/app:1"])?;
    same("cached", told.matches("Using cache").count(), 0)
}

fn changed(session: &mut Session) -> Result<()> {
    let directory = session.place.scratch().join("context");
    let before = id(session, "built/app:1")?;
    run(Command::new("touch").arg(directory.join("name")))?;
    build(session, &directory, &["-t", "built/app:4"])?;
    same("after a touch", id(session, "built/app:4")?, before.clone())?;
    fs::write(directory.join("name"), "another\n").context("changing a file")?;
    let told = build(session, &directory, &["-t", "built/app:4"])?;
    ensure!(id(session, "built/app:4")? != before, "nothing was rebuilt");
    let (head, tail) = told.split_once("COPY . .").context("no COPY")?;
    contains("before it", head, "Using cache")?;
    contains("after it", tail, "Step 5/9")?;
    let said = container(session, "built/app:4", &[])?;
    same("what it says", said, "hello from another".to_owned())
}

fn stages(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let stage = |name: &str, wait: &str| {
        format!(
            "FROM {base} AS {name}\nRUN cut -d' ' -f1 /proc/uptime > /began; sleep {wait}; cut -d' ' -f1 /proc/uptime > /ended\n"
        )
    };
    let text = format!(
        "{}{}FROM {base} AS never\nRUN exit 3\nFROM {base}\nCOPY --from=a /began /ended /a/\n\
         COPY --from=b /began /ended /b/\n",
        stage("a", "0.6"),
        stage("b", "0.6"),
    );
    let directory = context(session, &[("Dockerfile", &text)])?;
    let told = build(session, &directory, &["-t", "built/stages:1"])?;
    ensure!(
        !told.contains("never"),
        "an unreached stage is built: {told}"
    );
    let (a, b) = (
        told.find("AS a").context("a")?,
        told.find("AS b").context("b")?,
    );
    ensure!(a < b, "stages are told in their order: {told}");
    let times = container(
        session,
        "built/stages:1",
        &["cat", "/a/began", "/a/ended", "/b/began", "/b/ended"],
    )?;
    let times: Vec<f64> = times.lines().map(str::parse).collect::<Result<_, _>>()?;
    let [a_began, a_ended, b_began, b_ended] = times[..] else {
        anyhow::bail!("times: {times:?}");
    };
    ensure!(
        a_began < b_ended && b_began < a_ended,
        "one after the other: {times:?}"
    );
    Ok(())
}

fn arguments(session: &mut Session) -> Result<()> {
    let text = "ARG BASE\nFROM $BASE AS first\nARG V=1.2.3\nENV MAJOR=${V%%.*} FULL=\"v$V\"\n\
                LABEL from=\"$BASE file\" arch=$TARGETARCH\nARG TARGETARCH\nLABEL arch=$TARGETARCH\n\
                EXPOSE 80 8000-8001/udp\nUSER 33\nSTOPSIGNAL SIGINT\nVOLUME /data\n\
                HEALTHCHECK --interval=5s CMD true\nENTRYPOINT [\"echo\"]\nCMD [\"x\"]\n\
                FROM first AS second\nRUN exit 1\n";
    let directory = context(session, &[("docker/File", text)])?;
    let base = format!("BASE={}", session.reference(":one"));
    let file = directory.join("docker/File").display().to_string();
    let told = build(
        session,
        &directory,
        &[
            "-t",
            "built/arguments:1",
            "--file",
            &file,
            "--target",
            "first",
            "--build-arg",
            &base,
            "--build-arg",
            "V=7.8",
            "--build-arg",
            "NONE=1",
            "--label",
            "own=a $b",
        ],
    )?;
    contains(
        "docker build",
        &told,
        "[Warning] One or more build-args [NONE] were not consumed",
    )?;
    let inspected = session.docker.json(&["inspect", "built/arguments:1"])?;
    let config = &inspected[0]["Config"];
    let env = config["Env"].to_string();
    contains("Env", &env, "MAJOR=7\"")?;
    contains("Env", &env, "FULL=v7.8")?;
    same("Labels", config["Labels"]["own"].as_str(), Some("a $b"))?;
    ensure!(config["Labels"]["arch"].as_str() != Some(""), "{config}");
    ensure!(config["ExposedPorts"]["8001/udp"].is_object(), "{config}");
    same("User", config["User"].as_str(), Some("33"))?;
    same("StopSignal", config["StopSignal"].as_str(), Some("SIGINT"))?;
    same(
        "Interval",
        config["Healthcheck"]["Interval"].as_u64(),
        Some(5_000_000_000),
    )?;
    let quiet = build(
        session,
        &directory,
        &["-q", "--file", &file, "--target", "0", "--build-arg", &base],
    )?;
    ensure!(
        quiet.starts_with("sha256:") && quiet.lines().count() == 1,
        "{quiet}"
    );
    Ok(())
}

fn failing(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!("FROM {base}\nRUN echo before; echo wrong >&2; exit 9\nRUN echo never\n");
    let directory = context(session, &[("Dockerfile", &text)])?;
    let path = directory.display().to_string();
    let output = session
        .docker
        .output(&["build", "-t", "built/failing:1", &path])?;
    same("exit code", output.status.code(), Some(9))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = "returned a non-zero code: 9";
    contains("what it says", &said, code)?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    contains("its output", &out, "before\n")?;
    contains("its errors", &out, "wrong\n")?;
    ensure!(!out.contains("Step 3/3"), "it went on: {out}");
    let listed = session.docker.text(&["images", "-q", "built/failing"])?;
    same("images", listed, String::new())?;
    let text = format!("FROM {base}\nRUN [\"/no/such/program\"]\n");
    let directory = context(session, &[("Dockerfile", &text)])?;
    let said = refusal(session, &directory, &[])?;
    contains("a missing program", &said, "/no/such/program")
}

fn unreadable(session: &mut Session) -> Result<()> {
    let directory = context(session, &[("Dockerfile", "FROM scratch\n  COPPY a b\n")])?;
    let said = refusal(session, &directory, &[])?;
    contains(
        "docker build",
        &said,
        "Dockerfile:2:3: unknown instruction: COPPY",
    )?;
    contains("the mark", &said, "|   ^")?;
    contains("the advice", &said, "did you mean COPY?")?;
    let directory = context(session, &[("other", "")])?;
    let path = directory.display().to_string();
    let archive = session.place.scratch().join("context.tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(&path)
        .arg("-cf")
        .arg(&archive)
        .arg("."))?;
    let body = format!("@{}", archive.display());
    let sent = [
        "--header",
        "Content-Type: application/x-tar",
        "--data-binary",
        &body,
    ];
    let answer = session.docker.request("POST", "/build", &sent)?;
    same("status", answer.status, 400)?;
    contains(
        "no Dockerfile",
        &answer.body,
        "Cannot locate specified Dockerfile: Dockerfile",
    )?;
    let base = session.reference(":one");
    for (line, problem) in [
        (
            "COPY missing /x",
            "missing: it is not in the build's context",
        ),
        (
            "COPY ../../etc/passwd /x",
            "etc/passwd: it is not in the build's context",
        ),
        ("COPY --from=127.0.0.1:9/nosuch:1 /a /b", "nosuch"),
        ("COPY --chown=nobody-here other /x", "nobody-here"),
        ("ADD ftp://example.com/x /x", "by http and https alone"),
        (
            "RUN --mount=type=secret,id=a,required=true true",
            "secret a: not found",
        ),
        ("RUN --security=insecure true", "not granted"),
        ("STOPSIGNAL NONSENSE", "is not a signal"),
        ("EXPOSE ${NONE:-x}", "write a port"),
    ] {
        let text = format!("FROM {base}\n{line}\n");
        let directory = context(session, &[("Dockerfile", &text), ("other", "")])?;
        let said = refusal(session, &directory, &[])?;
        contains(line, &said, problem)?;
    }
    Ok(())
}

fn leaving(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!("FROM {base}\nRUN echo begun; sleep 31415\n");
    let directory = context(session, &[("Dockerfile", &text)])?;
    let path = directory.display().to_string();
    let mut child = session
        .docker
        .command(&["build", "-t", "built/left:1", &path])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("starting docker build")?;
    let sleeping = || -> Result<bool> {
        let listed = Command::new("pgrep").args(["-f", "sleep 31415"]).output()?;
        let pids = String::from_utf8_lossy(&listed.stdout).into_owned();
        let own = |pid: &str| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(b"sleep\0") || line.starts_with(b"/bin/sleep\0")
        };
        Ok(pids.lines().any(own))
    };
    let began = retry(SOON, || ensure_that(sleeping()?, "the command runs"));
    // By the signal that timeout(1) hands on.
    end(&mut child, SOON)?;
    began?;
    retry(SOON, || ensure_that(!sleeping()?, "the command has ended"))?;
    let listed = session.docker.text(&["images", "-q", "built/left"])?;
    same("images", listed, String::new())
}

fn ensure_that(is_so: bool, what: &str) -> Result<()> {
    ensure!(is_so, "not so: {what}");
    Ok(())
}

fn refused(session: &mut Session) -> Result<()> {
    for (query, part) in [
        ("version=2", "DOCKER_BUILDKIT=0"),
        ("remote=git%40example.com:a.git", "the daemon has no keys"),
        ("remote=/etc", "neither a git repository nor a URL"),
        ("squash=1", "--squash"),
        ("t=UPPER%20CASE", "invalid reference format"),
        ("platform=windows/amd64", "windows"),
        ("platform=a/b/c/d", "no platform"),
        ("platform=linux/amd64,linux/arm64", "berth build"),
        ("buildargs=x", "buildargs"),
        ("memory=1", "6MB"),
    ] {
        let answer = session
            .docker
            .request("POST", &format!("/build?{query}"), &["--data", ""])?;
        ensure!(
            (400..=501).contains(&answer.status),
            "{query}: {}",
            answer.status
        );
        contains(query, &answer.body, part)?;
    }
    Ok(())
}

fn kept_and_pruned(session: &mut Session) -> Result<()> {
    let text = two_stages_text(session);
    let directory = context(session, &[("Dockerfile", &text), ("name", "berth\n")])?;
    session.restart_daemon()?;
    let before = id(session, "built/app:1")?;
    let told = build(session, &directory, &["-t", "built/app:5"])?;
    same("cached", told.matches("Using cache").count(), 6)?;
    same("the id", id(session, "built/app:5")?, before)?;
    let told = session
        .docker
        .text(&["builder", "prune", "--all", "--force"])?;
    contains("docker builder prune", &told, "Total")?;
    let said = container(session, "built/app:5", &[])?;
    same("what is left runs", said, "hello from berth".to_owned())?;
    let told = build(session, &directory, &[])?;
    same("cached", told.matches("Using cache").count(), 0)?;
    session
        .docker
        .text(&["builder", "prune", "--all", "--force"])?;
    let listed = session.docker.text(&["images", "-q", "built/*"])?;
    let mut images: Vec<&str> = listed.lines().collect();
    images.sort_unstable();
    images.dedup();
    let arguments = [&["rmi", "--force"][..], &images[..]].concat();
    session.docker.text(&arguments).map(drop)
}
