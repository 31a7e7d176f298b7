//! The process of a container and those executed beside it.

use std::str::FromStr;

use oci_spec::runtime::{
    PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, ProcessBuilder, User, UserBuilder,
};

use super::{Inputs, capabilities};
use crate::error::{Error, Result};
use crate::request::Rlimit;
use crate::user::ResolvedUser;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn container_process(inputs: &Inputs<'_>) -> Result<Process> {
    let request = inputs.request;
    let mut process = ProcessBuilder::default()
        .terminal(request.tty)
        .user(oci_user(inputs.user)?)
        .args(arguments(inputs)?)
        .env(environment(inputs))
        .cwd(working_dir(inputs)?)
        .capabilities(capabilities::of(&request.security, inputs.capabilities)?)
        .no_new_privileges(request.security.no_new_privs)
        .build()?;
    let score = request
        .resources
        .oom_score_adj
        .map(|score| score.max(inputs.oom_score_floor));
    let labels = inputs.labels()?;
    process
        .set_rlimits(rlimits(&request.rlimits)?)
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
        set_variable(&mut env, entry.clone());
    }
    for (key, value) in &inputs.request.envs {
        set_variable(&mut env, format!("{key}={value}"));
    }
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", inputs.user.home));
    }
    env
}

pub fn set_variable(env: &mut Vec<String>, entry: String) {
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

/// `None` leaves those of the daemon.
fn rlimits(wanted: &[Rlimit]) -> Result<Option<Vec<PosixRlimit>>> {
    let limit = |wanted: &Rlimit| {
        let named = PosixRlimitType::from_str(&wanted.name);
        let problem = format!("{:?} is not a resource limit", wanted.name);
        Ok(PosixRlimitBuilder::default()
            .typ(named.map_err(|_| Error::invalid("rlimits", problem))?)
            .soft(wanted.soft)
            .hard(wanted.hard)
            .build()?)
    };
    let all = wanted.iter().map(limit).collect::<Result<Vec<_>>>()?;
    Ok(Some(all).filter(|all| !all.is_empty()))
}

fn oci_user(user: &ResolvedUser) -> Result<User> {
    Ok(UserBuilder::default()
        .uid(user.identity.uid)
        .gid(user.identity.gid)
        .additional_gids(user.identity.additional_gids.clone())
        .build()?)
}
