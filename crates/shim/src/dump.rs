//! A container is written down by criu, which the shim starts and reaps as any other child: while it
//! reads gigabytes of memory, everybody else is answered.

use std::path::Path;
use std::process::{Command, Stdio};

use berth_criu::{dump, outside};
use berth_executor::Container;
use containerd_shim_protos::ttrpc::proto::Code;
use oci_spec::runtime::Spec;

use crate::engine::Dump;
use crate::status::EngineError;

/// Starts criu; its pid.
pub fn begin(container: &Container, spec: &Spec, wanted: &Dump) -> Result<i32, EngineError> {
    let init = container.pid().unsigned_abs();
    write_streams(init, &wanted.images)?;
    let cgroup = container.cgroup();
    let frozen = wanted.paused.then(|| cgroup.freezer_directory());
    let frozen = frozen.transpose().map_err(failed("find the freezer"))?;
    let options = dump::Options {
        leave_running: wanted.leave_running,
        // A restore closes connections and sockets to the outside.
        tcp_established: true,
        ext_unix_sk: true,
        file_locks: true,
        shell_job: wanted.shell_job,
        empty_network: outside::owns_network(spec),
        frozen: frozen.map(Path::to_owned),
        ..dump::Options::default()
    };
    let dump = dump::Dump {
        init,
        images: &wanted.images,
        work: &wanted.work,
        options: &options,
    };
    let child = Command::new(&wanted.criu)
        .args(dump::arguments(&dump, &outside::of_dump(init, spec)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed("run criu"))?;
    Ok(child.id().cast_signed())
}

/// What a restore replaces by streams of its own.
fn write_streams(init: u32, images: &Path) -> Result<(), EngineError> {
    let names = serde_json::json!(outside::streams(init)).to_string();
    let path = images.join(outside::DESCRIPTORS);
    std::fs::write(path, names).map_err(failed("write the names of the streams"))
}

fn failed<E>(operation: &'static str) -> impl FnOnce(E) -> EngineError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| EngineError::Step {
        operation,
        code: Code::INTERNAL,
        source: Box::new(source),
    }
}
