//! What a client that draws a build itself is told, as it happens: steps of several stages at the
//! same time, told apart by their numbers.

use serde::Serialize;

/// Something that happened to a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Milliseconds since the build began.
    pub at: u64,
    /// Its number among all steps of the build, from one.
    pub step: usize,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum What {
    Begun {
        /// The stage's name, or its number where it has none.
        stage: String,
        /// The step's number in its stage, and how many that has.
        number: usize,
        of: usize,
        /// Steps of the whole build.
        total: usize,
        text: String,
    },
    /// Its outcome was there.
    Cached,
    Output {
        text: String,
    },
    Ended {
        /// The image that the stage would be by now, in short.
        image: String,
    },
    Failed,
}
