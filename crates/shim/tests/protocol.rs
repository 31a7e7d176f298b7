//! A shim of plain processes against peers that misbehave on the wire.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed step is a failed test

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::ttrpc::proto::{Code, Request, Response};

struct Shim {
    dir: tempfile::TempDir,
    child: Child,
}

impl Drop for Shim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Shim {
    fn start() -> Self {
        let test = std::env::current_exe().unwrap();
        let program = test
            .ancestors()
            .nth(2)
            .unwrap()
            .join("examples/process_shim");
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("shim.sock")).unwrap();
        let child = Command::new(program)
            .arg("serve")
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .spawn()
            .unwrap();
        Self { dir, child }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.dir.path().join("shim.sock")).unwrap();
        let limit = Some(Duration::from_secs(10));
        stream.set_read_timeout(limit).unwrap();
        stream
    }
}

fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes().to_vec();
    bytes.extend(stream.to_be_bytes());
    bytes.extend([kind, 0]);
    bytes.extend(payload);
    bytes
}

fn call(service: &str, method: &str, payload: &[u8]) -> Vec<u8> {
    let mut request = Request::new();
    request.service = service.into();
    request.method = method.into();
    request.payload = payload.into();
    request.write_to_bytes().unwrap()
}

fn answer(socket: &mut UnixStream) -> (u32, Response) {
    let mut header = [0; 10];
    socket.read_exact(&mut header).unwrap();
    assert_eq!(header[8], 2, "a response");
    let length = u32::from_be_bytes(header[..4].try_into().unwrap()) as usize;
    let stream = u32::from_be_bytes(header[4..8].try_into().unwrap());
    let mut payload = vec![0; length];
    socket.read_exact(&mut payload).unwrap();
    (stream, Response::parse_from_bytes(&payload).unwrap())
}

fn code(response: &Response) -> Code {
    response.status.code.enum_value_or_default()
}

const TASK: &str = "containerd.task.v2.Task";

#[test]
fn what_is_not_served_is_answered_with_its_status() {
    let shim = Shim::start();
    let mut socket = shim.connect();
    let mut checkpoint = api::CreateTaskRequest::new();
    checkpoint.id = "c".into();
    checkpoint.bundle = "/b".into();
    checkpoint.checkpoint = "c".into();
    let checkpoint = checkpoint.write_to_bytes().unwrap();
    let mut strange = api::CheckpointTaskRequest::new();
    let options = strange.options.mut_or_insert_default();
    options.type_url = "no.such.Options".into();
    options.value = vec![8, 1];
    let mut bad_id = api::CreateTaskRequest::new();
    bad_id.id = "../../etc".into();
    bad_id.bundle = "/b".into();
    let mut relative = api::CreateTaskRequest::new();
    relative.id = "c".into();
    relative.bundle = "b".into();
    let cases: Vec<(&str, Vec<u8>, Code)> = vec![
        (
            "service",
            call("no.such.Service", "State", &[]),
            Code::UNIMPLEMENTED,
        ),
        ("method", call(TASK, "NoSuch", &[]), Code::UNIMPLEMENTED),
        ("empty", call("", "", &[]), Code::UNIMPLEMENTED),
        (
            "checkpoint of nothing",
            call(TASK, "Checkpoint", &[]),
            Code::NOT_FOUND,
        ),
        (
            "options of a checkpoint",
            call(TASK, "Checkpoint", &strange.write_to_bytes().unwrap()),
            Code::INVALID_ARGUMENT,
        ),
        (
            "restore",
            call(TASK, "Create", &checkpoint),
            Code::INVALID_ARGUMENT,
        ),
        (
            "garbage message",
            call(TASK, "State", &[0xff; 9]),
            Code::INVALID_ARGUMENT,
        ),
        ("garbage request", vec![0xff; 9], Code::INVALID_ARGUMENT),
        ("no container", call(TASK, "State", &[]), Code::NOT_FOUND),
        (
            "bad id",
            call(TASK, "Create", &bad_id.write_to_bytes().unwrap()),
            Code::INVALID_ARGUMENT,
        ),
        (
            "relative bundle",
            call(
                "containerd.task.v3.Task",
                "Create",
                &relative.write_to_bytes().unwrap(),
            ),
            Code::INVALID_ARGUMENT,
        ),
        (
            "private",
            call("berth.shim.v1.Container", "NoSuch", &[]),
            Code::UNIMPLEMENTED,
        ),
    ];
    for (number, (name, payload, expected)) in cases.into_iter().enumerate() {
        let stream = 2 * number as u32 + 1;
        socket.write_all(&frame(1, stream, &payload)).unwrap();
        let (answered, response) = answer(&mut socket);
        assert_eq!((answered, code(&response)), (stream, expected), "{name}");
        assert!(!response.status.message.is_empty(), "{name}");
    }
}

/// The socket's mode keeps others away; where it does not, their credentials do.
#[test]
fn other_users_are_cut_off_and_root_is_still_served() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root to be somebody else");
        return;
    }
    let shim = Shim::start();
    let open = |path: &std::path::Path, mode| {
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, permissions).unwrap();
    };
    let socket = shim.dir.path().join("shim.sock");
    open(shim.dir.path(), 0o755);
    open(&socket, 0o777);
    let request = frame(1, 1, &call(TASK, "Pids", &[]));
    let mut stranger = std::thread::spawn(move || {
        let other = rustix::process::Uid::from_raw(1000);
        // Of this thread alone.
        rustix::thread::set_thread_uid(other).unwrap();
        UnixStream::connect(socket).unwrap()
    })
    .join()
    .unwrap();
    let limit = Some(Duration::from_secs(10));
    stranger.set_read_timeout(limit).unwrap();
    // It may be closed before this arrives.
    let _ = stranger.write_all(&request);
    let read = stranger.read(&mut [0; 16]);
    let is_cut_off = match &read {
        Ok(count) => *count == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    assert!(is_cut_off, "{read:?}");
    let mut own = shim.connect();
    own.write_all(&request).unwrap();
    assert_eq!(code(&answer(&mut own).1), Code::NOT_FOUND);
}

#[test]
fn an_oversized_request_is_refused_and_the_next_one_served() {
    let shim = Shim::start();
    let mut socket = shim.connect();
    let payload = vec![0; (4 << 20) + 1];
    socket.write_all(&frame(1, 1, &payload)).unwrap();
    let (stream, response) = answer(&mut socket);
    assert_eq!((stream, code(&response)), (1, Code::RESOURCE_EXHAUSTED));
    socket
        .write_all(&frame(1, 3, &call(TASK, "Connect", &[])))
        .unwrap();
    let (stream, response) = answer(&mut socket);
    assert_eq!((stream, code(&response)), (3, Code::OK));
    let connect = api::ConnectResponse::parse_from_bytes(&response.payload).unwrap();
    assert_eq!(connect.shim_pid, shim.child.id());
}

#[test]
fn a_peer_that_speaks_something_else_is_cut_off_and_others_are_served() {
    let shim = Shim::start();
    let mut good = shim.connect();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 64],
        &frame(2, 1, b"x"),
    ] {
        let mut bad = shim.connect();
        bad.write_all(garbage).unwrap();
        let mut rest = Vec::new();
        // Closed with our bytes unread or read: end of file or a reset.
        assert_eq!(bad.read_to_end(&mut rest).unwrap_or(0), 0);
    }
    drop(shim.connect());
    good.write_all(&frame(1, 1, &call(TASK, "Connect", &[])))
        .unwrap();
    assert_eq!(code(&answer(&mut good).1), Code::OK);
}

#[test]
fn a_client_that_reads_nothing_does_not_stop_the_others() {
    let shim = Shim::start();
    let mut deaf = shim.connect();
    deaf.set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let request = frame(1, 1, &call(TASK, "Connect", &[]));
    // Far more answers than the sockets and the shim's limit hold.
    let mut sent = 0;
    while sent < 200_000 && deaf.write_all(&request).is_ok() {
        sent += 1;
    }
    assert!(sent < 200_000, "the shim stops reading from it");
    let mut good = shim.connect();
    good.write_all(&request).unwrap();
    assert_eq!(code(&answer(&mut good).1), Code::OK);
}

#[test]
fn signals_that_end_services_do_not_end_a_shim() {
    let shim = Shim::start();
    let mut socket = shim.connect();
    let request = frame(1, 1, &call(TASK, "Connect", &[]));
    socket.write_all(&request).unwrap();
    answer(&mut socket);
    for signal in ["-TERM", "-INT", "-HUP", "-PIPE"] {
        let pid = shim.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }
    socket.write_all(&request).unwrap();
    assert_eq!(code(&answer(&mut socket).1), Code::OK);
}
