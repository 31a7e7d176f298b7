//! Which gRPC status an error of the core becomes.

use berth_cgroups::Blame;
use berth_lifecycle::{Error, Lagged, chain};
use tonic::{Code, Status};

/// The status of a failed operation: its code by kind, its message with every cause in words.
pub fn of(error: Error) -> Status {
    let code = code(error.root());
    let message = match error.root() {
        // What kubelets count failed image volumes by.
        Error::ImageVolume { .. } => format!("ImageVolumeMountFailed: {}", chain(&error)),
        _ => chain(&error),
    };
    if matches!(code, Code::Internal | Code::Unknown) {
        tracing::error!(error = message, "request failed");
    } else {
        tracing::info!(error = message, code = %code, "request refused");
    }
    Status::new(code, message)
}

fn code(error: &Error) -> Code {
    match error {
        Error::PodNotFound(_) | Error::ContainerNotFound(_) | Error::ImageMissing { .. } => {
            Code::NotFound
        }
        Error::PodExists { .. } | Error::ContainerExists { .. } => Code::AlreadyExists,
        Error::PodState { .. }
        | Error::ContainerState { .. }
        | Error::CheckpointUnavailable { .. } => Code::FailedPrecondition,
        Error::Ambiguous { .. }
        | Error::Invalid { .. }
        | Error::Program { .. }
        | Error::UnknownUser { .. }
        | Error::UnknownGroup { .. }
        | Error::UnknownHandler { .. }
        | Error::ImageFile { .. }
        | Error::SeccompFile { .. }
        | Error::SeccompProfile { .. } => Code::InvalidArgument,
        Error::ExecTimeout { .. } | Error::WillNotStop { .. } | Error::CheckpointTimeout { .. } => {
            Code::DeadlineExceeded
        }
        Error::State { source, .. } => storage(source),
        Error::Images(source) => image_code(source),
        Error::TaskGone { .. } => Code::Unavailable,
        Error::ImageVolume { source, .. } => code(source),
        Error::Cdi(berth_lifecycle::CdiError::Name { .. }) => Code::InvalidArgument,
        Error::Cdi(_) => Code::FailedPrecondition,
        Error::VolumeCopy { source, .. } => storage(source),
        Error::Cgroup { source, .. } => match source.blame() {
            Blame::Request => Code::InvalidArgument,
            Blame::Usage => Code::FailedPrecondition,
            Blame::Host => Code::Unknown,
        },
        Error::Shim { source, .. } => shim(source),
        Error::Network { source, .. } => network(source),
        Error::Snapshot { source, .. } if source.is_out_of_space() => Code::ResourceExhausted,
        Error::Spec(_)
        | Error::Store { .. }
        | Error::NoVolume { .. }
        | Error::Fault(_)
        | Error::Checkpoint { .. }
        | Error::Snapshot { .. } => Code::Unknown,
        Error::Shared(inner) => code(inner),
    }
}

/// A shim says whose fault it is; that of one that is gone is nobody's.
fn shim(error: &berth_lifecycle::ShimError) -> Code {
    if error.is_gone() {
        Code::NotFound
    } else if error.is_invalid_argument() {
        Code::InvalidArgument
    } else if error.is_failed_precondition() {
        Code::FailedPrecondition
    } else if error.is_deadline_exceeded() {
        Code::DeadlineExceeded
    } else {
        Code::Unknown
    }
}

/// The status of what failed in the network itself.
pub fn of_network(error: &berth_network::Error) -> Status {
    let message = chain(error);
    tracing::info!(error = message, "network request refused");
    Status::new(network(error), message)
}

fn network(error: &berth_network::Error) -> Code {
    use berth_network::Error as Network;
    match error {
        Network::InvalidPod { .. }
        | Network::SysctlRefused { .. }
        | Network::SysctlWrite { .. } => Code::InvalidArgument,
        Network::PortTaken { .. } | Network::PortInUse { .. } => Code::AlreadyExists,
        Network::AddressesExhausted { .. } => Code::ResourceExhausted,
        Network::NotReady { .. } => Code::Unavailable,
        Network::Conf { .. } => Code::FailedPrecondition,
        _ => Code::Unknown,
    }
}

fn storage(error: &std::io::Error) -> Code {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            Code::ResourceExhausted
        }
        _ => Code::Internal,
    }
}

/// The status of a failed image operation. Kubelets look for `RegistryUnavailable` at the start of
/// the message to tell a registry that is down from an image that is not there.
pub fn of_image(error: &berth_images::Error) -> Status {
    let code = image_code(error);
    let text = chain(error);
    let message = match code {
        Code::Unavailable => format!("RegistryUnavailable: {text}"),
        _ => text,
    };
    tracing::info!(error = message, code = %code, "image request refused");
    Status::new(code, message)
}

fn image_code(error: &berth_images::Error) -> Code {
    use berth_images::ErrorKind as Kind;
    match error.kind() {
        Kind::NotFound => Code::NotFound,
        Kind::Invalid => Code::InvalidArgument,
        Kind::Unauthorized => Code::Unauthenticated,
        Kind::RegistryUnavailable => Code::Unavailable,
        Kind::DigestMismatch => Code::DataLoss,
        Kind::NoSpace => Code::ResourceExhausted,
        Kind::Cancelled => Code::Cancelled,
        Kind::Internal => Code::Internal,
    }
}

/// The end of a stream of events whose client did not keep up.
pub fn lagged(lagged: Lagged) -> Status {
    Status::resource_exhausted(format!(
        "more than {} events were waiting for this client: list the pods and subscribe again",
        lagged.queue
    ))
}

/// The status where no stream can be prepared.
pub fn of_streaming(error: berth_streaming::Error) -> Status {
    use berth_streaming::Error as Streaming;
    let code = match &error {
        Streaming::Invalid { .. } => Code::InvalidArgument,
        Streaming::TooManyPrepared { .. } => Code::ResourceExhausted,
        Streaming::Random(_) | Streaming::Listen { .. } => Code::Internal,
    };
    Status::new(code, chain(&error))
}

/// An argument that cannot be meant.
pub fn invalid(message: impl Into<String>) -> Status {
    Status::invalid_argument(message)
}
