//! Health checks of a run: one at a time, the next so long after the end of the last.
//!
//! ```text
//!  run begins, or is taken over ─▶ waiting ──due──▶ checking ──outcome──▶ waiting
//!                                     ▲                 │
//!                     unpause ────────┘     pause, end of the run ──▶ none
//! ```

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use berth_lifecycle::record::now;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Task;
use crate::event::Event;
use crate::health::{Checked, Health, HealthStatus, Plan, probe};

/// Of a container that is not checked there is neither a next time nor a check.
#[derive(Default)]
pub(super) struct Checks {
    plan: Option<Plan>,
    next: Option<Instant>,
    making: Option<JoinHandle<Checked>>,
}

impl Checks {
    pub(super) fn due(&self) -> Option<Instant> {
        self.next
    }

    fn stop(&mut self) {
        self.next = None;
        if let Some(making) = self.making.take() {
            making.abort();
        }
    }
}

/// A task that has nothing to do for ever resolves never.
pub(super) async fn checked(checks: &mut Checks) -> Checked {
    match &mut checks.making {
        Some(making) => match making.await {
            Ok(checked) => checked,
            // The runtime is going down, and this task with it.
            Err(_) => pending().await,
        },
        None => pending().await,
    }
}

impl Task {
    /// For a run that begins: whatever was before, it is starting now.
    pub(super) fn begin_checks(&mut self) {
        let image = self.house.images.get(&self.record.image_id.to_string());
        let shell = image.map(|image| image.config.shell().to_vec());
        let plan = Plan::of(&self.record.config, &shell.unwrap_or_default());
        let former = self.record.health.clone();
        self.change().health = plan.is_some().then(|| Health::at_start(former));
        self.checks.plan = plan;
        self.await_check();
    }

    /// For a run that goes on, after a pause or under another daemon.
    pub(super) fn go_on_checking(&mut self) {
        let health = self.record.health.clone();
        self.begin_checks();
        if health.is_some() && self.checks.plan.is_some() {
            self.change().health = health;
            self.await_check();
        }
    }

    pub(super) fn stop_checks(&mut self) {
        self.checks.stop();
    }

    /// What does not run is not healthy, as Docker tells it.
    pub(super) fn end_checks(&mut self) {
        self.checks.stop();
        if let Some(health) = &mut self.change().health {
            health.status = HealthStatus::Unhealthy;
        }
    }

    fn await_check(&mut self) {
        self.checks.stop();
        if let (Some(plan), Some(health)) = (&self.checks.plan, &self.record.health) {
            let age = u64::try_from(now() - self.record.started_at).unwrap_or(0);
            let wait = health.wait(plan, Duration::from_nanos(age));
            // A time too far away to be told is as good as none.
            self.checks.next = Instant::now().checked_add(wait);
        }
    }

    pub(super) fn make_check(&mut self) {
        self.checks.next = None;
        if let (Some(run), Some(plan)) = (&self.run, &self.checks.plan) {
            let check = probe::make(
                Arc::clone(&self.house),
                Arc::clone(&self.record),
                Arc::clone(&run.container),
                plan.clone(),
            );
            self.checks.making = Some(tokio::spawn(check));
        }
    }

    pub(super) fn note_check(&mut self, checked: Checked) {
        self.checks.making = None;
        let (started, plan) = (self.record.started_at, self.checks.plan.clone());
        let (Some(plan), Some(health)) = (plan, &mut self.change().health) else {
            return;
        };
        let before = health.status;
        health.note(checked, &plan, started);
        let after = health.status;
        self.persist();
        if before != after {
            let action = format!("health_status: {}", after.name());
            self.house.tell(Event::of(&self.record, action));
        }
        self.await_check();
    }
}
