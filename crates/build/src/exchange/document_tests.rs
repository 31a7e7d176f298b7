use serde_json::{Value, json};

use super::*;
use crate::exchange::trace::{PlannedLayer, PlannedRecord};

const MOMENT: &str = "2026-01-01T00:00:00.123456789Z";

fn digest(text: &str) -> Digest {
    Digest::sha256_of(text.as_bytes())
}

fn layer(text: &str) -> Layer {
    Layer {
        blob: digest(&format!("blob of {text}")),
        size: 7,
        diff_id: digest(&format!("archive of {text}")),
    }
}

/// Three steps, of which the first and the last make layers.
fn plan() -> Plan {
    let record = |key: &str, parent, layer| PlannedRecord {
        key: digest(key),
        parent,
        created: Some(MOMENT.to_owned()),
        layer,
    };
    let planned = |image: &str, parent| PlannedLayer {
        image: digest(image),
        parent,
        created: MOMENT.to_owned(),
    };
    Plan {
        records: vec![
            record("a", None, Some(0)),
            record("b", Some(0), None),
            record("c", Some(1), Some(1)),
        ],
        layers: vec![planned("x", None), planned("y", Some(0))],
    }
}

fn document() -> Value {
    let written = ["x", "y"].map(|name| Written {
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
        layer: layer(name),
    });
    serde_json::from_slice(&write(&plan(), &written)).unwrap()
}

fn offered() -> HashMap<Digest, u64> {
    ["x", "y"].map(|name| (layer(name).blob, 7)).into()
}

fn taken(document: &Value) -> Result<HashMap<Digest, Step>> {
    read(document.to_string().as_bytes(), &offered())
}

fn step(layer: Option<Layer>) -> Step {
    Step {
        created: MOMENT.to_owned(),
        layer,
    }
}

#[test]
fn a_document_is_read_back_as_it_was_written() {
    let expected = HashMap::from([
        (digest("a"), step(Some(layer("x")))),
        (digest("b"), step(None)),
        (digest("c"), step(Some(layer("y")))),
    ]);
    assert_eq!(taken(&document()).unwrap(), expected);
    let inline = write_inline(&plan(), |layer| Some(layer + 1));
    let layers = ["base", "x", "y"].map(layer);
    assert_eq!(read_inline(&inline, &layers).unwrap(), expected);
}

#[test]
fn the_form_is_buildkit_s() {
    let document = document();
    assert_eq!(document["layers"][0]["parent"], -1);
    assert_eq!(document["layers"][1]["parent"], 0);
    assert_eq!(
        document["layers"][1]["annotations"]["diffID"],
        layer("y").diff_id.to_string()
    );
    assert_eq!(document["layers"][1]["annotations"]["size"], 7);
    let record = &document["records"][2];
    assert_eq!(record["inputs"], json!([[{ "link": 1 }]]));
    assert_eq!(record["layers"][0]["layer"], 1);
    assert_eq!(record["layers"][0]["createdAt"], MOMENT);
}

#[test]
fn what_others_write_is_read_and_what_is_not_theirs_is_left_out() {
    // Without fields that are zero or empty, with selectors, and several layers in a chain.
    let document = json!({
        "layers": [
            { "blob": layer("x").blob, "parent": -1,
              "annotations": { "mediaType": "t", "diffID": layer("x").diff_id, "size": 7 } },
            { "blob": layer("y").blob,
              "annotations": { "mediaType": "t", "diffID": layer("y").diff_id, "size": 7 } },
        ],
        "records": [
            { "digest": digest("source") },
            { "digest": digest("copy"), "inputs": [[{ "link": 0, "selector": "sha256:x" }], []],
              "layers": [{ "layer": 1, "createdAt": MOMENT }] },
            { "digest": digest("two"), "inputs": [[{ "link": 1 }]],
              "chains": [{ "layers": [0, 1], "createdAt": MOMENT }] },
        ],
    });
    let expected = HashMap::from([(digest("copy"), step(Some(layer("y"))))]);
    assert_eq!(taken(&document).unwrap(), expected);
}

#[test]
fn documents_that_contradict_themselves_are_refused() {
    let cases: [(&str, &str, Value); 13] = [
        ("a layer on itself", "/layers/0/parent", json!(0)),
        ("layers on each other", "/layers/0/parent", json!(1)),
        ("a layer on none", "/layers/1/parent", json!(2)),
        ("a layer far below", "/layers/1/parent", json!(-2)),
        ("a number that is none", "/layers/1/parent", json!(1e300)),
        (
            "a record after itself",
            "/records/0/inputs",
            json!([[{ "link": 0 }]]),
        ),
        (
            "records after each other",
            "/records/0/inputs",
            json!([[{ "link": 2 }]]),
        ),
        (
            "a record after none",
            "/records/1/inputs/0/0/link",
            json!(9),
        ),
        (
            "a record before the first",
            "/records/1/inputs/0/0/link",
            json!(-1),
        ),
        (
            "a layer that is not there",
            "/records/0/layers/0/layer",
            json!(2),
        ),
        ("a chain of none", "/records/1/chains/0/layers", json!([7])),
        (
            "a key that is none",
            "/records/0/digest",
            json!("sha256:../x"),
        ),
        ("records of another kind", "/records", json!("none")),
    ];
    for (what, place, value) in cases {
        let mut document = document();
        match document.pointer_mut(place) {
            Some(found) => *found = value,
            None => document["records"][0]["inputs"] = value,
        }
        assert!(taken(&document).is_err(), "{what}: {document}");
    }
    for text in ["", "{", "\"x\"", "null"] {
        assert!(read(text.as_bytes(), &offered()).is_err(), "{text}");
    }
    let deep = format!(
        "{{\"records\":{}{}}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(read(deep.as_bytes(), &offered()).is_err());
    let long = format!("{{}}{}", " ".repeat(LARGEST as usize));
    assert!(read(long.as_bytes(), &offered()).is_err());
}

#[test]
fn a_step_whose_layer_is_not_offered_as_it_says_is_left_out() {
    let cases: [(&str, &str, Value); 7] = [
        (
            "a blob that is not there",
            "/layers/0/blob",
            json!(digest("none")),
        ),
        ("another size", "/layers/0/annotations/size", json!(8)),
        ("no digest", "/layers/0/blob", json!("sha256:x")),
        (
            "another kind of digest",
            "/layers/0/annotations/diffID",
            json!(format!("sha512:{}", "0".repeat(128))),
        ),
        (
            "an archive without a digest",
            "/layers/0/annotations/diffID",
            json!(""),
        ),
        ("nothing of the layer", "/layers/0/annotations", json!(null)),
        (
            "no moment",
            "/records/0/layers/0/createdAt",
            json!("\n\"},evil"),
        ),
    ];
    for (what, place, value) in cases {
        let mut document = document();
        *document.pointer_mut(place).unwrap() = value;
        let steps = taken(&document).unwrap();
        assert!(!steps.contains_key(&digest("a")), "{what}");
        assert!(steps.contains_key(&digest("c")), "{what}");
    }
}

#[test]
fn counts_have_limits_and_long_chains_take_no_stack() {
    let long: Vec<Value> = (0..MOST_LAYERS)
        .map(|number| json!({ "blob": "", "parent": i64::try_from(number).unwrap() - 1 }))
        .collect();
    assert_eq!(taken(&json!({ "layers": long })).unwrap(), HashMap::new());
    let many: Vec<Value> = vec![json!({ "parent": -1 }); MOST_LAYERS + 1];
    assert!(taken(&json!({ "layers": many })).is_err());
    let records: Vec<Value> = (0..MOST_RECORDS)
        .map(|number| match number {
            0 => json!({ "digest": digest("0") }),
            number => json!({ "digest": digest("n"), "inputs": [[{ "link": number - 1 }]] }),
        })
        .collect();
    assert_eq!(
        taken(&json!({ "records": records })).unwrap(),
        HashMap::new()
    );
    let many: Vec<Value> = vec![json!({ "digest": digest("n") }); MOST_RECORDS + 1];
    assert!(taken(&json!({ "records": many })).is_err());
}
