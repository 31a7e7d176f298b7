//! How fast a round may read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Longest sleep before it is looked whether the round is to end.
const NAP: Duration = Duration::from_millis(200);

/// Bytes per second; 0 does not hold back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace(pub u64);

pub(super) struct Pacer<'a> {
    pace: Pace,
    since: Instant,
    taken: u64,
    stop: &'a AtomicBool,
}

impl<'a> Pacer<'a> {
    pub(super) fn new(pace: Pace, stop: &'a AtomicBool) -> Self {
        Self {
            pace,
            since: Instant::now(),
            taken: 0,
            stop,
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits until so many bytes more were due.
    pub(super) fn took(&mut self, bytes: u64) {
        self.taken += bytes;
        while !self.is_stopped() {
            let Some(early) = self.early(self.since.elapsed()) else {
                return;
            };
            thread::sleep(early.min(NAP));
        }
    }

    /// How far ahead of its time a round is that has gone on for `elapsed`.
    fn early(&mut self, elapsed: Duration) -> Option<Duration> {
        if self.pace.0 == 0 {
            return None;
        }
        let due = Duration::from_secs_f64(self.taken as f64 / self.pace.0 as f64);
        // A disk that was slow is not made up for by haste.
        if elapsed > due + Duration::from_secs(1) {
            (self.since, self.taken) = (Instant::now(), 0);
            return None;
        }
        due.checked_sub(elapsed).filter(|early| !early.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_is_held_back_and_lost_time_is_not_made_up_for() {
        let stop = AtomicBool::new(false);
        let mut pacer = Pacer::new(Pace(1000), &stop);
        let ms = Duration::from_millis;
        pacer.taken = 500;
        assert_eq!(pacer.early(ms(200)), Some(ms(300)));
        assert_eq!(pacer.early(ms(600)), None);
        assert_eq!(pacer.early(ms(60_000)), None);
        assert_eq!(pacer.taken, 0, "what comes now counts from now");
        pacer.pace = Pace(0);
        pacer.taken = u64::MAX;
        assert_eq!(pacer.early(ms(1)), None);
    }

    #[test]
    fn a_round_that_is_to_end_waits_no_longer() {
        let stop = AtomicBool::new(true);
        Pacer::new(Pace(1), &stop).took(1 << 40);
    }
}
