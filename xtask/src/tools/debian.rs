//! Debian packages: the registry, and what test images are made from.

use std::fs;
use std::path::{Path, PathBuf};
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
    ("curl", "curl"),
    ("docker", "docker.io"),
    ("docker-compose", "docker-compose"),
    ("pip3", "python3-pip"),
    ("socat", "socat"),
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("openssl", "openssl"),
    ("newuidmap", "uidmap"),
    ("slirp4netns", "slirp4netns"),
    ("make", "make"),
    ("xz", "xz-utils"),
    ("protoc", "protobuf-compiler"),
    ("protoc-c", "protobuf-c-compiler"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("systemctl", "systemd"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("repquota", "quota"),
];

/// Where Debian has each version's programs of PostgreSQL: none is in `PATH`.
const POSTGRESQL: &str = "/usr/lib/postgresql";

/// What runc and criu are compiled against.
const HEADERS: &[(&str, &str)] = &[
    ("seccomp.h", "libseccomp-dev"),
    ("protobuf-c/protobuf-c.h", "libprotobuf-c-dev"),
    ("google/protobuf/descriptor.proto", "libprotobuf-dev"),
    ("libnl3/netlink/netlink.h", "libnl-3-dev"),
    ("libnet.h", "libnet1-dev"),
    ("sys/capability.h", "libcap-dev"),
    ("bsd/string.h", "libbsd-dev"),
    ("uuid/uuid.h", "uuid-dev"),
    ("gnutls/gnutls.h", "libgnutls28-dev"),
];

pub fn install() -> Result<()> {
    let mut packages: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !is_fit(program))
        .map(|(_, package)| *package)
        .collect();
    let missing = HEADERS.iter().filter(|(header, _)| !is_included(header));
    packages.extend(missing.map(|(_, package)| *package));
    packages.dedup();
    if postgresql().is_err() {
        packages.push("postgresql");
    }
    install_packages(&packages)
}

/// The directory of PostgreSQL's programs.
pub fn postgresql() -> Result<PathBuf> {
    let versions = fs::read_dir(POSTGRESQL).into_iter().flatten().flatten();
    let mut found = versions
        .map(|version| version.path().join("bin"))
        .filter(|directory| directory.join("initdb").exists() && directory.join("psql").exists());
    found.next().context("PostgreSQL is not installed")
}

fn install_packages(packages: &[&str]) -> Result<()> {
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
        .args(packages))
    .with_context(|| format!("installing {list}"))
}

/// Some headers lie in the directory of the machine's architecture.
fn is_included(header: &str) -> bool {
    let machine = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    ["/usr/include", &machine]
        .iter()
        .any(|directory| Path::new(directory).join(header).exists())
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
