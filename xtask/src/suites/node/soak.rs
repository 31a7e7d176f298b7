//! A daemon at work for long: pods, pulls, commands and its own restarts in an order that a seed
//! draws. Memory, descriptors and threads are noted between them, and have to stay what they are.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use berth_testkit::image::Recipe;

use super::inventory::Inventory;
use super::session::Session;
use super::warm_up;
use crate::outcome::Tally;
use crate::suites::fixtures::marker;

/// Pods at one time.
const CREW: usize = 12;
/// Images that are pulled and removed in turn.
const IMAGES: usize = 6;
/// Between two notes of what the daemon takes.
const NOTES: usize = 40;
/// Of the time, before what is taken counts: buffers and pools find their size.
const SETTLING: f64 = 0.25;
/// How much more the last notes may have than the first ones that count.
const GROWTH: f64 = 1.15;

/// What was asked for on the command line.
pub struct Wanted {
    length: Duration,
    seed: u64,
}

impl Wanted {
    pub fn parse(options: &[&str]) -> Result<Self> {
        let mut wanted = Self {
            length: Duration::from_secs(3600),
            seed: 1,
        };
        let mut rest = options;
        while let [name, value, more @ ..] = rest {
            let number: u64 = value.parse().with_context(|| format!("{name} {value}"))?;
            match *name {
                "--minutes" => wanted.length = Duration::from_secs(60 * number),
                "--seed" => wanted.seed = number,
                _ => bail!("{name} is no option: --minutes N, --seed S"),
            }
            rest = more;
        }
        ensure!(rest.is_empty(), "{rest:?} has no value");
        Ok(wanted)
    }
}

pub fn run(wanted: &Wanted) -> Result<Tally> {
    println!(
        "soak, {} min, seed {}",
        wanted.length.as_secs() / 60,
        wanted.seed
    );
    let mut tally = Tally::default();
    if !rustix::process::geteuid().is_root() {
        tally.skip("soak", "needs root");
        return Ok(tally);
    }
    let mut session = Session::begin_with("soak", "")?;
    warm_up(&mut session)?;
    let mut soak = Soak::new(wanted.seed, &session)?;
    let before = Inventory::take(&session)?;
    let worked = soak.work(&mut session, wanted.length);
    tally.check("every call is answered as it should", worked);
    let ended = soak.end(&mut session);
    tally.check("all that was made is removed", ended);
    tally.check("nothing is left behind", before.restored(&session));
    tally.check("the daemon takes no more than it did", soak.is_flat());
    tally.check("no network is left behind", session.end());
    Ok(tally)
}

/// What the daemon takes at one moment.
#[derive(Debug, Clone, Copy)]
struct Note {
    at: Duration,
    kib: u64,
    descriptors: usize,
    threads: usize,
}

struct Soak {
    random: fastrand::Rng,
    begin: Instant,
    images: Vec<String>,
    crew: Vec<(String, String)>,
    notes: Vec<Note>,
    made: u64,
    done: [u64; 5],
}

impl Soak {
    fn new(seed: u64, session: &Session) -> Result<Self> {
        let base = session.shell()?;
        let mut images = Vec::new();
        for number in 0..IMAGES {
            let recipe = Recipe::new().layer(base.clone());
            let image = recipe.layer(marker(&format!("soak-{number}"))?).build()?;
            images.push(session.publish(&image, &format!("soak/{number}"), "one")?);
        }
        Ok(Self {
            random: fastrand::Rng::with_seed(seed),
            begin: Instant::now(),
            images,
            crew: Vec::new(),
            notes: Vec::new(),
            made: 0,
            done: [0; 5],
        })
    }

    fn work(&mut self, session: &mut Session, length: Duration) -> Result<()> {
        self.begin = Instant::now();
        while self.begin.elapsed() < length {
            for _ in 0..NOTES {
                self.step(session)?;
            }
            self.note(session)?;
        }
        let [pods, removals, commands, pulls, restarts] = self.done;
        println!(
            "  note    {pods} pods, {removals} removals, {commands} commands, {pulls} pulls, {restarts} kills of the daemon"
        );
        Ok(())
    }

    fn step(&mut self, session: &mut Session) -> Result<()> {
        let kind = match self.random.u16(..1000) {
            0..300 if self.crew.len() < CREW => 0,
            300..550 if !self.crew.is_empty() => 1,
            550..850 if !self.crew.is_empty() => 2,
            850..998 => 3,
            998.. => 4,
            _ => return Ok(()),
        };
        if let Some(count) = self.done.get_mut(kind) {
            *count += 1;
        }
        match kind {
            0 => self.launch(session),
            1 => {
                let (pod, container) = self.crew.swap_remove(self.random.usize(..self.crew.len()));
                session.tear_down(&pod, &container)
            }
            2 => {
                let chosen = self.random.usize(..self.crew.len());
                let (_, container) = self.crew.get(chosen).context("a container")?;
                let said = session
                    .cri
                    .exec(container, &["echo", "here"])
                    .context("ExecSync")?;
                ensure!(*said.stdout == *b"here\n", "{said:?}");
                Ok(())
            }
            3 => {
                let image = self.random.choice(&self.images).context("an image")?;
                session.cri.pull(image).context("PullImage")?;
                session.cri.remove_image(image).context("RemoveImage")
            }
            _ => {
                session.kill_daemon()?;
                session.start_daemon()
            }
        }
    }

    fn launch(&mut self, session: &mut Session) -> Result<()> {
        self.made += 1;
        let config = session.pod(&format!("soak-{}", self.made));
        let container = session.container("main", &["sleep", "100000"]);
        let pod = session.cri.run_pod(&config).context("RunPodSandbox")?;
        let container = session.cri.create(&pod, &config, &container);
        let container = container.context("CreateContainer")?;
        session.cri.start(&container).context("StartContainer")?;
        self.crew.push((pod, container));
        Ok(())
    }

    fn note(&mut self, session: &Session) -> Result<()> {
        let process = format!("/proc/{}", session.daemon_pid()?);
        let count = |what: &str| fs::read_dir(format!("{process}/{what}")).map(Iterator::count);
        let status = fs::read_to_string(format!("{process}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|text| text.trim().strip_suffix(" kB"));
        let note = Note {
            at: self.begin.elapsed(),
            kib: kib.context("no VmRSS")?.trim().parse()?,
            descriptors: count("fd")?,
            threads: count("task")?,
        };
        println!(
            "  note    {:>5.0} s: {:>6} KiB, {} descriptors, {} threads, {} pods",
            note.at.as_secs_f64(),
            note.kib,
            note.descriptors,
            note.threads,
            self.crew.len()
        );
        self.notes.push(note);
        Ok(())
    }

    fn end(&mut self, session: &mut Session) -> Result<()> {
        for (pod, container) in self.crew.drain(..) {
            session.tear_down(&pod, &container)?;
        }
        Ok(())
    }

    /// The largest of the last quarter next to the largest of the quarter after settling.
    fn is_flat(&self) -> Result<()> {
        let last = self
            .notes
            .last()
            .context("nothing was noted")?
            .at
            .as_secs_f64();
        let within = |from: f64, to: f64| {
            let (from, to) = (from * last, to * last);
            let notes = self.notes.iter();
            notes.filter(move |note| (from..=to).contains(&note.at.as_secs_f64()))
        };
        let first = (SETTLING, 2.0 * SETTLING);
        for (what, of) in [
            ("memory", (|note| note.kib as f64) as fn(&Note) -> f64),
            ("descriptors", |note| note.descriptors as f64),
            ("threads", |note| note.threads as f64),
        ] {
            let early = within(first.0, first.1).map(of).fold(0.0, f64::max);
            let late = within(1.0 - SETTLING, 1.0).map(of).fold(0.0, f64::max);
            ensure!(
                late <= early * GROWTH,
                "{what} went from {early} to {late} at most"
            );
        }
        Ok(())
    }
}
