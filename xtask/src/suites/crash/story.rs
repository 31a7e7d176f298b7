//! One seed: rounds of calls that end with a kill, and what is done while no daemon runs.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::judge::judge;
use super::lane::{Lane, Moment, STOPPED};
use super::ledger::{ContainerIs, PodIs};
use super::world::{Baseline, SIDES, World, kill_shim};

const ROUNDS: u64 = 6;
/// A daemon that was to die at a point and met none by then is killed.
const LONGEST: Duration = Duration::from_millis(1500);
/// Records that follow behind are in the store after this.
const SETTLED: Duration = Duration::from_millis(500);

/// How a round ends.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Killed from outside, after so long.
    After(Duration),
    /// Killed by itself, at the nth point that it passes.
    AtPoint(u64),
    /// Steps fail with this chance until it is killed.
    Failing(u64),
    /// The host goes with it; the runtime directory may be on a disk.
    PowerLost { on_disk: bool },
}

impl Manner {
    fn choose(rng: &mut fastrand::Rng) -> Self {
        match rng.u8(..100) {
            0..40 => Self::After(Duration::from_millis(rng.u64(..600))),
            40..80 => Self::AtPoint(rng.u64(1..250)),
            80..92 => Self::Failing(rng.u64(2..6)),
            _ => Self::PowerLost {
                on_disk: rng.bool(),
            },
        }
    }

    fn rules(self) -> String {
        match self {
            Self::AtPoint(nth) => format!("*=kill@{nth}"),
            Self::Failing(percent) => format!("*=error%{percent}"),
            Self::After(_) | Self::PowerLost { .. } => String::new(),
        }
    }

    /// How long clients may go on.
    fn time(self) -> Duration {
        match self {
            Self::After(time) => time,
            Self::AtPoint(_) => LONGEST,
            Self::Failing(_) | Self::PowerLost { .. } => LONGEST / 2,
        }
    }
}

/// Tells the story of a seed; answers with the number of kills.
pub fn tell(world: &mut World, before: &Baseline, seed: u64) -> Result<u64> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut lanes: Vec<Lane> = (0..SIDES)
        .map(|number| Lane::new(world, number, seed))
        .collect();
    let mut kills = 0;
    let mut manner = Manner::choose(&mut rng);
    world.kill()?;
    world.start(&manner.rules(), seed)?;
    for round in 0..ROUNDS {
        let told = round_of(world, &mut lanes, manner);
        let place = format!("round {round}, {manner:?}");
        told.with_context(|| place.clone())?;
        kills += 1;
        let at = match manner {
            Manner::AtPoint(_) => format!("{place}, last killed at {}", world.last_point()),
            _ => place,
        };
        let away = while_away(world, &mut lanes, manner, &mut rng);
        away.with_context(|| format!("while away after {at}"))?;
        if rng.u8(..100) < 25 {
            let nth = rng.u64(1..60);
            kills += u64::from(world.start_and_die(&format!("*=kill@{nth}"))?);
        }
        manner = Manner::choose(&mut rng);
        world.start(&manner.rules(), seed + round)?;
        judge(world, &mut lanes).with_context(|| at.clone())?;
    }
    world.close_gate();
    clear(world, before).context("after everything was removed")?;
    Ok(kills)
}

/// Clients at work until the daemon is dead.
fn round_of(world: &mut World, lanes: &mut [Lane], manner: Manner) -> Result<()> {
    let moment = Moment::default();
    world.open_gate()?;
    std::thread::scope(|scope| {
        let clients: Vec<_> = lanes
            .iter_mut()
            .map(|lane| scope.spawn(|| lane.run(&moment)))
            .collect();
        let watched = watch(world, &moment, manner);
        moment.over.store(true, Ordering::Release);
        let mut outcome = watched;
        for client in clients {
            let ended = client.join().unwrap_or_else(|_| bail!("a client panicked"));
            outcome = outcome.and(ended);
        }
        outcome
    })?;
    world.close_gate();
    if let Manner::PowerLost { .. } | Manner::Failing(_) = manner {
        // Acknowledged calls only: the last records are in the store by now.
        std::thread::sleep(SETTLED);
    }
    world.kill()
}

/// Lets the clients go on for their time, and kills the daemon unless it was to live so long.
fn watch(world: &mut World, moment: &Moment, manner: Manner) -> Result<()> {
    let died = world.ends_within(manner.time())?;
    match manner {
        Manner::After(_) | Manner::AtPoint(_) => {
            moment.over.store(true, Ordering::Release);
            if died { Ok(()) } else { world.kill() }
        }
        Manner::Failing(_) | Manner::PowerLost { .. } => {
            if died {
                bail!("the daemon ended by itself");
            }
            moment.enough.store(true, Ordering::Release);
            // The clients finish what they began.
            Ok(())
        }
    }
}

fn while_away(
    world: &mut World,
    lanes: &mut [Lane],
    manner: Manner,
    rng: &mut fastrand::Rng,
) -> Result<()> {
    let told = world.told();
    let containers = lanes
        .iter_mut()
        .flat_map(|lane| &mut lane.pods)
        .flat_map(|pod| &mut pod.containers);
    for container in containers {
        let runs = container.is(ContainerIs::Running);
        match rng.u8(..100) {
            0..15 if runs => container.tell(&told)?,
            15..22 if kill_shim(&container.id()) => container.may_end(&[137, 255]),
            _ => {}
        }
    }
    for pod in lanes.iter_mut().flat_map(|lane| &mut lane.pods) {
        // The init of a pod that shares its PIDs goes by the pod's name.
        if rng.u8(..100) < 8 && kill_shim(&pod.id()) {
            pod.may_be.push(PodIs::NotReady);
            for container in &mut pod.containers {
                container.may_end_if_it_runs(&STOPPED);
            }
        }
    }
    let Manner::PowerLost { on_disk } = manner else {
        return Ok(());
    };
    world.lose_power(on_disk)?;
    for pod in lanes.iter_mut().flat_map(|lane| &mut lane.pods) {
        pod.may_be = vec![PodIs::NotReady];
        for container in &mut pod.containers {
            if !container.is(ContainerIs::Exited) {
                container.may_be = vec![ContainerIs::Exited];
                container.ends.extend([255, 137]);
            }
        }
    }
    Ok(())
}

/// What is opened and made once is there after this, and counted.
pub fn warm_up(world: &mut World) -> Result<Baseline> {
    let mut lane = Lane::new(world, 0, 0);
    lane.whole_life(&Moment::default())?;
    // What ends behind the last answer must not count as known.
    std::thread::sleep(Duration::from_secs(1));
    world.baseline()
}

/// Removes everything, after which nothing may be left.
pub fn clear(world: &mut World, before: &Baseline) -> Result<()> {
    for pod in world.cri.pods().context("ListPodSandbox")? {
        world.cri.stop_pod(&pod.id).context("StopPodSandbox")?;
        world.cri.remove_pod(&pod.id).context("RemovePodSandbox")?;
    }
    let left = world.cri.containers().context("ListContainers")?;
    anyhow::ensure!(left.is_empty(), "containers outlive their pods: {left:?}");
    for number in 0..SIDES {
        let side = world.side(number);
        // Transfers that were cut short are finished; what is left of them would be kept for a day.
        world.cri.pull(&side).context("PullImage")?;
        world.cri.remove_image(&side).context("RemoveImage")?;
    }
    let told = world.told();
    for fifo in std::fs::read_dir(&told)
        .context("listing the FIFOs")?
        .flatten()
    {
        let _gone = std::fs::remove_file(fifo.path());
    }
    world.restored(before)
}
