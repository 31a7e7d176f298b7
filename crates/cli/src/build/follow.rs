//! The daemon's answer to a build, to its end.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::display::{Display, Show};
use super::lend::Lent;
use super::record::Record;
use crate::daemon::{Answer, Client};
use crate::error::{Error, Result};

/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(100);

pub struct Follower {
    display: Display,
    began: Instant,
    image: Option<String>,
    caches: Vec<(usize, String)>,
    /// Docker's own daemon tells a build in texts alone.
    has_records: bool,
}

/// What a build left.
#[derive(Debug)]
pub struct Built {
    /// The image's id.
    pub image: String,
    /// Caches that are to be fetched: numbers of their targets, and tickets.
    pub caches: Vec<(usize, String)>,
}

impl Follower {
    pub fn new(show: Show) -> Self {
        Self {
            display: Display::new(show),
            began: Instant::now(),
            image: None,
            caches: Vec::new(),
            has_records: false,
        }
    }

    /// Until the context is there nothing else happens.
    pub fn sending(&mut self) -> Result<()> {
        self.display.sending()
    }

    /// Shows what happens.
    ///
    /// # Errors
    /// The one that the stream tells of, too.
    pub async fn follow(mut self, answer: Answer, lent: (&Client, &Lent)) -> Result<Built> {
        let mut objects = answer.objects();
        let mut ticks = tokio::time::interval(TICK);
        let outcome = loop {
            let next = tokio::select! {
                next = objects.next() => next,
                _ = ticks.tick() => {
                    self.display.tick()?;
                    continue;
                }
            };
            match next {
                Ok(Some(object)) => {
                    if let Some(message) = self.take(&object, lent)? {
                        break Err(Error::Failed(message));
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = outcome {
            self.display.failed()?;
            return Err(error);
        }
        let image = self.image.ok_or_else(|| {
            Error::Failed("the build ended without an image: see the daemon's log".to_owned())
        })?;
        self.display.built(&image, self.began.elapsed())?;
        Ok(Built {
            image,
            caches: self.caches,
        })
    }

    /// Returns what ended the build, if the object tells that.
    fn take(&mut self, object: &Value, (client, lent): (&Client, &Lent)) -> Result<Option<String>> {
        let detail = object.pointer("/errorDetail/message");
        if let Some(said) = detail.or_else(|| object.get("error")) {
            return Ok(Some(said.as_str().unwrap_or_default().trim().to_owned()));
        }
        if let Some(record) = object.get("berth") {
            self.has_records = true;
            let record: Record = serde_json::from_value(record.clone()).map_err(Error::Answer)?;
            self.display.record(&record)?;
        } else if let Some(call) = object.get("berth-agent") {
            let text = |key: &str| call[key].as_str().unwrap_or_default();
            lent.connect(client, text("id"), text("ticket"));
        } else if let Some(made) = object.get("berth-cache") {
            let number = made["target"]
                .as_u64()
                .and_then(|number| usize::try_from(number).ok());
            let ticket = made["ticket"].as_str().unwrap_or_default().to_owned();
            self.caches.extend(number.map(|number| (number, ticket)));
        } else if let Some(id) = object.pointer("/aux/ID").and_then(Value::as_str) {
            self.image = Some(id.to_owned());
        } else if let Some(text) = object.get("stream").and_then(Value::as_str) {
            match text.strip_prefix("[Warning] ") {
                Some(warning) => self.display.warning(warning.trim_end())?,
                None if !self.has_records => self.display.text(text)?,
                // What else there is in words was told in records.
                None => {}
            }
        }
        Ok(None)
    }
}
