//! The same pods under the same kubelet, with Berth and with containerd in turns.

use anyhow::{Context, Result, bail};

use super::measure::{Times, start_and_end};
use super::session::{Runtime, Session};

/// Turns of each runtime, and pods in a turn; the first pod of a turn is not counted.
const TURNS: usize = 2;
const PODS: usize = 6;

type Measure = (&'static str, fn(&Times) -> f64);

const MEASURES: [Measure; 3] = [
    ("manifest to ready", |times| times.ready),
    ("of it in the runtime", |times| times.in_runtime),
    ("removal to its end", |times| times.gone),
];

pub fn run() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("needs root");
    }
    let (mut berth, mut containerd) = (Vec::new(), Vec::new());
    for turn in 1..=TURNS {
        for (runtime, taken) in [
            (Runtime::Berth, &mut berth),
            (Runtime::Containerd, &mut containerd),
        ] {
            println!("turn {turn} of {TURNS}: {runtime:?}");
            taken.extend(one_turn(runtime).with_context(|| format!("{runtime:?}"))?);
        }
    }
    println!(
        "\n{:24}{:>10}{:>12}{:>8}",
        "median, s", "berth", "containerd", "ratio"
    );
    for (name, of) in MEASURES {
        let (ours, theirs) = (median(&berth, of), median(&containerd, of));
        println!("{name:24}{ours:>10.3}{theirs:>12.3}{:>8.2}", ours / theirs);
    }
    Ok(())
}

fn one_turn(runtime: Runtime) -> Result<Vec<Times>> {
    let mut session = Session::begin(runtime)?;
    let mut taken = Vec::new();
    for number in 0..=PODS {
        taken.push(start_and_end(&mut session, &format!("measured-{number}"))?);
    }
    session.end()?;
    Ok(taken.split_off(1))
}

fn median(times: &[Times], of: fn(&Times) -> f64) -> f64 {
    let mut values: Vec<f64> = times.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
