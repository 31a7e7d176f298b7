//! A container that exchanges what a path leads to, while that is copied.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::docker;
use super::files::{scratch, text};
use super::same;
use super::session::{IMAGE, Session};
use crate::command::run;

/// Requests of each kind while a path is exchanged.
const RACES: usize = 400;

/// One request over a connection of its own: what came back.
fn raw(socket: &Path, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>> {
    let mut connection = UnixStream::connect(socket)?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    connection.write_all(head.as_bytes())?;
    connection.write_all(body)?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    Ok(answer)
}

/// The attacker's part is played from the host: it exchanges a directory that the container has for a
/// link to a directory of the host, as a container can (CVE-2018-15664).
pub fn race(session: &mut Session) -> Result<()> {
    let (shared, outside) = (scratch(session, "shared"), scratch(session, "outside"));
    fs::create_dir_all(shared.join("dir"))?;
    fs::create_dir(&outside)?;
    fs::write(shared.join("dir/secret"), "inside")?;
    fs::write(outside.join("secret"), "of-the-host")?;
    symlink(&outside, shared.join("link"))?;
    let before = fs::metadata(outside.join("secret"))?;
    let bind = format!("{}:/v", shared.display());
    docker(
        session,
        &[
            "run", "-d", "--name", "racer", "-v", &bind, IMAGE, "sleep", "1000",
        ],
    )?;
    let archive = scratch(session, "race.tar");
    let evil = scratch(session, "evil");
    fs::create_dir(&evil)?;
    fs::write(evil.join("secret"), "evil")?;
    run(Command::new("tar").args(["-cf", &text(&archive), "-C", &text(&evil), "secret"]))?;
    let archive = fs::read(&archive)?;
    let stop = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (one, other) = (shared.join("dir"), shared.join("link"));
            while !stop.load(Ordering::Relaxed) {
                let _again = renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE);
            }
        });
        let outcome = attack(&session.docker.socket, &archive);
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    let (told, refused) = outcome?;
    ensure!(
        told > 0 && refused > 0,
        "no race: {told} answered, {refused} refused"
    );
    let names: Vec<_> = fs::read_dir(&outside)?.collect();
    same("files outside", names.len(), 1)?;
    let after = fs::metadata(outside.join("secret"))?;
    same(
        "the file outside",
        (after.ino(), after.ctime_nsec()),
        (before.ino(), before.ctime_nsec()),
    )?;
    docker(session, &["rm", "-f", "racer"]).map(drop)
}

/// How many requests were answered, and how many refused.
fn attack(socket: &Path, archive: &[u8]) -> Result<(usize, usize)> {
    let (mut told, mut refused) = (0, 0);
    let requests = [
        (
            "GET",
            "/containers/racer/archive?path=/v/dir/secret",
            &[][..],
        ),
        ("GET", "/containers/racer/archive?path=/v/dir/", &[]),
        ("PUT", "/containers/racer/archive?path=/v/dir", archive),
    ];
    for _ in 0..RACES {
        for (method, path, body) in requests {
            let answer = raw(socket, method, path, body)?;
            let found = answer.windows(11).any(|part| part == b"of-the-host");
            ensure!(!found, "{method} {path} gave a file of the host");
            match answer.starts_with(b"HTTP/1.1 200") {
                true => told += 1,
                false => refused += 1,
            }
        }
    }
    Ok((told, refused))
}
