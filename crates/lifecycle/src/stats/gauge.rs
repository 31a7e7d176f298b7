//! What is kept of earlier samples. It belongs to its container or pod and goes with it.

use std::time::Duration;

use parking_lot::Mutex;

use super::wall_clock;
use super::writable::Counted;
use crate::record::Nanos;

/// Readings closer together than this say little about a rate, and two callers who take turns
/// would only ever see each other's.
const CLOSEST: Duration = Duration::from_millis(100);
/// Over how long the load average decays, as monitoring has always had it.
const LOAD_WINDOW: f64 = 10.0;

#[derive(Default)]
pub(crate) struct Gauge {
    window: Mutex<Window>,
    load: Mutex<Option<(Nanos, f64)>>,
    pub(super) writable: Mutex<Counted>,
}

#[derive(Default)]
struct Window {
    last: Nanos,
    newest: Option<Reading>,
    older: Option<Reading>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    at: Nanos,
    usage: u64,
}

impl Gauge {
    /// The time of a sample: the present, but later than any before it.
    pub(super) fn instant(&self) -> Nanos {
        let mut window = self.window.lock();
        window.last = wall_clock().max(window.last.saturating_add(1));
        window.last
    }

    /// Nanoseconds of CPU per second since the last reading that is not too close, or since
    /// `began`, when nothing was used yet.
    pub(super) fn rate(&self, at: Nanos, usage: u64, began: Nanos) -> Option<u64> {
        self.window.lock().rate(Reading { at, usage }, began)
    }

    /// The smoothed number of tasks that run, in thousandths.
    pub(super) fn load(&self, at: Nanos, running: u64) -> u64 {
        let mut load = self.load.lock();
        #[expect(clippy::cast_precision_loss, reason = "numbers of tasks are small")]
        let now = running as f64;
        let smoothed = match *load {
            Some((then, before)) => {
                let elapsed = seconds(at.saturating_sub(then));
                let kept = (-elapsed / LOAD_WINDOW).exp();
                before * kept + now * (1.0 - kept)
            }
            None => now,
        };
        *load = Some((at, smoothed));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between zero and a thousand times the number of tasks"
        )]
        {
            (smoothed * 1000.0) as u64
        }
    }
}

fn seconds(nanos: Nanos) -> f64 {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)).as_secs_f64()
}

impl Window {
    fn rate(&mut self, now: Reading, began: Nanos) -> Option<u64> {
        let since = |then: &Reading| now.at.saturating_sub(then.at);
        let closest = CLOSEST.as_nanos() as Nanos;
        let start = Reading {
            at: began,
            usage: 0,
        };
        let base = self
            .newest
            .filter(|newest| since(newest) >= closest)
            .or(self.older)
            .unwrap_or(start);
        if self.newest.is_none_or(|newest| since(&newest) >= closest) {
            self.older = self.newest.replace(now);
        }
        let elapsed = u128::try_from(since(&base)).ok().filter(|t| *t > 0)?;
        let spent = u128::from(now.usage.saturating_sub(base.usage));
        u64::try_from(spent * 1_000_000_000 / elapsed).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn reading(seconds: Nanos, usage: u64) -> Reading {
        Reading { at: seconds, usage }
    }

    #[test]
    fn the_first_rate_is_that_since_the_start() {
        let mut window = Window::default();
        let rate = window.rate(reading(11 * SECOND, 5_000_000_000), SECOND);
        assert_eq!(rate, Some(500_000_000));
    }

    #[test]
    fn a_rate_is_over_the_time_since_the_last_reading() {
        let mut window = Window::default();
        window.rate(reading(10 * SECOND, 0), 0);
        let rate = window.rate(reading(12 * SECOND, 3_000_000_000), 0);
        assert_eq!(rate, Some(1_500_000_000));
    }

    #[test]
    fn callers_who_take_turns_do_not_blind_each_other() {
        let mut window = Window::default();
        window.rate(reading(10 * SECOND, 0), 0);
        window.rate(reading(20 * SECOND, 10_000_000_000), 0);
        // One microsecond later, in which nothing was accounted.
        let rate = window.rate(reading(20 * SECOND + 1000, 10_000_000_000), 0);
        let rate = rate.unwrap();
        assert!((999_000_000..=1_000_000_000).contains(&rate), "{rate}");
        assert_eq!(window.newest, Some(reading(20 * SECOND, 10_000_000_000)));
    }

    #[test]
    fn a_clock_that_was_set_back_gives_no_rate_and_no_earlier_sample() {
        let mut window = Window::default();
        assert_eq!(window.rate(reading(SECOND, 7), 2 * SECOND), None);
        let gauge = Gauge::default();
        let ahead = gauge.instant() + 60 * SECOND;
        gauge.window.lock().last = ahead;
        assert_eq!(gauge.instant(), ahead + 1);
    }

    #[test]
    fn load_follows_the_number_of_running_tasks() {
        let gauge = Gauge::default();
        assert_eq!(gauge.load(SECOND, 2), 2000);
        let decayed = gauge.load(11 * SECOND, 0);
        assert!((730..=740).contains(&decayed), "{decayed}");
        assert!(gauge.load(200 * SECOND, 4) > 3990);
    }
}
