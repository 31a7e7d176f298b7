//! Compiles the contracts under `proto/` without needing a `protoc`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let proto = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let cri = proto.join("runtime/v1/api.proto");
    println!("cargo::rerun-if-changed={}", cri.display());
    let descriptors = protox::compile([&cri], [&proto])?;

    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .bytes(".runtime.v1.ExecSyncResponse")
        .extern_path(
            ".runtime.v1.ListContainersResponse",
            "crate::encoded::EncodedContainers",
        )
        .extern_path(
            ".runtime.v1.ListPodSandboxResponse",
            "crate::encoded::EncodedPods",
        )
        .compile_fds(descriptors)?;
    Ok(())
}
