//! What the daemon says of steps, as they happen: see `record` of its builder.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Milliseconds since the build began.
    pub at: u64,
    /// Its number among all steps.
    pub step: usize,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum What {
    Begun {
        stage: String,
        number: usize,
        of: usize,
        total: usize,
        text: String,
    },
    Cached,
    Output {
        text: String,
    },
    Ended {
        image: String,
    },
    Failed,
    /// Of a daemon that knows more than this program.
    #[serde(other)]
    Unknown,
}
