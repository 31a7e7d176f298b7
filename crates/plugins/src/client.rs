//! One plugin, and how it is asked: `POST /Interface.Method`, JSON both ways.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Certificate, Identity, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::discovery::{Address, Tls};
use crate::error::{Error, Result};
use crate::registry::{Absent, Config};

const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";
/// Bytes of an answer: lists of volumes may be long.
const MOST: usize = 16 << 20;
/// Bytes of an answer that nobody understands, as they are shown.
const SHOWN: usize = 200;
/// How long a plugin that is being started again is waited for by who cannot do without it.
const RESTART: Duration = Duration::from_secs(3);

/// How long an answer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Something is only looked at: others wait for it.
    Look,
    /// Something changes, which may take its time; a plugin that is just being started is waited for.
    Change,
}

/// A plugin that said what it offers.
#[derive(Debug)]
pub struct Plugin {
    line: Line,
    implements: Vec<String>,
}

/// How a plugin is reached.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    name: String,
    pub address: Address,
    client: reqwest::Client,
    base: String,
    look: Duration,
    change: Duration,
    absent: Arc<Absent>,
}

impl Plugin {
    pub(crate) fn new(line: Line, implements: Vec<String>) -> Self {
        Self { line, implements }
    }

    pub fn name(&self) -> &str {
        &self.line.name
    }

    pub(crate) fn line(&self) -> &Line {
        &self.line
    }

    pub(crate) fn implements(&self, interface: &str) -> bool {
        self.implements.iter().any(|one| one == interface)
    }

    pub(crate) fn offers(&self) -> &[String] {
        &self.implements
    }

    /// Asks for `method`, as in `VolumeDriver.Create`. What the plugin calls an error is one.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        body: &impl Serialize,
        patience: Patience,
    ) -> Result<T> {
        self.line.call(method, body, patience).await
    }

    /// An answer that was understood, and cannot be acted upon.
    pub(crate) fn nonsense(&self, method: &str, what: String) -> Error {
        self.line.garbled(method, what)
    }
}

impl Line {
    pub fn open(
        name: &str,
        address: Address,
        config: &Config,
        absent: Arc<Absent>,
    ) -> Result<Self> {
        let built = build(&address);
        let (client, base) = built.map_err(|problem| Error::Spec {
            path: address.to_string().into(),
            problem,
        })?;
        Ok(Self {
            name: name.to_owned(),
            address,
            client,
            base,
            look: config.look,
            change: config.change,
            absent,
        })
    }

    pub async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        body: &impl Serialize,
        patience: Patience,
    ) -> Result<T> {
        let limit = match patience {
            Patience::Look => self.look,
            Patience::Change => self.change,
        };
        let asked = tokio::time::timeout(limit, self.ask(method, body, patience)).await;
        let answer = match asked {
            Ok(answer) => answer?,
            Err(_) => {
                self.absent.note(&self.name);
                return Err(Error::Timeout {
                    name: self.name.clone(),
                    method: method.to_owned(),
                    seconds: limit.as_secs(),
                });
            }
        };
        self.absent.forget(&self.name);
        self.understand(method, answer)
    }

    async fn ask(
        &self,
        method: &str,
        body: &impl Serialize,
        patience: Patience,
    ) -> Result<(StatusCode, Vec<u8>)> {
        let response = self.send(method, body, patience).await?;
        let status = response.status();
        let body = self.body(method, response).await?;
        Ok((status, body))
    }

    async fn send(
        &self,
        method: &str,
        body: &impl Serialize,
        patience: Patience,
    ) -> Result<Response> {
        let url = format!("{}/{method}", self.base);
        // A map of strings, numbers and lists: it is always JSON.
        let text = serde_json::to_vec(body).unwrap_or_default();
        let until = Instant::now() + RESTART;
        let mut wait = Duration::from_millis(50);
        loop {
            let request = self.client.post(&url).body(text.clone());
            let request = request.header(CONTENT_TYPE, MEDIA_TYPE);
            match request.header(ACCEPT, MEDIA_TYPE).send().await {
                Ok(response) => return Ok(response),
                // Nothing was asked yet: it may be tried again.
                Err(error) if error.is_connect() => {
                    if patience == Patience::Look || Instant::now() + wait > until {
                        return Err(Error::Unreachable {
                            name: self.name.clone(),
                            address: self.address.to_string(),
                            source: error,
                        });
                    }
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                Err(error) => return Err(self.broken(method, error)),
            }
        }
    }

    async fn body(&self, method: &str, mut response: Response) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(part) = response
            .chunk()
            .await
            .map_err(|error| self.broken(method, error))?
        {
            if body.len() + part.len() > MOST {
                return Err(self.garbled(method, format!("more than {} MiB", MOST >> 20)));
            }
            body.extend_from_slice(&part);
        }
        Ok(body)
    }

    /// The content type is not looked at: many plugins send a plain one.
    fn understand<T: DeserializeOwned>(
        &self,
        method: &str,
        (status, body): (StatusCode, Vec<u8>),
    ) -> Result<T> {
        let refused = |text: String| Error::Refused {
            method: method.to_owned(),
            status: status.as_u16(),
            text,
        };
        let text = String::from_utf8_lossy(&body);
        let parsed = match text.trim() {
            // Where there is nothing to say, some say nothing.
            "" => Ok(Value::Object(serde_json::Map::new())),
            text => serde_json::from_str::<Value>(text),
        };
        let said = parsed.as_ref().ok().and_then(|answer| answer.get("Err"));
        let said = said.and_then(Value::as_str).unwrap_or_default();
        if !status.is_success() {
            return Err(refused(match said {
                "" if text.trim().is_empty() => format!("the plugin answered {status}"),
                "" => shown(&text),
                said => said.to_owned(),
            }));
        }
        if !said.is_empty() {
            return Err(refused(said.to_owned()));
        }
        let answer = parsed.map_err(|_| self.garbled(method, format!("no JSON: {}", shown(&text))));
        let answer = without_nulls(answer?);
        serde_json::from_value(answer).map_err(|error| {
            self.garbled(
                method,
                format!("something else ({error}): {}", shown(&text)),
            )
        })
    }

    fn broken(&self, method: &str, source: reqwest::Error) -> Error {
        Error::Broken {
            name: self.name.clone(),
            method: method.to_owned(),
            source,
        }
    }

    fn garbled(&self, method: &str, what: String) -> Error {
        Error::Garbled {
            name: self.name.clone(),
            method: method.to_owned(),
            what,
        }
    }
}

/// One line of it, in characters that a terminal may have.
fn shown(text: &str) -> String {
    let clean = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c });
    let mut cut: String = clean.take(SHOWN).collect();
    if cut.len() < text.trim().len() {
        cut.push('…');
    }
    cut
}

/// Go writes `null` for what is empty.
fn without_nulls(answer: Value) -> Value {
    match answer {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                kept.map(|(key, value)| (key, without_nulls(value)))
                    .collect(),
            )
        }
        Value::Array(all) => {
            let kept = all.into_iter().filter(|value| !value.is_null());
            Value::Array(kept.map(without_nulls).collect())
        }
        other => other,
    }
}

fn build(address: &Address) -> Result<(reqwest::Client, String), String> {
    choose_crypto();
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(reqwest::retry::never())
        // A connection for each call: a plugin that was started again has forgotten the old one.
        .pool_max_idle_per_host(0)
        .http1_only()
        .no_proxy();
    let (builder, base) = match address {
        Address::Unix(path) => (
            builder
                .unix_socket(path.clone())
                .tls_backend_preconfigured(trusting_nobody()),
            "http://plugin".to_owned(),
        ),
        Address::Network { url, .. } if url.starts_with("http:") => (
            builder.tls_backend_preconfigured(trusting_nobody()),
            url.clone(),
        ),
        Address::Network { url, tls } => (with_tls(builder, tls)?, url.clone()),
    };
    let client = builder.build().map_err(|error| error.to_string())?;
    Ok((client, base))
}

fn with_tls(
    mut builder: reqwest::ClientBuilder,
    tls: &Tls,
) -> Result<reqwest::ClientBuilder, String> {
    builder = builder.tls_danger_accept_invalid_certs(tls.skip_verify);
    if tls.ca != Path::new("") {
        let bundle = Certificate::from_pem_bundle(&pem(&tls.ca)?);
        let roots = bundle.ok().filter(|roots| !roots.is_empty());
        let roots = roots.ok_or_else(|| format!("{:?} has no certificate", tls.ca))?;
        // Who names an authority means no other.
        builder = builder.tls_certs_only(roots);
    }
    if tls.cert != Path::new("") {
        let mut both = pem(&tls.cert)?;
        both.push(b'\n');
        both.extend(pem(&tls.key)?);
        let identity = Identity::from_pem(&both)
            .map_err(|_| format!("{:?} and {:?} are no pair", tls.cert, tls.key))?;
        builder = builder.identity(identity);
    }
    Ok(builder)
}

fn pem(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{path:?}: {error}"))
}

/// For plugins without TLS: the system's roots are not loaded.
fn trusting_nobody() -> rustls::ClientConfig {
    rustls::ClientConfig::builder()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

/// Makes ring the process's TLS implementation, unless another was chosen already.
fn choose_crypto() {
    let _chosen = rustls::crypto::ring::default_provider().install_default();
}
