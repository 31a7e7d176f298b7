//! What happens at this door, in one order for all who listen.

mod endpoint;
mod selection;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::broadcast;

pub use endpoint::routes;

/// Past events that `since` can ask for.
const KEPT: usize = 256;
/// Events that wait for one slow listener.
const QUEUE: usize = 1024;

/// What something happened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Container,
    Daemon,
    Image,
    Network,
    Volume,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Daemon => "daemon",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Actor {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "Attributes")]
    pub attributes: BTreeMap<String, String>,
}

/// One event as clients get it.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// This and the next two repeat what comes later, for old clients; only of containers and
    /// images.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(rename = "Type")]
    pub kind: Kind,
    #[serde(rename = "Action")]
    pub action: String,
    #[serde(rename = "Actor")]
    pub actor: Actor,
    scope: &'static str,
    /// Seconds, and nanoseconds, since the Unix epoch.
    time: i64,
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// The bus. Stamping and telling happen under one lock: times strictly increase and everyone sees
/// the same order.
pub struct Events {
    past: Mutex<Past>,
    sender: broadcast::Sender<Arc<Event>>,
}

#[derive(Default)]
struct Past {
    events: VecDeque<Arc<Event>>,
    last: i64,
}

/// What one listener gets: some of the past, then what comes.
pub struct Subscription {
    pub past: Vec<Arc<Event>>,
    pub coming: broadcast::Receiver<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            past: Mutex::default(),
            sender: broadcast::channel(QUEUE).0,
        }
    }
}

impl Events {
    /// Tells that `action` happened to `id`. Returns the event's time in nanoseconds.
    pub fn publish(
        &self,
        kind: Kind,
        action: impl Into<String>,
        id: impl Into<String>,
        attributes: BTreeMap<String, String>,
    ) -> i64 {
        let (action, id) = (action.into(), id.into());
        let is_legacy = matches!(kind, Kind::Container | Kind::Image);
        let is_container = kind == Kind::Container;
        let mut past = self.past.lock();
        let now = i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos());
        let at = now.unwrap_or(i64::MAX).max(past.last + 1);
        past.last = at;
        let event = Arc::new(Event {
            status: is_legacy.then(|| action.clone()),
            id: is_legacy.then(|| id.clone()),
            from: attributes.get("image").filter(|_| is_container).cloned(),
            kind,
            action,
            actor: Actor { id, attributes },
            scope: "local",
            time: at / 1_000_000_000,
            time_nano: at,
        });
        if past.events.len() == KEPT {
            past.events.pop_front();
        }
        past.events.push_back(Arc::clone(&event));
        // Nobody may be listening.
        let _ = self.sender.send(event);
        at
    }

    pub fn listeners(&self) -> usize {
        self.sender.receiver_count()
    }

    /// Everything from now on, and what is still known of the past.
    pub fn subscribe(&self) -> Subscription {
        let past = self.past.lock();
        Subscription {
            past: past.events.iter().cloned().collect(),
            coming: self.sender.subscribe(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listeners_see_one_order_and_a_bounded_past() {
        let events = Events::default();
        let mut early = events.subscribe().coming;
        for number in 0..KEPT + 10 {
            let id = number.to_string();
            events.publish(Kind::Volume, "create", id, BTreeMap::new());
        }
        let past = events.subscribe().past;
        assert_eq!(past.len(), KEPT);
        assert_eq!(past[0].actor.id, "10");
        assert!(
            past.windows(2)
                .all(|pair| pair[0].time_nano < pair[1].time_nano)
        );
        assert_eq!(early.recv().await.unwrap().actor.id, "0");
    }

    #[test]
    fn containers_and_images_carry_the_fields_of_old_clients() {
        let events = Events::default();
        let attributes = BTreeMap::from([("image".to_owned(), "app:1".to_owned())]);
        events.publish(Kind::Container, "start", "c1", attributes.clone());
        events.publish(Kind::Volume, "create", "v1", attributes);
        let past = events.subscribe().past;
        let json: Vec<_> = past
            .iter()
            .map(|e| serde_json::to_value(&**e).unwrap())
            .collect();
        assert_eq!(json[0]["status"], "start");
        assert_eq!(
            (&json[0]["id"], &json[0]["from"]),
            (&"c1".into(), &"app:1".into())
        );
        assert_eq!(json[0]["Actor"]["Attributes"]["image"], "app:1");
        assert_eq!(json[0]["Type"], "container");
        assert!(json[1].get("status").is_none() && json[1].get("from").is_none());
    }
}
