//! What a build says. Stages are built at the same time and told one after the other: the first
//! that is not ready speaks as it goes, the others are heard when their turn comes. Who reads
//! records hears all of them at once.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::exchange::LayoutFile;
use crate::record::{Record, What};

/// Bytes that a stage may say before its turn; what is more is left out.
const HELD_BACK: usize = 4 << 20;

/// Something that a build says.
#[derive(Debug)]
pub enum Said {
    /// For a terminal, with its line breaks.
    Text(String),
    /// The same for a program, in place of texts.
    Record(Record),
    /// The image that was made.
    Image(String),
    /// A cache for a directory of the client's.
    Cache(LayoutFile),
}

pub struct Transcript {
    out: mpsc::Sender<Said>,
    /// In records, not in texts.
    recorded: bool,
    began: Instant,
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
    turn: usize,
    name: String,
    /// Steps of the stage.
    steps: usize,
    /// The number of its first step in the build.
    first: usize,
    /// The one that it is at.
    step: usize,
    /// Steps of the build.
    total: usize,
}

impl Transcript {
    pub fn new(out: mpsc::Sender<Said>, stages: usize, recorded: bool) -> Arc<Self> {
        Arc::new(Self {
            out,
            recorded,
            began: Instant::now(),
            turns: Mutex::new(Turns {
                current: 0,
                stages: vec![Turn::default(); stages],
            }),
        })
    }

    /// The voice of the stage with this place in the order: its name, the number of its first step,
    /// how many it has, and how many there are in all.
    pub fn stage(
        self: &Arc<Self>,
        turn: usize,
        name: String,
        (first, steps, total): (usize, usize, usize),
    ) -> StageLog {
        StageLog {
            transcript: Arc::clone(self),
            turn,
            name,
            steps,
            first,
            step: first,
            total,
        }
    }

    async fn say(&self, said: Said) {
        // Who does not listen any more ends the build by other means.
        let _ = self.out.send(said).await;
    }
}

impl StageLog {
    /// Says that the step with this number begins.
    pub async fn begin(&mut self, step: usize, text: &str) {
        self.step = step;
        let total = self.total;
        if !self.transcript.recorded {
            return self.say(format!("Step {step}/{total} : {text}\n")).await;
        }
        self.record(What::Begun {
            stage: self.name.clone(),
            number: step + 1 - self.first,
            of: self.steps,
            total,
            text: text.to_owned(),
        })
        .await;
    }

    /// Says that the step's outcome was there already.
    pub async fn cached(&self) {
        match self.transcript.recorded {
            true => self.record(What::Cached).await,
            false => self.say(" ---> Using cache\n").await,
        }
    }

    /// What a step writes, with its line breaks.
    pub async fn output(&self, text: impl Into<String>) {
        let text = text.into();
        match self.transcript.recorded {
            true => self.record(What::Output { text }).await,
            false => self.say(text).await,
        }
    }

    /// Says what the step has made of the stage.
    pub async fn end(&self, image: String) {
        match self.transcript.recorded {
            true => self.record(What::Ended { image }).await,
            false => self.say(format!(" ---> {image}\n")).await,
        }
    }

    /// Says that it came to nothing: why is the build's last word.
    pub async fn fail(&self) {
        if self.transcript.recorded {
            self.record(What::Failed).await;
        }
    }

    async fn record(&self, what: What) {
        let at = self.transcript.began.elapsed().as_millis();
        let record = Record {
            at: u64::try_from(at).unwrap_or(u64::MAX),
            step: self.step,
            what,
        };
        self.transcript.say(Said::Record(record)).await;
    }

    async fn say(&self, text: impl Into<String>) {
        let text = text.into();
        {
            let mut turns = self.transcript.turns.lock();
            if turns.current != self.turn {
                if let Some(turn) = turns.stages.get_mut(self.turn)
                    && turn.bytes < HELD_BACK
                {
                    turn.bytes += text.len();
                    turn.held.push(text);
                }
                return;
            }
        }
        self.transcript.say(Said::Text(text)).await;
    }

    /// Says that the stage has ended: it is the next one's turn.
    pub async fn done(&self) {
        loop {
            let held = {
                let mut turns = self.transcript.turns.lock();
                if let Some(turn) = turns.stages.get_mut(self.turn) {
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
                self.transcript.say(Said::Text(text)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three(recorded: bool) -> (mpsc::Receiver<Said>, [StageLog; 3]) {
        let (out, heard) = mpsc::channel(64);
        let transcript = Transcript::new(out, 3, recorded);
        let stage = |turn| transcript.stage(turn, format!("s{turn}"), (turn * 2 + 1, 2, 6));
        (heard, [0, 1, 2].map(stage))
    }

    #[tokio::test]
    async fn stages_are_told_one_after_the_other() {
        let (mut heard, [first, second, third]) = three(false);
        second.output("b1 ").await;
        first.output("a1 ").await;
        third.output("c1 ").await;
        second.done().await;
        first.output("a2 ").await;
        first.done().await;
        third.output("c2 ").await;
        third.done().await;
        drop((first, second, third));
        let mut all = String::new();
        while let Some(Said::Text(text)) = heard.recv().await {
            all += &text;
        }
        assert_eq!(all, "a1 a2 b1 c1 c2 ");
    }

    #[tokio::test]
    async fn records_are_told_as_things_happen() {
        let (mut heard, [mut first, mut second, _third]) = three(true);
        second.begin(3, "FROM x").await;
        first.begin(1, "FROM y").await;
        second.begin(4, "RUN z").await;
        second.cached().await;
        first.fail().await;
        let mut all = Vec::new();
        while let Ok(Said::Record(record)) = heard.try_recv() {
            let mut object = serde_json::to_value(record).unwrap();
            object.as_object_mut().unwrap().remove("at");
            all.push(object.to_string());
        }
        assert_eq!(
            all,
            [
                r#"{"number":1,"of":2,"stage":"s1","step":3,"text":"FROM x","total":6,"what":"begun"}"#,
                r#"{"number":1,"of":2,"stage":"s0","step":1,"text":"FROM y","total":6,"what":"begun"}"#,
                r#"{"number":2,"of":2,"stage":"s1","step":4,"text":"RUN z","total":6,"what":"begun"}"#,
                r#"{"step":4,"what":"cached"}"#,
                r#"{"step":1,"what":"failed"}"#,
            ]
        );
    }
}
