//! `docker-plugins`: links to this program, where Docker's client looks for plugins.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::NAMES;
use crate::commands::Outcome;
use crate::error::{Error, Result};
use crate::logins;
use crate::output::print_line;

#[derive(Debug, Subcommand)]
pub enum Plugins {
    /// Have `docker build`, `docker buildx` and, with --compose, `docker compose` done by this program
    Install(Install),
    /// Take that back
    Remove(Remove),
}

#[derive(Debug, Args)]
pub struct Install {
    /// `docker compose`, too
    #[arg(long)]
    compose: bool,
    /// In place of plugins that are there
    #[arg(long)]
    force: bool,
    /// Where to [default: cli-plugins in ~/.docker; for everybody /usr/libexec/docker/cli-plugins]
    directory: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Remove {
    /// Where from [default: cli-plugins in ~/.docker]
    directory: Option<PathBuf>,
}

fn directory(given: Option<PathBuf>) -> PathBuf {
    given.unwrap_or_else(|| logins::directory().join("cli-plugins"))
}

/// This program, wherever links lead to it from.
fn own() -> Result<PathBuf> {
    std::env::current_exe().map_err(Error::file("finding", "berth"))
}

impl Plugins {
    pub fn run(self) -> Outcome {
        match self {
            Self::Install(command) => {
                let place = directory(command.directory);
                let wanted = |name: &str| command.compose || name != "docker-compose";
                let names = NAMES
                    .iter()
                    .map(|(name, ..)| *name)
                    .filter(|name| wanted(name));
                install(&own()?, &place, names, command.force)?;
            }
            Self::Remove(command) => remove(&own()?, &directory(command.directory))?,
        }
        Ok(0)
    }
}

fn install<'a>(
    program: &Path,
    place: &Path,
    names: impl Iterator<Item = &'a str>,
    force: bool,
) -> Result<()> {
    fs::create_dir_all(place).map_err(Error::file("making", place))?;
    for name in names {
        let link = place.join(name);
        let is_there = link.symlink_metadata().is_ok();
        if is_there && !force && fs::read_link(&link).ok().as_deref() != Some(program) {
            return Err(Error::usage(format!(
                "{} is there, and not of this program: --force replaces it",
                link.display()
            )));
        }
        // Whoever runs it meanwhile finds the one or the other.
        let fresh = place.join(format!(".{name}.new"));
        let _left = fs::remove_file(&fresh);
        symlink(program, &fresh)
            .and_then(|()| fs::rename(&fresh, &link))
            .map_err(Error::file("making", &link))?;
        print_line(&link.display().to_string())?;
    }
    Ok(())
}

/// Only what leads here.
fn remove(program: &Path, place: &Path) -> Result<()> {
    for (name, ..) in NAMES {
        let link = place.join(name);
        if fs::read_link(&link).ok().as_deref() == Some(program) {
            fs::remove_file(&link).map_err(Error::file("removing", &link))?;
            print_line(&link.display().to_string())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_made_and_others_plugins_left() {
        let scratch = tempfile::tempdir().unwrap();
        let place = scratch.path().join("deep/cli-plugins");
        let program = Path::new("/usr/bin/berth");
        let put = |force| install(program, &place, ["docker-buildx"].into_iter(), force);
        put(false).unwrap();
        put(false).unwrap();
        let link = place.join("docker-buildx");
        assert_eq!(fs::read_link(&link).unwrap(), program);
        remove(program, &place).unwrap();
        assert!(link.symlink_metadata().is_err());
        fs::write(&link, "another's").unwrap();
        assert!(put(false).unwrap_err().to_string().contains("--force"));
        remove(program, &place).unwrap();
        assert_eq!(fs::read_to_string(&link).unwrap(), "another's");
        put(true).unwrap();
        assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
    }
}
