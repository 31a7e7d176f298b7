//! Programs that a spec has run around a container.

use crate::Case;
use crate::fixture::{Bundle, Host, exec, reap};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::fs;

pub const CASES: &[Case] = &[
    (
        "hooks::each_runs_at_its_point_and_sees_its_namespaces",
        points,
    ),
    (
        "hooks::one_that_fails_stops_the_container_and_says_why",
        failing,
    ),
    ("hooks::what_comes_after_the_start_stops_nothing", late),
    ("hooks::an_exec_runs_none", exec_has_none),
];

/// A hook that appends what `script` prints, with its point, to a file.
fn told(bundle: &Bundle, point: &str, script: &str) -> Value {
    let file = bundle.dir.path().join("told");
    let script = format!("{{ echo {point}; {script}; }} >>{}", file.display());
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
}

fn points(host: &Host) -> Result<()> {
    let bundle = host.bundle("cat /by-hook")?;
    let netns = "readlink /proc/self/ns/net";
    let state = "grep -o '\"status\":\"[a-z]*\"'";
    let root = bundle.dir.path().join("rootfs");
    let into_root = format!("echo $(cat | {state}) >{}/by-hook; {netns}", root.display());
    let hooks = json!({
        "prestart": told(&bundle, "prestart", &format!("{state}; {netns}")),
        "createRuntime": told(&bundle, "createRuntime", &format!("{state}; {netns}")),
        "createContainer": told(&bundle, "createContainer", &into_root),
        "startContainer": [{"path": "/bin/sh",
            "args": ["sh", "-c", "echo startContainer >>/by-hook; id -u >>/by-hook"]}],
        "poststart": told(&bundle, "poststart", state),
        "poststop": told(&bundle, "poststop", state),
    });
    let told = bundle.dir.path().join("told");
    let output = bundle.set("/hooks", hooks);
    let seen = output.output(host)?;
    ensure!(
        seen == "\"status\":\"creating\"\nstartContainer\n0\n",
        "{seen:?}"
    );
    let told = fs::read_to_string(told)?;
    let lines: Vec<&str> = told.lines().collect();
    let own = fs::read_link("/proc/self/ns/net")?.display().to_string();
    ensure!(lines[0] == "prestart" && lines[2] == own, "{told}");
    ensure!(lines[3] == "createRuntime" && lines[5] == own, "{told}");
    ensure!(lines[6] == "createContainer" && lines[7] != own, "{told}");
    let end = [
        "poststart",
        "\"status\":\"running\"",
        "poststop",
        "\"status\":\"stopped\"",
    ];
    ensure!(lines[8..] == end, "{told}");
    Ok(())
}

fn failing(host: &Host) -> Result<()> {
    for point in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
    ] {
        let bundle = host.bundle("touch /ran")?;
        let ran = bundle.upper("ran");
        let ended = bundle.dir.path().join("told");
        let poststop = told(&bundle, "ended", "true");
        let hooks = json!({
            point: [{"path": "/bin/sh", "args": ["sh", "-c", "echo no luck; exit 7"]}],
            "poststop": poststop,
        });
        let bundle = bundle.set("/hooks", hooks);
        let message = bundle.refusal(host);
        let message = message.map_err(|error| error.context(point))?;
        for part in [point, "hook /bin/sh", "7", "no luck"] {
            ensure!(message.contains(part), "{point}: {message}");
        }
        ensure!(!ran.exists(), "{point}");
        ensure!(ended.exists(), "{point}: poststop was not run");
    }
    let message = host
        .bundle("true")?
        .set("/hooks", json!({"createRuntime": [{"path": "bin/true"}]}))
        .refusal(host)?;
    ensure!(message.contains("invalid hooks"), "{message}");
    Ok(())
}

fn late(host: &Host) -> Result<()> {
    let hooks = json!({
        "poststart": [{"path": "/no/such/hook"}],
        "poststop": [{"path": "/bin/false"}],
    });
    let bundle = host.bundle("sleep 60")?.set("/hooks", hooks);
    let mut container = bundle.create(host)?;
    container.start()?;
    let running = container.is_running()?;
    let after_start = container.take_notices().concat();
    container.delete(true)?;
    reap(container.pid())?;
    let after_stop = container.take_notices().concat();
    ensure!(running);
    ensure!(
        after_start.contains("poststart hook /no/such/hook"),
        "{after_start}"
    );
    ensure!(
        after_stop.contains("poststop hook /bin/false"),
        "{after_stop}"
    );
    Ok(())
}

fn exec_has_none(host: &Host) -> Result<()> {
    let bundle = host.bundle("sleep 60")?;
    let told_at = bundle.dir.path().join("told");
    let hooks = json!({"createRuntime": told(&bundle, "once", "true")});
    let bundle = bundle.set("/hooks", hooks);
    let mut container = bundle.create(host)?;
    container.start()?;
    let outcome = exec(&container, "echo fine");
    container.delete(true)?;
    reap(container.pid())?;
    ensure!(outcome?.stdout == "fine\n");
    ensure!(fs::read_to_string(told_at)? == "once\n");
    Ok(())
}
