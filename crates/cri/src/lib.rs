//! The CRI door: gRPC in, the core's own terms out, and back.
//!
//! Translation is in `ask` (requests) and `tell` (answers), statistics in `usage` (of many at once in `samples`); a gRPC status is
//! decided in `status` and nowhere else. Every RPC of the contract is registered; one that is not
//! built answers `UNIMPLEMENTED` with its name.

mod ask;
mod enums;
mod filter;
mod image_service;
mod metrics;
mod remote;
mod runtime_service;
mod samples;
mod status;
mod streams;
mod tell;
mod usage;

use std::path::PathBuf;
use std::sync::Arc;

use berth_api::cri::v1::image_service_server::ImageServiceServer;
use berth_api::cri::v1::runtime_service_server::RuntimeServiceServer;
use berth_images::Images;
use berth_lifecycle::Runtime;
use berth_network::Network;
use berth_streaming::Urls;

pub use image_service::ImageDoor;
pub use remote::Door as StreamDoor;
pub use runtime_service::RuntimeDoor;

/// Largest message taken or given, in bytes: the limit that kubelets use.
const MAX_MESSAGE: usize = 16 << 20;

/// What the door shows of the daemon behind it.
#[derive(Debug, Clone)]
pub struct Facts {
    pub version: String,
    /// The daemon's configuration, as verbose status shows it.
    pub config: serde_json::Value,
    /// Relative localhost seccomp profiles are found below this.
    pub seccomp_dir: PathBuf,
    pub image_dir: PathBuf,
    pub snapshot_dir: PathBuf,
    /// Where the file system of the snapshots is mounted.
    pub snapshot_mount: PathBuf,
}

/// The two services, ready for a server.
pub fn services(
    runtime: Runtime,
    images: Arc<Images>,
    network: Network,
    urls: Urls,
    facts: Facts,
) -> (
    RuntimeServiceServer<RuntimeDoor>,
    ImageServiceServer<ImageDoor>,
) {
    let facts = Arc::new(facts);
    let runtime_door = RuntimeDoor::new(
        runtime.clone(),
        Arc::clone(&images),
        network,
        urls,
        Arc::clone(&facts),
    );
    let image_door = ImageDoor::new(runtime, images, facts);
    (
        RuntimeServiceServer::new(runtime_door)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE),
        ImageServiceServer::new(image_door)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE),
    )
}
