//! What a Dockerfile says, instruction by instruction. Words are as they are written: variables are
//! expanded when their values are known, by [`super::expand`].

use std::time::Duration;

/// One instruction, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    pub kind: Kind,
    /// Its text, continued lines joined, as builds show it.
    pub text: String,
    /// From 1.
    pub line: usize,
    pub last_line: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    From(From),
    Arg(Vec<Argument>),
    Run(Box<Run>),
    Copy(Box<Copy>),
    Add(Box<Copy>),
    Cmd(Command),
    Entrypoint(Command),
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Expose(Vec<String>),
    Volume(Vec<String>),
    User(String),
    WorkDir(String),
    Shell(Vec<String>),
    StopSignal(String),
    Healthcheck(Healthcheck),
    /// The trigger as it is written, which is sound.
    OnBuild(String),
    Maintainer(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    pub image: String,
    pub platform: Option<String>,
    /// In small letters.
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    pub name: String,
    pub default: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A JSON array: run as it is.
    Exec(Vec<String>),
    /// For the shell.
    Shell(String),
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub command: Command,
    /// Here-documents of a shell command, in their order.
    pub documents: Vec<Document>,
    pub mounts: Vec<Mount>,
    pub network: RunNetwork,
    pub security: RunSecurity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunNetwork {
    #[default]
    Default,
    None,
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RunSecurity {
    #[default]
    Sandbox,
    Insecure,
}

/// `RUN --mount=…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub kind: MountKind,
    /// Empty where the kind has a place of its own.
    pub target: String,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    Bind {
        /// A stage or an image; none for the context.
        from: Option<String>,
        source: String,
    },
    Cache {
        /// Empty: the target.
        id: String,
        from: Option<String>,
        source: String,
        sharing: Sharing,
        owned: Owned,
    },
    Tmpfs {
        size: Option<u64>,
    },
    Secret {
        id: String,
        /// As a variable instead of a file, or beside it.
        env: Option<String>,
        required: bool,
        owned: Owned,
    },
    Ssh {
        id: String,
        required: bool,
        owned: Owned,
    },
}

/// Whose a file is, inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// Who else may have a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    #[default]
    Shared,
    Private,
    Locked,
}

/// `COPY` and `ADD`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copy {
    pub sources: Vec<String>,
    pub documents: Vec<Document>,
    pub destination: String,
    /// Of COPY.
    pub from: Option<String>,
    pub chown: Option<String>,
    pub chmod: Option<String>,
    pub link: bool,
    pub parents: bool,
    pub exclude: Vec<String>,
    /// Of ADD.
    pub checksum: Option<String>,
    pub keep_git_dir: bool,
    /// Whether archives are unpacked; none for those of the context alone.
    pub unpack: Option<bool>,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What ends it, which is its file's name where it is copied.
    pub name: String,
    pub content: String,
    /// The end is not quoted: variables are meant.
    pub expands: bool,
    /// The descriptor that it is for: `3<<EOF`.
    pub descriptor: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    None,
    Check {
        command: Command,
        interval: Option<Duration>,
        timeout: Option<Duration>,
        start_period: Option<Duration>,
        start_interval: Option<Duration>,
        retries: Option<u32>,
    },
}
