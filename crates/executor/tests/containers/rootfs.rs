//! What a process sees of files.

use crate::Case;
use crate::fixture::{Host, reap};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;

pub const CASES: &[Case] = &[
    (
        "masked_paths_are_empty_and_read_only_paths_refuse_writes",
        masks,
    ),
    (
        "a_read_only_root_refuses_writes_but_its_mounts_do_not",
        read_only_root,
    ),
    ("a_plain_directory_serves_as_root", plain_root),
    (
        "binds_bring_files_and_directories_with_their_options",
        binds,
    ),
    (
        "mount_points_behind_links_are_made_inside",
        linked_mount_points,
    ),
    ("default_devices_work_and_others_cannot_be_opened", devices),
    ("the_cgroup_mount_shows_the_containers_own_cgroup", cgroups),
    ("sysctls_are_set_in_their_namespace_only", sysctls),
    ("the_host_sees_no_mount_of_a_container", host_mounts),
    ("a_slave_mount_receives_what_the_host_mounts", propagation),
];

fn masks(host: &Host) -> Result<()> {
    let script = "cat /proc/kcore; ls -A /sys/firmware; echo 1 > /proc/sys/kernel/printk; \
                  touch /sys/firmware/x; echo end";
    let outcome = host.bundle(script)?.run(host)?;
    ensure!(outcome.stdout == "end\n", "{outcome:?}");
    let refusals = outcome.stderr.matches("Read-only file system").count();
    ensure!(refusals == 2, "{outcome:?}");
    Ok(())
}

fn read_only_root(host: &Host) -> Result<()> {
    let bundle = host
        .bundle("touch /x; touch /scratch/x && touch /dev/shm/x && echo fine")?
        .set("/root/readonly", json!(true))
        .mount(
            json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs",
                      "options": ["size=64k", "mode=700"]}),
        );
    let outcome = bundle.run(host)?;
    ensure!(outcome.stdout == "fine\n", "{outcome:?}");
    ensure!(
        outcome.stderr.contains("Read-only file system"),
        "{outcome:?}"
    );
    Ok(())
}

fn plain_root(host: &Host) -> Result<()> {
    let mut bundle = host.bundle("ls /; echo written > /tmp/from-inside")?;
    bundle.rootfs.clear();
    let bundle = bundle.set("/root/path", json!(host.base()));
    let output = bundle.output(host)?;
    ensure!(output.contains("bin\n"), "{output}");
    let written = host.base().join("tmp/from-inside");
    ensure!(fs::read_to_string(&written)? == "written\n");
    fs::remove_file(written)?;
    Ok(())
}

fn binds(host: &Host) -> Result<()> {
    let volume = tempfile::tempdir()?;
    fs::write(volume.path().join("file"), "content\n")?;
    let file = volume.path().join("file");
    let script = "cat /etc/deep/conf; echo no > /etc/deep/conf; cat /vol/file; touch /vol/new; \
                  touch /vol-ro/x; grep -E ' /vol(-ro)? ' /proc/self/mountinfo | grep -c nosuid";
    let bundle = host
        .bundle(script)?
        .mount(
            json!({"destination": "/etc/deep/conf", "type": "bind", "source": file,
                      "options": ["bind", "ro"]}),
        )
        .mount(
            json!({"destination": "/vol", "type": "bind", "source": volume.path(),
                      "options": ["rbind", "rw", "nosuid"]}),
        )
        .mount(json!({"destination": "/vol-ro", "source": volume.path(),
                      "options": ["rbind", "rro", "rnosuid", "nodev"]}));
    let outcome = bundle.run(host)?;
    ensure!(outcome.stdout == "content\ncontent\n2\n", "{outcome:?}");
    let refusals = outcome.stderr.matches("Read-only file system").count();
    ensure!(
        refusals == 2 && volume.path().join("new").exists(),
        "{outcome:?}"
    );
    let missing = host
        .bundle("")?
        .mount(json!({"destination": "/x", "type": "bind",
        "source": "/no/such/source", "options": ["bind"]}));
    let message = missing.refusal(host)?;
    ensure!(
        message.contains("/no/such/source: No such file"),
        "{message}"
    );
    Ok(())
}

fn linked_mount_points(host: &Host) -> Result<()> {
    let volume = tempfile::tempdir()?;
    fs::write(volume.path().join("token"), "secret\n")?;
    let bundle = host
        .bundle("cat /run/secrets/token /var/run/secrets/token")?
        .mount(json!({"destination": "/var/run/secrets", "type": "bind",
                      "source": volume.path(), "options": ["rbind", "ro"]}));
    fs::create_dir(bundle.upper("var"))?;
    symlink("/run", bundle.upper("var/run"))?;
    let output = bundle.output(host)?;
    ensure!(output == "secret\nsecret\n", "{output}");
    Ok(())
}

fn devices(host: &Host) -> Result<()> {
    let script = "echo x > /dev/null && head -c 4 /dev/zero > /dev/null && \
                  head -c 4 /dev/urandom > /dev/null && echo usable; \
                  stat -c %a /dev/null; readlink /dev/fd; readlink /dev/ptmx; stat -c %t:%T:%a:%g /dev/own; \
                  mknod /tmp/raw b 254 0 && head -c 1 /tmp/raw";
    let bundle = host.bundle(script)?.set(
        "/linux/devices",
        json!([{"path": "/dev/own", "type": "c", "major": 1, "minor": 5,
                "fileMode": 416, "uid": 0, "gid": 7}]),
    );
    let outcome = bundle.run(host)?;
    let expected = "usable\n666\n/proc/self/fd\npts/ptmx\n1:5:640:7\n";
    ensure!(outcome.stdout == expected, "{outcome:?}");
    ensure!(
        outcome.stderr.contains("Operation not permitted"),
        "{outcome:?}"
    );
    Ok(())
}

fn cgroups(host: &Host) -> Result<()> {
    let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null \
                  || cat /sys/fs/cgroup/memory.max; \
                  grep -q 1 /sys/fs/cgroup/memory/tasks /sys/fs/cgroup/cgroup.procs 2>/dev/null \
                  && echo here; mkdir /sys/fs/cgroup/memory/x 2>/dev/null \
                  || mkdir /sys/fs/cgroup/x 2>/dev/null || echo refused; \
                  grep -v ':/$' /proc/self/cgroup; true";
    let output = host.bundle(script)?.output(host)?;
    ensure!(output == "67108864\nhere\nrefused\n", "{output}");
    // Without a cgroup namespace it still sees only its own directories.
    let mut bundle = host.bundle(script)?;
    let namespaces = bundle
        .config
        .pointer_mut("/linux/namespaces")
        .context("none")?;
    namespaces.as_array_mut().context("none")?.pop();
    let output = bundle.output(host)?;
    ensure!(output.starts_with("67108864\nhere\nrefused\n"), "{output}");
    Ok(())
}

fn sysctls(host: &Host) -> Result<()> {
    let bundle = host
        .bundle("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced")?
        .set(
            "/linux/sysctl",
            json!({"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}),
        );
    let output = bundle.output(host)?;
    ensure!(output == "1\n1\n", "{output}");
    for name in [
        "kernel.core_pattern",
        "vm.swappiness",
        "net/../kernel/sysrq",
    ] {
        let bundle = host.bundle("")?.set("/linux/sysctl", json!({name: "1"}));
        let message = bundle.refusal(host)?;
        ensure!(message.contains("invalid linux.sysctl"), "{message}");
    }
    let mut bundle = host
        .bundle("")?
        .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    let namespaces = bundle
        .config
        .pointer_mut("/linux/namespaces")
        .context("none")?;
    namespaces
        .as_array_mut()
        .context("none")?
        .retain(|namespace| namespace["type"] != "network");
    let message = bundle.refusal(host)?;
    ensure!(message.contains("needs a namespace"), "{message}");
    Ok(())
}

fn host_mounts(host: &Host) -> Result<()> {
    for propagation in ["rprivate", "rslave", "rshared"] {
        let volume = tempfile::tempdir()?;
        let bundle = host
            .bundle("sleep 60")?
            .set("/linux/rootfsPropagation", json!(propagation))
            .mount(
                json!({"destination": "/vol", "type": "bind", "source": volume.path(),
                          "options": ["rbind", propagation]}),
            );
        let before = fs::read_to_string("/proc/self/mountinfo")?;
        let mut container = bundle.create(host)?;
        container.start()?;
        let during = fs::read_to_string("/proc/self/mountinfo")?;
        container.delete(true)?;
        reap(container.pid())?;
        ensure!(before == during, "{propagation}: {during}");
        ensure!(
            before == fs::read_to_string("/proc/self/mountinfo")?,
            "{propagation}"
        );
    }
    Ok(())
}

/// In a mount namespace of this test's own host: a directory that is shared.
fn propagation(host: &Host) -> Result<()> {
    let volume = tempfile::tempdir()?;
    let context = berth_kernel::FilesystemContext::open("tmpfs")?;
    let shared = context.mount(berth_kernel::MountFlags::empty())?;
    let place = berth_kernel::rustix::fs::open(
        volume.path(),
        berth_kernel::rustix::fs::OFlags::PATH,
        berth_kernel::rustix::fs::Mode::empty(),
    )?;
    berth_kernel::attach(&shared, &place)?;
    let outcome = slave_sees(host, volume.path());
    berth_kernel::detach(volume.path())?;
    outcome
}

fn slave_sees(host: &Host, volume: &std::path::Path) -> Result<()> {
    berth_kernel::set_propagation(volume, berth_kernel::Propagation::Shared, false)?;
    fs::create_dir(volume.join("later"))?;
    let bundle = host.bundle("sleep 60")?.mount(json!({
        "destination": "/vol", "type": "bind", "source": volume, "options": ["rbind", "rslave"]}));
    let mut container = bundle.create(host)?;
    container.start()?;
    let context = berth_kernel::FilesystemContext::open("tmpfs")?;
    let late = context.mount(berth_kernel::MountFlags::empty())?;
    let place = berth_kernel::rustix::fs::open(
        volume.join("later"),
        berth_kernel::rustix::fs::OFlags::PATH,
        berth_kernel::rustix::fs::Mode::empty(),
    )?;
    berth_kernel::attach(&late, &place)?;
    let seen = crate::fixture::exec(&container, "grep -c /vol/later /proc/self/mountinfo");
    container.delete(true)?;
    reap(container.pid())?;
    berth_kernel::detach(&volume.join("later"))?;
    let seen = seen?;
    ensure!(seen.stdout == "1\n", "{seen:?}");
    Ok(())
}
