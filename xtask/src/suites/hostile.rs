//! Hostile registries, images and requests against a real daemon: each case leaves the daemon the
//! same process, its memory bounded, the host as it was, and nothing behind.
//!
//! The names of the parts say which past vulnerabilities of runtimes they would have found.

mod canary;
mod documents;
mod host;
mod layers;
mod registries;
mod requests;
mod roots;
mod stage;
mod users;

use anyhow::Result;

use crate::outcome::Tally;
use stage::Stage;

type Part = fn(&mut Stage) -> Result<()>;

const PARTS: &[(&str, Part)] = &[
    (
        "layers that reach out are contained (CVE-2021-32760, CVE-2025-47290, CVE-2025-11395, CVE-2026-33056)",
        layers::escapes,
    ),
    (
        "layers that mean two things are refused (CVE-2025-62518, CVE-2026-33055)",
        layers::doubtful,
    ),
    ("layers with flipped bits are borne", layers::mutated),
    (
        "bombs are cut off (CVE-2023-25153, CVE-2025-58183, CVE-2026-95838)",
        layers::bombs,
    ),
    (
        "manifests that no tool makes are borne (CVE-2021-21285, CVE-2026-95839, CVE-2021-41190, CVE-2024-3727)",
        documents::mutated,
    ),
    (
        "documents that swell in memory are refused",
        documents::swelling,
    ),
    (
        "credentials stay with their registry (CVE-2020-15157)",
        registries::credentials,
    ),
    (
        "a registry that lies or never ends is given up",
        registries::lies,
    ),
    (
        "user databases are read with a bound (CVE-2025-4437, CVE-2026-47262)",
        users::databases,
    ),
    (
        "numbers never become root (CVE-2026-30892, CVE-2024-40635, CVE-2026-46680)",
        users::numbers,
    ),
    (
        "homes with line ends are cleaned (CVE-2022-4318, CVE-2026-15809)",
        users::homes,
    ),
    (
        "working directories do not lead out (CVE-2024-21626, CVE-2016-9962)",
        roots::working_directories,
    ),
    (
        "links at /proc, /sys and /dev do not lead out (CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2025-31133, CVE-2019-18837)",
        roots::links,
    ),
    (
        "declared volumes stay in the image (CVE-2022-23648)",
        roots::volumes,
    ),
    (
        "the runtime's own program is not reached (CVE-2019-5736)",
        roots::own_program,
    ),
    (
        "capabilities are not inheritable (CVE-2022-24769, CVE-2022-29162, CVE-2022-27650)",
        roots::capabilities,
    ),
    (
        "labels and environment do not steer (CVE-2026-53488, CVE-2026-94603)",
        roots::reserved_names,
    ),
    (
        "annotations and sysctls do not reach the host (CVE-2022-0811, CVE-2022-0532, CVE-2024-3154, CVE-2023-6476)",
        requests::settings,
    ),
    (
        "logs stay in their directory (CVE-2025-0750, CVE-2024-5154)",
        requests::logs,
    ),
    (
        "id mappings beyond reason are refused (CVE-2021-43784)",
        requests::mappings,
    ),
    (
        "an unprivileged user sees nothing (CVE-2021-41103, CVE-2024-25621, CVE-2020-15257)",
        host::nothing_is_shown,
    ),
];

/// All parts run, also after a failed one.
pub fn run() -> Result<Tally> {
    run_matching("")
}

/// Only the parts whose name contains `focus`.
pub fn run_matching(focus: &str) -> Result<Tally> {
    println!("hostile");
    let mut tally = Tally::default();
    if !rustix::process::geteuid().is_root() {
        tally.skip("hostile suite", "needs root");
        return Ok(tally);
    }
    let mut stage = Stage::begin()?;
    for (name, part) in PARTS.iter().filter(|(name, _)| name.contains(focus)) {
        let result = stage.judge(*part);
        tally.check(name, result);
        stage.clear()?;
    }
    println!("  note    {}", stage.figures());
    if tally.failed > 0 {
        println!("  daemon log: {}", stage.session.daemon_log().display());
    }
    tally.check("the daemon never panicked", stage.never_panicked());
    tally.check("no network is left behind", stage.end());
    Ok(tally)
}
