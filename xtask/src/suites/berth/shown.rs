//! Steps that need no image: versions, what is said where no daemon is, what shells need.

use std::fs;
use std::process::Command;

use anyhow::Result;

use super::{Step, berth, contains, ended, same};
use crate::command::run;
use crate::suites::docker::session::Session;

pub const STEPS: &[(&str, Step)] = &[
    ("version tells of both sides", version),
    (
        "a daemon that is not there: which socket, and how to start it",
        unreachable,
    ),
    (
        "a command line that cannot be meant ends with 125",
        not_understood,
    ),
    ("info shows the machine, whole and by a template", info),
    ("lists of nothing are a heading alone", none_yet),
    (
        "completions are scripts that their shells can read",
        completions,
    ),
    ("there is a manual page for every command", manual),
];

fn version(session: &mut Session) -> Result<()> {
    let text = berth(session, &["version"])?;
    contains("version", &text, "Client:")?;
    contains("version", &text, "Server:")?;
    let api = berth(session, &["version", "--format", "{{.Server.ApiVersion}}"])?;
    same("version", api.as_str(), "1.50")
}

fn unreachable(session: &mut Session) -> Result<()> {
    let nowhere = "unix:///nowhere/berth.sock";
    for (line, expected) in [(["ps", "-a"], 1), (["run", "image"], 125)] {
        let output = Command::new(&session.docker.program)
            .args(["--host", nowhere])
            .args(line)
            .env("HOME", session.place.scratch())
            .output()?;
        same(line[0], output.status.code(), Some(expected))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        contains("the socket", &said, nowhere)?;
        contains("what to do", &said, "systemctl start berthd")?;
        same("colours", said.contains('\x1b'), false)?;
    }
    Ok(())
}

fn not_understood(session: &mut Session) -> Result<()> {
    let (code, out, err) = ended(session, &["run", "--no-such-flag", "image"])?;
    same("exit code", (code, out.as_str()), (125, ""))?;
    contains("the flag", &err, "--no-such-flag")?;
    let (code, _, err) = ended(session, &["run", "-p", "nonsense", "image"])?;
    same("exit code", code, 125)?;
    contains("what to write", &err, "8080:80")
}

fn info(session: &mut Session) -> Result<()> {
    contains("info", &berth(session, &["info"])?, "Cgroup Driver:")?;
    let line = ["info", "--format", "{{.OSType}} {{.Swarm.LocalNodeState}}"];
    same("info", berth(session, &line)?.as_str(), "linux inactive")
}

fn none_yet(session: &mut Session) -> Result<()> {
    let images = "REPOSITORY   TAG   IMAGE ID   CREATED   SIZE";
    same("images", berth(session, &["images"])?.as_str(), images)?;
    let containers = "CONTAINER ID   IMAGE   COMMAND   CREATED   STATUS   PORTS   NAMES";
    same("ps", berth(session, &["ps", "-a"])?.as_str(), containers)?;
    same("ps -q", berth(session, &["ps", "-aq"])?.as_str(), "")
}

fn completions(session: &mut Session) -> Result<()> {
    let bash = berth(session, &["completion", "bash"])?;
    let file = session.place.scratch().join("completion.bash");
    fs::write(&file, &bash)?;
    run(Command::new("bash").arg("-n").arg(&file))?;
    // As bash asks once somebody has typed `berth netw` and the key.
    let script = format!(
        "source {}; COMP_WORDS=(berth netw); COMP_CWORD=1; _berth berth netw berth; \
         echo \"${{COMPREPLY[*]}}\"",
        file.display()
    );
    let offered = crate::command::stdout(Command::new("bash").args(["-c", &script]))?;
    same("what bash offers", offered.trim(), "network")?;
    contains(
        "zsh",
        &berth(session, &["completion", "zsh"])?,
        "#compdef berth",
    )?;
    let fish = berth(session, &["completion", "fish"])?;
    contains("fish", &fish, "complete -c berth")
}

fn manual(session: &mut Session) -> Result<()> {
    let pages = session.place.scratch().join("man");
    berth(session, &["man", &pages.display().to_string()])?;
    for name in [
        "berth",
        "berth-run",
        "berth-network-create",
        "berth-image-ls",
    ] {
        let page = fs::read_to_string(pages.join(format!("{name}.1")))?;
        contains(name, &page, ".SH NAME")?;
    }
    let page = fs::read_to_string(pages.join("berth-run.1"))?;
    contains("flags of run", &page, "\\-\\-publish")
}
