use std::sync::Arc;

use berth_names::{Digest, ImageRef};
use bytes::Bytes;
use http::Method;
use http::header::CONTENT_TYPE;

use crate::auth::{Access, Authorizer};
use crate::blob::{BlobStream, Source};
use crate::config::RegistryConfig;
use crate::hosts::{self, Endpoint};
use crate::manifest;
use crate::request::{Ask, read_limited};
use crate::retry::Backoff;
use crate::transport::{Transports, choose_crypto};
use crate::{Credentials, Error, Resolved, Result};

/// Asks registries. Clones share connections and tokens. Needs a tokio runtime with time and I/O.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: RegistryConfig,
    pub(crate) authorizer: Authorizer,
    transports: Arc<Transports>,
}

impl Client {
    pub fn new(config: RegistryConfig) -> Result<Self> {
        choose_crypto();
        let inner = Inner {
            config,
            authorizer: Authorizer::default(),
            transports: Arc::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Fetches what the reference means: a manifest or an index. A digest in the reference goes
    /// before its tag, and the answer is verified against it.
    pub async fn resolve(&self, image: &ImageRef, credentials: &Credentials) -> Result<Resolved> {
        match (image.digest(), image.tag()) {
            (Some(digest), _) => self.manifest(image, digest, credentials).await,
            (None, Some(tag)) => self.fetch(image, tag, None, credentials).await,
            // Excluded by the type: a reference has one of them.
            (None, None) => Err(Error::NoHost {
                what: image.to_string(),
            }),
        }
    }

    /// Fetches a manifest or an index of the image's repository by digest.
    pub async fn manifest(
        &self,
        image: &ImageRef,
        digest: &Digest,
        credentials: &Credentials,
    ) -> Result<Resolved> {
        self.fetch(image, digest.as_str(), Some(digest), credentials)
            .await
    }

    /// Asks which digest the reference has now, without a transfer: a way to find out whether what
    /// is stored is current that registries do not count as a pull. The registry's word is not
    /// verified; `None` if it does not say.
    pub async fn head(
        &self,
        image: &ImageRef,
        credentials: &Credentials,
    ) -> Result<Option<Digest>> {
        if let Some(digest) = image.digest() {
            return Ok(Some(digest.clone()));
        }
        let reference = image.tag().unwrap_or_default();
        let what = image.to_string();
        let access = Access::new(image, credentials);
        let mut attempts = Attempts::default();
        let endpoints = self.inner.endpoints(image, true).await?;
        for (endpoint, mut backoff) in self.inner.in_turn(&endpoints) {
            let ask = self
                .inner
                .manifest_request(access, Method::HEAD, reference, &what);
            loop {
                match ask.put_to(endpoint, &self.inner.authorizer).await {
                    Ok(answer) => return Ok(content_digest(&answer)),
                    Err(Error::Protocol { .. }) => return Ok(None),
                    Err(error) => match backoff.pause_after(error).await {
                        Ok(()) => {}
                        Err(error) => break attempts.note(endpoint, error),
                    },
                }
            }
        }
        Err(attempts.verdict(what))
    }

    /// Asks the registry of `image` whether it is there and lets these credentials in. Which image
    /// it is does not matter otherwise.
    pub async fn ping(&self, image: &ImageRef, credentials: &Credentials) -> Result<()> {
        let access = Access::new(image, credentials);
        let what = image.domain().to_owned();
        let endpoint = self.own_endpoint(image).await?;
        let ask = Ask {
            access,
            method: Method::GET,
            path: String::new(),
            accept: None,
            offset: 0,
            what: &what,
            patience: self.inner.config.progress_timeout,
        };
        ask.put_to(&endpoint, &self.inner.authorizer).await?;
        Ok(())
    }

    /// The longest wait for any sign of life.
    pub(crate) fn patience(&self) -> std::time::Duration {
        self.inner.config.progress_timeout
    }

    /// Starts or resumes the transfer of a blob at byte `offset`. `size` from its descriptor lets
    /// a wrong answer be found early. The bytes are not verified here.
    pub async fn blob(
        &self,
        image: &ImageRef,
        digest: &Digest,
        size: Option<u64>,
        offset: u64,
        credentials: &Credentials,
    ) -> Result<BlobStream> {
        let endpoints = self.inner.endpoints(image, false).await?;
        let source = Source {
            inner: self.inner.clone(),
            image: image.clone(),
            digest: digest.clone(),
            credentials: credentials.clone(),
            endpoints,
        };
        BlobStream::open(source, size, offset).await
    }

    /// Fetches a blob of at most `limit` bytes into memory, such as an image's configuration, and
    /// verifies it.
    pub async fn blob_bytes(
        &self,
        image: &ImageRef,
        digest: &Digest,
        limit: u64,
        credentials: &Credentials,
    ) -> Result<Bytes> {
        let mut stream = self.blob(image, digest, None, 0, credentials).await?;
        let what = || format!("{}@{digest}", image.repository());
        let host = stream.host().to_owned();
        let mut bytes = Vec::new();
        loop {
            if stream.size().unwrap_or(0).max(bytes.len() as u64) > limit {
                return Err(Error::TooLarge {
                    what: what(),
                    host,
                    limit,
                });
            }
            match stream.chunk().await? {
                Some(chunk) => bytes.extend_from_slice(&chunk),
                None => break,
            }
        }
        if !digest.matches(&bytes) {
            let (expected, actual) = (digest.clone(), Digest::sha256_of(&bytes));
            return Err(Error::DigestMismatch {
                what: what(),
                host,
                expected,
                actual,
            });
        }
        Ok(bytes.into())
    }

    async fn fetch(
        &self,
        image: &ImageRef,
        reference: &str,
        expected: Option<&Digest>,
        credentials: &Credentials,
    ) -> Result<Resolved> {
        let what = match expected {
            Some(digest) => format!("{}@{digest}", image.repository()),
            None => image.to_string(),
        };
        let access = Access::new(image, credentials);
        let mut attempts = Attempts::default();
        let endpoints = self.inner.endpoints(image, expected.is_none()).await?;
        for (endpoint, mut backoff) in self.inner.in_turn(&endpoints) {
            let ask = self
                .inner
                .manifest_request(access, Method::GET, reference, &what);
            loop {
                match self.inner.fetch_once(&ask, endpoint, expected).await {
                    Ok(resolved) => return Ok(resolved),
                    Err(error) => match backoff.pause_after(error).await {
                        Ok(()) => {}
                        Err(error) => break attempts.note(endpoint, error),
                    },
                }
            }
        }
        Err(attempts.verdict(what))
    }
}

impl Inner {
    pub(crate) async fn endpoints(
        self: &Arc<Self>,
        image: &ImageRef,
        for_tag: bool,
    ) -> Result<Vec<Endpoint>> {
        let (inner, domain) = (self.clone(), image.domain().to_owned());
        let mut endpoints =
            blocking(move || hosts::endpoints(&inner.config, &inner.transports, &domain)).await?;
        if for_tag {
            endpoints.retain(|endpoint| endpoint.resolve);
        }
        Ok(endpoints)
    }

    /// Hosts with their retries: only the last one is worth waiting for.
    pub(crate) fn in_turn<'a>(
        &self,
        endpoints: &'a [Endpoint],
    ) -> impl Iterator<Item = (&'a Endpoint, Backoff)> + use<'a> {
        let last = Backoff::new(&self.config);
        let count = endpoints.len();
        endpoints.iter().enumerate().map(move |(index, endpoint)| {
            let backoff = if index + 1 == count {
                last.clone()
            } else {
                Backoff::none()
            };
            (endpoint, backoff)
        })
    }

    fn manifest_request<'a>(
        &self,
        access: Access<'a>,
        method: Method,
        reference: &str,
        what: &'a str,
    ) -> Ask<'a> {
        Ask {
            path: format!("{}/manifests/{reference}", access.image.path()),
            access,
            method,
            accept: Some(manifest::ACCEPT),
            offset: 0,
            what,
            patience: self.config.progress_timeout,
        }
    }

    async fn fetch_once(
        &self,
        ask: &Ask<'_>,
        endpoint: &Endpoint,
        expected: Option<&Digest>,
    ) -> Result<Resolved> {
        let (host, limit) = (&endpoint.authority, self.config.manifest_limit);
        let response = ask.put_to(endpoint, &self.authorizer).await?;
        let content_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|t| t.to_str().ok())
            .map(str::to_owned);
        let hint = content_digest(&response);
        let body = read_limited(response, ask.what, host, limit, ask.patience).await?;
        let resolved = manifest::examine(ask.what, host, content_type.as_deref(), expected, body)?;
        if let Some(hint) = hint
            && hint.algorithm() == resolved.digest.algorithm()
            && hint != resolved.digest
        {
            tracing::warn!(%host, what = ask.what, told = %hint, found = %resolved.digest,
                "the registry told another digest than the manifest has");
        }
        Ok(resolved)
    }
}

fn content_digest(answer: &reqwest::Response) -> Option<Digest> {
    let text = answer
        .headers()
        .get("docker-content-digest")?
        .to_str()
        .ok()?;
    Digest::parse(text.trim()).ok()
}

/// Which of several hosts' errors to report. What the registry itself says about the image goes
/// before anybody's being unreachable; otherwise the last host's error does.
#[derive(Default)]
pub(crate) struct Attempts {
    kept: Option<Error>,
    is_definite: bool,
}

impl Attempts {
    pub(crate) fn note(&mut self, endpoint: &Endpoint, error: Error) {
        if !endpoint.trusted {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(mirror = %endpoint.authority, %error, cause, "mirror passed over");
        }
        let is_definite = endpoint.trusted && !error.is_temporary();
        if is_definite || !self.is_definite {
            self.kept = Some(error);
            self.is_definite = is_definite;
        }
    }

    pub(crate) fn verdict(self, what: String) -> Error {
        self.kept.unwrap_or(Error::NoHost { what })
    }
}

/// Runs file access where it does not hold up the runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(job)
        .await
        .unwrap_or_else(|e| match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::ShuttingDown),
        })
}
