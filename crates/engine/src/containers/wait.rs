//! `POST /containers/{name}/wait`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use berth_standalone::{Phase, Record};
use bytes::Bytes;
use futures::stream;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde_json::json;
use tokio::sync::watch;

use crate::{Engine, Error, Query, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    NotRunning,
    NextExit,
    Removed,
}

/// The head of the answer goes out at once: a client that runs a container waits for it before it
/// starts it, so that no end is missed.
pub async fn wait(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    query: Query,
) -> Result<Response> {
    let condition = match query.text("condition") {
        "" | "not-running" => Condition::NotRunning,
        "next-exit" => Condition::NextExit,
        "removed" => Condition::Removed,
        other => return Err(Error::bad(format!("invalid condition: {other:?}"))),
    };
    let shown = engine.containers.get(&name)?.watch();
    let body = stream::once(async move {
        let code = ended(shown, condition).await;
        let answer = json!({ "StatusCode": code }).to_string() + "\n";
        Ok::<_, std::convert::Infallible>(Bytes::from(answer))
    });
    let mut response = Response::new(Body::from_stream(body));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

async fn ended(mut shown: watch::Receiver<Arc<Record>>, condition: Condition) -> i32 {
    let first = Arc::clone(&shown.borrow_and_update());
    let is_met = |record: &Arc<Record>| match condition {
        Condition::NotRunning => !record.phase.runs() && record.phase != Phase::Restarting,
        Condition::NextExit => record.ends > first.ends,
        Condition::Removed => false,
    };
    let met = shown.wait_for(is_met).await.map(|record| record.exit_code);
    // The container is gone, as `removed` waits for; the others are told how it last was.
    met.unwrap_or_else(|_| shown.borrow().exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_condition_is_met_by_its_own_change() {
        let mut record = super::super::describe::sample();
        record.phase = Phase::Running;
        let (sender, shown) = watch::channel(Arc::new(record.clone()));
        let waits = [
            Condition::NotRunning,
            Condition::NextExit,
            Condition::Removed,
        ]
        .map(|condition| tokio::spawn(ended(shown.clone(), condition)));
        tokio::task::yield_now().await;
        (record.phase, record.ends, record.exit_code) = (Phase::Exited, 1, 7);
        sender.send_replace(Arc::new(record));
        let [first, second, removed] = waits;
        assert_eq!((first.await.unwrap(), second.await.unwrap()), (7, 7));
        assert!(!removed.is_finished());
        drop(sender);
        assert_eq!(removed.await.unwrap(), 7);
    }
}
