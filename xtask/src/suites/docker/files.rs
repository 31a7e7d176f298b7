//! Steps that concern files that are copied into containers and out of them.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::exchanged;
use super::session::{IMAGE, Session};
use super::{Step, contains, docker, same};
use crate::command::{run, stdout};

/// In order: later steps build on what earlier ones made.
pub const STEPS: &[(&str, Step)] = &[
    (
        "cp takes a tree into a container that never ran, and out again",
        never_ran,
    ),
    (
        "cp sees volumes, binds and memory of a container that runs",
        while_it_runs,
    ),
    ("cp takes and gives archives at -", streams),
    ("cp -L follows a link inside the container", links),
    (
        "cp of what is not there, or in the way, is refused in Docker's words",
        refused,
    ),
    ("a read-only root or mount takes no files", read_only),
    ("cp -a gives files to the container's user", owners),
    ("a path's looks are told as Docker tells them", looks),
    ("cp of a large file takes no memory", bounded),
    (
        "a path that is exchanged while it is copied leads nowhere",
        exchanged::race,
    ),
];

pub(super) fn scratch(session: &Session, name: &str) -> PathBuf {
    session.place.scratch().join(name)
}

pub(super) fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A tree with a file, a link, a mode and an owner.
fn tree(session: &Session, name: &str) -> Result<PathBuf> {
    let tree = scratch(session, name);
    fs::create_dir_all(tree.join("deep/er"))?;
    fs::write(tree.join("deep/er/file"), "content\n")?;
    fs::write(tree.join("tool"), "#!/bin/sh\necho tool\n")?;
    fs::set_permissions(tree.join("tool"), fs::Permissions::from_mode(0o4755))?;
    std::os::unix::fs::chown(tree.join("deep/er/file"), Some(1234), Some(4321))?;
    symlink("deep/er/file", tree.join("link"))?;
    Ok(tree)
}

fn never_ran(session: &mut Session) -> Result<()> {
    docker(
        session,
        &[
            "create",
            "--name",
            "box",
            "-v",
            "boxdata:/data",
            IMAGE,
            "sleep",
            "1000",
        ],
    )?;
    let tree = tree(session, "tree")?;
    let (from, out) = (text(&tree), text(&scratch(session, "out")));
    docker(session, &["cp", &from, "box:/srv"])?;
    docker(session, &["cp", &format!("{from}/."), "box:/data"])?;
    docker(session, &["cp", "box:/srv", &out])?;
    run(Command::new("diff").args(["-r", "--no-dereference", &from, &out]))?;
    let tool = fs::metadata(scratch(session, "out/tool"))?;
    same("mode", tool.mode() & 0o7777, 0o4755)?;
    // A directory that is there takes the tree in under its name.
    docker(session, &["cp", &from, "box:/srv"])?;
    docker(session, &["start", "box"])?;
    let line = ["exec", "box", "stat", "-c", "%u:%g", "/srv/deep/er/file"];
    same("owner", docker(session, &line)?.as_str(), "1234:4321")?;
    let line = [
        "exec",
        "box",
        "sh",
        "-c",
        "cat /srv/tree/link /data/link; /srv/tool",
    ];
    same(
        "in the container",
        docker(session, &line)?.as_str(),
        "content\ncontent\ntool",
    )
}

fn while_it_runs(session: &mut Session) -> Result<()> {
    let bound = scratch(session, "bound");
    fs::create_dir(&bound)?;
    let bind = format!("{}:/bound", bound.display());
    docker(
        session,
        &[
            "run",
            "-d",
            "--name",
            "live",
            "-v",
            &bind,
            "-v",
            "boxdata:/data:ro",
            "--tmpfs",
            "/mem",
            IMAGE,
            "sh",
            "-c",
            "echo mem >/mem/f; exec sleep 1000",
        ],
    )?;
    let file = scratch(session, "tree/tool");
    for place in ["/mem/", "/bound/new-name", "/tmp"] {
        docker(session, &["cp", &text(&file), &format!("live:{place}")])?;
    }
    let line = [
        "exec",
        "live",
        "ls",
        "/mem/tool",
        "/bound/new-name",
        "/tmp/tool",
    ];
    docker(session, &line)?;
    ensure!(
        bound.join("new-name").exists(),
        "nothing in the bound directory"
    );
    for (place, expected) in [("/mem/f", "mem\n"), ("/data/link", "content\n")] {
        let out = scratch(session, "one");
        docker(
            session,
            &["cp", "-L", &format!("live:{place}"), &text(&out)],
        )?;
        same(place, fs::read_to_string(&out)?.as_str(), expected)?;
        fs::remove_file(&out)?;
    }
    docker(session, &["pause", "live"])?;
    docker(
        session,
        &["cp", "live:/mem/f", &text(&scratch(session, "paused"))],
    )?;
    docker(session, &["unpause", "live"])?;
    // The kernel's own files are not copied with the root, and nothing waits for ever in them.
    let names = listing(session, "live:/")?;
    ensure!(
        names.iter().any(|name| name == "/bin/busybox"),
        "no /bin/busybox"
    );
    ensure!(names.iter().any(|name| name == "/mem/f"), "no /mem/f");
    let kernels = |name: &&String| name.starts_with("/proc/") || name.starts_with("/sys/");
    let more = |name: &&String| kernels(name) && !matches!(name.as_str(), "/proc/" | "/sys/");
    same("of the kernel", names.iter().find(more), None)
}

/// The names in what `docker cp place -` gives.
fn listing(session: &Session, place: &str) -> Result<Vec<String>> {
    let archive = session.docker.output(&["cp", place, "-"])?;
    ensure!(archive.status.success(), "cp {place}: {:?}", archive.stderr);
    let path = scratch(session, "listed.tar");
    fs::write(&path, archive.stdout)?;
    let names = stdout(Command::new("tar").args(["-tPf", &text(&path)]))?;
    Ok(names.lines().map(str::to_owned).collect())
}

fn streams(session: &mut Session) -> Result<()> {
    same(
        "a directory",
        listing(session, "box:/srv/deep")?,
        strings(&["deep/", "deep/er/", "deep/er/file"]),
    )?;
    same(
        "its content",
        listing(session, "box:/srv/deep/.")?,
        strings(&["./", "./er/", "./er/file"]),
    )?;
    same(
        "a file",
        listing(session, "box:/srv/deep/er/file")?,
        strings(&["file"]),
    )?;
    let packed = scratch(session, "in.tar.gz");
    let tree = scratch(session, "tree");
    run(Command::new("tar").args(["-czf", &text(&packed), "-C", &text(&tree), "."]))?;
    let mut child = session.docker.command(&["cp", "-", "box:/tmp"]);
    let mut child = child
        .stdin(File::open(&packed)?)
        .stderr(Stdio::null())
        .spawn()?;
    ensure!(child.wait()?.success(), "docker cp - failed");
    let line = ["exec", "box", "cat", "/tmp/link"];
    same(
        "in the container",
        docker(session, &line)?.as_str(),
        "content",
    )
}

pub(super) fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn links(session: &mut Session) -> Result<()> {
    let script =
        "ln -s /srv/tool /outer; ln -s /outer /double; ln -s /srv /dir; ln -s /none /dangling";
    docker(session, &["exec", "box", "sh", "-c", script])?;
    let out = scratch(session, "followed");
    docker(session, &["cp", "-L", "box:/double", &text(&out)])?;
    contains("what it leads to", &fs::read_to_string(&out)?, "echo tool")?;
    let kept = scratch(session, "kept");
    docker(session, &["cp", "box:/double", &text(&kept)])?;
    same(
        "the link itself",
        fs::read_link(&kept)?,
        PathBuf::from("/outer"),
    )?;
    docker(session, &["cp", &text(&out), "box:/dir/by-link"])?;
    docker(session, &["exec", "box", "test", "-f", "/srv/by-link"])?;
    let refused =
        session
            .docker
            .refusal(&["cp", "-L", "box:/dangling", &text(&scratch(session, "no"))])?;
    contains(
        "a link to nothing",
        &refused,
        "Could not find the file /none in container box",
    )
}

fn refused(session: &mut Session) -> Result<()> {
    let (tree, file) = (
        text(&scratch(session, "tree")),
        text(&scratch(session, "tree/tool")),
    );
    let nowhere = text(&scratch(session, "nowhere"));
    for (from, to, reason) in [
        (
            "box:/none",
            nowhere.as_str(),
            "Could not find the file /none in container box",
        ),
        (
            &file,
            "box:/none/deeper/f",
            "Could not find the file /none/deeper in container box",
        ),
        (&file, "box:/none/", "no such directory"),
        (&tree, "box:/srv/tool", "cannot copy directory"),
        (&file, "nobody:/tmp", "No such container: nobody"),
    ] {
        let said = session.docker.refusal(&["cp", from, to])?;
        contains(&format!("cp {from} {to}"), &said, reason)?;
    }
    let answer = session
        .docker
        .request("GET", "/containers/box/archive", &[])?;
    same("status without a path", answer.status, 400)?;
    // By the API alone: the CLI asks first.
    let archive = scratch(session, "kinds.tar");
    run(Command::new("tar").args(["-cf", &text(&archive), "-C", &tree, "tool"]))?;
    docker(session, &["exec", "box", "mkdir", "-p", "/srv/x/tool/kept"])?;
    let upload = format!("@{}", archive.display());
    let put = |path: &str| {
        session
            .docker
            .request("PUT", path, &["--data-binary", &upload])
    };
    let answer = put("/containers/box/archive?path=/srv/x&noOverwriteDirNonDir=true")?;
    same("status over a directory", answer.status, 400)?;
    contains(
        "message",
        &answer.body,
        "cannot overwrite a directory with a non-directory",
    )?;
    let answer = put("/containers/box/archive?path=/srv/tool")?;
    contains(
        "message",
        &answer.body,
        "extraction point is not a directory",
    )?;
    same(
        "status over it",
        put("/containers/box/archive?path=/srv/x")?.status,
        200,
    )?;
    docker(session, &["exec", "box", "test", "-f", "/srv/x/tool"]).map(drop)
}

fn read_only(session: &mut Session) -> Result<()> {
    let file = text(&scratch(session, "tree/tool"));
    docker(
        session,
        &[
            "create",
            "--name",
            "shut",
            "--read-only",
            "-v",
            "boxdata:/data",
            "-v",
            "boxdata:/ro:ro",
            "--tmpfs",
            "/mem",
            IMAGE,
            "sleep",
            "1000",
        ],
    )?;
    for state in ["at rest", "running"] {
        for (place, reason) in [
            ("/tmp", "container rootfs is marked read-only"),
            ("/ro", "mounted volume is marked read-only"),
        ] {
            let said = session
                .docker
                .refusal(&["cp", &file, &format!("shut:{place}")])?;
            contains(&format!("{state}: {place}"), &said, reason)?;
        }
        docker(session, &["cp", &file, "shut:/data"])?;
        docker(session, &["start", "shut"])?;
    }
    docker(session, &["cp", &file, "shut:/mem"])?;
    docker(session, &["rm", "-f", "shut"]).map(drop)
}

fn owners(session: &mut Session) -> Result<()> {
    docker(
        session,
        &[
            "run", "-d", "--name", "owned", "-u", "www-data", IMAGE, "sleep", "1000",
        ],
    )?;
    let file = text(&scratch(session, "tree/deep/er/file"));
    docker(session, &["cp", &file, "owned:/tmp/as-it-is"])?;
    docker(session, &["cp", "-a", &file, "owned:/tmp/given"])?;
    let line = [
        "exec",
        "owned",
        "stat",
        "-c",
        "%u:%g",
        "/tmp/as-it-is",
        "/tmp/given",
    ];
    same(
        "owners",
        docker(session, &line)?.as_str(),
        "1234:4321\n33:33",
    )?;
    docker(session, &["rm", "-f", "owned"]).map(drop)
}

fn looks(session: &mut Session) -> Result<()> {
    let script = "touch -d '2001-02-03 04:05:06' /srv/when; mkfifo /srv/pipe; chmod 1777 /srv/deep";
    docker(session, &["exec", "box", "sh", "-c", script])?;
    let told = |path: &str| -> Result<Value> {
        let path = format!("/containers/box/archive?path={path}");
        let answer = session.docker.request("HEAD", &path, &[])?;
        same("status", answer.status, 200)?;
        let header = answer
            .header("x-docker-container-path-stat")
            .context("no header")?;
        serde_json::from_slice(&STANDARD.decode(header)?).context("reading it")
    };
    let when = told("/srv/when")?;
    same(
        "mtime",
        when["mtime"].as_str(),
        Some("2001-02-03T04:05:06Z"),
    )?;
    same("name", when["name"].as_str(), Some("when"))?;
    for (path, kind, mode) in [
        ("/srv/when", 0u64, 0o644),
        ("/srv/tool", 1 << 23, 0o755),
        ("/srv/deep", 1 << 31 | 1 << 20, 0o777),
        ("/srv/pipe", 1 << 25, 0o644),
        ("/double", 1 << 27, 0o777),
        ("/dev/null", 1 << 26 | 1 << 21, 0o666),
    ] {
        same(path, told(path)?["mode"].as_u64(), Some(kind | mode))?;
    }
    same(
        "a link's end",
        told("/double")?["linkTarget"].as_str(),
        Some("/srv/tool"),
    )?;
    let missing = session
        .docker
        .request("HEAD", "/containers/box/archive?path=/no", &[])?;
    same("status of what is not there", missing.status, 404)
}

/// Peak memory of the daemon in KiB.
fn peak(session: &Session) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", session.daemon_pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.context("no VmHWM")?.parse().context("reading VmHWM")
}

fn bounded(session: &mut Session) -> Result<()> {
    docker(
        session,
        &["exec", "box", "truncate", "-s", "150M", "/srv/large"],
    )?;
    let before = peak(session)?;
    let path = "/containers/box/archive?path=/srv/large";
    let archive = scratch(session, "large.tar");
    session
        .docker
        .request("GET", path, &["--output", &text(&archive)])?;
    ensure!(
        fs::metadata(&archive)?.len() > 150 << 20,
        "it is not all there"
    );
    // Otherwise curl waits to be told to go on, and shows that first.
    let upload = ["--header", "Expect:", "--upload-file", &text(&archive)];
    let answer = session
        .docker
        .request("PUT", "/containers/box/archive?path=/data", &upload)?;
    same("status", answer.status, 200)?;
    fs::remove_file(&archive)?;
    let more = peak(session)?.saturating_sub(before) >> 10;
    ensure!(more < 64, "the daemon took {more} MiB more");
    docker(session, &["exec", "box", "rm", "/srv/large", "/data/large"]).map(drop)
}
