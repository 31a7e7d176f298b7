//! `POST /containers/{name}/attach`.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use berth_lifecycle::StdStreams;
use berth_standalone::{Attachment, LogQuery, Logs};
use tokio::io::AsyncWriteExt;

use super::streams::{self, Side, Sides};
use crate::hijack::{Input, Output, hijack, media_type};
use crate::{ApiVersion, Engine, Query, Result};

pub async fn attach(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    version: ApiVersion,
    query: Query,
    request: Request,
) -> Result<Response> {
    let joining = Joining::of(&engine, &name, &query).await?;
    let hijacked = hijack(request, media_type(joining.terminal, version));
    tokio::spawn(async move {
        if let Ok(streams) = hijacked.streams.await {
            let raw = joining.terminal;
            joining.serve(streams, raw).await;
        }
    });
    Ok(hijacked.response)
}

/// A client that joins a container: what it is shown of the past, and the streams from now on.
pub(super) struct Joining {
    terminal: bool,
    keys: Vec<u8>,
    attachment: Option<Attachment>,
    past: Option<Logs>,
}

impl Joining {
    /// To be awaited before the request is answered: a client starts the container once it is.
    pub(super) async fn of(engine: &Engine, name: &str, query: &Query) -> Result<Self> {
        let container = engine.containers.get(name)?;
        let record = container.view();
        let terminal = record.config.tty;
        let keys = streams::keys(query.text("detachKeys"))?;
        let wanted = StdStreams {
            stdin: query.flag("stdin"),
            stdout: query.flag("stdout"),
            stderr: query.flag("stderr"),
            tty: terminal,
        };
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
        Ok(Self {
            terminal,
            keys: if terminal { keys } else { Vec::new() },
            attachment,
            past,
        })
    }

    /// Without frames, whatever the container has.
    pub(super) async fn serve_raw(self, streams: (Input, Output)) {
        self.serve(streams, true).await;
    }

    async fn serve(self, (mut input, mut output): (Input, Output), raw: bool) {
        if let Some(past) = self.past
            && replay(past, &mut output, raw).await.is_err()
        {
            return;
        }
        let joined = match self.attachment {
            Some(Attachment::Now(pipes, control)) => Some((pipes, control)),
            Some(Attachment::Later(streams)) => streams.await.ok(),
            None => None,
        };
        if let Some((pipes, control)) = joined {
            let sides = Sides::Container(control);
            let keys = &self.keys;
            let _either = streams::serve(pipes, sides, &mut input, &mut output, raw, keys).await;
        }
        streams::part(input, output).await;
    }
}

async fn replay(mut past: Logs, output: &mut Output, raw: bool) -> Result<(), std::io::Error> {
    while let Ok(Some(line)) = past.next().await {
        let side = if line.stderr {
            Side::Stderr
        } else {
            Side::Stdout
        };
        match raw {
            true => output.write_all(&line.text).await?,
            false => output.write_all(&streams::frame(side, &line.text)).await?,
        }
    }
    output.flush().await
}
