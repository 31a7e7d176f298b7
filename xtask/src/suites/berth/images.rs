//! Steps that concern images and registries.

use anyhow::{Result, ensure};

use super::{IMAGE, Step, berth, contains, ended, same};
use crate::suites::docker::session::{PASSWORD, Session, USER};

pub const STEPS: &[(&str, Step)] = &[
    ("pull tells each layer's changes, one a line", pull),
    ("pull of a missing tag says what may be wrong", pull_missing),
    ("images: table, ids, JSON, templates, filters", list),
    ("tag, history and inspect of an image", look),
    ("login, push, pull with the login alone, logout", private),
    (
        "save and load give the same image back, import makes one",
        archives,
    ),
    ("rmi tells what it took away", remove),
];

fn pull(session: &mut Session) -> Result<()> {
    let name = session.reference(":one");
    let lines = session.docker.lines(&["pull", &name])?;
    let first = lines.first().map(String::as_str);
    same("first line", first, Some("one: Pulling from crew/busybox"))?;
    let ends = |text: &str| lines.iter().filter(|line| line.ends_with(text)).count();
    same("layers", ends(": Pull complete"), 2)?;
    contains(
        "status",
        &lines.join("\n"),
        "Status: Downloaded newer image",
    )?;
    same("last line", lines.last(), Some(&name))?;
    same("escapes", lines.concat().contains('\x1b'), false)?;
    let quiet = berth(session, &["pull", "--quiet", &name])?;
    same("quiet", quiet, name.clone())?;
    berth(session, &["tag", &name, IMAGE]).map(drop)
}

fn pull_missing(session: &mut Session) -> Result<()> {
    let (code, _, err) = ended(session, &["pull", &session.reference(":none")])?;
    same("exit code", code, 1)?;
    contains("the reason", &err, "manifest unknown")?;
    contains("what to do", &err, "Is the tag right?")
}

fn list(session: &mut Session) -> Result<()> {
    let id = Session::short_id(&session.image);
    let line = ["images", "--filter", "reference=shop/app"];
    let table = session.docker.lines(&line)?;
    same("rows", table.len(), 2)?;
    let row: Vec<&str> = table[1].split_whitespace().take(3).collect();
    same("row", row, vec!["shop/app", "1", id.as_str()])?;
    same(
        "ids",
        berth(session, &["images", "-q", "shop/app"])?,
        id.clone(),
    )?;
    let line = ["images", "--format", "{{.Repository}}:{{.Tag}}", "shop/app"];
    same("template", berth(session, &line)?.as_str(), IMAGE)?;
    let line = ["images", "--format", "table {{.Tag}}\\t{{.ID}}", "shop/app"];
    let table = format!("TAG   IMAGE ID\n1     {id}");
    same("table", berth(session, &line)?, table)?;
    let found = session
        .docker
        .json(&["images", "--format", "json", "shop/app"])?;
    same("JSON", &found["Repository"], &"shop/app".into())?;
    let refused = session
        .docker
        .refusal(&["images", "--format", "{{.Nmae}}"])?;
    contains("a field that is not there", &refused, "Repository")
}

fn look(session: &mut Session) -> Result<()> {
    berth(session, &["tag", IMAGE, "shop/other:2"])?;
    let line = [
        "inspect",
        "--format",
        "{{index .Config.Labels \"tier\"}}",
        "shop/other:2",
    ];
    same("label", berth(session, &line)?.as_str(), "front")?;
    let line = [
        "image",
        "inspect",
        "-f",
        "{{range .Config.Env}}{{println .}}{{end}}",
        IMAGE,
    ];
    contains("variables", &berth(session, &line)?, "FROM_IMAGE=yes")?;
    same(
        "untagged",
        berth(session, &["rmi", "shop/other:2"])?.as_str(),
        "Untagged: shop/other:2",
    )?;
    let steps = session.docker.lines(&["history", "-q", IMAGE])?;
    ensure!(!steps.is_empty(), "no history");
    let (code, _, err) = ended(session, &["image", "inspect", "no/such"])?;
    same("exit code", code, 1)?;
    contains("what to do", &err, "berth pull")
}

fn private(session: &mut Session) -> Result<()> {
    let server = session.locked_registry.address().to_string();
    let name = session.locked_reference("team/app:1");
    berth(session, &["tag", IMAGE, &name])?;
    let refused = session.docker.refusal(&["push", &name])?;
    contains("what to do", &refused, "berth login")?;
    let wrong = ["login", "-u", USER, "-p", "wrong", &server];
    session.docker.refusal(&wrong)?;
    let right = ["login", "-u", USER, "-p", PASSWORD, &server];
    contains("login", &berth(session, &right)?, "Login Succeeded")?;
    let lines = session.docker.lines(&["push", &name])?;
    let pushed = lines
        .iter()
        .filter(|line| line.ends_with(": Pushed"))
        .count();
    same("layers", pushed, 2)?;
    contains("the digest", &lines.join("\n"), "digest: sha256:")?;
    berth(session, &["rmi", &name])?;
    same(
        "pulled",
        berth(session, &["pull", "-q", &name])?,
        name.clone(),
    )?;
    contains("logout", &berth(session, &["logout", &server])?, &server)?;
    session.docker.refusal(&["pull", &name])?;
    berth(session, &["rmi", &name]).map(drop)
}

fn archives(session: &mut Session) -> Result<()> {
    let file = session.place.scratch().join("saved.tar");
    let file = file.display().to_string();
    berth(session, &["tag", IMAGE, "shop/saved:1"])?;
    berth(session, &["save", "-o", &file, "shop/saved:1"])?;
    berth(session, &["rmi", "shop/saved:1"])?;
    let loaded = berth(session, &["load", "-i", &file])?;
    same("loaded", loaded.as_str(), "Loaded image: shop/saved:1")?;
    let line = ["images", "-q", "shop/saved"];
    same(
        "the id",
        berth(session, &line)?,
        Session::short_id(&session.image),
    )?;
    let made = berth(
        session,
        &["import", "-c", "CMD [\"sh\"]", &file, "shop/imported:1"],
    )?;
    contains("imported", &made, "sha256:")?;
    let line = ["inspect", "-f", "{{json .Config.Cmd}}", "shop/imported:1"];
    same("its command", berth(session, &line)?.as_str(), "[\"sh\"]")
}

fn remove(session: &mut Session) -> Result<()> {
    let text = berth(session, &["rmi", "shop/imported:1", "shop/saved:1"])?;
    contains("one of two names", &text, "Untagged: shop/saved:1")?;
    contains("the last name", &text, "Deleted: sha256:")?;
    let (code, out, err) = ended(session, &["rmi", "no/such:1", "shop/imported:1"])?;
    same("exit code", (code, out.as_str()), (1, ""))?;
    contains("both are told", &err, "no/such:1")?;
    contains("both are told", &err, "shop/imported:1")
}
