//! Starts, ends and what comes between.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::suites::kubelet::manifest::{STAY, container, pod, probe};
use crate::suites::kubelet::session::Session;

pub fn ordered(session: &Session) -> Value {
    let side = "sleep 0.5; echo side >> /work/order; touch /work/up; \
         trap 'echo side >> /evidence/ends; exit 0' TERM; while :; do sleep 0.1; done";
    let main = "echo main >> /work/order; cp /work/order /evidence/order; \
                trap 'sleep 0.3; echo main >> /evidence/ends; exit 0' TERM; \
                while :; do sleep 0.1; done";
    pod(
        session,
        "ordered",
        json!({
            "initContainers": [
                container(session, "first", "echo first >> /work/order", json!({})),
                container(session, "side", side, json!({
                    "restartPolicy": "Always",
                    "startupProbe": probe(json!({
                        "exec": { "command": ["test", "-e", "/work/up"] },
                        "failureThreshold": 60,
                    })),
                })),
                container(session, "second", "echo second >> /work/order", json!({})),
            ],
            "containers": [container(session, "main", main, json!({}))],
        }),
    )
}

pub fn in_order(session: &mut Session) -> Result<()> {
    let pod = session.ready("ordered")?;
    ensure!(pod.container("side").is_running(), "{}", pod.told());
    let order = session.said("order")?;
    ensure!(order == ["first", "side", "second", "main"], "{order:?}");
    Ok(())
}

pub fn sidecar_was_last(session: &mut Session) -> Result<()> {
    let ends = session.said("ends")?;
    ensure!(ends == ["main", "side"], "{ends:?}");
    Ok(())
}

pub fn probed(session: &Session) -> Value {
    let web = "mkdir /work/www; echo fine > /work/www/health; exec httpd -f -p 8080 -h /work/www";
    let slow = format!("sleep 1; touch /work/there; {STAY}");
    pod(
        session,
        "probed",
        json!({
            "containers": [
                container(session, "web", web, json!({
                    "readinessProbe": probe(json!({ "httpGet": { "path": "/health", "port": 8080 } })),
                    "livenessProbe": probe(json!({
                        "tcpSocket": { "port": 8080 },
                        "failureThreshold": 30,
                    })),
                })),
                container(session, "slow", &slow, json!({
                    "readinessProbe": probe(json!({
                        "exec": { "command": ["test", "-e", "/work/there"] },
                    })),
                })),
            ],
        }),
    )
}

pub fn is_ready(session: &mut Session) -> Result<()> {
    let pod = session.ready("probed")?;
    let restarts: u64 = pod.containers().iter().map(|c| c.restarts()).sum();
    ensure!(restarts == 0, "{restarts} restarts: {}", pod.told());
    Ok(())
}

/// Dead at first, alive the second time.
pub fn revived(session: &Session) -> Value {
    let script = format!("[ -e /work/once ] && touch /work/alive; touch /work/once; {STAY}");
    let liveness = probe(json!({ "exec": { "command": ["test", "-e", "/work/alive"] } }));
    pod(
        session,
        "revived",
        json!({
            "containers": [
                container(session, "patient", &script, json!({ "livenessProbe": liveness })),
                container(session, "neighbour", STAY, json!({})),
            ],
        }),
    )
}

pub fn is_revived(session: &mut Session) -> Result<()> {
    let pod = session.ready("revived")?;
    let (patient, neighbour) = (pod.container("patient"), pod.container("neighbour"));
    ensure!(
        patient.restarts() == 1 && neighbour.restarts() == 0,
        "restarts {} and {}",
        patient.restarts(),
        neighbour.restarts()
    );
    ensure!(
        patient.end()["exitCode"] == 0,
        "it ended as {}",
        patient.end()
    );
    Ok(())
}

pub fn crashing(session: &Session) -> Value {
    let log = json!({ "terminationMessagePolicy": "FallbackToLogsOnError" });
    pod(
        session,
        "crashing",
        json!({
            "containers": [
                container(session, "tells", "echo because > /dev/termination-log; exit 3", json!({})),
                container(session, "logs", "echo last words; exit 7", log),
            ],
        }),
    )
}

pub fn backs_off(session: &mut Session) -> Result<()> {
    let pod = session.pod("crashing")?;
    for (name, code, message) in [("tells", 3, "because\n"), ("logs", 7, "last words\n")] {
        let container = pod.container(name);
        let end = container.end();
        ensure!(
            container.restarts() >= 2 && container.waits_for() == "CrashLoopBackOff",
            "{}",
            pod.told()
        );
        ensure!(
            end["exitCode"] == code && end["message"] == message && end["reason"] == "Error",
            "{name} ended as {end}"
        );
    }
    Ok(())
}

pub fn done(session: &Session) -> Value {
    let script = "[ -e /work/once ] && exit 0; touch /work/once; exit 1";
    pod(
        session,
        "done",
        json!({
            "restartPolicy": "OnFailure",
            "containers": [container(session, "job", script, json!({}))],
        }),
    )
}

pub fn succeeds(session: &mut Session) -> Result<()> {
    let pod = session.pod("done")?;
    let job = pod.container("job");
    ensure!(
        pod.phase() == "Succeeded" && job.restarts() == 1 && job.end()["reason"] == "Completed",
        "{}",
        pod.told()
    );
    Ok(())
}

pub fn hooked(session: &Session) -> Value {
    let script = "trap 'echo TERM >> /evidence/hooks; exit 0' TERM; while :; do sleep 0.1; done";
    let say = |words: &str| {
        let command = format!("echo {words} >> /evidence/hooks; sleep 0.3");
        json!({ "exec": { "command": ["sh", "-c", command] } })
    };
    let hooks =
        json!({ "lifecycle": { "postStart": say("postStart"), "preStop": say("preStop") } });
    pod(
        session,
        "hooked",
        json!({ "containers": [
            container(session, "main", script, hooks),
            // Ends only by SIGKILL, once the pod's grace is over.
            container(session, "deaf", "trap '' TERM; while :; do sleep 0.1; done", json!({})),
        ] }),
    )
}

pub fn hook_ran(session: &mut Session) -> Result<()> {
    session.ready("hooked")?;
    let hooks = session.said("hooks")?;
    ensure!(hooks == ["postStart"], "{hooks:?}");
    Ok(())
}

/// The reboot between start and end is a second start.
pub fn said_goodbye(session: &mut Session) -> Result<()> {
    let hooks = session.said("hooks")?;
    let tail = hooks
        .get(hooks.len().saturating_sub(2)..)
        .unwrap_or_default();
    ensure!(tail == ["preStop", "TERM"], "{hooks:?}");
    Ok(())
}
