//! One daemon, wherever it is, and requests to it.

mod answer;
mod dial;
mod endpoint;
mod request;
mod tls;

pub use answer::Answer;
pub use dial::dial;
pub use endpoint::{Endpoint, TlsFiles};
pub use request::{Call, segment};

use http::header::{CONNECTION, HOST, UPGRADE};
use http::{Request, StatusCode};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

/// The version of the API that this program is written for.
const VERSION: &str = "/v1.50";

/// What is typed and shown, after a connection was handed over.
pub type Hijacked = TokioIo<hyper::upgrade::Upgraded>;

#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
}

impl Client {
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// An answer that is a success. Each request has a connection of its own: some of them last as
    /// long as a container.
    pub async fn send(&self, call: Call) -> Result<Answer> {
        let response = self.exchange(call.into_request(VERSION)?).await?;
        Answer::checked(response).await
    }

    /// The whole answer, read as JSON.
    pub async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        self.send(call).await?.json().await
    }

    /// For answers that say nothing but that it was done. An answer that nothing had to be done is
    /// as good.
    pub async fn tell(&self, call: Call) -> Result<()> {
        self.send(call).await?.bytes().await.map(drop)
    }

    pub async fn get(&self, path: impl Into<String>) -> Result<Value> {
        self.ask(Call::get(path)).await
    }

    /// Takes the connection over. Also says what media type comes from it: frames or raw bytes.
    pub async fn hijack(&self, call: Call) -> Result<(Hijacked, bool)> {
        let mut request = call.into_request(VERSION)?;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, http::HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, http::HeaderValue::from_static("tcp"));
        let mut response = self.exchange(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = response.status().as_u16();
            Answer::checked(response).await?;
            return Err(Error::NotUpgraded(status));
        }
        let framed = answer::is_framed(&response);
        let upgraded = hyper::upgrade::on(&mut response).await;
        Ok((TokioIo::new(upgraded.map_err(Error::Broken)?), framed))
    }

    async fn exchange(
        &self,
        mut request: Request<request::Body>,
    ) -> Result<http::Response<hyper::body::Incoming>> {
        request
            .headers_mut()
            .insert(HOST, http::HeaderValue::from_static("berth"));
        let unreachable = |source| Error::Unreachable {
            endpoint: self.endpoint.to_string(),
            source,
        };
        let stream = dial(&self.endpoint).await.map_err(unreachable)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| unreachable(std::io::Error::other(source)))?;
        tokio::spawn(connection.with_upgrades());
        // What breaks off before an answer, over a program in between, is most of all that
        // program's failure to get there.
        sender.send_request(request).await.map_err(|source| {
            if source.is_incomplete_message() && matches!(self.endpoint, Endpoint::Ssh { .. }) {
                unreachable(std::io::Error::other(source))
            } else {
                Error::Broken(source)
            }
        })
    }
}
