//! Requests whose texts are meant for somebody else.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use berth_api::cri::v1::{self as api, NamespaceMode};

use super::stage::{Stage, is_refused, is_told};
use crate::command::run;

/// Annotations are handed on as text; sysctls outside the pod's own namespaces are refused.
pub fn settings(stage: &mut Stage) -> Result<()> {
    const EVIL: &str = "|/bin/touch /tmp/berth-was-here";
    let image = stage.session.reference(":one");
    let mut pod = stage.session.pod("annotated");
    for key in [
        "security.alpha.kubernetes.io/sysctls",
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "io.kubernetes.cri-o.userns-mode",
        "io.kubernetes.cri-o.Devices",
        "run.oci.mount_context_type",
        "org.systemd.property.ExecStartPost",
        "org.systemd.property.TimeoutStopUSec",
        "io.containerd.cri.runtime-handler",
    ] {
        let value = format!("kernel.core_pattern={EVIL}\nkernel.shm_rmid_forced=1+{EVIL}");
        pod.annotations.insert(key.to_owned(), value);
    }
    let mut config = stage.waiting(&image);
    config.annotations = pod.annotations.clone();
    let answer = stage.run_in(&pod, &config, |_, _| Ok(()))?;
    is_told("annotations", &answer)?;

    for (name, value) in [
        ("kernel.core_pattern", EVIL),
        ("kernel/core_pattern", EVIL),
        ("net.ipv4.../../kernel/core_pattern", EVIL),
        ("net/../kernel/core_pattern", EVIL),
        ("kernel.shm_rmid_forced+kernel.core_pattern", EVIL),
        ("kernel.shm_rmid_forced\nkernel.core_pattern", EVIL),
        ("fs.mqueue./../../kernel.core_pattern", EVIL),
        ("kernel.modprobe", "/tmp/x"),
        ("vm.overcommit_memory", "1"),
        ("user.max_user_namespaces", "0"),
        ("", "1"),
    ] {
        let mut pod = stage.session.pod("sysctls");
        let linux = pod.linux.get_or_insert_default();
        linux.sysctls.insert(name.to_owned(), value.to_owned());
        let answer = stage.session.cri.run_pod(&pod);
        if let Ok(id) = &answer {
            stage.session.remove_pod(id)?;
        }
        is_refused(&format!("sysctl {name:?}"), &answer, &[])?;
    }
    ensure!(
        !fs::exists("/tmp/berth-was-here").context("looking")?,
        "something was run on the host"
    );
    stage.canary.unharmed()
}

/// Whatever lies where the log is to be, no other file is written to.
pub fn logs(stage: &mut Stage) -> Result<()> {
    let image = stage.session.reference(":one");
    let directory = stage.session.place.pod_logs();
    let canary = stage.canary.path();
    let link = directory.join("link.log");
    symlink(format!("{canary}/f"), &link).context("making a link")?;
    symlink(&canary, directory.join("linked")).context("making a link")?;
    let fifo = directory.join("fifo.log");
    run(Command::new("mkfifo").arg(&fifo))?;
    for path in [
        "link.log",
        "fifo.log",
        "linked/new.log",
        "../../x/canary/f",
        "/etc/cron.d/evil",
        "a/../../x/canary/new.log",
        ".",
        "a\0b",
    ] {
        let mut config = stage.waiting(&image);
        config.command = ["sh", "-c", "echo harmed; sleep 1000"]
            .map(String::from)
            .to_vec();
        config.log_path = path.to_owned();
        let answer = stage.run(&config, |_, _| Ok(()))?;
        is_told(path, &answer).with_context(|| format!("log path {path:?}"))?;
        stage.canary.unharmed().with_context(|| path.to_owned())?;
    }
    for path in [&link, &fifo, &directory.join("linked")] {
        fs::remove_file(path).context("removing what lay in the way")?;
    }
    Ok(())
}

/// More mappings than a kernel takes, and such as overlap or overflow.
pub fn mappings(stage: &mut Stage) -> Result<()> {
    let mapping = |container_id, host_id, length| api::IdMapping {
        host_id,
        container_id,
        length,
    };
    let many = (0..20_000).map(|n| mapping(n, 100_000 + n, 1)).collect();
    let cases: [(&str, Vec<api::IdMapping>); 5] = [
        ("twenty thousand", many),
        ("beyond the last id", vec![mapping(0, u32::MAX - 5, 65_536)]),
        ("a length of all ones", vec![mapping(0, 100_000, u32::MAX)]),
        ("none for root", vec![mapping(1, 100_000, 65_536)]),
        ("an empty one", vec![mapping(0, 100_000, 0)]),
    ];
    for (case, mappings) in cases {
        let mut pod = stage.session.pod("mapped");
        let linux = pod.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        let options = security.namespace_options.get_or_insert_default();
        options.userns_options = Some(api::UserNamespace {
            mode: NamespaceMode::Pod as i32,
            uids: mappings.clone(),
            gids: mappings,
        });
        let answer = stage.session.cri.run_pod(&pod);
        if let Ok(id) = &answer {
            stage.session.remove_pod(id)?;
        }
        is_refused(case, &answer, &["userns_options"])?;
    }
    Ok(())
}
