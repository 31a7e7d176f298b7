//! What a process is and has.

use crate::Case;
use crate::fixture::{Host, Output, exec, exec_process, pipes, process, quiet, reap, refused};
use anyhow::{Context, Result, ensure};
use berth_executor::{Error, ProcessStdio};
use berth_kernel::rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use std::os::fd::OwnedFd;

pub const CASES: &[Case] = &[
    ("exit_codes_and_signals_reach_the_parent", exit_codes),
    ("namespaces_are_the_containers_own", namespaces),
    (
        "capabilities_are_those_asked_for_and_none_is_inheritable",
        capabilities,
    ),
    ("user_groups_and_umask_are_set", user),
    ("an_ambient_capability_reaches_another_user", ambient),
    ("a_user_can_open_its_own_streams_again", reopen_streams),
    ("limits_are_set_and_clamped_with_a_notice", limits),
    ("only_the_standard_streams_are_open", descriptors),
    ("with_a_terminal_only_it_is_open", descriptors_of_a_terminal),
    ("ignored_signals_are_not_passed_on", signals),
    ("a_terminal_is_the_containers_own", terminal),
    ("an_exec_joins_everything", exec_joins),
    ("an_exec_may_have_a_terminal", exec_terminal),
    ("a_missing_program_is_named", missing_program),
    ("a_working_directory_is_made_and_entered", working_directory),
    ("a_filter_holds_with_and_without_new_privileges", filter),
    (
        "a_program_is_found_behind_a_filter_that_knows_older_calls_only",
        older_filter,
    ),
];

fn exit_codes(host: &Host) -> Result<()> {
    for (script, status) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$; sleep 5", 137)] {
        // Process 1 of a namespace cannot kill itself: a shell of it does.
        let script = format!("sh -c '{script}'; exit $?");
        let outcome = host.bundle(&script)?.run(host)?;
        ensure!(outcome.status == status, "{script}: {outcome:?}");
    }
    Ok(())
}

fn namespaces(host: &Host) -> Result<()> {
    let script = "for n in pid ipc uts mnt net cgroup user; do readlink /proc/self/ns/$n; done; \
                  hostname; echo $$";
    let output = host.bundle(script)?.output(host)?;
    let lines: Vec<&str> = output.lines().collect();
    ensure!(lines.len() == 9, "{output}");
    for (kind, line) in ["pid", "ipc", "uts", "mnt", "net", "cgroup"]
        .iter()
        .zip(&lines)
    {
        let mine = std::fs::read_link(format!("/proc/self/ns/{kind}"))?;
        ensure!(mine.to_str() != Some(line), "{kind} is the host's");
    }
    ensure!(lines[7..] == ["vessel", "1"], "{output}");
    Ok(())
}

fn capabilities(host: &Host) -> Result<()> {
    let script = "grep -E '^(Cap|NoNewPrivs)' /proc/self/status";
    let expected = "CapInh:\t0000000000000000\nCapPrm:\t0000000008000021\n\
                    CapEff:\t0000000008000021\nCapBnd:\t0000000008000021\n\
                    CapAmb:\t0000000000000000\nNoNewPrivs:\t1\n";
    let output = host.bundle(script)?.output(host)?;
    ensure!(output == expected, "{output}");
    let mut container = host.bundle("sleep 60")?.create(host)?;
    container.start()?;
    let outcome = exec(&container, script)?;
    container.delete(true)?;
    reap(container.pid())?;
    ensure!(outcome.stdout == expected, "{outcome:?}");
    Ok(())
}

fn user(host: &Host) -> Result<()> {
    let user = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 77], "umask": 63});
    let script = "id -u; id -g; id -G; umask; grep CapEff /proc/self/status";
    let bundle = host.bundle(script)?.set("/process/user", user);
    let output = bundle.output(host)?;
    let expected = "1000\n1001\n1001 5 77\n0077\nCapEff:\t0000000000000000\n";
    ensure!(output == expected, "{output}");
    Ok(())
}

fn ambient(host: &Host) -> Result<()> {
    let bundle = host
        .bundle("grep -E 'Cap(Inh|Eff)' /proc/self/status")?
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .set("/process/capabilities/ambient", json!(["CAP_KILL"]));
    let output = bundle.output(host)?;
    let expected = "CapInh:\t0000000000000020\nCapEff:\t0000000000000020\n";
    ensure!(output == expected, "{output}");
    Ok(())
}

fn reopen_streams(host: &Host) -> Result<()> {
    let bundle = host
        .bundle("echo out > /dev/stdout; echo err > /dev/stderr; cat /dev/stdin")?
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let outcome = bundle.run(host)?;
    ensure!(outcome.status == 0, "{outcome:?}");
    ensure!(
        outcome.stdout == "out\n" && outcome.stderr == "err\n",
        "{outcome:?}"
    );
    Ok(())
}

fn limits(host: &Host) -> Result<()> {
    let bundle = host
        .bundle("ulimit -n; ulimit -H -n; cat /proc/self/oom_score_adj")?
        .set("/process/oomScoreAdj", json!(500))
        .set(
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 111}]),
        );
    let output = bundle.output(host)?;
    ensure!(output == "99\n111\n500\n", "{output}");

    let bundle = host
        .bundle("exit 0")?
        .set("/process/oomScoreAdj", json!(-1000))
        .set(
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 1_u64 << 40, "hard": 1_u64 << 41}]),
        );
    let capable = berth_kernel::rustix::thread::capabilities(None)?
        .permitted
        .contains(berth_kernel::CapabilitySet::SYS_RESOURCE);
    if capable {
        eprintln!("skipped: needs a runtime without CAP_SYS_RESOURCE: clamped limits");
        return Ok(());
    }
    let mut container = bundle.create(host)?;
    let notices = container.take_notices().join("\n");
    container.delete(true)?;
    reap(container.pid())?;
    ensure!(
        notices.contains("oom_score_adj: -1000 is not permitted"),
        "{notices}"
    );
    ensure!(notices.contains("Nofile"), "{notices}");
    Ok(())
}

/// Descriptors of the runtime that are not close-on-exec.
fn leaky() -> Result<Vec<OwnedFd>> {
    let file = std::fs::File::open("/")?;
    let copies = (0..64).map(|_| berth_kernel::rustix::io::dup(&file));
    Ok(copies.collect::<std::result::Result<_, _>>()?)
}

fn descriptors(host: &Host) -> Result<()> {
    let leaky = leaky()?;
    let script = "ls /proc/1/fd; true";
    let output = host.bundle(script)?.output(host)?;
    ensure!(output == "0\n1\n2\n", "{output}");
    let mut container = host.bundle("sleep 60")?.create(host)?;
    container.start()?;
    let outcome = exec(&container, "ls /proc/$$/fd; true")?;
    container.delete(true)?;
    reap(container.pid())?;
    ensure!(outcome.stdout == "0\n1\n2\n", "{outcome:?}");
    drop(leaky);
    Ok(())
}

fn descriptors_of_a_terminal(host: &Host) -> Result<()> {
    let leaky = leaky()?;
    let script = "ls -1 /proc/$$/fd; true";
    let bundle = host.bundle(script)?.set("/process/terminal", json!(true));
    let mut container = bundle.create_with(host, ProcessStdio::Terminal)?;
    let master = container.take_terminal().context("no terminal")?;
    container.start()?;
    let of_first = read_terminal(&master)?;
    reap(container.pid())?;
    container.delete(false)?;

    let mut container = host.bundle("sleep 60")?.create(host)?;
    container.start()?;
    let process = exec_process(&container, &process(script), ProcessStdio::Terminal)?;
    let master = process.terminal.as_ref().context("no terminal")?;
    let of_exec = read_terminal(master)?;
    reap(process.pid)?;
    container.delete(true)?;
    reap(container.pid())?;
    ensure!(of_first == "0\n1\n2\n", "{of_first}");
    ensure!(of_exec == "0\n1\n2\n", "{of_exec}");
    drop(leaky);
    Ok(())
}

fn signals(host: &Host) -> Result<()> {
    let arguments = json!(["grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"]);
    let output = host
        .bundle("")?
        .set("/process/args", arguments)
        .output(host)?;
    let expected = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
    ensure!(output == expected, "{output}");
    Ok(())
}

/// Everything that arrives at a terminal's master until the other end closes
/// or nothing comes for five seconds.
pub(crate) fn read_terminal(master: &OwnedFd) -> Result<String> {
    let mut text = Vec::new();
    let patience = Timespec {
        tv_sec: 5,
        tv_nsec: 0,
    };
    loop {
        let mut fds = [PollFd::new(master, PollFlags::IN)];
        if poll(&mut fds, Some(&patience))? == 0 {
            break;
        }
        let mut buffer = [0u8; 4096];
        match berth_kernel::rustix::io::read(master, &mut buffer) {
            Ok(0) | Err(berth_kernel::Errno::IO) => break,
            Ok(length) => text.extend_from_slice(&buffer[..length]),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(String::from_utf8_lossy(&text).replace("\r\n", "\n"))
}

fn terminal(host: &Host) -> Result<()> {
    let script = "tty; stty size; stat -c %u /dev/pts/0; echo hello > /dev/tty; \
                  echo there > /dev/console";
    let bundle = host
        .bundle(script)?
        .set("/process/terminal", json!(true))
        .set("/process/consoleSize", json!({"height": 31, "width": 97}));
    let mut container = bundle.create_with(host, ProcessStdio::Terminal)?;
    let master = container.take_terminal().context("no terminal")?;
    container.start()?;
    let output = read_terminal(&master)?;
    let status = reap(container.pid())?;
    container.delete(false)?;
    ensure!(status == 0, "{status}: {output}");
    ensure!(output == "/dev/pts/0\n31 97\n0\nhello\nthere\n", "{output}");
    Ok(())
}

fn exec_joins(host: &Host) -> Result<()> {
    let bundle = host.bundle("echo mark > /tmp/mark; sleep 60")?;
    let mut container = bundle.create(host)?;
    container.start()?;
    let script = "while ! cat /tmp/mark; do sleep 0.05; done 2>/dev/null; echo $GREETING; \
                  for n in pid ipc uts mnt net cgroup; do \
                  [ $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) ] || echo $n; done; \
                  cat /proc/self/cgroup; exit 3";
    let outcome = exec(&container, script)?;
    let cgroups = outcome.stdout.lines().filter(|line| line.contains(":/"));
    ensure!(
        cgroups.clone().all(|line| line.ends_with(":/")),
        "{outcome:?}"
    );
    ensure!(outcome.stdout.starts_with("mark\nahoy\n"), "{outcome:?}");
    ensure!(
        outcome.stdout.lines().count() == 2 + cgroups.count(),
        "{outcome:?}"
    );
    ensure!(outcome.status == 3, "{outcome:?}");

    let missing = json!({"args": ["nothing-here"], "cwd": "/", "user": {"uid": 0, "gid": 0},
                         "env": ["PATH=/bin"]});
    let error = refused(exec_process(&container, &missing, quiet()))?;
    let text = error.to_string();
    ensure!(
        text.contains("exec: \"nothing-here\": executable file not found in $PATH"),
        "{text}"
    );

    container.kill(9, false)?;
    reap(container.pid())?;
    let error = refused(exec_process(&container, &process("true"), quiet()))?;
    let gone = matches!(error.downcast_ref(), Some(Error::NotRunning { .. }));
    container.delete(false)?;
    ensure!(gone, "{error:#}");
    Ok(())
}

fn exec_terminal(host: &Host) -> Result<()> {
    let mut container = host.bundle("sleep 60")?.create(host)?;
    container.start()?;
    let mut request = process("tty; stty size; exit 4");
    request["consoleSize"] = json!({"height": 10, "width": 20});
    let process = exec_process(&container, &request, ProcessStdio::Terminal)?;
    let master = process.terminal.as_ref().context("no terminal")?;
    let output = read_terminal(master)?;
    let status = reap(process.pid)?;
    container.delete(true)?;
    reap(container.pid())?;
    ensure!(
        output == "/dev/pts/0\n10 20\n" && status == 4,
        "{status} {output}"
    );
    Ok(())
}

fn missing_program(host: &Host) -> Result<()> {
    let cases = [
        ("foo", "exec: \"foo\": executable file not found in $PATH"),
        (
            "/foo",
            "exec: \"/foo\": stat /foo: no such file or directory",
        ),
        ("/etc", "exec: \"/etc\": is a directory"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
        ("/broken", "exec /broken: exec format error"),
        ("/orphan", "exec /orphan: no such file or directory"),
    ];
    for (program, text) in cases {
        let bundle = host.bundle("")?.set("/process/args", json!([program]));
        for (name, content) in [("broken", "\u{1}\u{2}"), ("orphan", "#!/no/such\n")] {
            use std::os::unix::fs::PermissionsExt;
            std::fs::write(bundle.upper(name), content)?;
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(bundle.upper(name), mode)?;
        }
        let message = bundle.refusal(host)?;
        ensure!(message.ends_with(text), "{program}: {message}");
    }
    Ok(())
}

fn working_directory(host: &Host) -> Result<()> {
    let bundle = host
        .bundle("pwd; stat -c %u .")?
        .set("/process/cwd", json!("/srv/new"));
    let output = bundle.output(host)?;
    ensure!(output == "/srv/new\n0\n", "{output}");
    // Of a user that root, without the right to override modes, is not.
    let bundle = host
        .bundle("pwd")?
        .set("/process/cwd", json!("/home/sailor"))
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    std::fs::create_dir_all(bundle.upper("home/sailor"))?;
    std::os::unix::fs::chown(bundle.upper("home/sailor"), Some(1000), Some(1000))?;
    let output = bundle.output(host)?;
    ensure!(output == "/home/sailor\n", "{output}");
    Ok(())
}

fn older_filter(host: &Host) -> Result<()> {
    for names in [
        vec!["faccessat2"],
        vec!["faccessat2", "faccessat", "access"],
    ] {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
        });
        let bundle = host
            .bundle("echo found")?
            .set("/process/noNewPrivileges", json!(false))
            .set("/linux/seccomp", profile);
        let output = bundle.output(host)?;
        ensure!(output == "found\n", "{names:?}: {output}");
    }
    Ok(())
}

fn filter(host: &Host) -> Result<()> {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    });
    for no_new_privileges in [true, false] {
        let bundle = host
            .bundle("grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status; mkdir /tmp/x")?
            .set("/process/noNewPrivileges", json!(no_new_privileges))
            .set("/linux/seccomp", profile.clone());
        let outcome = bundle.run(host)?;
        let expected = format!(
            "NoNewPrivs:\t{}\nSeccomp:\t2\n",
            i32::from(no_new_privileges)
        );
        ensure!(outcome.stdout == expected, "{outcome:?}");
        ensure!(outcome.stderr.contains("not supported"), "{outcome:?}");
    }
    let (stdio, output): (ProcessStdio, Output) = pipes()?;
    let bundle = host.bundle("sleep 60")?.set("/linux/seccomp", profile);
    let mut container = bundle.create(host)?;
    container.start()?;
    let process = exec_process(&container, &process("mkdir /tmp/x"), stdio)?;
    let outcome = output.collect(process.pid)?;
    container.delete(true)?;
    reap(container.pid())?;
    ensure!(outcome.stderr.contains("not supported"), "{outcome:?}");
    Ok(())
}
