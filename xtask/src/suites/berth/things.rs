//! Steps that concern networks, volumes, and what the daemon keeps.

use anyhow::Result;

use super::{IMAGE, Step, berth, contains, ended, same};
use crate::suites::docker::session::Session;

pub const STEPS: &[(&str, Step)] = &[
    ("cp both ways, diff, commit and export", files),
    (
        "network: made, joined by name and address, left, removed",
        network,
    ),
    ("volume: made, kept, shown, removed, and not in use", volume),
    ("system df counts, prune removes what has ended", system),
];

fn files(session: &mut Session) -> Result<()> {
    let scratch = session.place.scratch();
    let place = |name: &str| scratch.join(name).display().to_string();
    std::fs::create_dir_all(scratch.join("tree/deep"))?;
    std::fs::write(scratch.join("tree/deep/file"), "carried")?;
    berth(
        session,
        &["run", "-d", "--name", "desk", IMAGE, "sleep", "1000"],
    )?;
    berth(session, &["cp", &place("tree"), "desk:/tmp/new"])?;
    let line = ["exec", "desk", "cat", "/tmp/new/deep/file"];
    same("inside", berth(session, &line)?.as_str(), "carried")?;
    berth(session, &["cp", "desk:/tmp/new/.", &place("back")])?;
    let back = std::fs::read_to_string(scratch.join("back/deep/file"))?;
    same("back", back.as_str(), "carried")?;
    let (code, _, err) = ended(session, &["cp", "desk:/no/such", &place("x")])?;
    same("what is not there", code, 1)?;
    contains("the reason", &err, "/no/such")?;
    let changed = session.docker.lines(&["diff", "desk"])?;
    same(
        "diff",
        changed.contains(&"A /tmp/new/deep/file".to_owned()),
        true,
    )?;
    let change = "CMD [\"cat\", \"/tmp/new/deep/file\"]";
    berth(session, &["commit", "-c", change, "desk", "shop/desk:1"])?;
    let line = ["run", "--rm", "shop/desk:1"];
    same("commit", berth(session, &line)?.as_str(), "carried")?;
    berth(session, &["export", "-o", &place("desk.tar"), "desk"])?;
    let names = ["-tf", &place("desk.tar")];
    let names = crate::command::stdout(std::process::Command::new("tar").args(names))?;
    contains("export", &names, "tmp/new/deep/file")?;
    berth(session, &["rm", "-f", "desk"])?;
    berth(session, &["rmi", "shop/desk:1"]).map(drop)
}

fn network(session: &mut Session) -> Result<()> {
    let made = berth(
        session,
        &["network", "create", "--subnet", "10.213.77.0/24", "shops"],
    )?;
    same("the id", made.len(), 64)?;
    let line = [
        "network",
        "ls",
        "--filter",
        "name=shops",
        "--format",
        "{{.Name}} {{.Driver}}",
    ];
    same("list", berth(session, &line)?.as_str(), "shops bridge")?;
    let line = [
        "run",
        "-d",
        "--name",
        "db",
        "--network",
        "shops",
        "--ip",
        "10.213.77.9",
        IMAGE,
        "sleep",
        "1000",
    ];
    berth(session, &line)?;
    let line = [
        "inspect",
        "-f",
        "{{range $name, $n := .NetworkSettings.Networks}}{{$name}}={{$n.IPAddress}}{{end}}",
        "db",
    ];
    same(
        "address",
        berth(session, &line)?.as_str(),
        "shops=10.213.77.9",
    )?;
    let line = ["run", "--rm", "--network", "shops", IMAGE, "nslookup", "db"];
    contains("by name", &berth(session, &line)?, "10.213.77.9")?;
    let (code, ..) = ended(session, &["network", "rm", "shops"])?;
    same("in use", code, 1)?;
    berth(session, &["network", "connect", "bridge", "db"])?;
    berth(session, &["network", "disconnect", "shops", "db"])?;
    same(
        "rm",
        berth(session, &["network", "rm", "shops"])?.as_str(),
        "shops",
    )?;
    let (code, _, err) = ended(
        session,
        &["run", "--rm", "--network", "shops", IMAGE, "true"],
    )?;
    same("a network that is not there", code, 125)?;
    contains("what to do", &err, "berth network create")?;
    berth(session, &["rm", "-f", "db"]).map(drop)
}

fn volume(session: &mut Session) -> Result<()> {
    let made = berth(
        session,
        &["volume", "create", "--label", "tier=back", "stock"],
    )?;
    same("name", made.as_str(), "stock")?;
    let line = [
        "run",
        "--name",
        "writer",
        "-v",
        "stock:/d",
        IMAGE,
        "sh",
        "-c",
        "echo kept > /d/f",
    ];
    berth(session, &line)?;
    let line = [
        "run",
        "--rm",
        "--mount",
        "source=stock,target=/e,readonly",
        IMAGE,
        "cat",
        "/e/f",
    ];
    same("what was written", berth(session, &line)?.as_str(), "kept")?;
    let line = ["volume", "ls", "-q", "--filter", "label=tier=back"];
    same("list", berth(session, &line)?.as_str(), "stock")?;
    let line = [
        "volume",
        "inspect",
        "-f",
        "{{.Driver}} {{.Labels.tier}}",
        "stock",
    ];
    same("inspect", berth(session, &line)?.as_str(), "local back")?;
    let (code, ..) = ended(session, &["volume", "rm", "stock"])?;
    same("in use", code, 1)?;
    berth(session, &["rm", "writer"])?;
    same(
        "rm",
        berth(session, &["volume", "rm", "stock"])?.as_str(),
        "stock",
    )?;
    let (code, _, err) = ended(session, &["volume", "rm", "stock"])?;
    same("what is not there", code, 1)?;
    contains("what to do", &err, "berth volume ls")
}

fn system(session: &mut Session) -> Result<()> {
    berth(session, &["run", "--name", "past", IMAGE, "true"])?;
    let line = [
        "system",
        "df",
        "--format",
        "{{.Type}}: {{.TotalCount}}/{{.Active}}",
    ];
    let text = berth(session, &line)?;
    contains("containers", &text, "Containers: 1/0")?;
    contains("images", &text, "Images: 1/1")?;
    let (code, _, err) = ended(session, &["system", "prune"])?;
    same("nobody to ask", code, 1)?;
    contains("what to do", &err, "--force")?;
    let text = berth(session, &["container", "prune", "--force"])?;
    contains("what went", &text, "Deleted Containers:")?;
    contains("bytes", &text, "Total reclaimed space:")?;
    same("containers", berth(session, &["ps", "-aq"])?.as_str(), "")
}
