//! A shop of six services by `berth compose`, with the stock client at the same project.

mod builds;
mod database;
mod watching;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Step, berth, contains, ended, same};
use crate::command::retry;
use crate::suites::docker::session::Session;
use crate::tools::{self, Tool};

const SOON: Duration = Duration::from_secs(20);

pub const STEPS: &[(&str, Step)] = &[
    ("compose: six services come up and serve", up),
    (
        "compose: the database is its own user's, and is written to",
        database::runs_without_root,
    ),
    (
        "compose: up again changes nothing, by the stock client neither",
        again,
    ),
    ("compose: one service is scaled, no other touched", scale),
    ("compose: one service is updated, no other touched", update),
    ("compose: run, exec, cp, logs and stop", use_it),
    ("compose: what is wrong is told with its place", refused),
    (
        "compose: rows outlive a new container, and down",
        database::keeps_rows,
    ),
    ("compose: down -v leaves nothing", down),
    ("compose: down -v took the rows, too", database::loses_rows),
    (
        "compose: builds what the stock client builds, anew when asked",
        builds::same_as_stock,
    ),
    (
        "compose: secrets reach builds and stay nowhere",
        builds::secrets,
    ),
    (
        "compose: what changes is carried into containers, or built anew",
        watching::follows,
    ),
    (
        "compose: up --watch goes on through builds that fail",
        watching::with_up,
    ),
];

fn directory(session: &Session) -> PathBuf {
    session.place.scratch().join("emporium")
}

/// `memory` is a setting of the database.
fn write(session: &Session, greeting: &str, memory: &str) -> Result<()> {
    let directory = directory(session);
    fs::create_dir_all(directory.join("pages"))?;
    fs::write(directory.join("pages/index.html"), "from the web\n")?;
    let variables = format!("GREETING={greeting}\nWORK_MEM={memory}\n");
    fs::write(directory.join(".env"), variables)?;
    let image = session.services();
    let database = database::reference(session);
    let text = format!(
        r#"x-common: &common
  image: {image}
  stop_signal: KILL
services:
  proxy:
    <<: *common
    command: nginx -c /etc/proxy.conf
    ports: ["127.0.0.1::80"]
    configs: [{{source: routes, target: /etc/proxy.conf}}]
    tmpfs: [/tmp, /var/lib/nginx, /var/log/nginx]
    depends_on: {{web: {{condition: service_healthy}}, api: {{condition: service_started}}}}
    networks: [front]
  web:
    <<: *common
    command: httpd -f -p 80 -h /www
    volumes: ["./pages:/www:ro"]
    healthcheck: {{test: wget -q -O /dev/null http://127.0.0.1/, interval: 200ms}}
    networks: [front]
  api:
    <<: *common
    image: {database}
    command: ["socat", "TCP-LISTEN:8000,fork,reuseaddr", "SYSTEM:/bin/api"]
    environment: {{GREETING: "$GREETING"}}
    secrets: [token]
    configs: [{{source: answer, target: /bin/api, mode: 0755}}]
    depends_on: {{cache: {{condition: service_healthy}}, database: {{condition: service_healthy}}}}
    networks: [front, back]
  worker:
    <<: *common
    image: {database}
    command:
      - sh
      - -c
      - |
        psql -h database -qc 'CREATE TABLE IF NOT EXISTS rounds (at timestamp DEFAULT now())'
        while :; do psql -h database -c 'INSERT INTO rounds DEFAULT VALUES'; sleep 0.5; done
    depends_on: {{database: {{condition: service_healthy}}}}
    networks: [back]
  database:
    image: {database}
    command: [/bin/database, -c, "work_mem=$WORK_MEM"]
    volumes: ["data:/var/lib/postgresql"]
    healthcheck: {{test: pg_isready -q -h 127.0.0.1, interval: 200ms, retries: 100}}
    networks: [back]
  cache:
    <<: *common
    command: redis-server --save "" --protected-mode no
    healthcheck: {{test: [CMD, redis-cli, PING], interval: 200ms}}
    networks: [back]
volumes: {{data: }}
networks: {{front: , back: {{internal: true}}}}
secrets: {{token: {{file: ./token}}}}
configs:
  routes:
    content: |
      daemon off; user root; error_log stderr; pid /tmp/pid;
      events {{}}
      http {{
        access_log off;
        server {{
          listen 80;
          location / {{ proxy_pass http://web; }}
          location /api {{ proxy_pass http://api:8000; }}
        }}
      }}
  answer:
    content: |
      #!/bin/sh
      {{
        echo "CREATE TABLE IF NOT EXISTS orders (id serial, what text);"
        echo "INSERT INTO orders (what) VALUES ('$$GREETING');"
      }} | psql -h database -q 2> /dev/null
      body="$$GREETING $$(cat /run/secrets/token) $$(redis-cli -h cache INCR asked)"
      printf 'HTTP/1.0 200 OK\r\n\r\n%s\n' "$$body"
"#
    );
    fs::write(directory.join("token"), "opensesame")?;
    fs::write(directory.join("compose.yaml"), text).context("writing the compose file")
}

fn compose(session: &Session, arguments: &[&str]) -> Result<String> {
    let file = directory(session)
        .join("compose.yaml")
        .display()
        .to_string();
    berth(session, &[&["compose", "-f", &file], arguments].concat())
}

/// The stock client, at the same project.
fn stock(session: &Session, arguments: &[&str]) -> Result<String> {
    stock_in(session, &directory(session), arguments)
}

fn stock_in(session: &Session, directory: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", "90"])
        .arg(tools::path(Tool::Compose)?)
        .args(arguments)
        .current_dir(directory)
        .env(
            "DOCKER_HOST",
            format!("unix://{}", session.docker.socket.display()),
        )
        .env("DOCKER_CONFIG", &session.docker.config)
        .env("DOCKER_BUILDKIT", "0")
        .env_remove("DOCKER_CONTEXT");
    crate::command::stdout(&mut command)
}

/// Ids of containers, by their names.
fn ids(session: &Session) -> Result<BTreeMap<String, String>> {
    let told = compose(session, &["ps", "-a", "--format", "json"])?;
    let mut ids = BTreeMap::new();
    for line in told.lines() {
        let one: Value = serde_json::from_str(line)?;
        let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
        ids.insert(text("Name"), text("ID"));
    }
    Ok(ids)
}

fn fetch(session: &Session, path: &str) -> Result<String> {
    let address = compose(session, &["port", "proxy", "80"])?;
    let url = format!("http://{address}{path}");
    crate::command::stdout(Command::new("curl").args(["-sSf", "-m", "3", &url]))
}

fn up(session: &mut Session) -> Result<()> {
    database::push(session)?;
    write(session, "hello", "4MB")?;
    compose(session, &["up", "-d", "--wait", "--quiet-pull"])?;
    same("containers", ids(session)?.len(), 6)?;
    let page = retry(SOON, || fetch(session, "/"))?;
    same("the page", page.trim(), "from the web")?;
    let answer = retry(SOON, || fetch(session, "/api"))?;
    contains("the API", &answer, "hello opensesame ")
}

fn again(session: &mut Session) -> Result<()> {
    let before = ids(session)?;
    compose(session, &["up", "-d"])?;
    same("containers", ids(session)?, before.clone())?;
    stock(session, &["up", "-d"])?;
    same("containers", ids(session)?, before)?;
    let hashes = compose(session, &["config", "--hash", "*"])?;
    let expected = stock(session, &["config", "--hash", "*"])?;
    same("hashes", hashes.trim(), expected.trim())?;
    let told = stock(session, &["ps", "-q"])?;
    same("containers of the stock client", told.lines().count(), 6)?;
    contains("ls", &compose(session, &["ls"])?, "running(6)")
}

fn scale(session: &mut Session) -> Result<()> {
    let before = ids(session)?;
    compose(session, &["up", "-d", "--scale", "worker=3"])?;
    let mut after = ids(session)?;
    for number in [2, 3] {
        let name = format!("emporium-worker-{number}");
        ensure!(after.remove(&name).is_some(), "no {name}: {after:?}");
    }
    same("the others", after, before.clone())?;
    compose(session, &["up", "-d"])?;
    same("back to one", ids(session)?, before)
}

fn update(session: &mut Session) -> Result<()> {
    let mut before = ids(session)?;
    write(session, "welcome", "4MB")?;
    compose(session, &["up", "-d"])?;
    let mut after = ids(session)?;
    let (old, new) = (
        before.remove("emporium-api-1"),
        after.remove("emporium-api-1"),
    );
    ensure!(new.is_some() && old != new, "the API is {new:?}, as before");
    same("the others", after, before)?;
    let answer = retry(SOON, || fetch(session, "/api"))?;
    contains("the API", &answer, "welcome opensesame ")
}

fn use_it(session: &mut Session) -> Result<()> {
    let question = "SELECT count(*) > 0 FROM rounds";
    let ask = ["psql", "-h", "database", "-tAc", question];
    let told = compose(
        session,
        &[&["run", "--rm", "-T", "worker"][..], &ask].concat(),
    )?;
    same("run", told.trim(), "t")?;
    let told = compose(session, &[&["exec", "-T", "api"][..], &ask].concat())?;
    same("exec", told.trim(), "t")?;
    let file = session
        .place
        .scratch()
        .join("carried")
        .display()
        .to_string();
    compose(session, &["cp", "web:/www/index.html", &file])?;
    same("cp", fs::read_to_string(&file)?.as_str(), "from the web\n")?;
    let told = compose(session, &["logs", "--tail", "1", "worker"])?;
    contains("logs", &told, "worker-1 | ")?;
    contains("top", &compose(session, &["top", "cache"])?, "redis-server")?;
    compose(session, &["stop", "worker"])?;
    let told = compose(session, &["ps", "-a", "--status", "exited", "--services"])?;
    same("stopped", told.trim(), "worker")?;
    compose(session, &["start", "worker"])?;
    same("containers", ids(session)?.len(), 6)
}

fn refused(session: &mut Session) -> Result<()> {
    let file = directory(session).join("wrong.yaml");
    fs::write(&file, "services:\n  web:\n    imgae: x\n")?;
    let file = file.display().to_string();
    let (code, _, err) = ended(session, &["compose", "-f", &file, "config"])?;
    same("exit code", code, 1)?;
    contains("the place", &err, "wrong.yaml:3:5: services.web.imgae")?;
    contains("what to do", &err, "is \"image\" meant?")
}

fn down(session: &mut Session) -> Result<()> {
    compose(session, &["down", "-v"])?;
    let label = "label=com.docker.compose.project=emporium";
    for kind in [&["ps", "-a"][..], &["network", "ls"], &["volume", "ls"]] {
        let left = session
            .docker
            .lines(&[kind, &["-q", "--filter", label]].concat())?;
        same(&kind.join(" "), left, Vec::new())?;
    }
    Ok(())
}
