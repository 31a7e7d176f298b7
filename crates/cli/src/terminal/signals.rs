//! Signals that this program gets: those for the container are handed on, a terminal's new size
//! as well.

use rustix::termios::tcgetwinsize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::raw::restore;
use crate::daemon::{Call, Client};
use crate::error::{Error, Result};

/// Names and numbers (Linux on x86 and ARM) of what is handed on.
const FORWARDED: [(&str, i32); 8] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("USR1", 10),
    ("USR2", 12),
    ("ALRM", 14),
    ("TERM", 15),
    ("CONT", 18),
];

/// By which a program ends that nobody asked.
const ENDS: [i32; 4] = [1, 2, 3, 15];

fn listen(numbers: &[i32]) -> Result<mpsc::UnboundedReceiver<i32>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    for &number in numbers {
        let mut arrived = signal(SignalKind::from_raw(number)).map_err(failed)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while arrived.recv().await.is_some() {
                if sender.send(number).is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}

fn failed(source: std::io::Error) -> Error {
    Error::Terminal("signals cannot be waited for", source)
}

/// Hands signals on to a container until the program ends. Without `proxy` they end this program,
/// its terminal put back.
pub fn forward(client: Client, id: String, proxy: bool) -> Result<()> {
    if !proxy {
        return forward_nothing();
    }
    let all: Vec<i32> = FORWARDED.iter().map(|(_, number)| *number).collect();
    let mut arrived = listen(&all)?;
    tokio::spawn(async move {
        while let Some(number) = arrived.recv().await {
            let name = FORWARDED.iter().find(|(_, known)| *known == number);
            let name = name.map_or("TERM", |(name, _)| name);
            let call = Call::post(format!("/containers/{id}/kill")).query("signal", name);
            // A container that has just ended is what was wanted.
            let _ended = client.tell(call).await;
        }
    });
    Ok(())
}

/// Signals end this program, its terminal put back.
pub fn forward_nothing() -> Result<()> {
    let mut arrived = listen(&ENDS)?;
    tokio::spawn(async move {
        if let Some(number) = arrived.recv().await {
            restore();
            std::process::exit(128 + number);
        }
    });
    Ok(())
}

/// What has a terminal whose size follows that of this program.
#[derive(Debug, Clone)]
pub struct Resized {
    client: Client,
    path: String,
}

impl Resized {
    pub fn container(client: &Client, id: &str) -> Self {
        Self {
            client: client.clone(),
            path: format!("/containers/{id}/resize"),
        }
    }

    pub fn command(client: &Client, id: &str) -> Self {
        Self {
            client: client.clone(),
            path: format!("/exec/{id}/resize"),
        }
    }

    /// Sets the size now and whenever the terminal's changes.
    pub async fn follow(self) -> Result<()> {
        let mut changed: Signal = signal(SignalKind::window_change()).map_err(failed)?;
        self.set().await;
        tokio::spawn(async move {
            while changed.recv().await.is_some() {
                self.set().await;
            }
        });
        Ok(())
    }

    /// What ended meanwhile has no size.
    async fn set(&self) {
        let Ok(size) = tcgetwinsize(std::io::stdout()) else {
            return;
        };
        if size.ws_row == 0 || size.ws_col == 0 {
            return;
        }
        let call = Call::post(self.path.clone())
            .query("h", size.ws_row.to_string())
            .query("w", size.ws_col.to_string());
        let _ended = self.client.tell(call).await;
    }
}
