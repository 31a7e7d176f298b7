//! How long images of different shapes take to arrive, and how much memory that takes.
//!
//! Each runtime pulls each image in turns from one registry on loopback. Before a pull the image
//! is removed and all that is dirty written out; after it, what it left dirty, which is a figure of
//! its own. Memory is that of the daemon, and of it and everything below it, looked at all the time.

mod images;
mod memory;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::machine;
use crate::containerd::Containerd;
use crate::cri::Cri;
use crate::daemon::Daemon;
use crate::place::Place;
use crate::registry::Registry;
use crate::workspace;
use images::Published;
use memory::{Peak, Watch};

const ROUNDS: usize = 5;
/// What a removal leaves to do is done by then.
const REST: Duration = Duration::from_secs(8);

/// A runtime and what was measured with it, by image.
struct Side {
    name: &'static str,
    cri: Cri,
    pid: i32,
    pulls: Vec<Vec<Pull>>,
}

#[derive(Clone, Copy)]
struct Pull {
    seconds: f64,
    /// With the time until nothing of it is dirty any more.
    flushed: f64,
    peak: Peak,
}

/// `with_peer`: containerd too.
pub fn run(rounds: Option<&str>, with_peer: bool) -> Result<()> {
    let rounds = rounds.map_or(Ok(ROUNDS), |text| {
        text.parse().with_context(|| format!("rounds {text}"))
    })?;
    if !rustix::process::geteuid().is_root() {
        bail!("needs root");
    }
    let programs = super::programs(true)?;
    let place = Place::as_on_a_node()?;
    let registry = Registry::start(&place.scratch())?;
    println!("making the images");
    let images = images::publish(&registry)?;
    let log = workspace::logs()?.join("bench-pull-berthd.log");
    let _fresh = fs::remove_file(&log);
    let daemon = Daemon::start_from(&programs, &place, &log)?;
    let pid = i32::try_from(daemon.pid()).context("pid of berthd")?;
    let mut sides = vec![Side::connect("berth", &place.socket(), pid, images.len())?];
    let peer = with_peer
        .then(|| Containerd::start(&registry))
        .transpose()?;
    if let Some(peer) = &peer {
        let (socket, pid) = (peer.socket(), peer.pid()?);
        sides.push(Side::connect("containerd", &socket, pid, images.len())?);
    }
    for round in 1..=rounds {
        for (number, image) in images.iter().enumerate() {
            for side in &mut sides {
                let pull = side.pull(number, image)?;
                println!(
                    "round {round} of {rounds}: {:<10} {:<8} {:>7.2} s, flushed {:>7.2} s, at most {} MiB, {} together",
                    side.name,
                    image.name,
                    pull.seconds,
                    pull.flushed,
                    pull.peak.own / 1024,
                    pull.peak.together / 1024,
                );
            }
        }
    }
    println!("{}", table(&images, &sides));
    let path = workspace::artefacts().join("bench-pull.json");
    write(&path, &images, &sides)?;
    println!("every figure: {}", path.display());
    daemon.stop()?;
    place.bridge().remove()
}

impl Side {
    fn connect(name: &'static str, socket: &Path, pid: i32, images: usize) -> Result<Self> {
        Ok(Self {
            name,
            cri: Cri::connect(socket)?,
            pid,
            pulls: vec![Vec::new(); images],
        })
    }

    fn pull(&mut self, number: usize, image: &Published) -> Result<Pull> {
        let reference = &image.reference;
        self.cri.remove_image(reference).context("RemoveImage")?;
        thread::sleep(REST);
        rustix::fs::sync();
        let watch = Watch::start(self.pid)?;
        let begin = Instant::now();
        let pulled = self.cri.pull(reference);
        let seconds = begin.elapsed().as_secs_f64();
        let peak = watch.end()?;
        pulled.with_context(|| format!("{} pulls {}", self.name, image.name))?;
        rustix::fs::sync();
        let pull = Pull {
            seconds,
            flushed: begin.elapsed().as_secs_f64(),
            peak,
        };
        if let Some(pulls) = self.pulls.get_mut(number) {
            pulls.push(pull);
        }
        Ok(pull)
    }

    fn median(&self, number: usize, of: impl Fn(&Pull) -> f64) -> f64 {
        let mut seconds: Vec<f64> = self.of(number).iter().map(of).collect();
        seconds.sort_by(f64::total_cmp);
        let middle = seconds.len().saturating_sub(1) / 2;
        seconds.get(middle).copied().unwrap_or(f64::NAN)
    }

    fn peak(&self, number: usize) -> Peak {
        let peaks = self.of(number).iter().map(|pull| pull.peak);
        peaks.fold(Peak::default(), Peak::max)
    }

    fn of(&self, number: usize) -> &[Pull] {
        self.pulls.get(number).map_or(&[], Vec::as_slice)
    }
}

fn table(images: &[Published], sides: &[Side]) -> String {
    let mut text = String::new();
    for (number, image) in images.iter().enumerate() {
        text += &format!("{:<8} {}\n", image.name, image.shape);
        for side in sides {
            let peak = side.peak(number);
            text += &format!(
                "  {:<10} median {:>7.2} s, flushed {:>7.2} s, at most {} MiB, {} together\n",
                side.name,
                side.median(number, |pull| pull.seconds),
                side.median(number, |pull| pull.flushed),
                peak.own / 1024,
                peak.together / 1024,
            );
        }
        if let [ours, theirs] = sides {
            let ratio = |of: fn(&Pull) -> f64| ours.median(number, of) / theirs.median(number, of);
            let (answered, flushed) = (ratio(|pull| pull.seconds), ratio(|pull| pull.flushed));
            text += &format!("  ratio {answered:.3}, flushed {flushed:.3}\n");
        }
    }
    text
}

fn write(path: &Path, images: &[Published], sides: &[Side]) -> Result<()> {
    let of = |side: &Side, number: usize| -> Value {
        let pulls = side.of(number);
        json!({
            "seconds": pulls.iter().map(|pull| pull.seconds).collect::<Vec<_>>(),
            "flushed_seconds": pulls.iter().map(|pull| pull.flushed).collect::<Vec<_>>(),
            "peak_kib": pulls.iter().map(|pull| pull.peak.own).collect::<Vec<_>>(),
            "peak_together_kib": pulls.iter().map(|pull| pull.peak.together).collect::<Vec<_>>(),
        })
    };
    let shapes: Vec<Value> = images
        .iter()
        .enumerate()
        .map(|(number, image)| {
            let by_side = sides
                .iter()
                .map(|side| (side.name.to_owned(), of(side, number)));
            json!({
                "image": image.name, "shape": image.shape,
                "runtimes": by_side.collect::<serde_json::Map<_, _>>(),
            })
        })
        .collect();
    let report = json!({ "machine": machine::describe(), "images": shapes });
    let text = serde_json::to_string_pretty(&report).context("encoding the figures")?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
