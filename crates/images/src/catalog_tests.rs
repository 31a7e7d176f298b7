use std::time::SystemTime;

use berth_metadata::schema::LayerRecord;
use serde_json::json;

use super::*;

fn hash(text: &str) -> Digest {
    Digest::sha256_of(text.as_bytes())
}

fn record(layer: &str) -> ImageRecord {
    let digest = hash(layer);
    ImageRecord {
        manifest: hash("manifest"),
        blobs: vec![digest.clone()],
        layers: vec![LayerRecord {
            chain_id: ChainId::of(None, &digest),
            diff_id: digest.clone(),
            digest,
            size: 1,
        }],
        size: 1,
        config: json!({ "config": { "User": "u" } }),
        pulled_at: SystemTime::UNIX_EPOCH,
        pinned: false,
        artifact_type: None,
        attestations: Vec::new(),
    }
}

fn names(image: &str, target: &str, tag: &str) -> Vec<(String, ReferenceRecord)> {
    let reference = ReferenceRecord {
        image: hash(image),
        target: hash(target),
    };
    let repository = "docker.io/library/app";
    vec![
        (format!("{repository}@{}", hash(target)), reference.clone()),
        (format!("{repository}:{tag}"), reference),
    ]
}

fn two_images() -> Catalog {
    Catalog::default()
        .with(&hash("a"), record("l"), &names("a", "ta", "1"))
        .with(&hash("b"), record("l"), &names("b", "tb", "2"))
}

#[test]
fn an_image_is_found_by_every_one_of_its_names() {
    let catalog = two_images();
    let id = hash("a");
    let names = [
        "app:1".to_owned(),
        "docker.io/library/app:1".to_owned(),
        format!("app@{}", hash("ta")),
        format!("app:whatever@{}", hash("ta")),
        id.to_string(),
        id.hex().to_owned(),
        id.hex()[..12].to_owned(),
        format!("sha256:{}", &id.hex()[..12]),
    ];
    for name in &names {
        assert_eq!(
            catalog.get(name).map(|image| image.id.clone()),
            Some(id.clone()),
            "{name}"
        );
    }
    for name in [
        "",
        "app",
        "app:3",
        "sha256:",
        "other:1",
        "ffffffffffff",
        "UPPER",
        "../x",
    ] {
        assert_eq!(catalog.get(name), None, "{name}");
    }
    assert_eq!(catalog.get("app:1").unwrap().config.user(), "u");
}

#[test]
fn the_start_of_two_ids_names_neither() {
    let ids: Vec<_> = (0..40).map(|n| hash(&n.to_string())).collect();
    let catalog = ids
        .iter()
        .fold(Catalog::default(), |c, id| c.with(id, record("l"), &[]));
    let first = &ids[0].hex()[..1];
    let alone = ids.iter().filter(|id| id.hex().starts_with(first)).count() == 1;
    assert_eq!(catalog.find(first).is_some(), alone);
    assert_eq!(catalog.find(&ids[0].hex()[..20]), Some(ids[0].clone()));
}

#[test]
fn a_tag_that_moves_leaves_its_old_image_with_its_digest() {
    let catalog = two_images().with(&hash("c"), record("l"), &names("c", "tc", "1"));
    let old = catalog.get(hash("a").as_str()).unwrap();
    assert!(old.repo_tags.is_empty());
    assert_eq!(
        old.repo_digests,
        [format!("docker.io/library/app@{}", hash("ta"))]
    );
    assert_eq!(catalog.get("app:1").unwrap().id, hash("c"));
    assert_eq!(
        catalog.get("app:1").unwrap().repo_tags,
        ["docker.io/library/app:1"]
    );
}

#[test]
fn an_image_goes_with_all_its_names() {
    let more = two_images().with(&hash("a"), record("l"), &names("a", "ta", "other"));
    let (catalog, gone) = more.without(&hash("a"));
    assert_eq!(gone.len(), 3);
    assert_eq!(catalog.images().count(), 1);
    assert_eq!(catalog.get("app:other"), None);
}

#[test]
fn an_image_that_lost_a_layer_is_hidden_until_it_is_pulled_again() {
    let catalog = Catalog::load(
        vec![(hash("a"), record("here")), (hash("b"), record("lost"))],
        [
            names("a", "ta", "1"),
            names("b", "tb", "2"),
            names("c", "tc", "3"),
        ]
        .concat(),
        |layer| *layer.digest() == hash("here"),
    );
    assert_eq!(
        catalog.images().map(|image| &image.id).collect::<Vec<_>>(),
        [&hash("a")]
    );
    assert_eq!(catalog.get("app:2"), None);
    assert_eq!(
        catalog.find("app:2"),
        Some(hash("b")),
        "it can still be removed"
    );
    assert_eq!(catalog.find("app:3"), None, "a name without an image");
    assert_eq!(catalog.records().count(), 2, "what it still has is kept");
    let again = catalog.with(&hash("b"), record("here"), &names("b", "tb", "2"));
    assert_eq!(again.get("app:2").unwrap().repo_tags.len(), 1);
}
