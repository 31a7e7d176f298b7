//! `HEAD`, `GET` and `PUT /containers/{name}/archive`: what `docker cp` is made of.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_lifecycle::{Missing, Root};
use berth_standalone::{Container, ContainerRoot};
use berth_unpack::{ExtractOptions, TreeOptions, extract, is_window, pack_tree};
use http::{HeaderValue, StatusCode};
use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::pieces::{self, blocking};
use crate::{Engine, Error, Query, Result};

const STAT: &str = "x-docker-container-path-stat";

/// A path as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Asked {
    container: String,
    path: String,
}

/// What is there.
struct Found {
    handle: OwnedFd,
    stat: Stat,
    /// Where a link leads.
    target: PathBuf,
}

/// Finds what is asked for and gives it to `then`, which may block: what is mounted to see it goes
/// with the root.
async fn look<T: Send + 'static>(
    engine: &Engine,
    name: String,
    query: &Query,
    then: impl FnOnce(Asked, ContainerRoot, Found) -> T + Send + 'static,
) -> Result<(Arc<Container>, T)> {
    let asked = Asked::of(name, query)?;
    let container = engine.containers.get(&asked.container)?;
    let root = engine.containers.root(&container, false).await?;
    let looked = blocking("looking at a file", move || {
        let found = asked.find(&root.root)?;
        Ok(then(asked, root, found))
    });
    Ok((container, looked.await?))
}

pub async fn head(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    query: Query,
) -> Result<Response> {
    let looking = look(&engine, name, &query, |asked, _root, found| {
        tell(&asked, &found)
    });
    let (_, told) = looking.await?;
    let mut response = StatusCode::OK.into_response();
    response.headers_mut().insert(STAT, header(&told)?);
    Ok(response)
}

pub async fn get(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    query: Query,
) -> Result<Response> {
    let looking = look(&engine, name, &query, |asked, root, found| {
        (asked, root, found)
    });
    let (container, (asked, root, found)) = looking.await?;
    let told = header(&tell(&asked, &found))?;
    let mut response = pieces::archive(|sink| {
        blocking("packing files", move || {
            let name = asked.base();
            // What the runtime puts into every container's /dev is not the container's.
            let shallow: &[&[u8]] = match name {
                "/" => &[b"dev"],
                _ => &[],
            };
            let options = TreeOptions {
                name: Some(name.as_bytes()),
                shallow,
            };
            pack_tree(found.handle.as_fd(), sink, &options)?;
            // Only now may what is mounted there go.
            drop(root);
            Ok(())
        })
    });
    engine.containers.tell(&container, "archive-path");
    response.headers_mut().insert(STAT, told);
    Ok(response)
}

pub async fn put(
    State(engine): State<Arc<Engine>>,
    Path(name): Path<String>,
    query: Query,
    request: Request,
) -> Result<StatusCode> {
    // First: a client that is refused while it sends is to see why.
    let body = pieces::arriving(request.into_body());
    let asked = Asked::of(name, &query)?;
    let container = engine.containers.get(&asked.container)?;
    let user = match query.flag("copyUIDGID") {
        true => user(&engine, &container),
        false => String::new(),
    };
    let keep_kinds = query.flag("noOverwriteDirNonDir");
    let root = engine.containers.root(&container, true).await?;
    blocking("unpacking files", move || {
        let into = asked.directory(&root)?;
        let owner = match user.as_str() {
            "" => None,
            user => Some(root.root.owner(user)?),
        };
        let options = ExtractOptions {
            keep_kinds,
            owner,
            ..ExtractOptions::default()
        };
        if let Err(error) = extract(body, root.root.fd(), &into, &options) {
            // Where the directory itself has gone meanwhile, that is what is said.
            asked.directory(&root)?;
            return Err(error.into());
        }
        Ok(())
    })
    .await?;
    engine.containers.tell(&container, "extract-to-dir");
    Ok(StatusCode::OK)
}

/// Whom the container runs as; empty for root.
fn user(engine: &Engine, container: &Container) -> String {
    let record = container.view();
    if !record.config.user.is_empty() {
        return record.config.user.clone();
    }
    let image = engine.images.get(&record.image_id.to_string());
    image.map_or_else(String::new, |image| image.config.user().to_owned())
}

impl Asked {
    fn of(container: String, query: &Query) -> Result<Self> {
        match query.text("path") {
            "" => Err(Error::bad("bad parameter: path cannot be empty")),
            path => Ok(Self {
                container,
                path: format!("/{}", path.trim_start_matches('/')),
            }),
        }
    }

    /// The last name of the path: `.` or `/` where it ends so.
    fn base(&self) -> &str {
        match self.path.trim_end_matches('/').rsplit('/').next() {
            None | Some("") => "/",
            Some(".") if self.path.trim_end_matches(['/', '.']).is_empty() => "/",
            Some(name) => name,
        }
    }

    /// A link at the end is followed if the path says that it is a directory.
    fn find(&self, root: &Root) -> Result<Found> {
        let path = FilePath::new(&self.path);
        let is_directory = self.path.ends_with('/') || matches!(self.base(), "." | "..");
        let handle = root.find(path, is_directory).map_err(|e| self.failed(e))?;
        let stat = rustix::fs::fstat(&handle).map_err(|e| self.failed(e))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && is_window(&handle) {
            return Err(self.missing());
        }
        let target = match kind {
            FileType::Symlink => root.resolve(path, Missing::IsKept),
            _ => Ok(PathBuf::new()),
        };
        Ok(Found {
            handle,
            stat,
            target: target.map_err(|e| self.failed(e))?,
        })
    }

    /// The directory that is to be written to, without links.
    fn directory(&self, root: &ContainerRoot) -> Result<PathBuf> {
        let path = root.root.resolve(FilePath::new(&self.path), Missing::Fails);
        let path = path.map_err(|e| self.failed(e))?;
        let found = root.root.find(&path, true).map_err(|e| self.failed(e))?;
        let stat = rustix::fs::fstat(&found).map_err(|e| self.failed(e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(Error::bad("extraction point is not a directory"));
        }
        if is_window(&found) {
            return Err(self.missing());
        }
        match root.mount_of(&path) {
            Some(mount) if !mount.rw => Err(Error::bad("mounted volume is marked read-only")),
            None if root.record.host.readonly_rootfs => {
                Err(Error::bad("container rootfs is marked read-only"))
            }
            _ => Ok(path),
        }
    }

    fn missing(&self) -> Error {
        let (path, container) = (&self.path, &self.container);
        Error::NotFound(format!(
            "Could not find the file {path} in container {container}"
        ))
    }

    fn failed(&self, errno: Errno) -> Error {
        let problem = |text: &str| Error::bad(format!("{}: {text}", self.path));
        match errno {
            Errno::NOENT => self.missing(),
            Errno::NOTDIR => problem("not a directory"),
            Errno::LOOP => problem("too many levels of symbolic links"),
            Errno::NAMETOOLONG => problem("file name too long"),
            other => Error::Io {
                operation: "cannot look at a file of the container",
                source: other.into(),
            },
        }
    }
}

fn tell(asked: &Asked, found: &Found) -> Value {
    let stat = &found.stat;
    let seconds = OffsetDateTime::from_unix_timestamp(stat.st_mtime).ok();
    let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let mtime = seconds.and_then(|time| time.replace_nanosecond(nanos).ok());
    let mtime = mtime.and_then(|time| time.format(&Rfc3339).ok());
    json!({
        "name": asked.base(),
        "size": stat.st_size,
        "mode": go_mode(stat.st_mode),
        "mtime": mtime.unwrap_or_else(|| super::time(0)),
        "linkTarget": found.target.to_string_lossy(),
    })
}

fn header(told: &Value) -> Result<HeaderValue> {
    let encoded = STANDARD.encode(told.to_string());
    HeaderValue::from_str(&encoded).map_err(|_| Error::bad("the path cannot be told in a header"))
}

/// Go's `io/fs.FileMode`, whose bits for types are not those of the kernel.
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => 1 << 26 | 1 << 21,
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special = special.iter().filter(|(bit, _)| mode & bit != 0);
    special.fold(kind | mode & 0o777, |all, (_, bit)| all | bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(path: &str) -> Asked {
        let query = Query::parse(&format!("path={path}"));
        Asked::of("c".to_owned(), &query).unwrap()
    }

    #[test]
    fn modes_are_go_s() {
        for (mode, expected) in [
            (0o100644, 0o644),
            (0o040755, 1 << 31 | 0o755),
            (0o041777, 1 << 31 | 1 << 20 | 0o777),
            (0o104755, 1 << 23 | 0o755),
            (0o120777, 1 << 27 | 0o777),
            (0o020666, 1 << 26 | 1 << 21 | 0o666),
        ] {
            assert_eq!(go_mode(mode), expected, "{mode:o}");
        }
    }

    #[test]
    fn the_last_name_is_go_s() {
        for (path, expected) in [
            ("/etc/passwd", "passwd"),
            ("etc/", "etc"),
            ("/etc/.", "."),
            ("/", "/"),
            ("//", "/"),
            ("/.", "/"),
            (".", "/"),
        ] {
            assert_eq!(asked(path).base(), expected, "{path}");
        }
        assert!(Asked::of("c".to_owned(), &Query::parse("path=")).is_err());
    }
}
