//! The shop's database: Debian's PostgreSQL, which will not run as root.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use berth_testkit::image::{Layer, Recipe};

use super::super::{berth, contains, ended, same};
use super::{SOON, compose, ids, write};
use crate::command::retry;
use crate::suites::docker::session::Session;
use crate::suites::fixtures::{busybox, installed, pack, users};
use crate::tools;

const REPOSITORY: &str = "crew/database";
const OWNER: u32 = 70;
const HOME: &str = "/var/lib/postgresql";

/// What the first start makes, and every one runs. Nobody but the shop is on its network.
const RUN: &str = r#"#!/bin/sh
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --no-sync --no-locale --encoding=UTF8 --auth=trust --username=shop > /dev/null
    echo "host all all all trust" >> "$PGDATA/pg_hba.conf"
fi
exec postgres -k /tmp -c listen_addresses='*' -c shared_buffers=16MB -c max_connections=20 "$@"
"#;

pub fn reference(session: &Session) -> String {
    format!("{}/{REPOSITORY}:one", session.registry.address())
}

/// Puts the image into the registry.
pub fn push(session: &Session) -> Result<()> {
    let layer = layer(&tools::postgresql()?)?;
    let image = Recipe::new()
        .layer(pack(&busybox()?)?)
        .layer(pack(&layer)?)
        .user("postgres")
        .env(&[
            &format!("PGDATA={HOME}/data"),
            "PGUSER=shop",
            "PGDATABASE=postgres",
            "TZ=UTC",
            "PATH=/usr/bin:/bin",
        ])
        .cmd(&["/bin/database"])
        .stop_signal("SIGINT")
        .build()
        .context("making the image of the database")?;
    let pushed = session.registry.remote().push(&image, REPOSITORY, &["one"]);
    pushed.context("pushing the image of the database")
}

/// Its programs, the libraries that its first start loads, and a home for its data.
fn layer(programs: &Path) -> Result<Layer> {
    let mut layer = users(
        Layer::new(),
        &format!("postgres:x:{OWNER}:{OWNER}::{HOME}:/bin/sh\n"),
        &format!("postgres:x:{OWNER}:\n"),
    );
    for program in ["postgres", "initdb", "psql", "pg_isready"] {
        let path = programs.join(program);
        let text = path.display().to_string();
        layer = layer.program(&path, &text)?;
        layer = layer.symlink(&format!("/usr/bin/{program}"), &text);
    }
    // Those that ask it, too.
    for program in ["/usr/bin/socat", "/usr/bin/redis-cli"] {
        layer = installed(layer, program)?;
    }
    let version = programs.parent().context("a version's directory")?;
    for library in ["plpgsql.so", "dict_snowball.so"] {
        let path = version.join("lib").join(library);
        layer = layer.copy(&path, &path.display().to_string())?;
    }
    for path in shared(version)? {
        layer = layer.copy(&path, &path.display().to_string())?;
    }
    let layer = layer
        .file("/bin/database", 0o755, RUN)
        .directory(HOME, 0o750);
    Ok(layer.owned(HOME, OWNER, OWNER))
}

/// What all of a version's programs read, without their manual.
fn shared(version: &Path) -> Result<Vec<PathBuf>> {
    let number = version.file_name().context("a version's number")?;
    let directory = Path::new("/usr/share/postgresql").join(number);
    let entries = fs::read_dir(&directory).with_context(|| format!("listing {directory:?}"))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if !path.ends_with("man") && !path.is_symlink() {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// What a statement answers, asked from another container.
fn ask(session: &Session, statement: &str) -> Result<String> {
    let line = [
        "exec", "-T", "database", "psql", "-h", "/tmp", "-tAc", statement,
    ];
    compose(session, &line)
}

fn orders(session: &Session) -> Result<u32> {
    let count = ask(session, "SELECT count(*) FROM orders")?;
    count
        .trim()
        .parse()
        .with_context(|| format!("{count:?} is no number"))
}

pub fn runs_without_root(session: &mut Session) -> Result<()> {
    let owner = compose(session, &["exec", "-T", "database", "id", "-un"])?;
    same("who it is", owner.trim(), "postgres")?;
    let files = [
        "exec",
        "-T",
        "database",
        "stat",
        "-c",
        "%U %a",
        "/var/lib/postgresql/data",
    ];
    same(
        "whose its files are",
        compose(session, &files)?.trim(),
        "postgres 700",
    )?;
    let before = orders(session)?;
    retry(SOON, || super::fetch(session, "/api"))?;
    let after = orders(session)?;
    same("the API wrote", after > before, true)?;
    let rounds = ask(session, "SELECT count(*) > 0 FROM rounds")?;
    same("the worker wrote", rounds.trim(), "t")
}

/// Rows outlive a container that is made anew, and a project without its volumes.
pub fn keeps_rows(session: &mut Session) -> Result<()> {
    let mut before = ids(session)?;
    let count = orders(session)?;
    write(session, "welcome", "16MB")?;
    compose(session, &["up", "-d", "--wait"])?;
    let mut after = ids(session)?;
    let name = "emporium-database-1";
    same(
        "another container",
        before.remove(name) == after.remove(name),
        false,
    )?;
    same("the others", after, before)?;
    same("its setting", ask(session, "SHOW work_mem")?.trim(), "16MB")?;
    same("rows are kept", orders(session)?, count)?;
    compose(session, &["down"])?;
    compose(session, &["up", "-d", "--wait", "database"])?;
    same("rows outlive the project", orders(session)?, count)
}

pub fn loses_rows(session: &mut Session) -> Result<()> {
    compose(session, &["up", "-d", "--wait", "database"])?;
    let file = super::directory(session).join("compose.yaml");
    let file = file.display().to_string();
    let statement = "SELECT count(*) FROM orders";
    let line = ["compose", "-f", &file, "exec", "-T", "database"];
    let psql = ["psql", "-h", "/tmp", "-tAc", statement];
    let (code, _, err) = ended(session, &[&line[..], &psql].concat())?;
    same("exit code", code, 1)?;
    contains("a new volume", &err, "\"orders\" does not exist")?;
    compose(session, &["down", "-v"])?;
    let left = berth(session, &["volume", "ls", "-q"])?;
    same("its volume", left.contains("emporium"), false)
}
