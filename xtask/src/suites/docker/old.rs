//! What a client of 2020 does (Debian's docker.io, API 1.41), and the present one at the oldest
//! version of the API that it speaks: people upgrade a node before their laptops.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::client::Docker;
use super::session::{IMAGE, Session};
use super::{Step, contains, same};
use crate::command::{output, retry, stdout};
use crate::outcome::Tally;
use crate::tools;

pub const NAME: &str = "old clients";
const OLDEST_API: &str = "1.24";
const SOON: Duration = Duration::from_secs(10);

type Check = fn(&Session, &Docker) -> Result<()>;

pub fn run(session: &mut Session) -> Result<Tally> {
    let mut tally = Tally::default();
    match tools::old_docker() {
        Ok(program) => {
            let docker = Docker {
                program,
                socket: session.docker.socket.clone(),
                config: session.docker.config.clone(),
            };
            for (name, check) in CHECKS {
                take(&mut tally, session, name, |session| check(session, &docker))?;
            }
        }
        Err(reason) => {
            for (name, _) in CHECKS {
                tally.skip(name, &format!("{reason:#}"));
            }
        }
    }
    for (name, step) in OLDEST {
        take(&mut tally, session, name, step)?;
    }
    Ok(tally)
}

fn take(
    tally: &mut Tally,
    session: &mut Session,
    name: &str,
    step: impl FnOnce(&mut Session) -> Result<()>,
) -> Result<()> {
    let result = step(session);
    if result.is_err() {
        session.clear()?;
    }
    tally.check(name, result);
    Ok(())
}

const CHECKS: &[(&str, Check)] = &[
    ("the old client and the daemon agree on its version", agrees),
    ("the old client runs, lists, execs, logs and removes", lives),
    (
        "the old client's run keeps streams and codes apart",
        streams,
    ),
    ("the old client publishes a port", publishes),
    ("the old client builds, and uses its build again", builds),
    ("the old client copies, commits, saves and loads", archives),
    ("the old client's networks and volumes", networks),
    ("the old client pushes, and pulls what it pushed", pushes),
];

const OLDEST: &[(&str, Step)] = &[
    (
        "the present client runs a container at the oldest version",
        oldest_run,
    ),
    (
        "the oldest version has the fields of its time",
        oldest_fields,
    ),
];

fn agrees(_session: &Session, docker: &Docker) -> Result<()> {
    let versions = docker.text(&[
        "version",
        "-f",
        "{{.Client.APIVersion}} {{.Client.Version}}",
    ])?;
    contains("version", &versions, "1.41 20.10")?;
    docker.text(&["info"]).map(drop)
}

fn lives(_session: &Session, docker: &Docker) -> Result<()> {
    let program = ["sh", "-c", "echo up; exec sleep 1000"];
    let run = ["run", "-d", "--name", "aged", "--label", "age=old", IMAGE];
    let id = docker.text(&[&run[..], &program].concat())?;
    let format = "{{.Names}} {{.Image}} {{.State}}";
    let listed = docker.text(&["ps", "--filter", "label=age=old", "--format", format])?;
    same("ps", listed.as_str(), &format!("aged {IMAGE} running"))?;
    same(
        "exec",
        docker.text(&["exec", "-e", "A=b", "aged", "sh", "-c", "echo $A"])?,
        "b".to_owned(),
    )?;
    retry(SOON, || {
        same("logs", docker.text(&["logs", "aged"])?, "up".to_owned())
    })?;
    let memory = docker.text(&["stats", "--no-stream", "--format", "{{.Name}}", "aged"])?;
    same("stats", memory.as_str(), "aged")?;
    contains("top", &docker.text(&["top", "aged"])?, "sleep 1000")?;
    docker.text(&["update", "--memory", "64m", "--memory-swap", "64m", "aged"])?;
    docker.text(&["rename", "aged", "older"])?;
    docker.text(&["restart", "-t", "0", "older"])?;
    let told = docker.text(&["inspect", "-f", "{{.Id}} {{.HostConfig.Memory}}", "older"])?;
    same("inspect", told, format!("{id} {}", 64 << 20))?;
    docker.text(&["stop", "-t", "0", "older"])?;
    same("wait", docker.text(&["wait", "older"])?, "137".to_owned())?;
    docker.text(&["rm", "older"]).map(drop)
}

fn streams(_session: &Session, docker: &Docker) -> Result<()> {
    let program = [
        "run",
        "--rm",
        IMAGE,
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ];
    let ended = docker.output(&program)?;
    same("code", ended.status.code(), Some(7))?;
    same(
        "standard output",
        ended.stdout.as_slice(),
        b"out\n".as_slice(),
    )?;
    same(
        "standard error",
        ended.stderr.as_slice(),
        b"err\n".as_slice(),
    )?;
    let mut counts = docker.command(&["run", "--rm", "-i", IMAGE, "wc", "-c"]);
    let counting = counts.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut counting = counting.spawn().context("starting the old client")?;
    let mut typed = counting.stdin.take().context("its standard input")?;
    typed.write_all(b"12345").context("typing")?;
    drop(typed);
    let counted = counting.wait_with_output().context("waiting for it")?;
    same(
        "counted",
        String::from_utf8_lossy(&counted.stdout).trim(),
        "5",
    )
}

fn publishes(session: &Session, docker: &Docker) -> Result<()> {
    let site = "echo found >/index.html; exec httpd -f -p 80 -h /";
    let run = [
        "run",
        "-d",
        "--rm",
        "--name",
        "site",
        "-p",
        "127.0.0.1::80",
        IMAGE,
    ];
    docker.text(&[&run[..], &["sh", "-c", site]].concat())?;
    let address = docker.text(&["port", "site", "80/tcp"])?;
    let page = retry(SOON, || {
        let fetch = ["--silent", "--show-error", "--fail", "--max-time", "5"];
        stdout(
            Command::new("curl")
                .args(fetch)
                .arg(format!("http://{address}/")),
        )
    })?;
    same("page", page.trim(), "found")?;
    docker.text(&["kill", "site"])?;
    retry(SOON, || {
        let left = session
            .docker
            .text(&["ps", "-aq", "--filter", "name=site"])?;
        same("left", left.as_str(), "")
    })
}

fn builds(session: &Session, docker: &Docker) -> Result<()> {
    let context = session.place.scratch().join("old-context");
    fs::create_dir_all(&context).context("creating a context")?;
    let text = format!(
        "FROM {IMAGE}\nARG WORD=none\nCOPY said /said\nRUN echo $WORD >>/said\nCMD [\"cat\", \"/said\"]\n"
    );
    fs::write(context.join("Dockerfile"), text).context("writing a Dockerfile")?;
    fs::write(context.join("said"), "first\n").context("writing a file")?;
    let directory = context.display().to_string();
    let build = [
        "build",
        "-t",
        "old/built",
        "--build-arg",
        "WORD=second",
        &directory,
    ];
    let told = docker.text(&build)?;
    contains("build", &told, "Successfully tagged old/built:latest")?;
    contains("build again", &docker.text(&build)?, "Using cache")?;
    let said = docker.text(&["run", "--rm", "old/built"])?;
    same("run", said.as_str(), "first\nsecond")?;
    docker.text(&["rmi", "old/built"]).map(drop)
}

fn archives(session: &Session, docker: &Docker) -> Result<()> {
    let scratch = session.place.scratch();
    let (sent, archive) = (scratch.join("old-sent"), scratch.join("old.tar"));
    fs::write(&sent, "letter").context("writing a file")?;
    let (sent, archive) = (sent.display().to_string(), archive.display().to_string());
    docker.text(&["create", "--name", "box", IMAGE, "cat", "/letter"])?;
    docker.text(&["cp", &sent, "box:/letter"])?;
    same(
        "start",
        docker.text(&["start", "-a", "box"])?,
        "letter".to_owned(),
    )?;
    contains("diff", &docker.text(&["diff", "box"])?, "A /letter")?;
    docker.text(&["commit", "-m", "a letter", "box", "old/letter"])?;
    docker.text(&["save", "-o", &archive, "old/letter"])?;
    docker.text(&["rm", "box"])?;
    docker.text(&["rmi", "old/letter"])?;
    let told = docker.text(&["load", "-i", &archive])?;
    contains("load", &told, "Loaded image: old/letter:latest")?;
    same(
        "run",
        docker.text(&["run", "--rm", "old/letter"])?,
        "letter".to_owned(),
    )?;
    docker.text(&["rmi", "old/letter"]).map(drop)
}

fn networks(_session: &Session, docker: &Docker) -> Result<()> {
    docker.text(&["network", "create", "--subnet", "10.97.3.0/24", "oldnet"])?;
    docker.text(&["volume", "create", "oldbook"])?;
    let run = ["run", "-d", "--name", "host", "--network", "oldnet"];
    let more = ["--network-alias", "inn", "-v", "oldbook:/book", IMAGE];
    let program = ["sh", "-c", "echo page >/book/one; exec sleep 1000"];
    docker.text(&[&run[..], &more, &program].concat())?;
    let asks = ["run", "--rm", "--network", "oldnet", IMAGE];
    let ping = ["sh", "-c", "ping -c 1 -W 2 inn | head -1"];
    contains(
        "name",
        &docker.text(&[&asks[..], &ping].concat())?,
        "(10.97.3.",
    )?;
    let read = [
        "run",
        "--rm",
        "-v",
        "oldbook:/book:ro",
        IMAGE,
        "cat",
        "/book/one",
    ];
    retry(SOON, || {
        same("volume", docker.text(&read)?, "page".to_owned())
    })?;
    docker.text(&["network", "disconnect", "oldnet", "host"])?;
    docker.text(&["rm", "-f", "host"])?;
    docker.text(&["network", "rm", "oldnet"])?;
    docker.text(&["volume", "rm", "oldbook"]).map(drop)
}

fn pushes(session: &Session, docker: &Docker) -> Result<()> {
    let name = session.reference(":by-an-old-client");
    docker.text(&["tag", IMAGE, &name])?;
    contains("push", &docker.text(&["push", &name])?, "digest: sha256:")?;
    docker.text(&["rmi", &name])?;
    contains("pull", &docker.text(&["pull", &name])?, "Status: ")?;
    docker.text(&["rmi", &name]).map(drop)
}

fn oldest_run(session: &mut Session) -> Result<()> {
    let mut command = session
        .docker
        .command(&["run", "--rm", IMAGE, "echo", "hello"]);
    let ended = output(command.env("DOCKER_API_VERSION", OLDEST_API))?;
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(
        ended.status.success() && said == "hello\n",
        "{} {said:?} {complaint:?}",
        ended.status
    );
    Ok(())
}

fn oldest_fields(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    let images = docker.request("GET", &format!("/v{OLDEST_API}/images/json"), &[])?;
    same("status", images.status, 200)?;
    let images = images.json()?;
    let first = images.get(0).context("no image")?;
    // Gone since version 1.44.
    ensure!(first.get("VirtualSize").is_some(), "{first}");
    let now = docker.request("GET", "/v1.50/images/json", &[])?.json()?;
    let first = now.get(0).context("no image")?;
    ensure!(first.get("VirtualSize").is_none(), "{first}");
    Ok(())
}
