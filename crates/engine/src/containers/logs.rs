//! `GET /containers/{name}/logs`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use berth_standalone::{LogLine, LogQuery};
use bytes::Bytes;
use futures::stream;
use http::HeaderValue;
use http::header::CONTENT_TYPE;

use super::streams::{Side, frame};
use crate::hijack::media_type;
use crate::query::moment;
use crate::{ApiVersion, Engine, Error, Query, Result};

pub async fn logs(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    version: ApiVersion,
    query: Query,
) -> Result<Response> {
    let wanted = LogQuery {
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        follow: query.flag("follow"),
        since: time(query.text("since"))?,
        until: time(query.text("until"))?,
        tail: match query.text("tail") {
            "" | "all" => None,
            // As Docker has it: what is no number means all.
            text => text.parse().ok(),
        },
    };
    if !wanted.stdout && !wanted.stderr {
        return Err(Error::bad(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let container = engine.containers.get(&name)?;
    let terminal = container.view().config.tty;
    let stamps = query.flag("timestamps");
    let logs = container.logs(wanted).await?;
    let body = stream::try_unfold(logs, move |mut logs| async move {
        let line = logs.next().await.map_err(std::io::Error::other)?;
        let told = line.map(|line| tell(line, stamps, terminal));
        Ok::<_, std::io::Error>(told.map(|bytes| (bytes, logs)))
    });
    let mut response = Response::new(Body::from_stream(body));
    let kind = HeaderValue::from_static(media_type(terminal, version));
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

fn tell(line: LogLine, stamps: bool, terminal: bool) -> Bytes {
    let side = if line.stderr {
        Side::Stderr
    } else {
        Side::Stdout
    };
    let mut text = Vec::new();
    if stamps {
        text.extend_from_slice(line.stamp.as_bytes());
        text.push(b' ');
    }
    text.extend_from_slice(&line.text);
    match terminal {
        true => text.into(),
        false => frame(side, &text).into(),
    }
}

/// Nanoseconds since the epoch; `None` for none, which clients write as 0 as well.
fn time(text: &str) -> Result<Option<i64>> {
    if matches!(text, "" | "0") {
        return Ok(None);
    }
    let nanos = moment(text)?.unix_timestamp_nanos();
    Ok(i64::try_from(nanos).ok())
}
