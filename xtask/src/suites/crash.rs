//! Kills of the daemon, and what has to hold after each: real pods, several clients at once.
//!
//! Every fault point is met once, in a life of a pod from pull to removal: the daemon dies there; and
//! where a removal can fail it fails once, and the daemon dies later. Beside that, a seed is a story:
//! it decides what clients ask for, when and where the daemon dies, and what happens while it is away.
//! The same seed tells the same story again, as far as time allows.

mod door;
mod judge;
mod lane;
mod ledger;
mod points;
mod story;
mod world;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::artefacts;
use crate::outcome::Tally;
use crate::workspace;
use judge::judge;
use lane::{Lane, Moment};
use world::{Baseline, World};

/// How many stories a short run tells.
const SHORT: u64 = 8;
/// Points that are passed behind the last answer are waited for.
const BEHIND: Duration = Duration::from_secs(5);
/// The steps after whose failure a pod may be there or not.
const REMOVAL: &str = "pod.remove.";

/// What a run is to do.
#[derive(Debug)]
pub enum Wanted {
    /// Every point once, or those whose name begins so, and this many seeds.
    Both {
        points: String,
        seeds: u64,
    },
    Points(String),
    Seeds(std::ops::Range<u64>),
}

impl Default for Wanted {
    fn default() -> Self {
        Self::Both {
            points: String::new(),
            seeds: SHORT,
        }
    }
}

impl Wanted {
    pub fn parse(words: &[&str]) -> Result<Self> {
        let number = |text: &str| {
            let parsed = text.parse::<u64>();
            parsed.with_context(|| format!("{text:?} is no number"))
        };
        Ok(match words {
            [] => Self::default(),
            ["--seeds", count] => Self::Seeds(0..number(count)?),
            ["--seeds", count, "--seed", first] => {
                let first = number(first)?;
                Self::Seeds(first..first + number(count)?)
            }
            ["--seed", seed] => {
                let seed = number(seed)?;
                Self::Seeds(seed..seed + 1)
            }
            ["--points"] => Self::Points(String::new()),
            ["--point", name] => Self::Points((*name).to_owned()),
            _ => bail!("crash: --seeds N [--seed FIRST], --seed S, --points or --point NAME"),
        })
    }
}

/// Stories between two words of how far a long run is.
const TELL: u64 = 10;

pub fn run(wanted: &Wanted) -> Result<Tally> {
    println!("crash");
    let mut tally = Tally::default();
    if !rustix::process::geteuid().is_root() {
        tally.skip("crash suite", "needs root");
        return Ok(tally);
    }
    tally.check("an ordinary daemon has no fault points", has_none());
    let (points, seeds) = match wanted {
        Wanted::Both { points, seeds } => (Some(points), 0..*seeds),
        Wanted::Points(points) => (Some(points), 0..0),
        Wanted::Seeds(seeds) => (None, seeds.clone()),
    };
    let begin = Instant::now();
    let mut stage = Stage::default();
    if let Some(wanted) = points {
        let mut names = points::all()?;
        names.retain(|name| name.starts_with(wanted.as_str()));
        ensure!(!names.is_empty(), "no fault point begins with {wanted:?}");
        at_points(&mut stage, &mut tally, &names)?;
        let mut failing = points::failing()?;
        failing.retain(|name| name.starts_with(wanted.as_str()) && name.starts_with(REMOVAL));
        at_failures(&mut stage, &mut tally, &failing);
        if wanted.is_empty() {
            at_door(&mut stage, &mut tally);
        }
    }
    for seed in seeds {
        let told = stage.play(|world, before| story::tell(world, before, seed));
        match told {
            Ok(kills) => {
                stage.kills += kills;
                if (seed + 1) % TELL == 0 {
                    println!("  note    {} kills up to seed {seed}", stage.kills);
                }
            }
            Err(error) => {
                let again = format!("cargo xtask crash --seed {seed}");
                tally.check(&format!("seed {seed}"), Err(error.context(again)));
                continue;
            }
        }
        tally += Tally::PASSED;
    }
    println!(
        "  note    {} kills in {:.0} s",
        stage.kills,
        begin.elapsed().as_secs_f64()
    );
    if let Some((world, _)) = stage.set.take() {
        tally.check("no network is left behind", world.end());
    }
    Ok(tally)
}

/// By the names in the binary; the daemon with points shows that they would be found.
fn has_none() -> Result<()> {
    let found = points::known_to(&workspace::artefacts().join("berthd"))?;
    ensure!(found.is_empty(), "it has {}", found.join(", "));
    let programs = artefacts::build_with_faults()?;
    let known = points::known_to(&programs.join("berthd"))?;
    ensure!(
        known == points::all()?,
        "the daemon for tests lacks some: it has {known:?}"
    );
    Ok(())
}

/// A world that is used again as long as everything in it was well.
#[derive(Default)]
struct Stage {
    set: Option<(World, Baseline)>,
    kills: u64,
}

impl Stage {
    fn play<T>(&mut self, part: impl FnOnce(&mut World, &Baseline) -> Result<T>) -> Result<T> {
        let (mut world, before) = match self.set.take() {
            Some(set) => set,
            None => {
                let mut world = World::begin()?;
                let before = story::warm_up(&mut world)?;
                (world, before)
            }
        };
        let outcome = part(&mut world, &before);
        if outcome.is_ok() {
            self.set = Some((world, before));
        }
        outcome.with_context(|| format!("see {}", world_log()))
    }
}

fn world_log() -> String {
    let log = workspace::logs().map(|logs| logs.join("crash-berthd.log"));
    log.map_or_else(|_| "the log".to_owned(), |log| log.display().to_string())
}

fn at_points(stage: &mut Stage, tally: &mut Tally, names: &[String]) -> Result<()> {
    for name in names {
        match stage.play(|world, before| at_point(world, before, name)) {
            Ok(()) => {
                stage.kills += 1;
                *tally += Tally::PASSED;
            }
            Err(error) => {
                let again = format!("cargo xtask crash --point {name}");
                tally.check(name, Err(error.context(again)));
            }
        }
    }
    println!("  note    killed at {} points, each once", names.len());
    Ok(())
}

/// Kills the daemon where it passes the point, in a life that passes all of them, and looks.
fn at_point(world: &mut World, before: &Baseline, point: &str) -> Result<()> {
    let rule = format!("{point}=kill@1");
    if point.starts_with(door::POINTS) {
        ensure!(door::day(world, before, &rule)?, "it was not passed");
        return Ok(());
    }
    let mut lanes = vec![Lane::new(world, 0, 0)];
    if point.starts_with("recovery.") {
        let moment = Moment::default();
        lanes[0].half_a_life(&moment)?;
        world.kill()?;
        ensure!(world.start_and_die(&rule)?, "it was not passed");
    } else {
        world.kill()?;
        world.start(&rule, 0)?;
        world.open_gate()?;
        let moment = Moment::default();
        let died = std::thread::scope(|scope| {
            let living = scope.spawn(|| {
                let lived = lanes[0].whole_life(&moment);
                moment.enough.store(true, Ordering::Release);
                lived
            });
            let died = loop {
                if world.has_ended()? {
                    break true;
                }
                if moment.enough.load(Ordering::Acquire) {
                    break world.ends_within(BEHIND)?;
                }
                std::thread::sleep(Duration::from_millis(2));
            };
            moment.over.store(true, Ordering::Release);
            match living.join() {
                Ok(lived) => lived.map(|()| died),
                Err(_) => bail!("the client panicked"),
            }
        })?;
        ensure!(died, "it was not passed");
    }
    world.kill()?;
    world.start("", 0)?;
    judge(world, &mut lanes)?;
    story::clear(world, before)
}

/// Kills the daemon at points of all kinds while a client of the Docker door has its day.
fn at_door(stage: &mut Stage, tally: &mut Tally) {
    let mut killed = 0;
    for nth in door::places() {
        let rule = format!("*=kill@{nth}");
        match stage.play(|world, before| door::day(world, before, &rule)) {
            Ok(died) => {
                killed += u64::from(died);
                *tally += Tally::PASSED;
            }
            Err(error) => {
                tally.check(
                    &format!("the Docker door, killed at point {nth}"),
                    Err(error),
                );
            }
        }
    }
    stage.kills += killed;
    println!("  note    killed {killed} times under a client of the Docker door");
}

fn at_failures(stage: &mut Stage, tally: &mut Tally, names: &[String]) {
    for name in names {
        match stage.play(|world, before| at_failure(world, before, name)) {
            Ok(()) => {
                stage.kills += 1;
                *tally += Tally::PASSED;
            }
            Err(error) => {
                let again = format!("cargo xtask crash --point {name}");
                let check = format!("a failure at {name}");
                tally.check(&check, Err(error.context(again)));
            }
        }
    }
    println!("  note    {} steps failed, each once", names.len());
}

/// Lets a step fail in a life, ends that life, kills the daemon, and looks.
fn at_failure(world: &mut World, before: &Baseline, point: &str) -> Result<()> {
    let mut lanes = vec![Lane::new(world, 0, 0)];
    world.kill()?;
    world.start(&format!("{point}=error@1"), 0)?;
    world.open_gate()?;
    lanes[0].life_until_failure(&Moment::default())?;
    ensure!(world.has_failed_at(point), "it was not passed");
    world.kill()?;
    world.start("", 0)?;
    judge(world, &mut lanes)?;
    story::clear(world, before)
}
