//! Packages that an image's files tell of: the databases of dpkg and apk, and what Python's and Node's
//! installers leave beside their files. What is damaged, too large or hidden is left out: a stranger's
//! image may say anything.

use std::collections::BTreeMap;
use std::io::Read;

use serde::Deserialize;

use crate::error::Result;
use crate::tree::{NodeKind, Tree, joined};

/// Bytes of a database, and of a single package's file.
const LARGEST_DATABASE: u64 = 64 << 20;
const LARGEST_FILE: u64 = 1 << 20;
/// Files and directories that are looked at, and packages that are told.
const MOST_ENTRIES: usize = 1_000_000;
const MOST_PACKAGES: usize = 100_000;
const DEEPEST: usize = 64;
/// Directories that are others' when the image runs.
const PASSED_OVER: [&str; 3] = ["dev", "proc", "sys"];
const DPKG: &str = "var/lib/dpkg/status";
/// A file a package, as images without dpkg have it.
const DPKG_PARTS: &str = "var/lib/dpkg/status.d";
const APK: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];
const SYSTEM: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Apk,
    Deb,
    Npm,
    Python,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apk => "apk",
            Self::Deb => "deb",
            Self::Npm => "npm",
            Self::Python => "pypi",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Package {
    pub kind: Kind,
    pub name: String,
    pub version: String,
    pub architecture: String,
    pub maintainer: String,
    /// The file that tells of it.
    pub place: String,
}

/// The distribution.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct System {
    pub id: String,
    pub version: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub system: System,
    /// Sorted.
    pub packages: Vec<Package>,
}

impl Package {
    /// As package URLs are written.
    pub fn url(&self, system: &System) -> String {
        let kind = self.kind.as_str();
        let version = encoded(&self.version);
        let name = match self.kind {
            Kind::Apk | Kind::Deb => {
                let usual = if self.kind == Kind::Apk {
                    "alpine"
                } else {
                    "debian"
                };
                let id = if system.id.is_empty() {
                    usual
                } else {
                    &system.id
                };
                format!("{}/{}", encoded(id), encoded(&self.name))
            }
            Kind::Npm => match self.name.split_once('/') {
                Some((scope, name)) => format!("{}/{}", encoded(scope), encoded(name)),
                None => encoded(&self.name),
            },
            Kind::Python => encoded(&self.name.to_ascii_lowercase().replace('_', "-")),
        };
        let mut qualifiers = Vec::new();
        if !self.architecture.is_empty() {
            qualifiers.push(format!("arch={}", encoded(&self.architecture)));
        }
        if matches!(self.kind, Kind::Apk | Kind::Deb) && !system.id.is_empty() {
            let distribution = format!("{}-{}", system.id, system.version);
            qualifiers.push(format!(
                "distro={}",
                encoded(distribution.trim_end_matches('-'))
            ));
        }
        let qualifiers = match qualifiers.is_empty() {
            true => String::new(),
            false => format!("?{}", qualifiers.join("&")),
        };
        format!("pkg:{kind}/{name}@{version}{qualifiers}")
    }
}

fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// Looks through the files of an image. Blocking.
///
/// # Errors
/// If they cannot be read.
pub(crate) fn scan(tree: &dyn Tree) -> Result<Found> {
    let mut system = System::default();
    for path in SYSTEM {
        if let Some(text) = text(tree, path, LARGEST_FILE)? {
            system = of_release(&text);
            break;
        }
    }
    let mut packages = Vec::new();
    if let Some(text) = text(tree, DPKG, LARGEST_DATABASE)? {
        packages.extend(of_dpkg(&text, DPKG));
    }
    for name in list(tree, DPKG_PARTS)? {
        let path = joined(DPKG_PARTS, &name);
        if !name.ends_with(".md5sums")
            && let Some(text) = text(tree, &path, LARGEST_FILE)?
        {
            packages.extend(of_dpkg(&text, &path));
        }
    }
    for path in APK {
        if let Some(text) = text(tree, path, LARGEST_DATABASE)? {
            packages.extend(of_apk(&text, path));
        }
    }
    walk(tree, &mut packages)?;
    packages.sort();
    packages.dedup();
    packages.truncate(MOST_PACKAGES);
    Ok(Found { system, packages })
}

/// Python's and Node's packages, wherever they are.
fn walk(tree: &dyn Tree, packages: &mut Vec<Package>) -> Result<()> {
    let mut waiting = vec![(String::new(), 0)];
    let mut seen = 0;
    while let Some((directory, depth)) = waiting.pop() {
        for name in tree.list(&directory)? {
            seen += 1;
            if seen > MOST_ENTRIES || packages.len() > MOST_PACKAGES {
                return Ok(());
            }
            let path = joined(&directory, &name);
            let is_directory = matches!(
                tree.node(&path)?.map(|node| node.kind),
                Some(NodeKind::Directory)
            );
            if is_directory {
                let is_others = depth == 0 && PASSED_OVER.contains(&name.as_str());
                if depth < DEEPEST && !is_others {
                    waiting.push((path, depth + 1));
                }
                continue;
            }
            let above = directory.rsplit('/').next().unwrap_or_default();
            let found = match name.as_str() {
                "METADATA" if above.ends_with(".dist-info") => of_python,
                "PKG-INFO" if above.ends_with(".egg-info") => of_python,
                name if name.ends_with(".egg-info") => of_python,
                "package.json" if is_of_node(&directory) => of_node,
                _ => continue,
            };
            if let Some(text) = text(tree, &path, LARGEST_FILE)? {
                packages.extend(found(&text, &path));
            }
        }
    }
    Ok(())
}

/// `…/node_modules/name`, or with a scope before the name.
fn is_of_node(directory: &str) -> bool {
    let mut parts = directory.rsplit('/').skip(1);
    match parts.next() {
        Some("node_modules") => true,
        Some(scope) if scope.starts_with('@') => parts.next() == Some("node_modules"),
        _ => false,
    }
}

fn list(tree: &dyn Tree, path: &str) -> Result<Vec<String>> {
    let path = tree.resolve(path)?;
    match tree.node(&path)?.map(|node| node.kind) {
        Some(NodeKind::Directory) => tree.list(&path),
        _ => Ok(Vec::new()),
    }
}

/// A file that is there, no larger than that, and text. Links are followed within the image.
fn text(tree: &dyn Tree, path: &str, largest: u64) -> Result<Option<String>> {
    let Ok(path) = tree.resolve(path) else {
        return Ok(None);
    };
    let Some(NodeKind::File { size }) = tree.node(&path)?.map(|node| node.kind) else {
        return Ok(None);
    };
    if size > largest {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let read = tree.open(&path)?.take(largest).read_to_end(&mut bytes);
    Ok(read.ok().and_then(|_| String::from_utf8(bytes).ok()))
}

fn of_release(text: &str) -> System {
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        let found = lines.find(|(name, _)| name.trim() == key);
        let quotes = ['"', '\''];
        found.map_or(String::new(), |(_, value)| {
            value.trim().trim_matches(quotes).to_owned()
        })
    };
    System {
        id: value("ID"),
        version: value("VERSION_ID"),
    }
}

/// Paragraphs of `Name: value`; lines that go on are left out.
fn paragraphs(text: &str) -> impl Iterator<Item = BTreeMap<&str, &str>> {
    text.split("\n\n").map(|paragraph| {
        let lines = paragraph
            .lines()
            .filter(|line| !line.starts_with([' ', '\t']));
        let pairs = lines.filter_map(|line| line.split_once(':'));
        pairs.map(|(name, value)| (name, value.trim())).collect()
    })
}

fn package(
    kind: Kind,
    place: &str,
    fields: &BTreeMap<&str, &str>,
    [name, version, architecture, maintainer]: [&str; 4],
) -> Option<Package> {
    let get = |key: &str| fields.get(key).copied().unwrap_or_default().to_owned();
    let package = Package {
        kind,
        name: get(name),
        version: get(version),
        architecture: get(architecture),
        maintainer: get(maintainer),
        place: place.to_owned(),
    };
    (!package.name.is_empty() && !package.version.is_empty()).then_some(package)
}

fn of_dpkg(text: &str, place: &str) -> Vec<Package> {
    let is_installed = |fields: &BTreeMap<&str, &str>| match fields.get("Status") {
        Some(status) => status.ends_with(" installed"),
        None => true,
    };
    let names = ["Package", "Version", "Architecture", "Maintainer"];
    paragraphs(text)
        .filter(is_installed)
        .filter_map(|fields| package(Kind::Deb, place, &fields, names))
        .collect()
}

fn of_apk(text: &str, place: &str) -> Vec<Package> {
    paragraphs(text)
        .filter_map(|fields| package(Kind::Apk, place, &fields, ["P", "V", "A", "m"]))
        .collect()
}

/// The headers come before an empty line and a description.
fn of_python(text: &str, place: &str) -> Vec<Package> {
    let names = ["Name", "Version", "", "Maintainer"];
    let first = paragraphs(text).next();
    let found = first.and_then(|fields| package(Kind::Python, place, &fields, names));
    found.into_iter().collect()
}

fn of_node(text: &str, place: &str) -> Vec<Package> {
    #[derive(Deserialize)]
    struct Manifest {
        name: String,
        version: String,
    }
    let Ok(Manifest { name, version }) = serde_json::from_str(text) else {
        return Vec::new();
    };
    let fields = BTreeMap::from([("name", name.as_str()), ("version", version.as_str())]);
    let found = package(Kind::Npm, place, &fields, ["name", "version", "", ""]);
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::layer::{Attributes, Layer};
    use crate::tree::Context;

    fn tree(files: &[(&str, &str)]) -> Context {
        let mut layer = Layer::new(tempfile::tempfile().unwrap(), None);
        let attributes = Attributes::default();
        for (path, text) in files {
            let size = text.len() as u64;
            match text.strip_prefix("-> ") {
                Some(to) => layer.symlink(path, &attributes, to.as_bytes()).unwrap(),
                None => layer
                    .file(path, &attributes, size, text.as_bytes())
                    .unwrap(),
            }
        }
        Context::read(layer.finish().unwrap(), || Err(Error::invalid("none"))).unwrap()
    }

    fn urls(files: &[(&str, &str)]) -> Vec<String> {
        let found = scan(&tree(files)).unwrap();
        let urls = found
            .packages
            .iter()
            .map(|package| package.url(&found.system));
        urls.collect()
    }

    #[test]
    fn packages_of_each_kind_are_found() {
        let release = "PRETTY_NAME=\"x\"\nID=debian\nVERSION_ID=\"12\"\n";
        let status = "Package: libc6\nStatus: install ok installed\nMaintainer: GNU <g@x>\n\
                      Architecture: amd64\nVersion: 2.36-9+deb12u4\nDescription: C\n More: text\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n";
        let part = "Package: tzdata\nVersion: 1:2024a\nArchitecture: all\n";
        assert_eq!(
            urls(&[
                ("usr/lib/os-release", release),
                ("etc/os-release", "-> ../usr/lib/os-release"),
                ("var/lib/dpkg/status", status),
                ("var/lib/dpkg/status.d/tzdata", part),
                ("var/lib/dpkg/status.d/tzdata.md5sums", part),
                (
                    "usr/lib/python3/dist-packages/My_Lib-1.0.dist-info/METADATA",
                    "Metadata-Version: 2.1\nName: My_Lib\nVersion: 1.0\n\nName: no\n"
                ),
                (
                    "usr/lib/python3/dist-packages/old-2.egg-info",
                    "Name: old\nVersion: 2\n"
                ),
                (
                    "app/node_modules/left/package.json",
                    r#"{"name":"left","version":"1.0.0"}"#
                ),
                (
                    "app/node_modules/@a/b/package.json",
                    r#"{"name":"@a/b","version":"2.0.0"}"#
                ),
                ("app/package.json", r#"{"name":"own","version":"3.0.0"}"#),
            ]),
            [
                "pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64&distro=debian-12",
                "pkg:deb/debian/tzdata@1:2024a?arch=all&distro=debian-12",
                "pkg:npm/%40a/b@2.0.0",
                "pkg:npm/left@1.0.0",
                "pkg:pypi/my-lib@1.0",
                "pkg:pypi/old@2",
            ]
        );
        let installed = "C:Q1x=\nP:musl\nV:1.2.5-r0\nA:x86_64\nm:T <t@x>\n\nP:nothing\n";
        assert_eq!(
            urls(&[
                ("lib/apk/db/installed", installed),
                ("etc/os-release", "ID=alpine\nVERSION_ID=3.20.1\n"),
            ]),
            ["pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64&distro=alpine-3.20.1"]
        );
        assert_eq!(urls(&[]), Vec::<String>::new());
    }

    #[test]
    fn what_is_damaged_or_leads_nowhere_is_left_out() {
        assert_eq!(
            urls(&[
                ("etc/os-release", "-> os-release"),
                ("var/lib/dpkg/status", "-> ../../../../../../etc/shadow"),
                ("lib/apk/db/installed", "\n\n\n:::\nP:\nV:\n"),
                ("a/node_modules/x/package.json", "{"),
                (
                    "a/node_modules/y/package.json",
                    r#"{"name":7,"version":[]}"#
                ),
                ("a/x.dist-info/METADATA", "Name x\n"),
                (
                    "proc/node_modules/z/package.json",
                    r#"{"name":"z","version":"1"}"#
                ),
            ]),
            Vec::<String>::new()
        );
    }
}
