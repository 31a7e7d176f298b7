//! User, groups, capabilities and what goes with them.

use crate::error::Error;
use crate::refuse::Refuse;
use crate::report::{Failure, Reporter};
use crate::step::Step;
use crate::user_namespace::UserNamespace;
use berth_kernel::CapabilitySet;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, User};

/// Who a process will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdentityPlan {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: u32,
    pub(crate) bounding: CapabilitySet,
    pub(crate) effective: CapabilitySet,
    pub(crate) permitted: CapabilitySet,
    /// Also inheritable, which holds nothing else: an inheritable capability
    /// that is not ambient only matters to programs with file capabilities,
    /// and there it is a hole.
    pub(crate) ambient: CapabilitySet,
}

impl IdentityPlan {
    /// Without `capabilities` the process has none.
    pub(crate) fn new(user: &User, capabilities: Option<&LinuxCapabilities>) -> Self {
        let set = |pick: fn(&LinuxCapabilities) -> &Option<Capabilities>| {
            capabilities
                .and_then(|sets| pick(sets).as_ref())
                .map_or(CapabilitySet::empty(), to_set)
        };
        let inheritable = set(LinuxCapabilities::inheritable);
        Self {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask().unwrap_or(0o022),
            bounding: set(LinuxCapabilities::bounding),
            effective: set(LinuxCapabilities::effective),
            permitted: set(LinuxCapabilities::permitted),
            ambient: set(LinuxCapabilities::ambient) & inheritable,
        }
    }

    /// The field and value of an id that is none: the kernel takes the highest
    /// number for "as before", which is root.
    pub(crate) fn nobodys_id(&self) -> Option<(&'static str, u32)> {
        let gids = self.groups.iter().chain([&self.gid]);
        gids.map(|gid| ("process.user.gid", *gid))
            .chain([("process.user.uid", self.uid)])
            .find(|(_, id)| *id == u32::MAX)
    }

    /// Refuses ids that the user namespace does not have: becoming one would
    /// fail late and obscurely.
    pub(crate) fn check(&self, refuse: Refuse<'_>, user: &UserNamespace) -> Result<(), Error> {
        let problem = "is not mapped in the container's user namespace";
        if user.outer_uid(self.uid).is_none() {
            return Err(refuse.invalid("process.user.uid", self.uid, problem));
        }
        for gid in self.groups.iter().chain([&self.gid]) {
            if user.outer_gid(*gid).is_none() {
                return Err(refuse.invalid("process.user.gid", gid, problem));
            }
        }
        Ok(())
    }

    /// Changes the calling process for good. What the runtime does not have
    /// itself it cannot give: such capabilities are left out, with a notice.
    pub(crate) fn apply(&self, reporter: &Reporter) -> Result<(), Failure> {
        let dropping = || Failure::of(Step::DropCapabilities, "");
        let own = berth_kernel::rustix::thread::capabilities(None)
            .map_err(dropping())?
            .permitted;
        let missing = self.permitted - own;
        if !missing.is_empty() {
            reporter.notice(
                Step::DropCapabilities,
                &format!("not held by the runtime: {missing:?}"),
            );
        }
        berth_kernel::drop_bounding(self.bounding).map_err(dropping())?;
        berth_kernel::keep_capabilities(true).map_err(dropping())?;
        self.become_user()?;

        let permitted = self.permitted & own;
        let ambient = self.ambient & permitted;
        berth_kernel::set_capabilities(self.effective & permitted, permitted, ambient)
            .map_err(dropping())?;
        berth_kernel::clear_ambient().map_err(dropping())?;
        berth_kernel::raise_ambient(ambient).map_err(dropping())
    }

    fn become_user(&self) -> Result<(), Failure> {
        let failed = |what: &str, id: u32| {
            let subject = format!("{what} {id}");
            move |errno| Failure::of(Step::SetUser, &subject)(errno)
        };
        berth_kernel::set_groups(&self.groups)
            .map_err(Failure::of(Step::SetUser, "supplementary groups"))?;
        berth_kernel::set_gids(self.gid).map_err(failed("gid", self.gid))?;
        berth_kernel::set_uids(self.uid).map_err(failed("uid", self.uid))
    }
}

fn to_set(capabilities: &Capabilities) -> CapabilitySet {
    capabilities.iter().copied().map(bit).collect()
}

fn bit(capability: Capability) -> CapabilitySet {
    match capability {
        Capability::AuditControl => CapabilitySet::AUDIT_CONTROL,
        Capability::AuditRead => CapabilitySet::AUDIT_READ,
        Capability::AuditWrite => CapabilitySet::AUDIT_WRITE,
        Capability::BlockSuspend => CapabilitySet::BLOCK_SUSPEND,
        Capability::Bpf => CapabilitySet::BPF,
        Capability::CheckpointRestore => CapabilitySet::CHECKPOINT_RESTORE,
        Capability::Chown => CapabilitySet::CHOWN,
        Capability::DacOverride => CapabilitySet::DAC_OVERRIDE,
        Capability::DacReadSearch => CapabilitySet::DAC_READ_SEARCH,
        Capability::Fowner => CapabilitySet::FOWNER,
        Capability::Fsetid => CapabilitySet::FSETID,
        Capability::IpcLock => CapabilitySet::IPC_LOCK,
        Capability::IpcOwner => CapabilitySet::IPC_OWNER,
        Capability::Kill => CapabilitySet::KILL,
        Capability::Lease => CapabilitySet::LEASE,
        Capability::LinuxImmutable => CapabilitySet::LINUX_IMMUTABLE,
        Capability::MacAdmin => CapabilitySet::MAC_ADMIN,
        Capability::MacOverride => CapabilitySet::MAC_OVERRIDE,
        Capability::Mknod => CapabilitySet::MKNOD,
        Capability::NetAdmin => CapabilitySet::NET_ADMIN,
        Capability::NetBindService => CapabilitySet::NET_BIND_SERVICE,
        Capability::NetBroadcast => CapabilitySet::NET_BROADCAST,
        Capability::NetRaw => CapabilitySet::NET_RAW,
        Capability::Perfmon => CapabilitySet::PERFMON,
        Capability::Setgid => CapabilitySet::SETGID,
        Capability::Setfcap => CapabilitySet::SETFCAP,
        Capability::Setpcap => CapabilitySet::SETPCAP,
        Capability::Setuid => CapabilitySet::SETUID,
        Capability::SysAdmin => CapabilitySet::SYS_ADMIN,
        Capability::SysBoot => CapabilitySet::SYS_BOOT,
        Capability::SysChroot => CapabilitySet::SYS_CHROOT,
        Capability::SysModule => CapabilitySet::SYS_MODULE,
        Capability::SysNice => CapabilitySet::SYS_NICE,
        Capability::SysPacct => CapabilitySet::SYS_PACCT,
        Capability::SysPtrace => CapabilitySet::SYS_PTRACE,
        Capability::SysRawio => CapabilitySet::SYS_RAWIO,
        Capability::SysResource => CapabilitySet::SYS_RESOURCE,
        Capability::SysTime => CapabilitySet::SYS_TIME,
        Capability::SysTtyConfig => CapabilitySet::SYS_TTY_CONFIG,
        Capability::Syslog => CapabilitySet::SYSLOG,
        Capability::WakeAlarm => CapabilitySet::WAKE_ALARM,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxCapabilitiesBuilder;

    #[test]
    fn the_number_that_stands_for_no_change_is_nobodys_id() {
        let plan = |uid, gid, groups: &[u32]| {
            let mut user = User::default();
            user.set_uid(uid).set_gid(gid);
            user.set_additional_gids(Some(groups.to_vec()));
            IdentityPlan::new(&user, None).nobodys_id()
        };
        let highest = u32::MAX;
        assert_eq!(plan(0, 0, &[]), None);
        assert_eq!(plan(1 << 31, highest - 1, &[5]), None);
        assert_eq!(plan(highest, 0, &[]), Some(("process.user.uid", highest)));
        assert_eq!(plan(1, highest, &[]), Some(("process.user.gid", highest)));
        assert_eq!(
            plan(1, 1, &[7, highest]),
            Some(("process.user.gid", highest))
        );
    }

    #[test]
    fn inheritable_capabilities_need_an_ambient_twin() {
        let both: Capabilities = [Capability::Kill, Capability::Chown].into();
        let one: Capabilities = [Capability::Kill].into();
        let sets = LinuxCapabilitiesBuilder::default()
            .bounding(both.clone())
            .permitted(both.clone())
            .effective(both.clone())
            .inheritable(both)
            .ambient(one)
            .build()
            .unwrap();
        let plan = IdentityPlan::new(&User::default(), Some(&sets));
        assert_eq!(plan.ambient, CapabilitySet::KILL);
        assert_eq!(plan.permitted, CapabilitySet::KILL | CapabilitySet::CHOWN);
        let none = IdentityPlan::new(&User::default(), None);
        assert!(none.bounding.is_empty() && none.permitted.is_empty());
    }
}
