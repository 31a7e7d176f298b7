//! Doing what the rules say.

use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::process::{Signal, getpid, kill_process};

use crate::Injected;
use crate::rules::{Action, Plan};

/// For who calls a program with rules that mean nothing.
const WRONG_USE: i32 = 64;

pub(crate) fn at(point: &'static str) -> Result<(), Injected> {
    let armed = armed();
    // Looked for anew each time: who tests decides when it begins.
    if armed.gate.as_ref().is_some_and(|gate| !gate.exists()) {
        return Ok(());
    }
    let Some(action) = armed.plan.decide(point) else {
        return Ok(());
    };
    match action {
        Action::Note => eprintln!("fault point {point}: passed"),
        Action::Delay(time) => std::thread::sleep(time),
        Action::Error => {
            eprintln!("fault point {point}: failed");
            return Err(Injected { point });
        }
        Action::Panic => {
            eprintln!("fault point {point}: panics");
            std::panic::resume_unwind(Box::new(point));
        }
        Action::Kill => {
            eprintln!("fault point {point}: killed");
            let _cannot_fail = kill_process(getpid(), Signal::KILL);
            loop {
                std::thread::park();
            }
        }
    }
    Ok(())
}

struct Armed {
    plan: Plan,
    gate: Option<PathBuf>,
}

fn armed() -> &'static Armed {
    static ARMED: OnceLock<Armed> = OnceLock::new();
    ARMED.get_or_init(|| {
        let rules = std::env::var("BERTH_FAULTS").unwrap_or_default();
        let seed = std::env::var("BERTH_FAULTS_SEED").unwrap_or_default();
        let plan = Plan::parse(&rules, seed.parse().unwrap_or(0)).unwrap_or_else(|error| {
            eprintln!("BERTH_FAULTS: {error}");
            std::process::exit(WRONG_USE)
        });
        let gate = std::env::var_os("BERTH_FAULTS_GATE").map(PathBuf::from);
        Armed { plan, gate }
    })
}
