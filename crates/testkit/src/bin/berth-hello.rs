//! The only program of the demo's image. It greets and waits until it is told
//! to stop; with `show` it prints what a process sees from where it runs.
//!
//! It is linked statically and needs nothing beside it.

use std::fs;
use std::io;
use std::process::{self, ExitCode};

use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        None => greet_and_wait(),
        Some("show") => show(),
        Some(other) => Err(io::Error::other(format!(
            "unknown argument {other:?}; known is: show"
        ))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("berth-hello: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The first process of a pid namespace gets only the signals that it handles,
/// so that one without a handler would have to be killed.
fn greet_and_wait() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        println!("Hello from {}, process {}.", host_name()?, process::id());
        eprintln!("This line goes to standard error.");
        terminate.recv().await;
        println!("Told to stop. Goodbye.");
        Ok(())
    })
}

fn show() -> io::Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let of_status = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| value.split_whitespace().collect::<Vec<_>>().join(" "))
            .unwrap_or_default()
    };
    println!("host name     {}", host_name()?);
    println!("process       {}", process::id());
    println!("user          {}", of_status("Uid"));
    println!("processes     {}", entries("/proc", is_number)?.join(" "));
    println!("files         {}", entries("/", |_| true)?.join(" "));
    println!("interfaces    {}", interfaces()?.join(" "));
    println!("capabilities  {}", of_status("CapEff"));
    println!("seccomp       mode {}", of_status("Seccomp"));
    Ok(())
}

fn host_name() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned())
}

fn entries(directory: &str, wanted: fn(&str) -> bool) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if wanted(&name) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn is_number(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit())
}

fn interfaces() -> io::Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/net/dev")?;
    let names = table
        .lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'));
    Ok(names.map(|(name, _)| name.trim().to_owned()).collect())
}
