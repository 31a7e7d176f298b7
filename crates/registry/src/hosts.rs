//! From a registry's name to the hosts that are asked, in order.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use reqwest::Url;

use crate::Result;
use crate::config::RegistryConfig;
use crate::hosts_file::{self, ClientPair, HostEntry, HostsError, HostsFile, Problem};
use crate::transport::{ConnectionKind, Transports};

const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
const DOCKER_HUB_NAMES: [&str; 3] = [DOCKER_HUB, DOCKER_HUB_HOST, "index.docker.io"];
const FILE_LIMIT: u64 = 1 << 20;

/// A host that may have the image.
#[derive(Clone)]
pub(crate) struct Endpoint {
    /// Scheme, host and path up to and including `/v2`, without a trailing slash in the path.
    base: Url,
    /// `host[:port]` for messages.
    pub(crate) authority: String,
    /// May be asked what a tag means.
    pub(crate) resolve: bool,
    /// Headers configured for this host.
    pub(crate) headers: HeaderMap,
    /// The registry's name, told to mirrors as `?ns=`, which serve several registries.
    namespace: Option<String>,
    /// Gets the image's credentials.
    pub(crate) trusted: bool,
    pub(crate) client: reqwest::Client,
    kind: ConnectionKind,
    transports: Arc<Transports>,
}

impl Endpoint {
    /// URL of a path below `/v2`.
    pub(crate) fn url(&self, path: &str) -> Url {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        let mut url = self.base.clone();
        url.set_path(&format!(
            "{}/{path}",
            self.base.path().trim_end_matches('/')
        ));
        url.set_query(query);
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    pub(crate) fn is_https(&self) -> bool {
        self.base.scheme() == "https"
    }

    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.base)
    }

    pub(crate) fn skips_verification(&self) -> bool {
        self.kind.skip_verify
    }

    /// Whether a URL has this host's scheme, host and port.
    pub(crate) fn is_origin_of(&self, url: &Url) -> bool {
        self.base.origin() == url.origin()
    }

    /// Identifies this host among all hosts.
    pub(crate) fn origin(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    /// An `authorization` header is configured: challenges are not answered by other means.
    pub(crate) fn has_own_authorization(&self) -> bool {
        self.headers.contains_key(AUTHORIZATION)
    }

    /// A client for a host that this one sent us to.
    pub(crate) async fn foreign_client(&self) -> Result<reqwest::Client> {
        let (transports, kind) = (self.transports.clone(), self.kind.foreign());
        let authority = self.authority.clone();
        crate::client::blocking(move || transports.get(&kind, &authority)).await
    }
}

/// The hosts for `domain`; empty only if configuration forbids them all. Reads files.
pub(crate) fn endpoints(
    config: &RegistryConfig,
    transports: &Arc<Transports>,
    domain: &str,
) -> Result<Vec<Endpoint>> {
    let file = match &config.hosts_dir {
        Some(directory) => load(directory, domain)?,
        None => HostsFile::default(),
    };
    let explicit_server = file.server.url.is_some();
    let server_may_pull = file.server.pull;
    let mut endpoints = Vec::new();
    for entry in file.hosts.iter().filter(|entry| entry.pull) {
        endpoints.extend(endpoint(config, transports, domain, entry, false)?);
    }
    let server = HostEntry {
        url: file.server.url.or_else(|| default_url(domain)),
        ..file.server
    };
    if let Some(server) = endpoint(config, transports, domain, &server, true)? {
        // A file that describes the registry itself among its hosts has replaced the default.
        let described = endpoints
            .iter()
            .any(|known| known.authority == server.authority);
        if server_may_pull && (explicit_server || !described) {
            endpoints.push(server);
        }
    }
    Ok(endpoints)
}

fn endpoint(
    config: &RegistryConfig,
    transports: &Arc<Transports>,
    domain: &str,
    entry: &HostEntry,
    is_server: bool,
) -> Result<Option<Endpoint>> {
    let Some(mut base) = entry.url.clone() else {
        return Ok(None);
    };
    if base.host_str() == Some(DOCKER_HUB) {
        // Docker Hub's name is not that of its registry. The host is a valid one.
        let _ = base.set_host(Some(DOCKER_HUB_HOST));
    }
    if !entry.override_path {
        let path = base.path().trim_end_matches('/').to_owned();
        base.set_path(&if path.ends_with("/v2") {
            path
        } else {
            format!("{path}/v2")
        });
    }
    let authority = authority(&base);
    let itself = is_server || names_same_host(&base, domain);
    let kind = ConnectionKind {
        tls: base.scheme() == "https",
        ca: entry.ca.clone(),
        client: entry.client.clone(),
        skip_verify: entry.skip_verify,
        connect_timeout: entry.dial_timeout.unwrap_or(config.connect_timeout),
        direct: is_loopback(&base),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in &entry.headers {
        headers.append(name, value.clone());
    }
    Ok(Some(Endpoint {
        client: transports.get(&kind, &authority)?,
        resolve: entry.resolve,
        namespace: (!itself).then(|| domain.to_owned()),
        trusted: itself,
        transports: transports.clone(),
        base,
        authority,
        headers,
        kind,
    }))
}

/// Reads the configuration of a registry: its own directory (`host:port`, or `host_port_` where
/// colons are unwelcome), else `_default`. A directory without `hosts.toml` may hold certificates
/// by Docker's convention: `*.crt` to trust, `*.cert` with `*.key` to show.
fn load(directory: &Path, domain: &str) -> Result<HostsFile, HostsError> {
    let escaped = domain
        .rsplit_once(':')
        .map(|(host, port)| format!("{host}_{port}_"));
    let names = escaped
        .iter()
        .map(String::as_str)
        .chain([domain, "_default"]);
    for name in names {
        let directory = directory.join(name);
        if !directory.is_dir() {
            continue;
        }
        let file = directory.join("hosts.toml");
        return match read_limited(&file) {
            Ok(text) => hosts_file::parse(&file, &text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => docker_certificates(&directory),
            Err(e) => Err(unreadable(&file, e)),
        };
    }
    Ok(HostsFile::default())
}

fn docker_certificates(directory: &Path) -> Result<HostsFile, HostsError> {
    let mut file = HostsFile::default();
    let mut paths = fs::read_dir(directory)
        .and_then(|entries| {
            entries
                .map(|e| e.map(|e| e.path()))
                .collect::<io::Result<Vec<_>>>()
        })
        .map_err(|e| unreadable(directory, e))?;
    paths.sort();
    for path in paths {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => file.server.ca.push(path),
            Some("cert") => {
                let key = Some(path.with_extension("key"));
                file.server.client.push(ClientPair { cert: path, key });
            }
            _ => {}
        }
    }
    Ok(file)
}

fn read_limited(file: &Path) -> io::Result<String> {
    if fs::metadata(file)?.len() > FILE_LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "the file is larger than 1 MiB",
        ));
    }
    fs::read_to_string(file)
}

fn unreadable(path: &Path, error: io::Error) -> HostsError {
    let file = PathBuf::from(path);
    HostsError {
        file,
        line: None,
        problem: Problem::Unreadable(error),
    }
}

/// Where a registry is that nothing is configured about.
fn default_url(domain: &str) -> Option<Url> {
    let mut url = Url::parse(&format!("https://{domain}")).ok()?;
    if is_loopback(&url) && !domain.ends_with(":443") {
        url.set_scheme("http").ok()?;
    }
    Some(url)
}

/// Whether a URL's host is the one that `domain` names.
fn names_same_host(url: &Url, domain: &str) -> bool {
    let url_host = url.host_str().unwrap_or_default();
    if DOCKER_HUB_NAMES.contains(&domain) {
        return DOCKER_HUB_NAMES.contains(&url_host) && url.port().is_none();
    }
    // The domain is read with the URL's scheme, so that the default port is the same.
    Url::parse(&format!("{}://{domain}", url.scheme())).is_ok_and(|d| d.origin() == url.origin())
}

/// `host[:port]` of a URL, for messages.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
#[path = "hosts_test.rs"]
mod tests;
