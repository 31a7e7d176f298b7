//! How long the life of a container takes.

use crate::fixture::{Host, exec, quiet, reap};
use anyhow::Result;
use serde_json::json;
use std::time::{Duration, Instant};

const ROUNDS: usize = 40;
/// A node is not busy without end: back to back, waits for RCU vanish.
const PAUSE: Duration = Duration::from_millis(50);

/// Prints medians, in milliseconds, of the steps of `/bin/true` and of an
/// exec of it, with pauses between rounds.
pub fn whole_life(host: &Host) -> Result<()> {
    let mut times: [Vec<Duration>; 5] = Default::default();
    let bundle = host.bundle("")?.set("/process/args", json!(["/bin/true"]));
    for _ in 0..ROUNDS {
        std::thread::sleep(PAUSE);
        let begin = Instant::now();
        let mut container = bundle.create_with(host, quiet())?;
        let created = Instant::now();
        container.start()?;
        let started = Instant::now();
        reap(container.pid())?;
        let reaped = Instant::now();
        container.delete(false)?;
        let deleted = Instant::now();
        for (list, time) in times.iter_mut().zip([
            created - begin,
            started - created,
            reaped - started,
            deleted - reaped,
            deleted - begin,
        ]) {
            list.push(time);
        }
    }
    let names = ["create", "start", "run", "delete", "whole"];
    for (name, list) in names.iter().zip(&mut times) {
        print(name, list);
    }
    let mut execs = Vec::new();
    let mut container = host.bundle("sleep 60")?.create(host)?;
    container.start()?;
    for _ in 0..ROUNDS {
        std::thread::sleep(PAUSE);
        let begin = Instant::now();
        exec(&container, "exit 0")?;
        execs.push(begin.elapsed());
    }
    container.delete(true)?;
    reap(container.pid())?;
    print("exec", &mut execs);
    Ok(())
}

fn print(name: &str, times: &mut [Duration]) {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
    println!("{name:>7}: p50 {:.2} ms, p90 {:.2} ms", at(50), at(90));
}
