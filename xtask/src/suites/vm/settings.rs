//! What the machine is told, as assignments of a shell, and reads back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, ensure};

use super::test_programs::TestProgram;
use super::{Kind, disks};
use crate::workspace;

/// Where the machine finds its settings.
const FILE: &str = "/etc/berth-vm";

#[derive(Debug)]
pub struct Settings {
    values: BTreeMap<&'static str, String>,
}

impl Settings {
    pub fn new(kind: Kind, tests: Vec<TestProgram>, focus: &str) -> Result<Self> {
        let own = env::current_exe().context("finding our own program")?;
        let home = env::home_dir().context("HOME is not set")?;
        let cache = workspace::cache()?;
        let caches = cache.parent().context("a cache at the root")?;
        let tests: Vec<String> = tests.iter().map(TestProgram::to_string).collect();
        let values = BTreeMap::from([
            ("KIND", kind.name().to_owned()),
            ("REPOSITORY", text(&workspace::root())?),
            ("CARGO_TARGET_DIR", text(&workspace::target())?),
            ("PROGRAM", text(&own)?),
            ("HOME", text(&home)?),
            ("XDG_CACHE_HOME", text(caches)?),
            ("FOCUS", text(Path::new(focus))?),
            ("DISKS", disks::setting()),
            ("TESTS", tests.join(" ")),
        ]);
        Ok(Self { values })
    }

    pub fn text(&self) -> String {
        self.values
            .iter()
            .map(|(name, value)| format!("{name}='{value}'\n"))
            .collect()
    }
}

/// In the machine: the tests that it was given.
pub fn tests() -> Result<Vec<TestProgram>> {
    let text = fs::read_to_string(FILE).with_context(|| format!("reading {FILE}"))?;
    let list = text
        .lines()
        .find_map(|line| line.strip_prefix("TESTS='")?.strip_suffix('\''))
        .with_context(|| format!("{FILE} names no tests"))?;
    list.split_whitespace().map(TestProgram::parse).collect()
}

/// As a word that the shell takes as it is.
fn text(path: &Path) -> Result<String> {
    let path: PathBuf = path.to_owned();
    let text = path
        .to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))?;
    ensure!(
        !text.contains(['\'', ' ', '\n', ':', '=']),
        "{text:?} cannot be told to the machine"
    );
    Ok(text.to_owned())
}
