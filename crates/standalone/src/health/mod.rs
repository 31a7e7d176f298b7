//! Whether a container works, as its health checks tell.
//!
//! ```text
//!              a success                      retries failures in a row
//!  Starting ──────────────▶ Healthy ⇄ ─────────────────────────────────▶ Unhealthy
//!      └──── retries failures after the start period ───────────────────────▲
//! ```
//!
//! Deciding is here and pure; a check is made in [`probe`], and the container's task says when.

mod plan;
pub(crate) mod probe;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(crate) use plan::{Plan, check, merged};

use crate::record::Nanos;

/// Checks that can be asked about.
const REMEMBERED: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    Starting,
    Healthy,
    Unhealthy,
}

impl HealthStatus {
    /// As the Engine API calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One check that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    pub start: Nanos,
    pub end: Nanos,
    /// -1 for one that could not be made, or took too long.
    pub exit_code: i32,
    pub output: String,
}

/// What the checks of a container have told so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub status: HealthStatus,
    /// Failures since the last success.
    pub failing_streak: i64,
    /// The last ones, oldest first.
    pub log: Vec<Checked>,
}

impl Health {
    /// That of a container that starts; what is told of its former runs is kept.
    pub fn at_start(former: Option<Self>) -> Self {
        Self {
            status: HealthStatus::Starting,
            failing_streak: 0,
            log: former.map_or_else(Vec::new, |former| former.log),
        }
    }

    /// Takes a check into account, of a run that began at `started`.
    pub(crate) fn note(&mut self, checked: Checked, plan: &Plan, started: Nanos) {
        let age = u64::try_from(checked.start - started).unwrap_or(0);
        let may_fail =
            self.status == HealthStatus::Starting && Duration::from_nanos(age) < plan.start_period;
        if checked.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else if !may_fail {
            self.failing_streak += 1;
            if self.failing_streak >= plan.retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        self.log.push(checked);
        let surplus = self.log.len().saturating_sub(REMEMBERED);
        self.log.drain(..surplus);
    }

    /// How long to wait for the next check, `age` after the start.
    pub(crate) fn wait(&self, plan: &Plan, age: Duration) -> Duration {
        let begins = self.status == HealthStatus::Starting && age < plan.start_period;
        match begins {
            true => plan.start_interval.min(plan.interval),
            false => plan.interval,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn plan(start_period: u64) -> Plan {
        Plan {
            command: vec!["true".to_owned()],
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            start_period: Duration::from_secs(start_period),
            start_interval: Duration::from_secs(5),
            retries: 2,
        }
    }

    fn checked(at: i64, exit_code: i32) -> Checked {
        Checked {
            start: at * SECOND,
            end: at * SECOND,
            exit_code,
            output: String::new(),
        }
    }

    /// Status and streak after checks at these seconds after the start.
    fn after(plan: &Plan, checks: &[(i64, i32)]) -> (HealthStatus, i64) {
        let mut health = Health::at_start(None);
        for (at, code) in checks {
            health.note(checked(100 + at, *code), plan, 100 * SECOND);
        }
        (health.status, health.failing_streak)
    }

    #[test]
    fn so_many_failures_in_a_row_are_unhealthy_and_one_success_healthy() {
        use HealthStatus::{Healthy, Starting, Unhealthy};
        let plan = plan(0);
        assert_eq!(after(&plan, &[(1, 1)]), (Starting, 1));
        assert_eq!(after(&plan, &[(1, 1), (2, 1)]), (Unhealthy, 2));
        assert_eq!(after(&plan, &[(1, 1), (2, 0)]), (Healthy, 0));
        assert_eq!(after(&plan, &[(1, 0), (2, -1)]), (Healthy, 1));
        assert_eq!(after(&plan, &[(1, 0), (2, 1), (3, -1)]), (Unhealthy, 2));
        assert_eq!(after(&plan, &[(1, 1), (2, 1), (3, 0)]), (Healthy, 0));
    }

    #[test]
    fn failures_while_it_starts_do_not_count_until_it_once_worked() {
        use HealthStatus::{Healthy, Starting, Unhealthy};
        let plan = plan(10);
        assert_eq!(after(&plan, &[(1, 1), (2, 1), (3, 1)]), (Starting, 0));
        assert_eq!(after(&plan, &[(1, 1), (10, 1), (11, 1)]), (Unhealthy, 2));
        assert_eq!(after(&plan, &[(1, 0), (2, 1)]), (Healthy, 1));
        assert_eq!(after(&plan, &[(1, 0), (2, 1), (3, 1)]), (Unhealthy, 2));
    }

    #[test]
    fn only_the_last_checks_are_remembered() {
        let plan = plan(0);
        let mut health = Health::at_start(None);
        for at in 0..9 {
            health.note(checked(at, 0), &plan, 0);
        }
        let starts: Vec<i64> = health.log.iter().map(|one| one.start / SECOND).collect();
        assert_eq!(starts, [4, 5, 6, 7, 8]);
        let again = Health::at_start(Some(health));
        assert_eq!(again.status, HealthStatus::Starting);
        assert_eq!(again.log.len(), REMEMBERED);
    }

    #[test]
    fn checks_come_sooner_while_it_starts() {
        let (plan, starting) = (plan(10), Health::at_start(None));
        let seconds = |health: &Health, age| health.wait(&plan, Duration::from_secs(age)).as_secs();
        assert_eq!(seconds(&starting, 0), 5);
        assert_eq!(seconds(&starting, 10), 30);
        let mut healthy = starting.clone();
        healthy.status = HealthStatus::Healthy;
        assert_eq!(seconds(&healthy, 1), 30);
    }
}
