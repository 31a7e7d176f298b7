//! What a build says. Stages are built at the same time and told one after the other: the first
//! that is not ready speaks as it goes, the others are heard when their turn comes.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

/// Bytes that a stage may say before its turn; what is more is left out.
const HELD_BACK: usize = 4 << 20;

/// Something that a build says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// For a terminal, with its line breaks.
    Text(String),
    /// The image that was made.
    Image(String),
}

pub struct Transcript {
    out: mpsc::Sender<Said>,
    turns: Mutex<Turns>,
}

struct Turns {
    /// Whose turn it is.
    current: usize,
    stages: Vec<Turn>,
}

#[derive(Default, Clone)]
struct Turn {
    held: Vec<String>,
    bytes: usize,
    done: bool,
}

/// What one stage says.
#[derive(Clone)]
pub struct StageLog {
    transcript: Arc<Transcript>,
    stage: usize,
}

impl Transcript {
    pub fn new(out: mpsc::Sender<Said>, stages: usize) -> Arc<Self> {
        Arc::new(Self {
            out,
            turns: Mutex::new(Turns {
                current: 0,
                stages: vec![Turn::default(); stages],
            }),
        })
    }

    /// The voice of the stage with this place in the order.
    pub fn stage(self: &Arc<Self>, stage: usize) -> StageLog {
        StageLog {
            transcript: Arc::clone(self),
            stage,
        }
    }

    async fn say(&self, text: String) {
        // Who does not listen any more ends the build by other means.
        let _ = self.out.send(Said::Text(text)).await;
    }
}

impl StageLog {
    pub async fn say(&self, text: impl Into<String>) {
        let text = text.into();
        {
            let mut turns = self.transcript.turns.lock();
            if turns.current != self.stage {
                if let Some(turn) = turns.stages.get_mut(self.stage)
                    && turn.bytes < HELD_BACK
                {
                    turn.bytes += text.len();
                    turn.held.push(text);
                }
                return;
            }
        }
        self.transcript.say(text).await;
    }

    /// Says that the stage has ended: it is the next one's turn.
    pub async fn done(&self) {
        loop {
            let held = {
                let mut turns = self.transcript.turns.lock();
                if let Some(turn) = turns.stages.get_mut(self.stage) {
                    turn.done = true;
                }
                let current = turns.current;
                if !turns.stages.get(current).is_some_and(|turn| turn.done) {
                    return;
                }
                let Some(next) = turns.stages.get_mut(current + 1) else {
                    return;
                };
                let held = std::mem::take(&mut next.held);
                if held.is_empty() {
                    turns.current += 1;
                    continue;
                }
                held
            };
            for text in held {
                self.transcript.say(text).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stages_are_told_one_after_the_other() {
        let (out, mut heard) = mpsc::channel(64);
        let transcript = Transcript::new(out, 3);
        let [first, second, third] = [0, 1, 2].map(|stage| transcript.stage(stage));
        second.say("b1 ").await;
        first.say("a1 ").await;
        third.say("c1 ").await;
        second.done().await;
        first.say("a2 ").await;
        first.done().await;
        third.say("c2 ").await;
        third.done().await;
        drop((transcript, first, second, third));
        let mut all = String::new();
        while let Some(Said::Text(text)) = heard.recv().await {
            all += &text;
        }
        assert_eq!(all, "a1 a2 b1 c1 c2 ");
    }
}
