//! A corpus of Dockerfiles, built and checked: `integration/dockerfiles/corpus.txt` says how.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};

use super::{Step, berth, same};
use crate::suites::docker::client::Docker;
use crate::suites::docker::session::Session;
use crate::workspace;

pub const STEPS: &[(&str, Step)] = &[(
    "a corpus of Dockerfiles is built, and what it makes checked",
    all,
)];

/// Fewer are not the corpus.
const LEAST: usize = 60;
/// Built at the same time.
const AT_ONCE: usize = 4;

/// Images that the corpus builds on, all of them the same.
const IMAGES: &[&str] = &[
    "alpine:3.20",
    "composer:2",
    "debian:12",
    "dotnet/aspnet:8.0",
    "dotnet/sdk:8.0",
    "elixir:1.16",
    "golang:1.23",
    "haproxy:2.9",
    "hugo:ext",
    "java:21",
    "maven:3.9",
    "nginx:1.27",
    "node:22",
    "perl:5.38",
    "php:8.3",
    "python:3.12",
    "ruby:3.3.0",
    "rust:1.85",
    "tomcat:10",
    "ubuntu:24.04",
    "xx:1",
];

/// What the script stands in for.
const TOOLS: &[&str] = &[
    "a2enmod",
    "apk",
    "apt-get",
    "bundle",
    "cargo",
    "composer",
    "cpanm",
    "docker-php-ext-install",
    "dotnet",
    "gcc",
    "go",
    "hugo",
    "java",
    "make",
    "mix",
    "mvn",
    "npm",
    "pip",
    "python",
    "yarn",
];

const TOOL: &str = "#!/bin/sh\nname=${0##*/}\necho \"$name $*\" >> /tools\n\
    while [ $# -gt 0 ]; do\n  if [ \"$1\" = -o ]; then\n    mkdir -p \"$(dirname \"$2\")\"; echo \"made by $name\" > \"$2\"\n  fi\n  shift\ndone\n";

/// One of them.
#[derive(Debug, Default)]
struct Sample {
    name: String,
    dockerfile: String,
    files: Vec<(String, String)>,
    arguments: Vec<String>,
    /// A template for `inspect`, and what it shows.
    inspected: Option<(String, String)>,
}

fn read(text: &str) -> Result<Vec<Sample>> {
    let mut samples: Vec<Sample> = Vec::new();
    // Where lines go.
    let mut open: Option<String> = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("=== ") {
            samples.push(Sample {
                name: name.to_owned(),
                ..Sample::default()
            });
            open = None;
            continue;
        }
        let Some(sample) = samples.last_mut() else {
            continue;
        };
        if let Some(section) = line.strip_prefix("--- ") {
            let (kind, rest) = section.split_once(' ').unwrap_or((section, ""));
            match kind {
                "file" => sample.files.push((rest.to_owned(), String::new())),
                "inspect" => sample.inspected = Some((rest.to_owned(), String::new())),
                "args" => sample.arguments = rest.split(' ').map(str::to_owned).collect(),
                "Dockerfile" => {}
                other => bail!("{}: a section {other:?}", sample.name),
            }
            open = Some(kind.to_owned());
            continue;
        }
        let into = match open.as_deref() {
            Some("Dockerfile") => &mut sample.dockerfile,
            Some("file") => &mut sample.files.last_mut().context("a file")?.1,
            Some("inspect") => &mut sample.inspected.as_mut().context("a template")?.1,
            _ => bail!("{}: {line:?} belongs to nothing", sample.name),
        };
        into.push_str(line);
        into.push('\n');
    }
    Ok(samples)
}

fn tools(session: &Session) -> Result<()> {
    let directory = session.place.scratch().join("corpus-tools");
    fs::create_dir_all(&directory)?;
    let base = session.reference(":one");
    let links: Vec<String> = TOOLS
        .iter()
        .map(|tool| format!("/usr/bin/{tool}"))
        .collect();
    let text = format!(
        "FROM {base}\nCOPY --chmod=755 tool /usr/bin/tool\n\
         RUN for name in {}; do cp /usr/bin/tool $name; done\n",
        links.join(" ")
    );
    fs::write(directory.join("Dockerfile"), text)?;
    fs::write(directory.join("tool"), TOOL)?;
    let path = directory.display().to_string();
    let mut line = vec!["build", "-q"];
    line.extend(IMAGES.iter().flat_map(|image| ["-t", *image]));
    line.push(&path);
    berth(session, &line)?;
    berth(session, &["tag", &base, "base:1"]).map(drop)
}

fn built(docker: &Docker, scratch: &Path, number: usize, sample: &Sample) -> Result<()> {
    let directory = scratch.join(number.to_string());
    fs::create_dir_all(&directory)?;
    let dockerfile = ("Dockerfile".to_owned(), sample.dockerfile.clone());
    for (name, text) in sample.files.iter().chain([&dockerfile]) {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().context("a file in a directory")?)?;
        fs::write(&path, text).with_context(|| format!("writing {name}"))?;
    }
    let (tag, path) = (
        format!("corpus/{number}:1"),
        directory.display().to_string(),
    );
    let mut line = vec!["build", "-t", &tag];
    line.extend(sample.arguments.iter().map(String::as_str));
    line.push(&path);
    let output = docker.output(&line)?;
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {err}", output.status);
    if let Some((template, expected)) = &sample.inspected {
        let shown = docker.text(&["inspect", "--format", template, &tag])?;
        same(&sample.name, shown.as_str(), expected.trim_end())?;
    }
    Ok(())
}

fn all(session: &mut Session) -> Result<()> {
    let path = workspace::root().join("integration/dockerfiles/corpus.txt");
    let text = fs::read_to_string(&path).context("reading the corpus")?;
    let samples = read(&text)?;
    ensure!(samples.len() >= LEAST, "{} samples", samples.len());
    tools(session)?;
    let scratch = session.place.scratch().join("corpus");
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let docker = &session.docker;
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(sample) = samples.get(number) else {
                        break;
                    };
                    if let Err(error) = built(docker, &scratch, number, sample)
                        && let Ok(mut wrong) = wrong.lock()
                    {
                        wrong.push(format!("{}: {error:#}", sample.name));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap_or_default();
    ensure!(
        wrong.is_empty(),
        "{} of {} are wrong:\n{}",
        wrong.len(),
        samples.len(),
        wrong.join("\n")
    );
    println!("    {} Dockerfiles", samples.len());
    Ok(())
}
