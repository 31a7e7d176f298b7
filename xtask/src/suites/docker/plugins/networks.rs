//! Networks that a plugin has, and addresses that one gives.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::program::Program;
use crate::command::{retry, stdout};
use crate::suites::checks::{contains, same};
use crate::suites::docker::session::{IMAGE, Session};

const SOON: Duration = Duration::from_secs(20);
const NAME: &str = "loom";

/// The plugin, and what was there before it.
struct Loom {
    program: Program,
    links: Vec<String>,
    namespaces: usize,
}

impl Loom {
    fn start(session: &Session) -> Result<Self> {
        let program = program(session)?;
        for file in ["networks.json", "addresses.json"] {
            let _none_yet = fs::remove_file(program.path(file));
        }
        drop(program);
        Ok(Self {
            links: links()?,
            namespaces: namespaces(session)?,
            program: self::program(session)?,
        })
    }

    /// What it keeps in one of its files.
    fn kept(&self, file: &str) -> Result<Value> {
        let text = fs::read_to_string(self.program.path(file)).unwrap_or_else(|_| "{}".to_owned());
        serde_json::from_str(&text).context("reading what the plugin keeps")
    }

    fn endpoints(&self) -> Result<usize> {
        let networks = self.kept("networks.json")?;
        let networks = networks.as_object().context("no networks")?.values();
        let endpoints = networks.map(|one| one["endpoints"].as_object().map_or(0, |all| all.len()));
        Ok(endpoints.sum())
    }

    /// Addresses that are given, of all pools.
    fn given(&self) -> Result<usize> {
        let pools = self.kept("addresses.json")?;
        let pools = pools.as_object().context("no pools")?.values();
        let given = pools.map(|one| one["given"].as_array().map_or(0, Vec::len));
        Ok(given.sum())
    }

    /// Nothing of all that is left, on the host, at the plugin or with the daemon.
    fn nothing_left(&self, session: &Session) -> Result<()> {
        retry(SOON, || {
            same("interfaces", links()?, self.links.clone())?;
            same("network namespaces", namespaces(session)?, self.namespaces)?;
            for file in ["networks.json", "addresses.json"] {
                same(file, self.kept(file)?, serde_json::json!({}))?;
            }
            let asked = fs::read_dir(session.place.root().join("networks/asked"))?;
            same("what was asked for", asked.count(), 0)
        })
    }
}

impl Drop for Loom {
    fn drop(&mut self) {
        let ours = ["lm", "lh", "lc"];
        let left = links().unwrap_or_default().into_iter();
        for link in left.filter(|link| ours.iter().any(|begin| link.starts_with(begin))) {
            if !self.links.contains(&link) {
                let _gone = stdout(Command::new("ip").args(["link", "del", &link]));
            }
        }
    }
}

fn program(session: &Session) -> Result<Program> {
    Program::start(session, NAME, &["NetworkDriver", "IpamDriver"])
}

/// The host's interfaces, but for bridges of ours that come and stay.
fn links() -> Result<Vec<String>> {
    let all = stdout(Command::new("ip").args(["-br", "link"]))?;
    let names = all
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let names = names.map(|name| name.split('@').next().unwrap_or(name).to_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with("berth")).collect();
    names.sort();
    Ok(names)
}

fn namespaces(session: &Session) -> Result<usize> {
    let mounts = session.place.mounts()?;
    Ok(mounts.iter().filter(|path| path.ends_with("net")).count())
}

fn create(session: &Session, more: &[&str], name: &str) -> Result<String> {
    let begin = ["network", "create", "-d", NAME];
    (session.docker).text(&[&begin[..], more, &[name]].concat())
}

fn run(session: &Session, name: &str, more: &[&str]) -> Result<String> {
    let begin = ["run", "-d", "--name", name];
    (session.docker).text(&[&begin[..], more, &[IMAGE, "sleep", "1000"]].concat())
}

fn reaches(session: &Session, from: &str, to: &str) -> Result<String> {
    (session.docker).text(&["exec", from, "ping", "-c", "1", "-W", "3", to])
}

pub fn made(session: &mut Session) -> Result<()> {
    let loom = Loom::start(session)?;
    let docker = &session.docker;
    let told = docker.text(&["info", "--format", "{{json .Plugins.Network}}"])?;
    same("info", told.as_str(), r#"["bridge","host","null","loom"]"#)?;
    let more = [
        "-o",
        "colour=red",
        "--subnet",
        "10.121.0.0/24",
        "--label",
        "for=us",
    ];
    let id = create(session, &more, "mesh")?;
    let asked = &loom.program.asked("NetworkDriver.CreateNetwork")?[0];
    let expected = serde_json::json!({"NetworkID": id, "IPv6Data": [], "Options": {
            "com.docker.network.enable_ipv4": true, "com.docker.network.enable_ipv6": false,
            "com.docker.network.generic": {"colour": "red"}},
        "IPv4Data": [{"AddressSpace": "GlobalDefault", "Pool": "10.121.0.0/24",
            "Gateway": "10.121.0.1/24", "AuxAddresses": {}}]});
    same("the plugin is asked", asked, &expected)?;
    let told = docker.json(&["network", "inspect", "mesh"])?[0].clone();
    for (field, expected) in [
        ("Driver", "\"loom\""),
        ("Scope", "\"global\""),
        ("Options", r#"{"colour":"red"}"#),
        ("Labels", r#"{"for":"us"}"#),
    ] {
        same(field, told[field].to_string().as_str(), expected)?;
    }
    same("IPAM", told["IPAM"]["Driver"].as_str(), Some("default"))?;
    let list = ["network", "ls", "--filter", "driver=loom", "--format"];
    let list = [&list[..], &["{{.Name}} {{.Driver}} {{.Scope}}"]].concat();
    same("ls", docker.text(&list)?.as_str(), "mesh loom global")?;
    let twice = docker.refusal(&["network", "create", "mesh"])?;
    contains("the name", &twice, "already exists")?;
    let nobody = docker.refusal(&["network", "create", "-d", "nobody", "else"])?;
    contains(
        "no plugin",
        &nobody,
        "network driver \"nobody\" is not there",
    )?;
    docker.text(&["network", "prune", "-f"])?;
    same("ls", docker.text(&list)?.as_str(), "")?;
    loom.nothing_left(session)
}

pub fn joined(session: &mut Session) -> Result<()> {
    let loom = Loom::start(session)?;
    let docker = &session.docker;
    create(session, &["--subnet", "10.121.0.0/24"], "mesh")?;
    docker.text(&["network", "create", "aside"])?;
    run(
        session,
        "one",
        &["--network", "mesh", "--ip", "10.121.0.77"],
    )?;
    let more = ["--network", "mesh", "--network-alias", "other"];
    run(
        session,
        "two",
        &[&more[..], &["--mac-address", "02:42:00:00:00:07"]].concat(),
    )?;
    run(session, "apart", &["--network", "aside"])?;
    let inside = docker.text(&["exec", "one", "ip", "addr", "show", "loom0"])?;
    contains("its address", &inside, "inet 10.121.0.77/24")?;
    let routes = docker.text(&["exec", "one", "ip", "route"])?;
    contains("the way out", &routes, "default via 10.121.0.1 dev loom0")?;
    contains("the plugin's route", &routes, "10.244.0.0/16 dev loom0")?;
    let form =
        "{{with index .NetworkSettings.Networks \"mesh\"}}{{.MacAddress}} {{.Gateway}}{{end}}";
    let told = docker.text(&["inspect", "-f", form, "two"])?;
    same("inspect", told.as_str(), "02:42:00:00:00:07 10.121.0.1")?;
    let inside = docker.text(&["exec", "two", "ip", "link", "show", "loom0"])?;
    contains("its MAC", &inside, "02:42:00:00:00:07")?;
    for name in ["two", "other", "10.121.0.1"] {
        reaches(session, "one", name)?;
    }
    // Whom a plugin's network lets in is the plugin's; ours let nobody in.
    let form = "{{(index .NetworkSettings.Networks \"aside\").IPAddress}}";
    let address = docker.text(&["inspect", "-f", form, "apart"])?;
    let apart = ["exec", "one", "ping", "-c", "1", "-W", "1", &address];
    ensure!(
        !docker.output(&apart)?.status.success(),
        "networks are not apart"
    );
    let taken = [
        "run",
        "--rm",
        "--network",
        "mesh",
        "--ip",
        "10.121.0.77",
        IMAGE,
        "true",
    ];
    contains("taken", &docker.refusal(&taken)?, "Address already in use")?;
    // While it runs.
    docker.text(&["network", "connect", "--alias", "third", "mesh", "apart"])?;
    reaches(session, "one", "third")?;
    same("endpoints", loom.endpoints()?, 3)?;
    let in_use = docker.refusal(&["network", "rm", "mesh"])?;
    contains("in use", &in_use, "has active endpoints")?;
    docker.text(&["network", "disconnect", "mesh", "apart"])?;
    let inside = docker.text(&["exec", "apart", "ip", "-o", "link"])?;
    ensure!(!inside.contains("loom"), "it stays: {inside}");
    same("endpoints", loom.endpoints()?, 2)?;
    docker.text(&["restart", "-t", "0", "two"])?;
    reaches(session, "one", "two")?;
    same("endpoints", loom.endpoints()?, 2)?;
    docker.text(&["rm", "-f", "one", "two", "apart"])?;
    docker.text(&["network", "rm", "mesh", "aside"])?;
    loom.nothing_left(session)
}

pub fn addressed(session: &mut Session) -> Result<()> {
    let loom = Loom::start(session)?;
    let docker = &session.docker;
    let ipam = ["--ipam-driver", NAME, "--ipam-opt", "rack=7"];
    create(
        session,
        &[&ipam[..], &["--subnet", "10.122.0.0/24"]].concat(),
        "mesh",
    )?;
    let asked = &loom.program.asked("IpamDriver.RequestPool")?[0];
    let expected = serde_json::json!({"AddressSpace": "everywhere", "Pool": "10.122.0.0/24",
        "SubPool": "", "Options": {"rack": "7"}, "V6": false});
    same("the pool", asked, &expected)?;
    docker.text(&[&["network", "create"], &ipam[..], &["front"]].concat())?;
    let told = docker.json(&["network", "inspect", "front"])?[0]["IPAM"].clone();
    same("IPAM", told["Driver"].as_str(), Some(NAME))?;
    let config = serde_json::json!([{"Subnet": "10.123.0.0/24", "Gateway": "10.123.0.1"}]);
    same("its subnet", &told["Config"], &config)?;
    for (name, network) in [
        ("one", "mesh"),
        ("two", "mesh"),
        ("three", "front"),
        ("four", "front"),
    ] {
        run(session, name, &["--network", network])?;
    }
    let inside = docker.text(&["exec", "three", "ip", "addr", "show", "eth0"])?;
    contains("its address", &inside, "inet 10.123.0.254/24")?;
    reaches(session, "one", "two")?;
    reaches(session, "three", "four")?;
    same("addresses", loom.given()?, 2 + 4)?;
    docker.text(&["rm", "-f", "one", "two", "three", "four"])?;
    same("addresses", loom.given()?, 2)?;
    docker.text(&["network", "rm", "mesh", "front"])?;
    loom.nothing_left(session)
}

pub fn killed(session: &mut Session) -> Result<()> {
    let mut loom = Loom::start(session)?;
    let ipam = ["--ipam-driver", NAME, "--subnet", "10.122.0.0/24"];
    create(session, &ipam, "mesh")?;
    for name in ["stays", "peer", "ends"] {
        run(session, name, &["--network", "mesh"])?;
    }
    same("addresses", loom.given()?, 4)?;
    let form = "{{.State.Pid}}";
    let pid = session.docker.text(&["inspect", "-f", form, "ends"])?;
    let socket = loom.program.kill()?;
    session.restart_daemon_after(|| {
        let pid = rustix::process::Pid::from_raw(pid.parse()?).context("a pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).context("killing it")
    })?;
    ensure!(socket.exists(), "a plugin that is killed leaves its socket");
    // Without the plugin, but not without its network.
    reaches(session, "stays", "peer")?;
    let refused = session.docker.refusal(&["start", "ends"])?;
    contains(
        "without its plugin",
        &refused,
        "plugin \"loom\" is not reached at",
    )?;
    loom.program = program(session)?;
    retry(SOON, || same("endpoints", loom.endpoints()?, 2))?;
    retry(SOON, || same("addresses", loom.given()?, 3))?;
    let again = loom.program.asked("NetworkDriver.CreateNetwork")?;
    ensure!(again.is_empty(), "it is told of a network twice: {again:?}");
    reaches(session, "stays", "peer")?;
    let docker = &session.docker;
    docker.text(&["start", "ends"])?;
    reaches(session, "ends", "stays")?;
    docker.text(&["rm", "-f", "stays", "peer", "ends"])?;
    docker.text(&["network", "rm", "mesh"])?;
    loom.nothing_left(session)
}

pub fn bad(session: &mut Session) -> Result<()> {
    let loom = Loom::start(session)?;
    let docker = &session.docker;
    for (method, manner, said) in [
        (
            "CreateNetwork",
            "refuse",
            "create network mesh: NetworkDriver.CreateNetwork: not today",
        ),
        (
            "CreateNetwork",
            "garbage",
            "answered NetworkDriver.CreateNetwork with no JSON",
        ),
    ] {
        loom.program
            .behave(&[(&format!("NetworkDriver.{method}"), manner)])?;
        let refused = docker.refusal(&["network", "create", "-d", NAME, "mesh"])?;
        contains(manner, &refused, said)?;
        loom.program.behave(&[])?;
        loom.nothing_left(session)?;
    }
    create(session, &["--subnet", "10.121.0.0/24"], "mesh")?;
    let run = ["run", "--rm", "--network", "mesh", IMAGE, "true"];
    for (method, manner, said) in [
        (
            "CreateEndpoint",
            "refuse",
            "NetworkDriver.CreateEndpoint: not today",
        ),
        (
            "Join",
            "garbage",
            "answered NetworkDriver.Join with no JSON",
        ),
        ("Join", "nowhere", "named the interface \"nowhere0\""),
    ] {
        loom.program
            .behave(&[(&format!("NetworkDriver.{method}"), manner)])?;
        contains(manner, &docker.refusal(&run)?, said)?;
        loom.program.behave(&[])?;
        same("endpoints", loom.endpoints()?, 0)?;
    }
    loom.program
        .behave(&[("NetworkDriver.GetCapabilities", "hang")])?;
    let began = Instant::now();
    let hangs = docker.refusal(&["network", "create", "-d", NAME, "slow"])?;
    contains(
        "hanging",
        &hangs,
        "has not answered NetworkDriver.GetCapabilities within 1 s",
    )?;
    docker.text(&["network", "create", "quick"])?;
    docker.text(&["network", "rm", "quick"])?;
    docker.text(&["network", "ls"])?;
    ensure!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    loom.program
        .behave(&[("NetworkDriver.DeleteNetwork", "refuse")])?;
    let held = docker.refusal(&["network", "rm", "mesh"])?;
    contains("its words", &held, "NetworkDriver.DeleteNetwork: not today")?;
    contains("advice", &held, "berth network rm --force mesh")?;
    loom.program.behave(&[])?;
    same("run", docker.output(&run)?.status.code(), Some(0))?;
    docker.text(&["network", "rm", "mesh"])?;
    loom.nothing_left(session)?;
    // One whose plugin is gone for good is forgotten, if that is what somebody wants.
    create(session, &[], "lost")?;
    drop(loom);
    let gone = docker.refusal(&["network", "rm", "lost"])?;
    contains("gone", &gone, "plugin \"loom\" not found")?;
    let forced = docker.request("DELETE", "/networks/lost?force=1", &[])?;
    same("forced", forced.status, 204)?;
    let left = fs::read_dir(session.place.root().join("networks/asked"))?;
    same("what was asked for", left.count(), 0)
}
