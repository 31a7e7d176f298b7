//! `POST /images/{name}/tag`.

use http::StatusCode;

use super::name;
use crate::events::Kind;
use crate::{Engine, Error, Query, Result};

pub async fn tag(engine: &Engine, name: &str, query: &Query) -> Result<StatusCode> {
    let image = name::find(engine, name)?;
    let (repository, tag) = (query.text("repo"), query.text("tag"));
    let wanted = match tag {
        "" => repository.to_owned(),
        tag => format!("{repository}:{tag}"),
    };
    let wanted = name::parse(&wanted)?;
    if wanted.digest().is_some() {
        return Err(Error::bad(
            "refusing to create a tag with a digest reference",
        ));
    }
    if !engine.images.tag(&image.id, &wanted).await? {
        return Err(name::missing(name));
    }
    let attributes = super::attributes(&image, &wanted.familiar());
    engine
        .events
        .publish(Kind::Image, "tag", image.id.to_string(), attributes);
    Ok(StatusCode::CREATED)
}
