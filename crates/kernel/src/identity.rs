//! What a process is: ids, names, and the bits that decide what it may
//! become.

#![allow(unsafe_code)] // securebits, keyctl, personality and pdeathsig by number

use crate::Result;
use crate::sys::{check, check_long};
use rustix::fs::Gid;
use rustix::fs::Uid;
use rustix::process::DumpableBehavior;
use std::ffi::CStr;

/// Sets real, effective and saved user id of the calling thread.
pub fn set_uids(uid: u32) -> Result<()> {
    let uid = Uid::from_raw(uid);
    rustix::thread::set_thread_res_uid(Some(uid), Some(uid), Some(uid))
}

/// Sets real, effective and saved group id of the calling thread.
pub fn set_gids(gid: u32) -> Result<()> {
    let gid = Gid::from_raw(gid);
    rustix::thread::set_thread_res_gid(Some(gid), Some(gid), Some(gid))
}

/// Changes the effective ids of the calling thread, which are those that its
/// files belong to, and leaves the others for the way back. Its effective
/// capabilities stay all that it has permitted.
pub fn set_effective_ids(uid: u32, gid: u32) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let back_to_root = uid.is_root();
    if back_to_root {
        rustix::thread::set_thread_res_uid(None, Some(uid), None)?;
    }
    rustix::thread::set_thread_res_gid(None, Some(gid), None)?;
    if !back_to_root {
        rustix::thread::set_thread_res_uid(None, Some(uid), None)?;
    }
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective = sets.permitted;
    rustix::thread::set_capabilities(None, sets)
}

/// Replaces the supplementary groups of the calling thread.
pub fn set_groups(groups: &[u32]) -> Result<()> {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    rustix::thread::set_thread_groups(&groups)
}

/// Keeps permitted capabilities over the next change from uid 0; cleared by
/// exec.
pub fn keep_capabilities(keep: bool) -> Result<()> {
    rustix::thread::set_keep_capabilities(keep)
}

/// Sets the `SECBIT_…` flags.
pub fn set_securebits(bits: u32) -> Result<()> {
    // SAFETY: integer arguments only.
    check(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits as libc::c_ulong, 0, 0, 0) }).map(drop)
}

/// From here on no exec gains privileges; cannot be taken back.
pub fn no_new_privileges() -> Result<()> {
    rustix::thread::set_no_new_privs(true)
}

/// Whether the process may be traced and its `/proc` files read by others of
/// its user. Exec of a readable program sets it again.
pub fn set_dumpable(dumpable: bool) -> Result<()> {
    rustix::process::set_dumpable_behavior(if dumpable {
        DumpableBehavior::Dumpable
    } else {
        DumpableBehavior::NotDumpable
    })
}

/// Whether orphaned descendants become children of the calling process.
pub fn set_child_subreaper(subreaper: bool) -> Result<()> {
    rustix::process::set_child_subreaper(subreaper.then(rustix::process::getpid))
}

/// The signal that the calling process gets when the thread that made it
/// ends; 0 for none. Cleared by a change of ids and by a set-id exec.
pub fn set_parent_death_signal(signal: i32) -> Result<()> {
    // SAFETY: integer arguments only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong, 0, 0, 0) })
        .map(drop)
}

/// The name in `/proc/self/comm`, cut to 15 bytes.
pub fn set_process_name(name: &CStr) -> Result<()> {
    rustix::thread::set_name(name)
}

pub fn set_hostname(name: &str) -> Result<()> {
    rustix::system::sethostname(name.as_bytes())
}

/// The NIS domain name.
pub fn set_domainname(name: &str) -> Result<()> {
    rustix::system::setdomainname(name.as_bytes())
}

/// Gives the calling process a session keyring of its own, so that the
/// caller's keys are not inherited. `ENOSYS` without keyrings in the kernel,
/// `EDQUOT` when the user's quota of keys is spent.
pub fn session_keyring(name: &CStr) -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the name is a C string that outlives the call.
    check_long(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr())
    })
    .map(drop)
}

/// Sets the execution domain (`PER_…` and its flags).
pub fn set_personality(domain: u64) -> Result<()> {
    // SAFETY: an integer argument only.
    check(unsafe { libc::personality(domain) }).map(drop)
}
