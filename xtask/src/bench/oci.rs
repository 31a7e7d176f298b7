//! `berth-oci` next to runc and crun: whole processes, in turns.
//!
//! A turn is one operation with each runtime, so that what the machine does
//! meanwhile falls on all of them. Memory is the largest resident set of a
//! run, as the kernel tells it to the parent.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::machine;
use crate::command::{output, which};
use crate::suites::oci::runtime::{Runtime, make_bundle};
use crate::suites::oci::{crun, ours};
use crate::tools::{self, Tool};
use crate::{artefacts, workspace};

/// Turns that are not counted, and those that are.
const WARM_UP: usize = 3;
const TURNS: usize = 40;
const PAUSE: Duration = Duration::from_millis(20);

/// Name and program.
const BUNDLES: [(&str, &str); 2] = [("short", "/bin/true"), ("long", "/bin/sleep")];

const PEAK: &str = "peak RSS";

const OPERATIONS: [&str; 3] = ["run", "create + start + delete", "exec"];

/// Marks the process that runs where crun runs.
pub const INSIDE: &str = "--oci-inside";

/// crun refuses hybrid hosts whose unified tree has controllers: all three
/// run where that tree is not mounted, so that none has less to do.
pub fn run() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("needs root");
    }
    artefacts::build_oci()?;
    tools::ensure(Tool::Runc)?;
    let script = "umount -l /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\"";
    let program = std::env::current_exe().context("finding this program")?;
    let status = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(program)
        .args(["bench", INSIDE])
        .status()
        .context("running unshare")?;
    ensure!(status.success(), "the bench ended with {status}");
    Ok(())
}

pub fn run_inside() -> Result<()> {
    let runc = Runtime {
        name: "runc",
        program: tools::path(Tool::Runc)?,
        without_unified: false,
        own_ways: |_| false,
    };
    let crun = crun().map(|crun| Runtime {
        without_unified: false,
        ..crun
    });
    let sides: Vec<Runtime> = [Some(ours()), crun, Some(runc)]
        .into_iter()
        .flatten()
        .collect();
    let place = tempfile::tempdir().context("making a place for bundles")?;
    let bench = Bench::new(place.path(), &sides)?;
    let figures = bench.measure();
    bench.end();
    let figures = figures?;
    print_table(&sides, &figures);
    keep(&sides, &figures)
}

/// Milliseconds by operation and side, and peak KiB by side.
struct Figures {
    times: Vec<Vec<Vec<f64>>>,
    peaks: Vec<Vec<u64>>,
}

struct Bench<'a> {
    place: &'a Path,
    sides: &'a [Runtime],
}

impl<'a> Bench<'a> {
    /// A bundle of `true`, and for each side a container to exec in.
    fn new(place: &'a Path, sides: &'a [Runtime]) -> Result<Self> {
        let bench = Self { place, sides };
        for side in sides {
            for (name, program) in BUNDLES {
                make(&bench.bundle(side, name), side, name, program)?;
            }
            let mut command = side.command(place);
            let bundle = bench.bundle(side, "long");
            command
                .args(["run", "--detach", "--bundle"])
                .arg(&bundle)
                .arg("long");
            finish(&mut command)?;
        }
        Ok(bench)
    }

    fn bundle(&self, side: &Runtime, name: &str) -> PathBuf {
        self.place.join(format!("{}-{name}", side.name))
    }

    fn measure(&self) -> Result<Figures> {
        let mut figures = Figures {
            times: vec![vec![Vec::new(); self.sides.len()]; OPERATIONS.len()],
            peaks: vec![Vec::new(); self.sides.len()],
        };
        for turn in 0..WARM_UP + TURNS {
            for (operation, times) in figures.times.iter_mut().enumerate() {
                // Whoever comes first pays for what the one before left.
                for index in (0..self.sides.len()).map(|i| (i + turn) % self.sides.len()) {
                    thread::sleep(PAUSE);
                    let took = self.operate(operation, &self.sides[index])?;
                    if turn >= WARM_UP {
                        times[index].push(took);
                    }
                }
            }
            for (side, peaks) in self.sides.iter().zip(&mut figures.peaks) {
                peaks.extend(self.peak(side)?);
            }
        }
        Ok(figures)
    }

    fn operate(&self, operation: usize, side: &Runtime) -> Result<f64> {
        let bundle = self.bundle(side, "short");
        let command = || side.command(self.place);
        let start = Instant::now();
        match operation {
            0 => finish(
                command()
                    .args(["run", "--bundle"])
                    .arg(&bundle)
                    .arg("short"),
            )?,
            1 => {
                finish(
                    command()
                        .args(["create", "--bundle"])
                        .arg(&bundle)
                        .arg("short"),
                )?;
                finish(command().args(["start", "short"]))?;
                // The program may not have ended yet.
                finish(command().args(["delete", "--force", "short"]))?;
            }
            _ => finish(command().args(["exec", "long", "/bin/true"]))?,
        }
        Ok(start.elapsed().as_secs_f64() * 1000.0)
    }

    /// By GNU time, whose own memory is less than that of any runtime.
    fn peak(&self, side: &Runtime) -> Result<Option<u64>> {
        let Some(time) = which("time") else {
            return Ok(None);
        };
        let told = self.place.join("peak");
        let inner = side.command(self.place);
        let mut command = Command::new(time);
        command
            .args(["-f", "%M", "-o"])
            .arg(&told)
            .arg(inner.get_program());
        command.args(inner.get_args()).args(["run", "--bundle"]);
        command.arg(self.bundle(side, "short")).arg("short");
        finish(&mut command)?;
        let text = fs::read_to_string(&told).context("reading what time told")?;
        Ok(text.trim().parse().ok())
    }

    fn end(&self) {
        for side in self.sides {
            let mut command = side.command(self.place);
            // What a failed turn left is told by that turn's error.
            let _ = finish(command.args(["delete", "--force", "long"]));
        }
    }
}

fn finish(command: &mut Command) -> Result<()> {
    // Files and not pipes: a container that is left keeps them open.
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .status()
        .with_context(|| format!("running {}", command.get_program().display()))?;
    ensure!(
        status.success(),
        "{} {:?} ended with {status}",
        command.get_program().display(),
        command.get_args()
    );
    Ok(())
}

/// Bundles as the bench runs them: one ends at once, one stays.
pub fn bundles(place: &Path, side: &Runtime) -> Result<()> {
    BUNDLES
        .iter()
        .try_for_each(|(name, program)| make(&place.join(name), side, name, program))
}

fn make(bundle: &Path, side: &Runtime, name: &str, program: &str) -> Result<()> {
    let spec = specification(side, name, program);
    make_bundle(bundle, &spec, &artefacts::probe())?;
    install_busybox(&bundle.join("rootfs"))
}

fn install_busybox(rootfs: &Path) -> Result<()> {
    let busybox = which("busybox").context("busybox is not installed")?;
    let install = |from: &Path, to: PathBuf| -> Result<()> {
        let parent = to.parent().context("a place for a program")?;
        fs::create_dir_all(parent)?;
        fs::copy(from, &to).with_context(|| format!("copying {}", from.display()))?;
        Ok(())
    };
    for name in ["true", "sleep"] {
        install(&busybox, rootfs.join("bin").join(name))?;
    }
    let listed = output(Command::new("ldd").arg(&busybox))?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for library in listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        let inside = rootfs.join(library.trim_start_matches('/'));
        install(Path::new(library), inside)?;
    }
    Ok(())
}

fn specification(side: &Runtime, name: &str, program: &str) -> Value {
    let mut spec = crate::suites::oci::plain();
    let arguments = if name == "long" {
        json!([program, "100000"])
    } else {
        json!([program])
    };
    spec["process"]["args"] = arguments;
    let cgroup = format!("/berth-oci-bench/{}-{name}", side.name);
    spec["linux"]["cgroupsPath"] = json!(cgroup);
    spec
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Medians, and what part of the other's time ours is.
fn print_table(sides: &[Runtime], figures: &Figures) {
    print!("{:<26}", "p50, ms");
    for side in sides {
        print!("{:>12}", side.name);
    }
    for side in &sides[1..] {
        print!("{:>12}", format!("of {}", side.name));
    }
    println!();
    for (name, times) in OPERATIONS.iter().zip(&figures.times) {
        let medians: Vec<f64> = times.iter().map(|times| median(times)).collect();
        print_row(name, &medians, 2);
    }
    let peaks = figures
        .peaks
        .iter()
        .map(|peaks| peaks.iter().max().map_or(f64::NAN, |peak| *peak as f64));
    print_row(&format!("{PEAK}, KiB"), &peaks.collect::<Vec<_>>(), 0);
}

fn print_row(name: &str, values: &[f64], places: usize) {
    print!("{name:<26}");
    for value in values {
        print!("{value:>12.places$}");
    }
    for value in &values[1..] {
        print!("{:>12.2}", values[0] / value);
    }
    println!();
}

/// Every single figure, for later and for plots.
fn keep(sides: &[Runtime], figures: &Figures) -> Result<()> {
    let mut runtimes = serde_json::Map::new();
    for (index, side) in sides.iter().enumerate() {
        let mut taken = super::figures::Figures::default();
        for (name, times) in OPERATIONS.iter().zip(&figures.times) {
            times[index].iter().for_each(|time| taken.add(name, *time));
        }
        for peak in &figures.peaks[index] {
            taken.add(PEAK, *peak as f64);
        }
        let mut told = serde_json::Map::new();
        for name in OPERATIONS {
            told.insert(name.to_owned(), taken.of(name, "ms"));
        }
        told.insert(PEAK.to_owned(), taken.of(PEAK, "KiB"));
        let version = output(Command::new(&side.program).arg("--version"))?;
        let version = String::from_utf8_lossy(&version.stdout);
        let side_told = json!({ "version": version.lines().next(), "figures": told });
        runtimes.insert(side.name.to_owned(), side_told);
    }
    let path = workspace::artefacts().join("bench-oci.json");
    let all = json!({ "machine": machine::describe(), "runtimes": runtimes });
    fs::write(&path, serde_json::to_vec_pretty(&all)?)
        .with_context(|| format!("writing {}", path.display()))?;
    println!("every figure: {}", path.display());
    Ok(())
}
