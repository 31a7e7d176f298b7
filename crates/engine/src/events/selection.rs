//! Which events a listener wants. Pure.

use super::{Event, Kind};
use crate::{Error, Filters, Query, Result};

const NANOS: i64 = 1_000_000_000;

pub struct Selection {
    filters: Filters,
    /// Nanoseconds since the epoch.
    pub since: Option<i64>,
    pub until: Option<i64>,
}

impl Selection {
    pub fn parse(query: &Query) -> Result<Self> {
        let since = moment(query.text("since"), "since")?;
        let until = moment(query.text("until"), "until")?;
        if let (Some(since), Some(until)) = (since, until)
            && until < since
        {
            return Err(Error::bad(format!(
                "`since` time ({}) cannot be after `until` time ({})",
                query.text("since"),
                query.text("until")
            )));
        }
        Ok(Self {
            filters: query.filters()?,
            since,
            until,
        })
    }

    /// Whether the event is wanted, whenever it happened.
    pub fn wants(&self, event: &Event) -> bool {
        let filters = &self.filters;
        let actor = &event.actor;
        let named = |kind: Kind| {
            filters.any(kind.as_str(), |wanted| {
                event.kind == kind && is_called(event, wanted)
            })
        };
        filters.exact("type", event.kind.as_str())
            && filters.exact("scope", "local")
            && filters.any("event", |wanted| {
                // `exec_create: ls` is an `exec_create`.
                let bare = event.action.split(':').next().unwrap_or_default();
                wanted == event.action || wanted == bare
            })
            && named(Kind::Container)
            && named(Kind::Volume)
            && named(Kind::Network)
            && named(Kind::Daemon)
            && filters.any("image", |wanted| is_about_image(event, wanted))
            && filters.labels("label", &actor.attributes)
    }

    pub fn is_in_time(&self, event: &Event) -> bool {
        self.since.is_none_or(|since| event.time_nano >= since)
            && self.until.is_none_or(|until| event.time_nano <= until)
    }
}

fn is_called(event: &Event, wanted: &str) -> bool {
    let actor = &event.actor;
    let name = actor.attributes.get("name").map(String::as_str);
    actor.id.starts_with(wanted) || name == Some(wanted.trim_start_matches('/'))
}

/// By id, by name with or without tag, or as the image of a container.
fn is_about_image(event: &Event, wanted: &str) -> bool {
    let actor = &event.actor;
    let known = match event.kind {
        Kind::Image => actor.attributes.get("name"),
        Kind::Container => actor.attributes.get("image"),
        _ => return false,
    };
    let is = |name: &str| name == wanted || untagged(name) == wanted;
    (event.kind == Kind::Image && is(&actor.id)) || known.is_some_and(|name| is(name))
}

fn untagged(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// Seconds since the epoch, with a fraction or without: what clients make of all other forms.
fn moment(text: &str, field: &str) -> Result<Option<i64>> {
    if text.is_empty() {
        return Ok(None);
    }
    let bad = || Error::bad(format!("{field}: {text:?} is no Unix time in seconds"));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| bad())?;
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanos: i64 = digits.parse().map_err(|_| bad())?;
    let all = seconds
        .checked_mul(NANOS)
        .and_then(|s| s.checked_add(nanos));
    all.map(Some).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::super::Events;
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn event(kind: Kind, action: &str, id: &str, attributes: &[(&str, &str)]) -> Arc<Event> {
        let events = Events::default();
        let attributes = attributes
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        events.publish(kind, action, id, attributes.collect::<BTreeMap<_, _>>());
        Arc::clone(&events.subscribe().past[0])
    }

    fn wants(filters: &str, event: &Event) -> bool {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("filters", filters);
        let query = Query::parse(&query.finish());
        Selection::parse(&query).unwrap().wants(event)
    }

    #[test]
    fn filters_choose_by_kind_name_image_and_label() {
        let start = event(
            Kind::Container,
            "exec_start: ls -l",
            "c0ffee",
            &[("name", "web"), ("image", "team/app:1"), ("tier", "front")],
        );
        for (filters, expected) in [
            ("{}", true),
            (r#"{"type":["container"]}"#, true),
            (r#"{"type":["image"]}"#, false),
            (r#"{"type":["image","container"]}"#, true),
            (r#"{"event":["exec_start"]}"#, true),
            (r#"{"event":["exec_start: ls -l"]}"#, true),
            (r#"{"event":["exec"]}"#, false),
            (r#"{"container":["web"]}"#, true),
            (r#"{"container":["/web"]}"#, true),
            (r#"{"container":["c0ff"]}"#, true),
            (r#"{"container":["db"]}"#, false),
            (r#"{"image":["team/app"]}"#, true),
            (r#"{"image":["team/app:1"]}"#, true),
            (r#"{"image":["team/app:2"]}"#, false),
            (r#"{"label":["tier=front"]}"#, true),
            (r#"{"label":["tier=back"]}"#, false),
            (r#"{"volume":["web"]}"#, false),
            (r#"{"scope":["swarm"]}"#, false),
        ] {
            assert_eq!(wants(filters, &start), expected, "{filters}");
        }
        let pull = event(
            Kind::Image,
            "pull",
            "host:5000/app",
            &[("name", "host:5000/app")],
        );
        assert!(wants(r#"{"image":["host:5000/app"]}"#, &pull));
    }

    #[test]
    fn times_are_unix_seconds() {
        assert_eq!(moment("", "since").unwrap(), None);
        assert_eq!(moment("12", "since").unwrap(), Some(12 * NANOS));
        assert_eq!(
            moment("12.5", "since").unwrap(),
            Some(12 * NANOS + NANOS / 2)
        );
        assert_eq!(moment("1.0000000019", "since").unwrap(), Some(NANOS + 1));
        for bad in ["x", "1.x", "99999999999999999999", "9999999999"] {
            assert!(moment(bad, "since").is_err(), "{bad}");
        }
        let query = Query::parse("since=5&until=4");
        assert!(Selection::parse(&query).is_err());
    }
}
