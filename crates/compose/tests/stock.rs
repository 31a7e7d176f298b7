//! What the stock client makes of a file, and what is made of it here: `docker compose config
//! --hash '*'` of version 2.40.3 wrote `stock/hashes.txt`, with the project at `/srv/harbour`.
//! (That command leaves `env_file` alone, which `up` does not.)

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use berth_compose::{Options, Project};

fn place() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stock")
}

fn project() -> Project {
    let options = Options {
        files: vec![place().join("compose.yaml")],
        project_directory: Some("/srv/harbour".into()),
        project_name: Some("harbour".to_owned()),
        profiles: vec!["full".to_owned()],
        environment: [("FROM_SHELL".to_owned(), "shell".to_owned())].into(),
        current_directory: "/".into(),
        ..Options::default()
    };
    Project::load(&options).unwrap()
}

#[test]
fn hashes_of_services_are_those_of_the_stock_client() {
    let project = project();
    let expected = fs::read_to_string(place().join("hashes.txt")).unwrap();
    let found: Vec<String> = project
        .services
        .iter()
        .map(|(name, service)| format!("{name} {}", service.hash()))
        .collect();
    assert_eq!(found, expected.lines().collect::<Vec<_>>());
}

#[test]
fn what_is_written_down_is_the_same_project() {
    let whole = berth_compose::show::yaml(&project().value());
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    fs::write(file.path(), whole).unwrap();
    let options = Options {
        files: vec![file.path().to_owned()],
        profiles: vec!["full".to_owned()],
        current_directory: "/".into(),
        ..Options::default()
    };
    let again = Project::load(&options).unwrap();
    assert_eq!(again.value(), project().value());
    for (name, service) in &project().services {
        assert_eq!(again.services[name].hash(), service.hash(), "{name}");
    }
}
