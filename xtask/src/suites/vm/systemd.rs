//! What systemd knows of containers where it has the say over cgroups.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::kernel;
use crate::artefacts;
use crate::command::{output, retry, run as run_command, stdout};
use crate::outcome::Tally;
use crate::suites::node::session::Session;

const SOON: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
const SLICE: &str = "berthvm.slice";
const SCOPE: &str = "oci-one.scope";
const ID: &str = "one";

/// What the control files hold besides the limit that is updated.
const REST: [(&str, &str); 7] = [
    ("memory.swap.max", "0"),
    ("memory.high", "50331648"),
    ("pids.max", "50"),
    ("cpu.weight", "59"),
    ("cpu.max", "50000 100000"),
    ("cpuset.cpus", "0"),
    ("io.weight", "default 50"),
];

pub fn run() -> Result<Tally> {
    println!("  systemd");
    let mut tally = Tally::default();
    tally.check("systemd runs the machine", runs());
    tally.check("the driver is told to kubelets", driver());
    tally.check("a container of the command line is a scope", scope());
    Ok(tally)
}

fn runs() -> Result<()> {
    let first = fs::read_to_string("/proc/1/comm").context("reading who is first")?;
    ensure!(first.trim() == "systemd", "PID 1 is {first:?}");
    let socket = Path::new("/run/systemd/private");
    ensure!(socket.exists(), "{} is not there", socket.display());
    Ok(())
}

fn driver() -> Result<()> {
    let mut session = Session::begin()?;
    let told = session.cri.cgroup_driver().context("RuntimeConfig")?;
    let config = session.pod("paths");
    let pod = session.cri.run_pod(&config).context("RunPodSandbox")?;
    let slice = session.parent.request();
    let loaded = property(&slice, "ActiveState")?;
    session.remove_pod(&pod)?;
    // A scope that systemd is late with holds its slice, and both go when they can.
    let gone = retry(SOON, || {
        let state = property(&slice, "ActiveState")?;
        ensure!(state == "inactive", "{slice} is {state} after its pod");
        Ok(())
    });
    let mut odd = session.pod("odd");
    odd.linux.get_or_insert_default().cgroup_parent = "/no/slice".to_owned();
    let refused = session.cri.run_pod(&odd).err();
    session.end()?;
    ensure!(told == 0, "driver {told} instead of systemd");
    ensure!(loaded == "active", "{slice} is {loaded}");
    gone?;
    let refused = refused.context("a path that is no slice was taken")?;
    ensure!(refused.message().contains("slice"), "{refused}");
    Ok(())
}

/// One life by berth-oci, as systemd sees it.
fn scope() -> Result<()> {
    let place = tempfile::tempdir().context("making a place for a bundle")?;
    let bundle = place.path().join("bundle");
    write_bundle(&bundle)?;
    let oci = |words: &[&str]| {
        let mut command = Command::new(artefacts::oci());
        command
            .arg("--root")
            .arg(place.path().join("state"))
            .arg("--systemd-cgroup")
            .args(words);
        command
    };
    let bundle = bundle.display().to_string();
    run_command(&mut oci(&["run", "--detach", "--bundle", &bundle, ID]))?;
    let result = lives(&oci);
    run_command(&mut oci(&["delete", "--force", ID]))?;
    result?;
    let state = property(SCOPE, "ActiveState")?;
    ensure!(state == "inactive", "{SCOPE} is {state} after its end");
    ensure!(!cgroup().exists(), "its cgroup is left");
    Ok(())
}

fn lives(oci: &dyn Fn(&[&str]) -> Command) -> Result<()> {
    for (name, value) in [
        ("ActiveState", "active"),
        ("Slice", SLICE),
        ("Delegate", "yes"),
        ("MemoryMax", "67108864"),
        ("MemorySwapMax", "0"),
        ("MemoryHigh", "50331648"),
        ("TasksMax", "50"),
        ("CPUWeight", "59"),
        ("CPUQuotaPerSecUSec", "500ms"),
        ("AllowedCPUs", "0"),
        ("TimeoutStopUSec", "7s"),
    ] {
        let found = property(SCOPE, name)?;
        ensure!(found == value, "{name} is {found:?} instead of {value:?}");
    }
    holds("memory.max", &(64 * MIB).to_string())?;
    REST.iter()
        .try_for_each(|(file, value)| holds(file, value))?;
    let inside = stdout(&mut oci(&[
        "exec",
        ID,
        "/bin/busybox",
        "cat",
        "/proc/self/cgroup",
    ]))?;
    ensure!(inside.trim() == "0::/", "it sees {inside:?}");

    let more = (96 * MIB).to_string();
    run_command(&mut oci(&["update", "--memory", &more, ID]))?;
    let told = property(SCOPE, "MemoryMax")?;
    ensure!(told == more, "systemd knows {told} after the update");
    // What systemd does not know, it takes back now.
    run_command(Command::new("systemctl").arg("daemon-reload"))?;
    holds("memory.max", &more)?;
    REST.iter()
        .try_for_each(|(file, value)| holds(file, value))?;

    let refused = output(&mut oci(&["update", "--memory", "1", ID]))?;
    ensure!(
        !refused.status.success(),
        "a limit below the usage was taken"
    );
    run_command(&mut oci(&["pause", ID]))?;
    let frozen = fs::read_to_string(cgroup().join("cgroup.events")).context("reading events")?;
    ensure!(frozen.contains("frozen 1"), "{frozen:?}");
    run_command(&mut oci(&["resume", ID]))
}

fn holds(file: &str, expected: &str) -> Result<()> {
    retry(SOON, || {
        let path = cgroup().join(file);
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        ensure!(text.trim() == expected, "{file} is {text:?}");
        Ok(())
    })
}

fn cgroup() -> PathBuf {
    Path::new("/sys/fs/cgroup").join(SLICE).join(SCOPE)
}

fn property(unit: &str, name: &str) -> Result<String> {
    let shown = stdout(
        Command::new("systemctl")
            .args(["show", "--value", "--property", name])
            .arg(unit),
    )?;
    Ok(shown.trim().to_owned())
}

fn write_bundle(bundle: &Path) -> Result<()> {
    let bin = bundle.join("rootfs/bin");
    let busybox = kernel::busybox()?;
    fs::create_dir_all(&bin)
        .and_then(|()| fs::copy(busybox, bin.join("busybox")))
        .context("making a bundle")?;
    run_command(
        Command::new(artefacts::oci())
            .arg("spec")
            .current_dir(bundle),
    )?;
    let path = bundle.join("config.json");
    let text = fs::read(&path).context("reading the specification")?;
    let mut spec: Value = serde_json::from_slice(&text).context("reading the specification")?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["/bin/busybox", "sleep", "3600"]);
    spec["linux"]["cgroupsPath"] = json!(format!("{SLICE}:oci:{ID}"));
    spec["linux"]["resources"]["memory"] = json!({ "limit": 64 * MIB, "swap": 64 * MIB });
    spec["linux"]["resources"]["pids"] = json!({ "limit": 50 });
    spec["linux"]["resources"]["cpu"] =
        json!({ "shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0" });
    spec["linux"]["resources"]["unified"] =
        json!({ "memory.high": (48 * MIB).to_string(), "io.weight": "default 50" });
    spec["annotations"] = json!({ "org.systemd.property.TimeoutStopUSec": "uint64 7000000" });
    fs::write(&path, spec.to_string()).context("writing the specification")
}
