//! Layers that want to reach what is outside their target.

use std::fs;

use berth_testkit::hostile;

use super::archive::*;
use super::canary::*;
use super::open_descriptors;
use berth_unpack::{Error, Options};

#[test]
fn no_layer_reaches_outside_its_target() {
    let Some(mut place) = Place::new() else {
        return;
    };
    let canary = Canary::new(&place);
    let before_all = open_descriptors();
    let cases = hostile::escapes::cases(canary.path.to_str().unwrap());
    assert!(cases.len() >= 200, "{} layers", cases.len());
    for (case, archive) in cases {
        let (target, outcome) = place.unpack(&archive, &Options::default());
        canary.check(&case);
        if let Err(error) = outcome {
            let told = matches!(error, Error::Refused { .. } | Error::Header { .. });
            assert!(told, "{case}: {error:?}");
        }
        fs::remove_dir_all(target).unwrap();
    }
    // Other tests of this process hold a few of their own.
    assert!(open_descriptors() < before_all + 100, "descriptors leak");
}
