//! From a ttrpc request to the service and back: decoding, the table of
//! methods, encoding.
//!
//! The Task service is served under the names of both of its versions, whose
//! messages are the same. Besides it there is `berth.shim.v1.Container`, whose
//! messages have the shape of Task messages:
//!
//! | method | request | fields used | answer |
//! |---|---|---|---|
//! | `ReopenLog` | `StateRequest` | id, exec_id | `Empty` |
//! | `Attach` | `ExecProcessRequest` | id, exec_id, stdout, stderr: FIFOs that somebody reads already | `Empty` |
//!
//! A program that cannot be run is refused with `INVALID_ARGUMENT` and, as a detail of the status,
//! the exit code by which shells tell it ([`crate::status::EXIT_STATUS_TYPE`]).

use std::path::{Path, PathBuf};

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{EnumOrUnknown, Message};
use containerd_shim_protos::shim::oci::CheckpointOptions;
use containerd_shim_protos::ttrpc::proto::Request;
use containerd_shim_protos::types::task::ProcessInfo;

use crate::engine::{Checkpoint, Engine, RootMount};
use crate::io::stdio::StdioRequest;
use crate::process::{Caller, Exit, State};
use crate::service::{DumpRequest, Service};
use crate::status::{Error, Failure};

pub const TASK_SERVICES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];
pub const PRIVATE_SERVICE: &str = "berth.shim.v1.Container";
/// Options of `Create` with a checkpoint: a JSON object with the paths `criu` and `work`.
const RESTORE_TYPE: &str = "berth.shim.v1.Restore";

/// Options of `Checkpoint`, which are runc's shim's.
const DUMP_TYPE: &str = "containerd.runc.v1.CheckpointOptions";

type Answer = Result<Option<Vec<u8>>, Error>;

/// The answer to a request, or `None` if the service will give it later.
pub fn dispatch<E: Engine>(
    service: &mut Service<E>,
    caller: Caller,
    request: &Request,
) -> Option<Result<Vec<u8>, Failure>> {
    let answer = if TASK_SERVICES.contains(&request.service.as_str()) {
        task(service, caller, request)
    } else if request.service == PRIVATE_SERVICE {
        private(service, request)
    } else {
        Err(Error::UnknownService {
            service: clip(&request.service),
        })
    };
    answer.map_err(Failure::from).transpose()
}

fn task<E: Engine>(service: &mut Service<E>, caller: Caller, request: &Request) -> Answer {
    match request.method.as_str() {
        "State" => state(service, &decode(request)?),
        "Create" => create(service, decode(request)?),
        "Start" => {
            let message: api::StartRequest = decode(request)?;
            let mut answer = api::StartResponse::new();
            answer.pid = service.start(&message.id, &message.exec_id)?;
            encode(&answer)
        }
        "Delete" => {
            let message: api::DeleteRequest = decode(request)?;
            let (pid, exit) = service.delete(&message.id, &message.exec_id)?;
            encode(&delete_response(pid, &exit))
        }
        "Pids" => pids(service, &decode(request)?),
        "Pause" => {
            let message: api::PauseRequest = decode(request)?;
            empty(service.pause(&message.id))
        }
        "Resume" => {
            let message: api::ResumeRequest = decode(request)?;
            empty(service.resume(&message.id))
        }
        "Checkpoint" => dump(service, caller, &decode(request)?),
        "Kill" => {
            let message: api::KillRequest = decode(request)?;
            let (id, exec_id) = (&message.id, &message.exec_id);
            empty(service.kill(id, exec_id, message.signal, message.all))
        }
        "Exec" => {
            let message: api::ExecProcessRequest = decode(request)?;
            exec(service, message)
        }
        "ResizePty" => {
            let message: api::ResizePtyRequest = decode(request)?;
            let cells = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
            let (width, height) = (cells(message.width), cells(message.height));
            empty(service.resize(&message.id, &message.exec_id, width, height))
        }
        "CloseIO" => {
            let message: api::CloseIORequest = decode(request)?;
            if !message.stdin {
                return empty(Ok(()));
            }
            empty(service.close_stdin(&message.id, &message.exec_id))
        }
        "Update" => {
            let message: api::UpdateTaskRequest = decode(request)?;
            empty(service.update(&message.id, &message.resources.value))
        }
        "Wait" => {
            let message: api::WaitRequest = decode(request)?;
            let exit = service.wait(&message.id, &message.exec_id, caller)?;
            exit.map(|exit| wait_response(&exit)).transpose()
        }
        "Stats" => stats(service, &decode(request)?),
        "Connect" => connect(service, &decode(request)?),
        "Shutdown" => {
            let message: api::ShutdownRequest = decode(request)?;
            service.shutdown(message.now);
            empty(Ok(()))
        }
        _ => Err(unknown_method(request)),
    }
}

fn private<E: Engine>(service: &mut Service<E>, request: &Request) -> Answer {
    match request.method.as_str() {
        "ReopenLog" => {
            let message: api::StateRequest = decode(request)?;
            empty(service.reopen_logs(&message.id, &message.exec_id))
        }
        "Attach" => {
            let message: api::ExecProcessRequest = decode(request)?;
            let (stdout, stderr) = (&message.stdout, &message.stderr);
            empty(service.attach(&message.id, &message.exec_id, stdout, stderr))
        }
        _ => Err(unknown_method(request)),
    }
}

fn create<E: Engine>(service: &mut Service<E>, message: api::CreateTaskRequest) -> Answer {
    let checkpoint = checkpoint(&message)?;
    let rootfs: Vec<RootMount> = message
        .rootfs
        .into_iter()
        .map(|mount| RootMount {
            kind: mount.type_,
            source: mount.source,
            target: mount.target,
            options: mount.options,
        })
        .collect();
    let stdio = StdioRequest {
        terminal: message.terminal,
        stdin: message.stdin,
        stdout: message.stdout,
        stderr: message.stderr,
    };
    let mut answer = api::CreateTaskResponse::new();
    let bundle = Path::new(&message.bundle);
    let from = checkpoint.as_ref();
    answer.pid = service.create(&message.id, bundle, &rootfs, stdio, from)?;
    encode(&answer)
}

/// Images at `checkpoint`; where the log goes and which criu it is are in the options, and are
/// beside the images and in `PATH` if they are not.
fn checkpoint(message: &api::CreateTaskRequest) -> Result<Option<Checkpoint>, Error> {
    if message.checkpoint.is_empty() {
        return Ok(None);
    }
    let wrong = |field: &'static str, value: &str| Error::Argument {
        field,
        value: value.to_owned(),
    };
    let images = PathBuf::from(&message.checkpoint);
    if !images.is_absolute() {
        return Err(wrong("checkpoint", &message.checkpoint));
    }
    let given = match message.options.as_ref() {
        Some(options) if options.type_url == RESTORE_TYPE => {
            serde_json::from_slice(&options.value).map_err(|_| wrong("options", RESTORE_TYPE))?
        }
        _ => serde_json::Value::Null,
    };
    let path = |name: &str| given[name].as_str().map(PathBuf::from);
    let criu = berth_criu::find(path("criu").as_deref());
    Ok(Some(Checkpoint {
        work: path("work").unwrap_or_else(|| images.clone()),
        criu: criu.ok_or(Error::NoCriu)?,
        images,
    }))
}

/// Answered when the images are written.
fn dump<E: Engine>(
    service: &mut Service<E>,
    caller: Caller,
    message: &api::CheckpointTaskRequest,
) -> Answer {
    let mut request = DumpRequest::default();
    if let Some(any) = message.options.as_ref().filter(|any| !any.value.is_empty()) {
        let options = CheckpointOptions::parse_from_bytes(&any.value);
        let options = match options {
            Ok(options) if any.type_url.ends_with(DUMP_TYPE) => options,
            _ => {
                return Err(Error::Argument {
                    field: "options",
                    value: clip(&any.type_url),
                });
            }
        };
        request.exit = options.exit;
        request.shell_job = options.terminal;
        request.work = options.work_path.into();
    }
    service.checkpoint(&message.id, Path::new(&message.path), request, caller)?;
    Ok(None)
}

fn exec<E: Engine>(service: &mut Service<E>, mut message: api::ExecProcessRequest) -> Answer {
    let stdio = StdioRequest {
        terminal: message.terminal,
        stdin: message.stdin,
        stdout: message.stdout,
        stderr: message.stderr,
    };
    let spec = message.spec.take().unwrap_or_default().value;
    empty(service.exec(&message.id, &message.exec_id, stdio, spec))
}

fn state<E: Engine>(service: &mut Service<E>, message: &api::StateRequest) -> Answer {
    use api::Status;
    let report = service.report(&message.id, &message.exec_id)?;
    let process = report.process;
    let mut answer = api::StateResponse::new();
    answer.id.clone_from(&message.id);
    answer.exec_id.clone_from(&message.exec_id);
    answer.bundle = report.bundle.display().to_string();
    answer.pid = process.pid.unsigned_abs();
    answer.terminal = process.stdio.terminal;
    answer.stdin.clone_from(&process.stdio.stdin);
    answer.stdout.clone_from(&process.stdio.stdout);
    answer.stderr.clone_from(&process.stdio.stderr);
    let status = match process.state {
        State::Added | State::Created => Status::CREATED,
        State::Running if report.paused => Status::PAUSED,
        State::Running => Status::RUNNING,
        State::Stopped(_) => Status::STOPPED,
    };
    answer.status = EnumOrUnknown::new(status);
    if let State::Stopped(exit) = process.state {
        answer.exit_status = exit.status;
        answer.exited_at = Some(exit.timestamp()).into();
    }
    encode(&answer)
}

fn pids<E: Engine>(service: &mut Service<E>, message: &api::PidsRequest) -> Answer {
    let mut answer = api::PidsResponse::new();
    for pid in service.pids(&message.id)? {
        let mut process = ProcessInfo::new();
        process.pid = pid.unsigned_abs();
        answer.processes.push(process);
    }
    encode(&answer)
}

fn stats<E: Engine>(service: &mut Service<E>, message: &api::StatsRequest) -> Answer {
    let metrics = service.stats(&message.id)?;
    let mut any = Any::new();
    any.type_url = metrics.type_url;
    any.value = metrics.value;
    let mut answer = api::StatsResponse::new();
    answer.stats = Some(any).into();
    encode(&answer)
}

fn connect<E: Engine>(service: &mut Service<E>, _message: &api::ConnectRequest) -> Answer {
    let mut answer = api::ConnectResponse::new();
    answer.shim_pid = std::process::id();
    answer.task_pid = service.init_pid().unsigned_abs();
    answer.version = env!("CARGO_PKG_VERSION").to_owned();
    encode(&answer)
}

/// The encoded answer to `Wait`.
pub fn wait_response(exit: &Exit) -> Result<Vec<u8>, Error> {
    let mut answer = api::WaitResponse::new();
    answer.exit_status = exit.status;
    answer.exited_at = Some(exit.timestamp()).into();
    answer
        .write_to_bytes()
        .map_err(|source| Error::Encode { source })
}

pub fn delete_response(pid: i32, exit: &Exit) -> api::DeleteResponse {
    let mut answer = api::DeleteResponse::new();
    answer.pid = pid.unsigned_abs();
    answer.exit_status = exit.status;
    answer.exited_at = Some(exit.timestamp()).into();
    answer
}

fn decode<M: Message>(request: &Request) -> Result<M, Error> {
    M::parse_from_bytes(&request.payload).map_err(|source| Error::Decode {
        method: request.method.clone(),
        source,
    })
}

fn encode(message: &impl Message) -> Answer {
    message
        .write_to_bytes()
        .map(Some)
        .map_err(|source| Error::Encode { source })
}

/// `google.protobuf.Empty` is encoded as nothing.
fn empty(result: Result<(), Error>) -> Answer {
    result.map(|()| Some(Vec::new()))
}

fn unknown_method(request: &Request) -> Error {
    Error::UnknownMethod {
        service: clip(&request.service),
        method: clip(&request.method),
    }
}

fn clip(name: &str) -> String {
    name.chars().take(128).collect()
}
