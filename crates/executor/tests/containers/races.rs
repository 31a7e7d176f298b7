//! Paths that change while a container is made of them: another process
//! exchanges what is there with a link that leads out, again and again.
//!
//! Each round may end in a refusal or in a container; what counts is where
//! that container's things are then, and that the canary is as it was.

use crate::Case;
use crate::canary::{self, Canary};
use crate::fixture::{Bundle, Host, Outcome, reap};
use crate::process::read_terminal;
use anyhow::{Context, Result, bail, ensure};
use berth_executor::ProcessStdio;
use berth_kernel::rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

pub const CASES: &[Case] = &[
    (
        "races::a_mount_point_that_turns_into_a_link_catches_no_mount",
        mount_points,
    ),
    (
        "races::a_working_directory_that_turns_into_a_link_is_inside",
        working_directories,
    ),
    (
        "races::masks_do_not_come_from_the_images_devices",
        masked_paths,
    ),
    (
        "races::a_console_that_turns_into_a_link_is_not_written_to",
        consoles,
    ),
    (
        "races::a_device_that_turns_into_a_link_gives_nobody_its_target",
        devices,
    ),
    ("races::settings_go_to_no_procfs_of_the_image", false_procfs),
];

/// The first argument of the process that exchanges.
pub const SWAPPER: &str = "swap-paths";

const ROUNDS: usize = 50;
const MOST_ROUNDS: usize = 20 * ROUNDS;

/// How the mount of a round is known in the container.
const MARK: &str = "marked-by-test";

/// Exchanges two names, or has a link take one whenever something is made
/// there, until it is killed, or has lost its parent.
pub fn swap(arguments: &[String]) -> Result<()> {
    let exchange = |one, other| renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
    let parent = std::os::unix::process::parent_id();
    while std::os::unix::process::parent_id() == parent {
        match arguments {
            [_, one, other] => (0..1000).try_for_each(|_| exchange(one, other))?,
            [_, name, link, target] => {
                for _ in 0..1000 {
                    if exchange(name, link).is_ok() {
                        // Long enough to be followed.
                        std::thread::sleep(Duration::from_millis(1));
                        fs::remove_file(name)?;
                        fs::remove_file(link)?;
                        symlink(target, link)?;
                    }
                }
                // Or nobody else would ever be the first.
                std::thread::sleep(Duration::from_millis(1));
            }
            _ => bail!("{SWAPPER} takes two paths, and a link's target"),
        }
    }
    Ok(())
}

/// The process that exchanges.
struct Swapper(Child);

impl Swapper {
    fn start(one: &Path, other: &Path) -> Result<Self> {
        Self::with(&[one, other])
    }

    /// What is made at `name` is replaced by `link`, which leads to `target`.
    fn plant(name: &Path, link: &Path, target: &Path) -> Result<Self> {
        symlink(target, link)?;
        Self::with(&[name, link, target])
    }

    fn with(paths: &[&Path]) -> Result<Self> {
        let own = std::env::current_exe()?;
        let mut command = Command::new(own);
        Ok(Self(command.arg(SWAPPER).args(paths).spawn()?))
    }

    /// It must have been at work all the time.
    fn end(mut self) -> Result<()> {
        match self.0.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the exchange ended with {status}"),
        }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes containers while the swapper is at work. `judge` gets the output of
/// each that ran; those that were refused left no cgroup.
fn rounds(
    host: &Host,
    canary: &Canary,
    swapper: Swapper,
    bundle: impl Fn() -> Result<Bundle>,
    judge: impl Fn(&str) -> Result<()>,
) -> Result<()> {
    let (mut ran, mut refused) = (0, 0);
    // What looks at a name many times is seldom lucky: some must run, or nothing was judged.
    while ran + refused < ROUNDS || (ran == 0 && refused < MOST_ROUNDS) {
        let bundle = bundle()?;
        let outcome = if bundle.config["process"]["terminal"] == json!(true) {
            run_in_terminal(&bundle, host)
        } else {
            bundle.run(host)
        };
        match outcome {
            Ok(outcome) => {
                ran += 1;
                judge(&outcome.stdout).with_context(|| format!("{outcome:?}"))?;
            }
            Err(_) => refused += 1,
        }
        ensure!(!host.cgroup_exists(&bundle.id), "left its cgroup");
    }
    swapper.end()?;
    canary.check()?;
    ensure!(ran > 0, "all {refused} were refused");
    Ok(())
}

/// As [`Bundle::run`]. The program is waited for, so that what it writes is
/// seen before the container is deleted.
fn run_in_terminal(bundle: &Bundle, host: &Host) -> Result<Outcome> {
    let mut container = bundle.create_with(host, ProcessStdio::Terminal)?;
    let mut run = || {
        let master = container.take_terminal().context("no terminal")?;
        container.start()?;
        read_terminal(&master)
    };
    let stdout = run();
    if stdout.is_err() {
        container.kill(9, true)?;
    }
    let status = reap(container.pid())?;
    container.delete(true)?;
    Ok(Outcome {
        status,
        stdout: stdout?,
        stderr: String::new(),
    })
}

/// A volume with a directory and, beside it, a link.
fn volume(name: &str, link: &Path) -> Result<(tempfile::TempDir, PathBuf, PathBuf)> {
    let volume = tempfile::tempdir()?;
    let (one, other) = (volume.path().join(name), volume.path().join("link"));
    fs::create_dir(&one)?;
    symlink(link, &other)?;
    Ok((volume, one, other))
}

fn at_vol(volume: &tempfile::TempDir) -> Value {
    json!({"destination": "/vol", "type": "bind", "source": volume.path(), "options": ["rbind"]})
}

fn mount_points(host: &Host) -> Result<()> {
    let canary = Canary::new()?;
    for link in [canary.path().to_owned(), canary.climbing()] {
        let (volume, one, other) = volume("place", &link)?;
        let script = format!(
            "grep -c ' - tmpfs {MARK} ' /proc/self/mountinfo; ls /vol/place/ {} 2>/dev/null",
            canary.path().display()
        );
        let bundle = || {
            let bundle = host.bundle(&script)?;
            let marked = json!({"destination": "/vol/place", "type": "tmpfs",
                "source": MARK, "options": ["size=16k"]});
            Ok(bundle.mount(at_vol(&volume)).mount(marked))
        };
        rounds(
            host,
            &canary,
            Swapper::start(&one, &other)?,
            bundle,
            |output| {
                // A mount that is not in its own tree would have landed elsewhere.
                ensure!(output.starts_with("1\n"), "the mount is not there");
                ensure!(!output.contains(canary::FILE), "it sees the host");
                Ok(())
            },
        )?;
    }
    Ok(())
}

fn working_directories(host: &Host) -> Result<()> {
    let canary = Canary::new()?;
    for link in [canary.climbing(), PathBuf::from("/proc/self/fd/3")] {
        let (volume, one, other) = volume("work", &link)?;
        let bundle = || {
            let bundle = host.bundle("pwd -P; ls . ..")?.mount(at_vol(&volume));
            Ok(bundle.set("/process/cwd", json!("/vol/work/here")))
        };
        rounds(
            host,
            &canary,
            Swapper::start(&one, &other)?,
            bundle,
            |output| {
                ensure!(output.starts_with('/'), "it is nowhere");
                ensure!(!output.contains(canary::FILE), "it sees the host");
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// A root of its own that is no overlay: what the image holds can change
/// below a container while it is made.
fn plain_root(host: &Host) -> Result<tempfile::TempDir> {
    let root = tempfile::tempdir()?;
    let status = Command::new("cp")
        .arg("-a")
        .arg(host.base().join("."))
        .arg(root.path())
        .status()?;
    ensure!(status.success(), "cp ended with {status}");
    Ok(root)
}

/// In that root, with the image's own `/dev`.
fn in_root(host: &Host, root: &Path, script: &str) -> Result<Bundle> {
    let mut bundle = host.bundle(script)?.set("/root/path", json!(root));
    bundle.rootfs.clear();
    let mounts = bundle.config["mounts"].as_array().cloned();
    let mut mounts = mounts.unwrap_or_default();
    mounts.retain(|mount| {
        let place = mount["destination"].as_str().unwrap_or_default();
        !place.starts_with("/dev")
    });
    bundle.config["mounts"] = json!(mounts);
    Ok(bundle)
}

fn masked_paths(host: &Host) -> Result<()> {
    let canary = Canary::new()?;
    for target in [
        "/proc/sys/kernel/core_pattern",
        "/proc/self/fd/3",
        "/etc/passwd",
    ] {
        let root = plain_root(host)?;
        let dev = root.path().join("dev");
        let (one, other) = (dev.join("null"), dev.join("link"));
        let mode = berth_kernel::rustix::fs::Mode::from_raw_mode(0o666);
        let device = berth_kernel::rustix::fs::makedev(1, 3);
        let kind = berth_kernel::rustix::fs::FileType::CharacterDevice;
        berth_kernel::rustix::fs::mknodat(CWD, &one, kind, mode, device)?;
        symlink(target, &other)?;
        let bundle = || {
            in_root(
                host,
                root.path(),
                "stat -c %t:%T /proc/keys; wc -c </proc/keys",
            )
        };
        rounds(
            host,
            &canary,
            Swapper::start(&one, &other)?,
            bundle,
            |output| {
                ensure!(output == "1:3\n0\n", "not masked by the null device");
                Ok(())
            },
        )?;
    }
    Ok(())
}

fn consoles(host: &Host) -> Result<()> {
    let canary = Canary::new()?;
    let root = plain_root(host)?;
    let dev = root.path().join("dev");
    let (one, other) = (dev.join("console"), dev.join("link"));
    fs::write(&one, "")?;
    // Inside the root: a mount on a file outside would go with the container's namespace, and
    // nobody would have seen it.
    symlink("../etc/group", &other)?;
    let bundle = || {
        let script = "grep -c ' /etc/group ' /proc/self/mountinfo";
        let terminals = json!({"destination": "/dev/pts", "type": "devpts",
            "source": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620"]});
        let bundle = in_root(host, root.path(), script)?.mount(terminals);
        Ok(bundle.set("/process/terminal", json!(true)))
    };
    let swapper = Swapper::start(&one, &other)?;
    rounds(host, &canary, swapper, bundle, |output| {
        ensure!(output == "0\n", "the terminal is mounted elsewhere");
        Ok(())
    })
}

fn devices(host: &Host) -> Result<()> {
    let canary = Canary::new()?;
    let root = plain_root(host)?;
    let dev = root.path().join("dev");
    let bundle = || {
        let device = json!({"path": "/dev/raced", "type": "c", "major": 1, "minor": 3,
            "fileMode": 0o640, "uid": 7, "gid": 7});
        let bundle = in_root(host, root.path(), "true")?;
        Ok(bundle.set("/linux/devices", json!([device])))
    };
    let victim = canary.path().join(canary::FILE);
    let swapper = Swapper::plant(&dev.join("raced"), &dev.join("link"), &victim)?;
    rounds(host, &canary, swapper, bundle, |_| Ok(()))
}

fn false_procfs(host: &Host) -> Result<()> {
    let canary = Canary::new()?;
    let root = plain_root(host)?;
    let (one, other) = (root.path().join("proc"), root.path().join("link"));
    let false_setting = root.path().join("false/sys/net/ipv4");
    fs::create_dir_all(&false_setting)?;
    fs::write(false_setting.join("ip_forward"), "0")?;
    symlink("/false", &other)?;
    let bundle = || {
        let bundle = in_root(host, root.path(), "cat /proc/sys/net/ipv4/ip_forward")?;
        Ok(bundle.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"})))
    };
    // What it reads there may be the image's: where the directory went, its procfs went.
    rounds(host, &canary, Swapper::start(&one, &other)?, bundle, |_| {
        Ok(())
    })?;
    let untouched = fs::read_to_string(false_setting.join("ip_forward"))?;
    ensure!(
        untouched == "0",
        "the setting went to the image: {untouched}"
    );
    Ok(())
}
