//! The stock Compose clients: a web server, a database with its volume, and workers.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::session::Session;
use super::{Step, contains, now, same};
use crate::command::{end, output, retry, which};
use crate::tools::{self, Tool};

/// Seconds for one command.
const LIMIT: &str = "90";
const SOON: Duration = Duration::from_secs(20);

const PROJECT: &str = "harbour";

pub const STEPS: &[(&str, Step)] = &[
    ("compose up pulls, and makes all that the file names", up),
    ("compose ps tells state and ports of each service", ps),
    ("compose services find each other by name", names),
    ("compose up again changes nothing", up_again),
    (
        "compose scales one service, whose name has all addresses",
        scale,
    ),
    ("compose logs follows all of a service", logs),
    ("compose updates one service and touches no other", update),
    ("compose recreates in the order that it relies on", order),
    (
        "compose stops, starts, restarts, pauses and kills",
        lifecycle,
    ),
    ("compose run makes a container of its own, once", run_once),
    (
        "compose down keeps the volume, and up finds it",
        down_and_up,
    ),
    ("compose down -v leaves nothing", down),
    ("the first compose client does the same", first_client),
    ("who runs out of memory is told to have", out_of_memory),
];

fn directory(session: &Session) -> PathBuf {
    session.place.scratch().join("compose")
}

/// The project's file; `greeting` is what the web server's environment has.
fn write_file(session: &Session, greeting: &str) -> Result<()> {
    let directory = directory(session);
    fs::create_dir_all(directory.join("pages"))?;
    fs::write(directory.join("pages/index.html"), "from compose\n")?;
    let image = session.services();
    let text = format!(
        r#"services:
  web:
    image: {image}
    command: httpd -f -p 80 -h /www
    environment: {{GREETING: "{greeting}"}}
    ports: ["127.0.0.1::80"]
    volumes: ["./pages:/www:ro"]
    depends_on: [db]
    networks: [front, back]
  db:
    image: {image}
    command: redis-server --dir /data --appendonly yes --protected-mode no
    volumes: ["data:/data"]
    networks: [back]
    stop_signal: SIGINT
  worker:
    image: {image}
    command: sh -c 'trap exit TERM; while :; do echo working; sleep 1 & wait; done'
    networks: [back]
    labels: {{kind: worker}}
volumes:
  data: {{}}
networks:
  front: {{}}
  back: {{internal: true}}
"#
    );
    fs::write(directory.join("compose.yaml"), text).context("writing the compose file")
}

fn command(session: &Session, program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", LIMIT])
        .arg(program)
        .args(["-p", PROJECT])
        .args(arguments)
        .current_dir(directory(session))
        .env(
            "DOCKER_HOST",
            format!("unix://{}", session.docker.socket.display()),
        )
        .env("DOCKER_CONFIG", &session.docker.config)
        .env("COMPOSE_MENU", "false")
        .env_remove("DOCKER_CONTEXT");
    command
}

fn with(session: &Session, program: &Path, arguments: &[&str]) -> Result<String> {
    let output = output(&mut command(session, program, arguments))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        bail!(
            "compose {} ended with {}: {}",
            arguments.join(" "),
            output.status,
            text(&output.stderr)
        );
    }
    Ok(text(&output.stdout))
}

/// The second version's client.
fn compose(session: &Session, arguments: &[&str]) -> Result<String> {
    with(session, &tools::path(Tool::Compose)?, arguments)
}

/// Ids of a service's containers.
fn ids(session: &Session, service: &str) -> Result<BTreeSet<String>> {
    let told = compose(session, &["ps", "-aq", service])?;
    Ok(told.lines().map(str::to_owned).collect())
}

/// The one container of a service.
fn id(session: &Session, service: &str) -> Result<String> {
    let ids = ids(session, service)?;
    ensure!(ids.len() == 1, "{service} has the containers {ids:?}");
    ids.into_iter().next().context("no container")
}

fn page(session: &Session) -> Result<String> {
    let address = compose(session, &["port", "web", "80"])?;
    let url = format!("http://{address}/");
    crate::command::stdout(Command::new("curl").args(["-sSf", "-m", "3", &url]))
}

fn up(session: &mut Session) -> Result<()> {
    session.have_daemon()?;
    write_file(session, "hello")?;
    compose(session, &["up", "-d", "--quiet-pull"])?;
    same(
        "the page",
        retry(SOON, || page(session))?.trim(),
        "from compose",
    )?;
    let networks = session
        .docker
        .lines(&["network", "ls", "-q", "--filter", &label()])?;
    let volumes = session
        .docker
        .lines(&["volume", "ls", "-q", "--filter", &label()])?;
    same(
        "networks and volumes",
        (networks.len(), volumes.len()),
        (2, 1),
    )
}

fn label() -> String {
    format!("label=com.docker.compose.project={PROJECT}")
}

fn ps(session: &mut Session) -> Result<()> {
    let told = compose(session, &["ps", "--format", "json"])?;
    let mut found = Vec::new();
    for line in told.lines() {
        let service: Value = serde_json::from_str(line)?;
        let word = |key: &str| service[key].as_str().unwrap_or_default().to_owned();
        found.push((
            word("Service"),
            word("State"),
            word("Ports").contains("->80/tcp"),
        ));
    }
    found.sort();
    let running = |name: &str, port| (name.to_owned(), "running".to_owned(), port);
    let expected = vec![
        running("db", false),
        running("web", true),
        running("worker", false),
    ];
    same("services", found, expected)
}

fn names(session: &mut Session) -> Result<()> {
    let ask = ["exec", "-T", "web", "redis-cli", "-h", "db"];
    let said = |rest: &[&str]| compose(session, &[&ask[..], rest].concat());
    same("PING", retry(SOON, || said(&["PING"]))?.as_str(), "PONG")?;
    same("SET", said(&["SET", "cargo", "timber"])?.as_str(), "OK")?;
    // The database is on the network behind alone, which leads nowhere else.
    let routes = compose(session, &["exec", "-T", "db", "ip", "route"])?;
    ensure!(!routes.contains("default"), "{routes}");
    Ok(())
}

fn up_again(session: &mut Session) -> Result<()> {
    let all = |session: &Session| compose(session, &["ps", "-aq"]);
    let before = all(session)?;
    compose(session, &["up", "-d"])?;
    same("containers", all(session)?, before)
}

fn scale(session: &mut Session) -> Result<()> {
    let before = ids(session, "db")?;
    compose(session, &["up", "-d", "--scale", "worker=3"])?;
    same("workers", ids(session, "worker")?.len(), 3)?;
    let told = compose(session, &["exec", "-T", "web", "nslookup", "worker"])?;
    let addresses = told
        .lines()
        .filter(|line| line.starts_with("Address: "))
        .count();
    same("addresses of workers", addresses, 3)?;
    compose(session, &["up", "-d", "--scale", "worker=1"])?;
    same("workers", ids(session, "worker")?.len(), 1)?;
    same("the database", ids(session, "db")?, before)
}

fn logs(session: &mut Session) -> Result<()> {
    compose(session, &["up", "-d", "--scale", "worker=2"])?;
    let mut following = command(
        session,
        &tools::path(Tool::Compose)?,
        &["logs", "--follow", "--no-color", "worker"],
    );
    let mut child = following
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("following the logs")?;
    let shown = BufReader::new(child.stdout.take().context("its output")?);
    let mut speakers = BTreeSet::new();
    for line in shown.lines() {
        let line = line?;
        let (who, what) = line.split_once('|').context("no column of names")?;
        same("a line", what.trim(), "working")?;
        speakers.insert(who.trim().to_owned());
        if speakers.len() == 2 {
            break;
        }
    }
    end(&mut child, Duration::from_secs(5))?;
    same("speakers", speakers.len(), 2)?;
    compose(session, &["up", "-d", "--scale", "worker=1"]).map(drop)
}

fn update(session: &mut Session) -> Result<()> {
    let before = (
        id(session, "web")?,
        id(session, "db")?,
        id(session, "worker")?,
    );
    write_file(session, "changed")?;
    compose(session, &["up", "-d"])?;
    let after = (
        id(session, "web")?,
        id(session, "db")?,
        id(session, "worker")?,
    );
    ensure!(before.0 != after.0, "the web server is the same one");
    same("the others", (after.1, after.2), (before.1, before.2))?;
    let told = compose(
        session,
        &["exec", "-T", "web", "sh", "-c", "echo $GREETING"],
    )?;
    same("its environment", told.as_str(), "changed")?;
    same(
        "the page",
        retry(SOON, || page(session))?.trim(),
        "from compose",
    )
}

/// Container events of one service since `from`, as a listener that comes later is told them.
fn told(session: &Session, service: &str, from: &str) -> Result<Vec<String>> {
    let (until, service) = (
        now()?,
        format!("label=com.docker.compose.service={service}"),
    );
    let filters = ["type=container", &service];
    session.docker.told((from, &until), &filters, "{{.Action}}")
}

fn order(session: &mut Session) -> Result<()> {
    let from = now()?;
    compose(
        session,
        &["up", "-d", "--force-recreate", "--no-deps", "worker"],
    )?;
    same(
        "events of a recreation",
        told(session, "worker", &from)?,
        [
            "create", "kill", "die", "stop", "destroy", "rename", "start",
        ]
        .map(str::to_owned)
        .to_vec(),
    )?;
    let from = now()?;
    compose(session, &["restart", "worker"])?;
    same(
        "events of a restart",
        told(session, "worker", &from)?,
        ["kill", "die", "stop", "start", "restart"]
            .map(str::to_owned)
            .to_vec(),
    )
}

fn lifecycle(session: &mut Session) -> Result<()> {
    let state = |session: &Session| {
        let worker = id(session, "worker")?;
        session
            .docker
            .text(&["inspect", "--format", "{{.State.Status}}", &worker])
    };
    for (verb, expected) in [
        ("stop", "exited"),
        ("start", "running"),
        ("pause", "paused"),
        ("unpause", "running"),
        ("kill", "exited"),
        ("restart", "running"),
    ] {
        compose(session, &[verb, "worker"])?;
        same(verb, state(session)?.as_str(), expected)?;
    }
    let told = compose(session, &["top", "db"])?;
    contains("top", &told, "redis-server")
}

fn run_once(session: &mut Session) -> Result<()> {
    let before = compose(session, &["ps", "-aq"])?;
    let line = [
        "run",
        "--rm",
        "-T",
        "worker",
        "redis-cli",
        "-h",
        "db",
        "GET",
        "cargo",
    ];
    same("what it says", compose(session, &line)?.as_str(), "timber")?;
    same("containers", compose(session, &["ps", "-aq"])?, before)
}

fn down_and_up(session: &mut Session) -> Result<()> {
    compose(session, &["down"])?;
    let left = session.docker.lines(&["ps", "-aq", "--filter", &label()])?;
    same("containers", left.len(), 0)?;
    compose(session, &["up", "-d"])?;
    let ask = ["exec", "-T", "db", "redis-cli", "GET", "cargo"];
    let said = retry(SOON, || {
        let said = compose(session, &ask)?;
        ensure!(!said.contains("LOADING"), "{said}");
        Ok(said)
    })?;
    same("what was kept", said.as_str(), "timber")
}

fn down(session: &mut Session) -> Result<()> {
    compose(session, &["down", "-v", "-t", "2"])?;
    nothing_left(session)
}

fn nothing_left(session: &Session) -> Result<()> {
    for kind in [&["ps", "-a"][..], &["network", "ls"], &["volume", "ls"]] {
        let label = label();
        let left = session
            .docker
            .lines(&[kind, &["-q", "--filter", &label]].concat())?;
        same(&kind.join(" "), left, Vec::new())?;
    }
    Ok(())
}

fn first_client(session: &mut Session) -> Result<()> {
    let client = which("docker-compose").context("docker-compose is not installed")?;
    let image = session.services();
    let text = format!(
        r#"version: "2.4"
services:
  web:
    image: {image}
    command: httpd -f -p 80 -h /www
    ports: ["127.0.0.1::80"]
    volumes: ["./pages:/www:ro"]
    depends_on: [db]
  db:
    image: {image}
    command: redis-server --dir /data --protected-mode no
    volumes: ["data:/data"]
volumes: {{data: {{}}}}
"#
    );
    fs::write(directory(session).join("first.yml"), text)?;
    let first = |arguments: &[&str]| {
        with(
            session,
            &client,
            &[&["-f", "first.yml"], arguments].concat(),
        )
    };
    first(&["up", "-d", "--scale", "db=2"])?;
    let address = first(&["port", "web", "80"])?;
    let url = format!("http://{address}/");
    let mut fetch = Command::new("curl");
    fetch.args(["-sSf", "-m", "3", &url]);
    let shown = retry(SOON, || crate::command::stdout(&mut fetch))?;
    same("the page", shown.trim(), "from compose")?;
    let ask = ["exec", "-T", "web", "redis-cli", "-h", "db", "PING"];
    same("PING", retry(SOON, || first(&ask))?.as_str(), "PONG")?;
    contains("logs", &first(&["logs", "--no-color", "db"])?, "db_1")?;
    let running = first(&["ps", "-q"])?;
    same("containers", running.lines().count(), 3)?;
    first(&["down", "-v", "-t", "2"])?;
    nothing_left(session)
}

fn out_of_memory(session: &mut Session) -> Result<()> {
    let from = now()?;
    let image = session.services();
    let line = [
        "run",
        "--name",
        "greedy",
        "--label",
        "com.docker.compose.service=greedy",
        "--memory",
        "16m",
        "--memory-swap",
        "16m",
        &image,
        "tail",
        "/dev/zero",
    ];
    let ended = session.docker.output(&line)?;
    same("exit code", ended.status.code(), Some(137))?;
    let asked = ["inspect", "--format", "{{.State.OOMKilled}}", "greedy"];
    same("inspect", session.docker.text(&asked)?.as_str(), "true")?;
    session.docker.text(&["rm", "greedy"])?;
    let told = told(session, "greedy", &from)?;
    let told: Vec<&str> = told
        .iter()
        .map(String::as_str)
        .filter(|action| *action != "attach")
        .collect();
    same(
        "events",
        told,
        vec!["create", "start", "oom", "die", "destroy"],
    )
}
