//! What writable layers take, counted when asked and never on a timer.
//!
//! The only number that no file system keeps for us everywhere is what lies in an upper directory:
//! project quotas need a mount option that a node rarely has, and `statfs` knows whole file systems.
//! A layer that is limited is a project, and asked for at no cost. The others are counted, under rules
//! that keep the cost small:
//!
//! - A layer that takes long to count is counted seldom: at most one part in [`SELDOM`] of the time
//!   goes into it. Small layers are counted at every call.
//! - Callers wait a moment for a long count, then get what was counted before; the count goes on
//!   behind and serves the next caller. Few counts go on at once.
//! - The layer of a container that has ended changes no more, and is counted once.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use berth_snapshots::Usage;

use crate::container::Container;
use crate::core::Core;
use crate::record::ContainerState;

/// One part of this many of the time goes into counting a layer.
const SELDOM: u32 = 50;
/// A layer that was counted within this is counted while the caller waits.
const QUICK: Duration = Duration::from_millis(2);
/// Long counts that go on at once, over all layers.
pub(crate) const COUNTS_AT_ONCE: usize = 4;

/// What is known of one layer.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    last: Option<Count>,
    counting: bool,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    usage: Usage,
    at: Instant,
    took: Duration,
    /// The container had ended before.
    settled: bool,
}

impl Counted {
    fn fresh(&self, now: Instant) -> Option<Usage> {
        let last = self.last?;
        let keep = last.took * SELDOM;
        (last.settled || now.saturating_duration_since(last.at) < keep).then_some(last.usage)
    }
}

/// Blocking: what the layer takes, waiting for a long count no longer than until `patient_until`.
pub(super) fn usage(
    core: &Arc<Core>,
    container: &Arc<Container>,
    patient_until: Instant,
) -> Option<Usage> {
    let quick = {
        let mut counted = container.gauge.writable.lock();
        if let Some(usage) = counted.fresh(Instant::now()) {
            return Some(usage);
        }
        if counted.counting {
            return counted.last.map(|last| last.usage);
        }
        counted.counting = true;
        counted.last.is_some_and(|last| last.took <= QUICK)
    };
    if quick {
        return count(core, container);
    }
    count_behind(core, container, patient_until)
}

fn count_behind(
    core: &Arc<Core>,
    container: &Arc<Container>,
    patient_until: Instant,
) -> Option<Usage> {
    let known = |container: &Container| {
        let counted = container.gauge.writable.lock();
        counted.last.map(|last| last.usage)
    };
    let Ok(permit) = Arc::clone(&core.counting).try_acquire_owned() else {
        container.gauge.writable.lock().counting = false;
        return known(container);
    };
    let (done, counted) = mpsc::sync_channel(1);
    let (core, behind) = (Arc::clone(core), Arc::clone(container));
    tokio::task::spawn_blocking(move || {
        let usage = count(&core, &behind);
        drop(permit);
        // Nobody listens once the caller's patience is over.
        let _ = done.try_send(usage);
    });
    let patience = patient_until.saturating_duration_since(Instant::now());
    match counted.recv_timeout(patience) {
        Ok(usage) => usage,
        Err(_) => known(container),
    }
}

fn count(core: &Core, container: &Container) -> Option<Usage> {
    let view = container.view();
    let settled = view.state == ContainerState::Exited;
    let begin = Instant::now();
    let mut usage = core.snapshots.usage(container.id().as_str());
    // Volumes that the image declares are written to as the layer is.
    if let Ok(total) = &mut usage {
        for volume in &view.volumes {
            if let Ok(more) = core.snapshots.usage(volume) {
                total.bytes += more.bytes;
                total.inodes += more.inodes;
            }
        }
    }
    let now = Instant::now();
    let mut counted = container.gauge.writable.lock();
    counted.counting = false;
    match usage {
        Ok(usage) => {
            counted.last = Some(Count {
                usage,
                at: now,
                took: now - begin,
                settled,
            });
            Some(usage)
        }
        Err(error) => {
            let error = crate::error::chain(&error);
            tracing::debug!(id = %container.id(), error, "writable layer not counted");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(age: Duration, took: Duration, settled: bool, now: Instant) -> Counted {
        Counted {
            last: Some(Count {
                usage: Usage::default(),
                at: now.checked_sub(age).unwrap(),
                took,
                settled,
            }),
            counting: false,
        }
    }

    #[test]
    fn what_takes_long_is_counted_seldom_and_what_is_settled_once() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let tiny = Duration::from_micros(50);
        assert!(
            counted(49 * second, second, false, now)
                .fresh(now)
                .is_some()
        );
        assert!(
            counted(51 * second, second, false, now)
                .fresh(now)
                .is_none()
        );
        assert!(counted(second, tiny, false, now).fresh(now).is_none());
        assert!(counted(3600 * second, tiny, true, now).fresh(now).is_some());
        assert!(Counted::default().fresh(now).is_none());
    }
}
