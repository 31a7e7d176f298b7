//! The tags of a repository.

use berth_names::ImageRef;
use http::Method;
use http::header::LINK;
use reqwest::{Response, Url};
use serde::Deserialize;

use crate::auth::Access;
use crate::request::{Ask, read_limited};
use crate::{Client, Credentials, Error, Result};

/// Of one page.
const LIMIT: u64 = 4 << 20;
const PAGES: usize = 1000;

#[derive(Deserialize)]
struct Page {
    // A repository without tags has null there.
    tags: Option<Vec<String>>,
}

impl Client {
    /// Every tag of the repository of `image`, as the registry orders them, page by page.
    pub async fn tags(&self, image: &ImageRef, credentials: &Credentials) -> Result<Vec<String>> {
        let what = format!("the tags of {}", image.repository());
        let endpoint = self.own_endpoint(image).await?;
        let mut path = format!("{}/tags/list", image.path());
        let mut all = Vec::new();
        for _ in 0..PAGES {
            let ask = Ask {
                access: Access::new(image, credentials),
                method: Method::GET,
                path,
                accept: None,
                offset: 0,
                what: &what,
                patience: self.patience(),
            };
            let answer = ask.put_to(&endpoint, &self.inner.authorizer).await?;
            let next = next(&answer);
            let host = endpoint.authority.clone();
            let body = read_limited(answer, &what, &host, LIMIT, self.patience()).await?;
            let page: Page = serde_json::from_slice(&body).map_err(|_| Error::Unsupported {
                host,
                operation: "a list of tags",
            })?;
            all.extend(page.tags.unwrap_or_default());
            match next {
                Some(query) => path = format!("{}/tags/list?{query}", image.path()),
                None => break,
            }
        }
        Ok(all)
    }
}

/// The query of the page that follows: `Link: </v2/name/tags/list?n=100&last=x>; rel="next"`. Of
/// what it says no other part is followed.
fn next(answer: &Response) -> Option<String> {
    let link = answer.headers().get(LINK)?.to_str().ok()?;
    let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = rest.replace('"', "").contains("rel=next");
    let url = answer.url().join(target).ok()?;
    let query = Url::query(&url).map(str::to_owned);
    query.filter(|_| is_next)
}
