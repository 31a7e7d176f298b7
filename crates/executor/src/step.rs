//! What a container is being made of, step by step, for its error messages.

use std::fmt;

macro_rules! steps {
    ($($(#[$note:meta])* $name:ident = $text:literal,)*) => {
        /// A step of setting a process up, done in the child.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Step {
            $($(#[$note])* $name,)*
        }

        impl Step {
            const ALL: &[Self] = &[$(Self::$name,)*];

            const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

steps! {
    JoinCgroup = "join cgroup",
    JoinNamespace = "join namespace",
    MakeCgroupNamespace = "make cgroup namespace",
    EnterUserNamespace = "enter user namespace",
    SetClocks = "set up time namespace",
    CloneAgain = "clone into namespaces",
    StartSession = "start session",
    EndWithCaller = "have it end with its runtime",
    MakeProcfs = "make private procfs",
    SetPropagation = "set mount propagation",
    MountRoot = "mount root file system",
    OpenMountSource = "open mount source",
    MakeMountPoint = "make mount point",
    MountOrdinaryDirectory = "mount on an ordinary directory",
    MakeFilesystem = "make file system",
    SetMountFlags = "set mount flags",
    MapMount = "map the ids of mount",
    CopyUp = "copy up",
    Attach = "mount",
    MakeDevice = "make device",
    LinkDevice = "link device",
    MaskPath = "mask path",
    ProtectPath = "make path read-only",
    OpenTerminal = "open terminal",
    AttachConsole = "attach console",
    RunHook = "run",
    ChangeRoot = "change root",
    SetHostname = "set hostname",
    SetSysctl = "set sysctl",
    MakeKeyring = "make session keyring",
    SetOomScore = "set oom_score_adj",
    SetLimit = "set resource limit",
    SetScheduler = "set scheduling",
    SetPersonality = "set personality",
    SetLabel = "set security label",
    ConnectStreams = "connect standard streams",
    OpenWorkingDirectory = "open working directory",
    DropCapabilities = "drop capabilities",
    SetUser = "set user",
    SetNoNewPrivileges = "set no_new_privs",
    LoadFilter = "load seccomp filter",
    CloseDescriptors = "close descriptors",
    FindProgram = "find program",
    Execute = "exec",
    Report = "report to the parent",
    CopyMountNamespace = "copy mount namespace",
}

impl Step {
    /// The step with this number, as it travels over the report socket.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
