//! Files carried into containers, and taken away there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use berth_compose::develop::{Change, Now};
use futures::future::try_join_all;
use serde_json::json;
use tar::Builder;

use crate::build::pack;
use crate::commands::compose::converge::hook_in;
use crate::commands::compose::found::Found;
use crate::commands::transfer::TAR;
use crate::daemon::{Call, Client};
use crate::error::{Error, Result};
use crate::output::note;

/// Paths in one command.
const AT_ONCE: usize = 200;

/// Into all of these containers, at the same time. What is gone goes first: something else may have
/// its name by now.
pub async fn carry(
    client: &Client,
    containers: &[Found],
    sync: &BTreeMap<String, Change>,
) -> Result<()> {
    let is_gone = |change: &Change| change.now == Now::Gone;
    let gone = sync.iter().filter(|(_, change)| is_gone(change));
    let gone: Vec<&str> = gone.map(|(path, _)| path.as_str()).collect();
    let there = sync.iter().filter(|(_, change)| !is_gone(change));
    let there: Vec<(&String, &Change)> = there.collect();
    let all = containers.iter().map(|one| {
        let (gone, there) = (&gone, &there);
        async move {
            for paths in gone.chunks(AT_ONCE) {
                remove(client, one, paths).await?;
            }
            match there.is_empty() {
                true => Ok(()),
                false => put(client, one, there).await,
            }
        }
    });
    try_join_all(all).await.map(drop)
}

/// By the container's own `rm`, as the API removes nothing. Root's, as what was carried there may
/// lie in directories of root.
async fn remove(client: &Client, one: &Found, paths: &[&str]) -> Result<()> {
    let command = ["rm", "-rf", "--"].iter().chain(paths);
    let hook = json!({"command": command.collect::<Vec<_>>(), "user": "0"});
    let what = match hook_in(client, &one.id, &hook).await {
        Ok(0) => return Ok(()),
        Ok(code) => format!("rm ended with {code}"),
        Err(error @ Error::Refused { .. }) => error.report(),
        Err(error) => return Err(error),
    };
    note(&format!(
        "berth: {} may keep {}: {what}",
        one.name,
        paths.join(", ")
    ));
    Ok(())
}

/// Files become those of the user that the container runs as.
async fn put(client: &Client, one: &Found, there: &[(&String, &Change)]) -> Result<()> {
    let owned = |(path, change): &(&String, &Change)| ((*path).clone(), (*change).clone());
    let files: Vec<(String, Change)> = there.iter().map(owned).collect();
    let (archive, packing) = pack::stream(move |sink| write(&files, sink));
    let call = Call::put(format!("/containers/{}/archive", one.id))
        .query("path", "/")
        .flag("copyUIDGID", true);
    match client.tell(call.upload(TAR, archive)).await {
        // What could not be read here is the reason for what broke off there.
        Err(error @ Error::Broken(_)) => {
            packing.outcome().await?;
            Err(error)
        }
        outcome => outcome,
    }
}

fn write(files: &[(String, Change)], sink: impl std::io::Write) -> Result<()> {
    let mut builder = Builder::new(sink);
    for (target, change) in files {
        let found = match change.now {
            // Perhaps by a link, where that is what is watched.
            Now::Directory => fs::metadata(&change.path),
            Now::There | Now::Gone => fs::symlink_metadata(&change.path),
        };
        // What went away since is told by the next batch.
        let Ok(found) = found else {
            continue;
        };
        let name = Path::new(target.trim_start_matches('/'));
        if !name.as_os_str().is_empty() {
            pack::append(&mut builder, &change.path, name, &found)?;
        }
    }
    builder
        .into_inner()
        .and_then(|mut sink| sink.flush())
        .map_err(Error::Stream)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_carried_as_links_and_what_went_away_is_left_out() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        fs::write(root.join("a"), "text").unwrap();
        fs::create_dir(root.join("d")).unwrap();
        symlink("/etc/shadow", root.join("link")).unwrap();
        let change = |name: &str, now| {
            let path = root.join(name);
            (format!("/app/{name}"), Change { path, now })
        };
        let files = [
            change("a", Now::There),
            change("d", Now::Directory),
            change("gone", Now::There),
            change("link", Now::There),
        ];
        let mut archive = Vec::new();
        write(&files, &mut archive).unwrap();
        let mut archive = tar::Archive::new(archive.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let link = entry.link_name().unwrap();
            let link = link.map(|link| link.display().to_string());
            (entry.path().unwrap().display().to_string(), link)
        });
        let entries: Vec<_> = entries.collect();
        let plain = |name: &str| (name.to_owned(), None);
        let link = ("app/link".to_owned(), Some("/etc/shadow".to_owned()));
        assert_eq!(entries, [plain("app/a"), plain("app/d/"), link]);
    }
}
