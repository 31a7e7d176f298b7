//! Names of users and groups in an image: for `--chown`.

use std::io::Read;

use crate::error::{Error, Result};
use crate::tree::{NodeKind, Tree};

/// More than any real user database.
const MAX_FILE: u64 = 4 << 20;

/// The numbers that `user`, `user:group`, by names or numbers, stand for.
pub fn owner(tree: &dyn Tree, text: &str) -> Result<(u32, u32)> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let (uid, own_gid) = match user.parse::<u32>() {
        // A number alone is its own group too.
        Ok(uid) => (uid, uid),
        Err(_) => {
            let line = find(tree, "etc/passwd", user)?;
            let ids = line.and_then(|fields| {
                let uid = fields.get(2)?.parse().ok()?;
                Some((uid, fields.get(3)?.parse().ok()?))
            });
            ids.ok_or_else(|| {
                Error::invalid(format!(
                    "--chown={text}: user {user:?} is not in the image's /etc/passwd: use a \
                     number, or add it before"
                ))
            })?
        }
    };
    let gid = match group {
        None | Some("") => own_gid,
        Some(group) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => {
                let line = find(tree, "etc/group", group)?;
                let gid = line.and_then(|fields| fields.get(2)?.parse().ok());
                gid.ok_or_else(|| {
                    Error::invalid(format!(
                        "--chown={text}: group {group:?} is not in the image's /etc/group"
                    ))
                })?
            }
        },
    };
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Error::invalid(format!(
            "--chown={text}: {} is no id",
            u32::MAX
        )));
    }
    Ok((uid, gid))
}

fn find(tree: &dyn Tree, path: &str, name: &str) -> Result<Option<Vec<String>>> {
    let path = tree.resolve(path)?;
    let Some(NodeKind::File { .. }) = tree.node(&path)?.map(|node| node.kind) else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    let file = tree.open(&path)?;
    let read = file.take(MAX_FILE).read_to_end(&mut bytes);
    read.map_err(Error::file("read", format!("/{path}")))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines().map(|line| line.split(':'));
    let line = lines.find(|fields| fields.clone().next() == Some(name));
    Ok(line.map(|fields| fields.map(str::to_owned).collect()))
}
