//! User and time namespaces, and mounts whose ids are mapped.

use crate::Case;
use crate::fixture::{Bundle, Host, exec, reap};
use anyhow::{Context, Result, ensure};
use berth_executor::ProcessStdio;
use berth_kernel::{IdMapping, Namespace, NamespaceHolder, NamespaceSet};
use serde_json::{Value, json};
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

pub const CASES: &[Case] = &[
    ("user_namespace::root_inside_is_nobody_outside", shifted),
    ("user_namespace::devices_and_streams_work_for_a_user", works),
    ("user_namespace::an_exec_has_the_same_ids", exec_inside),
    ("user_namespace::a_terminal_belongs_to_the_user", terminal),
    ("user_namespace::it_owns_what_is_made_in_it", owns),
    (
        "user_namespace::a_pinned_one_is_joined_with_its_namespaces",
        joined,
    ),
    (
        "user_namespace::no_cgroup_is_made_or_joined_from_inside",
        no_cgroups,
    ),
    ("user_namespace::hidden_paths_stay_hidden", hidden),
    ("user_namespace::what_cannot_be_mapped_is_refused", refused),
    (
        "id_map::a_volume_shows_the_owners_that_it_is_mapped_to",
        volume,
    ),
    ("id_map::a_mount_below_is_mapped_only_when_asked", recursive),
    ("id_map::maps_that_cannot_be_meant_are_refused", bad_maps),
    ("time_namespace::clocks_are_moved_for_every_process", clocks),
];

const FIRST: u32 = 100_000;

fn ids(first: u32) -> Value {
    json!([{"containerID": 0, "hostID": first, "size": 65536}])
}

/// A bundle in a user namespace, with a root whose layers are mapped to it.
fn inside(host: &Host, script: &str) -> Result<Bundle> {
    let mut bundle = host
        .bundle(script)?
        .set("/linux/namespaces/-", json!({"type": "user"}))
        .set("/linux/uidMappings", ids(FIRST))
        .set("/linux/gidMappings", ids(FIRST));
    bundle.rootfs[0].options.push("idmap".to_owned());
    Ok(bundle)
}

fn shifted(host: &Host) -> Result<()> {
    let bundle = inside(
        host,
        "id -u; cat /proc/self/uid_map; touch /new; stat -c %u:%g /new /bin /bin/sh",
    )?;
    let (stdio, output) = crate::fixture::pipes()?;
    let mut container = bundle.create_with(host, stdio)?;
    let status = fs::read_to_string(format!("/proc/{}/status", container.pid()))?;
    container.start()?;
    let outcome = output.collect(container.pid())?;
    container.delete(true)?;
    let words: Vec<&str> = outcome.stdout.split_whitespace().collect();
    ensure!(
        words == ["0", "0", "100000", "65536", "0:0", "0:0", "0:0"],
        "{outcome:?}"
    );
    ensure!(status.contains("Uid:\t100000\t100000"), "{status}");
    let made = fs::metadata(bundle.upper("new"))?;
    ensure!((made.uid(), made.gid()) == (0, 0), "{made:?}");
    Ok(())
}

fn works(host: &Host) -> Result<()> {
    let script = "set -e; echo x >/dev/null; head -c 4 /dev/zero >/dev/null; \
        echo again >/dev/stdout; stat -c '%t %T %u %a' /dev/null; touch /dev/shm/a; \
        ls /sys/class/net; read=; \
        for file in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do \
        if test -e $file; then cat $file >/dev/null; read=yes; fi; done; test $read; id -u";
    let bundle = inside(host, script)?.set("/process/user/uid", json!(1000));
    let output = bundle.output(host)?;
    ensure!(output == "again\n1 3 0 666\nlo\n1000\n", "{output:?}");
    Ok(())
}

fn exec_inside(host: &Host) -> Result<()> {
    let bundle = inside(host, "sleep 60")?.set("/process/oomScoreAdj", json!(77));
    let mut container = bundle.create(host)?;
    container.start()?;
    let script = "id -u; cat /proc/self/uid_map /proc/self/oom_score_adj; touch /by-exec; \
        mkdir -p /a/b; stat -c %u /a/b; echo out >/dev/stdout; \
        test $(readlink /proc/self/ns/user) = $(readlink /proc/1/ns/user) && echo same";
    let outcome = exec(&container, script);
    container.delete(true)?;
    reap(container.pid())?;
    let outcome = outcome?;
    let words: Vec<&str> = outcome.stdout.split_whitespace().collect();
    ensure!(
        words == ["0", "0", "100000", "65536", "77", "0", "out", "same"],
        "{outcome:?}"
    );
    Ok(())
}

fn terminal(host: &Host) -> Result<()> {
    let bundle = inside(
        host,
        "tty; stat -c %u $(tty); stat -c %t /dev/console; id -u",
    )?
    .set("/process/user/uid", json!(33));
    let mut container = bundle.create_with(host, ProcessStdio::Terminal)?;
    let master = container.take_terminal().context("no terminal")?;
    container.start()?;
    let mut text = String::new();
    // The end of the last process is an error on the master.
    let _ = fs::File::from(master).read_to_string(&mut text);
    container.delete(true)?;
    reap(container.pid())?;
    ensure!(text == "/dev/pts/0\r\n33\r\n88\r\n33\r\n", "{text:?}");
    Ok(())
}

fn owns(host: &Host) -> Result<()> {
    let everything = json!([
        "CAP_SYS_ADMIN",
        "CAP_NET_ADMIN",
        "CAP_SYS_TIME",
        "CAP_SYS_RESOURCE"
    ]);
    // What belongs to the container can be changed; what is the host's cannot.
    let script = "mount -t tmpfs none /tmp && echo mounted; hostname other && hostname; \
        (echo 1 >/proc/sys/kernel/sysrq) 2>/dev/null || echo kept; \
        (echo 5 >/proc/sys/net/ipv4/ip_default_ttl) && cat /proc/sys/net/ipv4/ip_default_ttl; \
        mknod /dev/sda b 8 0 2>/dev/null || echo no device";
    let mut bundle = inside(host, script)?.set("/linux/readonlyPaths", json!([]));
    fs::create_dir(bundle.upper("tmp"))?;
    for set in ["bounding", "effective", "permitted"] {
        bundle = bundle.set(&format!("/process/capabilities/{set}"), everything.clone());
    }
    let output = bundle.run(host)?;
    let expected = "mounted\nother\nkept\n5\nno device\n";
    ensure!(output.stdout == expected, "{output:?}");
    Ok(())
}

fn joined(host: &Host) -> Result<()> {
    let kinds = [Namespace::User, Namespace::Network, Namespace::Ipc];
    let holder = NamespaceHolder::new(kinds.into_iter().collect::<NamespaceSet>())?;
    let range = IdMapping {
        inside: 0,
        outside: 300_000,
        length: 1000,
    };
    holder.map_ids(&[range], &[range])?;
    let mut bundle = host.bundle("cat /proc/self/uid_map; ls /sys/class/net; id -u")?;
    let namespaces = bundle
        .config
        .pointer_mut("/linux/namespaces")
        .and_then(Value::as_array_mut)
        .context("namespaces")?;
    namespaces.retain(|namespace| namespace["type"] != "network" && namespace["type"] != "ipc");
    for (name, kind) in ["user", "network", "ipc"].into_iter().zip(kinds) {
        namespaces.push(json!({"type": name, "path": holder.namespace(kind)}));
    }
    bundle.rootfs[0].options.push("idmap".to_owned());
    let output = bundle.output(host)?;
    let words: Vec<&str> = output.split_whitespace().collect();
    ensure!(words == ["0", "300000", "1000", "lo", "0"], "{output:?}");
    let unmapped = bundle.set("/process/user/uid", json!(1000)).refusal(host)?;
    ensure!(unmapped.contains("is not mapped"), "{unmapped}");
    Ok(())
}

/// What each hierarchy that is mounted lets the container do, once nothing is read-only. What it
/// makes, it removes.
const USE_CGROUPS: &str = "for place in $(grep -E ' - cgroup2? ' /proc/self/mountinfo | \
    while read id parent device root place rest; do echo $place; done); do \
    mount -o remount,bind,rw $place; echo seen; \
    mkdir $place/new && busybox rmdir $place/new && echo made; \
    (echo $$ >$place/cgroup.procs) && echo joined; done 2>/dev/null; true";

fn no_cgroups(host: &Host) -> Result<()> {
    for own_namespace in [true, false] {
        let use_with = |mut bundle: Bundle| -> Result<String> {
            let namespaces = bundle.config.pointer_mut("/linux/namespaces");
            namespaces
                .and_then(Value::as_array_mut)
                .context("namespaces")?
                .retain(|namespace| own_namespace || namespace["type"] != "cgroup");
            for set in ["bounding", "effective", "permitted"] {
                let everything = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
                bundle = bundle.set(&format!("/process/capabilities/{set}"), everything);
            }
            bundle.output(host)
        };
        let output = use_with(inside(host, USE_CGROUPS)?)?;
        // Without a user namespace it can, so that it is known to be what refuses.
        let able = use_with(host.bundle(USE_CGROUPS)?)?;
        ensure!(able.contains("seen\nmade\njoined\n"), "{able}");
        let seen = able.matches("seen\n").count();
        ensure!(output == "seen\n".repeat(seen), "{own_namespace}: {output}");
    }
    Ok(())
}

fn hidden(host: &Host) -> Result<()> {
    let bundle = inside(
        host,
        "cat /proc/kcore; ls /proc/scsi /proc/acpi 2>/dev/null; touch /proc/sys/x 2>/dev/null || echo ro; \
         touch /x 2>/dev/null || echo root ro",
    )?
    .set("/linux/maskedPaths", json!(["/proc/kcore", "/proc/scsi", "/proc/acpi"]))
    .set("/linux/readonlyPaths", json!(["/proc/sys"]))
    .set("/root/readonly", json!(true));
    let output = bundle.output(host)?;
    let lines: Vec<&str> = output
        .lines()
        .filter(|line| !line.contains("/proc/"))
        .collect();
    ensure!(lines.concat() == "roroot ro", "{output:?}");
    Ok(())
}

fn refused(host: &Host) -> Result<()> {
    let mapped = |uids: Value, gids: Value| -> Result<String> {
        inside(host, "true")?
            .set("/linux/uidMappings", uids)
            .set("/linux/gidMappings", gids)
            .refusal(host)
    };
    let range = |inside: u32, outside: u32, size: u32| json!([{"containerID": inside, "hostID": outside, "size": size}]);
    let many: Vec<Value> = (0..5000)
        .map(|n| json!({"containerID": n, "hostID": n + 1000, "size": 1}))
        .collect();
    let cases = [
        (mapped(json!([]), ids(FIRST))?, "is missing"),
        (mapped(range(0, 1, 0), ids(FIRST))?, "maps no ids"),
        (
            mapped(range(0, u32::MAX, 2), ids(FIRST))?,
            "beyond the last id",
        ),
        (
            mapped(range(1, 1000, 10), ids(FIRST))?,
            "does not map user and group 0",
        ),
        (
            mapped(json!([range(0, 1, 5)[0], range(3, 100, 5)[0]]), ids(FIRST))?,
            "overlaps",
        ),
        (mapped(json!(many), ids(FIRST))?, "more ranges"),
        (
            host.bundle("true")?
                .set("/linux/uidMappings", ids(1))
                .refusal(host)?,
            "needs a user namespace",
        ),
        (
            inside(host, "true")?
                .set("/linux/rootfsPropagation", json!("shared"))
                .refusal(host)?,
            "from a user namespace is not supported",
        ),
    ];
    for (message, part) in cases {
        ensure!(message.contains(part), "{message} lacks {part}");
    }
    Ok(())
}

fn volume(host: &Host) -> Result<()> {
    let volume = tempfile::tempdir()?;
    fs::set_permissions(volume.path(), fs::Permissions::from_mode(0o777))?;
    let file = volume.path().join("file");
    fs::write(&file, "")?;
    chown(&file, Some(7), Some(8))?;
    let mount = |options: &[&str]| json!({"destination": "/vol", "type": "bind", "source": volume.path(), "options": options});
    let mut explicit = mount(&["bind", "idmap"]);
    explicit["uidMappings"] = json!([{"containerID": 7, "hostID": 1007, "size": 1}]);
    explicit["gidMappings"] = json!([{"containerID": 8, "hostID": 1008, "size": 1}]);
    let script = "stat -c %u:%g /vol/file";
    let output = host.bundle(script)?.mount(explicit.clone()).output(host)?;
    ensure!(output == "1007:1008\n", "{output}");

    // Without the word as well: a map that is given is meant.
    explicit["options"] = json!(["bind"]);
    let output = host.bundle(script)?.mount(explicit).output(host)?;
    ensure!(output == "1007:1008\n", "{output}");

    let script = "stat -c %u:%g /vol/file; touch /vol/new";
    let output = inside(host, script)?
        .mount(mount(&["rbind", "ridmap"]))
        .output(host)?;
    ensure!(output == "7:8\n", "{output}");
    let made = fs::metadata(volume.path().join("new"))?;
    ensure!(made.uid() == 0, "{made:?}");

    // An unmapped volume has owners that the container has no name for.
    let script = "stat -c %u:%g /vol/file";
    let output = inside(host, script)?.mount(mount(&["bind"])).output(host)?;
    ensure!(output == "65534:65534\n", "{output}");
    Ok(())
}

fn recursive(host: &Host) -> Result<()> {
    let volume = tempfile::tempdir()?;
    let below = volume.path().join("below");
    fs::create_dir(&below)?;
    // Of the same file system, because not every other can be mapped.
    let other = tempfile::tempdir()?;
    chown(other.path(), Some(7), None)?;
    let mounted = berth_kernel::clone_tree(berth_kernel::rustix::fs::CWD, other.path(), false)?;
    let place = fs::File::open(&below)?;
    berth_kernel::attach(&mounted, &place)?;
    let owner = |options: &[&str]| {
        host.bundle("stat -c %u /vol/below")?
            .mount(json!({
                "destination": "/vol", "type": "bind", "source": volume.path(),
                "options": options,
                "uidMappings": ids(FIRST), "gidMappings": ids(FIRST),
            }))
            .output(host)
    };
    let outcomes = (owner(&["rbind", "ridmap"]), owner(&["rbind", "idmap"]));
    berth_kernel::detach(&below)?;
    ensure!(outcomes.0? == "100007\n");
    ensure!(outcomes.1? == "7\n");
    Ok(())
}

fn bad_maps(host: &Host) -> Result<()> {
    let refusal = |mount: Value| host.bundle("true")?.mount(mount).refusal(host);
    let bind = |options: &[&str]| json!({"destination": "/vol", "type": "bind", "source": "/tmp", "options": options});
    let mut one = bind(&["bind"]);
    one["uidMappings"] = ids(FIRST);
    let mut tmpfs = json!({"destination": "/vol", "type": "tmpfs", "source": "t"});
    tmpfs["uidMappings"] = ids(FIRST);
    tmpfs["gidMappings"] = ids(FIRST);
    // sysfs cannot be mapped.
    let mut sysfs = bind(&["bind", "idmap"]);
    sysfs["source"] = json!("/sys/kernel");
    sysfs["uidMappings"] = ids(FIRST);
    sysfs["gidMappings"] = ids(FIRST);
    let cases = [
        (
            refusal(bind(&["bind", "idmap"]))?,
            "there is no user namespace",
        ),
        (refusal(one)?, "only one of user and group ids"),
        (refusal(tmpfs)?, "only those can map ids"),
        (refusal(sysfs)?, "cannot map the ids of mount /sys/kernel"),
    ];
    for (message, part) in cases {
        ensure!(message.contains(part), "{message} lacks {part}");
    }
    Ok(())
}

fn clocks(host: &Host) -> Result<()> {
    let up = |text: &str| -> Result<f64> {
        Ok(text
            .split_whitespace()
            .next()
            .context("no uptime")?
            .parse()?)
    };
    let bundle = host
        .bundle("cat /proc/uptime; sleep 60")?
        .set("/linux/namespaces/-", json!({"type": "time"}))
        .set(
            "/linux/timeOffsets",
            json!({"boottime": {"secs": 864_000}, "monotonic": {"secs": 7}}),
        );
    let mut container = bundle.create(host)?;
    container.start()?;
    let seen = exec(&container, "cat /proc/uptime");
    let really = fs::read_to_string("/proc/uptime")?;
    container.delete(true)?;
    reap(container.pid())?;
    let ahead = up(&seen?.stdout)? - up(&really)?;
    ensure!((ahead - 864_000.0).abs() < 60.0, "{ahead} s ahead");

    let refusal = host
        .bundle("true")?
        .set("/linux/timeOffsets", json!({"boottime": {"secs": 1}}))
        .refusal(host)?;
    ensure!(refusal.contains("needs a new time namespace"), "{refusal}");
    let refusal = host
        .bundle("true")?
        .set("/linux/namespaces/-", json!({"type": "time"}))
        .set("/linux/timeOffsets", json!({"realtime": {"secs": 1}}))
        .refusal(host)?;
    ensure!(refusal.contains("is not a clock"), "{refusal}");
    Ok(())
}
