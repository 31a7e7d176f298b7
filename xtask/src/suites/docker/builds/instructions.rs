//! What single instructions make.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use anyhow::{Context, Result};

use super::{build, container, context};
use crate::command::run;
use crate::suites::docker::session::Session;
use crate::suites::docker::{contains, same};

pub fn copies(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!(
        "FROM {base}\nRUN mkdir -p /real/dir && chmod 1770 /real && ln -s /real /link && ln -s ../../../../etc /real/up\n\
         COPY a.txt /link/dir\nCOPY a.txt /link/new.txt\nCOPY *.txt dir /many/\n\
         COPY --chown=www-data:33 --chmod=0640 a.txt /owned\nCOPY --chmod=u=rw,go=r exec /plain\n\
         COPY --exclude=**/skip dir/ /kept/\nCOPY --parents dir/deep/file /parents/\n\
         COPY --link a.txt /linked/\nADD files.tar.gz /unpacked/\nADD --unpack=false files.tar.gz /packed/\n\
         COPY a.txt /real/up/added\nWORKDIR /made/here\nCOPY a.txt .\n\
         COPY <<one.txt <<two.txt /documents/\nfirst $base\none.txt\nsecond\ntwo.txt\n"
    );
    let directory = context(
        session,
        &[
            ("Dockerfile", &text),
            (".dockerignore", "ignored\n**/*.log\n"),
            ("a.txt", "a\n"),
            ("b.txt", "b\n"),
            ("exec", "x\n"),
            ("ignored/x", ""),
            ("dir/x.log", ""),
            ("dir/skip", ""),
            ("dir/deep/file", "deep\n"),
            ("dir/deep/skip", ""),
        ],
    )?;
    fs::set_permissions(directory.join("exec"), fs::Permissions::from_mode(0o755))
        .context("changing a mode")?;
    symlink("deep/file", directory.join("dir/to-file")).context("linking")?;
    run(Command::new("tar")
        .arg("-C")
        .arg(directory.join("dir"))
        .arg("-czf")
        .arg(directory.join("files.tar.gz"))
        .arg("deep"))?;
    build(session, &directory, &["-t", "built/copies:1"])?;
    let script = "set -e; stat -c '%n %a %u:%g' /real /real/dir/a.txt /real/new.txt /owned /plain /linked/a.txt; \
         readlink /many/to-file; cat /many/a.txt /many/b.txt /many/deep/file; ls -A /kept /kept/deep; \
         find /parents /unpacked /packed /documents -type f | sort; cat /etc/added /made/here/a.txt; \
         cat /documents/one.txt; ls -d /link/ /bin; test ! -e /many/x.log; readlink /link";
    let found = container(session, "built/copies:1", &["sh", "-c", script])?;
    let expected = "/real 1770 0:0\n/real/dir/a.txt 644 0:0\n/real/new.txt 644 0:0\n\
        /owned 640 33:33\n/plain 644 0:0\n/linked/a.txt 644 0:0\ndeep/file\na\nb\ndeep\n\
        /kept:\ndeep\nto-file\n\n/kept/deep:\nfile\n\
        /documents/one.txt\n/documents/two.txt\n/packed/files.tar.gz\n\
        /parents/dir/deep/file\n/unpacked/deep/file\n/unpacked/deep/skip\na\na\nfirst\n/bin\n/link/\n/real";
    let found: Vec<&str> = found.lines().map(str::trim_end).collect();
    let expected: Vec<&str> = expected.lines().map(str::trim).collect();
    same("what is in the image", found, expected)
}

pub fn runs(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!(
        "FROM {base}\nARG SEEN=yes\nENV A=1\nRUN mkdir /w && chown 33:33 /w\nUSER www-data:nogroup\nWORKDIR /w\n\
         RUN id -u > id; id -g >> id; pwd >> id; echo $SEEN $A >> id; rm -f /tmp/x\n\
         USER root\nSHELL [\"/bin/busybox\", \"sh\", \"-ec\"]\nRUN --network=none ls /sys/class/net > /net; grep added /etc/hosts > /hosts; cat /proc/self/status | grep -i seccomp: > /seccomp\n\
         VOLUME /kept\nRUN mkdir -p /kept && echo kept > /kept/file\nRUN ls -A /dev/shm /etc | grep -c resolv.conf > /resolv || true\n"
    );
    let directory = context(session, &[("Dockerfile", &text)])?;
    build(
        session,
        &directory,
        &["-t", "built/runs:1", "--add-host", "added:10.1.2.3"],
    )?;
    let script = "cat /w/id /net /hosts /seccomp /kept/file; stat -c %U:%G /w/id";
    let found = container(session, "built/runs:1", &["sh", "-c", script])?;
    let found: Vec<&str> = found.lines().collect();
    let expected = [
        "33",
        "65534",
        "/w",
        "yes 1",
        "lo",
        "10.1.2.3\tadded",
        "Seccomp:\t2",
        "kept",
        "www-data:nogroup",
    ];
    same("what the commands saw", found, expected.to_vec())?;
    // What was mounted for a command is no part of its layer.
    let archive = session.place.scratch().join("runs.tar");
    let path = archive.display().to_string();
    session
        .docker
        .text(&["save", "-o", &path, "built/runs:1"])?;
    let listed = container(
        session,
        "built/runs:1",
        &["sh", "-c", "ls /run/berth* 2>/dev/null; true"],
    )?;
    same("left by mounts", listed, String::new())
}

pub fn mounts(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = |round: &str| {
        format!(
            "FROM {base} AS tools\nRUN echo tool > /tool\nFROM {base}\n\
             RUN --mount=type=cache,target=/cache,id=suite echo {round} >> /cache/rounds && cp /cache/rounds /rounds\n\
             RUN --mount=target=/ctx --mount=from=tools,source=/tool,target=/tool cat /ctx/file /tool > /bound\n\
             RUN --mount=type=tmpfs,target=/t touch /t/x && grep -c ' /t tmpfs' /proc/mounts > /tmpfs\n\
             RUN <<END\nset -e\nvalue=inner\necho \"$value\" > /script\nEND\n\
             RUN <<END\n#!/bin/busybox sh\necho $0 > /shebang\nEND\n\
             RUN cat <<A > /cat\nthrough\nA\n"
        )
    };
    let first = text("first");
    let directory = context(
        session,
        &[("Dockerfile", &first), ("file", "from the context\n")],
    )?;
    build(session, &directory, &[])?;
    fs::write(directory.join("Dockerfile"), text("second")).context("writing a Dockerfile")?;
    build(session, &directory, &["-t", "built/mounts:1"])?;
    let script = "cat /rounds /bound /tmpfs /script /cat; test -s /shebang; ls -d /cache /ctx /t /tool 2>&1 | grep -v 'No such'; true";
    let found = container(session, "built/mounts:1", &["sh", "-c", script])?;
    let found: Vec<&str> = found.lines().collect();
    let expected = [
        "first",
        "second",
        "from the context",
        "tool",
        "1",
        "inner",
        "through",
    ];
    same("what the mounts gave", found, expected.to_vec())
}

pub fn triggers(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!("FROM {base}\nONBUILD COPY file /file\nONBUILD RUN echo run >> /file\n");
    let directory = context(session, &[("Dockerfile", &text)])?;
    build(session, &directory, &["-t", "built/base:1"])?;
    let directory = context(
        session,
        &[
            ("Dockerfile", "FROM built/base:1\nCMD cat /file\n"),
            ("file", "copied\n"),
        ],
    )?;
    let told = build(session, &directory, &["-t", "built/on:1"])?;
    contains("docker build", &told, "# Executing 2 build triggers")?;
    same(
        "the file",
        container(session, "built/on:1", &[])?,
        "copied\nrun".to_owned(),
    )?;
    let left = ["inspect", "--format", "{{.Config.OnBuild}}", "built/on:1"];
    same(
        "triggers left",
        session.docker.text(&left)?,
        "[]".to_owned(),
    )
}
