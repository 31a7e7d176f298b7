//! `delete` of the standard shim protocol: the container of a shim that is
//! dead is ended, and what it occupied is given back.
//!
//! Works from the bundle alone: `config.json` names the cgroup, `exit.json` the
//! exit if the shim got to write it. Doing it twice is harmless.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth_cgroups::{CgroupHost, CgroupPath, Scope};
use serde_json::Value;

use crate::exit_record;
use crate::journal::note;
use crate::process::Exit;
use crate::status::{Error, chain};

const SIGKILL: i32 = 9;

/// Ends the container and returns the pid of its init and how that ended:
/// killed, unless the shim had recorded something else.
pub fn clean_up(id: &str, bundle: &Path) -> Result<(i32, Exit), Error> {
    let recorded = read_json(&bundle.join(exit_record::FILE_NAME));
    if let Some(path) = cgroup_path(id, bundle)
        && let Err(error) = remove_cgroup(&path)
    {
        return Err(Error::Cgroup {
            id: id.to_owned(),
            source: error,
        });
    }
    detach_mounts(&bundle.join("rootfs"))?;
    Ok(recorded
        .as_ref()
        .and_then(recorded_exit)
        .unwrap_or_else(|| {
            let exit = Exit {
                status: 128 + SIGKILL.unsigned_abs(),
                at: SystemTime::now(),
            };
            (0, exit)
        }))
}

/// The path that the executor chose: the spec's, or one made of the id. `None`
/// when there is no spec, and so no container.
fn cgroup_path(id: &str, bundle: &Path) -> Option<CgroupPath> {
    let config = read_json(&bundle.join("config.json"))?;
    let wanted = config.pointer("/linux/cgroupsPath").and_then(Value::as_str);
    let path = match wanted.filter(|path| !path.is_empty()) {
        None => format!("/berth/{id}"),
        Some(path) if Scope::is_one(path) => {
            return Scope::parse(path)
                .map(|scope| scope.path().clone())
                .inspect_err(|error| note!("scope {path}: {}", chain(error)))
                .ok();
        }
        Some(path) if path.starts_with('/') => path.to_owned(),
        Some(path) => format!("/{path}"),
    };
    CgroupPath::parse(&path)
        .inspect_err(|error| note!("cgroup {path}: {}", chain(error)))
        .ok()
}

fn remove_cgroup(path: &CgroupPath) -> Result<(), berth_cgroups::Error> {
    let cgroup = match CgroupHost::detect()?.open(path) {
        Ok(cgroup) => cgroup,
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(error),
    };
    // Thawed first: a frozen process would not die.
    if let Err(error) = cgroup.thaw() {
        note!("{}", chain(&error));
    }
    cgroup.kill_all(SIGKILL)?;
    cgroup.remove()
}

/// Detaches everything mounted at the root filesystem's place. The executor
/// mounts nothing there on the host; other users of the bundle may have.
fn detach_mounts(rootfs: &Path) -> Result<(), Error> {
    use rustix::io::Errno;
    loop {
        match berth_kernel::detach(rootfs) {
            Ok(()) => {}
            // Not a mount point, or not there.
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(source) => return Err(Error::path("unmount", rootfs, source)),
        }
    }
}

fn recorded_exit(record: &Value) -> Option<(i32, Exit)> {
    let number = |name: &str| record.get(name).and_then(Value::as_i64);
    let pid = i32::try_from(number("pid")?).ok()?;
    let status = u32::try_from(number("exit_status")?).ok()?;
    let at = record.get("exited_at")?.as_str().and_then(parse_moment)?;
    Some((pid, Exit { status, at }))
}

/// Reads back what [`berth_executor::Stamp`] writes.
fn parse_moment(text: &str) -> Option<SystemTime> {
    let field = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1970 {
        return None;
    }
    // Days before the month of a year that begins in March.
    let (shifted_year, shifted_month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = shifted_year / 4 - shifted_year / 100 + shifted_year / 400;
    let days = 365 * shifted_year + leap_days + (153 * shifted_month + 2) / 5 + day - 1 - 719_468;
    let second_of_day = field(11, 13)? * 3600 + field(14, 16)? * 60 + field(17, 19)?;
    let nanos = u32::try_from(field(20, 29)?).ok()?;
    Some(UNIX_EPOCH + Duration::new(days * 86_400 + second_of_day, nanos))
}

fn read_json(path: &PathBuf) -> Option<Value> {
    let text = std::fs::read(path).ok()?;
    serde_json::from_slice(&text)
        .inspect_err(|error| note!("{}: {error}", path.display()))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_executor::Stamp;

    #[test]
    fn moments_are_read_back_as_they_were_written() {
        for seconds in [0, 951_782_399, 951_782_400, 1_709_251_199, 4_107_542_400] {
            let moment = UNIX_EPOCH + Duration::new(seconds, 123_456_789);
            assert_eq!(parse_moment(&Stamp::at(moment).to_string()), Some(moment));
        }
        for bad in [
            "",
            "2026",
            "2026-13-01T00:00:00.000000000Z",
            "x026-11-21T05:00:00.0Z",
        ] {
            assert_eq!(parse_moment(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_bundle_without_anything_is_cleaned_up_twice() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let (pid, exit) = clean_up("c", dir.path()).unwrap();
            assert_eq!((pid, exit.status), (0, 137));
        }
    }

    #[test]
    fn a_recorded_exit_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let exit = Exit {
            status: 3,
            at: UNIX_EPOCH + Duration::new(1_700_000_000, 5),
        };
        exit_record::write(dir.path(), 77, &exit, false).unwrap();
        assert_eq!(clean_up("c", dir.path()).unwrap(), (77, exit));
    }
}
