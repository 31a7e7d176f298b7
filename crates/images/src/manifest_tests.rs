use serde_json::{Value, json};

use super::*;
use crate::ErrorKind;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn hash(text: &str) -> Digest {
    Digest::sha256_of(text.as_bytes())
}

fn host() -> Platform {
    Platform {
        os: "linux".into(),
        architecture: "amd64".into(),
        variant: String::new(),
    }
}

fn pointer(media_type: &str, text: &str, size: u64) -> Value {
    json!({ "mediaType": media_type, "digest": hash(text), "size": size })
}

fn sample() -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": pointer(CONFIG_TYPES[0], "config", 100),
        "layers": [pointer(LAYER, "one", 10), pointer(LAYER, "two", 20)],
    })
}

fn read(document: &Value) -> Result<Manifest> {
    manifest(&hash("m"), OCI_MANIFEST, document.to_string().as_bytes())
}

/// Sets the value at a JSON pointer, or removes it.
fn with(mut document: Value, at: &str, value: Option<Value>) -> Value {
    let (parent, name) = at.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).unwrap();
    match (parent, value) {
        (Value::Object(fields), Some(value)) => drop(fields.insert(name.to_owned(), value)),
        (Value::Object(fields), None) => drop(fields.remove(name)),
        (Value::Array(items), Some(value)) => items[name.parse::<usize>().unwrap()] = value,
        other => panic!("{at}: {other:?}"),
    }
    document
}

#[test]
fn manifests_of_both_families_are_read() {
    assert_eq!(read(&sample()).unwrap().layers.len(), 2);
    let docker = json!({
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": pointer(CONFIG_TYPES[1], "config", 100),
        "layers": [pointer("application/vnd.docker.image.rootfs.diff.tar.gzip", "one", 10)],
    });
    let read = manifest(&hash("m"), DOCKER_MANIFEST, docker.to_string().as_bytes()).unwrap();
    assert_eq!(read.config.digest, hash("config"));
    let untyped = with(sample(), "/mediaType", None);
    assert!(super::manifest(&hash("m"), OCI_MANIFEST, untyped.to_string().as_bytes()).is_ok());
}

#[test]
fn mutated_manifests_are_refused_by_the_field_that_is_wrong() {
    let many: Vec<_> = (0..501)
        .map(|n| pointer(LAYER, &n.to_string(), 1))
        .collect();
    let cases = [
        ("/schemaVersion", Some(json!(1)), "schemaVersion"),
        ("/schemaVersion", None, "schemaVersion"),
        ("/schemaVersion", Some(json!("2")), "JSON"),
        ("/mediaType", Some(json!(OCI_INDEX)), "mediaType"),
        ("/mediaType", Some(json!(DOCKER_MANIFEST)), "mediaType"),
        ("/manifests", Some(json!([])), "manifests"),
        ("/fsLayers", Some(json!([])), "schemaVersion"),
        ("/config", None, "config"),
        ("/config", Some(json!([])), "JSON"),
        (
            "/config/digest",
            Some(json!("sha256:../../x")),
            "config.digest",
        ),
        ("/config/digest", Some(json!("md5:abc")), "config.digest"),
        ("/config/size", Some(json!(-1)), "JSON"),
        ("/config/size", Some(json!(MAX_CONFIG + 1)), "config.size"),
        (
            "/config/mediaType",
            Some(json!("application/vnd.example")),
            "config.mediaType",
        ),
        ("/config/mediaType", None, "config.mediaType"),
        ("/layers", None, "layers"),
        ("/layers", Some(json!({})), "JSON"),
        ("/layers", Some(json!(many)), "layers"),
        ("/layers/1/digest", Some(json!("")), "layers[1].digest"),
        ("/layers/1/size", Some(json!(u64::MAX)), "layers[1].size"),
        ("/layers/1/size", Some(json!(1e30)), "JSON"),
        (
            "/layers/0/mediaType",
            Some(json!("text/html")),
            "layers[0].mediaType",
        ),
        (
            "/layers/0/mediaType",
            Some(json!(format!("{LAYER}+encrypted"))),
            "layers[0].mediaType",
        ),
        ("/layers/0", Some(json!(null)), "JSON"),
    ];
    for (at, value, expected) in cases {
        match read(&with(sample(), at, value)) {
            Err(Error::Invalid { field, .. }) => assert_eq!(field, expected, "{at}"),
            other => panic!("{at}: {other:?}"),
        }
    }
    let twice = sample()
        .to_string()
        .replacen('{', "{\"schemaVersion\":2,", 1);
    assert!(
        manifest(&hash("m"), OCI_MANIFEST, twice.as_bytes()).is_err(),
        "a field given twice"
    );
    assert!(manifest(&hash("m"), OCI_MANIFEST, b"").is_err());
    assert!(
        manifest(&hash("m"), OCI_MANIFEST, &vec![b'['; 1 << 20]).is_err(),
        "deep nesting"
    );
}

fn index(platforms: &[(&str, &str)]) -> Value {
    let manifests: Vec<_> = platforms
        .iter()
        .map(|(name, platform)| {
            let mut parts = platform.split('/');
            let mut entry = pointer(OCI_MANIFEST, name, 1);
            if !platform.is_empty() {
                entry["platform"] = json!({
                    "os": parts.next(), "architecture": parts.next(),
                    "variant": parts.next().unwrap_or(""),
                });
            }
            entry
        })
        .collect();
    json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests })
}

fn chosen(document: &Value) -> Result<Digest> {
    choose(
        "ref",
        &hash("i"),
        OCI_INDEX,
        document.to_string().as_bytes(),
        &host(),
    )
    .map(|descriptor| descriptor.digest)
}

#[test]
fn the_platforms_own_manifest_is_chosen() {
    let cases: [(&[(&str, &str)], &str); 6] = [
        (&[("arm", "linux/arm64"), ("amd", "linux/amd64")], "amd"),
        (
            &[("v1", "linux/amd64/v1"), ("plain", "linux/amd64")],
            "plain",
        ),
        (
            &[("first", "linux/amd64"), ("second", "linux/amd64")],
            "first",
        ),
        (
            &[("attestation", "unknown/unknown"), ("amd", "linux/amd64")],
            "amd",
        ),
        (&[("silent", ""), ("amd", "linux/amd64")], "amd"),
        (&[("arm", "linux/arm64"), ("silent", "")], "silent"),
    ];
    for (platforms, expected) in cases {
        assert_eq!(
            chosen(&index(platforms)).unwrap(),
            hash(expected),
            "{platforms:?}"
        );
    }
}

#[test]
fn an_index_without_this_platform_says_what_it_has() {
    let attested = {
        let mut document = index(&[("a", "linux/amd64"), ("b", "linux/s390x")]);
        document["manifests"][0]["annotations"] =
            json!({ "vnd.docker.reference.type": "attestation-manifest" });
        document
    };
    for document in [
        index(&[("b", "linux/s390x"), ("w", "windows/amd64")]),
        attested,
    ] {
        let error = chosen(&document).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("linux/s390x"), "{error}");
    }
    assert_eq!(chosen(&index(&[])).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn mutated_indexes_are_refused() {
    let sample = index(&[("amd", "linux/amd64")]);
    let cases = [
        ("/layers", Some(json!([])), "layers"),
        ("/config", Some(pointer(CONFIG_TYPES[0], "c", 1)), "layers"),
        ("/manifests", None, "manifests"),
        ("/mediaType", Some(json!(OCI_MANIFEST)), "mediaType"),
        (
            "/manifests/0/digest",
            Some(json!("sha256:1")),
            "manifests[0].digest",
        ),
    ];
    for (at, value, expected) in cases {
        match chosen(&with(sample.clone(), at, value)) {
            Err(Error::Invalid { field, .. }) => assert_eq!(field, expected, "{at}"),
            other => panic!("{at}: {other:?}"),
        }
    }
}

#[test]
fn a_config_must_fit_its_manifest_and_this_machine() {
    let manifest = read(&sample()).unwrap();
    let good = json!({
        "os": "linux", "architecture": "amd64",
        "config": { "Env": ["A=b"], "Entrypoint": null, "Labels": null, "User": "7" },
        "rootfs": { "type": "layers", "diff_ids": [hash("d1"), hash("d2")] },
    });
    let read = |document: &Value| {
        plan(
            "ref",
            &manifest,
            document.to_string().as_bytes(),
            Some(&host()),
        )
    };
    let (config, layers) = read(&good).unwrap();
    assert_eq!(
        (config.user(), config.env()),
        ("7", &["A=b".to_owned()][..])
    );
    assert_eq!(layers[0].parent, None);
    assert_eq!(layers[1].parent.as_ref(), Some(&layers[0].chain_id));
    assert_eq!(
        layers[1].chain_id,
        ChainId::stack([&hash("d1"), &hash("d2")])[1]
    );

    let cases = [
        ("/rootfs", None, ErrorKind::Invalid),
        ("/rootfs/type", Some(json!("chunks")), ErrorKind::Invalid),
        (
            "/rootfs/diff_ids",
            Some(json!([hash("d1")])),
            ErrorKind::Invalid,
        ),
        (
            "/rootfs/diff_ids/0",
            Some(json!("sha256:..")),
            ErrorKind::Invalid,
        ),
        ("/config/Env", Some(json!("A=b")), ErrorKind::Invalid),
        ("/config/User", Some(json!(7)), ErrorKind::Invalid),
        ("/os", Some(json!("windows")), ErrorKind::NotFound),
        ("/architecture", Some(json!("s390x")), ErrorKind::NotFound),
    ];
    for (at, value, expected) in cases {
        let error = read(&with(good.clone(), at, value)).unwrap_err();
        assert_eq!(error.kind(), expected, "{at}: {error}");
    }
}

/// Manifests, indexes and configs from honest ones, by chance.
#[test]
fn whatever_is_taken_for_a_document_keeps_to_the_limits() {
    use berth_testkit::mutate::Mutants;
    const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/document");
    let index = json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [{ "mediaType": OCI_MANIFEST, "size": 5, "digest": hash("x"),
            "annotations": { "a": "b" },
            "platform": { "os": "linux", "architecture": "amd64", "variant": "v2" } }],
    });
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "2020-01-01T00:00:00Z",
        "config": { "User": "7:8", "Env": ["A=b"], "Cmd": ["x"], "Volumes": { "/v": {} },
            "ExposedPorts": { "80/tcp": {} }, "Healthcheck": { "Test": ["CMD"], "Interval": 1 } },
        "rootfs": { "type": "layers", "diff_ids": [hash("one"), hash("two")] },
    });
    let documents = [sample(), index, config].map(|document| document.to_string());
    let known = read(&sample()).unwrap();
    Mutants::of(CORPUS)
        .and(documents)
        .words(&[
            "\"manifests\":[]",
            "null",
            "{}",
            "[[[[",
            "\"mediaType\":",
            OCI_INDEX,
            "\\u0000",
        ])
        .show(|input| {
            let digest = Digest::sha256_of(input);
            if let Ok(manifest) = manifest(&digest, OCI_MANIFEST, input) {
                let total: u64 = manifest.layers.iter().map(|layer| layer.size).sum();
                assert!(total <= MAX_LAYER && manifest.layers.len() <= MAX_LAYERS);
                assert!(manifest.config.size <= MAX_CONFIG);
            }
            if let Ok(chosen) = choose("ref", &digest, OCI_INDEX, input, &host()) {
                assert!(chosen.size <= MAX_LAYER);
            }
            if let Ok((_, plans)) = plan("ref", &known, input, Some(&host())) {
                assert_eq!(plans.len(), known.layers.len());
            }
            let _read_or_refused = crate::artifact::read(&digest, OCI_MANIFEST, input);
        });
}
