//! What the rules say, apart from doing it.
//!
//! Rules are separated by semicolons: `<point>=<action>[@<n>|%<percent>]`.
//!
//! | part | is |
//! |---|---|
//! | point | a name, or the beginning of names with `*` at its end |
//! | action | `kill` (SIGKILL to itself), `panic`, `error`, `delay:<ms>`, `note` (a line on stderr) |
//! | `@n` | only the nth time that a point of the rule is passed, from 1 |
//! | `%p` | each time with this chance, which follows from the seed |
//! | neither | every time |

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Kill,
    Panic,
    Error,
    Delay(Duration),
    Note,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    Nth(u64),
    Percent(u64),
}

#[derive(Debug)]
struct Rule {
    point: String,
    action: Action,
    when: When,
    passed: AtomicU64,
}

/// All rules of a process. The first one that applies is the one that counts.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    rules: Vec<Rule>,
    seed: u64,
}

/// A rule that means nothing.
#[derive(Debug, thiserror::Error)]
#[error("fault rule {rule:?}: {problem}")]
pub(crate) struct BadRule {
    rule: String,
    problem: &'static str,
}

impl Plan {
    pub fn parse(text: &str, seed: u64) -> Result<Self, BadRule> {
        let rules = text
            .split(';')
            .map(str::trim)
            .filter(|rule| !rule.is_empty());
        let rules: Result<_, _> = rules.map(Rule::parse).collect();
        Ok(Self {
            rules: rules?,
            seed,
        })
    }

    /// What is to happen now that `point` is passed.
    pub fn decide(&self, point: &str) -> Option<Action> {
        self.rules
            .iter()
            .filter(|rule| rule.is_for(point))
            .find(|rule| rule.applies(self.seed))
            .map(|rule| rule.action)
    }
}

impl Rule {
    fn parse(text: &str) -> Result<Self, BadRule> {
        let bad = |problem| BadRule {
            rule: text.to_owned(),
            problem,
        };
        let (point, rest) = text.split_once('=').ok_or(bad("it has no '='"))?;
        let number = |text: &str| text.parse::<u64>().ok();
        let (action, when) = if let Some((action, nth)) = rest.split_once('@') {
            let nth = number(nth).filter(|nth| *nth > 0);
            (action, When::Nth(nth.ok_or(bad("no count after '@'"))?))
        } else if let Some((action, percent)) = rest.split_once('%') {
            let percent = number(percent).filter(|percent| *percent <= 100);
            (
                action,
                When::Percent(percent.ok_or(bad("no percentage after '%'"))?),
            )
        } else {
            (rest, When::Always)
        };
        let action = match action.split_once(':') {
            Some(("delay", ms)) => number(ms).map(Duration::from_millis).map(Action::Delay),
            None if action == "kill" => Some(Action::Kill),
            None if action == "panic" => Some(Action::Panic),
            None if action == "error" => Some(Action::Error),
            None if action == "note" => Some(Action::Note),
            _ => None,
        };
        Ok(Self {
            point: point.to_owned(),
            action: action.ok_or(bad("kill, panic, error, delay:<ms> or note is expected"))?,
            when,
            passed: AtomicU64::new(0),
        })
    }

    fn is_for(&self, point: &str) -> bool {
        match self.point.strip_suffix('*') {
            Some(beginning) => point.starts_with(beginning),
            None => point == self.point,
        }
    }

    fn applies(&self, seed: u64) -> bool {
        let count = self.passed.fetch_add(1, Ordering::Relaxed) + 1;
        match self.when {
            When::Always => true,
            When::Nth(nth) => count == nth,
            When::Percent(percent) => mixed(seed, count) % 100 < percent,
        }
    }
}

/// SplitMix64: every count of a seed has its number, whatever came between.
fn mixed(seed: u64, count: u64) -> u64 {
    let mut state = seed.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_passing_of_a_point_is_the_one_that_is_hit() {
        let plan = Plan::parse("pod.run.after-network=kill@2", 0).unwrap();
        assert_eq!(plan.decide("pod.run.after-network"), None);
        assert_eq!(plan.decide("pod.run.after-cgroup"), None);
        assert_eq!(plan.decide("pod.run.after-network"), Some(Action::Kill));
        assert_eq!(plan.decide("pod.run.after-network"), None);
    }

    #[test]
    fn a_beginning_counts_all_its_points_and_earlier_rules_go_first() {
        let plan = Plan::parse("a.x=note; a.*=error@2; *=delay:20", 0).unwrap();
        assert_eq!(plan.decide("a.x"), Some(Action::Note));
        assert_eq!(
            plan.decide("a.y"),
            Some(Action::Delay(Duration::from_millis(20)))
        );
        assert_eq!(plan.decide("a.z"), Some(Action::Error));
        assert_eq!(
            plan.decide("b"),
            Some(Action::Delay(Duration::from_millis(20)))
        );
    }

    #[test]
    fn chance_follows_from_the_seed() {
        let hits = |seed| {
            let plan = Plan::parse("*=error%20", seed).unwrap();
            (0..1000)
                .map(|_| plan.decide("x").is_some())
                .collect::<Vec<_>>()
        };
        assert_eq!(hits(7), hits(7));
        assert_ne!(hits(7), hits(8));
        let count = hits(7).into_iter().filter(|hit| *hit).count();
        assert!((100..300).contains(&count), "{count}");
    }

    #[test]
    fn rules_that_mean_nothing_are_refused() {
        for bad in [
            "x",
            "x=",
            "x=die",
            "x=kill@",
            "x=kill@0",
            "x=error%101",
            "x=delay",
            "x=delay:a",
        ] {
            assert!(Plan::parse(bad, 0).is_err(), "{bad}");
        }
        assert!(Plan::parse(" ; ", 0).unwrap().decide("x").is_none());
    }
}
