//! Pods that come and go.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::inventory::Inventory;
use super::session::Session;

const CYCLES: u32 = 100;
/// What is opened once and kept, such as connections, is open after these.
const WARM_UP: u32 = 3;

/// The host holds after a hundred pods what it held before them.
pub fn leave_nothing(session: &mut Session) -> Result<()> {
    let before = Inventory::take(session)?;
    let begin = Instant::now();
    for number in WARM_UP..WARM_UP + CYCLES {
        cycle(session, number).with_context(|| format!("cycle {number}"))?;
    }
    println!(
        "  note    {CYCLES} pods came and went in {:.1} s; {} descriptors of the daemon",
        begin.elapsed().as_secs_f64(),
        before.descriptors()
    );
    before.restored(session)
}

/// Opens what is opened once.
pub fn warm_up(session: &mut Session) -> Result<()> {
    for number in 0..WARM_UP {
        cycle(session, number)?;
    }
    // Lets the last of the warm-up go: it would count as known.
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

fn cycle(session: &mut Session, number: u32) -> Result<()> {
    let pod_config = session.pod(&format!("cycle-{number}"));
    let config = session.container("main", &["sleep", "1000"]);
    let pod = session.cri.run_pod(&pod_config).context("RunPodSandbox")?;
    let container = session
        .cri
        .create(&pod, &pod_config, &config)
        .context("CreateContainer")?;
    session.cri.start(&container).context("StartContainer")?;
    session.tear_down(&pod, &container)
}
