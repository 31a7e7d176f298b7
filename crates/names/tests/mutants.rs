//! Names that nobody would give.

// A failed expectation here is a failed test.
#![allow(clippy::unwrap_used)]

use berth_names::{ContainerId, Digest, ImageRef};
use berth_testkit::mutate::Mutants;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/reference");

#[test]
fn whatever_is_taken_for_a_reference_reads_back_as_itself() {
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let seeds = [
        "busybox",
        "docker.io/library/busybox:latest",
        "registry.example.com:5000/team/thing_a/b-c.d:v1.2-x_y",
        "[fd00::1]:5000/a/b:c",
        "localhost/a",
    ];
    let by_digest = format!("ghcr.io/a/b:tag@{digest}");
    Mutants::of(CORPUS)
        .and(seeds)
        .and([by_digest.as_str(), digest])
        .words(&[
            "://",
            "@sha256:",
            "..",
            "/",
            ":",
            "%2f",
            "__",
            "index.docker.io/",
            "\u{1f6a2}",
        ])
        .show(|input| {
            let text = String::from_utf8_lossy(input);
            if let Ok(reference) = ImageRef::parse(&text) {
                let told = reference.to_string();
                assert_eq!(ImageRef::parse(&told).unwrap(), reference, "{told:?}");
                // It becomes a part of URLs and file names. Tags may have dots side by side, but
                // begin with something else.
                assert!(!reference.repository().contains(".."), "{told:?}");
                assert!(
                    !reference.tag().is_some_and(|tag| tag.starts_with('.')),
                    "{told:?}"
                );
                assert!(told.bytes().all(|b| b.is_ascii_graphic()), "{told:?}");
            }
            if let Ok(digest) = Digest::parse(&text) {
                assert_eq!(digest.as_str(), text);
                assert!(digest.hex().bytes().all(|b| b.is_ascii_hexdigit()));
            }
            if let Ok(id) = ContainerId::parse(&text) {
                assert!(!id.as_str().contains(['/', '\0']) && !id.as_str().starts_with('.'));
            }
        });
}
