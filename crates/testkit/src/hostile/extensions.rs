//! PAX records, GNU long names and extended attributes that contradict or overflow.

use super::Doubtful;
use crate::archive::*;

pub fn cases() -> Vec<Doubtful> {
    let ok = || Entry::file("ok", "data");
    let smuggled = Tar::of([Entry::file("hidden", "1")]).0;
    let smuggling = Entry {
        size: Some(0),
        ..Entry::file("carrier", "")
    };
    vec![
        (
            "PAX size hides entries",
            Tar::new()
                .pax(&[("size", b"1024")])
                .entry(&smuggling)
                .raw(&smuggled)
                .end(),
            "disagree",
        ),
        (
            "PAX size of nothing",
            Tar::new()
                .pax(&[("size", b"0")])
                .entry(&Entry::file("carrier", &smuggled))
                .end(),
            "disagree",
        ),
        (
            "PAX size on a link",
            Tar::new()
                .pax(&[("size", b"512")])
                .entry(&Entry::symlink("l", "x"))
                .raw(&[0; 512])
                .end(),
            "disagree",
        ),
        (
            "negative PAX size",
            Tar::new().pax(&[("size", b"-1")]).entry(&ok()).end(),
            "size",
        ),
        (
            "PAX size of 2^64",
            Tar::new()
                .pax(&[("size", b"18446744073709551616")])
                .entry(&ok())
                .end(),
            "size",
        ),
        (
            "PAX uid of all ones",
            Tar::new().pax(&[("uid", b"4294967295")]).entry(&ok()).end(),
            "uid",
        ),
        (
            "PAX uid of 2^32",
            Tar::new().pax(&[("uid", b"4294967296")]).entry(&ok()).end(),
            "uid",
        ),
        (
            "PAX uid with a sign",
            Tar::new().pax(&[("uid", b"-0")]).entry(&ok()).end(),
            "uid",
        ),
        (
            "PAX gid of words",
            Tar::new().pax(&[("gid", b"root")]).entry(&ok()).end(),
            "gid",
        ),
        (
            "PAX mtime of words",
            Tar::new().pax(&[("mtime", b"now")]).entry(&ok()).end(),
            "mtime",
        ),
        (
            "NUL in PAX path",
            Tar::new().pax(&[("path", b"a\0b")]).entry(&ok()).end(),
            "PAX record",
        ),
        (
            "NUL in PAX link",
            Tar::new()
                .pax(&[("linkpath", b"a\0b")])
                .entry(&Entry::symlink("l", "x"))
                .end(),
            "PAX record",
        ),
        (
            "two PAX headers",
            Tar::new()
                .pax(&[("path", b"a")])
                .pax(&[("path", b"b")])
                .entry(&ok())
                .end(),
            "twice",
        ),
        (
            "two long names",
            Tar::new()
                .long(b'L', b"a")
                .long(b'L', b"b")
                .entry(&ok())
                .end(),
            "twice",
        ),
        (
            "two long links",
            Tar::new()
                .long(b'K', b"a")
                .long(b'K', b"b")
                .entry(&ok())
                .end(),
            "twice",
        ),
        (
            "PAX path and long name",
            Tar::new()
                .pax(&[("path", b"a")])
                .long(b'L', b"b")
                .entry(&ok())
                .end(),
            "twice",
        ),
        (
            "PAX link and long link",
            Tar::new()
                .pax(&[("linkpath", b"a")])
                .long(b'K', b"b")
                .entry(&ok())
                .end(),
            "twice",
        ),
        (
            "PAX header at the end",
            Tar::of([ok()]).pax(&[("path", b"a")]).end(),
            "without an entry",
        ),
        (
            "long name at the end",
            Tar::of([ok()]).long(b'L', b"a").0,
            "without an entry",
        ),
        (
            "global header in between",
            Tar::new()
                .pax(&[("path", b"a")])
                .extended(b'g', &[("comment", b"c")])
                .entry(&ok())
                .end(),
            "without an entry",
        ),
        (
            "global path",
            Tar::new()
                .extended(b'g', &[("path", b"a")])
                .entry(&ok())
                .end(),
            "global",
        ),
        (
            "global size",
            Tar::new()
                .extended(b'g', &[("size", b"0")])
                .entry(&ok())
                .end(),
            "global",
        ),
        (
            "global attribute",
            Tar::new()
                .extended(b'g', &[("SCHILY.xattr.user.a", b"1")])
                .entry(&ok())
                .end(),
            "global",
        ),
        (
            "empty long name",
            Tar::new().long(b'L', b"").entry(&ok()).end(),
            "long name",
        ),
        (
            "long name without its end",
            Tar::new()
                .entry(&Entry {
                    data: b"abc".to_vec(),
                    gnu: true,
                    ..Entry::new(b'L', "n")
                })
                .entry(&ok())
                .end(),
            "long name",
        ),
        (
            "long name with two ends",
            Tar::new().long(b'L', b"a\0b").entry(&ok()).end(),
            "long name",
        ),
        (
            "PAX length too long",
            Tar::new()
                .entry(&Entry {
                    data: b"99 a=b\n".to_vec(),
                    ..Entry::new(b'x', "n")
                })
                .entry(&ok())
                .end(),
            "PAX record",
        ),
        (
            "PAX record without =",
            Tar::new()
                .entry(&Entry {
                    data: b"6 abc\n".to_vec(),
                    ..Entry::new(b'x', "n")
                })
                .entry(&ok())
                .end(),
            "PAX record",
        ),
        (
            "PAX record without end",
            Tar::new()
                .entry(&Entry {
                    data: b"6 a=bc".to_vec(),
                    ..Entry::new(b'x', "n")
                })
                .entry(&ok())
                .end(),
            "PAX record",
        ),
        (
            "giant PAX header",
            Tar::new()
                .pax(&[("comment", &vec![b'x'; 2 << 20])])
                .entry(&ok())
                .end(),
            "exceeds",
        ),
        (
            "overlay attribute",
            Tar::new()
                .pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/etc")])
                .entry(&ok())
                .end(),
            "reserved",
        ),
        (
            "overlay attribute on a link",
            Tar::new()
                .pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")])
                .entry(&Entry::symlink("l", "x"))
                .end(),
            "reserved",
        ),
        (
            "encoded overlay attribute",
            Tar::new()
                .pax(&[("LIBARCHIVE.xattr.trusted.overlay%2eopaque", b"eQ==")])
                .entry(&Entry::dir("d"))
                .end(),
            "reserved",
        ),
        (
            "attribute without a name",
            Tar::new()
                .pax(&[("SCHILY.xattr.", b"1")])
                .entry(&ok())
                .end(),
            "PAX record",
        ),
        (
            "capability of three bytes",
            Tar::new()
                .pax(&[("SCHILY.xattr.security.capability", b"abc")])
                .entry(&ok())
                .end(),
            "malformed",
        ),
        (
            "attribute beyond the kernel",
            Tar::new()
                .pax(&[("SCHILY.xattr.user.a", &[b'x'; 65_537])])
                .entry(&ok())
                .end(),
            "exceeds",
        ),
    ]
}
