//! Sparse maps that do not describe their file.

use super::Doubtful;
use crate::archive::*;

pub fn cases() -> Vec<Doubtful> {
    let sparse = |records: &[(&str, &[u8])]| {
        Tar::new()
            .pax(records)
            .entry(&Entry::file("s", [7; 512]))
            .end()
    };
    vec![
        (
            "sparse beyond its size",
            sparse(&[("GNU.sparse.map", b"0,512"), ("GNU.sparse.size", b"100")]),
            "sparse",
        ),
        (
            "sparse overlapping",
            sparse(&[
                ("GNU.sparse.map", b"0,256,128,256"),
                ("GNU.sparse.size", b"1000"),
            ]),
            "sparse",
        ),
        (
            "sparse backwards",
            sparse(&[
                ("GNU.sparse.map", b"600,256,0,256"),
                ("GNU.sparse.size", b"1000"),
            ]),
            "sparse",
        ),
        (
            "sparse overflow",
            sparse(&[
                ("GNU.sparse.map", b"18446744073709551615,512"),
                ("GNU.sparse.size", b"1000"),
            ]),
            "sparse",
        ),
        (
            "sparse short of data",
            sparse(&[("GNU.sparse.map", b"0,1024"), ("GNU.sparse.size", b"2000")]),
            "sparse",
        ),
        (
            "sparse with data left",
            sparse(&[("GNU.sparse.map", b"0,256"), ("GNU.sparse.size", b"2000")]),
            "sparse",
        ),
        (
            "sparse with half a pair",
            sparse(&[("GNU.sparse.map", b"0,512,7"), ("GNU.sparse.size", b"2000")]),
            "sparse",
        ),
        (
            "sparse without a size",
            sparse(&[("GNU.sparse.map", b"0,512")]),
            "sparse",
        ),
        (
            "sparse of another version",
            sparse(&[
                ("GNU.sparse.major", b"2"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"9"),
            ]),
            "sparse",
        ),
        (
            "sparse with a wrong count",
            sparse(&[
                ("GNU.sparse.map", b"0,512"),
                ("GNU.sparse.numblocks", b"9"),
                ("GNU.sparse.size", b"2000"),
            ]),
            "sparse",
        ),
        (
            "sparse of petabytes",
            sparse(&[
                ("GNU.sparse.map", b"0,512"),
                ("GNU.sparse.size", b"9000000000000000"),
            ]),
            "exceeds",
        ),
        (
            "sparse directory",
            Tar::new()
                .pax(&[("GNU.sparse.size", b"1")])
                .entry(&Entry::dir("d"))
                .end(),
            "sparse",
        ),
        (
            "sparse 1.0 map of nonsense",
            sparse(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"9"),
            ]),
            "sparse",
        ),
        (
            "sparse 1.0 map without end",
            Tar::new()
                .pax(&[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.realsize", b"9"),
                ])
                .entry(&Entry::file(
                    "s",
                    "100000\n0\n".to_owned() + &"1\n".repeat(251),
                ))
                .end(),
            "sparse",
        ),
        (
            "sparse 1.0 map of billions",
            Tar::new()
                .pax(&[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.realsize", b"9"),
                ])
                .entry(&Entry::file("s", "4000000000\n".repeat(60)))
                .end(),
            "exceeds",
        ),
    ]
}
