//! What containers tell, on the door's bus.

use berth_standalone::Event;

use crate::events::{Events, Kind};

pub fn pass_on(event: Event, bus: &Events) {
    let kind = match event.kind {
        "volume" => Kind::Volume,
        "network" => Kind::Network,
        _ => Kind::Container,
    };
    bus.publish(kind, event.action, event.id, event.attributes);
}
