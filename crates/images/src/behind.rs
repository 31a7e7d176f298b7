//! Work that is done soon, without anybody waiting, one turn at a time.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Mutex, MutexGuard};

/// Requests that come before a turn begins are one; those during it may have come too late for it.
#[derive(Default)]
pub(crate) struct Behind {
    is_wanted: AtomicBool,
    turn: Mutex<()>,
}

impl Behind {
    /// Asks for a turn. `false` if one is asked for already that has not begun.
    pub fn want(&self) -> bool {
        !self.is_wanted.swap(true, Ordering::AcqRel)
    }

    /// Begins a turn, when the one before has ended.
    pub async fn begin(&self) -> MutexGuard<'_, ()> {
        let turn = self.turn.lock().await;
        self.is_wanted.store(false, Ordering::Release);
        turn
    }
}
