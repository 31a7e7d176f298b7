//! Every client gives the same image for the same input; and what is fetched, cancelled, and the same
//! again.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{SOON, container, context, ensure_that, id, refusal};
use crate::command::{output, retry, run, which};
use crate::suites::docker::session::Session;
use crate::suites::docker::{contains, same};
use crate::{tools, workspace};

/// A moment in the past.
const EPOCH: &str = "SOURCE_DATE_EPOCH=1700000000";

fn checked(command: &mut Command) -> Result<()> {
    let output = output(command.env_remove("DOCKER_CONTEXT"))?;
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {err}",
        output.status
    );
    Ok(())
}

/// The image's id by each client, in a fixed order.
fn by_all(session: &Session, directory: &Path, anew: bool) -> Result<Vec<String>> {
    let path = directory.display().to_string();
    let socket = format!("unix://{}", session.docker.socket.display());
    let fresh: &[&str] = match anew {
        true => &["--no-cache", "--build-arg", EPOCH],
        false => &[],
    };
    let cli = [&["build", "-t", "by/docker:1"], fresh, &[&path]].concat();
    session.docker.text(&cli)?;

    let script = "import docker, sys\n\
         anew = sys.argv[2] == 'true'\n\
         name, value = sys.argv[3].split('=')\n\
         docker.from_env(timeout=60).images.build(path=sys.argv[1], tag='by/python:1', nocache=anew,\n\
             buildargs={name: value} if anew else {})\n";
    checked(
        Command::new("timeout")
            .args([
                "90",
                "python3",
                "-B",
                "-c",
                script,
                &path,
                &anew.to_string(),
                EPOCH,
            ])
            .env("PYTHONPATH", tools::docker_py()?)
            .env("DOCKER_HOST", &socket)
            .env("DOCKER_CONFIG", &session.docker.config),
    )?;

    let compose = which("docker-compose").context("docker-compose is not installed")?;
    let file = directory.with_file_name("clients.yml");
    let text = format!(
        "version: \"2.4\"\nservices:\n  app:\n    image: by/compose:1\n    build: {{context: {path:?}}}\n"
    );
    fs::write(&file, text).context("writing the compose file")?;
    checked(
        Command::new("timeout")
            .arg("90")
            .arg(compose)
            .arg("-f")
            .arg(&file)
            .args(["-p", "clients", "build"])
            .args(fresh)
            .env("DOCKER_HOST", &socket)
            .env("DOCKER_CONFIG", &session.docker.config)
            .env("DOCKER_BUILDKIT", "0")
            .env("COMPOSE_DOCKER_CLI_BUILD", "0"),
    )?;

    let berth = workspace::artefacts().join("berth");
    let own = [&["build", "-t", "by/berth:1"], fresh, &[&path]].concat();
    checked(
        Command::new("timeout")
            .arg("90")
            .arg(berth)
            .args(["--host", &socket])
            .args(own)
            .env("DOCKER_CONFIG", &session.docker.config),
    )?;
    ["docker", "python", "compose", "berth"]
        .iter()
        .map(|client| id(session, &format!("by/{client}:1")))
        .collect()
}

pub fn same_image(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!(
        "FROM {base} AS build\nWORKDIR /src\nCOPY . .\nRUN mkdir /out && cat dir/* > /out/all\n\
         FROM {base}\nENV A=1\nCOPY --from=build /out /srv\nLABEL x=y\nCMD [\"cat\", \"/srv/all\"]\n"
    );
    let files = [
        ("Dockerfile", text.as_str()),
        (".dockerignore", "*.log\n"),
        ("dir/a", "a\n"),
        ("dir/b", "b\n"),
        ("x.log", "left out"),
    ];
    let directory = context(session, &files)?;
    for anew in [false, true] {
        let ids = by_all(session, &directory, anew)?;
        let first = ids.first().context("an id")?;
        ensure!(
            ids.iter().all(|id| id == first),
            "docker, docker-py, compose and berth, without the cache: {anew}: {ids:?}"
        );
    }
    Ok(())
}

/// Answers each request with the same file, until it is dropped with the process.
fn serve(bytes: Vec<u8>) -> Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("listening")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { break };
            let mut head = String::new();
            let mut reader = BufReader::new(&stream);
            while reader.read_line(&mut head).is_ok_and(|count| count > 2) {}
            let status = match head.starts_with("GET /there") {
                true => "200 OK",
                false => "404 Not Found",
            };
            let _gone = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\
                 Last-Modified: Wed, 15 Nov 2023 06:13:20 GMT\r\n\r\n",
                bytes.len()
            );
            let _gone = stream.write_all(&bytes);
        }
    });
    Ok(format!("http://{address}"))
}

fn archive(directory: &Path, flag: &str, name: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    run(Command::new("tar")
        .arg("-C")
        .arg(directory)
        .args([flag, name, "packed"])
        .current_dir(directory))?;
    Ok(path)
}

pub fn added(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let files = [("packed/file", "from an archive\n")];
    let directory = context(session, &files)?;
    for (flag, name) in [("-cJf", "a.tar.xz"), ("-cjf", "b.tar.bz2")] {
        archive(&directory, flag, name)?;
    }
    let bytes = fs::read(archive(&directory, "-czf", "c.tgz")?)?;
    let sum = output(Command::new("sha256sum").arg(directory.join("c.tgz")))?;
    let sum = String::from_utf8_lossy(&sum.stdout).into_owned();
    let sum = sum.split_whitespace().next().context("a sum")?.to_owned();
    let url = serve(bytes)?;
    let text = format!(
        "FROM {base}\nADD a.tar.xz /xz/\nADD b.tar.bz2 /bz2/\nADD {url}/there/c.tgz /plain/\n\
         ADD --checksum=sha256:{sum} --chmod=640 {url}/there/c.tgz?x=1 /named\n\
         ADD --unpack=true {url}/there/c.tgz /unpacked/\n\
         RUN cat /xz/packed/file /bz2/packed/file /unpacked/packed/file && cmp /plain/c.tgz /named && \
             test \"$(stat -c '%a %Y' /plain/c.tgz /named | tr '\\n' ' ')\" = '600 1700028800 640 1700028800 '\n"
    );
    fs::write(directory.join("Dockerfile"), text)?;
    let told = super::build(session, &directory, &["-t", "built/added:1"])?;
    same("unpacked", told.matches("from an archive").count(), 3)?;
    let told = super::build(session, &directory, &["-t", "built/added:1"])?;
    same("cached", told.matches("Using cache").count(), 6)?;
    for (line, part) in [
        (format!("ADD {url}/gone /x"), "404"),
        (
            format!(
                "ADD --checksum=sha256:{} {url}/there/c.tgz /x",
                "0".repeat(64)
            ),
            "has the checksum sha256:",
        ),
        (format!("ADD {url}/ /x/"), "no file's name at its end"),
        ("ADD http://127.0.0.1:9/x /x".to_owned(), "cannot fetch"),
        (
            "ADD git@example.com:x/a.git /x".to_owned(),
            "the daemon has no keys",
        ),
    ] {
        fs::write(
            directory.join("Dockerfile"),
            format!("FROM {base}\n{line}\n"),
        )?;
        contains(&line, &refusal(session, &directory, &[])?, part)?;
    }
    container(session, "built/added:1", &["true"]).map(drop)
}

pub fn cancelled(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!("FROM {base}\nRUN echo begun; sleep 27182\n");
    let directory = context(session, &[("Dockerfile", &text)])?;
    let tar = directory.with_file_name("cancelled.tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(&directory)
        .arg("-cf")
        .arg(&tar)
        .arg("."))?;
    let mut child = Command::new("curl")
        .args(["-sS", "-N", "--max-time", "60", "--unix-socket"])
        .arg(&session.docker.socket)
        .args(["-H", "Content-Type: application/x-tar", "--data-binary"])
        .arg(format!("@{}", tar.display()))
        .arg("http://docker/build?buildid=mine&t=built/cancelled:1")
        .stdout(Stdio::piped())
        .spawn()
        .context("starting curl")?;
    let mut said = BufReader::new(child.stdout.take().context("no output")?);
    let mut line = String::new();
    while !line.contains("begun\\n") {
        line.clear();
        ensure!(said.read_line(&mut line)? > 0, "it ended before it began");
    }
    let other = session
        .docker
        .request("POST", "/build/cancel?id=another", &[])?;
    same("of another", other.status, 200)?;
    let unnamed = session.docker.request("POST", "/build/cancel", &[])?;
    same("of none", unnamed.status, 400)?;
    let answer = session
        .docker
        .request("POST", "/build/cancel?id=mine", &[])?;
    same("status", answer.status, 200)?;
    let mut rest = String::new();
    said.read_to_string(&mut rest)?;
    child.wait()?;
    contains("the last object", &rest, "the build was cancelled")?;
    retry(SOON, || {
        let sleeping = output(Command::new("pgrep").args(["-xf", "sleep 27182"]))?;
        ensure_that(!sleeping.status.success(), "the command has ended")
    })?;
    let listed = session.docker.text(&["images", "-q", "built/cancelled"])?;
    same("images", listed, String::new())
}
