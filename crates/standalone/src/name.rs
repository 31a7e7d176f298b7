//! Names of containers and volumes.

use crate::error::{Error, Result};

/// Docker's rule for names, without the slash that its API puts before them.
const RULE: &str = "[a-zA-Z0-9][a-zA-Z0-9_.-]+";

/// A container's name as a request has it, with or without the slash.
pub fn container(given: &str) -> Result<String> {
    let name = given.strip_prefix('/').unwrap_or(given);
    if is_valid(name) {
        return Ok(name.to_owned());
    }
    Err(Error::invalid(format!(
        "Invalid container name ({given}), only {RULE} are allowed"
    )))
}

pub fn volume(name: &str) -> Result<()> {
    if is_valid(name) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
         \"{RULE}\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

pub fn checkpoint(name: &str) -> Result<()> {
    match is_valid(name) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "Invalid checkpoint ID ({name}), only {RULE} are allowed"
        ))),
    }
}

fn is_valid(name: &str) -> bool {
    let mut characters = name.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_alphanumeric());
    let mut rest = characters.as_str().chars();
    first
        && name.len() > 1
        && rest.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

const MANNERS: [&str; 32] = [
    "able", "brisk", "calm", "clear", "deft", "eager", "fair", "firm", "fond", "gentle", "glad",
    "hardy", "keen", "kind", "lively", "loyal", "merry", "mild", "neat", "noble", "patient",
    "proud", "quick", "quiet", "ready", "sharp", "sober", "steady", "sunny", "swift", "warm",
    "wise",
];
const THINGS: [&str; 32] = [
    "anchor", "barge", "beacon", "bollard", "bow", "buoy", "capstan", "channel", "cutter", "deck",
    "dinghy", "ferry", "gangway", "halyard", "harbour", "hawser", "helm", "hull", "jetty", "keel",
    "ketch", "lagoon", "mast", "mooring", "pier", "quay", "rudder", "sail", "sloop", "tide",
    "wharf", "yawl",
];

/// A name for a container that was given none; a number is added where `taken` is crowded.
pub fn made_up(taken: impl Fn(&str) -> bool) -> String {
    let pick = |words: &[&'static str]| words.get(fastrand::usize(..words.len())).copied();
    for attempt in 0.. {
        let (manner, thing) = (pick(&MANNERS), pick(&THINGS));
        let mut name = format!("{}_{}", manner.unwrap_or("able"), thing.unwrap_or("anchor"));
        if attempt > 4 {
            name.push_str(&fastrand::u32(..).to_string());
        }
        if !taken(&name) {
            return name;
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_docker_takes() {
        for good in ["/web", "web_1", "a.b-c", "0a"] {
            assert!(container(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "a", "-a", "a b", "a/b", "ä-b", "//ab"] {
            assert!(container(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_made_up_name_is_free() {
        let name = made_up(|name| !name.chars().any(|c| c.is_ascii_digit()));
        assert!(name.chars().any(|c| c.is_ascii_digit()), "{name}");
        assert!(container(&name).is_ok());
    }
}
