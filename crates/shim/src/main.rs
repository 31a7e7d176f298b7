//! `containerd-shim-berth-v1`: see the library's documentation.

use std::io::Write;
use std::process::ExitCode;

use berth_shim::args::Args;
use berth_shim::dispatch::delete_response;
use berth_shim::oci::OciEngine;
use berth_shim::status::chain;
use berth_shim::{cleanup, copy, info, serve, start, zygote};
use containerd_shim_protos::protobuf::Message;

const WRONG_USE: u8 = 2;

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(error) => return wrong_use(&error.to_string()),
    };
    if args.version {
        println!("containerd-shim-berth-v1 {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let done: Result<(), Box<dyn std::error::Error>> = match args.action.as_str() {
        "" if args.info => print_info(),
        "serve" => serve::serve(&args, OciEngine::new).map_err(Into::into),
        "zygote" => zygote::run(OciEngine::on_known_host()).map_err(Into::into),
        "copy" if !args.id.is_empty() => copy::copy(&args).map_err(Into::into),
        "start" if !args.id.is_empty() => print_address(&args),
        "delete" if !args.id.is_empty() => delete(&args),
        "start" | "delete" | "copy" => return wrong_use("-id is missing"),
        action => return wrong_use(&format!("unknown action {action:?}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn print_info() -> Result<(), Box<dyn std::error::Error>> {
    std::io::stdout().write_all(&info::info()?)?;
    Ok(())
}

fn print_address(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let address = start::start(args)?;
    std::io::stdout().write_all(address.as_bytes())?;
    Ok(())
}

/// Prints the answer to `delete` as an encoded message. Without `-bundle` the
/// bundle is the working directory.
fn delete(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let bundle = match args.bundle.as_os_str().is_empty() {
        true => std::env::current_dir()?,
        false => args.bundle.clone(),
    };
    let (pid, exit) = cleanup::clean_up(&args.id, &bundle)?;
    start::remove_socket(args);
    let answer = delete_response(pid, &exit).write_to_bytes()?;
    std::io::stdout().write_all(&answer)?;
    Ok(())
}

fn wrong_use(problem: &str) -> ExitCode {
    complain(problem);
    complain(
        "usage: containerd-shim-berth-v1 -namespace NS -id ID -address SOCKET [-bundle DIR] start|delete",
    );
    ExitCode::from(WRONG_USE)
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "containerd-shim-berth-v1: {text}");
}
