//! Log drivers, built in and plugged in.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::teller;
use crate::command::retry;
use crate::suites::checks::{contains, same};
use crate::suites::docker::session::{IMAGE, Session};

/// Logs are looked at for their size every five seconds.
const SOON: Duration = Duration::from_secs(20);

pub fn refused(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    let run =
        |options: &[&str]| docker.refusal(&[&["run", "--rm"], options, &[IMAGE, "true"]].concat());
    for (options, said) in [
        (
            &["--log-driver", "fluentd"][..],
            "logger: no log driver named 'fluentd' is registered",
        ),
        (
            &["--log-driver", "local", "--log-opt", "tag=x"],
            "unknown log opt 'tag' for log driver local",
        ),
        (
            &["--log-opt", "max-file=0"],
            "max-file cannot be less than 1",
        ),
    ] {
        contains(&options.join(" "), &run(options)?, said)?;
    }
    same("containers", docker.text(&["ps", "-aq"])?.as_str(), "")
}

pub fn local(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    let line = "i=0; while [ $i -lt 1500 ]; do echo line $i; i=$((i+1)); done; exec sleep 1000";
    docker.text(&[
        "run",
        "-d",
        "--name",
        "wordy",
        "--log-driver",
        "local",
        "--log-opt",
        "max-size=16k",
        "--log-opt",
        "max-file=3",
        IMAGE,
        "sh",
        "-c",
        line,
    ])?;
    let path = PathBuf::from(docker.text(&["inspect", "-f", "{{.LogPath}}", "wordy"])?);
    let packed = path.with_extension("log.1.gz");
    let mut follower = docker.command(&["logs", "-f", "--tail", "1", "wordy"]);
    let follower = follower.stdout(std::process::Stdio::piped()).spawn()?;
    retry(SOON, || {
        ensure!(packed.exists(), "{} is not there", packed.display());
        Ok(())
    })?;
    docker.text(&["exec", "wordy", "sh", "-c", "echo after > /proc/1/fd/1"])?;
    let all = retry(SOON, || {
        let all = docker.text(&["logs", "wordy"])?;
        ensure!(all.ends_with("after"), "its last line is missing");
        Ok(all)
    })?;
    let expected = (0..1500).map(|number| format!("line {number}"));
    let expected: Vec<String> = expected.chain(["after".to_owned()]).collect();
    same(
        "the log",
        all.lines().collect::<Vec<_>>().join("\n"),
        expected.join("\n"),
    )?;
    let tail = docker.text(&["logs", "--tail", "2", "wordy"])?;
    same("its tail", tail.as_str(), "line 1499\nafter")?;
    docker.text(&["rm", "-f", "wordy"])?;
    let followed = follower.wait_with_output()?;
    let followed = String::from_utf8_lossy(&followed.stdout).into_owned();
    same("who follows", followed.as_str(), "line 1499\nafter\n")
}

pub fn sent(session: &mut Session) -> Result<()> {
    let teller = teller(session)?;
    let docker = &session.docker;
    let told = docker.text(&["info", "--format", "{{json .Plugins.Log}}"])?;
    same(
        "info",
        told.as_str(),
        r#"["json-file","local","none","teller"]"#,
    )?;
    let line = "echo one; echo two >&2; printf three";
    let made = docker.text(&[
        "run",
        "-d",
        "--name",
        "says",
        "--log-driver",
        "teller",
        "--log-opt",
        "shelf=top",
        IMAGE,
        "sh",
        "-c",
        line,
    ])?;
    docker.text(&["wait", "says"])?;
    let lines = retry(SOON, || {
        let lines = teller.log(&made)?;
        ensure!(lines.len() == 3, "{lines:?}");
        Ok(lines)
    })?;
    let texts = |stream: &str| -> Vec<&str> {
        let of_stream = lines.iter().filter(|line| line.0 == stream);
        of_stream.map(|line| line.1.as_str()).collect()
    };
    same("stdout", texts("stdout"), vec!["one", "three"])?;
    same("stderr", texts("stderr"), vec!["two"])?;
    let info = &teller.asked("LogDriver.StartLogging")?[0]["Info"];
    same("container", info["ContainerName"].as_str(), Some("/says"))?;
    same("options", info["Config"]["shelf"].as_str(), Some("top"))?;
    same("stopped", teller.asked("LogDriver.StopLogging")?.len(), 1)?;
    let logs = docker.output(&["logs", "says"])?;
    same(
        "docker logs",
        String::from_utf8_lossy(&logs.stdout).as_ref(),
        "one\nthree",
    )?;
    // The next run says nothing twice.
    docker.text(&["start", "says"])?;
    docker.text(&["wait", "says"])?;
    retry(SOON, || same("lines", teller.log(&made)?.len(), 6))?;
    docker.text(&["rm", "says"]).map(drop)
}

pub fn killed(session: &mut Session) -> Result<()> {
    let first = teller(session)?;
    let line = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.02; done";
    let made = session.docker.text(&[
        "run",
        "-d",
        "--name",
        "counts",
        "--log-driver",
        "teller",
        IMAGE,
        "sh",
        "-c",
        line,
    ])?;
    let heard = |program: &super::program::Program, more: usize| {
        retry(SOON, || {
            let lines = program.log(&made)?.len();
            ensure!(lines > more, "only {lines} lines");
            Ok(lines)
        })
    };
    let before = heard(&first, 10)?;
    drop(first);
    let second = teller(session)?;
    let before = heard(&second, before + 10)?;
    session.restart_daemon()?;
    heard(&second, before + 10)?;
    session.docker.text(&["stop", "-t", "0", "counts"])?;
    let all = session.docker.text(&["logs", "counts"])?;
    let mut numbers: Vec<u32> = Vec::new();
    for (_, text, ..) in second.log(&made)? {
        numbers.push(text.parse()?);
    }
    // Some may be told twice, none is left out.
    numbers.sort_unstable();
    numbers.dedup();
    let expected: Vec<u32> = (0..u32::try_from(all.lines().count())?).collect();
    same("what the plugin was told", numbers, expected)?;
    session.docker.text(&["rm", "counts"]).map(drop)
}

pub fn missing(session: &mut Session) -> Result<()> {
    let plugin = teller(session)?;
    let docker = &session.docker;
    docker.text(&[
        "create",
        "--name",
        "mute",
        "--log-driver",
        "teller",
        IMAGE,
        "true",
    ])?;
    plugin.behave(&[("LogDriver.StartLogging", "refuse")])?;
    let said = docker.refusal(&["start", "mute"])?;
    let words = "failed to initialize logging driver: LogDriver.StartLogging: not today";
    contains("a refusal", &said, words)?;
    drop(plugin);
    let said = docker.refusal(&["start", "mute"])?;
    let words = "failed to initialize logging driver: plugin \"teller\" not found";
    contains("no plugin", &said, words)?;
    docker.text(&["rm", "mute"]).map(drop)
}
