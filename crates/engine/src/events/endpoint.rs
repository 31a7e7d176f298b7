//! `GET /events`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use futures::Stream;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use time::OffsetDateTime;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::selection::Selection;
use super::{Event, Subscription};
use crate::{Engine, Query, Result};

pub fn routes() -> Router<Arc<Engine>> {
    Router::new().route("/events", get(events))
}

async fn events(State(engine): State<Arc<Engine>>, query: Query) -> Result<Response> {
    let selection = Selection::parse(&query)?;
    let listener = Listener::new(engine.events.subscribe(), selection);
    let mut response = Response::new(Body::from_stream(listener.lines()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

struct Listener {
    past: VecDeque<Arc<Event>>,
    coming: tokio::sync::broadcast::Receiver<Arc<Event>>,
    selection: Selection,
    deadline: Option<Instant>,
}

impl Listener {
    fn new(subscription: Subscription, selection: Selection) -> Self {
        let Subscription { mut past, coming } = subscription;
        // Only who asks for the past gets it.
        past.retain(|event| selection.since.is_some() && selection.is_in_time(event));
        let now = i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos());
        let deadline = selection.until.map(|until| {
            let left = until.saturating_sub(now.unwrap_or(i64::MAX)).max(0);
            Instant::now() + Duration::from_nanos(left.unsigned_abs())
        });
        Self {
            past: past.into(),
            coming,
            selection,
            deadline,
        }
    }

    fn lines(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        futures::stream::unfold(self, |mut listener| async move {
            let event = listener.next().await?;
            let mut line = serde_json::to_vec(&*event).ok()?;
            line.push(b'\n');
            Some((Ok(Bytes::from(line)), listener))
        })
    }

    /// `None` at the end: of the time asked for, or for a listener that is a whole queue behind,
    /// who shall notice that it missed something.
    async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            let event = match self.past.pop_front() {
                Some(event) => event,
                None => self.await_one().await?,
            };
            if self.selection.wants(&event) {
                return Some(event);
            }
        }
    }

    async fn await_one(&mut self) -> Option<Arc<Event>> {
        let received = match self.deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, self.coming.recv())
                .await
                .ok()?,
            None => self.coming.recv().await,
        };
        match received {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "a listener to events was too slow: its stream ends");
                None
            }
            Err(RecvError::Closed) => None,
        }
    }
}
