//! The commit thread: the only writer.
//!
//! It waits for nothing but work. What arrives while one group is being synced forms the next, so
//! that the groups grow with the load and a lone batch waits for one sync only. Lazy batches are
//! applied at once and ride on the next group's sync, or get their own after [`LAZY_SYNC`].
//!
//! A group goes to the journal, which is synced, and then to the engine, which is not: the engine's
//! file is synced once in [`CHECKPOINT`] bytes of journal, for an export and at the end. Until then
//! the journal keeps what the engine may lose.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::channel::oneshot;

use crate::Error;
use crate::batch::Change;
use crate::engine::{Engine, Write, Writes};
use crate::journal::Journal;
use crate::meters::Meters;
use crate::schema::{SET_ASIDE, STORE};
use crate::space::Space;
use crate::value::{INLINE_LIMIT, SideFiles, inline, side_file_of};

/// How long a lazy batch may stay unsynced.
const LAZY_SYNC: Duration = Duration::from_millis(200);
/// A group does not grow beyond this many changes, so that its latency stays bounded.
const GROUP_LIMIT: usize = 4096;

/// Bytes of journal after which the engine's file is synced: what a crash leaves to apply again.
const CHECKPOINT: u64 = 4 << 20;

const SEQUENCE: &[u8] = b"sequence";

type Outcome = Result<(), Arc<Error>>;
pub(crate) type OnFatal = Box<dyn Fn(&Error) + Send + Sync>;

/// The wait for a batch to be durable. Dropping it does not undo the batch.
#[must_use = "the batch is durable only when this has been awaited"]
pub struct Commit(State);

enum State {
    Waiting(oneshot::Receiver<Outcome>),
    Refused(Error),
    Done,
}

impl Commit {
    pub(crate) fn waiting(outcome: oneshot::Receiver<Outcome>) -> Self {
        Self(State::Waiting(outcome))
    }

    pub(crate) fn refused(error: Error) -> Self {
        Self(State::Refused(error))
    }

    /// Blocks until the batch is durable. Not for async tasks: they await the value.
    ///
    /// # Errors
    /// [`Error::NoSpace`] through [`Error::is_no_space`]: nothing was written and the store is
    /// well. Anything else: see [`Error::Commit`] and [`Error::Poisoned`].
    pub fn wait(self) -> Result<(), Error> {
        futures::executor::block_on(CommitFuture(self.0))
    }
}

impl IntoFuture for Commit {
    type Output = Result<(), Error>;
    type IntoFuture = CommitFuture;

    fn into_future(self) -> CommitFuture {
        CommitFuture(self.0)
    }
}

/// The future of a [`Commit`].
pub struct CommitFuture(State);

impl Future for CommitFuture {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Waiting(outcome) => Pin::new(outcome).poll(cx).map(|outcome| match outcome {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(Error::Commit(error)),
                Err(oneshot::Canceled) => Err(Error::Closed),
            }),
            State::Refused(_) => match std::mem::replace(&mut self.0, State::Done) {
                State::Refused(error) => Poll::Ready(Err(error)),
                State::Waiting(_) | State::Done => Poll::Ready(Err(Error::Closed)),
            },
            State::Done => Poll::Ready(Err(Error::Closed)),
        }
    }
}

/// What the commit thread is asked to do.
pub(crate) enum Order {
    Commit(Request),
    /// An export holds everything up to this sequence: the journal may forget it.
    Exported(u64),
}

/// One caller's batch on its way to the commit thread.
pub(crate) struct Request {
    pub changes: Vec<Change>,
    /// Absent for lazy batches.
    pub done: Option<oneshot::Sender<Outcome>>,
}

/// What the commit thread shares with readers.
pub(crate) struct Core {
    pub engine: Engine,
    pub side_files: SideFiles,
    /// Of the last group that was applied.
    pub sequence: AtomicU64,
    /// Bytes of journal that came since the last export, about.
    pub journaled: AtomicU64,
    pub poison: OnceLock<Arc<Error>>,
    pub on_fatal: Option<OnFatal>,
    pub space: Space,
    pub meters: Meters,
}

impl Core {
    /// The first fatal error is kept and reported; the later ones follow from it.
    pub(crate) fn poison(&self, error: Error) -> Arc<Error> {
        let error = Arc::new(error);
        if self.poison.set(Arc::clone(&error)).is_ok() {
            tracing::error!(error = %crate::store::chain(&error), "the metadata store stops");
            if let Some(report) = &self.on_fatal {
                report(&error);
            }
        }
        error
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.poison.get() {
            None => Ok(()),
            Some(error) => Err(Error::Poisoned(Arc::clone(error))),
        }
    }
}

/// The only writer: what it alone holds.
pub(crate) struct Writer {
    pub core: Arc<Core>,
    pub journal: Journal,
    /// Everything up to here is in the engine's file on disk.
    pub checkpoint: u64,
    /// [`Journal::appended`] at the last checkpoint.
    pub appended: u64,
    /// Side files without a record. Until the records that replaced theirs are synced, a crash may
    /// bring their own back.
    pub obsolete: Vec<String>,
}

impl Writer {
    /// Runs until every sender is gone; then what is unsynced is synced.
    pub(crate) fn run(mut self, orders: &Receiver<Order>) {
        let mut unsynced: Option<Instant> = None;
        loop {
            let first = match unsynced {
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => {
                    orders.recv_timeout(deadline.saturating_duration_since(Instant::now()))
                }
            };
            match first {
                Ok(first) => {
                    let (group, exported) = gather(first, orders);
                    if !group.is_empty() {
                        unsynced = match self.commit(group) {
                            Extent::Synced => None,
                            Extent::Applied => {
                                unsynced.or_else(|| Some(Instant::now() + LAZY_SYNC))
                            }
                            Extent::Nothing => unsynced,
                        };
                    }
                    self.tidy(exported);
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.sync_lazily();
                    unsynced = None;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.close();
                    return;
                }
            }
        }
    }

    fn sync_lazily(&mut self) {
        if self.core.check().is_err() {
            return;
        }
        match self.journal.sync() {
            Ok(()) => self.forget_obsolete(),
            Err(error) => {
                self.core.poison(error);
            }
        }
    }

    /// The next start finds everything in the engine.
    fn close(&mut self) {
        self.sync_lazily();
        if self.core.check().is_ok() {
            self.sync_engine();
        }
    }

    /// Syncs the engine's file where enough has gathered, and lets go of journal that nothing needs.
    fn tidy(&mut self, exported: Option<u64>) {
        if self.core.check().is_err() {
            return;
        }
        if exported.is_some() || self.journal.appended() - self.appended > CHECKPOINT {
            self.sync_engine();
        }
        let Some(exported) = exported else { return };
        // Left alone it costs room, and the next export tries again.
        if let Err(error) = self.journal.trim(exported.min(self.checkpoint)) {
            tracing::warn!(error = %crate::store::chain(&error), "old journal segments stay");
        }
    }

    fn sync_engine(&mut self) {
        let sequence = self.core.sequence.load(Ordering::Acquire);
        if sequence == self.checkpoint {
            return;
        }
        match self.core.engine.sync() {
            Ok(()) => {
                self.checkpoint = sequence;
                self.appended = self.journal.appended();
            }
            Err(error) => {
                self.core.poison(error);
            }
        }
    }

    fn forget_obsolete(&mut self) {
        for name in self.obsolete.drain(..) {
            self.core.side_files.remove(&name);
        }
    }

    /// Commits a group and tells each of its callers.
    fn commit(&mut self, group: Vec<Request>) -> Extent {
        let core = Arc::clone(&self.core);
        let (begin, batches) = (Instant::now(), group.len() as u64);
        let mut staged = Staged::default();
        let mut waiting = Vec::new();
        for request in group {
            let outcome = core
                .check()
                .and_then(|()| encode(&core, request.changes, &staged))
                .and_then(|encoded| staged.take(&core, encoded));
            match (outcome, request.done) {
                (Ok(()), Some(done)) => waiting.push(done),
                (Ok(()), None) => {}
                (Err(error), done) => refuse(&core, error, done),
            }
        }
        let extent = match (staged.writes.is_empty(), waiting.is_empty()) {
            (true, _) => Extent::Nothing,
            (false, true) => Extent::Applied,
            (false, false) => Extent::Synced,
        };
        let outcome = match self.write(staged, &extent) {
            Ok(()) => Ok(()),
            // The journal is as it was, and the engine has seen nothing.
            Err(error) if error.is_no_space() || error.is_read_only() => Err(Arc::new(error)),
            Err(error) => Err(core.poison(error)),
        };
        if !matches!(extent, Extent::Nothing) {
            core.meters.committed(batches, begin, outcome.is_ok());
        }
        if let (Err(error), true) = (&outcome, waiting.is_empty()) {
            tracing::error!(error = %crate::store::chain(error), "lazy metadata batches were lost");
        }
        for done in waiting {
            // A caller that has gone needs no answer.
            let _ = done.send(outcome.clone());
        }
        match outcome {
            Ok(()) => extent,
            Err(_) => Extent::Nothing,
        }
    }

    fn write(&mut self, mut staged: Staged, extent: &Extent) -> Result<(), Error> {
        if matches!(extent, Extent::Nothing) {
            return Ok(());
        }
        let sequence = self.core.sequence.load(Ordering::Acquire) + 1;
        if let Err(error) = self.journalise(sequence, &staged) {
            staged.drop_side_files(&self.core.side_files);
            return Err(error);
        }
        berth_faults::passing("metadata.commit.after-journal");
        if matches!(extent, Extent::Synced) {
            self.journal.sync()?;
        }
        berth_faults::passing("metadata.commit.after-sync");
        apply(&self.core.engine, sequence, staged.writes)?;
        berth_faults::passing("metadata.commit.after-apply");
        self.core.sequence.store(sequence, Ordering::Release);
        self.obsolete.append(&mut staged.obsolete);
        if matches!(extent, Extent::Synced) {
            self.forget_obsolete();
        }
        Ok(())
    }

    fn journalise(&mut self, sequence: u64, staged: &Staged) -> Result<(), Error> {
        if staged.has_side_files {
            self.core.side_files.sync_dir()?;
        }
        let before = self.journal.appended();
        self.journal.append(sequence, &staged.writes)?;
        let grown = self.journal.appended() - before;
        self.core.journaled.fetch_add(grown, Ordering::Relaxed);
        Ok(())
    }
}

/// Writes a group to the engine, under its number.
pub(crate) fn apply(engine: &Engine, sequence: u64, mut writes: Writes) -> Result<(), Error> {
    let number = sequence.to_le_bytes().to_vec();
    writes.insert((STORE, SEQUENCE.to_vec()), Some(number));
    engine.apply(&writes)
}

/// Moves a value that nobody can read out of its table.
pub(crate) fn set_aside(
    engine: &Engine,
    table: usize,
    key: &[u8],
    raw: &[u8],
) -> Result<(), Error> {
    let mut writes = Writes::new();
    writes.insert((SET_ASIDE, aside_key(table, key)), Some(raw.to_vec()));
    writes.insert((table, key.to_vec()), None);
    engine.apply(&writes)
}

fn aside_key(table: usize, key: &[u8]) -> Vec<u8> {
    let mut name = Change::table_name(table).as_bytes().to_vec();
    name.push(b'/');
    name.extend_from_slice(key);
    name
}

/// How far a group got.
enum Extent {
    Nothing,
    Applied,
    Synced,
}

/// The batches that wait, up to a limit, and the last export that was reported.
fn gather(first: Order, orders: &Receiver<Order>) -> (Vec<Request>, Option<u64>) {
    let mut size = 0;
    let mut group = Vec::new();
    let mut exported = None;
    let mut next = Some(first);
    while let Some(order) = next {
        match order {
            Order::Commit(request) => {
                size += request.changes.len();
                group.push(request);
            }
            Order::Exported(sequence) => exported = Some(sequence),
        }
        next = (size < GROUP_LIMIT)
            .then(|| orders.try_recv().ok())
            .flatten();
    }
    (group, exported)
}

fn refuse(core: &Core, error: Error, done: Option<oneshot::Sender<Outcome>>) {
    let error = match error {
        // Reading before writing failed inside the engine: it is of no use any more.
        Error::Engine { .. } => core.poison(error),
        error => Arc::new(error),
    };
    match done {
        Some(done) => {
            let _ = done.send(Err(error));
        }
        None => {
            tracing::error!(error = %crate::store::chain(&error), "a lazy metadata batch was lost");
        }
    }
}

/// One request in stored form.
struct Encoded {
    writes: Vec<Write>,
    has_side_files: bool,
}

/// A group in stored form.
#[derive(Default)]
struct Staged {
    writes: Writes,
    /// Side files whose records this group replaces or removes.
    obsolete: Vec<String>,
    has_side_files: bool,
}

impl Staged {
    /// The value under a key as it will be before the next request.
    fn current(&self, core: &Core, table: usize, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.writes.get(&(table, key.to_vec())) {
            Some(value) => Ok(value.clone()),
            None => core.engine.get(table, key),
        }
    }

    /// For a group that is not written after all.
    fn drop_side_files(&self, side_files: &SideFiles) {
        let written = self
            .writes
            .iter()
            .filter(|((table, _), _)| *table != SET_ASIDE);
        for name in written.filter_map(|(_, value)| value.as_deref().and_then(side_file_of)) {
            side_files.remove(name);
        }
    }

    fn take(&mut self, core: &Core, encoded: Encoded) -> Result<(), Error> {
        let moved: Vec<String> = encoded
            .writes
            .iter()
            .filter(|((table, _), _)| *table == SET_ASIDE)
            .filter_map(|(_, value)| value.as_deref().and_then(side_file_of))
            .map(str::to_owned)
            .collect();
        for ((table, key), value) in encoded.writes {
            let previous = self.current(core, table, &key)?;
            if let Some(name) = previous.as_deref().and_then(side_file_of)
                && !moved.iter().any(|moved| moved == name)
            {
                self.obsolete.push(name.to_owned());
            }
            self.writes.insert((table, key), value);
        }
        self.has_side_files |= encoded.has_side_files;
        Ok(())
    }
}

/// Encodes a request, and writes its side files. Fails without a trace in the engine.
fn encode(core: &Core, changes: Vec<Change>, staged: &Staged) -> Result<Encoded, Error> {
    let mut added = 0;
    for change in &changes {
        if let Change::Put { table, key, json } = change {
            // Replacing a small record takes no more of the disk than removing it does.
            let replaces = json.len() <= INLINE_LIMIT
                && staged.current(core, *table, key.as_bytes())?.is_some();
            added += if replaces { 0 } else { json.len() as u64 };
        }
    }
    if added > 0 {
        core.space.check_addition(added)?;
    }
    core.space.before_write()?;
    let mut encoded = Encoded {
        writes: Vec::with_capacity(changes.len()),
        has_side_files: false,
    };
    for change in changes {
        if let Err(error) = encode_change(core, change, staged, &mut encoded) {
            for (_, value) in &encoded.writes {
                if let Some(name) = value.as_deref().and_then(side_file_of) {
                    core.side_files.remove(name);
                }
            }
            return Err(error);
        }
    }
    Ok(encoded)
}

fn encode_change(
    core: &Core,
    change: Change,
    staged: &Staged,
    encoded: &mut Encoded,
) -> Result<(), Error> {
    match change {
        Change::Put { table, key, json } if json.len() > INLINE_LIMIT => {
            let value = core.side_files.write(&json)?;
            encoded.has_side_files = true;
            encoded
                .writes
                .push(((table, key.into_bytes()), Some(value)));
        }
        Change::Put { table, key, json } => {
            encoded
                .writes
                .push(((table, key.into_bytes()), Some(inline(&json))));
        }
        Change::Remove { table, key } => {
            encoded.writes.push(((table, key.into_bytes()), None));
        }
        Change::SetAside { table, key, found } => {
            if staged.current(core, table, &key)?.as_ref() == Some(&found) {
                let name = aside_key(table, &key);
                encoded.writes.push(((SET_ASIDE, name), Some(found)));
                encoded.writes.push(((table, key), None));
            }
        }
    }
    Ok(())
}

/// The number of the last committed group, as stored.
pub(crate) fn stored_sequence(engine: &Engine) -> Result<u64, Error> {
    let raw = engine.get(STORE, SEQUENCE)?;
    Ok(raw
        .and_then(|raw| raw.try_into().ok())
        .map_or(0, u64::from_le_bytes))
}
