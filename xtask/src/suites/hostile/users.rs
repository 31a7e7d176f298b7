//! /etc/passwd and /etc/group of images.

use anyhow::{Context, Result, ensure};
use berth_testkit::archive::{Entry, Tar};
use berth_testkit::image::Recipe;

use super::stage::{Stage, is_refused};
use crate::suites::node::session::Session;

/// Larger than memory, without end, or elsewhere: told so, and not read.
pub fn databases(stage: &mut Stage) -> Result<()> {
    let sparse = Tar::new()
        .pax(&[
            ("GNU.sparse.map", b"0,512"),
            ("GNU.sparse.size", b"8589934592"),
        ])
        .entry(&Entry::file("etc/passwd", [b'x'; 512]));
    let node = |major, minor| Tar::of([Entry::device("etc/passwd", major, minor)]);
    let cases = [
        ("8 GiB", sparse),
        ("a FIFO", Tar::of([Entry::new(b'6', "etc/passwd")])),
        ("a device without end", node(1, 5)),
        ("a device of random bytes", node(1, 9)),
        (
            "a link to a device",
            Tar::of([
                Entry::device("etc/zero", 1, 5),
                Entry::symlink("etc/passwd", "zero"),
            ]),
        ),
        ("a directory", Tar::of([Entry::dir("etc/passwd")])),
    ];
    for (case, archive) in cases {
        let image = stage.image_with(archive.end(), Recipe::new().user("stowaway"))?;
        let config = stage.waiting(&image);
        let answer = stage.run(&config, |_, _| Ok(()))?;
        is_refused(case, &answer, &["etc/passwd"])?;
        stage.remove(&image)?;
    }
    // Links that lead to the host's own file find none in the image.
    for target in ["/proc/1/root/etc/passwd", "../../../../../../etc/passwd"] {
        let archive = Tar::of([Entry::symlink("etc/passwd", target)]).end();
        let image = stage.image_with(archive, Recipe::new().user("daemon"))?;
        let config = stage.waiting(&image);
        let answer = stage.run(&config, |_, _| Ok(()))?;
        is_refused(target, &answer, &[])?;
        stage.remove(&image)?;
    }
    Ok(())
}

/// Numbers that the kernel would cut are refused; others stay what they are, whatever the image
/// calls by that name.
pub fn numbers(stage: &mut Stage) -> Result<()> {
    let database = "root:x:0:0::/root:\n1000:x:0:0::/:\nneg:x:-1:0::/:\nwide:x:4294967296:0::/:\n";
    let archive = Tar::of([Entry::file("etc/passwd", database)]).end();
    for user in [
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "-1",
        "0x0",
        "neg",
        "wide",
        "1000:4294967296",
        " 0",
        "root\n",
    ] {
        let image = stage.image_with(archive.clone(), Recipe::new().user(user))?;
        let config = stage.waiting(&image);
        let answer = stage.run(&config, |_, _| Ok(()))?;
        is_refused(&format!("user {user:?}"), &answer, &[])?;
        stage.remove(&image)?;
    }
    for (user, expected) in [("1000", "1000"), ("2147483648", "2147483648"), ("1", "1")] {
        let image = stage.image_with(archive.clone(), Recipe::new().user(user))?;
        let config = stage.waiting(&image);
        stage
            .run(&config, |session, container| {
                let uid = said(session, container, "id -u")?;
                ensure!(uid.trim() == expected, "user {user:?} became {uid:?}");
                Ok(())
            })?
            .with_context(|| format!("user {user:?}"))?;
        stage.remove(&image)?;
    }
    Ok(())
}

/// A home cannot bring a variable of its own along.
pub fn homes(stage: &mut Stage) -> Result<()> {
    for home in ["/a\rLD_PRELOAD=/evil", "/a\u{b}EVIL=1", "/\u{1b}[2J"] {
        let database = format!("u:x:7:7::{home}:\nroot:x:0:0::/root:\n");
        let archive = Tar::of([Entry::file("etc/passwd", database)]).end();
        let image = stage.image_with(archive, Recipe::new().user("u"))?;
        let config = stage.waiting(&image);
        stage
            .run(&config, |session, container| {
                let seen = said(session, container, "cat /proc/1/environ | tr '\\0' '|'")?;
                ensure!(seen.contains("HOME=/|"), "{home:?}: {seen:?}");
                let leaked = seen.contains("LD_PRELOAD") || seen.contains("EVIL");
                ensure!(!leaked, "{home:?}: {seen:?}");
                Ok(())
            })?
            .with_context(|| format!("home {home:?}"))?;
        stage.remove(&image)?;
    }
    Ok(())
}

/// What a script prints in a container.
pub fn said(session: &mut Session, container: &str, script: &str) -> Result<String> {
    let words = ["sh", "-c", script];
    let said = session.cri.exec(container, &words).context("ExecSync")?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let error = String::from_utf8_lossy(&said.stderr);
    ensure!(said.exit_code == 0, "{script}: {}: {error}", said.exit_code);
    Ok(text)
}
