//! User namespaces: that of a container, and those that only say how the ids
//! of a mount are shifted.

use crate::report::Failure;
use crate::step::Step;
use berth_kernel::{Errno, IdMapping, Namespace, NamespaceHolder, NamespaceSet, Result};
use oci_spec::runtime::LinuxIdMapping;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

/// A user namespace by descriptor, with its ids as the runtime sees them.
#[derive(Debug, Clone)]
pub(crate) struct UserNamespace {
    pub(crate) fd: Rc<OwnedFd>,
    uids: Vec<IdMapping>,
    gids: Vec<IdMapping>,
}

impl UserNamespace {
    /// Makes one that nobody is in. Without a holder it lives as long as its
    /// descriptor.
    pub(crate) fn new(uids: Vec<IdMapping>, gids: Vec<IdMapping>) -> Result<Self> {
        let holder = NamespaceHolder::new(NamespaceSet::EMPTY.with(Namespace::User))?;
        holder.map_ids(&uids, &gids)?;
        let fd = berth_kernel::open_namespace(&holder.namespace(Namespace::User))?;
        Ok(Self {
            fd: Rc::new(fd),
            uids,
            gids,
        })
    }

    /// One that exists. Its ids are what the kernel says, whatever a spec
    /// repeats of them.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let fd = berth_kernel::open_namespace(path)?;
        let (uids, gids) = NamespaceHolder::within(fd.as_fd())?.ids()?;
        Ok(Self {
            fd: Rc::new(fd),
            uids,
            gids,
        })
    }

    /// That of a process of the runtime's own PID namespace.
    pub(crate) fn of_process(pid: i32) -> Result<Self> {
        let fd = berth_kernel::open_namespace(Path::new(&format!("/proc/{pid}/ns/user")))?;
        let (uids, gids) = berth_kernel::mapped_ids(pid)?;
        Ok(Self {
            fd: Rc::new(fd),
            uids,
            gids,
        })
    }

    /// Whether its ids are these.
    pub(crate) fn maps(&self, uids: &[IdMapping], gids: &[IdMapping]) -> bool {
        self.uids == uids && self.gids == gids
    }

    /// The runtime's number of a user inside; `None` for one that is not
    /// mapped.
    pub(crate) fn outer_uid(&self, inside: u32) -> Option<u32> {
        outer(&self.uids, inside)
    }

    pub(crate) fn outer_gid(&self, inside: u32) -> Option<u32> {
        outer(&self.gids, inside)
    }

    /// Whether a process can be root in it, as each is while it is set up.
    pub(crate) fn has_root(&self) -> bool {
        self.outer_uid(0).is_some() && self.outer_gid(0).is_some()
    }

    /// Moves the calling process into it, with every capability there and the
    /// ids that it had.
    pub(crate) fn enter(&self) -> std::result::Result<(), Failure> {
        let kind = NamespaceSet::EMPTY.with(Namespace::User);
        berth_kernel::join(self.fd.as_fd(), kind).map_err(Failure::of(Step::EnterUserNamespace, ""))
    }
}

impl UserNamespace {
    /// Does `work` with the ids that its root has outside, and with every
    /// capability that the calling process has. The process is the host's
    /// root before and after.
    pub(crate) fn as_its_root<T>(
        &self,
        work: impl FnOnce() -> std::result::Result<T, Failure>,
    ) -> std::result::Result<T, Failure> {
        let failed = || Failure::of(Step::SetUser, "to that of the user namespace");
        let uid = self.outer_uid(0).ok_or(Errno::OVERFLOW).map_err(failed())?;
        let gid = self.outer_gid(0).ok_or(Errno::OVERFLOW).map_err(failed())?;
        berth_kernel::set_effective_ids(uid, gid).map_err(failed())?;
        let done = work();
        berth_kernel::set_effective_ids(0, 0).map_err(failed())?;
        done
    }
}

/// Takes the ids of root in the calling process's user namespace: files that
/// it makes there have an owner only then.
pub(crate) fn become_root() -> std::result::Result<(), Failure> {
    let failed = || Failure::of(Step::EnterUserNamespace, "as its root");
    berth_kernel::set_groups(&[]).map_err(failed())?;
    berth_kernel::set_gids(0).map_err(failed())?;
    berth_kernel::set_uids(0).map_err(failed())
}

fn outer(mappings: &[IdMapping], inside: u32) -> Option<u32> {
    mappings.iter().find_map(|range| {
        let offset = inside.checked_sub(range.inside)?;
        (offset < range.length).then(|| range.outside.checked_add(offset))?
    })
}

/// The ranges of a spec; the problem with one that cannot be meant.
pub(crate) fn ranges(
    list: Option<&Vec<LinuxIdMapping>>,
) -> std::result::Result<Vec<IdMapping>, (String, &'static str)> {
    list.into_iter()
        .flatten()
        .map(|range| {
            let (inside, outside, length) = (range.container_id(), range.host_id(), range.size());
            let text = || format!("{inside} {outside} {length}");
            if length == 0 {
                return Err((text(), "maps no ids"));
            }
            if inside.checked_add(length).is_none() || outside.checked_add(length).is_none() {
                return Err((text(), "goes beyond the last id"));
            }
            Ok(IdMapping {
                inside,
                outside,
                length,
            })
        })
        .collect()
}

/// Why the kernel did not take a map.
pub(crate) fn describe(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::INVAL => Some("overlaps, or is empty"),
        Errno::TOOBIG => Some("has more ranges than the kernel takes"),
        Errno::PERM => Some("has ids that the runtime does not have itself"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxIdMappingBuilder;

    fn range(inside: u32, outside: u32, length: u32) -> IdMapping {
        IdMapping {
            inside,
            outside,
            length,
        }
    }

    #[test]
    fn an_id_is_found_in_the_range_that_has_it() {
        let ranges = [range(0, 1000, 10), range(10, 5000, 1), range(100, 0, 1)];
        let cases = [
            (0, Some(1000)),
            (9, Some(1009)),
            (10, Some(5000)),
            (11, None),
            (100, Some(0)),
            (u32::MAX, None),
        ];
        for (inside, outside) in cases {
            assert_eq!(outer(&ranges, inside), outside, "{inside}");
        }
    }

    #[test]
    fn ranges_that_cannot_be_meant_are_refused() {
        let list = |inside: u32, outside: u32, length: u32| {
            vec![
                LinuxIdMappingBuilder::default()
                    .container_id(inside)
                    .host_id(outside)
                    .size(length)
                    .build()
                    .unwrap(),
            ]
        };
        assert!(ranges(None).unwrap().is_empty());
        assert_eq!(ranges(Some(&list(0, 7, 1))).unwrap(), [range(0, 7, 1)]);
        for (inside, outside, length) in [
            (0, 0, 0),
            (u32::MAX, 0, 1),
            (0, u32::MAX, 1),
            (1, 1, u32::MAX),
        ] {
            assert!(ranges(Some(&list(inside, outside, length))).is_err());
        }
    }
}
