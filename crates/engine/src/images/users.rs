//! Who keeps an image: this door's containers, at rest too, and all that the core runs.

use berth_lifecycle::record::ContainerState;
use berth_names::{ContainerId, Digest};
use berth_standalone::Phase;

use crate::Engine;

/// A container that an image is needed by.
#[derive(Debug, Clone)]
pub struct User {
    pub id: ContainerId,
    pub runs: bool,
}

/// The core knows a container of this door only between its start and its end, so both are asked.
pub fn users(engine: &Engine, image: &Digest) -> Vec<User> {
    let known = engine.containers.all();
    let known = known.iter().map(|one| one.view());
    let mut users: Vec<User> = known
        .filter(|record| record.image_id == *image)
        .map(|record| User {
            id: record.id.clone(),
            runs: matches!(
                record.phase,
                Phase::Running | Phase::Paused | Phase::Restarting
            ),
        })
        .collect();
    for container in engine.runtime.containers() {
        let record = container.view();
        let is_known = users.iter().any(|user| user.id == record.id);
        if record.uses(image) && !is_known {
            users.push(User {
                id: record.id.clone(),
                runs: record.state == ContainerState::Running,
            });
        }
    }
    users
}
