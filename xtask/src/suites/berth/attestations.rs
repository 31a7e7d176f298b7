//! Steps that concern what is said of images: how they were made, and what is in them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_names::Digest;
use serde_json::Value;

use super::builds::{built, context, unlikely, with_bytes};
use super::{Step, berth, contains, same};
use crate::suites::docker::session::Session;

pub const STEPS: &[(&str, Step)] = &[
    (
        "what is said of an image stands beside it in the registry",
        pushed,
    ),
    (
        "an image with attestations is pulled as one without",
        pulled,
    ),
    (
        "each image of several platforms has its own attestations",
        several,
    ),
    ("the same build says the same again", reproduced),
    (
        "an OCI layout has attestations, and Docker's archive has not",
        archived,
    ),
];

const REPOSITORY: &str = "crew/attested";

fn name(session: &Session, tag: &str) -> String {
    format!("{}/{REPOSITORY}:{tag}", session.registry.address())
}

fn directory(session: &Session) -> Result<std::path::PathBuf> {
    let base = session.reference(":one");
    let text = format!(
        "FROM {base}\nARG WORD=none\nCOPY status /var/lib/dpkg/status.d/planted\n\
         RUN --mount=type=secret,id=token echo $WORD | wc -c > /size\nLABEL who=me\n"
    );
    let status = "Package: planted\nVersion: 1.2-3\nArchitecture: all\n";
    context(
        session,
        "attested",
        &[("Dockerfile", &text), ("status", status)],
    )
}

fn manifest(session: &Session, reference: &str) -> Result<Value> {
    let bytes = session.registry.remote().manifest(REPOSITORY, reference)?;
    serde_json::from_slice(&bytes).context("reading a manifest")
}

/// The manifest of the image, and the statements about it by their predicates' types.
fn read(session: &Session, tag: &str) -> Result<(Value, Vec<(String, Value)>)> {
    let index = manifest(session, tag)?;
    let entries = index["manifests"].as_array().context("it is no index")?;
    same("manifests", entries.len(), 2)?;
    let (image, said) = (&entries[0], &entries[1]);
    same("the platform", &said["platform"]["os"], &"unknown".into())?;
    let notes = &said["annotations"];
    same(
        "the kind",
        &notes["vnd.docker.reference.type"],
        &"attestation-manifest".into(),
    )?;
    same(
        "of",
        &notes["vnd.docker.reference.digest"],
        &image["digest"],
    )?;
    let said = manifest(session, said["digest"].as_str().context("no digest")?)?;
    let mut statements = Vec::new();
    for layer in said["layers"].as_array().into_iter().flatten() {
        same(
            "a statement",
            &layer["mediaType"],
            &"application/vnd.in-toto+json".into(),
        )?;
        let digest: Digest = layer["digest"].as_str().context("no digest")?.parse()?;
        let bytes = session.registry.remote().blob(REPOSITORY, &digest)?;
        same("its digest", Digest::sha256_of(&bytes), digest)?;
        let statement: Value = serde_json::from_slice(&bytes)?;
        let hex = &statement["subject"][0]["digest"]["sha256"];
        let hex = format!("sha256:{}", hex.as_str().unwrap_or_default());
        same(
            "about",
            hex.as_str(),
            image["digest"].as_str().unwrap_or_default(),
        )?;
        let kind = &layer["annotations"]["in-toto.io/predicate-type"];
        same("its kind", kind, &statement["predicateType"])?;
        let kind = kind.as_str().unwrap_or_default().to_owned();
        statements.push((kind, statement["predicate"].clone()));
    }
    Ok((
        manifest(session, image["digest"].as_str().unwrap_or_default())?,
        statements,
    ))
}

fn pushed(session: &mut Session) -> Result<()> {
    let directory = directory(session)?;
    let (token, word) = (unlikely("said-token"), unlikely("said-word"));
    let file = session.place.scratch().join("said-token");
    fs::write(&file, &token)?;
    let secret = format!("id=token,src={}", file.display());
    let argument = format!("WORD={word}");
    let proxy = "HTTP_PROXY=http://me:proxied@10.0.0.1:1";
    let line = [
        "--secret",
        &secret,
        "--build-arg",
        &argument,
        "--build-arg",
        proxy,
        "--push",
        "-t",
    ];
    let min = name(session, "min");
    let asked = ["--provenance", "--sbom"];
    built(session, &directory, &[&line[..], &[&min], &asked].concat())?;
    let (image, said) = read(session, "min")?;
    let id = berth(session, &["inspect", "--format", "{{.Id}}", &min])?;
    same(
        "the image",
        image["config"]["digest"].as_str(),
        Some(id.as_str()),
    )?;
    let kinds: Vec<&str> = said.iter().map(|(kind, _)| kind.as_str()).collect();
    same(
        "what is said",
        kinds,
        vec![
            "https://slsa.dev/provenance/v1",
            "https://spdx.dev/Document",
        ],
    )?;
    let [(_, provenance), (_, bill)] = said.as_slice() else {
        anyhow::bail!("other statements");
    };
    let text = provenance.to_string();
    let base = &provenance["buildDefinition"]["resolvedDependencies"][0];
    contains("its base", &base.to_string(), "crew/busybox@one?platform=")?;
    let base = base["digest"]["sha256"]
        .as_str()
        .context("no digest of the base")?;
    same("its base", base, session.image.manifest_digest.hex())?;
    contains("ids of secrets", &text, "{\"id\":\"token\"")?;
    for hidden in [&token, &word, "proxied"] {
        ensure!(!text.contains(hidden), "{hidden} is told: {text}");
    }
    contains(
        "packages",
        &bill.to_string(),
        "\"pkg:deb/debian/planted@1.2-3?arch=all\"",
    )?;

    let max = name(session, "max");
    let line = [&line[..], &[&max, "--attest", "type=provenance,mode=max"]].concat();
    built(session, &directory, &line)?;
    let (_, said) = read(session, "max")?;
    same("what is said", said.len(), 1)?;
    let text = said[0].1.to_string();
    contains("arguments", &text, &word)?;
    let data = &said[0].1["buildDefinition"]["internalParameters"]["source"]["infos"][0]["data"];
    let data = STANDARD.decode(data.as_str().unwrap_or_default())?;
    same(
        "the Dockerfile",
        data,
        fs::read(directory.join("Dockerfile"))?,
    )?;
    for hidden in [&token, "proxied"] {
        ensure!(!text.contains(hidden), "{hidden} is told: {text}");
    }
    fs::remove_file(&file)?;
    let kept = session.place.scratch().join("registry");
    same(
        "the secret in the registry",
        with_bytes(&kept, &token)?,
        Vec::new(),
    )?;

    // What is not asked for any more is not said.
    let plain = name(session, "plain");
    built(
        session,
        &directory,
        &["--push", "-t", &plain, "--provenance=false"],
    )?;
    let plain = manifest(session, "plain")?;
    ensure!(plain["manifests"].is_null(), "it is an index: {plain}");
    for (option, part) in [
        ("--provenance=version=v0.2", "only version=v1"),
        ("--sbom=generator=x", "no generator"),
        ("--attest=type=x", "type=sbom"),
    ] {
        let path = directory.display().to_string();
        let said = session.docker.refusal(&["build", option, &path])?;
        contains(option, &said, part)?;
    }
    Ok(())
}

fn pulled(session: &mut Session) -> Result<()> {
    let directory = directory(session)?;
    let name = name(session, "pulled");
    let line = ["--push", "-t", &name, "--provenance", "--sbom"];
    built(session, &directory, &line)?;
    let id = |session: &Session| berth(session, &["inspect", "--format", "{{.Id}}", &name]);
    let first = id(session)?;
    let digests = [
        "inspect",
        "--format",
        "{{range .RepoDigests}}{{println .}}{{end}}",
        &name,
    ];
    let known = berth(session, &digests)?;
    for stock in [false, true] {
        berth(session, &["rmi", &name])?;
        match stock {
            true => super::plugin::classic(session, &["pull", &name])?,
            false => berth(session, &["pull", &name])?,
        };
        same("the image", id(session)?, first.clone())?;
        let told = berth(session, &digests)?;
        ensure!(known.contains(told.trim()), "{told} is none of {known}");
        let size = berth(session, &["run", "--rm", &name, "cat", "/size"])?;
        same("what it says", size, "5".to_owned())?;
    }
    berth(session, &["rmi", &name]).map(drop)
}

fn several(session: &mut Session) -> Result<()> {
    let text = "FROM scratch\nCOPY Dockerfile /\n";
    let directory = context(session, "attested-several", &[("Dockerfile", text)])?;
    let name = name(session, "several");
    let both = ["--platform", "linux/amd64,linux/arm64"];
    let line = ["--push", "-t", &name, "--provenance", "--sbom"];
    built(session, &directory, &[&both[..], &line].concat())?;
    let index = manifest(session, "several")?;
    let entries = index["manifests"].as_array().context("it is no index")?;
    same("manifests", entries.len(), 4)?;
    let (images, said) = entries.split_at(2);
    for (image, said) in images.iter().zip(said) {
        let notes = &said["annotations"];
        let about = &notes["vnd.docker.reference.digest"];
        same("of", about, &image["digest"])?;
        let said = manifest(session, said["digest"].as_str().context("no digest")?)?;
        same(
            "statements",
            said["layers"].as_array().map(Vec::len),
            Some(2),
        )?;
    }
    berth(session, &["pull", &name])?;
    berth(session, &["rmi", &name]).map(drop)
}

fn reproduced(session: &mut Session) -> Result<()> {
    let directory = directory(session)?;
    let mut found = Vec::new();
    for tag in ["again", "again"] {
        let name = name(session, tag);
        let line = ["--push", "-t", &name, "--provenance=mode=max", "--sbom"];
        let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1700000000", "--no-cache"];
        built(session, &directory, &[&line[..], &epoch].concat())?;
        found.push(session.registry.remote().manifest(REPOSITORY, tag)?);
        berth(session, &["rmi", &name])?;
    }
    ensure!(
        found[0] == found[1],
        "what is said of the same build is another"
    );
    let (_, said) = read(session, "again")?;
    contains("the moment", &said[0].1.to_string(), "2023-11-14T22:13:20Z")
}

fn archived(session: &mut Session) -> Result<()> {
    let directory = directory(session)?;
    let scratch = session.place.scratch().join("attested-archives");
    let _fresh = fs::remove_dir_all(&scratch);
    fs::create_dir(&scratch)?;
    let to = |text: &str| text.replace("DIR", &scratch.display().to_string());
    let all = [
        "type=oci,tar=false,dest=DIR/layout",
        "type=oci,dest=DIR/layout.tar",
        "type=docker,dest=DIR/docker.tar",
        "DIR/files",
    ]
    .map(to);
    let outputs: Vec<&str> = all
        .iter()
        .flat_map(|output| ["-o", output.as_str()])
        .collect();
    let line = ["-t", "made/attested:1", "--provenance", "--sbom"];
    let said = built(session, &directory, &[&line[..], &outputs].concat())?;
    contains("files", &said, "an output of files holds no attestations")?;
    contains(
        "Docker's",
        &said,
        "an archive of Docker's holds no attestations",
    )?;
    let document = |path: &Path| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let layout = scratch.join("layout");
    let top = document(&layout.join("index.json"))?;
    let digest = top["manifests"][0]["digest"]
        .as_str()
        .context("no digest")?;
    let index = document(
        &layout
            .join("blobs/sha256")
            .join(digest.trim_start_matches("sha256:")),
    )?;
    same(
        "manifests",
        index["manifests"].as_array().map(Vec::len),
        Some(2),
    )?;
    let id = berth(
        session,
        &["inspect", "--format", "{{.Id}}", "made/attested:1"],
    )?;
    for archive in ["layout.tar", "docker.tar"] {
        berth(session, &["rmi", "made/attested:1"])?;
        berth(session, &["load", "-i", &to(&format!("DIR/{archive}"))])?;
        let now = berth(
            session,
            &["inspect", "--format", "{{.Id}}", "made/attested:1"],
        )?;
        same(archive, now, id.clone())?;
    }
    berth(session, &["rmi", "made/attested:1"]).map(drop)
}
