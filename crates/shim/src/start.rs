//! `start` of the standard shim protocol: leaves a serving shim behind and
//! prints its address.

use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::args::Args;
use crate::status::Error;

const DEFAULT_RUN_DIR: &str = "/run/berth";
/// By this variable containerd says where it takes events.
const EVENTS: &str = "TTRPC_ADDRESS";

/// Starts a shim for `args.id` and returns its address. One shim serves one
/// container: a second `start` for the same id gives the address of the first.
pub fn start(args: &Args) -> Result<String, Error> {
    let directory = socket_dir(&args.address);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&directory)
        .map_err(|source| Error::path("create", &directory, source))?;
    let socket = directory.join(socket_name(args));
    let address = format!("unix://{}", socket.display());
    if UnixStream::connect(&socket).is_ok() {
        return Ok(address);
    }
    let listener = bind(&socket)?;
    let spawned = spawn(args, &socket, listener);
    if spawned.is_err() {
        let _ = std::fs::remove_file(&socket);
    }
    spawned?;
    // Where older daemons look for a shim after their own restart.
    std::fs::write("address", &address)
        .map_err(|source| Error::path("write", "address", source))?;
    Ok(address)
}

/// Removes the socket that a shim started with these arguments used.
pub fn remove_socket(args: &Args) {
    let _ = std::fs::remove_file(socket_dir(&args.address).join(socket_name(args)));
}

fn bind(socket: &Path) -> Result<UnixListener, Error> {
    let _ = std::fs::remove_file(socket);
    let listener =
        UnixListener::bind(socket).map_err(|source| Error::path("bind", socket, source))?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))
        .map_err(|source| Error::path("restrict", socket, source))?;
    Ok(listener)
}

/// Runs this program again as `serve`, with the socket as its standard input.
/// What a container executes may be this program, by a link of procfs: it is
/// run from where nobody writes.
fn spawn(args: &Args, socket: &Path, listener: UnixListener) -> Result<(), Error> {
    let log = crate::journal::open(Path::new("shim.log"))?;
    let own = Path::new("/proc/self/exe");
    let view = berth_kernel::read_only_view(own);
    let program = match &view {
        Ok(view) => PathBuf::from(format!("/proc/self/fd/{}", view.as_raw_fd())),
        Err(_) => own.to_owned(),
    };
    let mut command = Command::new(program);
    if let Some(events) = std::env::var_os(EVENTS).filter(|path| !path.is_empty()) {
        command.arg("-events").arg(events);
    }
    command
        .args(["-namespace", &args.namespace, "-id", &args.id, "-socket"])
        .arg(socket)
        .arg("serve")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        .spawn()
        .map(drop)
        .map_err(|source| Error::path("execute", own, source))
}

fn socket_dir(address: &Path) -> PathBuf {
    let run_dir = match address.parent() {
        Some(parent) if parent.is_absolute() => parent,
        _ => Path::new(DEFAULT_RUN_DIR),
    };
    run_dir.join("s")
}

/// A bundle's path may be longer than a socket address, so sockets are named by
/// a hash of what makes a shim unique (FNV-1a, 128 bits).
fn socket_name(args: &Args) -> String {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let parts = [
        args.address.as_os_str().as_encoded_bytes(),
        args.namespace.as_bytes(),
        args.id.as_bytes(),
    ];
    for part in parts {
        for byte in part.iter().chain([&0]) {
            hash = (hash ^ u128::from(*byte)).wrapping_mul(PRIME);
        }
    }
    format!("{hash:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_container_has_its_own_short_socket_name() {
        let args = |namespace: &str, id: &str| Args {
            namespace: namespace.into(),
            id: id.into(),
            ..Args::default()
        };
        let names = [
            args("a", "b"),
            args("ab", ""),
            args("", "ab"),
            args("a", "c"),
        ];
        let unique: std::collections::BTreeSet<_> = names.iter().map(socket_name).collect();
        assert_eq!(unique.len(), 4);
        assert_eq!(socket_name(&args("a", "b")), socket_name(&args("a", "b")));
        assert!(unique.iter().all(|name| name.len() == 32));
    }
}
