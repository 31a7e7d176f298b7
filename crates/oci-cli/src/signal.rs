//! Signals by name and number.

use crate::error::{Error, Result};

pub const SIGKILL: i32 = 9;
pub const SIGTERM: i32 = 15;
pub const SIGCHLD: i32 = 17;
pub const SIGWINCH: i32 = 28;

/// Names without `SIG`, by the numbers of x86 and arm from 1 on.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// `9`, `KILL`, `sigkill` and so on.
pub fn parse(word: &str) -> Result<i32> {
    if let Ok(number) = word.parse() {
        return Ok(number);
    }
    let upper = word.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let known = NAMES.iter().zip(1..).find(|(known, _)| **known == name);
    let alias = match name {
        "IOT" => Some(6),
        "CLD" => Some(SIGCHLD),
        "POLL" => Some(29),
        _ => None,
    };
    known
        .map(|(_, number)| number)
        .or(alias)
        .ok_or_else(|| Error::UnknownSignal {
            word: word.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_number_and_by_either_name() {
        for (word, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGTERM", 15),
            ("sigusr1", 10),
            ("winch", 28),
            ("SIGSYS", 31),
            ("34", 34),
        ] {
            assert_eq!(parse(word).unwrap(), number, "{word}");
        }
        for word in ["", "SIG", "NOPE", "SIGSIGKILL"] {
            assert!(parse(word).is_err(), "{word}");
        }
    }
}
