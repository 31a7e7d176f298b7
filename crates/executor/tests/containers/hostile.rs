//! Images, volumes and specs that want out.

use crate::Case;
use crate::canary::{self, Canary};
use crate::fixture::{Bundle, Host, exec, exec_process, process, quiet, reap, refused};
use anyhow::{Result, ensure};
use berth_executor::ProcessStdio;
use berth_kernel::rustix::fs::CWD;
use berth_kernel::{Errno, NodeKind};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;

pub const CASES: &[Case] = &[
    (
        "links_in_place_of_system_directories_are_refused",
        linked_directories,
    ),
    ("links_in_place_of_devices_are_refused", linked_devices),
    (
        "devices_behind_a_linked_directory_stay_inside",
        linked_device_directory,
    ),
    ("a_terminal_comes_from_a_devpts_only", false_devpts),
    ("closed_streams_are_the_null_device_only", false_null),
    ("nothing_but_procfs_stands_at_proc", false_proc),
    (
        "a_working_directory_outside_the_root_is_refused",
        outside_directory,
    ),
    ("climbing_mount_points_stay_inside", climbing_mounts),
    ("what_is_not_supported_is_refused_by_name", unsupported),
    ("specs_that_make_no_sense_are_refused", nonsense),
];

fn linked_directories(host: &Host) -> Result<()> {
    for (name, target) in [
        ("proc", "/tmp"),
        ("proc", "/proc/self/root/proc"),
        ("sys", "tmp"),
        ("dev", "/etc"),
        ("dev", "../../../../../dev"),
    ] {
        let bundle = host.bundle("true")?;
        symlink(target, bundle.upper(name))?;
        let message = bundle.refusal(host)?;
        let expected = format!("cannot mount on an ordinary directory /{name}");
        ensure!(message.contains(&expected), "{name}: {message}");
    }
    Ok(())
}

fn linked_devices(host: &Host) -> Result<()> {
    for name in ["null", "zero", "tty"] {
        // Without a file system of its own, /dev is the image's.
        let mut bundle = host.bundle("true")?;
        drop_mounts_below_dev(&mut bundle.config);
        fs::create_dir(bundle.upper("dev"))?;
        let victim = bundle.dir.path().join("victim");
        fs::write(&victim, "unchanged")?;
        symlink(&victim, bundle.upper("dev").join(name))?;
        let message = bundle.refusal(host)?;
        ensure!(
            message.contains(&format!("make device /dev/{name}")),
            "{message}"
        );
        ensure!(fs::read_to_string(&victim)? == "unchanged");
    }
    let mut bundle = host.bundle("true")?.set("/process/terminal", json!(true));
    let mounts = bundle.config["mounts"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mounts: Vec<_> = mounts
        .into_iter()
        .filter(|m| m["destination"] != "/dev")
        .collect();
    bundle.config["mounts"] = json!(mounts);
    fs::create_dir(bundle.upper("dev"))?;
    symlink("/etc/passwd", bundle.upper("dev/console"))?;
    let error = refused(bundle.create_with(host, ProcessStdio::Terminal))?;
    ensure!(
        format!("{error:#}").contains("attach console /dev/console"),
        "{error:#}"
    );
    ensure!(!host.cgroup_exists(&bundle.id), "left its cgroup");
    Ok(())
}

fn linked_device_directory(host: &Host) -> Result<()> {
    let canary = Canary::new()?;
    let devpts = json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666", "mode=0620"]});
    for link in [canary.path().to_owned(), canary.climbing()] {
        let bundle = || -> Result<Bundle> {
            let mut bundle = host.bundle("ls /dev; echo through >/dev/null")?;
            drop_mounts_below_dev(&mut bundle.config);
            symlink(&link, bundle.upper("dev"))?;
            Ok(bundle)
        };
        // Not refused, then: where the link leads to inside.
        let output = bundle()?.output(host);
        canary.check()?;
        let output = output?;
        ensure!(output.contains("null\n"), "{output}");
        ensure!(!output.contains(canary::FILE), "it sees the host");
        for mount in [None, Some(&devpts)] {
            let bundle = bundle()?.set("/process/terminal", json!(true));
            let bundle = match mount {
                Some(devpts) => bundle.mount(devpts.clone()),
                None => bundle,
            };
            let error = refused(bundle.create_with(host, ProcessStdio::Terminal))?;
            let words = mount.map_or("open terminal", |_| "mount on an ordinary directory");
            let message = format!("{error:#}");
            ensure!(message.contains(words), "{message}");
            ensure!(!host.cgroup_exists(&bundle.id), "left its cgroup");
        }
        canary.check()?;
    }
    Ok(())
}

fn false_devpts(host: &Host) -> Result<()> {
    for device in [None, Some((5, 2)), Some((1, 3))] {
        let mut bundle = host.bundle("true")?.set("/process/terminal", json!(true));
        drop_mounts_below_dev(&mut bundle.config);
        fs::create_dir_all(bundle.upper("dev/pts"))?;
        let ptmx = bundle.upper("dev/pts/ptmx");
        match device {
            Some((major, minor)) => {
                let kind = NodeKind::Character { major, minor };
                berth_kernel::make_node(CWD, &ptmx, kind, 0o666)?;
            }
            None => fs::write(&ptmx, "unchanged")?,
        }
        let error = refused(bundle.create_with(host, ProcessStdio::Terminal))?;
        // Before anything there is opened: a device may do something then.
        let expected = format!(
            "open terminal /dev/pts: {}",
            std::io::Error::from(Errno::NODEV)
        );
        let message = format!("{error:#}");
        ensure!(message.contains(&expected), "{device:?}: {message}");
        ensure!(!host.cgroup_exists(&bundle.id), "left its cgroup");
    }
    Ok(())
}

fn false_null(host: &Host) -> Result<()> {
    for change in [
        "busybox ln -s /victim /dev/null",
        "busybox ln -s ../victim /dev/null",
        "busybox ln /dev/victim /dev/null",
        "mknod /dev/null c 1 5",
        "mknod /dev/null p",
    ] {
        let bundle = host.bundle("sleep 60")?;
        fs::write(bundle.upper("victim"), "unchanged")?;
        let mut container = bundle.create(host)?;
        container.start()?;
        let script = format!("echo unchanged >/dev/victim; busybox rm /dev/null && {change}");
        let changed = exec(&container, &script);
        let request = process("echo overwritten");
        let outcome = exec_process(&container, &request, quiet());
        if let Ok(process) = &outcome {
            reap(process.pid)?;
        }
        let victim = format!("/proc/{}/root/dev/victim", container.pid());
        let victim = fs::read_to_string(victim);
        container.delete(true)?;
        reap(container.pid())?;
        let changed = changed?;
        ensure!(changed.status == 0, "{changed:?}");
        let error = refused(outcome)?;
        ensure!(
            format!("{error:#}").contains("connect standard streams"),
            "{change}: {error:#}"
        );
        ensure!(victim? == "unchanged\n", "{change}");
        let victim = fs::read_to_string(bundle.upper("victim"))?;
        ensure!(victim == "unchanged", "{change}: {victim}");
    }
    Ok(())
}

fn drop_mounts_below_dev(config: &mut serde_json::Value) {
    let mounts = config["mounts"].as_array().cloned().unwrap_or_default();
    let kept: Vec<_> = mounts
        .into_iter()
        .filter(|mount| {
            !mount["destination"]
                .as_str()
                .unwrap_or("")
                .starts_with("/dev")
        })
        .collect();
    config["mounts"] = json!(kept);
}

fn false_proc(host: &Host) -> Result<()> {
    let volume = tempfile::tempdir()?;
    for destination in ["/proc", "/proc/sys", "/proc/self/attr", "/alias/1"] {
        let bundle = host
            .bundle("true")?
            .mount(json!({"destination": destination,
            "type": "bind", "source": volume.path(), "options": ["rbind"]}));
        symlink("/proc", bundle.upper("alias"))?;
        let message = bundle.refusal(host)?;
        ensure!(message.contains("cannot mount"), "{destination}: {message}");
    }
    let view = volume.path().join("meminfo");
    fs::write(&view, "MemTotal: 1 kB\n")?;
    let bundle = host.bundle("cat /proc/meminfo")?.mount(json!({
        "destination": "/proc/meminfo", "type": "bind", "source": view, "options": ["bind"]}));
    let output = bundle.output(host)?;
    ensure!(output == "MemTotal: 1 kB\n", "{output}");
    Ok(())
}

fn outside_directory(host: &Host) -> Result<()> {
    // Directories of the host that a leak would be about.
    let held: Vec<fs::File> = (0..64)
        .map(|_| fs::File::open("/"))
        .collect::<std::io::Result<_>>()?;
    let mut container = host.bundle("sleep 60")?.create(host)?;
    container.start()?;
    for number in 3..64 {
        for directory in [
            format!("/proc/self/fd/{number}"),
            format!("/proc/self/fd/{number}/../.."),
            format!("/proc/1/fd/{number}"),
        ] {
            let mut request = process("pwd");
            request["cwd"] = json!(directory);
            let error = refused(exec_process(&container, &request, quiet()))?;
            ensure!(
                format!("{error:#}").contains("open working directory"),
                "{error:#}"
            );
            let bundle = host.bundle("pwd")?.set("/process/cwd", json!(directory));
            let message = bundle.refusal(host)?;
            ensure!(message.contains("open working directory"), "{message}");
        }
    }
    container.delete(true)?;
    reap(container.pid())?;
    drop(held);
    Ok(())
}

fn climbing_mounts(host: &Host) -> Result<()> {
    let volume = tempfile::tempdir()?;
    fs::write(volume.path().join("mark"), "in\n")?;
    let bundle = host
        .bundle("cat /landed/mark; cat /climbed/mark")?
        .mount(json!({"destination": "/../../../landed", "type": "bind",
                      "source": volume.path(), "options": ["rbind"]}))
        .mount(json!({"destination": "/ladder", "type": "bind",
                      "source": volume.path(), "options": ["rbind"]}));
    symlink("../../../../../climbed", bundle.upper("ladder"))?;
    let output = bundle.output(host)?;
    ensure!(output == "in\nin\n", "{output}");
    ensure!(!std::path::Path::new("/landed").exists());
    ensure!(!std::path::Path::new("/climbed").exists());
    Ok(())
}

fn unsupported(host: &Host) -> Result<()> {
    if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        eprintln!("skipped: needs a kernel without SELinux: a label that cannot be set");
        return Ok(());
    }
    let label = json!("system_u:object_r:x");
    let bundle = host.bundle("true")?.set("/linux/mountLabel", label);
    let message = bundle.refusal(host)?;
    let expected = "linux.mountLabel is not supported";
    ensure!(message.ends_with(expected), "{message}");
    Ok(())
}

fn nonsense(host: &Host) -> Result<()> {
    let cases = [
        ("/process/args", json!([]), "process.args"),
        ("/process/args", json!(["a\u{0}b"]), "process.args"),
        ("/process/cwd", json!("relative"), "process.cwd"),
        ("/process/oomScoreAdj", json!(5000), "process.oomScoreAdj"),
        (
            "/linux/namespaces/-",
            json!({"type": "pid"}),
            "linux.namespaces",
        ),
        (
            "/linux/rootfsPropagation",
            json!("sideways"),
            "linux.rootfsPropagation",
        ),
        (
            "/mounts/-",
            json!({"destination": "relative"}),
            "mounts.destination",
        ),
        (
            "/mounts/-",
            json!({"destination": "/x", "type": "bind"}),
            "mounts",
        ),
        (
            "/mounts/-",
            json!({"destination": "/x", "type": "tmpfs", "options": ["idmap"]}),
            "mounts",
        ),
        (
            "/linux/devices",
            json!([{"path": "dev/x", "type": "c", "major": 1, "minor": 3}]),
            "linux.devices",
        ),
        (
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "c", "major": -1, "minor": 3}]),
            "linux.devices",
        ),
    ];
    for (pointer, value, field) in cases {
        let message = host
            .bundle("true")?
            .set(pointer, value.clone())
            .refusal(host)?;
        ensure!(
            message.contains(&format!("invalid {field} ")),
            "{pointer} {value}: {message}"
        );
    }
    let bad = host
        .bundle("true")?
        .mount(json!({"destination": "/x", "type": "tmpfs",
        "source": "tmpfs", "options": ["no-such-option=1"]}));
    let message = bad.refusal(host)?;
    ensure!(message.contains("no-such-option"), "{message}");
    Ok(())
}
