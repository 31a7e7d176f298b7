//! A shim whose containers are plain processes of the host: everything of a
//! shim but the isolation. The tests drive it where containers need privileges
//! that the test may not have.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use berth_kernel::rustix::process::{Pid, Signal, kill_process_group};
use berth_shim::args::Args;
use berth_shim::engine::{Checkpoint, ChildStdio, Dump, Engine, Metrics, RootMount, Spawned};
use berth_shim::serve::serve;
use berth_shim::status::EngineError;
use berth_shim::zygote;
use containerd_shim_protos::ttrpc::proto::Code;

#[derive(Default)]
struct Processes {
    bundle: PathBuf,
    gate: Option<File>,
    groups: Vec<Pid>,
}

fn failed<E>(operation: &'static str) -> impl FnOnce(E) -> EngineError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |source| EngineError::Step {
        operation,
        code: Code::INTERNAL,
        source: source.into(),
    }
}

impl Processes {
    fn spawn(&mut self, mut command: Command, stdio: ChildStdio) -> Result<Spawned, EngineError> {
        let mut terminal = None;
        let (stdin, stdout, stderr): (OwnedFd, OwnedFd, OwnedFd) = match stdio {
            ChildStdio::Files {
                stdin,
                stdout,
                stderr,
            } => (stdin, stdout, stderr),
            ChildStdio::Terminal => {
                let pty = berth_kernel::open_pty().map_err(failed("open terminal"))?;
                terminal = Some(pty.master);
                let copy = || pty.slave.try_clone().map_err(failed("copy terminal"));
                (copy()?, copy()?, copy()?)
            }
        };
        command
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0);
        let child = command.spawn().map_err(failed("spawn"))?;
        let pid = child.id().cast_signed();
        let process = Pid::from_child(&child);
        self.groups.push(process);
        Ok(Spawned {
            pid,
            pidfd: berth_kernel::pidfd_open(process).map_err(failed("open pidfd"))?,
            terminal,
        })
    }

    fn signal_groups(&self, signal: Signal) {
        for group in &self.groups {
            let _ = kill_process_group(*group, signal);
        }
    }
}

fn arguments(process: &serde_json::Value) -> Vec<String> {
    let args = process.get("args").and_then(serde_json::Value::as_array);
    let words = args
        .into_iter()
        .flatten()
        .filter_map(serde_json::Value::as_str);
    words.map(str::to_owned).collect()
}

impl Engine for Processes {
    fn create(
        &mut self,
        _id: &str,
        bundle: &Path,
        _rootfs: &[RootMount],
        stdio: ChildStdio,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Spawned, EngineError> {
        if checkpoint.is_some() {
            return Err(EngineError::Step {
                operation: "restore",
                code: Code::UNIMPLEMENTED,
                source: "ordinary processes have no checkpoints".into(),
            });
        }
        self.bundle = bundle.to_owned();
        let config = std::fs::read(bundle.join("config.json")).map_err(failed("read config"))?;
        let config: serde_json::Value =
            serde_json::from_slice(&config).map_err(failed("parse config"))?;
        let gate = bundle.join("gate");
        berth_kernel::make_fifo(&gate, 0o600).map_err(failed("make gate"))?;
        self.gate = Some(
            File::options()
                .read(true)
                .write(true)
                .open(&gate)
                .map_err(failed("open gate"))?,
        );
        let mut command = Command::new("sh");
        command
            .args(["-c", "read go < \"$0\"; exec \"$@\""])
            .arg(gate)
            .args(arguments(&config["process"]));
        self.spawn(command, stdio)
    }

    fn start(&mut self) -> Result<(), EngineError> {
        match &mut self.gate {
            Some(gate) => gate.write_all(b"go\n").map_err(failed("open gate")),
            None => Ok(()),
        }
    }

    fn exec(&mut self, process: &[u8], stdio: ChildStdio) -> Result<Spawned, EngineError> {
        let process = serde_json::from_slice(process).map_err(failed("parse process"))?;
        let words = arguments(&process);
        let mut command = Command::new(words.first().map_or("false", String::as_str));
        command.args(words.iter().skip(1));
        self.spawn(command, stdio)
    }

    fn signal_all(&mut self, signal: i32) -> Result<(), EngineError> {
        let signal = Signal::from_named_raw(signal)
            .ok_or("unknown signal")
            .map_err(failed("signal"))?;
        self.signal_groups(signal);
        Ok(())
    }

    fn pause(&mut self) -> Result<(), EngineError> {
        self.signal_all(Signal::STOP.as_raw())
    }

    fn resume(&mut self) -> Result<(), EngineError> {
        self.signal_all(Signal::CONT.as_raw())
    }

    /// By whatever program is named, which is told where to write.
    fn checkpoint(&mut self, _bundle: &Path, dump: &Dump) -> Result<i32, EngineError> {
        let mut command = Command::new(&dump.criu);
        command.arg(&dump.images);
        let child = command.spawn().map_err(failed("spawn"))?;
        Ok(child.id().cast_signed())
    }

    fn update(&mut self, resources: &[u8]) -> Result<(), EngineError> {
        std::fs::write(self.bundle.join("resources.json"), resources).map_err(failed("update"))
    }

    fn pids(&mut self) -> Result<Vec<i32>, EngineError> {
        Ok(self
            .groups
            .iter()
            .map(|group| group.as_raw_nonzero().get())
            .collect())
    }

    fn stats(&mut self) -> Result<Metrics, EngineError> {
        Ok(Metrics {
            type_url: "test".into(),
            value: vec![1, 2, 3],
        })
    }

    fn oom_killed(&mut self, _killed_by_another: bool) -> bool {
        self.bundle.join("oom").exists()
    }

    fn init_exited(&mut self) {}

    fn delete(&mut self, _force: bool) -> Result<(), EngineError> {
        self.signal_groups(Signal::KILL);
        Ok(())
    }
}

fn main() -> ExitCode {
    let Ok(args) = Args::parse(std::env::args_os().skip(1)) else {
        return ExitCode::from(2);
    };
    let served = match args.action.as_str() {
        "zygote" => zygote::run(|_before| Processes::default()),
        _ => serve(&args, |_before| Processes::default()),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", berth_shim::status::chain(&error));
            ExitCode::FAILURE
        }
    }
}
