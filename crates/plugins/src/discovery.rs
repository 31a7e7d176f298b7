//! Where plugins are.
//!
//! ```text
//! <sockets>/NAME.sock, <sockets>/NAME/NAME.sock      the plugin's own socket
//! <specs>/NAME.spec, <specs>/NAME/NAME.spec          one line: unix:///path or tcp://host:port
//! <specs>/NAME.json, <specs>/NAME/NAME.json          {"Name", "Addr", "TLSConfig"}
//! ```
//!
//! A socket wins over a file, an earlier directory over a later one. Nothing is remembered: a plugin
//! counts from the moment that its file is there.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};

/// No address is longer.
const MOST_SPEC: u64 = 64 << 10;

/// Where a plugin is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    /// `http://host:port` or `https://…`.
    Network {
        url: String,
        tls: Tls,
    },
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Network { url, .. } => f.write_str(url),
        }
    }
}

/// As the file of a plugin has it. Empty paths are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Tls {
    #[serde(rename = "InsecureSkipVerify")]
    pub skip_verify: bool,
    #[serde(rename = "CAFile")]
    pub ca: PathBuf,
    #[serde(rename = "CertFile")]
    pub cert: PathBuf,
    #[serde(rename = "KeyFile")]
    pub key: PathBuf,
}

#[derive(Deserialize)]
struct Described {
    #[serde(rename = "Addr")]
    address: String,
    #[serde(rename = "TLSConfig", default)]
    tls: Option<Tls>,
}

/// The address of a plugin.
pub(crate) fn find(sockets: &Path, specs: &[PathBuf], name: &str) -> Result<Address> {
    let missing = || Error::NotFound(name.to_owned());
    if !is_name(name) {
        return Err(missing());
    }
    for path in candidates(sockets, name, "sock") {
        if is_socket(&path) {
            return Ok(Address::Unix(path));
        }
    }
    for directory in specs {
        for path in candidates(directory, name, "spec") {
            if let Some(text) = read(&path)? {
                return address(text.trim(), None).map_err(|problem| Error::spec(&path, problem));
            }
        }
        for path in candidates(directory, name, "json") {
            if let Some(text) = read(&path)? {
                let described: Described =
                    serde_json::from_str(&text).map_err(|error| Error::spec(&path, error))?;
                let found = address(&described.address, described.tls);
                return found.map_err(|problem| Error::spec(&path, problem));
            }
        }
    }
    Err(missing())
}

/// The names of all plugins. A directory that cannot be read has none.
pub(crate) fn names(sockets: &Path, specs: &[PathBuf]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    collect(&mut found, sockets, &["sock"]);
    for directory in specs {
        collect(&mut found, directory, &["spec", "json"]);
    }
    found
}

fn collect(found: &mut BTreeSet<String>, directory: &Path, endings: &[&str]) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let named = |path: &Path| Some(path.file_stem()?.to_str()?.to_owned());
        let fits = |path: &Path| {
            let ending = path.extension().and_then(|ending| ending.to_str());
            let fits = ending.is_some_and(|ending| endings.contains(&ending));
            fits && (ending != Some("sock") || is_socket(path))
        };
        if path.is_dir() {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            let inside = endings.iter().map(|e| path.join(format!("{name}.{e}")));
            if inside.into_iter().any(|path| path.exists() && fits(&path)) {
                found.insert(name.to_owned());
            }
        } else if fits(&path) {
            found.extend(named(&path).filter(|name| is_name(name)));
        }
    }
}

fn candidates(directory: &Path, name: &str, ending: &str) -> [PathBuf; 2] {
    let file = format!("{name}.{ending}");
    [directory.join(&file), directory.join(name).join(&file)]
}

/// A name is one part of a path, and nothing above it.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

fn read(path: &Path) -> Result<Option<String>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::spec(path, error)),
    };
    let mut text = String::new();
    let read = file.take(MOST_SPEC).read_to_string(&mut text);
    read.map_err(|error| Error::spec(path, error))?;
    Ok(Some(text))
}

fn address(text: &str, tls: Option<Tls>) -> Result<Address, String> {
    let unknown = || {
        format!("{text:?} is no address: write unix:///path, tcp://host:port or https://host:port")
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(unknown)?;
    match scheme {
        "unix" if rest.starts_with('/') => Ok(Address::Unix(PathBuf::from(rest))),
        "tcp" | "http" | "https" if !rest.is_empty() => {
            // As Docker has it: an address with settings for TLS is spoken to by TLS.
            let scheme = match scheme == "https" || tls.is_some() {
                true => "https",
                false => "http",
            };
            Ok(Address::Network {
                url: format!("{scheme}://{}", rest.trim_end_matches('/')),
                tls: tls.unwrap_or_default(),
            })
        }
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn sockets_win_over_files_and_earlier_directories_over_later_ones() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            let place = dir.path().join(name);
            fs::create_dir_all(&place).unwrap();
            place
        };
        let (sockets, etc, usr) = (place("run"), place("etc"), place("usr"));
        let specs = [etc.clone(), usr.clone()];
        let find = |name: &str| find(&sockets, &specs, name);

        fs::write(usr.join("one.spec"), "unix:///usr/one.sock\n").unwrap();
        assert_eq!(find("one").unwrap(), Address::Unix("/usr/one.sock".into()));
        fs::write(etc.join("one.spec"), "tcp://localhost:9/\n").unwrap();
        assert_eq!(find("one").unwrap().to_string(), "http://localhost:9");
        let _one = UnixListener::bind(sockets.join("one.sock")).unwrap();
        assert_eq!(
            find("one").unwrap(),
            Address::Unix(sockets.join("one.sock"))
        );
        let _two = UnixListener::bind(place("run/two").join("two.sock")).unwrap();
        assert_eq!(
            find("two").unwrap(),
            Address::Unix(sockets.join("two/two.sock"))
        );
        // A file that only looks like a socket is none.
        fs::write(sockets.join("three.sock"), "").unwrap();
        let json = r#"{"Name": "four", "Addr": "tcp://h:1", "TLSConfig": {"CAFile": "/ca"}}"#;
        fs::write(etc.join("four.json"), json).unwrap();
        match find("four").unwrap() {
            Address::Network { url, tls } => {
                assert_eq!((url.as_str(), tls.ca), ("https://h:1", "/ca".into()));
            }
            other => panic!("{other:?}"),
        }
        let all: Vec<String> = names(&sockets, &specs).into_iter().collect();
        assert_eq!(all, ["four", "one", "two"]);
        for name in ["three", "", "..", "../etc/one", "a/b"] {
            assert!(
                matches!(find(name), Err(Error::NotFound(_))),
                "{name:?} was found"
            );
        }
    }

    #[test]
    fn a_file_that_says_nothing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let specs = [dir.path().to_owned()];
        for (file, text) in [
            ("a.spec", ""),
            ("a.spec", "unix://relative"),
            ("a.spec", "ftp://x"),
            ("b.json", "{"),
            ("b.json", "{\"Name\": \"b\"}"),
        ] {
            fs::write(dir.path().join(file), text).unwrap();
            let name = &file[..1];
            let said = find(Path::new("/nowhere"), &specs, name)
                .unwrap_err()
                .to_string();
            assert!(said.contains(file), "{said}");
        }
    }
}
