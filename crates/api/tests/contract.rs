//! The contract in `proto/` is the published one, field by field.

#![allow(clippy::expect_used)] // a test may stop at what it cannot use

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

/// Go module of this repository that pins the published contract.
const PIN: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../integration/tools/cri-api"
);

/// What counts on the wire, by full name; comments, order and language options
/// are left out.
type Facts = BTreeMap<String, String>;

fn facts(file: &FileDescriptorProto) -> Facts {
    let mut facts = Facts::new();
    facts.insert("syntax".into(), file.syntax().into());
    facts.insert("package".into(), file.package().into());
    for service in &file.service {
        facts.insert(format!("service {}", service.name()), String::new());
        for method in &service.method {
            let key = format!("rpc {}.{}", service.name(), method.name());
            let value = format!(
                "({}{}) returns ({}{}) {:?}",
                if method.client_streaming() {
                    "stream "
                } else {
                    ""
                },
                method.input_type(),
                if method.server_streaming() {
                    "stream "
                } else {
                    ""
                },
                method.output_type(),
                method.options.clone().unwrap_or_default(),
            );
            facts.insert(key, value);
        }
    }
    for message in &file.message_type {
        message_facts(file.package(), message, &mut facts);
    }
    for enumeration in &file.enum_type {
        enum_facts(file.package(), enumeration, &mut facts);
    }
    facts
}

fn message_facts(scope: &str, message: &DescriptorProto, facts: &mut Facts) {
    let name = format!("{scope}.{}", message.name());
    let about = format!(
        "{:?} reserved {:?} {:?}",
        message.options.clone().unwrap_or_default(),
        message.reserved_range,
        message.reserved_name
    );
    facts.insert(format!("message {name}"), about);
    for field in &message.field {
        let oneof = field
            .oneof_index
            .and_then(|index| message.oneof_decl.get(usize::try_from(index).ok()?))
            .map(|oneof| oneof.name().to_owned());
        let value = format!(
            "tag {} {:?} {:?} {} json {} optional {} oneof {oneof:?} {:?}",
            field.number(),
            field.label(),
            field.r#type(),
            field.type_name(),
            field.json_name(),
            field.proto3_optional(),
            field.options.clone().unwrap_or_default(),
        );
        facts.insert(format!("field {name}.{}", field.name()), value);
    }
    for nested in &message.nested_type {
        message_facts(&name, nested, facts);
    }
    for enumeration in &message.enum_type {
        enum_facts(&name, enumeration, facts);
    }
}

fn enum_facts(scope: &str, enumeration: &EnumDescriptorProto, facts: &mut Facts) {
    let name = format!("{scope}.{}", enumeration.name());
    let options = enumeration.options.clone().unwrap_or_default();
    facts.insert(format!("enum {name}"), format!("{options:?}"));
    for value in &enumeration.value {
        let about = format!(
            "{} {:?}",
            value.number(),
            value.options.clone().unwrap_or_default()
        );
        facts.insert(format!("value {name}.{}", value.name()), about);
    }
}

fn differences(ours: &Facts, published: &Facts) -> Vec<String> {
    let missing = published
        .iter()
        .filter_map(|(key, theirs)| match ours.get(key) {
            None => Some(format!("missing: {key}: {theirs}")),
            Some(value) if value != theirs => Some(format!(
                "differs: {key}:\n  ours      {value}\n  published {theirs}"
            )),
            Some(_) => None,
        });
    let added = ours
        .iter()
        .filter(|(key, _)| !published.contains_key(*key))
        .map(|(key, value)| format!("not published: {key}: {value}"));
    missing.chain(added).collect()
}

/// Where Go keeps the pinned module, fetching it if need be.
fn published_module() -> Result<PathBuf, String> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", "k8s.io/cri-api"])
        .current_dir(PIN)
        .output()
        .map_err(|error| format!("go does not run: {error}"))?;
    let answer = String::from_utf8_lossy(&output.stdout);
    answer
        .lines()
        .find_map(|line| line.trim().strip_prefix("\"Dir\": \"")?.strip_suffix("\","))
        .map(PathBuf::from)
        .ok_or_else(|| {
            let reason = String::from_utf8_lossy(&output.stderr);
            format!("k8s.io/cri-api is neither cached nor served: {answer} {reason}")
        })
}

fn our_file() -> FileDescriptorProto {
    let set = FileDescriptorSet::decode(berth_api::FILE_DESCRIPTOR_SET).expect("our descriptors");
    set.file
        .into_iter()
        .find(|file| file.package() == "runtime.v1")
        .expect("package runtime.v1")
}

#[test]
fn contract_equals_the_published_one() {
    let module = match published_module() {
        Ok(module) => module,
        Err(reason) => {
            eprintln!("skipped: needs the published contract: {reason}");
            return;
        }
    };
    let include = module.join("pkg/apis/runtime/v1");
    let set = protox::compile([include.join("api.proto")], [Path::new(&include)])
        .expect("the published contract compiles");
    let published = set.file.last().expect("one file");

    let found = differences(&facts(&our_file()), &facts(published));
    assert!(
        found.is_empty(),
        "{} differences:\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
fn every_call_of_the_contract_is_there() {
    let count = |name: &str| {
        let file = our_file();
        file.service
            .iter()
            .find(|service| service.name() == name)
            .map(|found| found.method.len())
    };
    assert_eq!(count("RuntimeService"), Some(35));
    assert_eq!(count("ImageService"), Some(6));
}

#[test]
fn comparison_sees_differences_on_both_sides() {
    let published = facts(&our_file());

    let mut changed = our_file();
    changed.message_type[0].field[0].number = Some(99);
    changed
        .message_type
        .truncate(changed.message_type.len() - 1);
    changed.service[0].method[0].server_streaming = Some(true);
    let mut own = changed.enum_type[0].value[0].clone();
    own.name = Some("OURS_ALONE".into());
    changed.enum_type[0].value.push(own);

    let found = differences(&facts(&changed), &published).join("\n");
    for expected in [
        "differs: field",
        "differs: rpc",
        "missing: message",
        "not published: value",
        "OURS_ALONE",
    ] {
        assert!(found.contains(expected), "{expected} in {found}");
    }
}
