//! Pressure stall information.

use super::{Pressure, PressureLine};
use crate::control::ControlDir;
use crate::error::Result;

/// `None` if the kernel was built or booted without it.
pub(super) fn read(directory: &ControlDir, file: &str) -> Result<Option<Pressure>> {
    let Some(content) = directory.read_optional(file)? else {
        return Ok(None);
    };
    let mut pressure = Pressure::default();
    for line in content.lines() {
        let (kind, fields) = line.split_once(' ').unwrap_or((line, ""));
        let Some(parsed) = parse(fields) else {
            return Err(directory.malformed(file, line));
        };
        match kind {
            "some" => pressure.some = parsed,
            "full" => pressure.full = parsed,
            _ => return Err(directory.malformed(file, line)),
        }
    }
    Ok(Some(pressure))
}

/// Fields of `avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn parse(fields: &str) -> Option<PressureLine> {
    let mut line = PressureLine::default();
    for field in fields.split_whitespace() {
        let (key, value) = field.split_once('=')?;
        match key {
            "avg10" => line.avg10 = value.parse().ok()?,
            "avg60" => line.avg60 = value.parse().ok()?,
            "avg300" => line.avg300 = value.parse().ok()?,
            "total" => line.total_us = value.parse().ok()?,
            _ => {}
        }
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use crate::fake::FakeTree;

    #[test]
    fn pressure_is_read_from_the_unified_side_where_it_is() {
        let hybrid = FakeTree::v1(&["memory"]).and_unified("");
        let cgroup = hybrid.cgroup("/a");
        assert!(cgroup.stats().unwrap().memory_pressure.is_none());
        hybrid.put(
            "unified/a",
            "memory.pressure",
            "some avg10=1.50 avg60=0.20 avg300=0.03 total=123\n\
             full avg10=0.00 avg60=0.00 avg300=0.00 total=45\n",
        );
        let pressure = cgroup.stats().unwrap().memory_pressure.unwrap();
        assert!((pressure.some.avg10 - 1.5).abs() < 1e-9);
        assert_eq!((pressure.some.total_us, pressure.full.total_us), (123, 45));
        hybrid.put("unified/a", "memory.pressure", "none of it\n");
        assert!(cgroup.stats().is_err());
    }
}
