//! Pushes to a registry, and reads back, by the distribution protocol over
//! plain HTTP. For registries on this machine: no TLS, no token service.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use berth_names::Digest;

use super::http::{Request, Response, exchange};
use super::{Error, Image, Result};

/// A registry at `host:port`.
#[derive(Debug, Clone)]
pub struct Remote {
    address: String,
    /// Value of the Authorization header.
    authorization: Option<String>,
}

impl Remote {
    /// A registry that lets everybody in.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            authorization: None,
        }
    }

    /// Sends these credentials with every request.
    pub fn with_credentials(mut self, user: &str, password: &str) -> Self {
        let token = STANDARD.encode(format!("{user}:{password}"));
        self.authorization = Some(format!("Basic {token}"));
        self
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether the registry answers and accepts the credentials.
    pub fn ping(&self) -> Result<()> {
        self.send("GET", "/v2/", &[], &[]).map(drop)
    }

    /// Stores `image` in `repository` under every tag; blobs that are there
    /// already are not sent again.
    pub fn push(&self, image: &Image, repository: &str, tags: &[&str]) -> Result<()> {
        for layer in &image.layers {
            self.push_blob(repository, &layer.digest, &layer.bytes)?;
        }
        self.push_blob(repository, &image.config_digest, &image.config)?;
        for tag in tags {
            let target = format!("/v2/{repository}/manifests/{tag}");
            let headers = [("Content-Type", image.manifest_media_type)];
            self.send("PUT", &target, &headers, &image.manifest)?;
        }
        Ok(())
    }

    /// A manifest or an index by tag or digest.
    pub fn manifest(&self, repository: &str, reference: &str) -> Result<Vec<u8>> {
        let accept = "application/vnd.oci.image.index.v1+json, \
                      application/vnd.oci.image.manifest.v1+json, \
                      application/vnd.docker.distribution.manifest.v2+json";
        let target = format!("/v2/{repository}/manifests/{reference}");
        Ok(self.send("GET", &target, &[("Accept", accept)], &[])?.body)
    }

    /// A blob, not verified.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Result<Vec<u8>> {
        Ok(self
            .send("GET", &format!("/v2/{repository}/blobs/{digest}"), &[], &[])?
            .body)
    }

    fn push_blob(&self, repository: &str, digest: &Digest, bytes: &[u8]) -> Result<()> {
        match self.send(
            "HEAD",
            &format!("/v2/{repository}/blobs/{digest}"),
            &[],
            &[],
        ) {
            Ok(_) => return Ok(()),
            Err(Error::Refused { status: 404, .. }) => {}
            Err(error) => return Err(error),
        }
        let target = format!("/v2/{repository}/blobs/uploads/");
        let opened = self.send("POST", &target, &[], &[])?;
        let location = opened
            .header("location")
            .ok_or_else(|| Error::NoUploadLocation {
                target: target.clone(),
                registry: self.address.clone(),
            })?;
        let upload = path_of(location);
        let joint = if upload.contains('?') { '&' } else { '?' };
        let headers = [("Content-Type", "application/octet-stream")];
        self.send(
            "PUT",
            &format!("{upload}{joint}digest={digest}"),
            &headers,
            bytes,
        )
        .map(drop)
    }

    fn send(
        &self,
        method: &'static str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response> {
        let mut headers = headers.to_vec();
        if let Some(authorization) = &self.authorization {
            headers.push(("Authorization", authorization));
        }
        let request = Request {
            method,
            target,
            headers: &headers,
            body,
        };
        let response = exchange(&self.address, &request).map_err(|source| Error::Transport {
            method,
            target: target.to_owned(),
            registry: self.address.clone(),
            source,
        })?;
        if (200..300).contains(&response.status) {
            return Ok(response);
        }
        Err(Error::Refused {
            method,
            target: target.to_owned(),
            registry: self.address.clone(),
            status: response.status,
            body: String::from_utf8_lossy(&response.body).trim().to_owned(),
        })
    }
}

/// Path and query of a Location, which may be absolute or relative.
fn path_of(location: &str) -> &str {
    let Some((_, rest)) = location.split_once("://") else {
        return location;
    };
    rest.find('/').map_or("/", |at| &rest[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn location_may_be_absolute_or_relative() {
        for (location, expected) in [
            (
                "http://127.0.0.1:5000/v2/a/blobs/uploads/1?_state=x",
                "/v2/a/blobs/uploads/1?_state=x",
            ),
            ("/v2/a/blobs/uploads/1", "/v2/a/blobs/uploads/1"),
            ("http://host", "/"),
        ] {
            assert_eq!(path_of(location), expected);
        }
    }
}
