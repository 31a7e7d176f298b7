//! Device programs of cgroup v2.

#![allow(unsafe_code)] // bpf(2)

use crate::Result;
use crate::sys::check_long;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;
const BPF_F_REPLACE: u32 = 4;

/// One eBPF instruction, laid out as the kernel's `struct bpf_insn`: `code`,
/// both registers in `registers` (source in the high half), offset, immediate.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BpfInstruction {
    pub code: u8,
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

#[repr(C)]
#[derive(Default)]
struct LoadArguments {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    program_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct AttachArguments {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replaced: u32,
}

/// Loads a program of type `cgroup_device`. The descriptor keeps it; so does
/// a cgroup that it is attached to.
pub fn load_device_program(program: &[BpfInstruction]) -> Result<OwnedFd> {
    let mut arguments = LoadArguments {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(program.len()).map_err(|_| crate::Errno::TOOBIG)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..LoadArguments::default()
    };
    // SAFETY: the pointers within are valid for the counts beside them and
    // outlive the call; the kernel copies and verifies the program.
    let fd = check_long(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw mut arguments,
            size_of::<LoadArguments>(),
        )
    })?;
    let fd = i32::try_from(fd).map_err(|_| crate::Errno::BADF)?;
    // SAFETY: the kernel just made it; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a device program to the cgroup whose directory is open as
/// `cgroup`, in place of `replaced` if one is given, beside others otherwise.
pub fn attach_device_program<C: AsFd, P: AsFd>(
    cgroup: C,
    program: P,
    replaced: Option<&OwnedFd>,
) -> Result<()> {
    let mut arguments = AttachArguments {
        target: cgroup.as_fd().as_raw_fd().cast_unsigned(),
        program: program.as_fd().as_raw_fd().cast_unsigned(),
        attach_type: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
        replaced: 0,
    };
    if let Some(replaced) = replaced {
        arguments.flags |= BPF_F_REPLACE;
        arguments.replaced = replaced.as_raw_fd().cast_unsigned();
    }
    // SAFETY: descriptors are live, the structure outlives the call.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw mut arguments,
            size_of::<AttachArguments>(),
        )
    })
    .map(drop)
}
