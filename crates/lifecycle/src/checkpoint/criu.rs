//! criu, which writes down the processes of a container.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use oci_spec::runtime::Spec;
use tokio::process::Command;

use crate::error::{Error, Result};

const CHECK: Duration = Duration::from_secs(20);
/// Lines of a log that an error quotes.
const QUOTED: usize = 3;
const LOG: &str = "dump.log";

/// A criu that works on this kernel.
#[derive(Debug)]
pub(super) struct Criu {
    binary: PathBuf,
}

impl Criu {
    /// Looks for the program and lets it look at the kernel.
    pub async fn find() -> Result<Self> {
        let unfit = |reason: String| Error::CheckpointUnavailable { reason };
        let binary = which("criu").ok_or_else(|| {
            unfit("criu is not installed: install it where the daemon's PATH finds it".to_owned())
        })?;
        let mut check = Command::new(&binary);
        check.arg("check");
        let output = run(&mut check, CHECK)
            .await
            .map_err(|reason| unfit(format!("criu check: {reason}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = errors(&said);
            return Err(unfit(format!("criu check finds this kernel unfit: {said}")));
        }
        Ok(Self { binary })
    }

    /// Writes the processes under `init` to `images`; they go on. The log goes to `work`. When the
    /// time is over criu lets go of the processes by itself.
    pub async fn dump(
        &self,
        init: u32,
        spec: &Spec,
        images: &Path,
        work: &Path,
        limit: Duration,
    ) -> Result<(), String> {
        let mut command = Command::new(&self.binary);
        command
            .args([
                "dump",
                "--leave-running",
                "--tcp-established",
                "--ext-unix-sk",
            ])
            .args([
                "--file-locks",
                "--manage-cgroups=ignore",
                "--network-lock",
                "skip",
            ])
            .args(["--log-file", LOG, "-v2", "--tree"])
            .arg(init.to_string())
            .arg("--timeout")
            .arg(limit.as_secs().max(1).to_string())
            .arg("--images-dir")
            .arg(images)
            .arg("--work-dir")
            .arg(work);
        for external in externals(init, spec) {
            command.arg("--external").arg(external);
        }
        let output = run(&mut command, limit + CHECK).await?;
        if output.status.success() {
            return Ok(());
        }
        let log = fs::read_to_string(work.join(LOG)).unwrap_or_default();
        Err(format!(
            "criu ended with {}: {}",
            output.status,
            errors(&log)
        ))
    }
}

/// What belongs to the host or to the pod and is only named in the images: bind mounts, namespaces
/// that the container was put into, and files that its shim opened for it.
fn externals(init: u32, spec: &Spec) -> Vec<String> {
    let mut externals = vec!["mnt[]:sm".to_owned()];
    for mount in spec.mounts().iter().flatten() {
        let bound = mount.typ().as_deref() == Some("bind")
            || mount
                .options()
                .iter()
                .flatten()
                .any(|o| o == "bind" || o == "rbind");
        if bound {
            let place = mount.destination().display();
            externals.push(format!("mnt[{place}]:{place}"));
        }
    }
    let own_init = status_pids(init).is_some_and(|pids| pids.last() == Some(&1));
    let joined = [
        ("net", "extRootNetNS", false),
        ("pid", "extRootPidNS", own_init),
    ];
    for (kind, key, own) in joined {
        let link = fs::metadata(format!("/proc/{init}/ns/{kind}"));
        if let (Ok(namespace), false) = (link, own) {
            externals.push(format!("{kind}[{}]:{key}", namespace.ino()));
        }
    }
    externals.extend(foreign_files(init));
    externals
}

/// Pids of a process in each namespace, the innermost last.
fn status_pids(pid: u32) -> Option<Vec<u32>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace()
        .map(|pid| pid.parse().ok())
        .collect()
}

/// Standard streams of init that lie on a mount of the host, as /dev/null does that a shim opened.
/// criu names them by mount and inode, in hexadecimal.
fn foreign_files(init: u32) -> Vec<String> {
    let table = fs::read_to_string(format!("/proc/{init}/mountinfo")).unwrap_or_default();
    let mounts: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let named = |fd: u32| {
        let info = fs::read_to_string(format!("/proc/{init}/fdinfo/{fd}")).ok()?;
        let mount = info
            .lines()
            .find_map(|line| line.strip_prefix("mnt_id:"))?
            .trim();
        let target = fs::read_link(format!("/proc/{init}/fd/{fd}")).ok()?;
        if !target.is_absolute() || mounts.contains(mount) {
            return None;
        }
        let inode = fs::metadata(format!("/proc/{init}/fd/{fd}")).ok()?.ino();
        Some(format!("file[{:x}:{inode:x}]", mount.parse::<u64>().ok()?))
    };
    let found: BTreeSet<String> = (0..3).filter_map(named).collect();
    found.into_iter().collect()
}

/// Standard error and the exit; a program that takes too long is killed.
async fn run(command: &mut Command, limit: Duration) -> Result<Output, String> {
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(limit, output).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// The lines of a log that tell what went wrong, without those that only tell that something did.
fn errors(log: &str) -> String {
    let told: Vec<&str> = log
        .lines()
        .filter_map(|line| line.split_once("Error ").map(|(_, rest)| rest.trim()))
        .filter(|line| !line.contains("exited, status=") && !line.contains("RLIMIT_NOFILE"))
        .take(QUOTED)
        .collect();
    match told.as_slice() {
        [] => "it gave no reason".to_owned(),
        told => told.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_quotes_the_reasons_of_the_log() {
        let log = "Error (criu/util.c:642): exited, status=1\n\
                   Warn  (criu/x.c:1): odd\n\
                   (00.1) Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds\n";
        assert_eq!(
            errors(log),
            "(criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds"
        );
        assert_eq!(errors(""), "it gave no reason");
    }

    #[test]
    fn bind_mounts_and_joined_namespaces_are_left_where_they_are() {
        let mut spec = Spec::default();
        let bind = oci_spec::runtime::MountBuilder::default()
            .destination("/data")
            .source("/host")
            .options(vec!["rbind".to_owned()])
            .build()
            .unwrap();
        spec.set_mounts(Some(vec![bind]));
        let externals = externals(std::process::id(), &spec);
        assert!(externals.contains(&"mnt[/data]:/data".to_owned()));
        let network = fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert!(externals.contains(&format!("net[{network}]:extRootNetNS")));
    }
}
