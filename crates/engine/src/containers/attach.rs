//! `POST /containers/{name}/attach`.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use berth_lifecycle::StdStreams;
use berth_standalone::{Attachment, LogQuery};
use tokio::io::AsyncWriteExt;

use super::streams::{self, Side, Sides};
use crate::hijack::{Output, hijack, media_type};
use crate::{ApiVersion, Engine, Query, Result};

pub async fn attach(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    version: ApiVersion,
    query: Query,
    request: Request,
) -> Result<Response> {
    let container = engine.containers.get(&name)?;
    let record = container.view();
    let terminal = record.config.tty;
    let keys = streams::keys(query.text("detachKeys"))?;
    let wanted = StdStreams {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        tty: terminal,
    };
    // Before the answer: a client starts the container once it has that.
    let attachment = match query.flag("stream") {
        true => Some(container.attach(wanted).await?),
        false => None,
    };
    let past = LogQuery {
        stdout: wanted.stdout,
        stderr: wanted.stderr,
        ..LogQuery::default()
    };
    let past = match query.flag("logs") {
        true => Some(container.logs(past).await?),
        false => None,
    };
    let hijacked = hijack(request, media_type(terminal, version));
    tokio::spawn(async move {
        let Ok((input, mut output)) = hijacked.streams.await else {
            return;
        };
        if let Some(past) = past
            && replay(past, &mut output, terminal).await.is_err()
        {
            return;
        }
        let joined = match attachment {
            Some(Attachment::Now(pipes, control)) => Some((pipes, control)),
            Some(Attachment::Later(streams)) => streams.await.ok(),
            None => None,
        };
        if let Some((pipes, control)) = joined {
            let sides = Sides::Container(control);
            let _either = streams::serve(pipes, sides, input, &mut output, terminal, &keys).await;
        }
        let _gone = output.shutdown().await;
    });
    Ok(hijacked.response)
}

async fn replay(
    mut past: berth_standalone::Logs,
    output: &mut Output,
    terminal: bool,
) -> Result<(), std::io::Error> {
    while let Ok(Some(line)) = past.next().await {
        let side = if line.stderr {
            Side::Stderr
        } else {
            Side::Stdout
        };
        match terminal {
            true => output.write_all(&line.text).await?,
            false => output.write_all(&streams::frame(side, &line.text)).await?,
        }
    }
    output.flush().await
}
