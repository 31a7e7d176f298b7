//! Programs that a spec has run at six points of a container's life (OCI
//! runtime specification, "POSIX-platform Hooks").

use berth_kernel::Errno;
use berth_kernel::rustix::event::{PollFd, PollFlags, Timespec, poll};
use berth_kernel::rustix::fs::{MemfdFlags, memfd_create};
use berth_kernel::rustix::process::Pid;
use oci_spec::runtime::{Hook, Spec};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// What a hook prints is for its error message; no more than this is read.
const MOST_OUTPUT: u64 = 1024;

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookPoint {
    /// Beside the runtime, when the namespaces are there; the old name.
    Prestart,
    CreateRuntime,
    /// In the container's namespaces, before its root is the root.
    CreateContainer,
    /// In the container, as its user, right before its program.
    StartContainer,
    /// Beside the runtime, when the program runs.
    Poststart,
    /// Beside the runtime, when the container is gone.
    Poststop,
}

impl HookPoint {
    const fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// The state that hooks of this point are told.
    const fn status(self) -> &'static str {
        match self {
            Self::Prestart | Self::CreateRuntime | Self::CreateContainer => "creating",
            Self::StartContainer => "created",
            Self::Poststart => "running",
            Self::Poststop => "stopped",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct HookPlan {
    point: HookPoint,
    path: PathBuf,
    args: Vec<String>,
    env: Vec<String>,
    timeout: Option<i64>,
}

/// All hooks of a container, and what they are told about it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Hooks {
    plans: Vec<HookPlan>,
    /// The state of the container but for its status and process.
    state: Value,
}

/// A hook that did not do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookFailure {
    pub point: HookPoint,
    pub path: PathBuf,
    /// What happened, in words.
    pub problem: String,
    pub(crate) errno: Errno,
}

impl std::fmt::Display for HookFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (point, path) = (self.point.name(), self.path.display());
        write!(f, "{point} hook {path}: {}", self.problem)
    }
}

impl Hooks {
    /// The hooks of a spec; value and problem of one that makes no sense.
    pub fn new(id: &str, bundle: &Path, spec: &Spec) -> Result<Self, (String, &'static str)> {
        let mut plans = Vec::new();
        if let Some(hooks) = spec.hooks() {
            #[allow(deprecated)] // still what many hooks are registered as
            let lists = [
                (HookPoint::Prestart, hooks.prestart()),
                (HookPoint::CreateRuntime, hooks.create_runtime()),
                (HookPoint::CreateContainer, hooks.create_container()),
                (HookPoint::StartContainer, hooks.start_container()),
                (HookPoint::Poststart, hooks.poststart()),
                (HookPoint::Poststop, hooks.poststop()),
            ];
            for (point, list) in lists {
                for hook in list.iter().flatten() {
                    plans.push(plan(point, hook)?);
                }
            }
        }
        let mut state = json!({
            "ociVersion": spec.version(),
            "id": id,
            "bundle": bundle,
        });
        if let Some(annotations) = spec.annotations() {
            state["annotations"] = json!(annotations);
        }
        Ok(Self { plans, state })
    }

    pub(crate) fn any(&self, points: &[HookPoint]) -> bool {
        self.plans.iter().any(|plan| points.contains(&plan.point))
    }

    /// The container's state, as hooks and seccomp agents are told it.
    pub(crate) fn state(&self, status: &str, pid: i32) -> Value {
        let mut state = self.state.clone();
        state["status"] = json!(status);
        state["pid"] = json!(pid);
        state
    }

    /// Runs the hooks of one point in their order, each after the other has
    /// ended well. `pid` is that of the container's process.
    pub fn run(&self, point: HookPoint, pid: i32) -> Result<(), HookFailure> {
        let state = self.state(point.status(), pid).to_string();
        let hooks = self.plans.iter().filter(|plan| plan.point == point);
        hooks.into_iter().try_for_each(|hook| run(hook, &state))
    }

    /// As [`Hooks::run`], for points at which a failure stops nothing: all
    /// are run, and the failures are for the log.
    pub fn run_all(&self, point: HookPoint, pid: i32) -> Vec<HookFailure> {
        let state = self.state(point.status(), pid).to_string();
        let hooks = self.plans.iter().filter(|plan| plan.point == point);
        hooks.filter_map(|hook| run(hook, &state).err()).collect()
    }
}

fn plan(point: HookPoint, hook: &Hook) -> Result<HookPlan, (String, &'static str)> {
    let path = hook.path();
    if !path.is_absolute() {
        return Err((path.display().to_string(), "is not absolute"));
    }
    if hook.timeout().is_some_and(|seconds| seconds <= 0) {
        return Err((
            path.display().to_string(),
            "has a timeout that is not positive",
        ));
    }
    Ok(HookPlan {
        point,
        path: path.clone(),
        args: hook.args().clone().unwrap_or_default(),
        env: hook.env().clone().unwrap_or_default(),
        timeout: hook.timeout(),
    })
}

fn run(hook: &HookPlan, state: &str) -> Result<(), HookFailure> {
    let failed = |problem: String, errno| HookFailure {
        point: hook.point,
        path: hook.path.clone(),
        problem,
        errno,
    };
    let io = |error: std::io::Error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        failed(error.to_string(), errno)
    };
    let (child, mut output) = spawn(hook, state).map_err(io)?;
    let ended = wait(child, hook.timeout).map_err(io)?;
    let problem = match ended {
        Some(status) if status.success() => return Ok(()),
        Some(status) => status.to_string(),
        None => format!("did not end within {} s", hook.timeout.unwrap_or_default()),
    };
    let said = said(&mut output);
    let problem = if said.is_empty() {
        problem
    } else {
        format!("{problem}: {said}")
    };
    Err(failed(problem, Errno::CANCELED))
}

/// Files of memory instead of pipes: a hook that reads nothing, or prints
/// much, holds nobody up.
fn spawn(hook: &HookPlan, state: &str) -> std::io::Result<(Child, File)> {
    let memory = |name| memfd_create(name, MemfdFlags::CLOEXEC).map(File::from);
    let mut input = memory("state")?;
    input.write_all(state.as_bytes())?;
    input.seek(SeekFrom::Start(0))?;
    let output = memory("output")?;
    let mut command = Command::new(&hook.path);
    if let Some((name, arguments)) = hook.args.split_first() {
        command.arg0(name).args(arguments);
    }
    let environment = hook.env.iter().filter_map(|entry| entry.split_once('='));
    let child = command
        .env_clear()
        .envs(environment)
        .stdin(input)
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .spawn()?;
    Ok((child, output))
}

/// `None` for a hook that was killed because its time was over.
fn wait(
    mut child: Child,
    timeout: Option<i64>,
) -> std::io::Result<Option<std::process::ExitStatus>> {
    let Some(seconds) = timeout else {
        return child.wait().map(Some);
    };
    let pidfd = berth_kernel::pidfd_open(Pid::from_child(&child))?;
    let patience = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let over = loop {
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&patience)) {
            Err(Errno::INTR) => {}
            Ok(ready) => break ready == 0,
            Err(errno) => return Err(errno.into()),
        }
    };
    if over {
        child.kill()?;
    }
    let status = child.wait()?;
    Ok((!over).then_some(status))
}

fn said(output: &mut File) -> String {
    let mut text = Vec::new();
    let read = output
        .seek(SeekFrom::Start(0))
        .and_then(|_| output.take(MOST_OUTPUT).read_to_end(&mut text));
    match read {
        Ok(_) => String::from_utf8_lossy(&text).trim().replace('\n', "; "),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(list: Value) -> Result<Hooks, (String, &'static str)> {
        let spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.2.0", "annotations": {"a": "b"}, "hooks": list,
        }))
        .unwrap();
        Hooks::new("c1", Path::new("/bundle"), &spec)
    }

    fn shell(script: &str, timeout: Option<i64>) -> Value {
        let mut hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script]});
        if let Some(timeout) = timeout {
            hook["timeout"] = json!(timeout);
        }
        hook
    }

    #[test]
    fn a_hook_is_told_the_state_and_has_no_other_environment() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("seen");
        let mut hook = shell("cat >$SEEN; env | grep -c = >>$SEEN", None);
        hook["env"] = json!([format!("SEEN={}", file.display())]);
        let hooks = hooks(json!({"poststart": [hook]})).unwrap();
        hooks.run(HookPoint::Poststart, 42).unwrap();
        let seen = std::fs::read_to_string(&file).unwrap();
        let (state, _) = seen.split_once('}').unwrap();
        assert!(state.starts_with('{'), "{seen}");
        for part in [
            "\"id\":\"c1\"",
            "\"pid\":42",
            "\"status\":\"running\"",
            "\"bundle\":\"/bundle\"",
        ] {
            assert!(seen.contains(part), "{seen}");
        }
    }

    #[test]
    fn the_first_that_fails_ends_a_series_and_says_why() {
        let list = json!({"createRuntime": [
            shell("true", None),
            shell("echo no disk >&2; exit 3", None),
            shell("exit 4", None),
        ]});
        let hooks = hooks(list).unwrap();
        let failure = hooks.run(HookPoint::CreateRuntime, 1).unwrap_err();
        let text = failure.to_string();
        assert!(text.starts_with("createRuntime hook /bin/sh: "), "{text}");
        assert!(text.contains('3') && text.ends_with(": no disk"), "{text}");
        assert_eq!(hooks.run_all(HookPoint::CreateRuntime, 1).len(), 2);
        assert!(hooks.run(HookPoint::Poststop, 1).is_ok());
    }

    #[test]
    fn a_hook_that_takes_too_long_is_ended() {
        let hooks = hooks(json!({"poststop": [shell("exec sleep 600", Some(1))]})).unwrap();
        let failure = hooks.run(HookPoint::Poststop, 1).unwrap_err();
        assert_eq!(failure.problem, "did not end within 1 s");
    }

    #[test]
    fn hooks_that_make_no_sense_are_refused() {
        assert!(hooks(json!({"poststop": [{"path": "bin/true"}]})).is_err());
        assert!(hooks(json!({"poststop": [{"path": "/bin/true", "timeout": 0}]})).is_err());
        assert!(hooks(json!({})).is_ok());
    }
}
