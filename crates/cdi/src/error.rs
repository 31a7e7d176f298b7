use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a device cannot be given to a container.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{name:?} is not a CDI device (vendor/class=name): {problem}")]
    Name { name: String, problem: &'static str },
    /// `hints` are what is wrong with files that may have had it.
    #[error("no CDI device {name} in {directories:?}{hints}")]
    Unknown {
        name: String,
        directories: Vec<PathBuf>,
        hints: String,
    },
    #[error("CDI device {name} is described by both {one:?} and {other:?}: remove one of them")]
    Conflict {
        name: String,
        one: PathBuf,
        other: PathBuf,
    },
    #[error("CDI: device node {path:?} on the host")]
    Node {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("CDI: {path:?} on the host is not a device node, or not of the described type")]
    NotADevice { path: PathBuf },
    #[error("CDI: the specification cannot be changed")]
    Spec(#[from] oci_spec::OciSpecError),
}
