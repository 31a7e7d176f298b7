//! The process of a container and those executed beside it.

use std::collections::HashSet;
use std::str::FromStr;

use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxCapabilitiesBuilder, Process, ProcessBuilder,
    User, UserBuilder,
};

use super::{Inputs, labels};
use crate::error::{Error, Result};
use crate::request::Security;
use crate::user::ResolvedUser;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container may do unless told otherwise: the set that Docker made the convention.
const DEFAULT_CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

const ALL_CAPABILITIES: [Capability; 41] = [
    Capability::AuditControl,
    Capability::AuditRead,
    Capability::AuditWrite,
    Capability::BlockSuspend,
    Capability::Bpf,
    Capability::CheckpointRestore,
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::Kill,
    Capability::Lease,
    Capability::LinuxImmutable,
    Capability::MacAdmin,
    Capability::MacOverride,
    Capability::Mknod,
    Capability::NetAdmin,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetRaw,
    Capability::Perfmon,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysChroot,
    Capability::SysModule,
    Capability::SysNice,
    Capability::SysPacct,
    Capability::SysPtrace,
    Capability::SysRawio,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Syslog,
    Capability::WakeAlarm,
];

pub(super) fn container_process(inputs: &Inputs<'_>) -> Result<Process> {
    let request = inputs.request;
    let mut process = ProcessBuilder::default()
        .terminal(request.tty)
        .user(oci_user(inputs.user)?)
        .args(arguments(inputs)?)
        .env(environment(inputs))
        .cwd(working_dir(inputs)?)
        .capabilities(capabilities(&request.security)?)
        .no_new_privileges(request.security.no_new_privs)
        .build()?;
    let score = request
        .resources
        .oom_score_adj
        .map(|score| score.max(inputs.oom_score_floor));
    let labels = labels::of(&request.security)?;
    process
        .set_rlimits(None)
        .set_oom_score_adj(score)
        .set_apparmor_profile(labels.apparmor)
        .set_selinux_label(labels.selinux);
    Ok(process)
}

/// The process of an exec: the container's own, with another command.
pub fn exec_process(base: &Process, command: &[String], terminal: bool) -> Result<Process> {
    if command.is_empty() {
        return Err(Error::invalid(
            "cmd",
            "the command is empty: name a program to run",
        ));
    }
    let mut process = base.clone();
    process
        .set_args(Some(command.to_vec()))
        .set_terminal(Some(terminal));
    let mut env = process.env().clone().unwrap_or_default();
    if terminal && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
        process.set_env(Some(env));
    }
    Ok(process)
}

/// Entrypoint and command as Docker and Kubernetes combine them: a given command drops both of the
/// image's, given arguments drop the image's arguments only.
fn arguments(inputs: &Inputs<'_>) -> Result<Vec<String>> {
    let (request, image) = (inputs.request, inputs.image);
    let mut line: Vec<String> = Vec::new();
    if request.command.is_empty() {
        line.extend(image.entrypoint.iter().cloned());
        if request.args.is_empty() {
            line.extend(image.cmd.iter().cloned());
        }
    } else {
        line.extend(request.command.iter().cloned());
    }
    line.extend(request.args.iter().cloned());
    match line.first().map(String::as_str) {
        None => Err(Error::invalid(
            "command",
            "neither the request nor the image names a program to run",
        )),
        Some("") => Err(Error::invalid("command", "the program's name is empty")),
        Some(_) => Ok(line),
    }
}

fn working_dir(inputs: &Inputs<'_>) -> Result<String> {
    let chosen = [&inputs.request.working_dir, &inputs.image.working_dir]
        .into_iter()
        .find(|dir| !dir.is_empty());
    match chosen {
        None => Ok("/".to_owned()),
        Some(dir) if dir.starts_with('/') => Ok(dir.clone()),
        Some(dir) => Err(Error::invalid(
            "working_dir",
            format!("{dir:?} is not absolute"),
        )),
    }
}

/// The image's variables, then the request's over them; PATH, HOSTNAME and HOME where missing.
fn environment(inputs: &Inputs<'_>) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    if !inputs
        .image
        .env
        .iter()
        .any(|entry| entry.starts_with("PATH="))
    {
        env.push(DEFAULT_PATH.to_owned());
    }
    if !inputs.pod.request.hostname.is_empty() {
        env.push(format!("HOSTNAME={}", inputs.pod.request.hostname));
    }
    if inputs.request.tty {
        env.push("TERM=xterm".to_owned());
    }
    for entry in &inputs.image.env {
        set(&mut env, entry.clone());
    }
    for (key, value) in &inputs.request.envs {
        set(&mut env, format!("{key}={value}"));
    }
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", inputs.user.home));
    }
    env
}

fn set(env: &mut Vec<String>, entry: String) {
    let key = entry.split_once('=').map_or(entry.as_str(), |(key, _)| key);
    let place = env.iter().position(|present| {
        present
            .strip_prefix(key)
            .is_some_and(|rest| rest.starts_with('=') || rest.is_empty())
    });
    match place {
        Some(place) => env[place] = entry,
        None => env.push(entry),
    }
}

fn oci_user(user: &ResolvedUser) -> Result<User> {
    Ok(UserBuilder::default()
        .uid(user.identity.uid)
        .gid(user.identity.gid)
        .additional_gids(user.identity.additional_gids.clone())
        .build()?)
}

/// Inheritable stays empty (CVE-2022-24769) unless ambient capabilities, which need it, are asked.
fn capabilities(security: &Security) -> Result<LinuxCapabilities> {
    let mut set: Capabilities = if security.privileged {
        ALL_CAPABILITIES.into_iter().collect()
    } else {
        DEFAULT_CAPABILITIES.into_iter().collect()
    };
    if !security.privileged {
        adjust(
            &mut set,
            &security.add_capabilities,
            &security.drop_capabilities,
        )?;
    }
    let ambient = parse_all(
        &security.add_ambient_capabilities,
        "add_ambient_capabilities",
    )?;
    set.extend(ambient.iter().copied());
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(ambient.clone())
        .ambient(ambient)
        .build()?)
}

/// `ALL` first, then single names: "add ALL, drop X" and "drop ALL, add X" both mean what they say.
fn adjust(set: &mut Capabilities, add: &[String], drop: &[String]) -> Result<()> {
    let all = |names: &[String]| names.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let (add_all, drop_all) = (all(add), all(drop));
    if add_all {
        set.extend(ALL_CAPABILITIES);
    }
    if drop_all {
        set.clear();
    }
    set.extend(parse_all(add, "add_capabilities")?);
    for dropped in parse_all(drop, "drop_capabilities")? {
        set.remove(&dropped);
    }
    Ok(())
}

fn parse_all(names: &[String], field: &'static str) -> Result<HashSet<Capability>> {
    names
        .iter()
        .filter(|name| !name.eq_ignore_ascii_case("ALL"))
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            Capability::from_str(bare)
                .map_err(|_| Error::invalid(field, format!("{name:?} is not a capability")))
        })
        .collect()
}
