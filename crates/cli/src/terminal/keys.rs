//! The keys that leave a container's terminal and let it run.

use crate::error::{Error, Result};
use crate::logins::Logins;

pub const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Those of a command line, or else the `detachKeys` of Docker's `config.json`; empty where neither
/// has any.
pub fn chosen(given: &str) -> Result<String> {
    match given {
        "" => Ok(Logins::open()?.setting("detachKeys").to_owned()),
        given => Ok(given.to_owned()),
    }
}

/// Looks for them in what is typed. What only begins like them is held back until that is clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys {
    keys: Vec<u8>,
    seen: usize,
}

impl DetachKeys {
    /// `ctrl-p,ctrl-q`, `a,b`, …; empty for the default.
    pub fn parse(text: &str) -> Result<Self> {
        let text = if text.is_empty() { DEFAULT } else { text };
        let keys = text.split(',').map(key).collect::<Result<_>>()?;
        Ok(Self { keys, seen: 0 })
    }

    /// What goes on, and whether the keys were typed. They go on as well: the daemon, which was told
    /// of them, lets the container's input stay open for whoever comes next.
    pub fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(typed.len() + self.seen);
        for &byte in typed {
            if self.keys.get(self.seen) == Some(&byte) {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    self.seen = 0;
                    out.extend_from_slice(&self.keys);
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(self.keys.get(..self.seen).unwrap_or_default());
            self.seen = 0;
            match self.keys.first() == Some(&byte) {
                true => self.seen = 1,
                false => out.push(byte),
            }
        }
        (out, false)
    }
}

fn key(text: &str) -> Result<u8> {
    let control = text.strip_prefix("ctrl-").map(str::as_bytes);
    match (control, text.as_bytes()) {
        (Some([letter @ b'a'..=b'z']), _) => Ok(letter - b'a' + 1),
        (Some([sign @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]), _) => Ok(sign - b'@'),
        (None, [byte]) => Ok(*byte),
        _ => Err(Error::usage(format!(
            "{text:?} is no key to detach with: write a character, or ctrl- and a letter, with \
             commas between them"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_begins_like_the_keys_goes_on() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.pass(b"a\x10b\x10"), (b"a\x10b".to_vec(), false));
        assert_eq!(keys.pass(b"\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.pass(b"\x11never"), (b"\x10\x11".to_vec(), true));
    }

    #[test]
    fn keys_of_ones_own() {
        let mut keys = DetachKeys::parse("ctrl-[,x").unwrap();
        assert_eq!(keys.pass(b"ax\x1bx"), (b"ax\x1bx".to_vec(), true));
        for bad in ["ctrl-", "ctrl-1", "ab", "a,,b"] {
            assert!(DetachKeys::parse(bad).is_err(), "{bad}");
        }
    }
}
