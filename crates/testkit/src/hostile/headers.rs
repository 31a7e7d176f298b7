//! Headers that lie or that are of no kind we know.

use super::Doubtful;
use crate::archive::*;

pub fn cases() -> Vec<Doubtful> {
    let ok = || Entry::file("ok", "data");
    let with = |at: usize, bytes: &[u8]| {
        let mut block = ok().block();
        put(&mut block, at, bytes);
        seal(&mut block);
        Tar::new().raw(&block).data(b"data").end()
    };
    let mut flipped = ok().block();
    flipped[0] ^= 1;
    let sized = |kind: u8| Entry {
        data: vec![1; 512],
        ..Entry::new(kind, "x")
    };
    vec![
        (
            "flipped bit",
            Tar::new().raw(&flipped).data(b"data").end(),
            "checksum",
        ),
        (
            "text instead of a header",
            [b'x'; 1024].to_vec(),
            "checksum",
        ),
        (
            "cut header",
            Tar::of([ok()]).0[..300].to_vec(),
            "ends early",
        ),
        (
            "cut data",
            Tar::of([Entry::file("x", [0; 2000])]).0[..1500].to_vec(),
            "ends early",
        ),
        (
            "lone zero block",
            Tar::new().raw(&[0; 512]).entry(&ok()).end(),
            "zero block",
        ),
        ("letters in size", with(124, b"0000000zz4\0\0"), "size"),
        ("negative size", with(124, &[0xff; 12]), "size"),
        (
            "huge size",
            with(
                124,
                &[0x80, 0, 0, 0, 0x7f, 255, 255, 255, 255, 255, 255, 255],
            ),
            "exceeds",
        ),
        ("size beyond 63 bits", with(124, &[0xbf; 12]), "size"),
        (
            "uid of all ones",
            with(108, &[0x80, 0, 0, 0, 255, 255, 255, 255]),
            "uid",
        ),
        ("negative gid", with(116, &[0xff; 8]), "gid"),
        ("letters in mode", with(100, b"rwxr-xr\0"), "mode"),
        ("letters in mtime", with(136, b"yesterday\0\0\0"), "mtime"),
        ("unknown type", with(156, b"Z"), "not supported"),
        ("multi-volume", with(156, b"M"), "not supported"),
        ("volume label", with(156, b"V"), "not supported"),
        (
            "sparse type without GNU magic",
            with(156, b"S"),
            "not supported",
        ),
        (
            "hard link with data",
            Tar::of([
                ok(),
                Entry {
                    link: b"ok".to_vec(),
                    ..sized(b'1')
                },
            ])
            .end(),
            "no data",
        ),
        (
            "symlink with data",
            Tar::of([Entry {
                link: b"ok".to_vec(),
                ..sized(b'2')
            }])
            .end(),
            "no data",
        ),
        ("device with data", Tar::of([sized(b'3')]).end(), "no data"),
        (
            "directory with data",
            Tar::of([sized(b'5')]).end(),
            "no data",
        ),
        ("fifo with data", Tar::of([sized(b'6')]).end(), "no data"),
        (
            "old directory with data",
            Tar::of([Entry {
                name: b"d/".to_vec(),
                ..sized(b'0')
            }])
            .end(),
            "no data",
        ),
    ]
}
