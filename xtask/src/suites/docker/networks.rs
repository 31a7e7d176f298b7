//! Networks: names, isolation, ports, and what changes while containers run.

use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::session::{IMAGE, Session};
use super::{Step, contains, docker, same};
use crate::command::{retry, stdout};

const SOON: Duration = Duration::from_secs(10);
const PEER: Duration = Duration::from_secs(3);

pub const STEPS: &[(&str, Step)] = &[
    ("some are always there", given),
    ("two containers find each other by name", by_name),
    ("names and packets end at the network's edge", isolation),
    (
        "the default bridge has no names, and leads between its containers",
        default_bridge,
    ),
    ("aliases are shared, and asked in turn", aliases),
    (
        "addresses are given as asked, and refused when taken",
        addresses,
    ),
    (
        "a container joins and leaves networks while it runs",
        join_and_leave,
    ),
    ("an internal network leads nowhere else", internal),
    ("the host's network, and none", host_and_none),
    ("ports: ranges, by chance, on one address, over UDP", ports),
    (
        "a port is reached from the host, its containers and by the host's address",
        hairpin,
    ),
    ("rules that somebody flushed come back", flushed),
    ("bad ones are refused", refused),
    ("prune takes what nobody uses", prune),
];

/// Runs a container that stays, with `arguments` before the image.
fn stays(session: &Session, name: &str, arguments: &[&str]) -> Result<()> {
    let line = [
        &["run", "-d", "--name", name][..],
        arguments,
        &[IMAGE, "sleep", "1000"],
    ]
    .concat();
    docker(session, &line).map(drop)
}

/// A container that answers every connection to its port 80 with a word.
fn answers(session: &Session, name: &str, word: &str, arguments: &[&str]) -> Result<()> {
    let program = ["nc", "-ll", "-p", "80", "-e", "echo", word];
    let line = [
        &["run", "-d", "--name", name][..],
        arguments,
        &[IMAGE],
        &program,
    ]
    .concat();
    docker(session, &line).map(drop)
}

fn remove(session: &Session, names: &[&str]) -> Result<()> {
    docker(session, &[&["rm", "-f"][..], names].concat()).map(drop)
}

fn remove_networks(session: &Session, names: &[&str]) -> Result<()> {
    docker(session, &[&["network", "rm"][..], names].concat()).map(drop)
}

fn exec(session: &Session, name: &str, command: &[&str]) -> Result<String> {
    docker(session, &[&["exec", name][..], command].concat())
}

fn address_of(session: &Session, name: &str, network: &str) -> Result<String> {
    let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    docker(session, &["inspect", "--format", &format, name])
}

/// What a port answers from where the suite runs.
fn heard(address: &str) -> Result<String> {
    let parsed = address.parse().with_context(|| address.to_owned())?;
    let mut peer = TcpStream::connect_timeout(&parsed, PEER)?;
    peer.set_read_timeout(Some(PEER))?;
    let mut said = String::new();
    peer.read_to_string(&mut said)?;
    ensure!(!said.is_empty(), "{address} says nothing");
    Ok(said.trim().to_owned())
}

fn given(session: &mut Session) -> Result<()> {
    let listed = session
        .docker
        .lines(&["network", "ls", "--format", "{{.Name}} {{.Driver}}"])?;
    same(
        "networks",
        listed,
        ["bridge bridge", "host host", "none null"]
            .map(str::to_owned)
            .to_vec(),
    )?;
    for name in ["bridge", "host", "none"] {
        contains(
            "rm",
            &session.docker.refusal(&["network", "rm", name])?,
            "pre-defined",
        )?;
    }
    Ok(())
}

fn by_name(session: &mut Session) -> Result<()> {
    docker(session, &["network", "create", "quay"])?;
    answers(session, "crane", "lifted", &["--network", "quay"])?;
    stays(session, "ship", &["--network", "quay"])?;
    let ask = ["nc", "-w", "2", "crane", "80"];
    let said = retry(SOON, || {
        let said = exec(session, "ship", &ask)?;
        ensure!(!said.is_empty(), "no answer");
        Ok(said)
    })?;
    same("by name", said.as_str(), "lifted")?;
    let id = docker(
        session,
        &["inspect", "--format", "{{slice .Id 0 12}}", "crane"],
    )?;
    contains(
        "by id",
        &exec(session, "ship", &["nslookup", &id])?,
        "Address",
    )?;
    let back = address_of(session, "crane", "quay")?;
    contains(
        "by address",
        &exec(session, "ship", &["nslookup", &back])?,
        "crane",
    )?;
    let hosts = exec(session, "ship", &["cat", "/etc/resolv.conf"])?;
    contains("resolv.conf", &hosts, "nameserver 127.0.0.11")
}

fn isolation(session: &mut Session) -> Result<()> {
    docker(session, &["network", "create", "canal"])?;
    stays(session, "barge", &["--network", "canal"])?;
    let lost = session
        .docker
        .refusal(&["exec", "barge", "nslookup", "crane"])?;
    ensure!(!lost.contains("Name:\tcrane"), "the name is known: {lost}");
    let address = address_of(session, "crane", "quay")?;
    let ask = ["exec", "barge", "nc", "-w", "1", &address, "80"];
    let said = session.docker.output(&ask)?;
    ensure!(
        said.stdout.is_empty(),
        "a container of another network answered"
    );
    remove(session, &["barge", "crane", "ship"])?;
    remove_networks(session, &["canal", "quay"])
}

fn default_bridge(session: &mut Session) -> Result<()> {
    answers(session, "crane", "lifted", &[])?;
    stays(session, "ship", &[])?;
    let lost = session
        .docker
        .output(&["exec", "ship", "nslookup", "crane"])?;
    let lost = String::from_utf8_lossy(&lost.stdout).into_owned();
    ensure!(!lost.contains("Name:\tcrane"), "the name is known: {lost}");
    let address = address_of(session, "crane", "bridge")?;
    let said = exec(session, "ship", &["nc", "-w", "2", &address, "80"])?;
    same("by address", said.as_str(), "lifted")?;
    remove(session, &["crane", "ship"])
}

fn aliases(session: &mut Session) -> Result<()> {
    docker(session, &["network", "create", "quay"])?;
    for (name, word) in [("one", "first"), ("two", "second")] {
        let asked = ["--network", "quay", "--network-alias", "crew"];
        answers(session, &format!("crew-{name}"), word, &asked)?;
    }
    stays(session, "ship", &["--network", "quay"])?;
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let told = exec(session, "ship", &["nslookup", "crew"])?;
        let mut found = told
            .lines()
            .filter_map(|line| line.strip_prefix("Address: "));
        firsts.insert(found.next().context("no address")?.to_owned());
        same("addresses", found.count(), 1)?;
    }
    same("who comes first", firsts.len(), 2)?;
    remove(session, &["crew-one", "crew-two", "ship"])?;
    remove_networks(session, &["quay"])
}

fn addresses(session: &mut Session) -> Result<()> {
    docker(
        session,
        &[
            "network",
            "create",
            "--subnet",
            "198.19.247.0/24",
            "--ip-range",
            "198.19.247.128/25",
            "--gateway",
            "198.19.247.9",
            "--label",
            "of=suite",
            "fixed",
        ],
    )?;
    stays(session, "free", &["--network", "fixed"])?;
    stays(
        session,
        "asked",
        &["--network", "fixed", "--ip", "198.19.247.77"],
    )?;
    same(
        "asked",
        address_of(session, "asked", "fixed")?.as_str(),
        "198.19.247.77",
    )?;
    let free = address_of(session, "free", "fixed")?;
    let last: u8 = free.rsplit('.').next().unwrap_or_default().parse()?;
    ensure!(last >= 128, "{free} is not of the range");
    let route = exec(session, "free", &["ip", "route"])?;
    contains("the gateway", &route, "default via 198.19.247.9")?;
    let line = [
        "run",
        "--rm",
        "--network",
        "fixed",
        "--ip",
        "198.19.247.77",
        IMAGE,
        "true",
    ];
    contains("taken", &session.docker.refusal(&line)?, "198.19.247.77")?;
    let overlapping = ["network", "create", "--subnet", "198.19.247.64/26", "again"];
    contains("overlap", &session.docker.refusal(&overlapping)?, "overlap")?;
    docker(session, &["restart", "-t", "0", "asked"])?;
    same(
        "after a restart",
        address_of(session, "asked", "fixed")?.as_str(),
        "198.19.247.77",
    )?;
    remove(session, &["free", "asked"])?;
    remove_networks(session, &["fixed"])
}

fn join_and_leave(session: &mut Session) -> Result<()> {
    docker(session, &["network", "create", "quay"])?;
    answers(session, "crane", "lifted", &["--network", "quay"])?;
    stays(session, "ship", &[])?;
    docker(
        session,
        &["network", "connect", "--alias", "boat", "quay", "ship"],
    )?;
    let said = exec(session, "ship", &["nc", "-w", "2", "crane", "80"])?;
    same("once joined", said.as_str(), "lifted")?;
    contains(
        "its alias",
        &exec(session, "crane", &["nslookup", "boat"])?,
        "Address",
    )?;
    same(
        "interfaces",
        exec(session, "ship", &["ls", "/sys/class/net"])?
            .split_whitespace()
            .count(),
        3,
    )?;
    let again = session
        .docker
        .refusal(&["network", "connect", "quay", "ship"])?;
    contains("twice", &again, "already exists in network")?;
    contains(
        "in use",
        &session.docker.refusal(&["network", "rm", "quay"])?,
        "active endpoints",
    )?;
    docker(session, &["network", "disconnect", "quay", "ship"])?;
    same(
        "interfaces",
        exec(session, "ship", &["ls", "/sys/class/net"])?
            .split_whitespace()
            .count(),
        2,
    )?;
    remove(session, &["crane", "ship"])?;
    remove_networks(session, &["quay"])
}

fn internal(session: &mut Session) -> Result<()> {
    docker(session, &["network", "create", "--internal", "vault"])?;
    answers(session, "safe", "inside", &["--network", "vault"])?;
    stays(session, "ship", &["--network", "vault"])?;
    let said = exec(session, "ship", &["nc", "-w", "2", "safe", "80"])?;
    same("within", said.as_str(), "inside")?;
    let routes = exec(session, "ship", &["ip", "route"])?;
    ensure!(!routes.contains("default"), "{routes}");
    remove(session, &["safe", "ship"])?;
    remove_networks(session, &["vault"])
}

fn host_and_none(session: &mut Session) -> Result<()> {
    let interfaces = ["sh", "-c", "ls /sys/class/net | sort | tr '\\n' ' '"];
    let line = |network| {
        [
            &["run", "--rm", "--network", network, IMAGE][..],
            &interfaces,
        ]
        .concat()
    };
    same("none", docker(session, &line("none"))?.as_str(), "lo")?;
    let here = stdout(Command::new("sh").args(["-c", interfaces[2]]))?;
    same(
        "host",
        docker(session, &line("host"))?.as_str(),
        here.trim(),
    )?;
    let published = ["run", "--rm", "--network", "missing", IMAGE, "true"];
    contains(
        "missing",
        &session.docker.refusal(&published)?,
        "network missing not found",
    )
}

/// Free ports one after another, as far as that can be known.
fn free_range() -> Result<u16> {
    retry(SOON, || {
        let first = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        for port in first..first + 3 {
            TcpListener::bind(("127.0.0.1", port)).context("a port of the range is taken")?;
        }
        Ok(first)
    })
}

fn ports(session: &mut Session) -> Result<()> {
    let first = free_range()?;
    let range = format!("127.0.0.1:{first}-{}:80-82", first + 2);
    answers(session, "crane", "lifted", &["-p", &range, "-p", "79"])?;
    let told = session.docker.lines(&["port", "crane"])?;
    for (inside, outside) in [(80, first), (81, first + 1), (82, first + 2)] {
        let line = format!("{inside}/tcp -> 127.0.0.1:{outside}");
        ensure!(told.contains(&line), "no {line:?} in {told:?}");
    }
    ensure!(
        told.iter()
            .any(|line| line.starts_with("79/tcp -> 0.0.0.0:")),
        "{told:?}"
    );
    let said = retry(SOON, || heard(&format!("127.0.0.1:{first}")))?;
    same("the first of the range", said.as_str(), "lifted")?;
    let taken = format!("127.0.0.1:{first}:80");
    let refusal = session
        .docker
        .refusal(&["run", "--rm", "-p", &taken, IMAGE, "true"])?;
    contains("taken", &refusal, &first.to_string())?;
    remove(session, &["crane"])?;

    let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    let publish = format!("127.0.0.1:{port}:53/udp");
    let line = ["run", "-d", "--name", "echoes", "-p", &publish];
    let program = ["socat", "UDP-LISTEN:53,fork", "EXEC:cat"];
    docker(
        session,
        &[&line[..], &[&session.services()], &program].concat(),
    )?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    let mut heard = [0; 16];
    let count = retry(SOON, || {
        socket.send_to(b"ping", ("127.0.0.1", port))?;
        Ok(socket.recv(&mut heard)?)
    })?;
    same("over UDP", heard.get(..count), Some(&b"ping"[..]))?;
    remove(session, &["echoes"])
}

fn hairpin(session: &mut Session) -> Result<()> {
    docker(session, &["network", "create", "quay"])?;
    docker(session, &["network", "create", "canal"])?;
    let port = free_range()?;
    answers(
        session,
        "crane",
        "lifted",
        &["--network", "quay", "-p", &format!("{port}:80")],
    )?;
    stays(session, "ship", &["--network", "quay"])?;
    stays(session, "barge", &["--network", "canal"])?;
    same(
        "from the host",
        retry(SOON, || heard(&format!("127.0.0.1:{port}")))?.as_str(),
        "lifted",
    )?;
    let gateway = "{{(index .IPAM.Config 0).Gateway}}";
    for (container, network) in [("ship", "quay"), ("barge", "canal")] {
        let address = docker(
            session,
            &["network", "inspect", "--format", gateway, network],
        )?;
        let said = exec(
            session,
            container,
            &["nc", "-w", "2", &address, &port.to_string()],
        )?;
        same(container, said.as_str(), "lifted")?;
    }
    remove(session, &["crane", "ship", "barge"])?;
    remove_networks(session, &["quay", "canal"])
}

fn flushed(session: &mut Session) -> Result<()> {
    let port = free_range()?;
    answers(
        session,
        "crane",
        "lifted",
        &["-p", &format!("127.0.0.1:{port}:80")],
    )?;
    let address = format!("127.0.0.1:{port}");
    retry(SOON, || heard(&address))?;
    let table = format!("berth_{}-d", session.place.bridge().name());
    stdout(Command::new("nft").args(["delete", "table", "inet", &table]))?;
    same(
        "afterwards",
        retry(SOON, || heard(&address))?.as_str(),
        "lifted",
    )?;
    remove(session, &["crane"])
}

fn refused(session: &mut Session) -> Result<()> {
    for (arguments, reason) in [
        (&["--driver", "overlay", "far"][..], "overlay"),
        (&["--subnet", "10.1.2.3/16", "odd"], "10.1.0.0/16"),
        (&["--subnet", "nonsense", "odd"], "nonsense"),
        (
            &[
                "--subnet",
                "198.19.247.0/24",
                "--gateway",
                "10.0.0.1",
                "odd",
            ],
            "10.0.0.1",
        ),
        (&["bridge"], "bridge"),
        (&["bad name"], "bad name"),
    ] {
        let said = session
            .docker
            .refusal(&[&["network", "create"], arguments].concat())?;
        contains(&arguments.join(" "), &said, reason)?;
    }
    contains(
        "rm",
        &session.docker.refusal(&["network", "rm", "nothing"])?,
        "not found",
    )?;
    let listed = session.docker.lines(&["network", "ls", "-q"])?;
    same("networks", listed.len(), 3)
}

fn prune(session: &mut Session) -> Result<()> {
    docker(session, &["network", "create", "used"])?;
    docker(session, &["network", "create", "unused"])?;
    stays(session, "ship", &["--network", "used"])?;
    let told = docker(session, &["network", "prune", "--force"])?;
    same("removed", told.as_str(), "Deleted Networks:\nunused")?;
    remove(session, &["ship"])?;
    remove_networks(session, &["used"])
}
