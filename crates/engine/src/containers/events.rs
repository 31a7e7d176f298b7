//! What containers tell, on the door's bus.

use std::sync::{Arc, Weak};

use berth_standalone::Event;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::Engine;
use crate::events::Kind;

pub async fn pass_on(mut told: Receiver<Arc<Event>>, engine: Weak<Engine>) {
    loop {
        let event = match told.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "events were not told");
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        let Some(engine) = engine.upgrade() else {
            return;
        };
        let kind = match event.kind {
            "volume" => Kind::Volume,
            "network" => Kind::Network,
            _ => Kind::Container,
        };
        let (action, id) = (event.action.clone(), event.id.clone());
        engine
            .events
            .publish_at(event.at, kind, action, id, event.attributes.clone());
    }
}
