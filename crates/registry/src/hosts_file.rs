//! `hosts.toml` in containerd's format: text to structure, with the line of whatever is wrong.
//!
//! ```toml
//! server = "https://registry.example.com"      # the registry itself; its settings stand at top level
//!
//! [host."https://mirror.example.com"]          # asked in the order of the file
//!   capabilities = ["pull", "resolve"]         # "push" is known and unused here
//!   ca = ["ca.pem"]                            # string or list; relative to this file's directory
//!   client = [["cert.pem", "key.pem"]]         # one file with both, a list of such, or pairs
//!   skip_verify = false
//!   override_path = false                      # true: the URL's path is complete without /v2
//!   dial_timeout = "5s"
//!   [host."https://mirror.example.com".header]
//!     authorization = "Basic ..."              # string or list
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_names::go_duration;
use http::{HeaderName, HeaderValue};
use reqwest::Url;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What a `hosts.toml` says.
#[derive(Debug, Default)]
pub(crate) struct HostsFile {
    /// `server` with the settings at top level. Its URL is absent if only settings are given.
    pub(crate) server: HostEntry,
    /// `[host."…"]` in the order of the file.
    pub(crate) hosts: Vec<HostEntry>,
}

#[derive(Debug, Clone)]
pub(crate) struct HostEntry {
    pub(crate) url: Option<Url>,
    pub(crate) pull: bool,
    pub(crate) resolve: bool,
    pub(crate) ca: Vec<PathBuf>,
    pub(crate) client: Vec<ClientPair>,
    pub(crate) skip_verify: bool,
    pub(crate) override_path: bool,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) dial_timeout: Option<Duration>,
}

impl Default for HostEntry {
    fn default() -> Self {
        Self {
            url: None,
            pull: true,
            resolve: true,
            ca: Vec::new(),
            client: Vec::new(),
            skip_verify: false,
            override_path: false,
            headers: Vec::new(),
            dial_timeout: None,
        }
    }
}

/// A client certificate; without `key` the certificate's file holds the key too.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ClientPair {
    pub(crate) cert: PathBuf,
    pub(crate) key: Option<PathBuf>,
}

/// What is wrong with a registry configuration, and where.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {problem}", file.display(), line.map(|l| format!(":{l}")).unwrap_or_default())]
pub struct HostsError {
    pub file: PathBuf,
    /// Counted from 1; `None` when the file as a whole is meant.
    pub line: Option<usize>,
    pub problem: Problem,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    #[error("cannot be read: {0}")]
    Unreadable(std::io::Error),
    #[error("{0}")]
    Syntax(String),
    #[error("{key} must be {expected}")]
    WrongType { key: String, expected: &'static str },
    #[error("{0:?} is not a registry URL")]
    BadUrl(String),
    #[error("{0:?} is not a capability: use pull, resolve or push")]
    BadCapability(String),
    #[error("{0:?} is not a header")]
    BadHeader(String),
    #[error("{0:?} is not a duration such as 10s or 500ms")]
    BadDuration(String),
    #[error("holds no certificate or key that can be used")]
    BadPem,
}

/// A problem with the byte position it was found at.
type Found<T> = Result<T, (usize, Problem)>;

/// Parses the text of `file`, whose directory relative paths start from.
pub(crate) fn parse(file: &Path, text: &str) -> Result<HostsFile, HostsError> {
    let located = |(at, problem): (usize, Problem)| HostsError {
        file: file.to_owned(),
        line: Some(1 + text.bytes().take(at).filter(|b| *b == b'\n').count()),
        problem,
    };
    let document = DeTable::parse(text).map_err(|e| {
        let at = e.span().map_or(0, |span| span.start);
        located((at, Problem::Syntax(e.message().to_owned())))
    })?;
    let directory = file.parent().unwrap_or(Path::new("."));
    read_document(document.get_ref(), directory).map_err(located)
}

fn read_document(document: &DeTable<'_>, directory: &Path) -> Found<HostsFile> {
    let mut file = HostsFile::default();
    let mut hosts = Vec::new();
    for (key, value) in document {
        match key.get_ref().as_ref() {
            "server" => {
                let text = string("server", value)?;
                file.server.url = Some(url(text, value.span().start)?);
            }
            "host" => {
                for (name, entry) in table("host", value)? {
                    let at = name.span().start;
                    let mut host = HostEntry {
                        url: Some(url(name.get_ref(), at)?),
                        ..HostEntry::default()
                    };
                    for (key, value) in table("host entry", entry)? {
                        setting(&mut host, key.get_ref(), value, directory)?;
                    }
                    hosts.push((at, host));
                }
            }
            other => setting(&mut file.server, other, value, directory)?,
        }
    }
    // The parser sorts by name; the file's order is the order to ask in.
    hosts.sort_by_key(|(at, _)| *at);
    file.hosts = hosts.into_iter().map(|(_, host)| host).collect();
    Ok(file)
}

fn setting(
    entry: &mut HostEntry,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    directory: &Path,
) -> Found<()> {
    match key {
        "capabilities" => (entry.pull, entry.resolve) = capabilities(value)?,
        "ca" => {
            let paths = strings("ca", value)?;
            entry.ca = paths
                .into_iter()
                .map(|(_, path)| directory.join(path))
                .collect();
        }
        "client" => entry.client = client_pairs(value, directory)?,
        "skip_verify" => entry.skip_verify = boolean(key, value)?,
        "override_path" => entry.override_path = boolean(key, value)?,
        "header" => entry.headers = headers(value)?,
        "dial_timeout" => {
            let text = string(key, value)?;
            let bad = || (value.span().start, Problem::BadDuration(text.to_owned()));
            let timeout = go_duration(text).filter(|timeout| !timeout.is_zero());
            entry.dial_timeout = Some(timeout.ok_or_else(bad)?);
        }
        // Newer containerd versions know more settings; a file shared with them must work.
        other => tracing::warn!(key = other, "unknown setting in hosts.toml is ignored"),
    }
    Ok(())
}

fn capabilities(value: &Spanned<DeValue<'_>>) -> Found<(bool, bool)> {
    let (mut pull, mut resolve) = (false, false);
    for (at, name) in strings("capabilities", value)? {
        match name.to_ascii_lowercase().as_str() {
            "pull" => pull = true,
            "resolve" => resolve = true,
            "push" | "referrers" => {}
            _ => return Err((at, Problem::BadCapability(name.to_owned()))),
        }
    }
    Ok((pull, resolve))
}

fn client_pairs(value: &Spanned<DeValue<'_>>, directory: &Path) -> Found<Vec<ClientPair>> {
    let expected = "a file name, a list of file names, or a list of [certificate, key] pairs";
    let wrong = |at| {
        (
            at,
            Problem::WrongType {
                key: "client".to_owned(),
                expected,
            },
        )
    };
    let alone = |cert: &str| ClientPair {
        cert: directory.join(cert),
        key: None,
    };
    let items = match value.get_ref() {
        DeValue::String(cert) => return Ok(vec![alone(cert)]),
        DeValue::Array(items) => items,
        _ => return Err(wrong(value.span().start)),
    };
    let mut pairs = Vec::new();
    for item in items.iter() {
        let at = item.span().start;
        let pair = match item.get_ref() {
            DeValue::String(cert) => alone(cert),
            DeValue::Array(parts) => {
                let parts: Option<Vec<&str>> = parts.iter().map(|p| p.get_ref().as_str()).collect();
                match parts.as_deref() {
                    Some([cert]) => alone(cert),
                    // An empty key name is how some tools write "in the same file".
                    Some([cert, ""]) => alone(cert),
                    Some([cert, key]) => ClientPair {
                        cert: directory.join(cert),
                        key: Some(directory.join(key)),
                    },
                    _ => return Err(wrong(at)),
                }
            }
            _ => return Err(wrong(at)),
        };
        pairs.push(pair);
    }
    Ok(pairs)
}

fn headers(value: &Spanned<DeValue<'_>>) -> Found<Vec<(HeaderName, HeaderValue)>> {
    let mut headers = Vec::new();
    for (key, values) in table("header", value)? {
        let bad = |at: usize| (at, Problem::BadHeader(key.get_ref().to_string()));
        let name =
            HeaderName::try_from(key.get_ref().as_ref()).map_err(|_| bad(key.span().start))?;
        for (at, text) in strings("header", values)? {
            let mut value = HeaderValue::from_str(text).map_err(|_| bad(at))?;
            value.set_sensitive(true);
            headers.push((name.clone(), value));
        }
    }
    Ok(headers)
}

/// A registry URL; HTTPS where no scheme is given.
fn url(text: &str, at: usize) -> Found<Url> {
    let bad = || (at, Problem::BadUrl(text.to_owned()));
    let absolute = match text.contains("://") {
        true => text.to_owned(),
        false => format!("https://{text}"),
    };
    let url = Url::parse(&absolute).map_err(|_| bad())?;
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    match plain && url.has_host() && matches!(url.scheme(), "http" | "https") {
        true => Ok(url),
        false => Err(bad()),
    }
}

fn wrong(key: &str, value: &Spanned<DeValue<'_>>, expected: &'static str) -> (usize, Problem) {
    (
        value.span().start,
        Problem::WrongType {
            key: key.to_owned(),
            expected,
        },
    )
}

fn table<'a, 'i>(key: &str, value: &'a Spanned<DeValue<'i>>) -> Found<&'a DeTable<'i>> {
    value
        .get_ref()
        .as_table()
        .ok_or_else(|| wrong(key, value, "a table"))
}

fn string<'a>(key: &str, value: &'a Spanned<DeValue<'_>>) -> Found<&'a str> {
    value
        .get_ref()
        .as_str()
        .ok_or_else(|| wrong(key, value, "a string"))
}

fn boolean(key: &str, value: &Spanned<DeValue<'_>>) -> Found<bool> {
    value
        .get_ref()
        .as_bool()
        .ok_or_else(|| wrong(key, value, "true or false"))
}

/// A string or a list of strings, each with its position.
fn strings<'a>(key: &str, value: &'a Spanned<DeValue<'_>>) -> Found<Vec<(usize, &'a str)>> {
    let expected = "a string or a list of strings";
    match value.get_ref() {
        DeValue::String(text) => Ok(vec![(value.span().start, text)]),
        DeValue::Array(items) => items
            .iter()
            .map(|item| match item.get_ref().as_str() {
                Some(text) => Ok((item.span().start, text)),
                None => Err(wrong(key, item, expected)),
            })
            .collect(),
        _ => Err(wrong(key, value, expected)),
    }
}

#[cfg(test)]
#[path = "hosts_file_test.rs"]
mod tests;
