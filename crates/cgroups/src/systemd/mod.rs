//! Cgroups that systemd makes for us, as transient units.
//!
//! Where systemd runs, the tree is its own: a cgroup that somebody else makes
//! beside its units may be changed or removed by it. So a container is a
//! scope, delegated to us, in a slice, and a pod's own cgroup is a slice:
//!
//! ```text
//! slice:prefix:name ── Scope ── start_scope ──▶ Cgroup ── update ─▶ SetUnitProperties
//!      a-b.slice ── slice_path ── create ─────▶          └ remove ─▶ StopUnit
//! ```
//!
//! A cgroup is known as a unit by its path alone ([`name::unit_of`]), so
//! nothing has to be kept for it. What the manager is told is written to the
//! control files, too: those take what it has no properties for.

mod annotation;
mod bus;
mod name;
mod properties;
mod wire;

use crate::error::{Error, Result};
use bus::{Bus, Failure, SOCKET};
use oci_spec::runtime::LinuxResources;
use std::path::Path;
use std::time::Duration;
use wire::{Method, Writer};

pub use bus::Failure as SystemdFailure;
pub use name::{Scope, slice_path};
pub(crate) use name::{is_slice, unit_of};
pub use wire::{Property, Value as PropertyValue};

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const OBJECT: &str = "/org/freedesktop/systemd1";

const START: Method = method("StartTransientUnit", "ssa(sv)a(sa(sv))");
const STOP: Method = method("StopUnit", "ss");
const RESET: Method = method("ResetFailedUnit", "s");
const SET: Method = method("SetUnitProperties", "sba(sv)");
const PING: Method = Method {
    path: OBJECT,
    interface: "org.freedesktop.DBus.Peer",
    member: "Ping",
    signature: "",
};

/// How long the answer to a stop is waited for.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// A job takes the place of others for the same unit.
const REPLACE: &str = "replace";

const fn method(member: &'static str, signature: &'static str) -> Method {
    Method {
        path: OBJECT,
        interface: MANAGER,
        member,
        signature,
    }
}

/// True if systemd is PID 1 here and speaks to us.
pub(crate) fn is_running() -> bool {
    // The directory is what sd_booted(3) looks at.
    Path::new("/run/systemd/system").is_dir() && Path::new(SOCKET).exists()
}

/// Makes a scope with this process in it. It lives for as long as a process
/// does, and what is below it is ours. `is_there` tells whether it has a
/// cgroup: such a one is somebody's.
pub(crate) fn start_scope(
    scope: &Scope,
    pid: i32,
    resources: &LinuxResources,
    extra: &[Property],
    is_there: impl Fn() -> bool,
) -> Result<()> {
    let mut properties = vec![
        text("Description", &format!("container {}", scope.unit())),
        text("Slice", scope.slice()),
        flag("Delegate", true),
        // One whose process was killed for memory has failed, and would be kept as such.
        text("CollectMode", "inactive-or-failed"),
        (
            "PIDs".to_owned(),
            PropertyValue::U32s(vec![pid.unsigned_abs()]),
        ),
    ];
    properties.extend(common());
    properties.extend(properties::properties(resources));
    for (name, value) in extra {
        properties.retain(|(other, _)| other != name);
        properties.push((name.clone(), value.clone()));
    }
    start(scope.unit(), &properties, &is_there)
}

/// Makes a slice, with those above it. One that has a cgroup by then, which
/// `is_there` tells, was made by somebody else and will do.
pub(crate) fn start_slice(unit: &str, is_there: impl Fn() -> bool) -> Result<()> {
    let mut properties = vec![text("Description", &format!("pod {unit}"))];
    properties.extend(common());
    match start(unit, &properties, &is_there) {
        Err(Error::Systemd { source, .. }) if source.is("UnitExists") && is_there() => Ok(()),
        done => done,
    }
}

fn start(unit: &str, properties: &[Property], is_there: &dyn Fn() -> bool) -> Result<()> {
    let body = || {
        let mut body = Writer::default();
        body.text(unit);
        body.text(REPLACE);
        body.properties(properties);
        body.no_auxiliary_units();
        body
    };
    let started = || -> std::result::Result<(), Failure> {
        let mut bus = Bus::connect(Path::new(SOCKET))?;
        match bus.run_job(START, body()) {
            // One that failed is kept until somebody has seen it. One without a cgroup has lost
            // it behind the manager's back, or a stop was not heard: nothing is in it.
            Err(failure) if failure.is("UnitExists") => {
                if !is_there() {
                    end(&mut bus, unit)?;
                }
                tolerate_gone(bus.call(RESET, named(unit)).map(drop))?;
                bus.run_job(START, body())
            }
            outcome => outcome,
        }
    };
    started().map_err(failed("start", unit))
}

/// Tells the manager the limits of a unit, until the unit ends.
pub(crate) fn set_properties(unit: &str, resources: &LinuxResources) -> Result<()> {
    let properties = properties::properties(resources);
    if properties.is_empty() {
        return Ok(());
    }
    let set = || -> std::result::Result<(), Failure> {
        let mut bus = Bus::connect(Path::new(SOCKET))?;
        let mut body = Writer::default();
        body.text(unit);
        body.bool(true);
        body.properties(&properties);
        bus.call(SET, body)?;
        // The manager answers first and writes control files then; when it
        // answers again they are written, and what we write comes after.
        bus.call(PING, Writer::default()).map(drop)
    };
    set().map_err(failed("set the properties of", unit))
}

/// Stops a unit, with everything in it. One that is gone is stopped.
pub(crate) fn stop(unit: &str) -> Result<()> {
    let stopped = || -> std::result::Result<(), Failure> {
        let mut bus = Bus::connect(Path::new(SOCKET))?;
        bus.give_up_after(STOP_PATIENCE)?;
        let mut body = named(unit);
        body.text(REPLACE);
        // The job is not waited for: a unit that ends by itself meanwhile may
        // take it along, and who removes a cgroup looks until it is gone.
        match bus.call(STOP, body) {
            Err(failure) if failure.is("NoSuchUnit") || failure.is_timeout() => return Ok(()),
            outcome => drop(outcome?),
        }
        // One whose process was killed for memory stays as failed.
        match bus.call(RESET, named(unit)) {
            Err(failure) if failure.is("NoSuchUnit") || failure.is_timeout() => Ok(()),
            outcome => outcome.map(drop),
        }
    };
    stopped().map_err(failed("stop", unit))
}

/// Stops it and waits until it has.
fn end(bus: &mut Bus, unit: &str) -> std::result::Result<(), Failure> {
    let mut body = named(unit);
    body.text(REPLACE);
    tolerate_gone(bus.run_job(STOP, body))
}

fn tolerate_gone(outcome: std::result::Result<(), Failure>) -> std::result::Result<(), Failure> {
    match outcome {
        Err(failure) if failure.is("NoSuchUnit") => Ok(()),
        outcome => outcome,
    }
}

fn named(unit: &str) -> Writer {
    let mut body = Writer::default();
    body.text(unit);
    body
}

/// Controllers are wanted whether there are limits or not, for statistics;
/// and nothing of the boot waits for the unit.
fn common() -> impl Iterator<Item = Property> {
    let accounting = [
        "CPUAccounting",
        "MemoryAccounting",
        "IOAccounting",
        "TasksAccounting",
    ];
    accounting
        .into_iter()
        .map(|name| flag(name, true))
        .chain(std::iter::once(flag("DefaultDependencies", false)))
}

fn flag(name: &str, value: bool) -> Property {
    (name.to_owned(), PropertyValue::Bool(value))
}

fn text(name: &str, value: &str) -> Property {
    (name.to_owned(), PropertyValue::Text(value.to_owned()))
}

fn failed<'a>(operation: &'static str, unit: &'a str) -> impl FnOnce(Failure) -> Error + 'a {
    move |source| Error::Systemd {
        operation,
        unit: unit.to_owned(),
        source,
    }
}
