//! What users of the host without privileges get to see.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, ensure};

use super::stage::Stage;
use crate::command::stdout;

const STRANGER: u32 = 1000;

/// They may pass through what containers' users must reach, and list and read nothing; sockets are
/// files of root's.
pub fn nothing_is_shown(stage: &mut Stage) -> Result<()> {
    let image = stage.session.reference(":one");
    let config = stage.waiting(&image);
    let place = &stage.session.place;
    let directory = place.root().parent().map(ToOwned::to_owned);
    let directory = directory.context("a place without a directory")?;
    let (root, state, socket) = (place.root(), place.state(), place.socket());
    // The suite's own directory would hide what is below.
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&directory, open).context("opening the suite's directory")?;
    let looked = stage.run(&config, |_, _| {
        let script = "find \"$@\" -mindepth 1 2>/dev/null; find \"$@\" -type f -readable";
        let output = Command::new("sh")
            .args(["-c", script, "sh"])
            .args([&root, &state])
            .uid(STRANGER)
            .gid(STRANGER)
            .current_dir("/")
            .output()
            .context("looking around as a stranger")?;
        let seen = String::from_utf8_lossy(&output.stdout);
        ensure!(seen.trim().is_empty(), "a stranger sees {seen}");
        let read = readable([&root, &state])?;
        ensure!(read.is_empty(), "who knows their names reads {read:?}");
        let touch = Command::new("touch")
            .arg(state.join("new"))
            .uid(STRANGER)
            .gid(STRANGER)
            .output()
            .context("writing as a stranger")?;
        ensure!(!touch.status.success(), "a stranger makes files");
        let mode = fs::metadata(&socket)
            .context("the socket")?
            .permissions()
            .mode();
        ensure!(mode & 0o777 == 0o600, "the socket has mode {mode:o}");
        // Abstract sockets belong to whoever is in the network namespace.
        let sockets = fs::read_to_string("/proc/net/unix").context("sockets")?;
        let state = state.display().to_string();
        let open = sockets
            .lines()
            .find(|line| line.contains('@') && (line.contains(&state) || line.contains("berth")));
        ensure!(open.is_none(), "an abstract socket: {open:?}");
        Ok(())
    });
    let closed = fs::Permissions::from_mode(0o700);
    fs::set_permissions(&directory, closed).context("closing the suite's directory")?;
    looked?.context("StartContainer")
}

/// What containers find below /etc is for whoever they run as.
const FOR_ALL: [&str; 3] = ["resolv.conf", "hostname", "hosts"];

/// Files that a stranger can read by their names, which are no secret: a cgroup's path has a container's.
fn readable(places: [&Path; 2]) -> Result<Vec<String>> {
    // Who opens a namespace has not entered it.
    let files = ["-type", "f", "!", "-fstype", "nsfs"];
    let names = stdout(Command::new("find").args(places).args(files))?;
    let script = "while read -r name; do [ ! -r \"$name\" ] || echo \"$name\"; done";
    let mut stranger = Command::new("sh")
        .args(["-c", script])
        .uid(STRANGER)
        .gid(STRANGER)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("reading as a stranger")?;
    let mut input = stranger.stdin.take().context("the stranger's input")?;
    let writer = std::thread::spawn(move || input.write_all(names.as_bytes()));
    let output = stranger
        .wait_with_output()
        .context("reading as a stranger")?;
    writer
        .join()
        .map_err(|_| anyhow!("the writer panicked"))?
        .context("telling a stranger names")?;
    let found = String::from_utf8_lossy(&output.stdout);
    let for_all = |path: &str| FOR_ALL.iter().any(|name| path.ends_with(name));
    let found = found.lines().filter(|path| !for_all(path));
    Ok(found.map(str::to_owned).collect())
}
