//! `serve`: becoming the process that a container lives under.

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
    // What else came over exec is not for containers.
    let _ = berth_kernel::close_on_exec_from(3);
    // Fails only for the leader of a group, which a shell may have made us.
    let _ = rustix::process::setsid();
    let _ = berth_kernel::set_process_name(c"berth-shim");
    berth_kernel::set_child_subreaper(true)
        .map_err(|source| Error::system("become subreaper", source))?;
    rustix::process::chdir("/").map_err(|source| Error::path("change to", "/", source))?;
    let before = protect_from_oom();
    let signals = Signals::take_over()?;
    Server::new(listener, signals, engine(before))
}

fn inherited_listener() -> Result<UnixListener, Error> {
    let fail = |source: std::io::Error| Error::system("take the listening socket", source);
    let listens = |fd: &dyn AsFd| rustix::net::sockopt::socket_acceptconn(fd).unwrap_or(false);
    let stdin = std::io::stdin();
    if listens(&stdin) {
        let listener = rustix::io::fcntl_dupfd_cloexec(&stdin, 3).map_err(|e| fail(e.into()))?;
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|source| Error::path("open", "/dev/null", source))?;
        berth_kernel::duplicate_onto(&null, 0).map_err(|e| fail(e.into()))?;
        return Ok(UnixListener::from(listener));
    }
    let inherited: OwnedFd = berth_kernel::inherit(3).map_err(|e| fail(e.into()))?;
    if !listens(&inherited) {
        return Err(fail(std::io::ErrorKind::NotConnected.into()));
    }
    Ok(UnixListener::from(inherited))
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
