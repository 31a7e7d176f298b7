//! Search, as Docker Hub and few others have it: an interface older than registries' present one.

use berth_names::ImageRef;
use http::StatusCode;
use reqwest::Url;
use serde::Deserialize;

use crate::request::{deliver, failure, read_limited};
use crate::{Client, Error, Result};

const HUB: &str = "docker.io";
const HUB_INDEX: &str = "https://index.docker.io/v1/search";
const LIMIT: u64 = 4 << 20;

/// One repository that a search found.
#[derive(Debug, Clone, Deserialize)]
pub struct Found {
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub star_count: u64,
    #[serde(default)]
    pub is_official: bool,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    results: Vec<Found>,
}

impl Client {
    /// Asks a registry for repositories by words.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the registry has no search, as most have not.
    pub async fn search(&self, registry: &str, words: &str, limit: u32) -> Result<Vec<Found>> {
        let what = format!("a search for {words:?}");
        let any = ImageRef::parse(&format!("{registry}/berth/search"));
        let any = any.map_err(|_| Error::NoHost { what: what.clone() })?;
        let endpoint = self.own_endpoint(&any).await?;
        let mut url = if registry == HUB {
            Url::parse(HUB_INDEX).map_err(|_| Error::NoHost { what: what.clone() })?
        } else {
            let mut url = endpoint.url("");
            url.set_path("/v1/search");
            url
        };
        url.query_pairs_mut()
            .append_pair("q", words)
            .append_pair("n", &limit.to_string());
        let client = match endpoint.is_origin_of(&url) {
            true => endpoint.client.clone(),
            false => endpoint.foreign_client().await?,
        };
        let host = crate::hosts::authority(&url);
        let patience = self.patience();
        let answer = deliver(client.get(url), &host, patience).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            let operation = "search";
            return Err(Error::Unsupported { host, operation });
        }
        if !answer.status().is_success() {
            return Err(failure(answer, &what, &host, patience).await);
        }
        let body = read_limited(answer, &what, &host, LIMIT, patience).await?;
        let parsed: Answer = serde_json::from_slice(&body).map_err(|_| Error::Unsupported {
            host,
            operation: "search",
        })?;
        Ok(parsed.results)
    }
}
