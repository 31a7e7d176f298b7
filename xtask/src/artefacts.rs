//! Builds the programs and lays them side by side, as an installation has them:
//! the daemon finds its shim, and the shim the pod init, beside itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{cargo, run};
use crate::workspace;

/// Linked statically: what lives once per container, or comes and goes with each layer, must not drag
/// a C library and its relocations along.
const STATIC_TARGET: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-unknown-linux-gnu"
} else {
    "x86_64-unknown-linux-gnu"
};
const STATIC_PROFILE: &str = "shim";
const STATIC_FLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static";

/// Package and program of what is linked statically.
const STATIC: [(&str, &str); 4] = [
    SHIM,
    POD_INIT,
    (OCI, OCI),
    ("berth-unpack-worker", "berth-unpack"),
];
const SHIM: (&str, &str) = ("containerd-shim-berth-v1", "containerd-shim-berth-v1");
const POD_INIT: (&str, &str) = ("berth-executor", "berth-pod-init");

/// The profile of tests.
const DEV: &str = "dev";

/// The profile of what is shipped.
const RELEASE: &str = "release";

const DAEMON: &str = "berthd";

/// Package and program of the command line for people.
const CLI: (&str, &str) = ("berth-cli", "berth");

const HELLO: &str = "berth-hello";

const PROBE: &str = "berth-probe";

const OCI: &str = "berth-oci";

/// Builds everything; quick when nothing has changed.
pub fn build() -> Result<()> {
    let out = workspace::artefacts();
    fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;

    build_daemon(DEV, "debug", &[], &out)?;
    build_program(DEV, "debug", CLI, &[], &out)?;
    build_statics()
}

/// Builds a daemon with fault points beside the other programs, and says in which directory. What
/// `build` made has to be there.
pub fn build_with_faults() -> Result<PathBuf> {
    let out = workspace::artefacts().join("faults");
    fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    build_daemon(DEV, "debug", &["--features", "fault-points"], &out)?;
    for (_, program) in STATIC {
        let built = workspace::artefacts().join(program);
        if built.exists() {
            place(&built, &out.join(program))?;
        }
    }
    Ok(out)
}

fn build_statics() -> Result<()> {
    for (package, program) in STATIC {
        build_static(package, program)?;
    }
    Ok(())
}

/// Builds what an installation has, the daemon as it is released, and says in which directory. What
/// there is a layout of is linked by that.
pub fn build_release() -> Result<PathBuf> {
    let out = workspace::artefacts().join("release");
    fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    build_daemon(RELEASE, "release", &[], &out)?;
    build_program(RELEASE, "release", CLI, &[], &out)?;
    build_statics()?;
    for (_, program) in STATIC {
        place(&workspace::artefacts().join(program), &out.join(program))?;
    }
    Ok(out)
}

fn build_daemon(profile: &str, built: &str, features: &[&str], out: &Path) -> Result<()> {
    build_program(profile, built, (DAEMON, DAEMON), features, out)
}

/// `built` is the profile's directory below cargo's output.
fn build_program(
    profile: &str,
    built: &str,
    (package, program): (&str, &str),
    features: &[&str],
    out: &Path,
) -> Result<()> {
    println!(
        "building {program} ({})",
        [&[profile], features].concat().join(" ")
    );
    let mut command = cargo();
    command
        .current_dir(workspace::root())
        .args(["build", "--quiet", "--profile", profile])
        .args(features)
        .args(["--bin", program]);
    // With every member's features crates are compiled as they are for the tests, and not again; what
    // is released has its own alone.
    if profile != DEV || !features.is_empty() {
        command.args(["--package", package]);
    }
    if profile == RELEASE {
        by_layout(&mut command, profile, program);
    }
    run(&mut command)?;
    let built = workspace::target().join(built).join(program);
    if profile == RELEASE {
        return place_stripped(&built, &out.join(program));
    }
    place(&built, &out.join(program))
}

/// What is laid out: a node's work, and the command line that everything else calls.
pub const LAID_OUT: [&str; 3] = [DAEMON, SHIM.1, OCI];

/// The order of a program's functions.
pub fn layout(program: &str) -> PathBuf {
    workspace::artefacts()
        .join(program)
        .with_extension("layout")
}

/// Where cargo leaves a program that is laid out, with the names of its functions.
pub fn with_names(program: &str) -> PathBuf {
    if program == DAEMON {
        return workspace::target().join(RELEASE).join(program);
    }
    built_static(program)
}

/// Names are for the layout, and go when the program is put into its place.
fn by_layout(command: &mut Command, profile: &str, program: &str) {
    let strip = format!("CARGO_PROFILE_{}_STRIP", profile.to_uppercase());
    command.env(strip, "none");
    let layout = layout(program);
    if layout.exists() {
        command.env("BERTH_LAYOUT", layout);
    }
}

/// Builds what other daemons run as well.
pub fn build_shim() -> Result<()> {
    let out = workspace::artefacts();
    fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    build_static(SHIM.0, SHIM.1)?;
    build_static(POD_INIT.0, POD_INIT.1)
}

/// Builds the runtime with runc's command line, and what looks around in its
/// containers.
pub fn build_oci() -> Result<()> {
    let out = workspace::artefacts();
    fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    build_static(OCI, OCI)?;
    build_static("berth-testkit", PROBE)
}

/// Where they are then.
pub fn oci() -> PathBuf {
    workspace::artefacts().join(OCI)
}

pub fn probe() -> PathBuf {
    workspace::artefacts().join(PROBE)
}

/// Builds the only program of the demo's image.
pub fn build_hello() -> Result<()> {
    build_static("berth-testkit", HELLO)
}

/// Where it is then.
pub fn hello() -> PathBuf {
    workspace::artefacts().join(HELLO)
}

fn build_static(package: &str, program: &str) -> Result<()> {
    println!("building {program}");
    let mut command = cargo();
    command
        .current_dir(workspace::root())
        .env("RUSTFLAGS", STATIC_FLAGS)
        .args(["build", "--quiet", "--profile", STATIC_PROFILE])
        .args(["--target", STATIC_TARGET])
        .args(["--package", package, "--bin", program]);
    by_layout(&mut command, STATIC_PROFILE, program);
    run(&mut command)?;
    place_stripped(
        &built_static(program),
        &workspace::artefacts().join(program),
    )
}

fn built_static(program: &str) -> PathBuf {
    let built = workspace::target().join(STATIC_TARGET);
    built.join(STATIC_PROFILE).join(program)
}

fn place_stripped(built: &Path, installed: &Path) -> Result<()> {
    let fresh = installed.with_extension("new");
    run(Command::new("strip").arg("-o").arg(&fresh).arg(built))?;
    fs::rename(&fresh, installed).with_context(|| format!("placing {}", installed.display()))
}

/// Replaces by rename: a running program's file cannot be written.
fn place(built: &Path, installed: &Path) -> Result<()> {
    let fresh = installed.with_extension("new");
    fs::copy(built, &fresh)
        .and_then(|_| fs::rename(&fresh, installed))
        .with_context(|| format!("placing {}", installed.display()))
}
