//! Steps that concern containers, commands and volumes. The image of the first step stays.

use std::fs;
use std::io::Read;
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
        layer_kept,
    ),
    ("logs: tail, timestamps, follow to the end", logs),
    (
        "attach sees what comes, and its keys leave it running",
        attach,
    ),
    (
        "a policy starts it again, so often and no more",
        restart_policy,
    ),
    ("wait tells the exit code; --rm leaves nothing", wait_and_rm),
    (
        "volumes keep what is written, are filled from the image, and are not removed in use",
        volumes,
    ),
    (
        "a missing source of a bind mount is refused and not made",
        missing_bind,
    ),
    (
        "limits are in force: memory, processors, processes, files",
        limits,
    ),
    (
        "read-only, in memory, without privileges, as another user",
        confined,
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

fn layer_kept(session: &mut Session) -> Result<()> {
    let line = "echo x >> /lines; wc -l < /lines";
    docker(
        session,
        &["create", "--name", "keeps", IMAGE, "sh", "-c", line],
    )?;
    for expected in ["1", "2", "3"] {
        same(
            "lines",
            docker(session, &["start", "-a", "keeps"])?.trim(),
            expected,
        )?;
    }
    docker(session, &["rm", "keeps"])?;
    same(
        "lines",
        docker(session, &["run", "--rm", IMAGE, "sh", "-c", line])?.trim(),
        "1",
    )
}

fn logs(session: &mut Session) -> Result<()> {
    let line = "for i in 1 2 3; do echo line $i; done; echo bad >&2; sleep 1; echo last";
    docker(
        session,
        &["run", "-d", "--name", "talks", IMAGE, "sh", "-c", line],
    )?;
    let followed = docker(session, &["logs", "-f", "talks"])?;
    same(
        "followed",
        followed.as_str(),
        "line 1\nline 2\nline 3\nlast",
    )?;
    same(
        "tail",
        docker(session, &["logs", "--tail", "1", "talks"])?.as_str(),
        "last",
    )?;
    let stamped = docker(session, &["logs", "-t", "--tail", "1", "talks"])?;
    let (stamp, rest) = stamped.split_once(' ').context("a timestamp")?;
    ensure!(stamp.ends_with('Z') && rest == "last", "{stamped:?}");
    let since = session
        .docker
        .output(&["logs", "--since", stamp, "talks"])?;
    same(
        "since",
        String::from_utf8_lossy(&since.stdout).trim(),
        "last",
    )?;
    docker(session, &["rm", "talks"]).map(drop)
}

fn attach(session: &mut Session) -> Result<()> {
    docker(
        session,
        &[
            "run",
            "-d",
            "-i",
            "--name",
            "asks",
            IMAGE,
            "sh",
            "-c",
            "read a; echo got $a; read b; echo got $b",
        ],
    )?;
    let mut child = session.docker.command(&["attach", "asks"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut typed = child.stdin.take().context("its input")?;
    std::io::Write::write_all(&mut typed, b"one\ntwo\n")?;
    let mut seen = String::new();
    child
        .stdout
        .take()
        .context("its output")?
        .read_to_string(&mut seen)?;
    drop(typed);
    child.wait()?;
    same("what was seen", seen.as_str(), "got one\ngot two\n")?;
    docker(session, &["rm", "asks"]).map(drop)
}

fn restart_policy(session: &mut Session) -> Result<()> {
    docker(
        session,
        &[
            "run",
            "-d",
            "--restart",
            "on-failure:2",
            "--name",
            "tries",
            IMAGE,
            "sh",
            "-c",
            "echo run; exit 1",
        ],
    )?;
    let state = [
        "inspect",
        "-f",
        "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}",
        "tries",
    ];
    retry(SOON, || {
        same("state", docker(session, &state)?.as_str(), "2 exited 1")
    })?;
    same(
        "runs",
        docker(session, &["logs", "tries"])?.lines().count(),
        3,
    )?;
    docker(session, &["rm", "tries"])?;
    docker(
        session,
        &[
            "run",
            "-d",
            "--restart",
            "always",
            "--name",
            "stays",
            IMAGE,
            "sleep",
            "1000",
        ],
    )?;
    docker(session, &["exec", "stays", "sh", "-c", "kill -9 -1"]).ok();
    docker(session, &["kill", "stays"])?;
    let status = ["inspect", "-f", "{{.State.Status}}", "stays"];
    retry(SOON, || {
        same(
            "after a kill by hand",
            docker(session, &status)?.as_str(),
            "exited",
        )
    })?;
    docker(session, &["rm", "stays"])?;
    let refused = session
        .docker
        .refusal(&["create", "--restart", "always", "--rm", IMAGE])?;
    contains("create", &refused, "--restart")
}

fn wait_and_rm(session: &mut Session) -> Result<()> {
    docker(
        session,
        &[
            "run",
            "-d",
            "--rm",
            "--name",
            "brief",
            IMAGE,
            "sh",
            "-c",
            "sleep 0.5; exit 9",
        ],
    )?;
    same("wait", docker(session, &["wait", "brief"])?.as_str(), "9")?;
    retry(SOON, || {
        same("containers", docker(session, &["ps", "-aq"])?.as_str(), "")
    })
}

fn volumes(session: &mut Session) -> Result<()> {
    same(
        "create",
        docker(session, &["volume", "create", "data"])?.as_str(),
        "data",
    )?;
    docker(
        session,
        &[
            "run",
            "--rm",
            "-v",
            "data:/d",
            IMAGE,
            "sh",
            "-c",
            "echo kept > /d/f",
        ],
    )?;
    let read = [
        "run",
        "--rm",
        "--mount",
        "type=volume,src=data,dst=/d,readonly",
        IMAGE,
        "sh",
        "-c",
        "cat /d/f; touch /d/g 2>/dev/null || echo read-only",
    ];
    same("read", docker(session, &read)?.as_str(), "kept\nread-only")?;
    docker(
        session,
        &[
            "create", "--name", "user", "-v", "data:/d", "-v", "/etc", IMAGE,
        ],
    )?;
    contains(
        "rm",
        &session.docker.refusal(&["volume", "rm", "data"])?,
        "volume is in use",
    )?;
    let anonymous = docker(
        session,
        &["volume", "ls", "-q", "--filter", "dangling=false"],
    )?;
    same("volumes", anonymous.lines().count(), 2)?;
    docker(session, &["rm", "-v", "user"])?;
    same(
        "volumes",
        docker(session, &["volume", "ls", "-q"])?.as_str(),
        "data",
    )?;
    let filled = [
        "run",
        "--rm",
        "-v",
        "fresh:/etc",
        IMAGE,
        "sh",
        "-c",
        "ls /etc | wc -l",
    ];
    ensure!(
        docker(session, &filled)?.trim() != "0",
        "the volume is empty"
    );
    docker(session, &["volume", "rm", "data", "fresh"])?;
    contains(
        "inspect",
        &session.docker.refusal(&["volume", "inspect", "data"])?,
        "no such volume",
    )
}

fn missing_bind(session: &mut Session) -> Result<()> {
    let missing = session.place.scratch().join("nowhere");
    let bind = format!("{}:/d", missing.display());
    let (code, _, err) = ended(session, &["run", "--rm", "-v", &bind, IMAGE, "true"])?;
    same("exit code", code, Some(125))?;
    contains("the reason", &err, "bind source path does not exist")?;
    ensure!(!missing.exists(), "the directory was made");
    same("containers", docker(session, &["ps", "-aq"])?.as_str(), "")
}

fn limits(session: &mut Session) -> Result<()> {
    docker(
        session,
        &[
            "run",
            "-d",
            "--name",
            "bound",
            "-m",
            "64m",
            "--cpus",
            "0.5",
            "--pids-limit",
            "30",
            "--ulimit",
            "nofile=100:200",
            IMAGE,
            "sleep",
            "1000",
        ],
    )?;
    let asked = docker(
        session,
        &[
            "inspect",
            "-f",
            "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}",
            "bound",
        ],
    )?;
    same("inspect", asked.as_str(), "67108864 500000000 30")?;
    let shown = docker(
        session,
        &["stats", "--no-stream", "--format", "{{.MemUsage}}", "bound"],
    )?;
    contains("stats", &shown, "/ 64MiB")?;
    let files = docker(session, &["exec", "bound", "sh", "-c", "ulimit -n"])?;
    same("open files", files.as_str(), "100")?;
    docker(
        session,
        &["update", "--memory", "96m", "--memory-swap", "96m", "bound"],
    )?;
    let shown = docker(
        session,
        &["stats", "--no-stream", "--format", "{{.MemUsage}}", "bound"],
    )?;
    contains("stats", &shown, "/ 96MiB")?;
    docker(session, &["rm", "-f", "bound"])?;
    let refused = session
        .docker
        .refusal(&["run", "--rm", "-m", "1m", IMAGE, "true"])?;
    contains("run", &refused, "Minimum memory limit allowed is 6MB")
}

fn confined(session: &mut Session) -> Result<()> {
    let line = [
        "run",
        "--rm",
        "--read-only",
        "--tmpfs",
        "/t:size=1m",
        "-u",
        "1000:1000",
        "--cap-drop",
        "ALL",
        "--security-opt",
        "no-new-privileges",
        IMAGE,
        "sh",
        "-c",
        "id -u; touch /x 2>/dev/null || echo closed; touch /t/x && echo open; \
         grep -E 'NoNewPrivs|CapBnd' /proc/self/status",
    ];
    let told = docker(session, &line)?;
    same("the user", told.lines().next(), Some("1000"))?;
    for part in [
        "closed",
        "open",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        contains("confinement", &told, part)?;
    }
    Ok(())
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
