//! Containers in a mount namespace with others. Their mounts are nobody's but theirs.

use crate::Case;
use crate::fixture::{Bundle, Host, exec, quiet, reap, refused};
use anyhow::{Context, Result, ensure};
use berth_executor::{Container, Found};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub const CASES: &[Case] = &[
    (
        "a_container_without_a_mount_namespace_leaves_the_hosts_mounts_alone",
        without,
    ),
    (
        "a_container_without_a_mount_namespace_has_its_mounts_masks_and_modes",
        inside,
    ),
    (
        "nothing_is_above_a_root_that_shares_its_mount_namespace",
        nothing_above,
    ),
    (
        "an_exec_enters_the_root_and_not_the_mount_namespaces",
        execs,
    ),
    (
        "a_create_that_fails_lets_go_of_what_it_mounted_anywhere",
        failed_create,
    ),
    ("a_joined_mount_namespace_is_seen_and_left_as_it_is", joined),
    (
        "a_shared_mount_namespace_goes_with_new_clocks",
        with_new_clocks,
    ),
    (
        "what_a_shared_mount_namespace_cannot_do_is_refused",
        refusals,
    ),
];

/// The bundle in the mount namespace at `path`, or in the runtime's.
fn sharing(mut bundle: Bundle, path: Option<&str>) -> Bundle {
    let list = bundle.config["linux"]["namespaces"].as_array_mut();
    if let Some(list) = list {
        list.retain(|namespace| namespace["type"] != "mount");
        list.extend(path.map(|path| json!({"type": "mount", "path": path})));
    }
    bundle
}

/// Lines of a mount table that have to do with `place`.
fn mounts_at(pid: &str, place: &Path) -> Result<Vec<String>> {
    let table = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?;
    let place = place.display().to_string();
    let lines = table.lines().filter(|line| line.contains(&place));
    Ok(lines.map(str::to_owned).collect())
}

fn namespace_of(pid: &str) -> Result<String> {
    let link = fs::read_link(format!("/proc/{pid}/ns/mnt"))?;
    Ok(link.display().to_string())
}

/// A tmpfs of the host with a file in it. Taking it away fails while anybody has it mounted.
struct Volume(tempfile::TempDir);

impl Volume {
    fn new() -> Result<Self> {
        let volume = Self(tempfile::tempdir()?);
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "volume"])
            .arg(volume.path())
            .status()?;
        ensure!(status.success(), "mount: {status}");
        berth_kernel::set_propagation(volume.path(), berth_kernel::Propagation::Private, false)?;
        fs::write(volume.path().join("file"), "of the volume\n")?;
        Ok(volume)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn mount(&self) -> Value {
        json!({"destination": "/vol", "type": "bind", "source": self.path(),
               "options": ["rbind", "rw"]})
    }

    fn take_away(self) -> Result<()> {
        let output = Command::new("umount").arg(self.path()).output()?;
        ensure!(output.status.success(), "is still mounted: {output:?}");
        Ok(())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // What a failed case leaves; taken away already in all others.
        let _ = berth_kernel::detach(self.path());
    }
}

fn end(mut container: Container) -> Result<()> {
    container.delete(true)?;
    reap(container.pid())?;
    Ok(())
}

fn without(host: &Host) -> Result<()> {
    let volume = Volume::new()?;
    let bundle = sharing(host.bundle("sleep 60")?.mount(volume.mount()), None);
    let places = [bundle.dir.path(), volume.path()];
    let tables = || -> Result<Vec<Vec<String>>> {
        let tables = places.iter().map(|place| mounts_at("self", place));
        tables.collect()
    };
    let before = tables()?;
    let mut container = bundle.create(host)?;
    let created = tables()?;
    container.start()?;
    let running = tables()?;
    let pid = container.pid().to_string();
    ensure!(namespace_of(&pid)? == namespace_of("self")?);
    ensure!(fs::read_dir(bundle.dir.path().join("rootfs"))?.count() == 0);
    ensure!(!mounts_at(&pid, Path::new("/")).is_ok_and(|table| !table.is_empty()));
    end(container)?;
    for (when, table) in [
        ("created", created),
        ("running", running),
        ("deleted", tables()?),
    ] {
        ensure!(before == table, "{when}: {table:?} instead of {before:?}");
    }
    volume.take_away()
}

fn inside(host: &Host) -> Result<()> {
    let volume = Volume::new()?;
    let script = "cat /vol/file /proc/kcore; ls -A /sys/firmware; pwd; ls /dev/shm; \
                  echo 1 >/proc/sys/kernel/printk; touch /x; echo new >/vol/new; \
                  mount -t tmpfs none /tmp; echo x >/dev/null && echo end";
    let bundle = sharing(host.bundle(script)?.mount(volume.mount()), None)
        .set("/root/readonly", json!(true))
        .set("/process/capabilities", Value::Null);
    let outcome = bundle.run(host)?;
    ensure!(outcome.stdout == "of the volume\n/\nend\n", "{outcome:?}");
    let read_only = outcome.stderr.matches("Read-only file system").count();
    ensure!(read_only == 2, "{outcome:?}");
    ensure!(fs::read_to_string(volume.path().join("new"))? == "new\n");
    volume.take_away()
}

fn nothing_above(host: &Host) -> Result<()> {
    let bundle = sharing(host.bundle("sleep 60")?, None);
    let mut container = bundle.create(host)?;
    container.start()?;
    let root = format!("/proc/{}/root", container.pid());
    let place = |path: &str| -> Result<(u64, u64)> {
        let found = fs::metadata(path)?;
        Ok((found.dev(), found.ino()))
    };
    let (top, above) = (place(&format!("{root}/."))?, place(&format!("{root}/.."))?);
    let host_root = place("/")?;
    end(container)?;
    ensure!(top == above && top != host_root, "{top:?} {above:?}");
    Ok(())
}

fn execs(host: &Host) -> Result<()> {
    let bundle = sharing(host.bundle("echo told >/note; sleep 60")?, None);
    let mut container = bundle.create(host)?;
    container.start()?;
    let script = "while ! cat /note 2>/dev/null; do :; done; readlink /proc/self/ns/mnt; pwd; ls /";
    let own = exec(&container, script)?;
    let record = serde_json::to_string(&container.record()?)?;
    let found = Container::load(&bundle.id, &serde_json::from_str(&record)?, &host.cgroups)?;
    let Found::Alive(loaded) = found else {
        anyhow::bail!("has ended: {found:?}");
    };
    let later = exec(&loaded, script)?;
    drop(loaded);
    let pid = container.pid();
    container.kill(9, false)?;
    reap(pid)?;
    let ended = refused(exec(&container, "true"))?.to_string();
    container.delete(true)?;
    for outcome in [own, later] {
        let begin = format!("told\n{}\n/\n", namespace_of("self")?);
        ensure!(outcome.stdout.starts_with(&begin), "{outcome:?}");
        ensure!(
            outcome.stdout.ends_with("note\nproc\nsys\ntmp\nusr\n"),
            "{outcome:?}"
        );
    }
    ensure!(ended.ends_with("is not running"), "{ended}");
    Ok(())
}

fn failed_create(host: &Host) -> Result<()> {
    let volume = Volume::new()?;
    let bundle = || -> Result<Bundle> {
        let bundle = host.bundle("true")?.mount(volume.mount());
        Ok(sharing(bundle, None))
    };
    let missing = bundle()?.set("/process/args", json!(["/missing"]));
    let message = missing.refusal(host)?;
    ensure!(message.contains("/missing"), "{message}");
    // Everything is mounted when this fails.
    let hook = json!({"path": "/bin/false"});
    let stopped = bundle()?.set("/hooks", json!({"createContainer": [hook]}));
    let message = stopped.refusal(host)?;
    ensure!(message.contains("/bin/false"), "{message}");
    for bundle in [missing, stopped] {
        let left = mounts_at("self", bundle.dir.path())?;
        ensure!(left.is_empty(), "{left:?}");
    }
    volume.take_away()
}

/// A mount namespace with a file that nobody else sees, until its input ends.
fn neighbour(place: &Path) -> Result<Child> {
    let script = "mount -t tmpfs inner \"$0\" && echo inner >\"$0/file\" && mkdir \"$0/root\" \
                  && echo ready && cat";
    let mut child = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(place)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("unshare")?;
    let mut line = String::new();
    let stdout = child.stdout.take().context("no output")?;
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(line == "ready\n", "{line:?}");
    Ok(child)
}

fn joined(host: &Host) -> Result<()> {
    let place = tempfile::tempdir()?;
    let mut neighbour = neighbour(place.path())?;
    let told = joins(host, place.path(), &neighbour.id().to_string());
    neighbour.kill()?;
    neighbour.wait()?;
    told
}

fn joins(host: &Host, place: &Path, neighbour: &str) -> Result<()> {
    let table = || fs::read_to_string(format!("/proc/{neighbour}/mountinfo"));
    let (before, root_before) = (table()?, namespace_of(neighbour)?);
    let path = format!("/proc/{neighbour}/ns/mnt");
    let mount = json!({"destination": "/vol", "type": "bind", "source": place,
                       "options": ["rbind"]});
    let bundle = host.bundle("cat /vol/file; readlink /proc/self/ns/mnt; sleep 60")?;
    let bundle = sharing(bundle.mount(mount), Some(&path));
    let (stdio, output) = crate::fixture::pipes()?;
    let mut container = bundle.create_with(host, stdio)?;
    container.start()?;
    let during = table()?;
    let own = namespace_of(&container.pid().to_string())?;
    let exec = exec(&container, "ls /vol; readlink /proc/self/ns/mnt; ls /")?;
    container.kill(9, false)?;
    let outcome = output.collect(container.pid())?;
    container.delete(true)?;
    ensure!(own == root_before && own != namespace_of("self")?, "{own}");
    ensure!(outcome.stdout == format!("inner\n{own}\n"), "{outcome:?}");
    let begin = format!("file\nroot\n{own}\nbin\n");
    ensure!(exec.stdout.starts_with(&begin), "{exec:?}");
    ensure!(before == during && before == table()?, "{during}");

    // Its root may be where only that namespace has something.
    let mut inner = sharing(host.bundle("true")?, Some(&path));
    inner.rootfs.clear();
    let inner = inner.set("/root/path", json!(place.join("root")));
    let inner = inner.set("/mounts", json!([]));
    let message = inner.refusal(host)?;
    ensure!(
        message.contains("\"sh\": executable file not found"),
        "{message}"
    );
    ensure!(before == table()?);
    Ok(())
}

fn with_new_clocks(host: &Host) -> Result<()> {
    let bundle = sharing(host.bundle("readlink /proc/self/ns/mnt; ls /")?, None);
    let bundle = bundle.set("/linux/namespaces/-", json!({"type": "time"}));
    let output = bundle.output(host)?;
    let begin = format!("{}\nbin\n", namespace_of("self")?);
    ensure!(output.starts_with(&begin), "{output}");
    Ok(())
}

fn refusals(host: &Host) -> Result<()> {
    let range = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let with_user = host
        .bundle("true")?
        .set("/linux/namespaces/-", json!({"type": "user"}))
        .set("/linux/uidMappings", range.clone())
        .set("/linux/gidMappings", range);
    let slave = json!({"destination": "/vol", "type": "bind", "source": "/tmp",
                       "options": ["rbind", "rslave"]});
    let propagation = |word: &str| -> Result<Bundle> {
        let bundle = host.bundle("true")?;
        Ok(bundle.set("/linux/rootfsPropagation", json!(word)))
    };
    for bundle in [
        with_user,
        propagation("shared")?,
        propagation("rslave")?,
        propagation("unbindable")?,
        host.bundle("true")?.mount(slave),
    ] {
        let message = sharing(bundle, None).refusal(host)?;
        ensure!(
            message.contains("a mount namespace of the container's own"),
            "{message}"
        );
    }
    let other = sharing(host.bundle("true")?, Some("/proc/self/ns/net"));
    let message = other.refusal(host)?;
    ensure!(
        message.contains("join namespace /proc/self/ns/net"),
        "{message}"
    );
    let gone = sharing(host.bundle("true")?, Some("/no/such"));
    let message = format!("{:#}", refused(gone.create_with(host, quiet()))?);
    ensure!(message.contains("open namespace /no/such"), "{message}");
    Ok(())
}
