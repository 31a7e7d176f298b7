//! Steps with daemons elsewhere: contexts, SSH.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};

use super::{IMAGE, Step, contains, same};
use crate::suites::docker::session::Session;

pub const STEPS: &[(&str, Step)] = &[
    (
        "contexts: made, used, shown, refused in use, removed",
        contexts,
    ),
    (
        "over ssh: both directions, the end of the input, the exit code",
        ssh,
    ),
    ("an ssh that does not get there says what to try", no_way),
];

/// Without `--host`: what the configuration says counts.
fn client(session: &Session) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", "60"])
        .arg(&session.docker.program)
        .env("BERTH_CONFIG", session.place.scratch().join("contexts"))
        .env("DOCKER_CONFIG", &session.docker.config)
        .env_remove("BERTH_HOST")
        .env_remove("BERTH_CONTEXT")
        .stdin(Stdio::null());
    command
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout, &output.stderr].map(|part| String::from_utf8_lossy(part));
    (output.status.code(), text.concat().trim().to_owned())
}

fn contexts(session: &mut Session) -> Result<()> {
    let address = format!("unix://{}", session.docker.socket.display());
    let run = |line: &[&str]| -> Result<(Option<i32>, String)> {
        Ok(said(&client(session).args(line).output()?))
    };
    let fine = |text: &str| (Some(0), text.to_owned());
    let line = [
        "context",
        "create",
        "suite",
        "--description",
        "of the suite",
        "--host",
        &address,
    ];
    same("create", run(&line)?, fine("suite"))?;
    same("show", run(&["context", "show"])?, fine("default"))?;
    let line = [
        "--context",
        "suite",
        "images",
        "--format",
        "{{.Repository}}",
        "shop/app",
    ];
    same("once", run(&line)?, fine("shop/app"))?;
    same("use", run(&["context", "use", "suite"])?, fine("suite"))?;
    let line = ["images", "--format", "{{.Repository}}", "shop/app"];
    same("from then on", run(&line)?, fine("shop/app"))?;
    let line = ["context", "ls", "--format", "{{.Name}}{{.Current}}"];
    same("ls", run(&line)?, fine("default\nsuite*"))?;
    let line = ["context", "inspect", "-f", "{{.Host}}", "suite"];
    same("inspect", run(&line)?, fine(&address))?;
    let (code, text) = run(&["context", "rm", "suite"])?;
    same("in use", code, Some(1))?;
    contains("what to do", &text, "berth context use default")?;
    same(
        "by force",
        run(&["context", "rm", "-f", "suite"])?,
        fine("suite"),
    )?;
    let (code, text) = run(&["context", "use", "suite"])?;
    same("what is not there", code, Some(1))?;
    contains("what to do", &text, "berth context ls")
}

/// A way there that ends at this machine: it runs what it is asked to, as sshd would.
fn pretend_ssh(session: &Session, script: &str) -> Result<String> {
    let directory = session.place.scratch().join("bin");
    fs::create_dir_all(&directory)?;
    let program = directory.join("ssh");
    fs::write(&program, script)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    fs::copy(&session.docker.program, directory.join("berth"))?;
    let path = std::env::var("PATH").context("PATH")?;
    Ok(format!("{}:{path}", directory.display()))
}

fn ssh(session: &mut Session) -> Result<()> {
    let script = format!(
        "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\n[ \"$2\" = me@far ] || exit 9\n\
         shift 2\nBERTH_HOST=unix://{} exec \"$@\"\n",
        session.docker.socket.display()
    );
    let path = pretend_ssh(session, &script)?;
    let script = "cat; echo end; echo err >&2; exit 6";
    let mut child = client(session)
        .env("PATH", &path)
        .args([
            "--host",
            "ssh://me@far",
            "run",
            "--rm",
            "-i",
            IMAGE,
            "sh",
            "-c",
            script,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("its input")?
        .write_all(b"far\n")?;
    let output = child.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let found = (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    );
    same(
        "run",
        found,
        (Some(6), "far\nend\n".to_owned(), "err\n".to_owned()),
    )
}

fn no_way(session: &mut Session) -> Result<()> {
    let path = pretend_ssh(
        session,
        "#!/bin/sh\necho 'Permission denied' >&2\nexit 255\n",
    )?;
    let mut command = client(session);
    command
        .env("PATH", &path)
        .args(["--host", "ssh://me@far", "ps"]);
    let (code, text) = said(&command.output()?);
    same("exit code", code, Some(1))?;
    contains("the reason", &text, "Permission denied")?;
    contains("what to do", &text, "ssh me@far berth version")
}
