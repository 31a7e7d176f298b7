//! Caches elsewhere, as `--cache-from` and `--cache-to` name them. Registries are the daemon's
//! affair; directories are sent before the build, and fetched after it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use berth_ignore::Ignore;
use futures::future::try_join_all;
use serde_json::Value;

use super::output::unpacked;
use super::pack::{self, Tree};
use crate::commands::transfer::TAR;
use crate::daemon::{Call, Client};
use crate::error::{Error, Result};
use crate::output::note;

/// What BuildKit calls a cache in a directory.
const TAG: &str = "latest";
/// Bytes of an index or a manifest.
const LARGEST: u64 = 8 << 20;

/// What a build is given of caches, and what it is to leave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caches {
    from: Vec<Place>,
    to: Vec<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// The daemon knows what is meant.
    There(String),
    Here {
        directory: PathBuf,
        /// What else was said of it.
        rest: Vec<String>,
    },
}

impl Caches {
    pub fn parse(from: &[String], to: &[String]) -> Result<Self> {
        let all = |given: &[String], field: &str| {
            let places = given.iter().map(|text| Place::parse(text, field));
            places.collect::<Result<_>>()
        };
        Ok(Self {
            from: all(from, "src")?,
            to: all(to, "dest")?,
        })
    }

    /// Puts them into the query of a build. What is in directories here is sent before.
    pub async fn offer(&self, client: &Client, mut call: Call) -> Result<Call> {
        for place in &self.from {
            call = match place {
                Place::There(text) => call.query("berth-cache-from", text),
                Place::Here { directory, rest } => match named(directory, rest) {
                    Ok(names) => {
                        let token = send(client, directory, &names).await?;
                        let rest = rest.iter().map(|field| format!(",{field}"));
                        let text = format!("type=local,id={token}{}", rest.collect::<String>());
                        call.query("berth-cache-from", text)
                    }
                    // The first build has no cache yet.
                    Err(error) => {
                        note(&format!("berth: no cache is sent: {}", error.report()));
                        call
                    }
                },
            };
        }
        for place in &self.to {
            call = match place {
                Place::There(text) => call.query("berth-cache-to", text),
                Place::Here { rest, .. } => {
                    let rest = rest.iter().map(|field| format!(",{field}"));
                    let text = format!("type=local{}", rest.collect::<String>());
                    call.query("berth-cache-to", text)
                }
            };
        }
        Ok(call)
    }

    /// Fetches what the build left for directories here: by the numbers of targets, with tickets.
    pub async fn fetch(&self, client: &Client, made: &[(usize, String)]) -> Result<()> {
        let mut missing: Vec<&Path> = self.to.iter().filter_map(Place::required).collect();
        let fetched = made.iter().filter_map(|(number, ticket)| {
            let Place::Here { directory, .. } = self.to.get(*number)? else {
                return None;
            };
            missing.retain(|path| path != directory);
            Some(fetch(client, directory, ticket))
        });
        // Each waits there but for a while.
        try_join_all(fetched.collect::<Vec<_>>()).await?;
        match missing.first() {
            None => Ok(()),
            Some(path) => Err(Error::Failed(format!(
                "the daemon left no cache for {}: it is not Berth, or an older one",
                path.display()
            ))),
        }
    }
}

impl Place {
    /// `field` has the directory of what is `type=local`.
    fn parse(text: &str, field: &str) -> Result<Self> {
        let fields: Vec<&str> = text.split(',').collect();
        if !fields.contains(&"type=local") {
            return Ok(Self::There(text.to_owned()));
        }
        let (mut directory, mut rest) = (None, Vec::new());
        for one in fields {
            match one.split_once('=') {
                Some((name, path)) if name == field => directory = Some(PathBuf::from(path)),
                Some(("type", _)) => {}
                Some(("id", _)) | None => {
                    return Err(Error::usage(format!(
                        "cache {text:?}: {one:?} is not known"
                    )));
                }
                Some(_) => rest.push(one.to_owned()),
            }
        }
        let missing = || Error::usage(format!("cache {text:?}: write {field}=DIRECTORY"));
        Ok(Self::Here {
            directory: directory.ok_or_else(missing)?,
            rest,
        })
    }

    /// The directory that has to be written.
    fn required(&self) -> Option<&Path> {
        match self {
            Self::There(_) => None,
            Self::Here { rest, .. } if rest.iter().any(|field| field == "ignore-error=true") => {
                None
            }
            Self::Here { directory, .. } => Some(directory),
        }
    }
}

/// The files of a layout that a cache consists of: a directory keeps those of older ones, too.
fn named(directory: &Path, rest: &[String]) -> Result<BTreeSet<String>> {
    let tag = |name: &str| {
        let mut values = rest.iter().filter_map(|field| field.split_once('='));
        values
            .find(|(field, _)| *field == name)
            .map(|(_, value)| value)
    };
    let tag = tag("digest").or_else(|| tag("tag")).unwrap_or(TAG);
    let index = document(directory, "index.json")?;
    let is_meant = |entry: &&Value| {
        let name = &entry["annotations"]["org.opencontainers.image.ref.name"];
        entry["digest"] == tag || *name == tag
    };
    let entries = index["manifests"].as_array().into_iter().flatten();
    let Some(entry) = entries.rev().find(is_meant) else {
        let what = format!("{} has no cache called {tag}", directory.display());
        return Err(Error::usage(what));
    };
    let mut names = BTreeSet::from(["index.json".to_owned()]);
    let Some(name) = blob(&entry["digest"]) else {
        let what = format!("{} is no OCI layout", directory.display());
        return Err(Error::usage(what));
    };
    let manifest = document(directory, &name)?;
    names.insert(name);
    let lists = ["layers", "manifests"].map(|list| manifest[list].as_array());
    let all = lists.into_iter().flatten().flatten();
    let digests = all
        .chain([&manifest["config"]])
        .map(|entry| &entry["digest"]);
    names.extend(digests.filter_map(blob));
    Ok(names)
}

fn document(directory: &Path, name: &str) -> Result<Value> {
    let path = directory.join(name);
    let size = std::fs::metadata(&path)
        .map_err(Error::file("reading the cache", &path))?
        .len();
    if size > LARGEST {
        return Err(Error::usage(format!("{} is too large", path.display())));
    }
    let bytes = std::fs::read(&path).map_err(Error::file("reading the cache", &path))?;
    serde_json::from_slice(&bytes).map_err(|source| Error::BadFile { path, source })
}

/// Where a layout has a blob.
fn blob(digest: &Value) -> Option<String> {
    let (algorithm, hex) = digest.as_str()?.split_once(':')?;
    let is_hex = hex.len() >= 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_known = ["sha256", "sha512"].contains(&algorithm);
    (is_hex && is_known).then(|| format!("blobs/{algorithm}/{hex}"))
}

async fn send(client: &Client, directory: &Path, names: &BTreeSet<String>) -> Result<String> {
    let rules = names.iter().map(|name| format!("!{name}\n"));
    let rules = format!("*\n{}", rules.collect::<String>());
    let tree = Tree {
        root: directory.to_owned(),
        ignore: Ignore::parse(&rules).map_err(|_| Error::usage("the cache's names are bad"))?,
        always: Vec::new(),
        members: Vec::new(),
    };
    let (reader, packing) = pack::start(tree);
    let call = Call::post("/build/cache").upload(TAR, reader);
    let taken: Result<Value> = client.ask(call).await;
    match taken {
        Ok(taken) => Ok(taken["Id"].as_str().unwrap_or_default().to_owned()),
        Err(error) if error.is_not_found() => Err(Error::usage(
            "this daemon takes no caches of directories: it is not Berth, or an older one",
        )),
        Err(error @ Error::Broken(_)) => {
            packing.outcome().await?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

async fn fetch(client: &Client, directory: &Path, ticket: &str) -> Result<()> {
    let call = Call::get("/build/cache").query("ticket", ticket);
    unpacked(client.send(call).await?, directory).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn directories_are_this_side_s_and_all_else_the_daemon_s() {
        let parse = |text: &str| Place::parse(text, "src");
        let there = |text: &str| Place::There(text.to_owned());
        for text in ["a:1", "type=registry,ref=a:1", "type=inline"] {
            assert_eq!(parse(text).unwrap(), there(text));
        }
        let expected = Place::Here {
            directory: "/x/y".into(),
            rest: vec!["tag=t".to_owned()],
        };
        assert_eq!(parse("type=local,src=/x/y,tag=t").unwrap(), expected);
        for text in [
            "type=local",
            "type=local,dest=/x",
            "type=local,src=/x,id=1",
            "type=local,/x",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_a_cache_consists_of_is_sent_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let digest = |letter: &str| format!("sha256:{}", letter.repeat(64));
        let manifest = json!({
            "config": { "digest": digest("b") },
            "layers": [{ "digest": digest("c") }, { "digest": "sha256:../../etc/passwd" }],
        });
        let index = json!({ "manifests": [
            { "digest": digest("e") },
            { "digest": digest("a"), "annotations": { "org.opencontainers.image.ref.name": "latest" } },
        ] });
        let blobs = scratch.path().join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(blobs.join("a".repeat(64)), manifest.to_string()).unwrap();
        std::fs::write(scratch.path().join("index.json"), index.to_string()).unwrap();
        let names = named(scratch.path(), &[]).unwrap();
        let expected = ["a", "b", "c"].map(|letter| format!("blobs/sha256/{}", letter.repeat(64)));
        let expected: BTreeSet<String> =
            expected.into_iter().chain(["index.json".into()]).collect();
        assert_eq!(names, expected);
        assert!(named(scratch.path(), &["tag=other".to_owned()]).is_err());
        assert!(named(&scratch.path().join("none"), &[]).is_err());
    }
}
