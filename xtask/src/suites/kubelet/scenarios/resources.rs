//! Volumes, limits, identities and what is counted.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::suites::kubelet::manifest::{STAY, container, pod};
use crate::suites::kubelet::session::Session;

pub fn volumes(session: &Session) -> Value {
    let mounts = json!({ "volumeMounts": [
        { "name": "memory", "mountPath": "/memory" },
        { "name": "work", "mountPath": "/part", "subPath": "below" },
        { "name": "told", "mountPath": "/told" },
    ] });
    let label = json!({ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } });
    let writes = format!("echo disk > /work/below/x; echo memory > /memory/x; {STAY}");
    pod(
        session,
        "volumes",
        json!({
            "securityContext": { "fsGroup": 4711 },
            "volumes": [
                { "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "8Mi" } },
                { "name": "told", "downwardAPI": { "items": [label] } },
            ],
            "containers": [
                container(session, "writer", &writes, mounts.clone()),
                container(session, "reader", STAY, mounts),
            ],
        }),
    )
}

pub fn volumes_are_shared(session: &mut Session) -> Result<()> {
    let id = session
        .ready("volumes")?
        .container("reader")
        .id()
        .to_owned();
    let script = "cat /part/x /memory/x /told/labels; stat -c %g /work /memory; \
                  grep ' /memory ' /proc/mounts";
    let seen = session.exec(&id, &["sh", "-c", script])?;
    let expected = "disk\nmemory\napp=\"volumes\"";
    ensure!(
        seen.starts_with(expected) && seen.contains("4711\n4711\n") && seen.contains("tmpfs"),
        "{seen}"
    );
    ensure!(seen.contains("size=8192k"), "{seen}");
    Ok(())
}

pub fn limited(session: &Session) -> Value {
    let limits = json!({ "resources": { "limits": { "cpu": "250m", "memory": "64Mi" } } });
    let small = json!({ "resources": { "limits": { "memory": "32Mi" } } });
    // One block of this size is one buffer of this size.
    let greedy = "dd if=/dev/zero of=/dev/null bs=256M count=1";
    pod(
        session,
        "limited",
        json!({
            "restartPolicy": "Never",
            "containers": [
                container(session, "fair", STAY, limits),
                container(session, "greedy", &format!("exec {greedy}"), small),
            ],
        }),
    )
}

pub fn limits_hold(session: &mut Session) -> Result<()> {
    let pod = session.pod("limited")?;
    let greedy = pod.container("greedy");
    ensure!(
        greedy.end()["reason"] == "OOMKilled" && greedy.end()["exitCode"] == 137,
        "{}",
        pod.told()
    );
    let id = pod.container("fair").id().to_owned();
    // The one or the other version has these files.
    let script = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max \
                  cpu/cpu.cfs_quota_us cpu.max 2>/dev/null; true";
    let limits = session.exec(&id, &["sh", "-c", script])?;
    ensure!(
        limits.contains("67108864\n") && limits.contains("25000"),
        "{limits}"
    );
    Ok(())
}

pub fn secured(session: &Session) -> Value {
    let read_only = json!({ "securityContext": {
        "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" },
    } });
    pod(
        session,
        "secured",
        json!({
            "shareProcessNamespace": true,
            "securityContext": { "runAsUser": 1234, "runAsGroup": 2345, "runAsNonRoot": true,
                "supplementalGroups": [3456] },
            "containers": [
                container(session, "main", STAY, read_only),
                container(session, "neighbour", "exec sleep 4242", json!({})),
            ],
        }),
    )
}

pub fn is_secured(session: &mut Session) -> Result<()> {
    let id = session.ready("secured")?.container("main").id().to_owned();
    let script = "id -u; id -g; id -G; touch /x 2>&1; grep -E 'CapEff|NoNewPrivs|Seccomp:' \
                  /proc/self/status; cat /proc/[0-9]*/cmdline | tr '\\0' ' '";
    let seen = session.exec(&id, &["sh", "-c", script])?;
    for part in [
        "1234\n2345\n2345 3456\n",
        "Read-only file system",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "sleep 4242",
    ] {
        ensure!(seen.contains(part), "no {part:?} in {seen}");
    }
    Ok(())
}

pub fn counted(session: &Session) -> Value {
    let busy = format!("dd if=/dev/urandom of=/filled bs=1M count=3 2>/dev/null; {STAY}");
    pod(
        session,
        "counted",
        json!({ "containers": [container(session, "main", &busy, json!({}))] }),
    )
}

/// With statistics from the CRI, which is the only way to network figures of a pod.
pub fn summary_is_filled(session: &mut Session) -> Result<()> {
    session.ready("counted")?;
    let summary = session.kubelet()?.summary()?;
    let pods = summary["pods"]
        .as_array()
        .context("no pods in the summary")?;
    let named = |pod: &&Value| {
        let name = pod["podRef"]["name"].as_str().unwrap_or_default();
        name.starts_with("counted-")
    };
    let pod = pods
        .iter()
        .find(named)
        .context("the pod is not in the summary")?;
    let container = &pod["containers"][0];
    for (what, value, least) in [
        ("CPU of the pod", &pod["cpu"]["usageCoreNanoSeconds"], 1),
        ("memory of the pod", &pod["memory"]["workingSetBytes"], 1),
        ("received by the pod", &pod["network"]["rxBytes"], 0),
        (
            "processes of the pod",
            &pod["process_stats"]["process_count"],
            1,
        ),
        ("CPU", &container["cpu"]["usageCoreNanoSeconds"], 1),
        ("memory", &container["memory"]["workingSetBytes"], 1),
        ("writable layer", &container["rootfs"]["usedBytes"], 3 << 20),
        (
            "images",
            &summary["node"]["runtime"]["imageFs"]["usedBytes"],
            1,
        ),
    ] {
        let found = value.as_u64();
        ensure!(
            found.is_some_and(|found| found >= least),
            "{what}: {value} in {pod}"
        );
    }
    ensure!(
        pod["network"]["name"] == "eth0",
        "network: {}",
        pod["network"]
    );
    Ok(())
}
