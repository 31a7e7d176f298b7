//! Secrets and configs that are no files here: they are put into a container before it starts.

use berth_compose::{Project, Service};
use serde_json::Value;

use super::body::granted;
use crate::commands::transfer::TAR;
use crate::daemon::{Call, Client};
use crate::error::{Error, Result};

pub async fn inject(client: &Client, project: &Project, service: &Service, id: &str) -> Result<()> {
    for kind in ["secrets", "configs"] {
        for (target, part, grant) in granted(project, service, kind) {
            let Some(content) = content(project, part)? else {
                continue;
            };
            let archive = archive(&target, content.as_bytes(), grant)?;
            let call = Call::put(format!("/containers/{id}/archive"))
                .query("path", "/")
                .flag("copyUIDGID", true);
            client
                .tell(call.upload(TAR, std::io::Cursor::new(archive)))
                .await?;
        }
    }
    Ok(())
}

/// `None` of what is a file: that is mounted.
pub fn content(project: &Project, part: &Value) -> Result<Option<String>> {
    if let Some(content) = part["content"].as_str() {
        return Ok(Some(content.to_owned()));
    }
    let Some(name) = part["environment"].as_str() else {
        return Ok(None);
    };
    match project.variables.get(name) {
        Some(value) => Ok(Some(value.clone())),
        None => Err(Error::Failed(format!(
            "the variable {name} has to be set: {} is made of it",
            part["name"].as_str().unwrap_or_default()
        ))),
    }
}

fn archive(target: &str, content: &[u8], grant: &Value) -> Result<Vec<u8>> {
    let number = |key: &str| {
        let text = grant[key].as_str().unwrap_or("0");
        text.parse::<u64>().map_err(|_| {
            Error::Failed(format!(
                "{target}: {key} has to be a number, and is {text:?}"
            ))
        })
    };
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(grant["mode"].as_u64().unwrap_or(0o444) as u32);
    header.set_uid(number("uid")?);
    header.set_gid(number("gid")?);
    let mut archive = tar::Builder::new(Vec::new());
    let path = target.trim_start_matches('/');
    archive
        .append_data(&mut header, path, content)
        .map_err(Error::Stream)?;
    archive.into_inner().map_err(Error::Stream)
}
