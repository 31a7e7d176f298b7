//! The process of an exec: from a file, or the container's own with changes.

use crate::arguments::Arguments;
use crate::bundle;
use crate::error::{Error, Result};
use crate::state::State;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities, Process};
use std::path::Path;

pub fn of_exec(state: &State, given: &Arguments) -> Result<Process> {
    if let Some(file) = given.value("process") {
        return bundle::parse(Path::new(file));
    }
    let program = given.words.get(1..).unwrap_or_default();
    if program.is_empty() {
        return Err(Error::NoProgram);
    }
    let mut process = bundle::process(&state.bundle)?.unwrap_or_default();
    process
        .set_args(Some(program.to_vec()))
        // A terminal only if this exec asks for one.
        .set_terminal(Some(given.is_on("tty")));
    if let Some(directory) = given.value("cwd") {
        process.set_cwd(directory.into());
    }
    if let Some(profile) = given.value("apparmor") {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    if let Some(label) = given.value("process-label") {
        process.set_selinux_label(Some(label.to_owned()));
    }
    if given.is_given("no-new-privs") {
        process.set_no_new_privileges(Some(given.is_on("no-new-privs")));
    }
    add_capabilities(&mut process, &given.list("cap"))?;
    add_environment(&mut process, &given.list("env"));
    change_user(&mut process, given)?;
    Ok(process)
}

fn add_environment(process: &mut Process, more: &[&str]) {
    if more.is_empty() {
        return;
    }
    let mut environment = process.env().clone().unwrap_or_default();
    environment.extend(more.iter().map(ToString::to_string));
    process.set_env(Some(environment));
}

/// To the bounding, effective and permitted sets, and to the ambient one if
/// the process can inherit at all, as ambient needs inheritable.
fn add_capabilities(process: &mut Process, names: &[&str]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let more = names
        .iter()
        .map(|name| {
            let known = serde_json::from_value::<Capability>((*name).into());
            known.map_err(|_| Error::InvalidOption {
                name: "cap",
                value: (*name).to_owned(),
            })
        })
        .collect::<Result<Capabilities>>()?;
    let mut sets: LinuxCapabilities = process.capabilities().clone().unwrap_or_default();
    let with = |set: &Option<Capabilities>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(more.iter().copied());
        Some(set)
    };
    let (bounding, effective) = (with(sets.bounding()), with(sets.effective()));
    let (permitted, ambient) = (with(sets.permitted()), with(sets.ambient()));
    sets.set_bounding(bounding)
        .set_effective(effective)
        .set_permitted(permitted);
    if sets.inheritable().is_some() {
        sets.set_ambient(ambient);
    }
    process.set_capabilities(Some(sets));
    Ok(())
}

fn change_user(process: &mut Process, given: &Arguments) -> Result<()> {
    let number = |what, text: &str| {
        text.parse::<u32>().map_err(|_| Error::User {
            what,
            value: text.to_owned(),
        })
    };
    let mut user = process.user().clone();
    if let Some(wanted) = given.value("user") {
        let (uid, gid) = match wanted.split_once(':') {
            Some((uid, gid)) => (uid, Some(gid)),
            None => (wanted, None),
        };
        user.set_uid(number("uid", uid)?);
        if let Some(gid) = gid {
            user.set_gid(number("gid", gid)?);
        }
    }
    let more = given.list("additional-gids");
    if !more.is_empty() {
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        for group in more {
            groups.push(number("additional gid", group)?);
        }
        user.set_additional_gids(Some(groups));
    }
    process.set_user(user);
    Ok(())
}
