//! Manifests, indexes and configs that no honest tool makes, from honest ones.

use fastrand::Rng;
use serde_json::{Value, json};

/// What stands where a digest should.
const DIGESTS: [&str; 9] = [
    "",
    "sha256:",
    "sha256:../../../../../../etc/passwd",
    "sha256:..",
    "../../../etc/shadow",
    "md5:d41d8cd98f00b204e9800998ecf8427e",
    "sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b85",
    "sha512:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
];

const TYPES: [&str; 7] = [
    "",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
    "text/html; charset=utf-8",
];

/// A changed copy of a document: what was done to it, and its bytes.
pub type Changed = (String, Vec<u8>);

/// `count` changed copies. The same seed gives the same ones.
pub fn changed(seed: u64, document: &Value, count: usize) -> Vec<Changed> {
    let mut rng = Rng::with_seed(seed);
    let mut places = Vec::new();
    collect(document, String::new(), &mut places);
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let place = &places[rng.usize(..places.len())];
        let one = if rng.u8(..4) == 0 {
            as_text(&mut rng, document, place)
        } else {
            as_value(&mut rng, document, place)
        };
        all.extend(one);
    }
    all
}

/// Pointers to everything in a document (RFC 6901).
fn collect(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let name = name.replace('~', "~0").replace('/', "~1");
                collect(field, format!("{at}/{name}"), places);
            }
        }
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                collect(item, format!("{at}/{number}"), places);
            }
        }
        _ => {}
    }
    places.push(at);
}

/// Another value in its place, or none.
fn as_value(rng: &mut Rng, document: &Value, place: &str) -> Option<Changed> {
    let text = |choice: &[&str], rng: &mut Rng| json!(choice[rng.usize(..choice.len())]);
    let mut copy = document.clone();
    let (what, value) = match rng.u8(..16) {
        0 => ("null", Value::Null),
        1 => ("a flag", json!(true)),
        2 => ("a negative number", json!(-1)),
        3 => ("2^64-1", json!(u64::MAX)),
        4 => ("a fraction", json!(1.5e308)),
        5 => ("an empty list", json!([])),
        6 => ("an empty object", json!({})),
        7 => ("an empty text", json!("")),
        8 => ("a long text", json!("x".repeat(100_000))),
        9 => ("control characters", json!("a\0b\r\nc\u{1b}[2J")),
        10 => ("a digest that is none", text(&DIGESTS, rng)),
        11 => ("another media type", text(&TYPES, rng)),
        12 => ("zero", json!(0)),
        13 => ("itself, many times", repeated(document.pointer(place)?)),
        14 => return removed(copy, place),
        _ => {
            // The fields of another kind of document beside its own.
            let fields = copy.pointer_mut(place)?.as_object_mut()?;
            fields.insert("manifests".to_owned(), json!([]));
            fields.insert("layers".to_owned(), json!([]));
            fields.insert("fsLayers".to_owned(), json!([]));
            return encoded(format!("{place} with fields of others"), &copy);
        }
    };
    *copy.pointer_mut(place)? = value;
    encoded(format!("{place} is {what}"), &copy)
}

fn repeated(value: &Value) -> Value {
    Value::Array(vec![value.clone(); 2000])
}

fn removed(mut copy: Value, place: &str) -> Option<Changed> {
    let (parent, name) = place.rsplit_once('/')?;
    match copy.pointer_mut(parent)? {
        Value::Object(fields) => drop(fields.remove(name)),
        Value::Array(items) => drop(items.remove(name.parse().ok()?)),
        _ => return None,
    }
    encoded(format!("{place} is missing"), &copy)
}

/// What JSON values cannot say.
fn as_text(rng: &mut Rng, document: &Value, place: &str) -> Option<Changed> {
    let whole = serde_json::to_vec(document).ok()?;
    let at = rng.usize(1..whole.len());
    let (what, bytes) = match rng.u8(..8) {
        0 => ("cut".to_owned(), whole[..at].to_vec()),
        1 => {
            let mut bytes = whole;
            bytes[at] ^= 1 << rng.u8(..8);
            (format!("bit flipped at {at}"), bytes)
        }
        2 => ("rubbish behind it".to_owned(), [&whole[..], b"}{"].concat()),
        3 => {
            let mark = [&b"\xef\xbb\xbf"[..], &whole].concat();
            ("a byte order mark".to_owned(), mark)
        }
        4 => ("no UTF-8".to_owned(), [&whole[..at], b"\xff\xfe"].concat()),
        5 => {
            let nested = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
            ("deeply nested".to_owned(), nested)
        }
        6 => {
            let text = String::from_utf8(whole).ok()?;
            let twice = text.replacen('{', "{\"schemaVersion\":2,\"layers\":null,", 1);
            ("fields twice".to_owned(), twice.into_bytes())
        }
        _ => {
            let (name, rest) = (place.rsplit('/').next()?, "\u{202e}\u{0}");
            let text = String::from_utf8(whole).ok()?;
            let renamed = text.replacen(&format!("\"{name}\""), &format!("\"{rest}\""), 1);
            (format!("{place} under another name"), renamed.into_bytes())
        }
    };
    Some((what, bytes))
}

fn encoded(what: String, value: &Value) -> Option<Changed> {
    Some((what, serde_json::to_vec(value).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_decides_what_is_changed_and_most_of_it_differs() {
        let document = json!({ "a": { "b/c": [1, "two"] }, "config": { "digest": "sha256:x" } });
        let first = changed(7, &document, 300);
        assert_eq!(first, changed(7, &document, 300));
        let honest = serde_json::to_vec(&document).unwrap();
        let different: BTreeSet<_> = first.iter().map(|(_, bytes)| bytes).collect();
        assert!(different.len() > 100, "{}", different.len());
        let same = first.iter().filter(|(_, bytes)| *bytes == honest).count();
        assert!(same < 30, "{same} are as they were");
    }
}
