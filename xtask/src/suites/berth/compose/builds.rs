//! Builds of Compose files, beside those of the stock client.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::super::builds::{context, unlikely, with_bytes};
use super::super::{berth, contains, same};
use super::{SOON, stock_in};
use crate::command::{output, retry};
use crate::suites::docker::session::Session;

fn compose(session: &Session, directory: &Path, arguments: &[&str]) -> Result<String> {
    let file = directory.join("compose.yaml").display().to_string();
    berth(session, &[&["compose", "-f", &file], arguments].concat())
}

fn id(session: &Session, image: &str) -> Result<String> {
    berth(session, &["inspect", "--format", "{{.Id}}", image])
}

/// Two services: one whose Dockerfile is in the context, one whose is in the Compose file.
fn yard(session: &Session) -> Result<PathBuf> {
    let base = session.reference(":one");
    let dockerfile = format!(
        "FROM {base} AS made\nARG GREETING\nCOPY . /all\nRUN echo $GREETING > /said && find /all -type f | sort > /found\n\
         FROM {base} AS unreached\nRUN exit 1\n"
    );
    let file = format!(
        r#"name: yard
services:
  app:
    image: yard/app:1
    build: {{context: ./src, target: made, args: {{GREETING: "$WORD"}}, labels: {{tier: back}}}}
    command: sleep 300
    stop_signal: KILL
  inline:
    image: yard/inline:1
    build:
      context: ./src
      dockerfile_inline: |
        FROM {base}
        COPY a /inline
"#
    );
    let files = [
        ("compose.yaml", file.as_str()),
        (".env", "WORD=from the file\n"),
        ("src/Dockerfile", dockerfile.as_str()),
        ("src/.dockerignore", "*.log\nDockerfile\n.dockerignore\n"),
        ("src/a", "a\n"),
        ("src/x.log", "left out\n"),
    ];
    context(session, "yard", &files)
}

pub fn same_as_stock(session: &mut Session) -> Result<()> {
    let directory = yard(session)?;
    compose(session, &directory, &["build", "--progress", "plain"])?;
    let images = ["yard/app:1", "yard/inline:1"];
    let own = images
        .iter()
        .map(|image| id(session, image))
        .collect::<Result<Vec<_>>>()?;
    let cat = |image: &str, path: &str| berth(session, &["run", "--rm", image, "cat", path]);
    same(
        "the argument",
        cat("yard/app:1", "/said")?.as_str(),
        "from the file",
    )?;
    same(
        "what is copied",
        cat("yard/app:1", "/found")?.as_str(),
        "/all/a",
    )?;
    same("inline", cat("yard/inline:1", "/inline")?.as_str(), "a")?;
    stock_in(session, &directory, &["build", "app"])?;
    same("by the stock client", &id(session, "yard/app:1")?, &own[0])?;

    compose(session, &directory, &["up", "-d", "app"])?;
    let container = compose(session, &directory, &["ps", "-q", "app"])?;
    fs::write(directory.join("src/a"), "b\n")?;
    compose(session, &directory, &["up", "-d", "app"])?;
    same(
        "nothing asked for",
        &compose(session, &directory, &["ps", "-q"])?,
        &container,
    )?;
    compose(session, &directory, &["up", "-d", "--build", "app"])?;
    let exec = ["exec", "-T", "app", "cat", "/all/a"];
    let seen = retry(SOON, || compose(session, &directory, &exec))?;
    same("what is built anew", seen.trim(), "b")?;
    compose(session, &directory, &["down"]).map(drop)
}

pub fn secrets(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let dockerfile = format!(
        "FROM {base}\nRUN --mount=type=secret,id=token,required=true wc -c < /run/secrets/token > /sizes\n\
         RUN --mount=type=secret,id=word,required=true wc -c < /run/secrets/word >> /sizes\n"
    );
    let file = "services:\n  app:\n    image: vault/app:1\n    build:\n      context: .\n\
         \x20     secrets: [token, {source: pass, target: word}]\n\
         secrets:\n  token: {file: ./token}\n  pass: {environment: VAULT_PASS}\n";
    let (token, pass) = (unlikely("compose-token"), unlikely("compose-pass"));
    let files = [
        ("compose.yaml", file),
        ("Dockerfile", dockerfile.as_str()),
        (".dockerignore", "token\n"),
        ("token", token.as_str()),
    ];
    let directory = context(session, "vault", &files)?;
    let path = directory.join("compose.yaml").display().to_string();
    let line = ["compose", "-f", &path, "build", "--progress", "plain"];
    let built = output(session.docker.command(&line).env("VAULT_PASS", &pass))?;
    let err = String::from_utf8_lossy(&built.stderr).into_owned();
    ensure!(built.status.success(), "{err}");
    let sizes = berth(session, &["run", "--rm", "vault/app:1", "cat", "/sizes"])?;
    same(
        "what the commands saw",
        sizes,
        format!("{}\n{}", token.len(), pass.len()),
    )?;
    let logs = session.daemon_log().parent().context("a directory")?;
    for bytes in [&token, &pass] {
        for place in [session.place.root(), session.place.state(), logs.to_owned()] {
            let found = with_bytes(&place, bytes)?;
            same(&format!("in {place:?}"), found, Vec::new())?;
        }
        ensure!(!err.contains(bytes.as_str()), "it is told: {err}");
    }
    let said = session.docker.refusal(&line)?;
    contains("without the variable", &said, "VAULT_PASS has to be set")
}
