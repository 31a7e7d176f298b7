//! The unsafe room: typed wrappers of the Linux calls that a container
//! runtime needs and that the standard library does not offer.
//!
//! Every call answers with the bare [`Errno`]. It needs no heap, so the same
//! wrappers serve between clone and exec; the caller knows the operation and
//! the path and puts them into its own error. What `rustix` already offers
//! safely is used from there (it is re-exported as [`rustix`]).
//!
//! `unsafe` is denied everywhere else; each module here opts in and states
//! for each block what makes it sound.

mod bpf;
mod capabilities;
mod clone;
mod command_line;
mod descriptors;
mod execute;
mod heap;
mod holder;
mod identity;
mod job;
mod mounts;
mod namespaces;
mod nodes;
mod overlay;
mod passing;
mod paths;
mod quotas;
mod scheduling;
mod seccomp;
mod signals;
mod spawn;
mod sys;
pub mod sysctl;
mod terminal;

pub use bpf::{BpfInstruction, attach_device_program, load_device_program};
pub use capabilities::{
    CapabilitySet, clear_ambient, drop_bounding, raise_ambient, set_capabilities,
};
pub use clone::{
    Clone3, Cloned, ClonedWord, exit_now, is_single_threaded, pidfd_open, pidfd_send_signal,
    process_age, process_start,
};
pub use command_line::CommandLine;
pub use descriptors::{close_on_exec_from, duplicate_onto, duplicate_to, inherit, unread_by_peer};
pub use execute::{Execution, executable_at};
pub use heap::{limit_arenas, release_free_memory};
pub use holder::{IdMapping, NamespaceHolder, mapped_ids};
pub use identity::{
    keep_capabilities, no_new_privileges, session_keyring, set_child_subreaper, set_domainname,
    set_dumpable, set_effective_ids, set_gids, set_groups, set_hostname, set_parent_death_signal,
    set_personality, set_process_name, set_securebits, set_uids,
};
pub use job::spawn_job;
pub use mounts::{
    AttributeChange, FilesystemContext, MountFlags, Propagation, attach, clone_tree, detach,
    enter_root, move_into, pick_filesystem, pivot_into, read_only_view, set_attributes,
    set_propagation,
};
pub use namespaces::{
    Namespace, NamespaceSet, in_user_namespace, join, open_namespace, pin_namespace, unshare,
};
pub use nodes::{NodeKind, make_fifo, make_node};
pub use overlay::{OverlayMarks, mount_overlay, overlay_marks, overlay_takes_single_layers};
pub use passing::{Received, peer_credentials, receive_with_fds, send_with_fds, socket_pair};
pub use paths::{open_beneath, open_in_root, open_without_links, reopen};
pub use quotas::{
    ProjectUsage, inherited_project, limit_project, next_project, project_quotas_enforced,
    project_usage, set_inherited_project,
};
pub use rustix;
pub use rustix::io::Errno;
pub use scheduling::{set_io_priority, set_limit, set_scheduler};
pub use seccomp::{
    Answer, FilterFlags, Notification, SockFilter, answer_notification, load_filter,
    receive_notification,
};
pub use signals::{
    SignalDescriptor, SignalInfo, block_signals, default_dispositions, reset_signals,
};
pub use spawn::spawn_with_files;
pub use terminal::{
    Pty, WindowSize, make_controlling, open_pty, open_pty_from, set_window_size, window_size,
};

/// What every wrapper answers with.
pub type Result<T> = std::result::Result<T, Errno>;
