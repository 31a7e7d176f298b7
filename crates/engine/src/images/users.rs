//! Who keeps an image: this door's containers, at rest too, and all that the core runs.

use std::collections::BTreeMap;

use berth_lifecycle::record::ContainerState;
use berth_names::{ContainerId, Digest};
use berth_standalone::Phase;

use crate::Engine;

/// The containers that there were at one moment, and the images that each needs.
pub struct Users(BTreeMap<ContainerId, User>);

struct User {
    images: Vec<Digest>,
    runs: bool,
}

impl Users {
    /// The core knows a container of this door only between its start and its end, so both are
    /// asked.
    pub fn now(engine: &Engine) -> Self {
        let mut all = BTreeMap::new();
        for container in engine.runtime.containers() {
            let record = container.view();
            let user = User {
                images: record.images().collect(),
                runs: record.state == ContainerState::Running,
            };
            all.insert(record.id.clone(), user);
        }
        for container in engine.containers.all() {
            let record = container.view();
            let user = all.entry(record.id.clone()).or_insert_with(|| User {
                images: Vec::new(),
                runs: false,
            });
            user.images.push(record.image_id.clone());
            user.runs = matches!(
                record.phase,
                Phase::Running | Phase::Paused | Phase::Restarting
            );
        }
        Self(all)
    }

    /// Containers that need `image`, and whether they run.
    pub fn of(&self, image: &Digest) -> impl Iterator<Item = (&ContainerId, bool)> {
        let needs = |user: &User| user.images.contains(image);
        let users = self.0.iter().filter(move |(_, user)| needs(user));
        users.map(|(id, user)| (id, user.runs))
    }
}
