use super::id;
use crate::arguments::{Arguments, Flag, switch, value};
use crate::bundle;
use crate::error::{Error, Result};
use crate::global::Global;
use crate::images::{self, make_directory};
use crate::journal::Journal;
use crate::state::{State, Status};
use crate::store::{self, Entry};
use berth_criu::{dump, log, outside};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

pub const FLAGS: &[Flag] = &[
    images::IMAGE_PATH,
    images::WORK_PATH,
    value(
        "parent-path",
        "",
        "path for previous criu image files in pre-dump, relative to the images",
    ),
    switch(
        "leave-running",
        "",
        "leave the process running after checkpointing",
    ),
    images::TCP_ESTABLISHED,
    switch("tcp-skip-in-flight", "", "skip in-flight tcp connections"),
    switch(
        "link-remap",
        "",
        "allow one to link unlinked files back when possible",
    ),
    images::EXT_UNIX_SK,
    images::SHELL_JOB,
    images::LAZY_PAGES,
    value("status-fd", "", "where lazy pages are told (not supported)"),
    value("page-server", "", "ADDRESS:PORT of the page server"),
    images::FILE_LOCKS,
    switch(
        "pre-dump",
        "",
        "dump memory only, leave the container running after this",
    ),
    images::MANAGE_CGROUPS,
    images::EMPTY_NS,
    images::AUTO_DEDUP,
];

pub fn run(global: &Global, _: &Journal, given: &Arguments) -> Result<u8> {
    images::refuse(given)?;
    let entry = Entry::find(&global.root, id(given))?;
    let state = entry.state()?;
    match store::status(&global.root, &state)? {
        Status::Running => {}
        status => {
            return Err(Error::CheckpointIn {
                status: status.name(),
            });
        }
    }
    if state.container.shares_mounts() {
        return Err(Error::Unsupported {
            feature: "checkpoint of a container without a mount namespace of its own",
            instead: "criu finds no mount table of it",
        });
    }
    let criu = images::criu()?;
    let images = images::image_path(given)?;
    make_directory(&images)?;
    let work = images::work_path(given, &images)?;
    let mut options = images::dump_options(given, &images)?;
    let spec = bundle::spec(&state.bundle)?;
    options.empty_network = outside::owns_network(&spec);
    let init = state.container.pid.unsigned_abs();
    if !options.pre_dump {
        write_streams(init, &images)?;
    }
    let dump = dump::Dump {
        init,
        images: &images,
        work: &work,
        options: &options,
    };
    let arguments = dump::arguments(&dump, &outside::of_dump(init, &spec));
    let status = Command::new(criu)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(Error::system("run criu"))?;
    if !status.success() {
        let log = fs::read(work.join(dump::LOG)).unwrap_or_default();
        return Err(Error::Criu {
            status: status.to_string(),
            reason: log::errors(&String::from_utf8_lossy(&log)),
        });
    }
    if !options.leave_running && !options.pre_dump {
        forget(entry, &state)?;
    }
    Ok(0)
}

fn write_streams(init: u32, images: &Path) -> Result<()> {
    let path = images.join(outside::DESCRIPTORS);
    let text = serde_json::to_vec(&outside::streams(init)).map_err(|source| Error::Json {
        path: path.clone(),
        source,
    })?;
    fs::write(&path, text).map_err(Error::io("write", &path))
}

/// criu has ended the processes; the rest goes as with `delete`.
fn forget(entry: Entry, state: &State) -> Result<()> {
    super::delete::end(state)?;
    entry.remove()
}
