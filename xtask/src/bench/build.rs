//! How long builds take at the Docker door: a project of five stages from nothing, when nothing
//! changed, and when one file did; and how well stages overlap.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};
use berth_testkit::image::{Compression, Layer};
use serde_json::{Map, Value, json};

use super::docker::{Door, head};
use super::figures::Figures;
use super::{load, machine};
use crate::daemon::Daemon;
use crate::place::Place;
use crate::registry::Registry;
use crate::workspace;

const ROUNDS: usize = 7;
/// What a removal leaves to do is done by then.
const REST: Duration = Duration::from_millis(500);
/// Files of the project, and bytes of each.
const FILES: usize = 2000;
const FILE_SIZE: usize = 4096;
/// Milliseconds that each of three stages does nothing else but wait.
const WAIT: u32 = 500;

const COLD: &str = "five stages, from nothing";
const SAME: &str = "nothing changed";
const ONE_FILE: &str = "one file of 2000 changed";
const WAITING: &str = "three stages that wait 500 ms each";
const MEASURES: [&str; 4] = [COLD, SAME, ONE_FILE, WAITING];

const NAME: &str = "bench/built:one";

pub fn run(released: bool) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("needs root");
    }
    let programs = super::programs(released)?;
    let place = Place::as_on_a_node()?;
    let registry = Registry::start(&place.scratch())?;
    let base = load::publish_small(&registry)?;
    let log = workspace::logs()?.join("bench-build-berthd.log");
    let _fresh = fs::remove_file(&log);
    let daemon = Daemon::start_from(&programs, &place, &log)?;
    let door = Door::new(place.socket().with_file_name("docker.sock"));
    let figures = measure(&door, &base)?;
    daemon.stop()?;
    for measure in MEASURES {
        let at = |percent| figures.quantile(measure, percent).unwrap_or(f64::NAN);
        println!("{measure:<36} p50 {:8.1}  p90 {:8.1} ms", at(50), at(90));
    }
    let path = workspace::artefacts().join("bench-build.json");
    write(&path, released, &figures)?;
    println!("every figure: {}", path.display());
    place.bridge().remove()
}

fn measure(door: &Door, base: &str) -> Result<Figures> {
    let mut figures = Figures::default();
    let name = base.rsplit_once(':').context("a tag")?;
    let pull = format!("/images/create?fromImage={}&tag={}", name.0, name.1);
    door.call("POST", &pull, None)?;
    for round in 0..=ROUNDS {
        let first = project(base, round, 0)?;
        let next = project(base, round, 1)?;
        let waiting = waiting(base)?;
        for (measure, archive) in [
            (COLD, &first),
            (SAME, &first),
            (ONE_FILE, &next),
            (WAITING, &waiting),
        ] {
            if [COLD, WAITING].contains(&measure) {
                forget(door)?;
            }
            let begin = Instant::now();
            build(door, archive).with_context(|| measure.to_owned())?;
            // The first round meets a daemon that has built nothing yet.
            if round > 0 {
                figures.add(measure, begin.elapsed().as_secs_f64() * 1e3);
            }
        }
        println!("round {round} of {ROUNDS}");
    }
    Ok(figures)
}

/// No image of a build, and nothing in the cache.
fn forget(door: &Door) -> Result<()> {
    let listed = door.list("/images/json?filters={\"reference\":[\"bench/built\"]}")?;
    if listed.contains("bench/built") {
        door.call("DELETE", &format!("/images/{NAME}?force=1"), None)?;
    }
    door.call("POST", "/build/prune?all=1", None)?;
    thread::sleep(REST);
    rustix::fs::sync();
    Ok(())
}

fn build(door: &Door, archive: &[u8]) -> Result<()> {
    let path = format!("/build?t={NAME}&rm=1");
    let mut stream = door.upload(&path, "application/x-tar", archive)?;
    let status = head(&mut stream)?;
    let mut told = String::new();
    stream.read_to_string(&mut told)?;
    ensure!(
        status == 200 && told.contains("Successfully built"),
        "{status} {told}"
    );
    Ok(())
}

fn packed(dockerfile: &str, mut layer: Layer) -> Result<Vec<u8>> {
    layer = layer.file("/Dockerfile", 0o644, dockerfile);
    Ok(layer.pack(Compression::Plain)?.bytes)
}

/// As projects are: what is compiled with what was fetched, tests, assets, and what is delivered.
fn project(base: &str, round: usize, change: usize) -> Result<Vec<u8>> {
    let dockerfile = format!(
        "FROM {base} AS fetched\nCOPY list /list\nRUN cat /list > /fetched\n\
         FROM fetched AS made\nCOPY src /src\nRUN cat /src/*/* | sha256sum > /made\n\
         FROM fetched AS assets\nCOPY assets /assets\nRUN cat /assets/* | md5sum > /packed\n\
         FROM made AS tested\nRUN test -s /made && echo fine > /tested\n\
         FROM {base}\nCOPY --from=made /made /\nCOPY --from=assets /packed /\n\
         COPY --from=tested /tested /\nENV A=1\nCMD [\"cat\", \"/made\"]\n"
    );
    let mut layer = Layer::new()
        .file("/list", 0o644, format!("round {round}\n"))
        .file("/assets/one", 0o644, vec![b'a'; FILE_SIZE]);
    for file in 0..FILES {
        let letter = match file {
            0 => b'0'.wrapping_add(u8::try_from(change)?),
            other => b'a' + u8::try_from(other % 26)?,
        };
        let path = format!("/src/{}/file-{file}", file % 20);
        layer = layer.file(&path, 0o644, vec![letter; FILE_SIZE]);
    }
    packed(&dockerfile, layer)
}

fn waiting(base: &str) -> Result<Vec<u8>> {
    let seconds = f64::from(WAIT) / 1e3;
    let stages = ["a", "b", "c"].map(|name| {
        format!("FROM {base} AS {name}\nRUN sleep {seconds} && echo {name} > /{name}\n")
    });
    let copies = ["a", "b", "c"].map(|name| format!("COPY --from={name} /{name} /\n"));
    let dockerfile = format!("{}FROM {base}\n{}", stages.concat(), copies.concat());
    packed(&dockerfile, Layer::new())
}

fn write(path: &Path, released: bool, figures: &Figures) -> Result<()> {
    let mut measures = Map::new();
    for measure in MEASURES {
        measures.insert(measure.to_owned(), figures.of(measure, "ms"));
    }
    let profile = if released { "release" } else { "dev" };
    let report: Value = json!({
        "machine": machine::describe(),
        "method": { "rounds": ROUNDS, "profile": profile },
        "measures": measures,
    });
    let text = serde_json::to_string_pretty(&report).context("encoding the figures")?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
