//! Debian packages: the registry, and what test images are made from.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::command::{output, run, which};

/// A program and the package that brings it. `busybox` has to be the dynamic
/// build, whose shell runs applets as programs of their own.
const PROGRAMS: &[(&str, &str)] = &[
    ("docker-registry", "docker-registry"),
    ("htpasswd", "apache2-utils"),
    ("apache2", "apache2"),
    ("nginx", "nginx-light"),
    ("busybox", "busybox"),
    ("pgrep", "procps"),
    ("ipcs", "util-linux"),
    ("ipcmk", "util-linux"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("crun", "crun"),
    ("criu", "criu"),
];

/// What runc is compiled against.
const SECCOMP_HEADER: (&str, &str) = ("/usr/include/seccomp.h", "libseccomp-dev");

pub fn install() -> Result<()> {
    let mut packages: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !is_fit(program))
        .map(|(_, package)| *package)
        .collect();
    if !Path::new(SECCOMP_HEADER.0).exists() {
        packages.push(SECCOMP_HEADER.1);
    }
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    ensure!(
        rustix::process::geteuid().is_root(),
        "needs root to install: {list}"
    );
    println!("installing {list}");
    run(apt().args(["update", "-qq"])).context("refreshing package lists")?;
    run(apt()
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(&packages))
    .with_context(|| format!("installing {list}"))
}

fn is_fit(program: &str) -> bool {
    let Some(path) = which(program) else {
        return false;
    };
    program != "busybox"
        || output(Command::new("ldd").arg(path)).is_ok_and(|output| output.status.success())
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    // Services that a package would start are not wanted, only its files.
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1")
        .stdout(Stdio::null());
    command
}
