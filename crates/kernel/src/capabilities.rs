//! Capability sets of the calling thread.

#![allow(unsafe_code)] // prctl by capability number

use crate::sys::check;
use crate::{Errno, Result};
pub use rustix::thread::CapabilitySet;
use rustix::thread::CapabilitySets;

/// More numbers than any kernel has capabilities.
const NUMBERS: u32 = 64;

/// Sets the effective, permitted and inheritable sets. `EPERM` if one asks
/// for what the caller does not have permitted.
pub fn set_capabilities(
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
) -> Result<()> {
    let sets = CapabilitySets {
        effective,
        permitted,
        inheritable,
    };
    rustix::thread::set_capabilities(None, sets)
}

/// Takes every capability that is not in `keep` out of the bounding set,
/// also those that this crate has no name for. Needs CAP_SETPCAP (`EPERM`).
pub fn drop_bounding(keep: CapabilitySet) -> Result<()> {
    for number in 0..NUMBERS {
        if keep.bits() & (1 << number) != 0 {
            continue;
        }
        // SAFETY: integer arguments only.
        match check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) }) {
            Ok(_) => {}
            // Past the last number that this kernel knows.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

pub fn clear_ambient() -> Result<()> {
    rustix::thread::clear_ambient_capability_set()
}

/// Raises each capability of `set` in the ambient set; each must be permitted
/// and inheritable (`EPERM`).
pub fn raise_ambient(set: CapabilitySet) -> Result<()> {
    for number in (0..NUMBERS).filter(|number| set.bits() & (1 << number) != 0) {
        // SAFETY: integer arguments only.
        check(unsafe {
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_RAISE,
                number,
                0,
                0,
            )
        })?;
    }
    Ok(())
}
