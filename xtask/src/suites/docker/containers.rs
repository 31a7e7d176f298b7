//! Steps that concern containers, commands and volumes. The image of the first step stays.

mod bounds;
mod lasting;

use std::fs;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::session::{IMAGE, Session};
use super::{Step, contains, docker, now, same};
use crate::command::retry;

const SOON: Duration = Duration::from_secs(10);

/// In order: later steps build on what earlier ones made.
pub const STEPS: &[(&str, Step)] = &[
    (
        "run pulls what is missing, and shows the output and the exit code",
        run,
    ),
    (
        "standard output and error come apart, input goes in",
        streams,
    ),
    (
        "a program that is not there ends with 127, one that cannot run with 126",
        no_program,
    ),
    ("run -it has a terminal", terminal),
    (
        "an entrypoint does without the image's command, and environments add up",
        command_line,
    ),
    (
        "a container is found by name and by the start of its id",
        names,
    ),
    (
        "a name that is taken is refused in Docker's words",
        name_taken,
    ),
    (
        "exec runs beside it, with a user, a directory and variables of its own",
        exec,
    ),
    ("exec of what is not there ends with 127", exec_missing),
    ("top, stats and port show what runs", shows),
    ("pause stops it where it is", pause),
    (
        "a published port is fetched over HTTP, also after a stop and a start",
        port,
    ),
    (
        "what was written is there after a restart, and gone with the container",
        lasting::layer_kept,
    ),
    ("logs: tail, timestamps, follow to the end", lasting::logs),
    (
        "attach sees what comes, and its keys leave it running",
        lasting::attach,
    ),
    (
        "a policy starts it again, so often and no more",
        lasting::restart_policy,
    ),
    (
        "wait tells the exit code; --rm leaves nothing",
        lasting::wait_and_rm,
    ),
    (
        "volumes keep what is written, are filled from the image, and are not removed in use",
        bounds::volumes,
    ),
    (
        "a missing source of a bind mount is refused and not made",
        bounds::missing_bind,
    ),
    (
        "limits are in force: memory, processors, processes, files",
        bounds::limits,
    ),
    (
        "read-only, in memory, without privileges, as another user",
        bounds::confined,
    ),
    (
        "rename, update, and removal only by force while it runs",
        changes,
    ),
    ("a kubelet is not shown these containers", unseen),
    ("events come in the order that Compose relies on", events),
    ("prune removes what has ended", prune),
];

/// Runs a container to its end: exit code, output, errors.
fn ended(session: &Session, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    let output = session.docker.output(arguments)?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    ))
}

fn run(session: &mut Session) -> Result<()> {
    session.have_daemon()?;
    let name = session.reference(":one");
    // Earlier steps may have left it.
    let _absent = session.docker.output(&["rmi", "--force", &name])?;
    let (code, out, err) = ended(session, &["run", "--rm", &name, "echo", "hello"])?;
    same("exit code", code, Some(0))?;
    same("output", out.as_str(), "hello\n")?;
    contains("what is told of the pull", &err, "Unable to find image")?;
    docker(session, &["tag", &name, IMAGE])?;
    let (code, ..) = ended(session, &["run", "--rm", IMAGE, "sh", "-c", "exit 7"])?;
    same("exit code", code, Some(7))?;
    same("containers", docker(session, &["ps", "-aq"])?.as_str(), "")
}

fn streams(session: &mut Session) -> Result<()> {
    let line = ["run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2"];
    let (_, out, err) = ended(session, &line)?;
    same("streams", (out.as_str(), err.as_str()), ("out\n", "err\n"))?;
    let mut child =
        session
            .docker
            .command(&["run", "--rm", "-i", IMAGE, "sh", "-c", "cat; echo end"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut typed = child.stdin.take().context("its input")?;
    std::io::Write::write_all(&mut typed, b"piped\n")?;
    drop(typed);
    let output = child.wait_with_output()?;
    same(
        "output",
        String::from_utf8_lossy(&output.stdout).as_ref(),
        "piped\nend\n",
    )
}

fn no_program(session: &mut Session) -> Result<()> {
    for (program, expected) in [("nothing-of-the-kind", 127), ("/etc/passwd", 126)] {
        let (code, _, err) = ended(session, &["run", "--rm", IMAGE, program])?;
        same(program, code, Some(expected))?;
        contains("the reason", &err, program)?;
    }
    same("containers", docker(session, &["ps", "-aq"])?.as_str(), "")
}

fn terminal(session: &mut Session) -> Result<()> {
    let mut inner = session
        .docker
        .command(&["run", "--rm", "-it", IMAGE, "tty"]);
    let words: Vec<String> = std::iter::once(inner.get_program())
        .chain(inner.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    // script(1) gives the CLI a terminal of its own. `exec`, because a shell that
    // stays would have timeout(1) run it in a process group without the terminal.
    let mut script = std::process::Command::new("script");
    script
        .args(["-qec", &format!("exec {}", words.join(" ")), "/dev/null"])
        .stdin(Stdio::null());
    for (key, value) in inner.get_envs() {
        match value {
            Some(value) => script.env(key, value),
            None => script.env_remove(key),
        };
    }
    inner.stdin(Stdio::null());
    let output = crate::command::output(&mut script)?;
    contains(
        "tty",
        &String::from_utf8_lossy(&output.stdout),
        "/dev/pts/0",
    )
}

fn command_line(session: &mut Session) -> Result<()> {
    let line = [
        "run",
        "--rm",
        "--entrypoint",
        "echo",
        "-e",
        "X=1",
        IMAGE,
        "a",
        "b",
    ];
    same("output", docker(session, &line)?.as_str(), "a b")?;
    let line = [
        "run",
        "--rm",
        "-e",
        "MINE=2",
        "-w",
        "/tmp",
        "--hostname",
        "harbour",
        IMAGE,
        "sh",
        "-c",
        "echo $FROM_IMAGE $MINE $(hostname) $(pwd)",
    ];
    same(
        "environment",
        docker(session, &line)?.as_str(),
        "yes 2 harbour /tmp",
    )
}

fn names(session: &mut Session) -> Result<()> {
    let id = docker(
        session,
        &[
            "run", "-d", "--name", "web", "--label", "a=b", IMAGE, "sleep", "1000",
        ],
    )?;
    let short = id.get(..12).context("a short id")?;
    for name in ["web", short, &id] {
        let found = docker(
            session,
            &["inspect", "-f", "{{.Id}} {{.Name}} {{.State.Status}}", name],
        )?;
        same(name, found, format!("{id} /web running"))?;
    }
    let listed = docker(
        session,
        &[
            "ps",
            "--format",
            "{{.ID}} {{.Image}} {{.Names}}",
            "--filter",
            "label=a=b",
        ],
    )?;
    same("ps", listed, format!("{short} {IMAGE} web"))?;
    let missing = session.docker.refusal(&["inspect", "nobody"])?;
    contains("inspect", &missing, "No such object: nobody")
}

fn name_taken(session: &mut Session) -> Result<()> {
    let refused = session
        .docker
        .refusal(&["create", "--name", "web", IMAGE])?;
    contains(
        "create",
        &refused,
        "The container name \"/web\" is already in use by container",
    )?;
    let refused = session
        .docker
        .refusal(&["create", "--name", "no way", IMAGE])?;
    contains("create", &refused, "Invalid container name (no way)")
}

fn exec(session: &mut Session) -> Result<()> {
    let line = [
        "exec",
        "-e",
        "A=b",
        "-w",
        "/tmp",
        "-u",
        "1000:5",
        "web",
        "sh",
        "-c",
        "echo $A $(pwd) $(id -u) $(id -g); exit 3",
    ];
    let (code, out, _) = ended(session, &line)?;
    same("exec", (code, out.as_str()), (Some(3), "b /tmp 1000 5\n"))?;
    docker(session, &["exec", "-d", "web", "touch", "/tmp/detached"])?;
    retry(SOON, || {
        docker(session, &["exec", "web", "ls", "/tmp/detached"])
    })
    .map(drop)
}

fn exec_missing(session: &mut Session) -> Result<()> {
    let (code, out, err) = ended(session, &["exec", "web", "nothing-of-the-kind"])?;
    same("exit code", code, Some(127))?;
    contains("the reason", &(out + &err), "nothing-of-the-kind")?;
    let refused = session.docker.refusal(&["exec", "nobody", "true"])?;
    contains("exec", &refused, "No such container: nobody")
}

fn shows(session: &mut Session) -> Result<()> {
    contains("top", &docker(session, &["top", "web"])?, "sleep 1000")?;
    let stats = docker(
        session,
        &[
            "stats",
            "--no-stream",
            "--format",
            "{{.Name}} {{.PIDs}}",
            "web",
        ],
    )?;
    same("stats", stats.as_str(), "web 1")
}

fn pause(session: &mut Session) -> Result<()> {
    docker(session, &["pause", "web"])?;
    let status = docker(
        session,
        &["ps", "--format", "{{.Status}}", "--filter", "name=web"],
    )?;
    contains("ps", &status, "(Paused)")?;
    contains(
        "exec",
        &session.docker.refusal(&["exec", "web", "true"])?,
        "is paused",
    )?;
    docker(session, &["unpause", "web"])?;
    contains(
        "unpause",
        &session.docker.refusal(&["unpause", "web"])?,
        "is not paused",
    )?;
    docker(session, &["stop", "-t", "0", "web"])?;
    docker(session, &["rm", "web"]).map(drop)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn fetch(port: u16) -> Result<String> {
    let url = format!("http://127.0.0.1:{port}/");
    crate::command::stdout(std::process::Command::new("curl").args(["-sSf", "-m", "3", &url]))
}

fn port(session: &mut Session) -> Result<()> {
    let pages = session.place.scratch().join("pages");
    fs::create_dir(&pages)?;
    fs::write(pages.join("index.html"), "a page\n")?;
    let number = free_port()?;
    let (publish, bind) = (
        format!("{number}:80"),
        format!("{}:/www:ro", pages.display()),
    );
    docker(
        session,
        &[
            "run", "-d", "--name", "site", "-p", &publish, "-v", &bind, IMAGE, "httpd", "-f", "-p",
            "80", "-h", "/www",
        ],
    )?;
    same("the page", retry(SOON, || fetch(number))?.trim(), "a page")?;
    let told = docker(session, &["port", "site"])?;
    contains("port", &told, &format!("80/tcp -> 0.0.0.0:{number}"))?;
    docker(session, &["stop", "-t", "0", "site"])?;
    ensure!(
        fetch(number).is_err(),
        "a container that was stopped still answers"
    );
    docker(session, &["start", "site"])?;
    same("the page", retry(SOON, || fetch(number))?.trim(), "a page")?;
    let (code, _, err) = ended(session, &["run", "--rm", "-p", &publish, IMAGE, "true"])?;
    same("a port that is taken", code, Some(125))?;
    contains("the reason", &err, &number.to_string())?;
    docker(session, &["rm", "-f", "site"]).map(drop)
}

fn changes(session: &mut Session) -> Result<()> {
    docker(
        session,
        &["run", "-d", "--name", "first", IMAGE, "sleep", "1000"],
    )?;
    docker(session, &["rename", "first", "second"])?;
    contains(
        "inspect",
        &session.docker.refusal(&["inspect", "first"])?,
        "No such object",
    )?;
    let refused = session.docker.refusal(&["rm", "second"])?;
    contains(
        "rm",
        &refused,
        "container is running: stop the container before removing or force remove",
    )?;
    docker(
        session,
        &["update", "--restart", "unless-stopped", "second"],
    )?;
    let policy = [
        "inspect",
        "-f",
        "{{.HostConfig.RestartPolicy.Name}}",
        "second",
    ];
    same(
        "policy",
        docker(session, &policy)?.as_str(),
        "unless-stopped",
    )?;
    docker(session, &["rm", "-f", "second"]).map(drop)
}

fn unseen(session: &mut Session) -> Result<()> {
    docker(
        session,
        &["run", "-d", "--name", "apart", IMAGE, "sleep", "1000"],
    )?;
    let mut cri = crate::cri::Cri::connect(&session.place.socket())?;
    same("pods of the CRI", cri.pods()?.len(), 0)?;
    same("containers of the CRI", cri.containers()?.len(), 0)?;
    docker(session, &["rm", "-f", "apart"]).map(drop)
}

fn events(session: &mut Session) -> Result<()> {
    let from = now()?;
    docker(
        session,
        &[
            "run",
            "-d",
            "--name",
            "told",
            IMAGE,
            "sh",
            "-c",
            "trap exit TERM; sleep 1000 & wait",
        ],
    )?;
    docker(session, &["stop", "told"])?;
    docker(session, &["rm", "told"])?;
    let until = now()?;
    let told = session
        .docker
        .told((&from, &until), &["type=container"], "{{.Action}}")?;
    let order: Vec<&str> = told.iter().map(String::as_str).collect();
    same(
        "events",
        order,
        vec!["create", "start", "kill", "die", "stop", "destroy"],
    )
}

fn prune(session: &mut Session) -> Result<()> {
    docker(session, &["create", "--name", "idle", IMAGE])?;
    contains(
        "prune",
        &docker(session, &["container", "prune", "-f"])?,
        "Deleted Containers",
    )?;
    same("containers", docker(session, &["ps", "-aq"])?.as_str(), "")
}
