//! Labels by which everything of a project is found again. They are those of `docker compose`, so
//! that either program works on what the other has made.

use serde_json::{Map, Value};

use berth_compose::{Project, Service};

pub const PROJECT: &str = "com.docker.compose.project";
pub const SERVICE: &str = "com.docker.compose.service";
pub const HASH: &str = "com.docker.compose.config-hash";
pub const NUMBER: &str = "com.docker.compose.container-number";
pub const ONE_OFF: &str = "com.docker.compose.oneoff";
pub const SLUG: &str = "com.docker.compose.slug";
pub const IMAGE: &str = "com.docker.compose.image";
pub const DEPENDS_ON: &str = "com.docker.compose.depends_on";
pub const DIRECTORY: &str = "com.docker.compose.project.working_dir";
pub const FILES: &str = "com.docker.compose.project.config_files";
const ENV_FILES: &str = "com.docker.compose.project.environment_file";
const VERSION: &str = "com.docker.compose.version";
const NETWORK: &str = "com.docker.compose.network";
const VOLUME: &str = "com.docker.compose.volume";
/// On an image: what made it. Of builders behind `POST /build` the stock client says `classic`.
pub const BUILDER: &str = "com.docker.compose.image.builder";
/// On a container that takes another's place, until it has its name.
pub const REPLACE: &str = "com.docker.compose.replace";

pub type Labels = Map<String, Value>;

fn put(labels: &mut Labels, key: &str, value: impl Into<String>) {
    labels.insert(key.to_owned(), Value::from(value.into()));
}

fn of_user(value: &Value) -> Labels {
    value["labels"].as_object().cloned().unwrap_or_default()
}

fn joined(paths: &[std::path::PathBuf]) -> String {
    let texts = paths.iter().map(|path| path.display().to_string());
    texts.collect::<Vec<_>>().join(",")
}

/// Of one of a service's containers. `image` is the image's id; a number is what those have that are
/// not made by `run`.
pub fn of_container(
    project: &Project,
    service: &Service,
    image: &str,
    number: Option<usize>,
) -> Labels {
    let mut labels = of_user(&service.value);
    put(&mut labels, PROJECT, &project.name);
    put(&mut labels, SERVICE, &service.name);
    put(&mut labels, VERSION, env!("CARGO_PKG_VERSION"));
    put(
        &mut labels,
        DIRECTORY,
        project.directory.display().to_string(),
    );
    put(&mut labels, FILES, joined(&project.files));
    if !project.env_files.is_empty() {
        put(&mut labels, ENV_FILES, joined(&project.env_files));
    }
    put(&mut labels, HASH, service.hash());
    put(&mut labels, IMAGE, image);
    let on: Vec<String> = service
        .dependencies()
        .iter()
        .map(|on| format!("{}:{}:{}", on.service, on.condition.word(), on.restart))
        .collect();
    put(&mut labels, DEPENDS_ON, on.join(","));
    put(
        &mut labels,
        ONE_OFF,
        if number.is_some() { "False" } else { "True" },
    );
    if let Some(number) = number {
        put(&mut labels, NUMBER, number.to_string());
    }
    labels
}

pub fn of_network(project: &Project, key: &str) -> Labels {
    let part = &project.networks[key];
    let mut labels = of_user(&part.value);
    put(&mut labels, PROJECT, &project.name);
    put(&mut labels, NETWORK, key);
    put(&mut labels, VERSION, env!("CARGO_PKG_VERSION"));
    put(&mut labels, HASH, part.network_hash());
    labels
}

pub fn of_volume(project: &Project, key: &str) -> Labels {
    let part = &project.volumes[key];
    let mut labels = of_user(&part.value);
    put(&mut labels, PROJECT, &project.name);
    put(&mut labels, VOLUME, key);
    put(&mut labels, VERSION, env!("CARGO_PKG_VERSION"));
    put(&mut labels, HASH, part.volume_hash());
    labels
}
