//! What happens to containers and volumes, in the order in which it happens.

use std::collections::BTreeMap;

use crate::record::Record;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `container`, `volume`.
    pub kind: &'static str,
    /// As in `start`, `die`, `exec_create: ls`.
    pub action: String,
    /// Of what it happened to: an id, or a volume's name.
    pub id: String,
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// Carries the labels, the name and the image of the container.
    pub(crate) fn of(record: &Record, action: impl Into<String>) -> Self {
        let mut attributes = record.config.labels.clone();
        attributes.insert("name".to_owned(), record.name.clone());
        attributes.insert("image".to_owned(), record.config.image.clone());
        Self {
            kind: "container",
            action: action.into(),
            id: record.id.to_string(),
            attributes,
        }
    }

    pub(crate) fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.attributes.insert(key.to_owned(), value.to_string());
        self
    }
}
