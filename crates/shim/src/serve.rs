//! `serve`: becoming the process that a container lives under.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::args::Args;
use crate::engine::Engine;
use crate::journal::note;
use crate::server::Server;
use crate::signals::Signals;
use crate::status::{Error, chain};

/// Below any container, above the daemons that the node cannot do without.
const OOM_SCORE_ADJ: &str = "-998";
const OOM_SCORE_PATH: &str = "/proc/self/oom_score_adj";
/// What the kernel and `ps` call a shim.
pub(crate) const NAME: &CStr = c"berth-shim";

/// The state that a container must not inherit, as it was before.
#[derive(Debug, Clone, Copy)]
pub struct Before {
    /// What a container gets whose spec names no `oomScoreAdj`.
    pub oom_score_adj: i32,
}

/// Serves on the listening socket that is standard input, or descriptor 3.
/// `engine` is asked for once the process is set up.
pub fn serve<E: Engine>(args: &Args, engine: impl FnOnce(Before) -> E) -> Result<(), Error> {
    let mut server = prepare(engine)?;
    server.belongs_to(&args.namespace);
    if !args.events.as_os_str().is_empty() {
        server.tell_events(&args.events, &args.namespace);
    }
    let served = server.run();
    if !args.socket.as_os_str().is_empty() {
        let _ = std::fs::remove_file(&args.socket);
    }
    served
}

/// Sets the process up; what is left is to run the server.
pub fn prepare<E: Engine>(engine: impl FnOnce(Before) -> E) -> Result<Server<E>, Error> {
    let listener = inherited_listener()?;
    let before = set_up(NAME);
    server(listener, before, engine)
}

/// Serves in a process that is a copy of one that was set up.
pub(crate) fn on<E: Engine>(
    listener: UnixListener,
    before: Before,
    engine: impl FnOnce(Before) -> E,
) -> Result<(), Error> {
    server(listener, before, engine)?.run()
}

/// What a copy of the process inherits.
pub(crate) fn set_up(name: &CStr) -> Before {
    // What else came over exec is not for containers.
    let _ = berth_kernel::close_on_exec_from(3);
    let _ = berth_kernel::set_process_name(name);
    // It is there wherever a process can be.
    let _ = rustix::process::chdir("/");
    protect_from_oom()
}

/// What each process has to do for itself.
fn server<E: Engine>(
    listener: UnixListener,
    before: Before,
    engine: impl FnOnce(Before) -> E,
) -> Result<Server<E>, Error> {
    // Fails only for the leader of a group, which a shell may have made us.
    let _ = rustix::process::setsid();
    berth_kernel::set_child_subreaper(true)
        .map_err(|source| Error::system("become subreaper", source))?;
    let signals = Signals::take_over()?;
    Server::new(listener, signals, engine(before))
}

fn inherited_listener() -> Result<UnixListener, Error> {
    let fail = |source: std::io::Error| Error::system("take the listening socket", source);
    let listens = |fd: &dyn AsFd| rustix::net::sockopt::socket_acceptconn(fd).unwrap_or(false);
    let stdin = std::io::stdin();
    if listens(&stdin) {
        let listener = rustix::io::fcntl_dupfd_cloexec(&stdin, 3).map_err(|e| fail(e.into()))?;
        nothing_on_stdin()?;
        return Ok(UnixListener::from(listener));
    }
    let inherited: OwnedFd = berth_kernel::inherit(3).map_err(|e| fail(e.into()))?;
    if !listens(&inherited) {
        return Err(fail(std::io::ErrorKind::NotConnected.into()));
    }
    Ok(UnixListener::from(inherited))
}

pub(crate) fn nothing_on_stdin() -> Result<(), Error> {
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|source| Error::path("open", "/dev/null", source))?;
    berth_kernel::duplicate_onto(&null, 0)
        .map_err(|source| Error::system("leave standard input", source))
}

/// Lowers the chance that the kernel kills the shim for memory. Where that is
/// not permitted the score stays as it is, which is said once.
fn protect_from_oom() -> Before {
    let path = Path::new(OOM_SCORE_PATH);
    let present = std::fs::read_to_string(path).unwrap_or_default();
    let oom_score_adj = present.trim().parse().unwrap_or(0);
    if let Err(source) = std::fs::write(path, OOM_SCORE_ADJ) {
        let error = Error::path("write", path, source);
        note!("{}; the score stays {oom_score_adj}", chain(&error));
    }
    Before { oom_score_adj }
}
