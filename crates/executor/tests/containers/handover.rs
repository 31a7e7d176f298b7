//! Containers that one process of the runtime makes and another goes on with.

use crate::Case;
use crate::fixture::{Bundle, Host, exec, pipes, quiet, reap};
use anyhow::{Context, Result, bail, ensure};
use berth_executor::{
    Container, Create, CreateOptions, Error, Found, ProcessOptions, ProcessStdio, Record,
    open_start_gate,
};
use berth_kernel::rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use serde_json::json;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::path::Path;

pub const CASES: &[Case] = &[
    (
        "a_container_is_started_and_entered_by_its_record",
        by_its_record,
    ),
    (
        "a_container_that_was_not_left_ends_with_its_maker",
        not_left,
    ),
    (
        "an_ended_container_is_removed_by_its_record",
        ended_by_record,
    ),
    ("preserved_descriptors_reach_the_program", preserved),
];

fn socket() -> Result<OwnedFd> {
    let kind = SocketType::SEQPACKET;
    Ok(socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

fn listener(path: &Path) -> Result<OwnedFd> {
    let listener = socket()?;
    bind(&listener, &SocketAddrUnix::new(path)?)?;
    listen(&listener, 1)?;
    Ok(listener)
}

fn create(
    host: &Host,
    bundle: &Bundle,
    stdio: ProcessStdio,
    options: CreateOptions,
) -> Result<Container> {
    Ok(Container::create(Create {
        id: &bundle.id,
        bundle: bundle.dir.path(),
        spec: &bundle.spec()?,
        rootfs: &bundle.rootfs,
        stdio,
        cgroups: &host.cgroups,
        options,
    })?)
}

/// Through its saved form, as another process gets it.
fn saved(container: &Container) -> Result<Record> {
    let json = serde_json::to_string(&container.record()?)?;
    Ok(serde_json::from_str(&json)?)
}

fn by_its_record(host: &Host) -> Result<()> {
    let bundle = host.bundle("sleep 60")?.set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95 }],
        }),
    );
    let path = bundle.dir.path().join("start");
    let options = CreateOptions {
        start_socket: Some(listener(&path)?),
        ..CreateOptions::default()
    };
    let mut made = create(host, &bundle, quiet(), options)?;
    let record = saved(&made)?;
    made.leave()?;
    ensure!(matches!(made.start(), Err(Error::AlreadyStarted { .. })));
    let pid = made.pid();
    drop(made);

    // Somebody who connects and says nothing starts nothing.
    let silent = socket()?;
    connect(&silent, &SocketAddrUnix::new(&path)?)?;
    drop(silent);
    ensure!(record.is_alive());
    let connection = socket()?;
    connect(&connection, &SocketAddrUnix::new(&path)?)?;
    open_start_gate(&bundle.id, connection)?;

    let Found::Alive(mut found) = Container::load(&bundle.id, &record, &host.cgroups)? else {
        bail!("not found alive");
    };
    ensure!(found.pid() == pid);
    let outcome = exec(&found, "hostname; mkdir /tmp/x || echo refused")?;
    ensure!(outcome.stdout.ends_with("refused\n"), "{outcome:?}");
    ensure!(outcome.stderr.contains("not supported"), "{outcome:?}");
    found.delete(true)?;
    reap(pid)?;
    ensure!(!host.cgroup_exists(&bundle.id));
    Ok(())
}

fn not_left(host: &Host) -> Result<()> {
    let bundle = host.bundle("sleep 60")?;
    let options = CreateOptions {
        start_socket: Some(listener(&bundle.dir.path().join("start"))?),
        ..CreateOptions::default()
    };
    let made = create(host, &bundle, quiet(), options)?;
    let record = saved(&made)?;
    let pid = made.pid();
    drop(made);
    ensure!(reap(pid)? == 1);
    remove_ended(host, &bundle.id, &record)
}

fn ended_by_record(host: &Host) -> Result<()> {
    let bundle = host.bundle("true")?;
    let mut made = bundle.create(host)?;
    let record = saved(&made)?;
    made.start()?;
    reap(made.pid())?;
    drop(made);
    remove_ended(host, &bundle.id, &record)
}

fn remove_ended(host: &Host, id: &str, record: &Record) -> Result<()> {
    let Found::Ended(remains) = Container::load(id, record, &host.cgroups)? else {
        bail!("found alive");
    };
    remains.remove()?;
    ensure!(!host.cgroup_exists(id));
    remains.remove().context("removing it again")
}

fn preserved(host: &Host) -> Result<()> {
    use berth_kernel::rustix::io::{FdFlags, dup3, fcntl_dupfd_cloexec, fcntl_setfd};
    let bundle = host.bundle("cat <&3; ls /proc/self/fd | wc -w")?;
    let (stdio, output) = pipes()?;
    let file = bundle.dir.path().join("file");
    std::fs::write(&file, "kept\n")?;
    // Number 3 may be taken by whoever started this program: it is moved away
    // meanwhile, and filled if it was free.
    let filler = std::fs::File::open("/dev/null")?;
    if filler.as_raw_fd() == 3 {
        let _ = filler.into_raw_fd();
    }
    let source = std::fs::File::open(&file)?;
    let mut third = berth_kernel::inherit(3)?;
    let moved = fcntl_dupfd_cloexec(&third, 10)?;
    dup3(
        &source,
        &mut third,
        berth_kernel::rustix::io::DupFlags::empty(),
    )?;
    fcntl_setfd(&third, FdFlags::empty())?;
    let options = CreateOptions {
        process: ProcessOptions {
            preserved_fds: 1,
            keep_keyring: true,
            ..ProcessOptions::default()
        },
        ..CreateOptions::default()
    };
    let made = create(host, &bundle, stdio, options);
    dup3(
        &moved,
        &mut third,
        berth_kernel::rustix::io::DupFlags::CLOEXEC,
    )?;
    let _ = third.into_raw_fd();
    let mut made = made?;
    made.start()?;
    let outcome = output.collect(made.pid())?;
    made.delete(true)?;
    // 0, 1, 2, 3, and the one by which the directory is read.
    ensure!(outcome.stdout == "kept\n5\n", "{outcome:?}");
    Ok(())
}
