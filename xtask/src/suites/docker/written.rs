//! Steps that concern what containers have written: diff, export, commit, and what is told of it.

use std::process::Command;

use anyhow::{Result, ensure};

use super::files::{scratch, strings, text};
use super::session::{IMAGE, Session};
use super::{Step, contains, docker, now, same};
use crate::command::stdout;

/// In order: they use the containers that the steps of `files` leave.
pub const STEPS: &[(&str, Step)] = &[
    ("diff tells what was added, changed and deleted", diff),
    ("export is the root without what is mounted in it", export),
    ("commit makes an image that runs", commit),
    ("events tell of cp, export and commit", events),
    (
        "an image stays for the containers made of it, at rest too",
        kept_for_containers,
    ),
];

fn diff(session: &mut Session) -> Result<()> {
    docker(session, &["run", "--name", "same", IMAGE, "true"])?;
    same(
        "of a container that wrote nothing",
        docker(session, &["diff", "same"])?.as_str(),
        "",
    )?;
    docker(session, &["rm", "same"])?;
    let script = "mkdir -p /new/dir; echo x >/new/dir/f; echo y >>/etc/marker; rm /etc/group; rm -r /var/www; \
                  chmod 700 /home; echo z >/data/f; rm -r /usr/bin; mkdir /usr/bin; echo >/usr/bin/own";
    docker(
        session,
        &[
            "run",
            "--name",
            "wrote",
            "-v",
            "/data",
            "-v",
            "boxdata:/deep/mount",
            "--tmpfs",
            "/mem",
            IMAGE,
            "sh",
            "-c",
            script,
        ],
    )?;
    let mut lines = session.docker.lines(&["diff", "wrote"])?;
    lines.sort();
    let expected = [
        "A /new",
        "A /new/dir",
        "A /new/dir/f",
        "A /usr/bin/own",
        "C /etc",
        "C /etc/marker",
        "C /home",
        "C /usr",
        "C /usr/bin",
        "C /var",
        "D /etc/group",
        "D /usr/bin/ipcmk",
        "D /usr/bin/ipcs",
        "D /usr/bin/pgrep",
        "D /var/www",
    ];
    same("docker diff", lines, strings(&expected))?;
    let missing = session.docker.refusal(&["diff", "nobody"])?;
    contains("diff", &missing, "No such container: nobody")
}

fn export(session: &mut Session) -> Result<()> {
    let states = [
        ("at rest", &["stop", "-t", "0", "box"][..]),
        ("running", &["start", "box"]),
    ];
    for (state, action) in states {
        docker(session, action)?;
        let archive = scratch(session, "export.tar");
        docker(session, &["export", "-o", &text(&archive), "box"])?;
        let names = stdout(Command::new("tar").args(["-tf", &text(&archive)]))?;
        let has = |name: &str| names.lines().any(|known| known == name);
        for there in [
            "bin/busybox",
            "srv/tool",
            "srv/link",
            "etc/passwd",
            "data/",
            "proc/",
        ] {
            ensure!(has(there), "{state}: no {there}");
        }
        ensure!(!has("data/tool"), "{state}: a volume's file is there");
        ensure!(
            names
                .lines()
                .all(|name| name == "dev/" || !name.starts_with("dev/")),
            "{state}: devices"
        );
        let archive = text(&archive);
        let imported = docker(session, &["import", &archive, "exported:1"])?;
        contains("docker import", &imported, "sha256:")?;
        same(
            "it runs",
            docker(session, &["run", "--rm", "exported:1", "/srv/tool"])?.as_str(),
            "tool",
        )?;
        docker(session, &["rmi", "exported:1"])?;
    }
    Ok(())
}

fn commit(session: &mut Session) -> Result<()> {
    let printed = docker(
        session,
        &[
            "commit",
            "-a",
            "Ann <ann@example.com>",
            "-m",
            "by hand",
            "-c",
            "CMD [\"cat\", \"/new/dir/f\"]",
            "-c",
            "ENV ADDED=1",
            "-c",
            "LABEL tier=back",
            "wrote",
            "made/image:2",
        ],
    )?;
    let format = "{{.Id}} {{.Author}} {{.Comment}} {{json .Config.Cmd}} {{.Config.Labels.tier}} {{len .RootFS.Layers}}";
    let told = docker(session, &["inspect", "-f", format, "made/image:2"])?;
    let expected =
        format!("{printed} Ann <ann@example.com> by hand [\"cat\",\"/new/dir/f\"] back 3");
    same("docker inspect", told, expected)?;
    same(
        "run",
        docker(session, &["run", "--rm", "made/image:2"])?.as_str(),
        "x",
    )?;
    let script = "echo $FROM_IMAGE $ADDED; ls -d /etc/group /var/www /deep /mem 2>/dev/null; ls /usr/bin /data; stat -c %a /home";
    let found = docker(
        session,
        &["run", "--rm", "made/image:2", "sh", "-c", script],
    )?;
    same(
        "what it has",
        found.as_str(),
        "yes 1\n/data:\n\n/usr/bin:\nown\n700",
    )?;
    let history = docker(
        session,
        &["history", "--format", "{{.Comment}}", "made/image:2"],
    )?;
    same("history", history.lines().next(), Some("by hand"))?;
    // One that runs is paused meanwhile and goes on; the same changes are the same layer.
    docker(session, &["commit", "box", "made/running"])?;
    docker(session, &["commit", "--pause=false", "box", "made/again"])?;
    let state = docker(session, &["inspect", "-f", "{{.State.Status}}", "box"])?;
    same("the container", state.as_str(), "running")?;
    let layers = ["made/running", "made/again"]
        .map(|name| docker(session, &["inspect", "-f", "{{json .RootFS.Layers}}", name]));
    let [one, other] = layers;
    same("layers", one?, other?)?;
    let run = ["run", "--rm", "made/running", "/srv/tool"];
    same(
        "what was copied in",
        docker(session, &run)?.as_str(),
        "tool",
    )?;
    for bad in ["RUN x", "NONSENSE"] {
        let said = session.docker.refusal(&["commit", "-c", bad, "box"])?;
        contains(
            "a change that is none",
            &said,
            "is not a valid change command",
        )?;
    }
    docker(session, &["rm", "wrote"])?;
    docker(
        session,
        &["rmi", "made/image:2", "made/running", "made/again"],
    )
    .map(drop)
}

fn events(session: &mut Session) -> Result<()> {
    let from = now()?;
    let file = text(&scratch(session, "tree/tool"));
    docker(session, &["cp", &file, "box:/tmp"])?;
    docker(
        session,
        &["cp", "box:/tmp/tool", &text(&scratch(session, "tool"))],
    )?;
    docker(
        session,
        &["export", "-o", &text(&scratch(session, "told.tar")), "box"],
    )?;
    let id = docker(session, &["commit", "-m", "said", "box", "told:1"])?;
    let until = now()?;
    let format = "{{.Action}} {{.Actor.Attributes.imageID}} {{.Actor.Attributes.imageRef}} {{.Actor.Attributes.comment}}";
    let told = session
        .docker
        .told((&from, &until), &["container=box"], format)?;
    let none = "<no value> <no value> <no value>";
    let mut expected: Vec<String> = [
        "extract-to-dir",
        "archive-path",
        "export",
        "pause",
        "unpause",
    ]
    .map(|action| format!("{action} {none}"))
    .to_vec();
    expected.push(format!("commit {id} told:1 said"));
    same("events", told, expected)?;
    docker(session, &["rm", "-f", "box", "live"])?;
    docker(session, &["volume", "rm", "boxdata"])?;
    docker(session, &["rmi", "told:1"]).map(drop)
}

fn kept_for_containers(session: &mut Session) -> Result<()> {
    docker(session, &["create", "--name", "model", IMAGE, "true"])?;
    let id = docker(session, &["commit", "model", "kept:1"])?;
    docker(session, &["rm", "model"])?;
    docker(
        session,
        &["run", "--name", "rests", "kept:1", "echo", "here"],
    )?;
    docker(session, &["create", "--name", "waits", "kept:1", "true"])?;
    let refusal = session.docker.refusal(&["rmi", "kept:1"])?;
    contains("rmi", &refusal, "(must force)")?;
    contains("rmi", &refusal, "is using its referenced image")?;
    let lines = session.docker.lines(&["rmi", "--force", "kept:1"])?;
    same("by force", lines, strings(&["Untagged: kept:1"]))?;
    let again = docker(session, &["start", "--attach", "rests"])?;
    same("a start after it", again.as_str(), "here")?;
    docker(session, &["rm", "rests", "waits"])?;
    let lines = session.docker.lines(&["rmi", &id])?;
    let deleted = format!("Deleted: {id}");
    ensure!(lines.contains(&deleted), "rmi said {lines:?}");
    Ok(())
}
