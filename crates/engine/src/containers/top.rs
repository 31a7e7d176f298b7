//! `GET /containers/{name}/top`.

use std::process::Stdio;
use std::sync::Arc;

use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::{Engine, Error, Json, Query, Result};

/// What ps(1) of the host says of the container's processes. Its options are the client's.
pub async fn top(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    query: Query,
) -> Result<Json<Value>> {
    let arguments = match query.text("ps_args") {
        "" => "-ef",
        given => given,
    };
    let pids = engine.containers.get(&name)?.running()?.pids().await?;
    let mut ps = tokio::process::Command::new("ps");
    ps.args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let said = ps.output().await.map_err(|source| Error::Io {
        operation: "ps cannot be run on the host",
        source,
    })?;
    if !said.status.success() {
        let why = String::from_utf8_lossy(&said.stderr);
        return Err(Error::bad(format!("ps: {}", why.trim())));
    }
    let text = String::from_utf8_lossy(&said.stdout);
    let (titles, rows) = table(&text, &pids)?;
    Ok(Json(json!({ "Titles": titles, "Processes": rows })))
}

type Row<'a> = Vec<&'a str>;

fn table<'a>(text: &'a str, pids: &[u32]) -> Result<(Row<'a>, Vec<Vec<String>>)> {
    let mut lines = text.lines();
    let titles: Row<'a> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let place = titles.iter().position(|title| *title == "PID");
    let place = place.ok_or_else(|| Error::bad("Couldn't find PID field in ps output"))?;
    let rows = lines.filter_map(|line| {
        let fields = row(line, titles.len());
        let pid: u32 = fields.get(place)?.parse().ok()?;
        pids.contains(&pid).then_some(fields)
    });
    let rows = rows.collect();
    Ok((titles, rows))
}

/// The last field is all that is left: command lines have spaces.
fn row(line: &str, count: usize) -> Vec<String> {
    let mut fields: Vec<String> = Vec::with_capacity(count);
    let mut rest = line.trim_start();
    while fields.len() + 1 < count {
        let Some((field, tail)) = rest.split_once(char::is_whitespace) else {
            break;
        };
        fields.push(field.to_owned());
        rest = tail.trim_start();
    }
    fields.push(rest.to_owned());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_container_s_processes_are_told_and_commands_stay_whole() {
        let text = "UID  PID CMD\nroot   7 sleep 10 20\nroot   8 other\n";
        let (titles, rows) = table(text, &[7]).unwrap();
        assert_eq!(titles, ["UID", "PID", "CMD"]);
        assert_eq!(rows, [["root", "7", "sleep 10 20"]]);
        assert!(table("UID CMD\n", &[]).is_err());
    }
}
