//! The life of one connection after the handshake, whatever its protocol.

use std::future::pending;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::mux::{Outgoing, Queue};
use crate::presence::Presence;

/// What a client that has closed may still have on the way to us.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// How long a client may take to close after our goodbye. Closing first could lose what it has not
/// read: the kernel answers unread input with a reset.
const FAREWELL: Duration = Duration::from_secs(1);

/// When something last went over the connection.
#[derive(Debug)]
pub struct Activity {
    begin: Instant,
    last: AtomicU64,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            last: AtomicU64::new(0),
        }
    }
}

impl Activity {
    pub fn happened(&self) {
        let millis = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// Completes after this long without activity; never for zero.
    async fn idle(&self, limit: Duration) {
        if limit.is_zero() {
            return pending().await;
        }
        loop {
            let last = self.begin + Duration::from_millis(self.last.load(Ordering::Relaxed));
            let due = last + limit;
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// Zero means no limit.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub idle: Duration,
    pub total: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Done,
    ClientGone,
    Idle,
    TooLong,
}

/// Runs the halves of a connection and the session on it until the session is done and its last
/// words are delivered, or until it must end. The session is dropped with everything that it holds.
pub async fn run(
    reader: impl Future<Output = ()>,
    writer: impl Future<Output = std::io::Result<()>>,
    session: impl Future<Output = ()>,
    queue: Queue,
    activity: &Activity,
    limits: Limits,
    presence: &Presence,
) -> Ended {
    let (mut reader, mut writer) = (pin!(reader), pin!(writer));
    let work = async {
        session.await;
        let _ = queue.send(Outgoing::Goodbye).await;
    };
    let left = async {
        presence.gone().await;
        sleep(LAST_WORDS).await;
    };
    let total = async {
        match limits.total.is_zero() {
            true => pending().await,
            false => sleep(limits.total).await,
        }
    };
    let (mut left, mut total) = (pin!(left), pin!(total));
    tokio::select! {
        () = work => {}
        () = &mut reader => return Ended::ClientGone,
        // Before the goodbye a writer ends only by failing.
        _ = &mut writer => return Ended::ClientGone,
        () = &mut left => return Ended::ClientGone,
        () = activity.idle(limits.idle) => return Ended::Idle,
        () = &mut total => return Ended::TooLong,
    }
    tokio::select! {
        _ = &mut writer => {}
        () = &mut reader => return Ended::Done,
        () = &mut left => return Ended::Done,
        () = activity.idle(limits.idle) => return Ended::Idle,
        () = &mut total => return Ended::TooLong,
    }
    let _ = timeout(FAREWELL, reader).await;
    Ended::Done
}
