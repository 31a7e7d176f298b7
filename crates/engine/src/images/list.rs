//! `GET /images/json`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use axum::extract::State;
use berth_images::Image;
use berth_names::ChainId;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::name;
use crate::{ApiVersion, Engine, Error, Filters, Json, Query, Result};

/// What is not counted.
const UNKNOWN: i64 = -1;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Summary {
    containers: i64,
    created: i64,
    pub id: String,
    labels: Option<BTreeMap<String, String>>,
    parent_id: &'static str,
    repo_digests: Vec<String>,
    repo_tags: Vec<String>,
    pub shared_size: i64,
    pub size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    virtual_size: Option<u64>,
}

pub async fn list(
    State(engine): State<Arc<Engine>>,
    version: ApiVersion,
    query: Query,
) -> Result<Json<Vec<Summary>>> {
    let mut filters = query.filters()?;
    // How very old clients ask for one name.
    if version < ApiVersion::new(41) && !query.text("filter").is_empty() {
        filters.add("reference", query.text("filter"));
    }
    let chosen = choose(&engine, &filters, query.flag("all"))?;
    let sizes = Sizes::count(&engine).await?;
    let mut summaries: Vec<_> = chosen
        .iter()
        .map(|image| {
            let mut summary = summary(image, &sizes, version, query.flag("shared-size"));
            // Who asks for a name is shown no other.
            let wanted =
                |name: &String| filters.any("reference", |pattern| name::matches(pattern, name));
            summary.repo_tags.retain(wanted);
            summary.repo_digests.retain(wanted);
            summary
        })
        .collect();
    // The newest first, and always in the same order.
    summaries.sort_by(|a, b| (b.created, &a.id).cmp(&(a.created, &b.id)));
    Ok(Json(summaries))
}

pub fn summary(image: &Image, sizes: &Sizes, version: ApiVersion, shared: bool) -> Summary {
    let mut repo_tags = name::all_familiar(&image.repo_tags);
    let mut repo_digests = name::all_familiar(&image.repo_digests);
    // What came later calls an image without names by an empty list.
    if version < ApiVersion::new(43) {
        if repo_tags.is_empty() {
            repo_tags.push("<none>:<none>".to_owned());
        }
        if repo_digests.is_empty() {
            repo_digests.push("<none>@<none>".to_owned());
        }
    }
    let size = sizes.of(image);
    let labels = image.config.labels();
    let shared_size = if shared { sizes.shared(image) } else { None };
    Summary {
        containers: UNKNOWN,
        created: created(image).map_or(0, OffsetDateTime::unix_timestamp),
        id: image.id.to_string(),
        labels: (!labels.is_empty()).then(|| labels.clone()),
        parent_id: "",
        repo_digests,
        repo_tags,
        shared_size: shared_size.map_or(UNKNOWN, |size| i64::try_from(size).unwrap_or(i64::MAX)),
        size,
        virtual_size: (version < ApiVersion::new(44)).then_some(size),
    }
}

/// When the image was made, if it says so.
pub fn created(image: &Image) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(&image.config.created, &Rfc3339).ok()
}

impl Summary {
    pub fn set_containers(&mut self, count: usize) {
        self.containers = i64::try_from(count).unwrap_or(i64::MAX);
    }
}

/// The images that filters let through; artifacts are nothing that could be run here, and what is
/// only a step of a build is shown with `all`.
pub fn choose(engine: &Engine, filters: &Filters, all: bool) -> Result<Vec<Arc<Image>>> {
    filters.only(&[
        "dangling",
        "label",
        "label!",
        "before",
        "since",
        "until",
        "reference",
    ])?;
    let dangling = filters.flag("dangling")?;
    let edge = |name: &str| -> Result<Option<OffsetDateTime>> {
        let Some(wanted) = filters.values(name).next() else {
            return Ok(None);
        };
        let image = name::find(engine, wanted)?;
        Ok(Some(created(&image).unwrap_or(OffsetDateTime::UNIX_EPOCH)))
    };
    let (before, since) = (edge("before")?, edge("since")?);
    let until = match filters.values("until").next() {
        Some(text) => Some(crate::query::moment(text)?),
        None => None,
    };
    let steps = if all {
        HashSet::new()
    } else {
        engine.builder.steps()
    };
    let wanted = |image: &Arc<Image>| {
        if image.repo_tags.is_empty() && steps.contains(&image.id) {
            return false;
        }
        let made = created(image).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let labels = image.config.labels();
        image.artifact.is_none()
            && dangling.is_none_or(|wanted| image.repo_tags.is_empty() == wanted)
            && before.is_none_or(|edge| made < edge)
            && since.is_none_or(|edge| made > edge)
            && until.is_none_or(|edge| made < edge)
            && filters.labels("label", labels)
            && (!filters.contains("label!") || !filters.labels("label!", labels))
            && filters.any("reference", |pattern| {
                let mut names = image.repo_tags.iter().chain(&image.repo_digests);
                names.any(|name| name::matches(pattern, name))
            })
    };
    let mut images = engine.images.list();
    images.retain(wanted);
    Ok(images)
}

/// Bytes of unpacked layers, and how many images have each.
pub struct Sizes {
    layers: HashMap<ChainId, u64>,
    users: HashMap<ChainId, usize>,
}

impl Sizes {
    pub async fn count(engine: &Engine) -> Result<Self> {
        let layers = engine.images.layer_sizes().await.map_err(Error::Images)?;
        let mut users = HashMap::new();
        for image in engine.images.list() {
            for layer in &image.layers {
                *users.entry(layer.clone()).or_default() += 1;
            }
        }
        Ok(Self { layers, users })
    }

    pub fn of_layer(&self, layer: &ChainId) -> u64 {
        self.layers.get(layer).copied().unwrap_or(0)
    }

    pub fn of(&self, image: &Image) -> u64 {
        image.layers.iter().map(|layer| self.of_layer(layer)).sum()
    }

    /// What other images have too.
    pub fn shared(&self, image: &Image) -> Option<u64> {
        let shared = image
            .layers
            .iter()
            .filter(|layer| self.users.get(*layer).is_some_and(|users| *users > 1));
        Some(shared.map(|layer| self.of_layer(layer)).sum())
    }

    /// Of all layers that any image has.
    pub fn used(&self) -> u64 {
        self.users.keys().map(|layer| self.of_layer(layer)).sum()
    }

    pub fn total(&self) -> u64 {
        self.layers.values().sum()
    }
}
