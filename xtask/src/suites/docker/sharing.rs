//! Steps that concern an init, namespaces of other containers, groups, and parts of volumes.

use anyhow::{Result, ensure};

use super::session::{IMAGE, Session};
use super::{Step, contains, same};

pub const STEPS: &[(&str, Step)] = &[
    (
        "an init reaps, hands signals on, and ends as its program does",
        init,
    ),
    (
        "a container on the network of another one has its address and names",
        network,
    ),
    (
        "PIDs and IPC of another container, where that lets others in",
        pid_and_ipc,
    ),
    (
        "what cannot be shared is refused in Docker's words",
        refused,
    ),
    ("users and groups by name", groups),
    (
        "volumes of another container, and a part of a volume that links do not leave",
        volumes,
    ),
];

fn sh<'a>(options: &[&'a str], line: &'a str) -> Vec<&'a str> {
    [&["run", "--rm"], options, &[IMAGE, "sh", "-c", line]].concat()
}

fn init(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    let shown = docker.text(&sh(&["--init"], "cat /proc/1/comm; exit 0"))?;
    same("process 1", shown.as_str(), "docker-init")?;
    let line = "grep -c ' /sbin/docker-init ro' /proc/1/mountinfo";
    let mounted = docker.text(&sh(&["--init"], line))?;
    same("it cannot be written", mounted.as_str(), "1")?;
    let code = |line: &[&str]| Ok::<_, anyhow::Error>(docker.output(line)?.status.code());
    same("exit code", code(&sh(&["--init"], "exit 7"))?, Some(7))?;
    same("killed", code(&sh(&["--init"], "kill -9 $$"))?, Some(137))?;
    let missing = ["run", "--rm", "--init", IMAGE, "nothing-of-the-kind"];
    same("a missing program", code(&missing)?, Some(127))?;
    // The program ignores nothing and handles TERM: it alone decides how it ends.
    let line = "trap 'exit 5' TERM; (sleep 0.1 &) ; while :; do sleep 0.05; done";
    docker.text(&[
        "run",
        "-d",
        "--init",
        "--read-only",
        "-u",
        "1000",
        "--name",
        "first",
        IMAGE,
        "sh",
        "-c",
        line,
    ])?;
    let zombies = "sleep 0.5; grep -l 'State:.Z' /proc/[0-9]*/status | wc -l";
    let zombies = docker.text(&["exec", "first", "sh", "-c", zombies])?;
    same("zombies", zombies.as_str(), "0")?;
    docker.text(&["stop", "first"])?;
    let told = [
        "inspect",
        "-f",
        "{{.State.ExitCode}} {{.HostConfig.Init}} {{.Path}}",
        "first",
    ];
    same("inspect", docker.text(&told)?.as_str(), "5 true sh")?;
    docker.text(&["rm", "first"]).map(drop)
}

fn network(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    docker.text(&[
        "run",
        "-d",
        "--name",
        "host-of",
        "--hostname",
        "quay",
        IMAGE,
        "sleep",
        "1000",
    ])?;
    let id = docker.text(&["inspect", "-f", "{{.Id}}", "host-of"])?;
    let shared = format!("container:{id}");
    let line = "ip -4 -o addr show eth0; hostname; grep quay /etc/hosts";
    let own = docker.text(&["exec", "host-of", "sh", "-c", line])?;
    ensure!(own.contains("quay"), "{own:?}");
    let theirs = docker.text(&sh(&["--network", "container:host-of"], line))?;
    same("the network", theirs, own)?;
    docker.text(&[
        "run",
        "-d",
        "--name",
        "guest",
        "--network",
        "container:host-of",
        IMAGE,
        "sleep",
        "1000",
    ])?;
    let mode = [
        "inspect",
        "-f",
        "{{.HostConfig.NetworkMode}} {{len .NetworkSettings.Networks}}",
        "guest",
    ];
    same("mode", docker.text(&mode)?, format!("{shared} 0"))?;
    let refused = docker.refusal(&["network", "connect", "bridge", "guest"])?;
    contains(
        "connect",
        &refused,
        "container sharing network namespace with another container",
    )?;
    // The other one starts anew, with another network: who starts after it is with it again.
    docker.text(&["restart", "-t", "0", "host-of"])?;
    docker.text(&["restart", "-t", "0", "guest"])?;
    let own = docker.text(&["exec", "host-of", "readlink", "/proc/self/ns/net"])?;
    let theirs = docker.text(&["exec", "guest", "readlink", "/proc/self/ns/net"])?;
    same("the network after a restart", theirs, own)?;
    docker.text(&["rm", "-f", "guest"])?;
    docker.text(&["rm", "-f", "host-of"]).map(drop)
}

fn pid_and_ipc(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    docker.text(&[
        "run",
        "-d",
        "--name",
        "open",
        "--ipc",
        "shareable",
        "--shm-size",
        "1m",
        IMAGE,
        "sh",
        "-c",
        "echo from open > /dev/shm/note; exec sleep 1001",
    ])?;
    let seen = docker.text(&sh(
        &["--pid", "container:open"],
        "cat /proc/1/cmdline | tr '\\0' ' '",
    ))?;
    same("process 1", seen.as_str(), "sleep 1001")?;
    let line = "cat /dev/shm/note; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d ' ' -f 2";
    let seen = docker.text(&sh(&["--ipc", "container:open"], line))?;
    same("shared memory", seen.as_str(), "from open\n1024")?;
    let none = docker.text(&sh(
        &["--ipc", "none"],
        "ls /dev/shm 2>/dev/null || echo none",
    ))?;
    same("no shared memory", none.as_str(), "none")?;
    docker.text(&["rm", "-f", "open"]).map(drop)
}

fn refused(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    docker.text(&["create", "--name", "idle", IMAGE, "sleep", "1000"])?;
    let run = |mode: &[&str]| docker.refusal(&[&["run", "--rm"], mode, &[IMAGE, "true"]].concat());
    for (mode, said) in [
        (
            &["--network", "container:idle"][..],
            "cannot join network namespace of a non running container",
        ),
        (
            &["--pid", "container:idle"],
            "cannot join PID namespace of a non running container",
        ),
        (
            &["--network", "container:nobody"],
            "No such container: nobody",
        ),
        (
            &["--network", "container:idle", "--hostname", "x"],
            "conflicting options: hostname and the network mode",
        ),
        (
            &["--network", "container:idle", "-p", "80"],
            "conflicting options: port publishing and the container type network mode",
        ),
        (&["--ipc", "nonsense"], "nonsense"),
    ] {
        contains(&mode.join(" "), &run(mode)?, said)?;
    }
    docker.text(&["start", "idle"])?;
    contains(
        "ipc",
        &run(&["--ipc", "container:idle"])?,
        "non-shareable IPC",
    )?;
    docker.text(&["rm", "-f", "idle"])?;
    same("containers", docker.text(&["ps", "-aq"])?.as_str(), "")
}

fn groups(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    let named = session.reference(":checked");
    let ids = |options: &[&str]| {
        let line = [
            &["run", "--rm"],
            options,
            &[&named, "sh", "-c", "id -u; id -g; id -G"],
        ];
        docker.text(&line.concat())
    };
    let told = ids(&[
        "-u",
        "cook:bar",
        "--group-add",
        "cooks",
        "--group-add",
        "44",
    ])?;
    same("ids", told.as_str(), "1005\n1007\n1007 44 1006")?;
    same("ids", ids(&["-u", "1005"])?.as_str(), "1005\n1006\n1006")?;
    docker.text(&["rmi", &named])?;
    let told = docker.text(&sh(
        &["-u", "0:0", "--group-add", "44"],
        "id -u; id -g; id -G",
    ))?;
    same("ids", told.as_str(), "0\n0\n0 44")?;
    let refused = docker.refusal(&sh(&["--group-add", "nobodys"], "true"))?;
    contains("run", &refused, "nobodys")
}

fn volumes(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    let fill = "mkdir -p /d/sub; echo inside > /d/sub/f; ln -s /etc /d/out; ln -s /sub /d/in";
    docker.text(&[
        "run", "--name", "has", "-v", "parts:/d", IMAGE, "sh", "-c", fill,
    ])?;
    let from =
        |mode: &str, line: &str| docker.text(&sh(&["--volumes-from", &format!("has{mode}")], line));
    same(
        "from",
        from("", "cat /d/sub/f; touch /d/x && echo rw")?.as_str(),
        "inside\nrw",
    )?;
    let read_only = from(":ro", "touch /d/y 2>/dev/null || echo ro")?;
    same("from, read-only", read_only.as_str(), "ro")?;
    let part = |path: &str| format!("type=volume,src=parts,dst=/p,volume-subpath={path}");
    let refusal =
        |path: &str| docker.refusal(&["run", "--rm", "--mount", &part(path), IMAGE, "ls", "/p"]);
    for path in ["sub", "in"] {
        let seen = docker.text(&["run", "--rm", "--mount", &part(path), IMAGE, "cat", "/p/f"])?;
        same(path, seen.as_str(), "inside")?;
    }
    contains(
        "a part that leads out",
        &refusal("out")?,
        "cannot access path",
    )?;
    contains("a part above", &refusal("../x")?, "must be a relative path")?;
    docker.text(&["rm", "has"])?;
    docker.text(&["volume", "rm", "parts"])?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!table.contains("parts/_data"), "a part is still mounted");
    Ok(())
}
