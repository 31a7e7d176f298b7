//! The Docker door while the daemon dies: one client whose day meets every point of that door, and
//! what has to hold of it for the next daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::story;
use super::world::{Baseline, World};
use crate::command::{retry, which};
use crate::suites::docker::client::Docker;

/// Names of points that only this door passes begin so.
pub const POINTS: &str = "docker.";
/// A day passes about so many points of all kinds.
const DAY: u64 = 200;
/// Every how many of them the daemon dies in a short run.
const STRIDE: usize = 23;
/// What goes on behind the start of a daemon, or behind an answer.
const SOON: Duration = Duration::from_secs(20);

/// How a container may be found; `None` means not at all.
type May = BTreeSet<Option<&'static str>>;

/// What was acknowledged, or is one of several things as long as nobody asked.
#[derive(Debug, Default)]
struct Ledger {
    containers: BTreeMap<&'static str, May>,
    /// Each name with whether it is there, where that is known.
    volumes: BTreeMap<&'static str, Option<bool>>,
    networks: BTreeMap<&'static str, Option<bool>>,
}

/// The numbers of the points at which a short run kills: spread over a day.
pub fn places() -> impl Iterator<Item = u64> {
    (1..DAY).step_by(STRIDE)
}

/// Kills the daemon by `rule` in a day of a client, and looks. Says whether it died by the rule.
pub fn day(world: &mut World, before: &Baseline, rule: &str) -> Result<bool> {
    world.kill()?;
    world.start(rule, 0)?;
    let docker = client(world)?;
    let mut ledger = Ledger::default();
    world.open_gate()?;
    let lived = live(&docker, &world.base(), &mut ledger);
    world.close_gate();
    let died = match lived {
        Ok(()) => world.ends_within(Duration::from_millis(300))?,
        Err(_) if world.ends_within(Duration::from_secs(2))? => true,
        Err(error) => return Err(error.context("the daemon lives, and a call failed")),
    };
    world.kill()?;
    world.start("", 0)?;
    let place = format!("last killed at {}", world.last_point());
    retry(SOON, || judge(&docker, &ledger)).with_context(|| place.clone())?;
    clear(&docker).with_context(|| place.clone())?;
    story::clear(world, before).context(place)?;
    Ok(died)
}

fn client(world: &World) -> Result<Docker> {
    Ok(Docker {
        program: which("docker").context("docker is not installed")?,
        socket: world.place.socket().with_file_name("docker.sock"),
        config: config(world)?,
    })
}

fn config(world: &World) -> Result<PathBuf> {
    let config = world.place.scratch().join("docker-config");
    std::fs::create_dir_all(&config).context("creating the client's configuration")?;
    Ok(config)
}

impl Ledger {
    /// A step that leads a container from what it is to something else.
    fn container(
        &mut self,
        docker: &Docker,
        name: &'static str,
        becomes: Option<&'static str>,
        arguments: &[&str],
    ) -> Result<()> {
        let may = self
            .containers
            .entry(name)
            .or_insert_with(|| May::from([None]));
        may.insert(becomes);
        docker.text(arguments)?;
        *may = May::from([becomes]);
        Ok(())
    }

    fn thing(
        things: &mut BTreeMap<&'static str, Option<bool>>,
        docker: &Docker,
        name: &'static str,
        there: bool,
        arguments: &[&str],
    ) -> Result<()> {
        things.insert(name, None);
        docker.text(arguments)?;
        things.insert(name, Some(there));
        Ok(())
    }
}

/// A client's day. An error is that of the call during which the daemon died.
fn live(docker: &Docker, image: &str, ledger: &mut Ledger) -> Result<()> {
    let (volumes, networks) = (&mut ledger.volumes, &mut ledger.networks);
    Ledger::thing(volumes, docker, "book", true, &["volume", "create", "book"])?;
    for network in ["sea", "shore"] {
        let create = ["network", "create", network];
        Ledger::thing(networks, docker, network, true, &create)?;
    }
    let create = [
        "create",
        "--name",
        "one",
        "--network",
        "sea",
        "--network-alias",
        "inn",
        "-v",
        "book:/book",
        // One that nobody names.
        "-v",
        "/own",
        "-p",
        "127.0.0.1::80",
        image,
        "sh",
        "-c",
        "echo page >/book/one; trap 'exit 3' TERM; while :; do sleep 1 & wait $!; done",
    ];
    ledger.container(docker, "one", Some("created"), &create)?;
    ledger.container(docker, "one", Some("running"), &["start", "one"])?;
    docker.text(&["exec", "one", "true"])?;
    docker.text(&["network", "connect", "shore", "one"])?;
    docker.text(&["network", "disconnect", "shore", "one"])?;
    let run = [
        "run",
        "-d",
        "--name",
        "two",
        "--network",
        "sea",
        "--restart",
        "always",
        image,
    ];
    let sleep = ["sleep", "1000"];
    ledger.container(docker, "two", Some("running"), &[&run[..], &sleep].concat())?;
    docker.text(&["update", "--memory", "64m", "--memory-swap", "64m", "two"])?;
    ledger.container(docker, "one", Some("exited"), &["stop", "-t", "5", "one"])?;
    ledger.container(docker, "one", Some("running"), &["start", "one"])?;
    let run = ["run", "--rm", "--name", "brief", "--network", "sea", image];
    ledger.container(docker, "brief", None, &[&run[..], &["true"]].concat())?;
    ledger.container(docker, "one", None, &["rm", "-f", "-v", "one"])?;
    ledger.container(docker, "two", None, &["rm", "-f", "two"])?;
    let (volumes, networks) = (&mut ledger.volumes, &mut ledger.networks);
    Ledger::thing(volumes, docker, "book", false, &["volume", "rm", "book"])?;
    for network in ["sea", "shore"] {
        Ledger::thing(
            networks,
            docker,
            network,
            false,
            &["network", "rm", network],
        )?;
    }
    Ok(())
}

/// Everything that was acknowledged is there, and nothing that never was asked for.
fn judge(docker: &Docker, ledger: &Ledger) -> Result<()> {
    let found = docker.lines(&["ps", "-a", "--format", "{{.Names}} {{.State}}"])?;
    let mut found: BTreeMap<&str, &str> = found
        .iter()
        .filter_map(|line| line.split_once(' '))
        .collect();
    for (name, may) in &ledger.containers {
        let state = found.remove(name);
        // A run is two calls, and is not begun anew.
        let half = state == Some("created") && may.contains(&None);
        ensure!(
            half || may.contains(&state),
            "container {name} is {state:?} and may be {may:?}"
        );
        if state == Some("running") {
            docker.text(&["exec", name, "true"])?;
            reaches(docker, name)?;
        }
    }
    ensure!(found.is_empty(), "nobody asked for {found:?}");
    let volumes = docker.lines(&["volume", "ls", "--format", "{{.Name}}"])?;
    there(&volumes, &ledger.volumes)?;
    let networks = [
        "network",
        "ls",
        "--filter",
        "type=custom",
        "--format",
        "{{.Name}}",
    ];
    there(&docker.lines(&networks)?, &ledger.networks)?;
    Ok(())
}

/// What runs has its network, and is found there by its name.
fn reaches(docker: &Docker, name: &str) -> Result<()> {
    let ping = format!("ping -c 1 -W 2 {name} | head -1");
    let asked = docker.text(&["exec", name, "sh", "-c", &ping])?;
    let format = "{{.NetworkSettings.Networks.sea.IPAddress}}";
    let address = docker.text(&["inspect", "-f", format, name])?;
    ensure!(
        !address.is_empty() && asked.contains(&address),
        "{name} has {address:?}, its name is {asked:?}"
    );
    Ok(())
}

fn there(found: &[String], known: &BTreeMap<&'static str, Option<bool>>) -> Result<()> {
    for (name, there) in known {
        let is_there = found.iter().any(|found| found == name);
        ensure!(
            there.is_none_or(|there| there == is_there),
            "{name}: there: {is_there}"
        );
    }
    let strange: Vec<_> = found
        .iter()
        .filter(|name| !known.contains_key(name.as_str()))
        .filter(|name| !is_made_up(name))
        .collect();
    ensure!(strange.is_empty(), "nobody asked for {strange:?}");
    Ok(())
}

/// The name of a volume that nobody named.
fn is_made_up(name: &str) -> bool {
    name.len() == 64 && name.chars().all(|digit| digit.is_ascii_hexdigit())
}

/// Removes all that is left; what nobody named has to be gone with who had it.
fn clear(docker: &Docker) -> Result<()> {
    for container in docker.lines(&["ps", "-aq"])? {
        docker.text(&["rm", "-f", "-v", &container])?;
    }
    let left = docker.lines(&["volume", "ls", "-q"])?;
    let nobodys: Vec<_> = left.iter().filter(|name| is_made_up(name)).collect();
    ensure!(nobodys.is_empty(), "volumes that nobody named: {nobodys:?}");
    for volume in left {
        docker.text(&["volume", "rm", &volume])?;
    }
    for network in docker.lines(&["network", "ls", "-q", "--filter", "type=custom"])? {
        docker.text(&["network", "rm", &network])?;
    }
    Ok(())
}
