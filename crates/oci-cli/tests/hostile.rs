//! Containers that turn on the program that makes them.

mod place;

use anyhow::{Result, ensure};
use place::Place;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const ROUNDS: usize = 50;

/// The program as a container must leave it.
#[derive(Debug, PartialEq, Eq)]
struct Picture {
    program: PathBuf,
    content: Vec<u8>,
    inode: u64,
    changed: (i64, i64),
}

impl Picture {
    fn take(program: &Path) -> Result<Self> {
        let meta = fs::metadata(program)?;
        Ok(Self {
            program: program.to_owned(),
            content: fs::read(program)?,
            inode: meta.ino(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    fn is_unchanged(&self) -> Result<bool> {
        Ok(Self::take(&self.program)? == *self)
    }
}

/// `/bin/evil`, whose interpreter is whatever runs it.
fn evil(place: &Place) -> Result<()> {
    let script = place.path("bundle/rootfs/bin/evil");
    fs::write(&script, "#!/proc/self/exe\n")?;
    Ok(fs::set_permissions(
        &script,
        fs::Permissions::from_mode(0o755),
    )?)
}

/// Opens the program of whoever is not busybox, ends that process, and writes: what is executed is
/// busy, and what was is not soon after its process is gone.
const ATTACK: &str = "for process in /proc/[0-9]*; do \
    [ $(readlink $process/exe) = /bin/busybox ] && continue; \
    exec 3<$process/exe || continue; \
    kill -9 ${process#/proc/}; \
    while readlink $process/exe; do :; done; \
    busy=1; while [ $busy -lt 1000 ]; do \
        said=$(sh -c 'echo overwritten >> /proc/self/fd/3' 2>&1); \
        case $said in *busy*) busy=$((busy+1));; *) break;; esac; \
    done; echo $said; done >/said 2>&1; true > /done";

/// The runtime, executed in a container by the link that procfs has, waits there for a bundle that
/// never comes, which is time enough to get hold of it.
#[test]
fn a_container_that_executes_the_runtime_cannot_write_to_it() -> Result<()> {
    let Some(mut place) = Place::new()? else {
        return Ok(());
    };
    let before = Picture::take(place.run_a_copy()?)?;
    place.bring_libraries(&before.program)?;
    let inside = place.path("bundle/rootfs");
    fs::create_dir(inside.join("b"))?;
    berth_kernel::make_fifo(&inside.join("b/config.json"), 0o600)?;
    place.config("sleep 1000")?;
    place.prints(&["run", "--detach", "c"])?;
    let waiting = ["/proc/self/exe", "create", "--bundle", "/b", "x"];
    place.prints(&[&["exec", "--detach", "c"], &waiting[..]].concat())?;
    // Not in the foreground, where the program would run on and be busy.
    place.prints(&["exec", "--detach", "c", "sh", "-c", ATTACK])?;
    while !inside.join("done").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let complaints = fs::read_to_string(inside.join("said"))?;
    place.prints(&["delete", "--force", "c"])?;
    ensure!(before.is_unchanged()?, "the runtime was changed");
    ensure!(complaints.contains("Read-only file system"), "{complaints}");
    Ok(())
}

#[test]
fn scripts_that_the_runtime_interprets_leave_it_as_it_was() -> Result<()> {
    let Some(mut place) = Place::new()? else {
        return Ok(());
    };
    let before = Picture::take(place.run_a_copy()?)?;
    place.bring_libraries(&before.program)?;
    evil(&place)?;
    place.config(
        "while :; do for exe in /proc/[0-9]*/exe; do echo >> $exe; done; done 2>/dev/null",
    )?;
    place.prints(&["run", "--detach", "c"])?;
    for _ in 0..ROUNDS {
        let output = place.run(&["exec", "c", "/bin/evil"])?;
        ensure!(!output.status.success(), "{output:?}");
    }
    place.prints(&["delete", "--force", "c"])?;
    place.config("true")?;
    let path = place.path("bundle/config.json");
    let config = fs::read_to_string(&path)?.replace("\"sh\"", "\"/bin/evil\"");
    fs::write(&path, config)?;
    for _ in 0..ROUNDS / 10 {
        let output = place.run(&["run", "c"])?;
        ensure!(!output.status.success(), "{output:?}");
    }
    ensure!(before.is_unchanged()?, "the runtime was changed");
    ensure!(!place.has_states()?, "something is left");
    Ok(())
}

/// The kernel takes the highest number for "as before", and what is cut to 32 bits for 0.
#[test]
fn a_number_that_is_nobodys_id_does_not_become_root() -> Result<()> {
    let Some(place) = Place::new()? else {
        return Ok(());
    };
    place.config("sleep 1000")?;
    place.prints(&["run", "--detach", "c"])?;
    let mut outcomes = Vec::new();
    for user in ["4294967295", "4294967296", "-1", "1:4294967295", "0x0"] {
        outcomes.push((user, place.run(&["exec", "--user", user, "c", "true"])?));
    }
    let highest = place.run(&["exec", "--user", "2147483648:4294967294", "c", "true"])?;
    let path = place.path("bundle/config.json");
    let config = fs::read_to_string(&path)?.replace("\"uid\":0", "\"uid\":4294967295");
    place.prints(&["delete", "--force", "c"])?;
    fs::write(&path, config)?;
    let (_, complaint) = place.fails(&["run", "c"])?;
    ensure!(complaint.contains("process.user.uid"), "{complaint}");
    for (user, output) in outcomes {
        ensure!(!output.status.success(), "{user:?} was taken");
    }
    ensure!(highest.status.success(), "{highest:?}");
    Ok(())
}
