//! Steps that concern links, /etc/hosts, and volumes that are filesystems.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::session::{IMAGE, Session};
use super::{Step, contains, same};
use crate::command::retry;

const SOON: Duration = Duration::from_secs(10);

pub const STEPS: &[(&str, Step)] = &[
    (
        "a link gives names and variables on the default network",
        links,
    ),
    ("a link is a name on a user's network", links_by_name),
    (
        "/etc/hosts follows the networks of a container that runs",
        hosts,
    ),
    (
        "a volume is the filesystem that its options say, while it is used",
        local_driver,
    ),
    ("a tmpfs takes its own options and no others", tmpfs),
    (
        "attach over a WebSocket, both ways and to the end",
        websocket,
    ),
];

const BRIDGE_ADDRESS: &str = "{{.NetworkSettings.Networks.bridge.IPAddress}}";

fn links(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    docker.text(&[
        "run", "-d", "--name", "db", "-e", "SECRET=x", "--expose", "5432", IMAGE, "sleep", "1000",
    ])?;
    docker.text(&[
        "run", "-d", "--name", "web", "--link", "db:store", IMAGE, "sleep", "1000",
    ])?;
    let address = docker.text(&["inspect", "-f", BRIDGE_ADDRESS, "db"])?;
    let seen = docker.text(&["exec", "web", "sh", "-c", "env | grep ^STORE_"])?;
    for part in [
        format!("STORE_PORT_5432_TCP_ADDR={address}"),
        // The lowest one, which the image has.
        format!("STORE_PORT=tcp://{address}:80"),
        "STORE_ENV_SECRET=x".to_owned(),
        "STORE_NAME=/web/store".to_owned(),
    ] {
        contains("environment", &seen, &part)?;
    }
    let kept = docker.text(&["inspect", "-f", "{{.HostConfig.Links}}", "web"])?;
    same("links", kept.as_str(), "[/db:/web/store]")?;
    // Its address goes to another one, and it gets a new one.
    docker.text(&["stop", "-t", "0", "db"])?;
    let refused = docker.refusal(&["run", "--rm", "--link", "db", IMAGE, "true"])?;
    contains(
        "run",
        &refused,
        "Cannot link to a non running container: /db AS",
    )?;
    docker.text(&["run", "-d", "--name", "other", IMAGE, "sleep", "1000"])?;
    docker.text(&["start", "db"])?;
    let address = docker.text(&["inspect", "-f", BRIDGE_ADDRESS, "db"])?;
    retry(SOON, || {
        let entry = docker.text(&["exec", "web", "grep", "store", "/etc/hosts"])?;
        ensure!(
            entry.starts_with(&address) && entry.ends_with(" db"),
            "{entry:?} for {address}"
        );
        Ok(())
    })?;
    let refused = docker.refusal(&["run", "--rm", "--link", "nobody", IMAGE, "true"])?;
    contains("run", &refused, "could not get container for nobody")?;
    docker.text(&["rm", "-f", "db", "web", "other"]).map(drop)
}

fn links_by_name(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    docker.text(&["network", "create", "sea"])?;
    docker.text(&[
        "run",
        "-d",
        "--network",
        "sea",
        "--name",
        "db",
        IMAGE,
        "sleep",
        "1000",
    ])?;
    let address = "{{.NetworkSettings.Networks.sea.IPAddress}}";
    let address = docker.text(&["inspect", "-f", address, "db"])?;
    let asks = |link: &[&str]| {
        let line = ["run", "--rm", "--network", "sea"];
        let program = [IMAGE, "sh", "-c", "ping -c 1 -W 2 store | head -1"];
        docker.text(&[&line[..], link, &program].concat())
    };
    let seen = asks(&["--link", "db:store"])?;
    contains("with the link", &seen, &format!("({address})"))?;
    same("without", asks(&[])?.as_str(), "")?;
    docker.text(&["rm", "-f", "db"])?;
    docker.text(&["network", "rm", "sea"]).map(drop)
}

fn hosts(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    docker.text(&["network", "create", "sea"])?;
    docker.text(&["run", "-d", "--name", "roams", IMAGE, "sleep", "1000"])?;
    let lines = || {
        docker.text(&[
            "exec",
            "roams",
            "sh",
            "-c",
            "grep -c $(hostname) /etc/hosts",
        ])
    };
    same("addresses", lines()?.as_str(), "1")?;
    docker.text(&["network", "connect", "sea", "roams"])?;
    same("addresses", lines()?.as_str(), "2")?;
    docker.text(&["network", "disconnect", "sea", "roams"])?;
    same("addresses", lines()?.as_str(), "1")?;
    docker.text(&["rm", "-f", "roams"])?;
    docker.text(&["network", "rm", "sea"]).map(drop)
}

fn local_driver(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    let create = |name: &str, options: &[&str]| {
        let options = options.iter().flat_map(|option| ["-o", option]);
        let line: Vec<&str> = ["volume", "create"].into_iter().chain(options).collect();
        [&line[..], &[name]].concat().join(" ")
    };
    let made = |line: String| docker.text(&line.split(' ').collect::<Vec<_>>());
    made(create(
        "memory",
        &["type=tmpfs", "device=tmpfs", "o=size=1m,mode=750"],
    ))?;
    let line = "df -k /d | tail -1 | tr -s ' ' | cut -d ' ' -f 2; stat -c %a /d; ls /d; touch /d/x";
    let run = ["run", "--rm", "-v", "memory:/d", IMAGE, "sh", "-c", line];
    for _ in 0..2 {
        same(
            "a filesystem in memory",
            docker.text(&run)?.as_str(),
            "1024\n750",
        )?;
    }
    let pages = session.place.scratch().join("lent");
    std::fs::create_dir(&pages)?;
    std::fs::write(pages.join("file"), "lent\n")?;
    let device = format!("device={}", pages.display());
    made(create("lent", &["type=none", &device, "o=bind,ro"]))?;
    let line = "cat /d/file; touch /d/x 2>/dev/null || echo ro";
    docker.text(&[
        "run", "-d", "--name", "keeps", "-v", "lent:/d", IMAGE, "sleep", "1000",
    ])?;
    let read = ["run", "--rm", "-v", "lent:/d", IMAGE, "sh", "-c", line];
    same(
        "a directory of the host",
        docker.text(&read)?.as_str(),
        "lent\nro",
    )?;
    let line = ["exec", "keeps", "cat", "/d/file"];
    same("the one that stays", docker.text(&line)?.as_str(), "lent")?;
    docker.text(&["rm", "-f", "keeps"])?;
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    for name in ["memory/_data", "lent/_data"] {
        ensure!(!table.contains(name), "{name} is still mounted");
    }
    docker.text(&["volume", "rm", "lent", "memory"])?;
    ensure!(
        pages.join("file").exists(),
        "the host's file went with the volume"
    );
    for (options, said) in [
        (&["colour=red"][..], "invalid option: \"colour\""),
        (&["type=nfs"], "missing required option: \"device\""),
    ] {
        let line = create("bad", options);
        let refused = docker.refusal(&line.split(' ').collect::<Vec<_>>())?;
        contains("volume create", &refused, said)?;
    }
    Ok(())
}

fn tmpfs(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    let run = |options: &str| {
        let options = format!("/t:{options}");
        let line = ["run", "--rm", "--tmpfs", &options, IMAGE, "sh", "-c"];
        let shell = ["stat -c '%u %a' /t; cp /bin/busybox /t/echo && /t/echo ran 2>/dev/null"];
        docker.output(&[&line[..], &shell].concat())
    };
    let told = |options| {
        let output = run(options)?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    same(
        "open",
        told("exec,uid=1000,mode=711")?.as_str(),
        "1000 711\nran\n",
    )?;
    same("usual", told("mode=711")?.as_str(), "0 711\n")?;
    let refused = run("lowerdir=/")?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    contains("run", &said, "invalid tmpfs option")
}

/// The key and its answer are those of RFC 6455, section 1.3.
fn websocket(session: &mut Session) -> Result<()> {
    let docker = &session.docker;
    let line = "read a; echo got $a; read b || echo closed";
    // Made to be attached: its input ends with that of its first client.
    docker.text(&["create", "-i", "--name", "asks", IMAGE, "sh", "-c", line])?;
    docker.text(&["start", "asks"])?;
    let mut socket = UnixStream::connect(&docker.socket)?;
    socket.set_read_timeout(Some(SOON))?;
    write!(
        socket,
        "GET /v1.41/containers/asks/attach/ws?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )?;
    // A text of four bytes under a mask of zeros, at once behind the head.
    socket.write_all(b"\x81\x84\0\0\0\0one\n")?;
    let mut seen = Vec::new();
    let mut chunk = [0; 512];
    while !seen.ends_with(b"\x82\x08got one\n") {
        let count = socket.read(&mut chunk)?;
        ensure!(count > 0, "{:?}", String::from_utf8_lossy(&seen));
        seen.extend(&chunk[..count]);
    }
    let head = String::from_utf8_lossy(&seen).into_owned();
    contains("status", &head, "HTTP/1.1 101")?;
    contains("answer to the key", &head, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")?;
    // A close ends the input; the output follows to its end.
    socket.write_all(b"\x88\x80\0\0\0\0")?;
    retry(SOON, || {
        let logs = docker.text(&["logs", "asks"])?;
        same("logs", logs.as_str(), "got one\nclosed")
    })?;
    let refused = docker.request("GET", "/containers/asks/attach/ws?stream=1", &[])?;
    same("without an upgrade", refused.status, 400)?;
    docker.text(&["rm", "-f", "asks"]).map(drop)
}
