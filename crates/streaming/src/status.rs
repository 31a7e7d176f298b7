//! How a client is told the end: `metav1.Status` as JSON from v4 of the channel protocol on, plain
//! text of failures before.

use bytes::Bytes;
use serde_json::{Value, json};

/// How an exec or an attach ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// With this exit code of the process.
    Exited(u32),
    Failed(String),
}

/// The form in which endings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Text,
    Json,
}

impl Ending {
    /// Empty where the form has nothing to say.
    pub fn encode(&self, form: Form) -> Bytes {
        match form {
            Form::Json => self.json().to_string().into(),
            Form::Text => match self {
                Self::Exited(0) => Bytes::new(),
                Self::Exited(code) => exit_message(*code).into(),
                Self::Failed(message) => message.clone().into(),
            },
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Exited(0) => json!({ "metadata": {}, "status": "Success" }),
            Self::Exited(code) => json!({
                "metadata": {},
                "status": "Failure",
                "reason": "NonZeroExitCode",
                "message": exit_message(*code),
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
            }),
            Self::Failed(message) => json!({
                "metadata": {},
                "status": "Failure",
                "reason": "InternalError",
                "message": format!("Internal error occurred: {message}"),
                "details": { "causes": [{ "message": message }] },
                "code": 500,
            }),
        }
    }
}

fn exit_message(code: u32) -> String {
    format!("command terminated with non-zero exit code: exit status {code}")
}

/// The message of `error` with those of its sources.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(ending: &Ending) -> Value {
        serde_json::from_slice(&ending.encode(Form::Json)).unwrap()
    }

    #[test]
    fn exit_codes_are_causes_of_the_status() {
        let status = parsed(&Ending::Exited(37));
        assert_eq!(status["status"], "Failure");
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "37");
        assert_eq!(parsed(&Ending::Exited(0))["status"], "Success");
    }

    #[test]
    fn older_protocols_are_told_failures_in_words_and_success_by_silence() {
        assert!(Ending::Exited(0).encode(Form::Text).is_empty());
        let told = Ending::Exited(2).encode(Form::Text);
        assert!(told.ends_with(b"exit status 2"));
        assert_eq!(Ending::Failed("no".into()).encode(Form::Text), "no");
    }
}
