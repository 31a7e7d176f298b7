//! Many streams over one connection, the same for every protocol below.
//!
//! Both directions are bounded: a stream whose taker is slow stops the reading of its connection,
//! and a client that takes nothing stops those who write to it. Neither protocol has flow control
//! that its clients would honour, so the pressure goes through TCP.

use bytes::Bytes;
use tokio::sync::mpsc;

/// Chunks that wait for the taker of one stream.
const INBOUND: usize = 4;
/// Messages that wait for the connection.
const QUEUE: usize = 8;

pub type Queue = mpsc::Sender<Outgoing>;

/// What is to be written to the connection.
#[derive(Debug)]
pub enum Outgoing {
    Accept(u32),
    Refuse(u32),
    Data(u32, Bytes),
    End(u32),
    Pong(u32),
    /// The last one: the connection is closed in order.
    Goodbye,
}

#[derive(Debug)]
pub enum Chunk {
    Data(Bytes),
    /// The peer dropped the stream in both directions.
    Reset,
}

pub fn queue() -> (Queue, mpsc::Receiver<Outgoing>) {
    mpsc::channel(QUEUE)
}

pub fn inbound() -> (mpsc::Sender<Chunk>, Inbound) {
    let (sender, chunks) = mpsc::channel(INBOUND);
    (sender, Inbound { chunks })
}

/// What the client sends on one stream, until it ends it.
#[derive(Debug)]
pub struct Inbound {
    chunks: mpsc::Receiver<Chunk>,
}

impl Inbound {
    pub async fn next(&mut self) -> Option<Chunk> {
        self.chunks.recv().await
    }

    /// The next bytes; a dropped stream has ended.
    pub async fn bytes(&mut self) -> Option<Bytes> {
        match self.chunks.recv().await {
            Some(Chunk::Data(bytes)) => Some(bytes),
            Some(Chunk::Reset) | None => None,
        }
    }
}

/// Our side of one stream.
#[derive(Debug, Clone)]
pub struct Outbound {
    id: u32,
    queue: Queue,
}

impl Outbound {
    pub fn new(id: u32, queue: Queue) -> Self {
        Self { id, queue }
    }

    /// False when the connection is gone.
    pub async fn send(&self, bytes: Bytes) -> bool {
        self.queue
            .send(Outgoing::Data(self.id, bytes))
            .await
            .is_ok()
    }

    pub async fn end(self) {
        let _ = self.queue.send(Outgoing::End(self.id)).await;
    }

    pub async fn accept(&self) {
        let _ = self.queue.send(Outgoing::Accept(self.id)).await;
    }

    pub async fn refuse(&self) {
        let _ = self.queue.send(Outgoing::Refuse(self.id)).await;
    }
}
