//! `GET /images/search`.

use std::sync::Arc;

use axum::extract::State;
use berth_registry::Found;
use serde::Serialize;

use crate::{Engine, Error, Json, Query, Result};

/// What Docker's clients ask for, and what registries give.
const DEFAULT_LIMIT: u32 = 25;
const MAX_LIMIT: u32 = 100;

#[derive(Debug, Serialize)]
pub struct Shown {
    star_count: u64,
    is_official: bool,
    name: String,
    is_automated: bool,
    description: String,
}

impl From<Found> for Shown {
    fn from(found: Found) -> Self {
        Self {
            star_count: found.star_count,
            is_official: found.is_official,
            name: found.name,
            is_automated: false,
            description: found.description,
        }
    }
}

pub async fn search(State(engine): State<Arc<Engine>>, query: Query) -> Result<Json<Vec<Shown>>> {
    let limit = query.number("limit")?.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Error::bad(format!(
            "limit {limit} is outside the range of [1, {MAX_LIMIT}]"
        )));
    }
    let filters = query.filters()?;
    filters.only(&["is-automated", "is-official", "stars"])?;
    let official = filters.flag("is-official")?;
    let automated = filters.flag("is-automated")?;
    let stars = filters.values("stars").next().map(str::parse::<u64>);
    let stars = stars
        .transpose()
        .map_err(|_| Error::bad("invalid filter 'stars'"))?;
    let term = query.text("term");
    if term.is_empty() {
        return Err(Error::bad("term is empty: say what to search for"));
    }
    let (registry, words) = split(term);
    let found = engine
        .images
        .registry()
        .search(registry, words, limit)
        .await?;
    let wanted = |found: &Found| {
        official.is_none_or(|wanted| found.is_official == wanted)
            && automated != Some(true)
            && stars.is_none_or(|least| found.star_count >= least)
    };
    Ok(Json(
        found.into_iter().filter(wanted).map(Shown::from).collect(),
    ))
}

/// `registry.example.com/words` asks that registry, anything else Docker Hub.
fn split(term: &str) -> (&str, &str) {
    match term.split_once('/') {
        Some((host, words)) if host.contains(['.', ':']) || host == "localhost" => (host, words),
        _ => ("docker.io", term),
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_term_may_name_its_registry() {
        assert_eq!(split("busybox"), ("docker.io", "busybox"));
        assert_eq!(split("team/app"), ("docker.io", "team/app"));
        assert_eq!(split("127.0.0.1:5000/app"), ("127.0.0.1:5000", "app"));
        assert_eq!(split("localhost/app"), ("localhost", "app"));
    }
}
