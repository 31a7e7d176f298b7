//! Signals and the end that they lead to.

use std::sync::Arc;
use std::time::Duration;

use berth_lifecycle::chain;
use tokio::time::Instant;

use super::{SIGKILL, StopWish, Task};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::mailbox::Reply;
use crate::record::Phase;

/// Where neither the request nor the container says how long its processes may take to stop.
const GRACE: Duration = Duration::from_secs(10);
/// More than any process is waited for, and little enough to be added to a time.
const LONGEST_GRACE: Duration = Duration::from_secs(365 * 24 * 3600);

impl Task {
    pub(super) async fn stop(&mut self, wish: &StopWish, reply: Reply) {
        if self.record.phase == Phase::Restarting && self.run.is_none() {
            self.restart_at = None;
            let record = self.change();
            (record.phase, record.stopped_by_hand) = (Phase::Exited, true);
            self.persist();
            let _ = reply.send(Ok(()));
            return;
        }
        if self.run.is_none() {
            let _ = reply.send(Err(Error::NotModified(self.record.id.clone())));
            return;
        }
        self.change().stopped_by_hand = true;
        match self.begin_stop(wish).await {
            Ok(()) => self.after.stopped.push(reply),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    pub(super) async fn restart(&mut self, wish: &StopWish, reply: Reply) {
        self.restart_at = None;
        if self.run.is_none() {
            let outcome = self.start().await;
            if outcome.is_ok() {
                self.house.tell(Event::of(&self.record, "restart"));
            }
            let _ = reply.send(outcome);
            return;
        }
        match self.begin_stop(wish).await {
            Ok(()) => self.after.restarted.push(reply),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    pub(super) async fn begin_stop(&mut self, wish: &StopWish) -> Result<()> {
        let Some(run) = &self.run else { return Ok(()) };
        let container = Arc::clone(&run.container);
        let signal = match &wish.signal {
            Some(name) => signal(name)?,
            None => signal(&container.view().stop_signal)?,
        };
        let seconds = wish.seconds.or(self.record.config.stop_timeout);
        let grace = match seconds {
            None => GRACE,
            Some(seconds) => u64::try_from(seconds).map_or(LONGEST_GRACE, Duration::from_secs),
        };
        self.house
            .tell(Event::of(&self.record, "kill").with("signal", signal));
        if grace.is_zero() || signal == SIGKILL {
            self.end_now(&container).await;
            return Ok(());
        }
        let kill_at = Instant::now() + grace.min(LONGEST_GRACE);
        self.after.kill_at = Some(self.after.kill_at.map_or(kill_at, |at| at.min(kill_at)));
        if self.record.phase == Phase::Paused {
            // Nothing that is frozen sees a signal.
            self.thaw(&container).await;
        }
        if let Err(error) = container.signal(signal).await {
            tracing::warn!(id = %self.record.id, error = chain(&error), "stop signal not sent");
        }
        Ok(())
    }

    pub(super) async fn overdue(&mut self) {
        self.after.kill_at = None;
        if let Some(run) = &self.run {
            let container = Arc::clone(&run.container);
            self.house
                .tell(Event::of(&self.record, "kill").with("signal", SIGKILL));
            self.end_now(&container).await;
        }
    }

    /// Kills what runs; the end is seen as any other.
    pub(super) async fn end_now(&mut self, container: &Arc<berth_lifecycle::Container>) {
        if self.record.phase == Phase::Paused {
            self.thaw(container).await;
        }
        let container = Arc::clone(container);
        tokio::spawn(async move {
            if let Err(error) = container.stop(Duration::ZERO).await {
                tracing::warn!(id = %container.id(), error = chain(&error), "not killed");
            }
        });
    }

    pub(super) async fn thaw(&mut self, container: &berth_lifecycle::Container) {
        match container.resume().await {
            Ok(()) => {
                self.change().phase = Phase::Running;
                self.go_on_checking();
            }
            Err(error) => {
                tracing::warn!(id = %self.record.id, error = chain(&error), "not thawed");
            }
        }
    }

    pub(super) async fn kill(&mut self, signal: u32) -> Result<()> {
        let Some(run) = &self.run else {
            let id = &self.record.id;
            return Err(Error::Conflict(format!(
                "cannot kill container: {id}: container {id} is not running"
            )));
        };
        let container = Arc::clone(&run.container);
        if signal == SIGKILL {
            self.change().stopped_by_hand = true;
            if self.record.phase == Phase::Paused {
                self.thaw(&container).await;
            }
        }
        container.signal(signal).await?;
        self.house
            .tell(Event::of(&self.record, "kill").with("signal", signal));
        Ok(())
    }

    pub(super) async fn answer_stops(&mut self) {
        let stopped = std::mem::take(&mut self.after.stopped);
        let restarted = std::mem::take(&mut self.after.restarted);
        if !stopped.is_empty() || !restarted.is_empty() {
            self.house.tell(Event::of(&self.record, "stop"));
        }
        for reply in stopped {
            let _ = reply.send(Ok(()));
        }
        if !restarted.is_empty() {
            let outcome = self.start().await;
            let told = outcome.as_ref().err().map(ToString::to_string);
            if told.is_none() {
                self.house.tell(Event::of(&self.record, "restart"));
            }
            for reply in restarted {
                let outcome = told
                    .clone()
                    .map_or(Ok(()), |text| Err(Error::Conflict(text)));
                let _ = reply.send(outcome);
            }
        }
        if self.record.phase == Phase::Exited {
            self.remove_if_wanted();
        }
    }
}

/// A name with or without `SIG`, or a number.
pub(crate) fn signal(name: &str) -> Result<u32> {
    let number = match name.parse::<u32>() {
        Ok(number) if (1..=64).contains(&number) => Some(number),
        Ok(_) => None,
        Err(_) => {
            let upper = name.to_uppercase();
            let full = match upper.starts_with("SIG") {
                true => upper,
                false => format!("SIG{upper}"),
            };
            berth_lifecycle::signal::parse(&full).and_then(|number| u32::try_from(number).ok())
        }
    };
    number.ok_or_else(|| Error::invalid(format!("invalid signal: {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, number) in [("KILL", 9), ("SIGTERM", 15), ("hup", 1), ("10", 10)] {
            assert_eq!(signal(name).unwrap(), number, "{name}");
        }
        for name in ["", "0", "65", "SIGNOTHING", "-9"] {
            assert!(signal(name).is_err(), "{name}");
        }
    }
}
