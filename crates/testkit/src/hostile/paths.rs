//! Names, links and whiteouts that lead nowhere good.

use super::Doubtful;
use crate::archive::*;

pub fn cases() -> Vec<Doubtful> {
    let ok = || Entry::file("ok", "data");
    vec![
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
