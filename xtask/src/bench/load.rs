//! The images that are pulled and run.

use std::path::Path;

use anyhow::Result;
use berth_api::cri::v1::{ContainerConfig, NamespaceMode, NamespaceOption, PodSandboxConfig};
use berth_testkit::image::{Layer, Recipe};

use crate::cri;
use crate::registry::Registry;
use crate::suites::fixtures::{busybox, marker, pack};

const LAYERS: usize = 3;
const FILES: usize = 200;
const FILE_SIZE: usize = 64 << 10;

/// References at the registry.
pub struct Images {
    /// Small, with a shell: what the pods run.
    pub busybox: String,
    /// Three layers of 12.5 MiB in 200 files each, half of it incompressible.
    pub large: String,
}

/// Only the one that the pods run; answers with its reference.
pub fn publish_small(registry: &Registry) -> Result<String> {
    let base = pack(&busybox()?)?;
    let small = Recipe::new()
        .layer(base)
        .layer(marker("bench")?)
        .env(&["PATH=/usr/bin:/bin"])
        .build()?;
    registry.remote().push(&small, "bench/busybox", &["one"])?;
    Ok(reference(registry, "busybox"))
}

fn reference(registry: &Registry, name: &str) -> String {
    format!("{}/bench/{name}:one", registry.address())
}

pub fn publish(registry: &Registry) -> Result<Images> {
    println!("making the images");
    let busybox = publish_small(registry)?;
    let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
    let mut large = Recipe::new().cmd(&["/none"]);
    for number in 0..LAYERS {
        let mut layer = Layer::new();
        for file in 0..FILES {
            let path = format!("/data/{number}/{}/file-{file}", file % 10);
            layer = layer.file(&path, 0o644, noise.half(FILE_SIZE));
        }
        large = large.layer(pack(&layer)?);
    }
    registry
        .remote()
        .push(&large.build()?, "bench/large", &["one"])?;
    Ok(Images {
        busybox,
        large: reference(registry, "large"),
    })
}

/// A pod and its container as a kubelet asks for them when the pod says nothing of namespaces.
pub fn requests(
    name: &str,
    image: &str,
    logs: &Path,
    network: NamespaceMode,
) -> (PodSandboxConfig, ContainerConfig) {
    let namespaces = NamespaceOption {
        network: network as i32,
        pid: NamespaceMode::Container as i32,
        ipc: NamespaceMode::Pod as i32,
        ..Default::default()
    };
    let mut pod = cri::pod(name, "", logs);
    if network == NamespaceMode::Node {
        // The host has its name.
        pod.hostname.clear();
    }
    if let Some(linux) = &mut pod.linux {
        let security = linux.security_context.get_or_insert_default();
        security.namespace_options = Some(namespaces.clone());
    }
    let mut container = cri::container("main", image, &["sleep", "1000"]);
    if let Some(linux) = &mut container.linux {
        let security = linux.security_context.get_or_insert_default();
        security.namespace_options = Some(namespaces);
    }
    (pod, container)
}

/// The same bytes in every run.
struct Noise(u64);

impl Noise {
    /// Random and constant bytes in turns of eight.
    fn half(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend_from_slice(&self.0.to_le_bytes());
            bytes.extend_from_slice(b"constant");
        }
        bytes
    }
}
