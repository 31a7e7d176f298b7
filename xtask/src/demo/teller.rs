//! Steps as a person reads them, with the time that each took.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Width of the time before each line.
const MARGIN: usize = 12;

/// Awaits a step; prints it with its time once it has succeeded. The error of
/// a failed one names it.
pub async fn step<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let started = Instant::now();
    let result = work.await;
    let took = shown(started.elapsed());
    match &result {
        Ok(_) => println!("{took:>MARGIN$}  {what}"),
        Err(_) => println!("{:>MARGIN$}  {what} (after {took})", "FAILED"),
    }
    result.with_context(|| what.to_owned())
}

/// A line about the step above.
pub fn detail(line: &str) {
    println!("{:MARGIN$}    {line}", "");
}

/// Binary units, as memory is counted.
pub fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{} KiB", count / 1024),
        _ => format!("{}.{} MiB", count >> 20, ((count % (1 << 20)) * 10) >> 20),
    }
}

pub fn shown(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..1_000_000 => format!("{}.{} ms", micros / 1000, micros % 1000 / 100),
        _ => format!(
            "{}.{:02} s",
            micros / 1_000_000,
            micros % 1_000_000 / 10_000
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_readable() {
        for (count, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1_572_864, "1.5 MiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
        for (micros, expected) in [(50, "0.0 ms"), (12_340, "12.3 ms"), (1_230_000, "1.23 s")] {
            assert_eq!(shown(Duration::from_micros(micros)), expected);
        }
    }
}
