//! A look into images before criu opens them.
//!
//! Whoever made the images says which namespaces the processes have. Processes without a mount
//! namespace of their own would come back in criu's, and criu would write their files there: that
//! is refused here. Everything else is looked at when it has been restored and nothing runs yet.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::message::{Fields, Value};

const COMMON_MAGIC: u32 = 0x5456_4319;
const INVENTORY_MAGIC: u32 = 0x5831_3116;
const PSTREE_MAGIC: u32 = 0x5027_3030;
const IDS_MAGIC: u32 = 0x5443_2030;
/// The form of images with a common head.
const VERSION: u64 = 2;
/// These images are small, whatever the container is.
const LARGEST: u64 = 4 << 20;

/// What keeps images from being restored.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("cannot read {path}", path = .path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{name} is not an image of criu, or of a version that is not known")]
    Form { name: String },
    #[error("{name} is too large for such an image")]
    Size { name: String },
    #[error("process {pid} was dumped without a mount namespace of its own")]
    Unconfined { pid: u64 },
    #[error("there are no processes in the images")]
    Empty,
}

/// Refuses images whose processes would not come back in one mount namespace of their own.
pub fn check(directory: &Path) -> Result<(), Problem> {
    let host = inventory(&directory.join("inventory.img"))?;
    let mut own = None;
    for pid in processes(&directory.join("pstree.img"))? {
        let name = format!("ids-{pid}.img");
        let entries = entries(&directory.join(&name), &[COMMON_MAGIC, IDS_MAGIC])?;
        let [ids] = entries.as_slice() else {
            return Err(Problem::Form { name });
        };
        let namespace = number(ids, MOUNT_NAMESPACE, &name)?;
        let same = namespace.is_some() && own.get_or_insert(namespace) == &namespace;
        if !same || namespace == Some(host) {
            return Err(Problem::Unconfined { pid });
        }
    }
    match own {
        Some(_) => Ok(()),
        None => Err(Problem::Empty),
    }
}

/// Field of `task_kobj_ids_entry`.
const MOUNT_NAMESPACE: u64 = 9;

/// The mount namespace that criu was in.
fn inventory(path: &Path) -> Result<u64, Problem> {
    let name = "inventory.img".to_owned();
    let entries = entries(path, &[INVENTORY_MAGIC])?;
    let [inventory] = entries.as_slice() else {
        return Err(Problem::Form { name });
    };
    if number(inventory, 1, &name)? != Some(VERSION) {
        return Err(Problem::Form { name });
    }
    let mut root = None;
    for field in Fields(inventory) {
        match field {
            Some((3, Value::Bytes(ids))) => root = number(ids, MOUNT_NAMESPACE, &name)?,
            Some(_) => {}
            None => return Err(Problem::Form { name }),
        }
    }
    root.ok_or(Problem::Form { name })
}

fn processes(path: &Path) -> Result<Vec<u64>, Problem> {
    let name = "pstree.img";
    let form = || Problem::Form {
        name: name.to_owned(),
    };
    let entries = entries(path, &[COMMON_MAGIC, PSTREE_MAGIC])?;
    let pids = entries
        .iter()
        .map(|entry| number(entry, 1, name)?.ok_or_else(form));
    pids.collect()
}

/// The last value of a field.
fn number(message: &[u8], wanted: u64, name: &str) -> Result<Option<u64>, Problem> {
    let mut found = None;
    for field in Fields(message) {
        match field {
            Some((field, Value::Number(value))) if field == wanted => found = Some(value),
            Some(_) => {}
            None => {
                let name = name.to_owned();
                return Err(Problem::Form { name });
            }
        }
    }
    Ok(found)
}

/// The messages of an image, each behind its length.
fn entries(path: &Path, magics: &[u32]) -> Result<Vec<Vec<u8>>, Problem> {
    let name = || {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes));
    read.map_err(|source| Problem::Read {
        path: path.to_owned(),
        source,
    })?;
    if bytes.len() as u64 > LARGEST {
        return Err(Problem::Size { name: name() });
    }
    split(&bytes, magics).ok_or_else(|| Problem::Form { name: name() })
}

fn split(bytes: &[u8], magics: &[u32]) -> Option<Vec<Vec<u8>>> {
    let (mut rest, mut entries) = (bytes, Vec::new());
    for magic in magics {
        if word(&mut rest)? != *magic {
            return None;
        }
    }
    while !rest.is_empty() {
        let length = usize::try_from(word(&mut rest)?).ok()?;
        let (entry, after) = rest.split_at_checked(length)?;
        entries.push(entry.to_vec());
        rest = after;
    }
    Some(entries)
}

fn word(rest: &mut &[u8]) -> Option<u32> {
    let (word, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(u32::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(magics: &[u32], entries: &[&[u8]]) -> Vec<u8> {
        let mut bytes: Vec<u8> = magics
            .iter()
            .flat_map(|magic| magic.to_le_bytes())
            .collect();
        for entry in entries {
            bytes.extend(u32::try_from(entry.len()).unwrap().to_le_bytes());
            bytes.extend_from_slice(entry);
        }
        bytes
    }

    /// Images of process 1 with this mount namespace, dumped by a criu in mount namespace 5.
    fn write(directory: &Path, namespace: &[u8]) {
        let inventory = [1 << 3, 2, 3 << 3 | 2, 2, 9 << 3, 5];
        let put = |name: &str, bytes: Vec<u8>| std::fs::write(directory.join(name), bytes).unwrap();
        put("inventory.img", image(&[INVENTORY_MAGIC], &[&inventory]));
        put(
            "pstree.img",
            image(&[COMMON_MAGIC, PSTREE_MAGIC], &[&[1 << 3, 1]]),
        );
        put("ids-1.img", image(&[COMMON_MAGIC, IDS_MAGIC], &[namespace]));
    }

    #[test]
    fn processes_without_a_mount_namespace_of_their_own_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &[9 << 3, 6]);
        check(dir.path()).unwrap();
        for namespace in [&[9 << 3, 5][..], &[5 << 3, 6], &[]] {
            write(dir.path(), namespace);
            let problem = check(dir.path()).unwrap_err();
            assert!(
                matches!(problem, Problem::Unconfined { pid: 1 }),
                "{problem}"
            );
        }
        std::fs::remove_file(dir.path().join("ids-1.img")).unwrap();
        assert!(matches!(check(dir.path()), Err(Problem::Read { .. })));
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let inventory = |bytes: &[u8]| {
            write(dir.path(), &[9 << 3, 6]);
            std::fs::write(dir.path().join("inventory.img"), bytes).unwrap();
            check(dir.path()).unwrap_err()
        };
        let old = image(
            &[INVENTORY_MAGIC],
            &[&[1 << 3, 1, 3 << 3 | 2, 2, 9 << 3, 5]],
        );
        let long = image(&[INVENTORY_MAGIC], &[&[1 << 3, 2]]);
        for bytes in [&[][..], &[1, 2, 3], &old, &long[..long.len() - 1]] {
            assert!(
                matches!(inventory(bytes), Problem::Form { .. }),
                "{bytes:?}"
            );
        }
        let large = vec![0; usize::try_from(LARGEST).unwrap() + 1];
        assert!(matches!(inventory(&large), Problem::Size { .. }));
    }
}
