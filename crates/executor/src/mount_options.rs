//! The option strings of a mount, sorted by what the kernel does with them.
//!
//! Names are those of the OCI runtime specification, "Mounts", which are
//! those of mount(8); an `r` in front makes an attribute recursive.

use berth_kernel::{AttributeChange, MountFlags, Propagation};

/// What a list of options asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountOptions {
    /// A bind mount, and whether it brings the mounts below its source.
    pub(crate) bind: Option<bool>,
    pub(crate) set: MountFlags,
    pub(crate) clear: MountFlags,
    pub(crate) set_all: MountFlags,
    pub(crate) clear_all: MountFlags,
    /// How the mount propagates, and whether all below it does.
    pub(crate) propagation: Option<(Propagation, bool)>,
    /// A mount whose ids are mapped, and whether those below it are too.
    pub(crate) id_map: Option<bool>,
    /// A tmpfs that begins with what is at its place in the image.
    pub(crate) copy_up: bool,
    /// For the file system itself: `key=value` or a bare `key`.
    pub(crate) data: Vec<(String, Option<String>)>,
}

impl MountOptions {
    fn new() -> Self {
        Self {
            bind: None,
            set: MountFlags::empty(),
            clear: MountFlags::empty(),
            set_all: MountFlags::empty(),
            clear_all: MountFlags::empty(),
            propagation: None,
            id_map: None,
            copy_up: false,
            data: Vec::new(),
        }
    }

    pub(crate) fn parse(options: &[String]) -> Self {
        let mut parsed = Self::new();
        for option in options {
            parsed.add(option);
        }
        parsed
    }

    fn add(&mut self, option: &str) {
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "defaults" | "async" | "remount" | "" => {}
            "idmap" => self.id_map = Some(self.id_map.unwrap_or(false)),
            "ridmap" => self.id_map = Some(true),
            "tmpcopyup" => self.copy_up = true,
            _ => {
                if let Some(propagation) = propagation(option) {
                    self.propagation = Some(propagation);
                } else if let Some((set, clear)) = attribute(option) {
                    merge(&mut self.set, &mut self.clear, set, clear);
                } else if let Some((set, clear)) = recursive_attribute(option) {
                    merge(&mut self.set_all, &mut self.clear_all, set, clear);
                } else {
                    self.add_data(option);
                }
            }
        }
    }

    fn add_data(&mut self, option: &str) {
        let (key, value) = match option.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (option, None),
        };
        self.data.push((key.to_owned(), value));
    }

    /// Whether the file system itself is told this.
    pub(crate) fn tells(&self, wanted: &str) -> bool {
        self.data.iter().any(|(key, _)| key == wanted)
    }

    /// The change for the mount alone, if there is anything to change.
    pub(crate) fn change(&self) -> Option<AttributeChange> {
        change(self.set, self.clear)
    }

    /// The change for the mount and all below it.
    pub(crate) fn recursive_change(&self) -> Option<AttributeChange> {
        change(self.set_all, self.clear_all)
    }
}

fn change(set: MountFlags, clear: MountFlags) -> Option<AttributeChange> {
    (!set.is_empty() || !clear.is_empty()).then_some(AttributeChange {
        set,
        clear,
        propagation: None,
    })
}

/// Later options win over earlier ones. The access time setting is one field
/// with several values: it is cleared as a whole before it is set.
fn merge(set: &mut MountFlags, clear: &mut MountFlags, more: MountFlags, less: MountFlags) {
    set.remove(less);
    set.insert(more);
    clear.remove(more);
    clear.insert(less);
    if less.contains(MountFlags::MOUNT_ATTR__ATIME) {
        clear.insert(MountFlags::MOUNT_ATTR__ATIME);
    }
}

fn attribute(option: &str) -> Option<(MountFlags, MountFlags)> {
    let none = MountFlags::empty();
    let access_time = MountFlags::MOUNT_ATTR__ATIME;
    Some(match option {
        "ro" => (MountFlags::MOUNT_ATTR_RDONLY, none),
        "rw" => (none, MountFlags::MOUNT_ATTR_RDONLY),
        "nosuid" => (MountFlags::MOUNT_ATTR_NOSUID, none),
        "suid" => (none, MountFlags::MOUNT_ATTR_NOSUID),
        "nodev" => (MountFlags::MOUNT_ATTR_NODEV, none),
        "dev" => (none, MountFlags::MOUNT_ATTR_NODEV),
        "noexec" => (MountFlags::MOUNT_ATTR_NOEXEC, none),
        "exec" => (none, MountFlags::MOUNT_ATTR_NOEXEC),
        "nodiratime" => (MountFlags::MOUNT_ATTR_NODIRATIME, none),
        "diratime" => (none, MountFlags::MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => (MountFlags::MOUNT_ATTR_NOSYMFOLLOW, none),
        "symfollow" => (none, MountFlags::MOUNT_ATTR_NOSYMFOLLOW),
        "noatime" => (MountFlags::MOUNT_ATTR_NOATIME, access_time),
        "strictatime" => (MountFlags::MOUNT_ATTR_STRICTATIME, access_time),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => {
            (MountFlags::MOUNT_ATTR_RELATIME, access_time)
        }
        _ => return None,
    })
}

fn recursive_attribute(option: &str) -> Option<(MountFlags, MountFlags)> {
    // `rrelatime` is recursive, `relatime` is not: the plain names were
    // looked up first.
    option.strip_prefix('r').and_then(attribute)
}

fn propagation(option: &str) -> Option<(Propagation, bool)> {
    Some(match option {
        "private" => (Propagation::Private, false),
        "rprivate" => (Propagation::Private, true),
        "slave" => (Propagation::Slave, false),
        "rslave" => (Propagation::Slave, true),
        "shared" => (Propagation::Shared, false),
        "rshared" => (Propagation::Shared, true),
        "unbindable" => (Propagation::Unbindable, false),
        "runbindable" => (Propagation::Unbindable, true),
        _ => return None,
    })
}

/// The word of `rootfsPropagation`, and whether it is a recursive one.
pub(crate) fn parse_propagation(word: &str) -> Option<(Propagation, bool)> {
    propagation(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> MountOptions {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        MountOptions::parse(&options)
    }

    #[test]
    fn options_go_where_the_kernel_wants_them() {
        let parsed = parse(&[
            "rbind", "ro", "nosuid", "rslave", "rnoexec", "size=64k", "acl",
        ]);
        assert_eq!(parsed.bind, Some(true));
        assert_eq!(
            parsed.set,
            MountFlags::MOUNT_ATTR_RDONLY | MountFlags::MOUNT_ATTR_NOSUID
        );
        assert_eq!(parsed.set_all, MountFlags::MOUNT_ATTR_NOEXEC);
        assert_eq!(parsed.propagation, Some((Propagation::Slave, true)));
        assert_eq!(
            parsed.data,
            [
                ("size".to_owned(), Some("64k".to_owned())),
                ("acl".to_owned(), None)
            ]
        );
    }

    #[test]
    fn the_last_of_two_contrary_options_wins() {
        let parsed = parse(&["ro", "rw", "exec", "noexec"]);
        assert_eq!(parsed.set, MountFlags::MOUNT_ATTR_NOEXEC);
        assert_eq!(parsed.clear, MountFlags::MOUNT_ATTR_RDONLY);
        let parsed = parse(&["noatime", "strictatime"]);
        assert_eq!(parsed.set, MountFlags::MOUNT_ATTR_STRICTATIME);
        assert_eq!(parsed.clear, MountFlags::MOUNT_ATTR__ATIME);
    }

    #[test]
    fn a_recursive_bind_stays_recursive() {
        assert_eq!(parse(&["rbind", "bind"]).bind, Some(true));
    }

    #[test]
    fn an_id_map_is_for_the_mount_or_for_all_below_it() {
        let cases: [(&[&str], _); 4] = [
            (&["ro"], None),
            (&["idmap"], Some(false)),
            (&["ridmap"], Some(true)),
            (&["ridmap", "idmap"], Some(true)),
        ];
        for (options, id_map) in cases {
            assert_eq!(parse(options).id_map, id_map, "{options:?}");
        }
    }
}
