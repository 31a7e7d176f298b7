//! Commands in running containers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use berth_lifecycle::{ExecRequest, StdStreams};
use berth_standalone::Command;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::containers::{self, Parted, Sides, streams};
use crate::hijack::{hijack, media_type};
use crate::{ApiVersion, Engine, Error, Json, Query, Result};

/// For a command to end once its output has: one that closed it may go on for long.
const FAREWELL: Duration = Duration::from_secs(2);

type Door = State<Arc<Engine>>;

/// Largest body that starts a command: two flags and a size.
const SMALL: usize = 64 << 10;

pub fn routes() -> Router<Arc<Engine>> {
    Router::new()
        .route("/containers/{name}/exec", post(create))
        .route("/exec/{id}/start", post(start))
        .route("/exec/{id}/resize", post(resize))
        .route("/exec/{id}/json", get(inspect))
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Wanted {
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    detach_keys: String,
    tty: bool,
    env: Vec<String>,
    cmd: Vec<String>,
    privileged: bool,
    user: String,
    working_dir: String,
}

async fn create(
    State(engine): Door,
    Path(name): Path<String>,
    Json(wanted): Json<Wanted>,
) -> Result<Response> {
    let container = engine.containers.get(&name)?;
    if container.view().phase == berth_standalone::Phase::Paused {
        return Err(Error::Conflict(format!(
            "Container {name} is paused, unpause the container before exec"
        )));
    }
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let command = Command {
        request: ExecRequest {
            command: wanted.cmd,
            env: wanted.env,
            working_dir: given(wanted.working_dir),
            user: given(wanted.user),
            capabilities: wanted
                .privileged
                .then(berth_lifecycle::capabilities_to_give),
        },
        privileged: wanted.privileged,
        streams: StdStreams {
            stdin: wanted.attach_stdin,
            stdout: wanted.attach_stdout,
            stderr: wanted.attach_stderr,
            tty: wanted.tty,
        },
        detach_keys: wanted.detach_keys,
        ..Command::default()
    };
    let id = engine.containers.prepare(&container, command)?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": id }))).into_response())
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Start {
    detach: bool,
}

async fn start(
    State(engine): Door,
    Path(id): Path<String>,
    version: ApiVersion,
    request: Request,
) -> Result<Response> {
    let (request, body) = with_body(request).await?;
    let wanted: Start = match body.is_empty() {
        true => Start::default(),
        false => crate::body::parse(&body)?,
    };
    let command = engine.containers.commands.get(&id)?;
    let terminal = command.streams.tty;
    let begun = engine.containers.begin(&id).await;
    if wanted.detach {
        let (pipes, _control) = begun?;
        tokio::spawn(streams::drain(pipes));
        return Ok(StatusCode::OK.into_response());
    }
    let begun = match begun {
        // Told where the command's output would be: clients ask for its exit code then.
        Err(error) if never_ran(&error) => Err(error.to_string()),
        other => Ok(other?),
    };
    let keys = streams::keys(&command.detach_keys)?;
    let hijacked = hijack(request, media_type(terminal, version));
    tokio::spawn(async move {
        let Ok((mut input, mut output)) = hijacked.streams.await else {
            return;
        };
        match begun {
            Ok((pipes, control)) => {
                let sides = Sides::Command(control);
                let serving = containers::serve_streams(
                    pipes,
                    sides,
                    &mut input,
                    &mut output,
                    terminal,
                    &keys,
                );
                if serving.await == Parted::Ended {
                    // Clients ask for the exit code as soon as the connection ends.
                    let ended = engine.containers.commands.ended(&id);
                    let _closed_early = tokio::time::timeout(FAREWELL, ended).await;
                }
                streams::part(input, output).await;
            }
            Err(text) => streams::tell(input, output, &text, terminal).await,
        }
    });
    Ok(hijacked.response)
}

/// The body comes first; what is typed follows it on the same connection.
async fn with_body(request: Request) -> Result<(Request, bytes::Bytes)> {
    let (parts, body) = request.into_parts();
    let bytes = crate::body::receive(body, SMALL).await?;
    Ok((Request::from_parts(parts, axum::body::Body::empty()), bytes))
}

fn never_ran(error: &berth_standalone::Error) -> bool {
    match error {
        berth_standalone::Error::Lifecycle(error) => {
            matches!(error.root(), berth_lifecycle::Error::Program { .. })
        }
        _ => false,
    }
}

async fn resize(State(engine): Door, Path(id): Path<String>, query: Query) -> Result<StatusCode> {
    let (width, height) = containers::size(&query)?;
    engine
        .containers
        .commands
        .resize(&id, width, height)
        .await?;
    Ok(StatusCode::OK)
}

async fn inspect(State(engine): Door, Path(id): Path<String>) -> Result<Json<Value>> {
    let command = engine.containers.commands.get(&id)?;
    let (entrypoint, arguments) = match command.request.command.split_first() {
        Some((program, arguments)) => (program.as_str(), arguments),
        None => ("", &[][..]),
    };
    Ok(Json(json!({
        "ID": command.id,
        "Running": command.running(),
        "ExitCode": command.exit_code,
        "ProcessConfig": {
            "tty": command.streams.tty,
            "entrypoint": entrypoint,
            "arguments": arguments,
            "privileged": command.privileged,
            "user": command.request.user,
        },
        "OpenStdin": command.streams.stdin,
        "OpenStderr": command.streams.stderr,
        "OpenStdout": command.streams.stdout,
        "CanRemove": !command.running() && command.started,
        "ContainerID": command.container,
        "DetachKeys": command.detach_keys,
        "Pid": 0,
    })))
}
