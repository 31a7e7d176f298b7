//! HTTP clients, one per way of setting up connections, so that connections are shared.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use reqwest::{Certificate, Identity};

use crate::hosts_file::{ClientPair, HostsError, Problem};
use crate::{Error, Result};

const USER_AGENT: &str = concat!("berth/", env!("CARGO_PKG_VERSION"));
/// Certificate files are small; anything else named by mistake is not read into memory.
const PEM_LIMIT: u64 = 4 << 20;

/// Everything that makes two connections different.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionKind {
    /// HTTPS will be spoken: certificates are needed.
    pub(crate) tls: bool,
    pub(crate) ca: Vec<PathBuf>,
    pub(crate) client: Vec<ClientPair>,
    pub(crate) skip_verify: bool,
    pub(crate) connect_timeout: Duration,
    /// Proxies from the environment are not used, as for loopback hosts.
    pub(crate) direct: bool,
}

impl ConnectionKind {
    /// For hosts that the registry sends us to: the same trust, but not our certificate.
    pub(crate) fn foreign(&self) -> Self {
        Self {
            tls: true,
            client: Vec::new(),
            direct: false,
            ..self.clone()
        }
    }
}

/// Modification times and lengths of the certificate files: a rotated file makes a new client.
type Stamps = Vec<Option<(SystemTime, u64)>>;

#[derive(Default)]
pub(crate) struct Transports {
    clients: Mutex<HashMap<ConnectionKind, (Stamps, reqwest::Client)>>,
}

impl Transports {
    /// A client for this kind of connection. Reads files: call it where blocking is allowed.
    pub(crate) fn get(&self, kind: &ConnectionKind, host: &str) -> Result<reqwest::Client> {
        let stamps = stamps(kind);
        if let Some((known, client)) = self.clients.lock().get(kind)
            && *known == stamps
        {
            return Ok(client.clone());
        }
        let client = build(kind, host)?;
        self.clients
            .lock()
            .insert(kind.clone(), (stamps, client.clone()));
        Ok(client)
    }
}

fn build(kind: &ConnectionKind, host: &str) -> Result<reqwest::Client> {
    let setup = |source| Error::Setup {
        host: host.to_owned(),
        source,
    };
    let mut builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        // Redirects are followed by the caller, who decides what each hop may learn.
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // Retries are counted in one place, which is not this one.
        .retry(reqwest::retry::never())
        .connect_timeout(kind.connect_timeout)
        .tcp_keepalive(Duration::from_secs(30))
        .pool_idle_timeout(Duration::from_secs(60));
    if kind.direct {
        builder = builder.no_proxy();
    }
    if !kind.tls {
        return builder
            .tls_backend_preconfigured(trusting_nobody())
            .build()
            .map_err(setup);
    }
    let mut roots = Vec::new();
    for path in &kind.ca {
        let bundle = Certificate::from_pem_bundle(&read_pem(path)?);
        roots.extend(
            bundle
                .ok()
                .filter(|b| !b.is_empty())
                .ok_or_else(|| bad_pem(path))?,
        );
    }
    builder = builder
        .tls_danger_accept_invalid_certs(kind.skip_verify)
        .tls_certs_merge(roots);
    for pair in &kind.client {
        builder = builder.identity(identity(pair)?);
    }
    builder.build().map_err(setup)
}

/// TLS settings for a client that only speaks plain HTTP: it spares loading the system's roots,
/// and every TLS connection made with it by mistake fails.
fn trusting_nobody() -> rustls::ClientConfig {
    rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

fn identity(pair: &ClientPair) -> Result<Identity> {
    let mut pem = read_pem(&pair.cert)?;
    if let Some(key) = &pair.key {
        pem.push(b'\n');
        pem.extend(read_pem(key)?);
    }
    Identity::from_pem(&pem).map_err(|_| bad_pem(&pair.cert))
}

fn read_pem(path: &Path) -> Result<Vec<u8>> {
    let size = fs::metadata(path)
        .map_err(|e| problem(path, Problem::Unreadable(e)))?
        .len();
    if size > PEM_LIMIT {
        return Err(bad_pem(path));
    }
    fs::read(path).map_err(|e| problem(path, Problem::Unreadable(e)))
}

fn bad_pem(path: &Path) -> Error {
    problem(path, Problem::BadPem)
}

fn problem(path: &Path, problem: Problem) -> Error {
    HostsError {
        file: path.to_owned(),
        line: None,
        problem,
    }
    .into()
}

fn stamps(kind: &ConnectionKind) -> Stamps {
    let client = kind
        .client
        .iter()
        .flat_map(|pair| [Some(&pair.cert), pair.key.as_ref()]);
    let stamp = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    kind.ca.iter().chain(client.flatten()).map(stamp).collect()
}

/// Makes ring the process's TLS implementation, unless another was chosen already.
pub fn choose_crypto() {
    // An error means that a provider is installed, which is all that is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
