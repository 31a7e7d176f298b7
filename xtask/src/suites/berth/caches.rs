//! Steps that concern caches of builds elsewhere: in a registry, in a directory, in an image.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use berth_names::Digest;
use serde_json::{Value, json};

use super::builds::{built, context, records, unlikely, with_bytes, worked};
use super::{Step, berth, contains, ended, same};
use crate::suites::docker::session::Session;

pub const STEPS: &[(&str, Step)] = &[
    (
        "a cache in a registry gives the same image where nothing is known",
        registry,
    ),
    ("a cache in a directory does, and has no secrets", directory),
    ("a cache in an image does, for the stock client too", inline),
    (
        "a cache that lies is told of, and its steps are carried out",
        hostile,
    ),
    (
        "a cache that is not there is no error, one that is not left is",
        absent,
    ),
];

/// What a build of it makes twice is not the same twice.
fn random(session: &Session, name: &str) -> Result<PathBuf> {
    let base = session.reference(":one");
    let text = format!(
        "FROM {base} AS tools\nENV A=1\n\
         RUN head -c 16 /dev/urandom | od -An -tx1 > /tool\n\
         FROM {base}\nLABEL x=y\nWORKDIR /made/there\nCOPY --from=tools /tool /tool\n\
         COPY file /file\nRUN head -c 16 /dev/urandom | od -An -tx1 > /random\n\
         CMD [\"cat\", \"/random\", \"/tool\"]\n"
    );
    context(session, name, &[("Dockerfile", &text), ("file", "text\n")])
}

/// Forgets every build, and the images that they made.
fn forget(session: &Session, names: &[&str]) -> Result<()> {
    for name in names {
        berth(session, &["rmi", name])?;
    }
    let answer = session.docker.request("POST", "/build/prune?all=1", &[])?;
    same("prune", answer.status, 200)
}

fn id(session: &Session, name: &str) -> Result<String> {
    berth(session, &["inspect", "--format", "{{.Id}}", name])
}

fn cache(session: &Session, tag: &str) -> String {
    format!("{}/crew/cache:{tag}", session.registry.address())
}

fn registry(session: &mut Session) -> Result<()> {
    let directory = random(session, "cached")?;
    let build = |session: &Session, more: &[&str]| {
        records(
            session,
            &directory,
            &[&["-t", "made/cached:1"], more].concat(),
        )
    };
    for (tag, options) in [
        ("max", "mode=max"),
        ("index", "mode=max,image-manifest=false,compression=zstd"),
    ] {
        let reference = cache(session, tag);
        let to = format!("type=registry,ref={reference},{options}");
        build(session, &["--cache-to", &to])?;
        let first = id(session, "made/cached:1")?;
        forget(session, &["made/cached:1"])?;
        let manifest = session.registry.remote().manifest("crew/cache", tag)?;
        let manifest: Value = serde_json::from_slice(&manifest)?;
        let kind = "application/vnd.buildkit.cacheconfig.v0";
        contains("the form", &manifest.to_string(), kind)?;
        same("an index", manifest["manifests"].is_array(), tag == "index")?;

        let from = format!("type=registry,ref={reference}");
        let taken = build(session, &["--cache-from", &from])?;
        same("steps that were carried out", worked(&taken), Vec::new())?;
        same("the image", id(session, "made/cached:1")?, first.clone())?;
        forget(session, &["made/cached:1"])?;
        // Without the cache it is another image.
        build(session, &[])?;
        ensure!(
            id(session, "made/cached:1")? != first,
            "nothing was forgotten"
        );
        forget(session, &["made/cached:1"])?;
    }
    // A cache of the image alone knows nothing of other stages.
    let reference = cache(session, "min");
    build(
        session,
        &["--cache-to", &format!("type=registry,ref={reference}")],
    )?;
    let first = id(session, "made/cached:1")?;
    forget(session, &["made/cached:1"])?;
    let taken = build(session, &["--cache-from", &reference])?;
    let run = "RUN head -c 16 /dev/urandom | od -An -tx1 > /tool";
    same("of other stages", worked(&taken), vec!["ENV A=1", run])?;
    same("the image", id(session, "made/cached:1")?, first)?;
    forget(session, &["made/cached:1"])
}

fn directory(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!(
        "FROM {base}\nRUN --mount=type=secret,id=token wc -c < /run/secrets/token > /size\n\
         RUN head -c 16 /dev/urandom | od -An -tx1 > /random\n"
    );
    let directory = context(session, "kept", &[("Dockerfile", &text)])?;
    let token = unlikely("cache-token");
    let file = session.place.scratch().join("cache-token");
    fs::write(&file, &token)?;
    let kept = fresh(session, "kept-cache")?;
    let secret = format!("id=token,src={}", file.display());
    let (to, from) = (to(&kept), from(&kept));
    let line = ["-t", "made/kept:1", "--secret", &secret];
    built(
        session,
        &directory,
        &[&line[..], &["--cache-to", &to]].concat(),
    )?;
    fs::remove_file(&file)?;
    let first = id(session, "made/kept:1")?;
    same(
        "secrets in the cache",
        with_bytes(&kept, &token)?,
        Vec::new(),
    )?;
    forget(session, &["made/kept:1"])?;
    // Nothing is carried out, so that no secret is asked for.
    let line = [
        "-t",
        "made/kept:1",
        "--cache-from",
        &from,
        "--cache-to",
        &to,
    ];
    let taken = records(session, &directory, &line)?;
    same("steps that were carried out", worked(&taken), Vec::new())?;
    same("the image", id(session, "made/kept:1")?, first.clone())?;
    forget(session, &["made/kept:1"])?;
    // What was taken from a cache makes the same cache again.
    let taken = records(
        session,
        &directory,
        &["-t", "made/kept:1", "--cache-from", &from],
    )?;
    same("steps from the second cache", worked(&taken), Vec::new())?;
    same("the image", id(session, "made/kept:1")?, first)?;
    forget(session, &["made/kept:1"])
}

fn fresh(session: &Session, name: &str) -> Result<PathBuf> {
    let path = session.place.scratch().join(name);
    let _fresh = fs::remove_dir_all(&path);
    Ok(path)
}

fn to(path: &Path) -> String {
    format!("type=local,dest={},mode=max", path.display())
}

fn from(path: &Path) -> String {
    format!("type=local,src={}", path.display())
}

fn inline(session: &mut Session) -> Result<()> {
    let directory = random(session, "inlined")?;
    let name = format!("{}/crew/inlined:1", session.registry.address());
    let line = ["-t", &name, "--cache-to", "type=inline", "--push"];
    built(session, &directory, &line)?;
    let first = id(session, &name)?;
    let said = berth(session, &["run", "--rm", &name])?;
    let of_run = said.lines().next().context("no line")?.to_owned();
    forget(session, &[&name])?;
    let line = [
        "-t",
        &name,
        "--cache-from",
        &name,
        "--cache-to",
        "type=inline",
    ];
    let taken = records(session, &directory, &line)?;
    let run = "RUN head -c 16 /dev/urandom | od -An -tx1 > /tool";
    same("of other stages", worked(&taken), vec!["ENV A=1", run])?;
    same("the image", id(session, &name)?, first)?;
    // By the stock door, where the image is here, and where it is not.
    for is_here in [true, false] {
        forget(session, &[&name])?;
        if is_here {
            berth(session, &["pull", &name])?;
        }
        let path = directory.display().to_string();
        let line = [
            "build",
            "-t",
            "made/inlined:2",
            "--cache-from",
            &name,
            &path,
        ];
        let said = super::plugin::classic(session, &line)?;
        same("from the cache", said.matches("Using cache").count(), 6)?;
        let said = berth(session, &["run", "--rm", "made/inlined:2"])?;
        same("what it says", said.lines().next(), Some(of_run.as_str()))?;
        let built_on = format!("FROM {name}\nLABEL on=top\n");
        let on_top = context(session, "on-top", &[("Dockerfile", &built_on)])?;
        built(session, &on_top, &["-t", "made/on-top:1"])?;
        forget(session, &["made/inlined:2", "made/on-top:1"])?;
    }
    let left = berth(session, &["images", "-q", &name])?;
    if !left.is_empty() {
        berth(session, &["rmi", &name])?;
    }
    Ok(())
}

/// Makes a copy of a cache in a directory whose document is changed, and whose digests are right.
fn changed(from: &Path, to: &Path, change: impl Fn(&Path, &mut Value)) -> Result<()> {
    let _fresh = fs::remove_dir_all(to);
    let blobs = to.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    for entry in fs::read_dir(from.join("blobs/sha256"))? {
        let entry = entry?;
        fs::copy(entry.path(), blobs.join(entry.file_name()))?;
    }
    let read = |path: &Path| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let place = |digest: &Value| -> Result<PathBuf> {
        let digest = digest.as_str().context("a digest")?;
        Ok(blobs.join(digest.trim_start_matches("sha256:")))
    };
    let put = |value: &Value| -> Result<(String, usize)> {
        let text = value.to_string();
        let digest = Digest::sha256_of(text.as_bytes());
        fs::write(blobs.join(digest.hex()), &text)?;
        Ok((digest.to_string(), text.len()))
    };
    let mut index = read(&from.join("index.json"))?;
    let mut manifest = read(&place(&index["manifests"][0]["digest"])?)?;
    let mut document = read(&place(&manifest["config"]["digest"])?)?;
    change(&blobs, &mut document);
    let (digest, size) = put(&document)?;
    manifest["config"]["digest"] = digest.into();
    manifest["config"]["size"] = size.into();
    let (digest, size) = put(&manifest)?;
    index["manifests"][0]["digest"] = digest.into();
    index["manifests"][0]["size"] = size.into();
    fs::write(to.join("index.json"), index.to_string())?;
    Ok(())
}

fn hostile(session: &mut Session) -> Result<()> {
    let directory = random(session, "lied")?;
    let (kept, lying) = (fresh(session, "lied-kept")?, fresh(session, "lied-cache")?);
    built(
        session,
        &directory,
        &["-t", "made/lied:1", "--cache-to", &to(&kept)],
    )?;
    let first = id(session, "made/lied:1")?;
    forget(session, &["made/lied:1"])?;
    let pid = session.daemon_pid()?;

    type Change = fn(&Path, &mut Value);
    let cases: [(&str, &str, Change); 7] = [
        (
            "archives of other digests",
            "expected sha256:0000",
            |_, document| {
                for layer in document["layers"].as_array_mut().into_iter().flatten() {
                    layer["annotations"]["diffID"] = format!("sha256:{}", "0".repeat(64)).into();
                }
            },
        ),
        (
            "layers of no place",
            "a layer that is not there",
            |_, document| {
                for record in document["records"].as_array_mut().into_iter().flatten() {
                    if record["layers"].is_array() {
                        record["layers"] =
                            json!([{ "layer": 99_999, "createdAt": "2026-01-01T00:00:00Z" }]);
                    }
                }
            },
        ),
        ("blobs that are gone", "is not there", |blobs, document| {
            for layer in document["layers"].as_array().into_iter().flatten() {
                let digest = layer["blob"].as_str().unwrap_or_default();
                let _gone = fs::remove_file(blobs.join(digest.trim_start_matches("sha256:")));
            }
        }),
        (
            "blobs of other bytes",
            "something else",
            |blobs, document| {
                for layer in document["layers"].as_array().into_iter().flatten() {
                    let digest = layer["blob"].as_str().unwrap_or_default();
                    let path = blobs.join(digest.trim_start_matches("sha256:"));
                    let mut bytes = fs::read(&path).unwrap_or_default();
                    if let Some(last) = bytes.last_mut() {
                        *last ^= 1;
                    }
                    let _broken = fs::write(&path, bytes);
                }
            },
        ),
        (
            "records that follow themselves",
            "follow themselves",
            |_, document| {
                document["records"][0]["inputs"] = json!([[{ "link": 0 }]]);
            },
        ),
        ("layers on each other", "stands on itself", |_, document| {
            document["layers"][0]["parent"] = 0.into();
        }),
        ("sizes beyond all disks", "", |_, document| {
            for layer in document["layers"].as_array_mut().into_iter().flatten() {
                layer["annotations"]["size"] = u64::MAX.into();
            }
        }),
    ];
    for (what, told, change) in cases {
        changed(&kept, &lying, change)?;
        let line = ["-t", "made/lied:1", "--cache-from", &from(&lying)];
        let said = built(session, &directory, &line)?;
        contains(what, &said, told)?;
        if !told.is_empty() {
            contains(what, &said, "WARNING: ")?;
        }
        let now = id(session, "made/lied:1")?;
        ensure!(now != first, "{what}: it is believed");
        let run = berth(session, &["run", "--rm", "made/lied:1"])?;
        same(what, run.lines().count(), 2)?;
        forget(session, &["made/lied:1"])?;
    }
    same("the daemon", session.daemon_pid()?, pid)?;
    let ping = session.docker.request("GET", "/_ping", &[])?;
    same("ping", ping.status, 200)
}

fn absent(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!("FROM {base}\nRUN echo absent > /absent\n");
    let directory = context(session, "absent", &[("Dockerfile", &text)])?;
    let none = cache(session, "none");
    let nowhere = from(&session.place.scratch().join("nowhere"));
    let line = ["--cache-from", &none, "--cache-from", &nowhere];
    let said = built(session, &directory, &line)?;
    contains(
        "a warning",
        &said,
        &format!("WARNING: the cache {none} is not used"),
    )?;
    contains("a directory", &said, "no cache is sent")?;
    let path = directory.display().to_string();
    let locked = session.locked_reference("crew/cache:1");
    let to = format!("type=registry,ref={locked}");
    let (code, _, said) = ended(session, &["build", "--cache-to", &to, &path])?;
    same("exit code", code, 1)?;
    contains("what failed", &said, "cannot send the cache to")?;
    let ignored = format!("{to},ignore-error=true");
    let said = built(session, &directory, &["--cache-to", &ignored])?;
    contains("a warning", &said, "WARNING: a cache is not exported")?;
    for (option, part) in [
        ("type=gha", "type=gha is not there"),
        ("type=inline,mode=max", "mode=min"),
        ("type=local", "dest=DIRECTORY"),
        ("type=registry,ref=a,compression=lz4", "gzip, zstd"),
    ] {
        let said = session
            .docker
            .refusal(&["build", "--cache-to", option, &path])?;
        contains(option, &said, part)?;
    }
    Ok(())
}
