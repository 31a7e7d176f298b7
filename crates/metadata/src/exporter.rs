//! The thread that writes the store's own exports.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::commit::{Core, Order};
use crate::exports::Exports;
use crate::store::chain;
use crate::{Error, export};

/// How often it looks whether there is something to do.
const LOOK: Duration = Duration::from_secs(15);
/// Bytes of journal that are worth an export before its time.
const JOURNAL_LIMIT: u64 = 8 << 20;

/// Ends with its value.
pub(crate) struct Exporter {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    pub(crate) fn start(
        core: Arc<Core>,
        exports: Exports,
        schema: u32,
        orders: Sender<Order>,
        every: Duration,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let task = Task {
            core,
            exports,
            schema,
            orders,
        };
        let thread = std::thread::Builder::new()
            .name("metadata-export".to_owned())
            .spawn(move || task.run(&stopped, every))?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the metadata export thread panicked");
        }
    }
}

struct Task {
    core: Arc<Core>,
    exports: Exports,
    schema: u32,
    orders: Sender<Order>,
}

impl Task {
    fn run(self, stopped: &mpsc::Receiver<()>, every: Duration) {
        let mut exported = self.newest();
        let mut last = Instant::now();
        while stopped.recv_timeout(LOOK.min(every)) == Err(RecvTimeoutError::Timeout) {
            let sequence = self.core.sequence.load(Ordering::Acquire);
            let due = last.elapsed() >= every
                || self.core.journaled.load(Ordering::Relaxed) > JOURNAL_LIMIT;
            if sequence == exported || !due || self.core.check().is_err() {
                continue;
            }
            last = Instant::now();
            self.core.journaled.store(0, Ordering::Relaxed);
            let through = match self.export() {
                Ok(oldest) => {
                    exported = sequence;
                    oldest
                }
                // Room is worth more than the way back: the engine's file has everything.
                Err(error) if error.is_no_space() => {
                    tracing::warn!("no space for an export of the metadata");
                    sequence
                }
                Err(error) => {
                    tracing::error!(error = %chain(&error), "the metadata cannot be exported");
                    continue;
                }
            };
            // A store that closes needs no trimming.
            let _ = self.orders.send(Order::Exported(through));
        }
    }

    /// Answers with the oldest sequence from which the store can be rebuilt.
    fn export(&self) -> Result<u64, Error> {
        let core = &self.core;
        core.space
            .check_addition(core.journaled.load(Ordering::Relaxed))?;
        self.exports.add(|file| {
            let sequence = || core.sequence.load(Ordering::Acquire);
            export::write(&core.engine, &core.side_files, self.schema, sequence, file)
        })
    }

    fn newest(&self) -> u64 {
        let kept = self.exports.list().unwrap_or_default();
        kept.first().map_or(0, |(sequence, _)| *sequence)
    }
}
