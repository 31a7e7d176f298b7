//! Files that change while `berth compose watch` looks, and what becomes of containers.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::super::builds::context;
use super::super::{berth, contains, same};
use super::SOON;
use crate::command::{retry, wait};
use crate::suites::docker::session::Session;

/// Longer than it takes until a batch of changes is taken up.
const LONG: Duration = Duration::from_millis(1500);

/// A service of two containers that is built, and one beside it.
fn loom(session: &Session) -> Result<PathBuf> {
    let base = session.reference(":one");
    let dockerfile = format!("FROM {base}\nCOPY . /app\nCOPY conf /etc/web/conf\n");
    let file = format!(
        r#"name: loom
services:
  web:
    image: loom/web:1
    build: ./web
    user: "1000:1000"
    command: [sh, -c, "echo begun $$(cat /etc/web/conf); sleep 600"]
    stop_signal: KILL
    scale: 2
    develop:
      watch:
        - {{path: ./web/src, action: sync, target: /app/src, ignore: ["*.log"], initial_sync: true}}
        - {{path: ./web/conf, action: sync+restart, target: /etc/web/conf}}
        - {{path: ./web/list, action: rebuild}}
        - path: ./web/hooks
          action: sync+exec
          target: /hooks
          exec: {{command: [sh, -c, "cat /hooks/* > /ran"], user: root}}
  beside:
    image: {base}
    command: [sleep, "600"]
    stop_signal: KILL
"#
    );
    let files = [
        ("compose.yaml", file.as_str()),
        ("web/Dockerfile", dockerfile.as_str()),
        ("web/.dockerignore", "src/left\n"),
        ("web/src/first", "first"),
        ("web/conf", "one"),
        ("web/list", "old"),
        ("web/hooks/a", "a"),
    ];
    context(session, "loom", &files)
}

fn compose(session: &Session, arguments: &[&str]) -> Result<String> {
    let file = session.place.scratch().join("loom/compose.yaml");
    let file = file.display().to_string();
    berth(session, &[&["compose", "-f", &file], arguments].concat())
}

/// `compose watch` or `up --watch`, in the background.
struct Watcher {
    child: Child,
    said: PathBuf,
}

impl Watcher {
    fn begin(session: &Session, arguments: &[&str]) -> Result<Self> {
        let said = session.place.scratch().join("watched");
        let file = session.place.scratch().join("loom/compose.yaml");
        let out = File::create(&said)?;
        let child = std::process::Command::new(&session.docker.program)
            .arg("--host")
            .arg(format!("unix://{}", session.docker.socket.display()))
            .args(["compose", "-f"])
            .arg(file)
            .args(arguments)
            .env("DOCKER_CONFIG", &session.docker.config)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("starting berth compose watch")?;
        let watcher = Self { child, said };
        watcher.says("Watch enabled")?;
        Ok(watcher)
    }

    fn text(&self) -> Result<String> {
        fs::read_to_string(&self.said).context("reading what was said")
    }

    fn says(&self, part: &str) -> Result<()> {
        retry(SOON, || contains("what is told", &self.text()?, part))
    }

    fn interrupt(mut self) -> Result<ExitStatus> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT)?;
        match wait(&mut self.child, SOON)? {
            Some(status) => Ok(status),
            None => bail!("it goes on after an interrupt: {}", self.text()?),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _over = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// In each container of the service, once all of them say so.
fn inside(session: &Session, script: &str, expected: &str) -> Result<()> {
    for index in ["1", "2"] {
        let exec = ["exec", "-T", "--index", index, "web", "sh", "-c", script];
        retry(SOON, || {
            same(script, compose(session, &exec)?.trim(), expected)
        })?;
    }
    Ok(())
}

/// What tells one container from its successor, and one run of it from the next.
fn runs(session: &Session, service: &str) -> Result<Vec<(String, String)>> {
    let ids = compose(session, &["ps", "-q", service])?;
    let mut runs = Vec::new();
    for id in ids.lines() {
        let told: Value = session.docker.json(&["inspect", id])?;
        let started = told[0]["State"]["StartedAt"].as_str().unwrap_or_default();
        runs.push((id.to_owned(), started.to_owned()));
    }
    runs.sort();
    Ok(runs)
}

fn files(session: &Session, web: &Path) -> Result<()> {
    inside(session, "cat /app/src/first", "first")?;
    fs::write(web.join("src/a"), "1")?;
    inside(
        session,
        "cat /app/src/a; stat -c ' %u' /app/src/a",
        "1 1000",
    )?;
    // As editors save.
    fs::write(web.join("src/.a.swp"), "2")?;
    fs::rename(web.join("src/.a.swp"), web.join("src/a"))?;
    fs::write(web.join("src/x.log"), "no")?;
    fs::create_dir(web.join("src/left"))?;
    fs::write(web.join("src/left/x"), "no")?;
    inside(session, "cat /app/src/a", "2")?;
    let aside = web.join("aside/deep");
    fs::create_dir_all(&aside)?;
    fs::write(aside.join("b"), "b")?;
    fs::rename(web.join("aside"), web.join("src/moved"))?;
    symlink("/etc", web.join("src/out"))?;
    inside(
        session,
        "cat /app/src/moved/deep/b; readlink /app/src/out",
        "b/etc",
    )?;
    fs::rename(web.join("src/moved/deep"), web.join("src/moved/other"))?;
    fs::remove_file(web.join("src/a"))?;
    inside(
        session,
        "cd /app/src && find . | sort | tr '\\n' ' '",
        ". ./first ./moved ./moved/other ./moved/other/b ./out",
    )
}

pub fn follows(session: &mut Session) -> Result<()> {
    let web = loom(session)?.join("web");
    compose(session, &["up", "-d", "--build"])?;
    let (before, beside) = (runs(session, "web")?, runs(session, "beside")?);
    same("containers", before.len(), 2)?;
    let watcher = Watcher::begin(session, &["watch", "--no-up"])?;
    files(session, &web)?;
    same("after files", runs(session, "web")?, before.clone())?;
    fs::write(web.join("hooks/a"), "hooked")?;
    inside(session, "cat /ran", "hooked")?;
    let new = web.join("conf.new");
    fs::write(&new, "two")?;
    fs::rename(&new, web.join("conf"))?;
    inside(session, "cat /etc/web/conf", "two")?;
    let restarted = retry(SOON, || {
        let now = runs(session, "web")?;
        let is_other = now.iter().zip(&before).all(|(now, old)| now.1 != old.1);
        ensure!(now.len() == 2 && is_other, "not started again: {now:?}");
        Ok(now)
    })?;
    let ids = |runs: &[(String, String)]| -> Vec<String> {
        runs.iter().map(|(id, _)| id.clone()).collect()
    };
    same("ids after a restart", ids(&restarted), ids(&before))?;
    let image = |session: &Session| berth(session, &["inspect", "-f", "{{.Id}}", "loom/web:1"]);
    let old = image(session)?;
    fs::write(web.join("list"), "new")?;
    watcher.says("successfully built")?;
    inside(session, "cat /app/list", "new")?;
    let now = runs(session, "web")?;
    ensure!(
        now.len() == 2 && ids(&now).iter().all(|id| !ids(&before).contains(id)),
        "not made anew: {now:?}"
    );
    ensure!(image(session)? != old, "the image is the old one");
    let gone = session.docker.refusal(&["image", "inspect", &old])?;
    contains("the image before", &gone, "No such image")?;
    same(
        "the service beside",
        runs(session, "beside")?,
        beside.clone(),
    )?;
    away(session, &watcher, &web)?;
    same("the service beside", runs(session, "beside")?, beside)?;
    let last = runs(session, "web")?;
    let status = watcher.interrupt()?;
    same("exit code", status.code(), Some(130))?;
    same("after the interrupt", runs(session, "web")?, last)
}

/// The daemon goes away while something changes.
fn away(session: &mut Session, watcher: &Watcher, web: &Path) -> Result<()> {
    session.restart_daemon_after(|| {
        fs::write(web.join("src/meanwhile"), "m")?;
        watcher.says("waiting for it")
    })?;
    watcher.says("the daemon is back")?;
    inside(session, "cat /app/src/meanwhile", "m")?;
    fs::write(web.join("src/later"), "l")?;
    inside(session, "cat /app/src/later", "l")
}

pub fn with_up(session: &mut Session) -> Result<()> {
    let web = session.place.scratch().join("loom/web");
    let watcher = Watcher::begin(session, &["up", "--watch"])?;
    watcher.says("begun two")?;
    let base = session.reference(":one");
    fs::write(web.join("Dockerfile"), format!("FROM {base}\nRUN exit 3\n"))?;
    fs::write(web.join("list"), "broken")?;
    watcher.says("its build failed")?;
    fs::write(web.join("conf"), "three")?;
    watcher.says("begun three")?;
    std::thread::sleep(LONG);
    let status = watcher.interrupt()?;
    same("exit code", status.code(), Some(130))?;
    let left = compose(session, &["ps", "-q", "--status", "running"])?;
    same("what runs after it", left.as_str(), "")?;
    compose(session, &["down"])?;
    let told = compose(session, &["ps", "-a", "-q"])?;
    same("containers", told.as_str(), "")?;
    let (code, _, err) =
        super::ended(session, &["compose", "-f", "/dev/null", "watch", "--no-up"])?;
    ensure!(code != 0 && !err.is_empty(), "it watches nothing");
    Ok(())
}
