//! How much a JSON document is once it is read: a few MiB of text can be hundreds in memory.

use berth_names::Digest;

use crate::{Error, Result};

/// Values in one document. Images of hundreds of layers with their history have a few thousand.
const MAX_VALUES: usize = 200_000;

/// Refuses a document of too many values, before any of them is made.
pub(crate) fn check(kind: &'static str, digest: &Digest, bytes: &[u8]) -> Result<()> {
    if count(bytes) <= MAX_VALUES {
        return Ok(());
    }
    let problem = format!("it has more than {MAX_VALUES} values");
    Err(Error::invalid(kind, digest, "JSON", problem))
}

/// What begins or separates values outside of texts. Where the document is no JSON, whatever that
/// gives: then it is not read anyway.
fn count(bytes: &[u8]) -> usize {
    let (mut found, mut in_text, mut escaped) = (0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' | b',' if !in_text => found += 1,
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_do_not_count_however_they_look() {
        assert_eq!(count(br#"{"a": [1, 2, {}], "b": "[[[,,,\"[,"}"#), 6);
        let digest = Digest::sha256_of(b"");
        let label = format!("{{\"label\": \"{}\"}}", "[1,2,3],".repeat(200_000));
        check("config", &digest, label.as_bytes()).unwrap();
        let lists = format!("[{}0]", "[],".repeat(MAX_VALUES));
        assert!(check("config", &digest, lists.as_bytes()).is_err());
    }
}
