//! `-info`: what containerd asks a runtime's shim before it makes containers with it.

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Error, Message};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};

/// The name by which containerd finds this program.
pub const RUNTIME: &str = "io.containerd.berth.v1";
/// containerd's name for the `features.md` document of the runtime-spec, in JSON.
const FEATURES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// The encoded answer.
pub fn info() -> Result<Vec<u8>, Error> {
    let mut version = RuntimeVersion::new();
    env!("CARGO_PKG_VERSION").clone_into(&mut version.version);
    let mut features = Any::new();
    FEATURES_TYPE.clone_into(&mut features.type_url);
    features.value = berth_executor::features().to_string().into_bytes();
    let mut info = RuntimeInfo::new();
    RUNTIME.clone_into(&mut info.name);
    info.version = Some(version).into();
    info.features = Some(features).into();
    info.write_to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_names_the_runtime_and_its_features_in_json() {
        let info = RuntimeInfo::parse_from_bytes(&info().unwrap()).unwrap();
        assert_eq!(info.name, RUNTIME);
        assert_eq!(info.version.version, env!("CARGO_PKG_VERSION"));
        let features: serde_json::Value = serde_json::from_slice(&info.features.value).unwrap();
        assert_eq!(
            features["linux"]["mountExtensions"]["idmap"]["enabled"],
            true
        );
    }
}
