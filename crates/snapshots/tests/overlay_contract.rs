//! The overlay snapshotter keeps the contract.

use std::path::Path;

use berth_snapshots::{Overlay, Snapshotter};

fn open(root: &Path) -> Box<dyn Snapshotter> {
    match Overlay::open(root) {
        Ok(overlay) => Box::new(overlay),
        Err(error) => panic!("the store does not open: {error}"),
    }
}

berth_snapshots::snapshotter_contract!(open);
