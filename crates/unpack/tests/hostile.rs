//! Layers made to harm: none may touch what is outside the target, and none may be half-understood.

// A failed expectation here is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod archive;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use archive::*;
use berth_unpack::{Error, Limits, Options};

/// Everything that can be told of a tree: names, types, owners, modes, times, links, content.
fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let content = if kind.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            String::new()
        } else if kind.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else if kind.is_file() {
            String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()
        } else {
            format!("device {} fifo {}", meta.rdev(), kind.is_fifo())
        };
        let (mode, uid, gid) = (meta.mode(), meta.uid(), meta.gid());
        let (nlink, mtime, ctime) = (meta.nlink(), meta.mtime_nsec(), meta.ctime_nsec());
        let line = format!("{mode:o} {uid} {gid} {nlink} {mtime} {ctime} {content}");
        seen.insert(path, line);
    }
    seen
}

/// The tree beside the targets.
struct Canary {
    path: PathBuf,
    before: BTreeMap<PathBuf, String>,
    passwd: (u64, i64),
}

impl Canary {
    fn new(place: &Place) -> Self {
        let path = place.dir.path().join("canary");
        fs::create_dir_all(path.join("d/e")).unwrap();
        fs::write(path.join("f"), "untouched").unwrap();
        fs::write(path.join("d/g"), "untouched").unwrap();
        symlink("f", path.join("l")).unwrap();
        let before = picture(&path);
        Self {
            path,
            before,
            passwd: passwd(),
        }
    }

    fn check(&self, case: &str) {
        assert_eq!(
            picture(&self.path),
            self.before,
            "{case} reached the canary"
        );
        assert_eq!(passwd(), self.passwd, "{case} reached /etc/passwd");
    }
}

fn passwd() -> (u64, i64) {
    let meta = fs::metadata("/etc/passwd").unwrap();
    (meta.ino(), meta.ctime_nsec())
}

/// Ways to name something in the canary: what has to be in the layer first, and the directory.
fn routes(canary: &Path) -> Vec<(String, Vec<Entry>, String)> {
    let absolute = canary.to_str().unwrap().to_owned();
    let mut routes: Vec<(String, Vec<Entry>, String)> = [
        "../canary".to_owned(),
        "/../canary".to_owned(),
        "./../canary".to_owned(),
        "a/../../canary".to_owned(),
        "a/b/../../../canary".to_owned(),
        absolute.clone(),
        format!("//{absolute}/"),
    ]
    .into_iter()
    .map(|path| (format!("path {path}"), Vec::new(), path))
    .collect();
    for target in [
        absolute.clone(),
        "../canary".to_owned(),
        "../../../../../../../../../../..".to_owned() + &absolute,
        format!("/proc/self/root{absolute}"),
        "/proc/self/cwd/../canary".to_owned(),
        format!("./.././../{}", "x/../".repeat(30) + "canary"),
        "/..".to_owned() + &absolute,
    ] {
        let link = Entry::symlink("link", &target);
        routes.push((format!("link to {target}"), vec![link], "link".to_owned()));
    }
    let root = || Entry::symlink("up", "/");
    let chain = vec![root(), Entry::symlink("link", format!("up{absolute}"))];
    routes.push(("two links".to_owned(), chain, "link".to_owned()));
    let nested = vec![
        Entry::dir("d"),
        Entry::symlink("d/up", ".."),
        Entry::symlink("link", "d/up/../.."),
    ];
    routes.push((
        "a link with ..".to_owned(),
        nested,
        "link/canary".to_owned(),
    ));
    let hard = vec![
        Entry::symlink("soft", &absolute),
        Entry::hard_link("link", "soft"),
    ];
    routes.push(("a hard link to a link".to_owned(), hard, "link".to_owned()));
    let swapped = vec![
        Entry::dir("link"),
        Entry::symlink("link", "/tmp"),
        Entry::symlink("link", &absolute),
    ];
    routes.push((
        "a directory that became a link".to_owned(),
        swapped,
        "link".to_owned(),
    ));
    routes
}

/// Things to do at `route`, a directory of the canary if the layer gets its way.
fn deeds(route: &str) -> Vec<(String, Tar)> {
    let at = |name: &str| format!("{route}/{name}");
    let one = |name: &str, entry: Entry| (name.to_owned(), Tar::new().add(&entry));
    let mut deeds = vec![
        one("overwrite", Entry::file(at("f"), "harmed")),
        one("create", Entry::file(at("new"), "harmed")),
        one("setuid", Entry::file(at("d/g"), "harmed").mode(0o4755)),
        one("directory", Entry::dir(at("d")).mode(0o777).owner(7, 7)),
        one("route itself", Entry::dir(route).mode(0o777).owner(7, 7)),
        one("deep directory", Entry::dir(at("new/x/y"))),
        one("symlink", Entry::symlink(at("f"), "/etc/passwd")),
        one("device", Entry::device(at("f"), 1, 3)),
        one(
            "block device",
            Entry {
                kind: b'4',
                ..Entry::device(at("new"), 8, 0)
            },
        ),
        one("fifo", Entry::new(b'6', at("f"))),
        one("whiteout", Entry::file(at(".wh.f"), "")),
        one("directory whiteout", Entry::file(at(".wh.d"), "")),
        one("opaque", Entry::file(at(".wh..wh..opq"), "")),
        one("hard link out", Entry::hard_link("taken", at("f"))),
        one(
            "hard link to a directory",
            Entry::hard_link("taken", at("d")),
        ),
        one("hard link in", Entry::hard_link(at("f"), "present")),
    ];
    let through = [
        Entry::hard_link("taken", at("f")),
        Entry::file("taken", "harmed").mode(0o777),
    ];
    deeds.push(("write through a hard link".to_owned(), Tar::of(through)));
    let through = [
        Entry::symlink("soft", at("f")),
        Entry::file("soft", "harmed").mode(0o777).owner(7, 7),
    ];
    deeds.push(("write through a link".to_owned(), Tar::of(through)));
    let pax = Tar::new()
        .pax(&[("path", at("f").as_bytes())])
        .add(&Entry::file("ok", "harmed"));
    deeds.push(("PAX path".to_owned(), pax));
    let long = Tar::new()
        .long(b'L', at("f").as_bytes())
        .add(&Entry::file("ok", "harmed"));
    deeds.push(("GNU long name".to_owned(), long));
    let link = Tar::new()
        .pax(&[("linkpath", at("f").as_bytes())])
        .add(&Entry::hard_link("taken", "present"));
    deeds.push(("PAX link path".to_owned(), link));
    deeds
}

#[test]
fn no_layer_reaches_outside_its_target() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let canary = Canary::new(&place);
    let mut layers = 0;
    let before_all = open_descriptors();
    for (route_name, before, route) in routes(&canary.path) {
        for (deed, tar) in deeds(&route) {
            let case = format!("{deed} by {route_name}");
            let archive = Tar::of(before.clone())
                .add(&Entry::file("present", "1"))
                .raw(&tar.0)
                .end();
            let (target, outcome) = place.unpack(&archive, &Options::default());
            canary.check(&case);
            if let Err(error) = outcome {
                let told = matches!(error, Error::Refused { .. } | Error::Header { .. });
                assert!(told, "{case}: {error:?}");
            }
            fs::remove_dir_all(target).unwrap();
            layers += 1;
        }
    }
    assert!(layers >= 200, "{layers} layers");
    // Other tests of this process hold a few of their own.
    assert!(open_descriptors() < before_all + 100, "descriptors leak");
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Archives whose meaning is doubtful, each with what the error has to say.
fn malformed() -> Vec<(&'static str, Vec<u8>, &'static str)> {
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
    let smuggled = Tar::of([Entry::file("hidden", "1")]).0;
    let smuggling = Entry {
        size: Some(0),
        ..Entry::file("carrier", "")
    };
    let sparse = |records: &[(&str, &[u8])]| {
        Tar::new()
            .pax(records)
            .add(&Entry::file("s", [7; 512]))
            .end()
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
            Tar::new().raw(&[0; 512]).add(&ok()).end(),
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
        (
            "PAX size hides entries",
            Tar::new()
                .pax(&[("size", b"1024")])
                .add(&smuggling)
                .raw(&smuggled)
                .end(),
            "disagree",
        ),
        (
            "PAX size of nothing",
            Tar::new()
                .pax(&[("size", b"0")])
                .add(&Entry::file("carrier", &smuggled))
                .end(),
            "disagree",
        ),
        (
            "PAX size on a link",
            Tar::new()
                .pax(&[("size", b"512")])
                .add(&Entry::symlink("l", "x"))
                .raw(&[0; 512])
                .end(),
            "disagree",
        ),
        (
            "negative PAX size",
            Tar::new().pax(&[("size", b"-1")]).add(&ok()).end(),
            "size",
        ),
        (
            "PAX size of 2^64",
            Tar::new()
                .pax(&[("size", b"18446744073709551616")])
                .add(&ok())
                .end(),
            "size",
        ),
        (
            "PAX uid of all ones",
            Tar::new().pax(&[("uid", b"4294967295")]).add(&ok()).end(),
            "uid",
        ),
        (
            "PAX uid of 2^32",
            Tar::new().pax(&[("uid", b"4294967296")]).add(&ok()).end(),
            "uid",
        ),
        (
            "PAX uid with a sign",
            Tar::new().pax(&[("uid", b"-0")]).add(&ok()).end(),
            "uid",
        ),
        (
            "PAX gid of words",
            Tar::new().pax(&[("gid", b"root")]).add(&ok()).end(),
            "gid",
        ),
        (
            "PAX mtime of words",
            Tar::new().pax(&[("mtime", b"now")]).add(&ok()).end(),
            "mtime",
        ),
        (
            "NUL in PAX path",
            Tar::new().pax(&[("path", b"a\0b")]).add(&ok()).end(),
            "PAX record",
        ),
        (
            "NUL in PAX link",
            Tar::new()
                .pax(&[("linkpath", b"a\0b")])
                .add(&Entry::symlink("l", "x"))
                .end(),
            "PAX record",
        ),
        (
            "two PAX headers",
            Tar::new()
                .pax(&[("path", b"a")])
                .pax(&[("path", b"b")])
                .add(&ok())
                .end(),
            "twice",
        ),
        (
            "two long names",
            Tar::new()
                .long(b'L', b"a")
                .long(b'L', b"b")
                .add(&ok())
                .end(),
            "twice",
        ),
        (
            "two long links",
            Tar::new()
                .long(b'K', b"a")
                .long(b'K', b"b")
                .add(&ok())
                .end(),
            "twice",
        ),
        (
            "PAX path and long name",
            Tar::new()
                .pax(&[("path", b"a")])
                .long(b'L', b"b")
                .add(&ok())
                .end(),
            "twice",
        ),
        (
            "PAX link and long link",
            Tar::new()
                .pax(&[("linkpath", b"a")])
                .long(b'K', b"b")
                .add(&ok())
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
                .add(&ok())
                .end(),
            "without an entry",
        ),
        (
            "global path",
            Tar::new()
                .extended(b'g', &[("path", b"a")])
                .add(&ok())
                .end(),
            "global",
        ),
        (
            "global size",
            Tar::new()
                .extended(b'g', &[("size", b"0")])
                .add(&ok())
                .end(),
            "global",
        ),
        (
            "global attribute",
            Tar::new()
                .extended(b'g', &[("SCHILY.xattr.user.a", b"1")])
                .add(&ok())
                .end(),
            "global",
        ),
        (
            "empty long name",
            Tar::new().long(b'L', b"").add(&ok()).end(),
            "long name",
        ),
        (
            "long name without its end",
            Tar::new()
                .add(&Entry {
                    data: b"abc".to_vec(),
                    gnu: true,
                    ..Entry::new(b'L', "n")
                })
                .add(&ok())
                .end(),
            "long name",
        ),
        (
            "long name with two ends",
            Tar::new().long(b'L', b"a\0b").add(&ok()).end(),
            "long name",
        ),
        (
            "PAX length too long",
            Tar::new()
                .add(&Entry {
                    data: b"99 a=b\n".to_vec(),
                    ..Entry::new(b'x', "n")
                })
                .add(&ok())
                .end(),
            "PAX record",
        ),
        (
            "PAX record without =",
            Tar::new()
                .add(&Entry {
                    data: b"6 abc\n".to_vec(),
                    ..Entry::new(b'x', "n")
                })
                .add(&ok())
                .end(),
            "PAX record",
        ),
        (
            "PAX record without end",
            Tar::new()
                .add(&Entry {
                    data: b"6 a=bc".to_vec(),
                    ..Entry::new(b'x', "n")
                })
                .add(&ok())
                .end(),
            "PAX record",
        ),
        (
            "giant PAX header",
            Tar::new()
                .pax(&[("comment", &vec![b'x'; 2 << 20])])
                .add(&ok())
                .end(),
            "exceeds",
        ),
        (
            "overlay attribute",
            Tar::new()
                .pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/etc")])
                .add(&ok())
                .end(),
            "reserved",
        ),
        (
            "overlay attribute on a link",
            Tar::new()
                .pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")])
                .add(&Entry::symlink("l", "x"))
                .end(),
            "reserved",
        ),
        (
            "encoded overlay attribute",
            Tar::new()
                .pax(&[("LIBARCHIVE.xattr.trusted.overlay%2eopaque", b"eQ==")])
                .add(&Entry::dir("d"))
                .end(),
            "reserved",
        ),
        (
            "attribute without a name",
            Tar::new().pax(&[("SCHILY.xattr.", b"1")]).add(&ok()).end(),
            "PAX record",
        ),
        (
            "capability of three bytes",
            Tar::new()
                .pax(&[("SCHILY.xattr.security.capability", b"abc")])
                .add(&ok())
                .end(),
            "malformed",
        ),
        (
            "attribute beyond the kernel",
            Tar::new()
                .pax(&[("SCHILY.xattr.user.a", &[b'x'; 65_537])])
                .add(&ok())
                .end(),
            "exceeds",
        ),
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
                .add(&Entry::dir("d"))
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
                .add(&Entry::file(
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
                .add(&Entry::file("s", "4000000000\n".repeat(60)))
                .end(),
            "exceeds",
        ),
        (
            "empty name",
            Tar::of([Entry::file("", "1")]).end(),
            "empty path",
        ),
        (
            "root as a file",
            Tar::of([Entry::new(b'0', ".")]).end(),
            "root",
        ),
        (
            "root as a link",
            Tar::of([Entry::symlink("./", "/etc")]).end(),
            "root",
        ),
        (
            "root as a device",
            Tar::of([Entry::device("/", 1, 3)]).end(),
            "root",
        ),
        (
            "link to nothing",
            Tar::of([Entry::symlink("l", "")]).end(),
            "empty link",
        ),
        (
            "hard link to nothing",
            Tar::of([Entry::hard_link("l", "")]).end(),
            "empty link",
        ),
        (
            "hard link to the missing",
            Tar::of([Entry::hard_link("l", "absent")]).end(),
            "missing",
        ),
        (
            "hard link to a whiteout",
            Tar::of([Entry::file(".wh.w", ""), Entry::hard_link("l", "w")]).end(),
            "missing",
        ),
        (
            "hard link to the root",
            Tar::of([Entry::hard_link("l", "/")]).end(),
            "cannot be linked",
        ),
        (
            "hard link to a directory",
            Tar::of([Entry::dir("d"), Entry::hard_link("l", "d")]).end(),
            "cannot be linked",
        ),
        (
            "file as a parent",
            Tar::of([ok(), Entry::file("ok/x", "1")]).end(),
            "parent is not",
        ),
        (
            "device as a parent",
            Tar::of([Entry::device("n", 1, 3), Entry::file("n/x", "1")]).end(),
            "parent is not",
        ),
        (
            "link to itself as a parent",
            Tar::of([Entry::symlink("l", "l"), Entry::file("l/x", "1")]).end(),
            "symbolic links",
        ),
        (
            "two links as a parent",
            Tar::of([
                Entry::symlink("a", "b"),
                Entry::symlink("b", "a"),
                Entry::dir("a/x"),
            ])
            .end(),
            "symbolic links",
        ),
        (
            "link that grows",
            Tar::of([Entry::symlink("l", "l/x/x/x"), Entry::file("l/y", "1")]).end(),
            "symbolic links",
        ),
        (
            "file over a full directory",
            Tar::of([Entry::file("d/x", "1"), Entry::file("d", "1")]).end(),
            "not empty",
        ),
        (
            "whiteout of nothing",
            Tar::of([Entry::file(".wh.", "")]).end(),
            "whiteout",
        ),
        (
            "whiteout of .",
            Tar::of([Entry::file("d/.wh..", "")]).end(),
            "whiteout",
        ),
        (
            "whiteout of ..",
            Tar::of([Entry::file("d/.wh...", "")]).end(),
            "whiteout",
        ),
        (
            "whiteout as a parent",
            Tar::of([Entry::file(".wh.d/x", "")]).end(),
            "whiteout",
        ),
        (
            "name too long for a file",
            Tar::of([Entry::file("n".repeat(256), "")]).end(),
            "creating",
        ),
        (
            "path too long",
            Tar::of([Entry::file("n/".repeat(2100), "")]).end(),
            "exceeds",
        ),
        (
            "path too deep",
            Tar::of([Entry::file("n/".repeat(1500) + "x", "")]).end(),
            "exceeds",
        ),
        (
            "link target too long",
            Tar::of([Entry::symlink("l", "n/".repeat(2100))]).end(),
            "exceeds",
        ),
    ]
}

#[test]
fn a_doubtful_archive_is_refused_with_a_reason() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let canary = Canary::new(&place);
    for (case, archive, reason) in malformed() {
        let (_, outcome) = place.unpack(&archive, &Options::default());
        canary.check(case);
        let Err(error) = outcome else {
            panic!("{case} was accepted")
        };
        let told = error.to_string();
        assert!(
            told.contains(reason),
            "{case}: {told:?} does not say {reason:?}"
        );
    }
}

#[test]
fn cutting_an_archive_anywhere_neither_panics_nor_invents() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let whole = Tar::new()
        .pax(&[("mtime", b"1.5")])
        .add(&Entry::file("a", [1; 700]))
        .add(&Entry::symlink("l".repeat(150), "t".repeat(150)))
        .add(&Entry::dir("d"))
        .end();
    for length in (0..whole.len()).step_by(97) {
        let (target, outcome) = place.unpack(&whole[..length], &Options::default());
        if outcome.is_ok() {
            assert_eq!(length % 512, 0, "cut at {length}");
        }
        fs::remove_dir_all(target).unwrap();
    }
}

#[test]
fn limits_hold() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let many = Tar::of((0..50).map(|n| Entry::file(format!("f{n}"), "1"))).end();
    let implied = Tar::of([Entry::file("p/".repeat(60) + "x", "1")]).end();
    let dirs = Tar::of((0..50).map(|n| Entry::dir(format!("directory-{n}")))).end();
    let whiteouts = Tar::of((0..50).map(|n| Entry::file(format!(".wh.{n}"), ""))).end();
    let large = Tar::of([Entry::file("f", vec![0; 9000])]).end();
    let names: Vec<String> = (0..9).map(|n| format!("SCHILY.xattr.user.{n}")).collect();
    let records: Vec<(&str, &[u8])> = names.iter().map(|n| (n.as_str(), &b"1"[..])).collect();
    let attributes = Tar::new().pax(&records).add(&Entry::file("f", "")).end();
    let limits = Limits::default;
    let cases = [
        (
            &many,
            Limits {
                entries: 49,
                ..limits()
            },
            "49 entries",
        ),
        (
            &whiteouts,
            Limits {
                entries: 49,
                ..limits()
            },
            "49 entries",
        ),
        (
            &implied,
            Limits {
                entries: 49,
                ..limits()
            },
            "50 inodes",
        ),
        (
            &dirs,
            Limits {
                directory_name_bytes: 300,
                ..limits()
            },
            "directory names",
        ),
        (
            &large,
            Limits {
                stream_bytes: 9000,
                ..limits()
            },
            "larger than 9000",
        ),
        (
            &large,
            Limits {
                file_bytes: 8999,
                ..limits()
            },
            "8999 bytes of one file",
        ),
        (
            &attributes,
            Limits {
                xattrs: 8,
                ..limits()
            },
            "8 extended attributes",
        ),
        (
            &implied,
            Limits {
                depth: 60,
                ..limits()
            },
            "60 path components",
        ),
    ];
    for (archive, limits, told) in cases {
        let options = Options {
            limits,
            ..Options::default()
        };
        let (_, outcome) = place.unpack(archive, &options);
        let error = outcome.unwrap_err();
        assert!(
            error.to_string().contains(told),
            "{error} does not say {told:?}"
        );
        assert!(error.is_bad_archive());
    }
}

#[test]
fn a_deep_detour_through_links_ends() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let canary = Canary::new(&place);
    // Each link leads to a deep path that begins with the next link.
    let links =
        (0..60).map(|n| Entry::symlink(format!("l{n}"), format!("l{}/{}", n + 1, "x/".repeat(40))));
    let archive = Tar::of(links).add(&Entry::file("l0/f", "1")).end();
    let (_, outcome) = place.unpack(&archive, &Options::default());
    assert!(matches!(outcome, Err(Error::Refused { .. })), "{outcome:?}");
    canary.check("a deep detour");
}

#[test]
fn a_hundred_thousand_whiteouts_are_linear_and_counted() {
    let Some(mut place) = Place::new() else {
        return;
    };
    const COUNT: u64 = 100_000;
    // In memory: what is measured is not the disk.
    place.dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let archive = Tar::of((0..COUNT).map(|n| Entry::file(format!(".wh.{n}"), ""))).end();
    let (target, applied) = place.good(&archive);
    assert_eq!(
        (applied.entries, applied.inodes, applied.bytes),
        (COUNT, COUNT + 1, 0)
    );
    let one = fs::symlink_metadata(target.join("77")).unwrap();
    assert!(one.file_type().is_char_device() && one.rdev() == 0);
}
