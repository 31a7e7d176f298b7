//! The query of a request, by Docker's rules.

use std::str::FromStr;

use axum::extract::FromRequestParts;
use berth_names::go_duration;
use http::request::Parts;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::{Error, Filters, Result};

/// Parameters in their order; a key may come more than once.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Self {
        Self(
            form_urlencoded::parse(text.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    /// Empty where the key is missing.
    pub fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or_default()
    }

    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// Anything but an empty text, `0`, `no`, `false` and `none` is true.
    pub fn flag(&self, key: &str) -> bool {
        let value = self.text(key).trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    pub fn flag_or(&self, key: &str, default: bool) -> bool {
        match self.get(key) {
            Some(_) => self.flag(key),
            None => default,
        }
    }

    /// `None` where the key is missing or empty.
    pub fn number<T: FromStr>(&self, key: &str) -> Result<Option<T>> {
        match self.text(key).trim() {
            "" => Ok(None),
            text => match text.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(Error::bad(format!("{key}: {text:?} is no valid number"))),
            },
        }
    }

    pub fn filters(&self) -> Result<Filters> {
        Filters::parse(self.text("filters"))
    }
}

/// A moment as filters write it: Unix seconds, RFC 3339, or how long ago it was (`1h30m`).
pub fn moment(text: &str) -> Result<OffsetDateTime> {
    let bad = || {
        Error::bad(format!(
            "{text:?} is no time: write seconds, RFC 3339 or 24h"
        ))
    };
    if let Some(nanos) = unix_nanos(text) {
        return OffsetDateTime::from_unix_timestamp_nanos(nanos).map_err(|_| bad());
    }
    if let Ok(moment) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(moment);
    }
    let ago = go_duration(text).and_then(|ago| Duration::try_from(ago).ok());
    let moment = ago.and_then(|ago| OffsetDateTime::now_utc().checked_sub(ago));
    moment.ok_or_else(bad)
}

/// Seconds and parts of one, to the nanosecond: a floating point number would not hold them.
fn unix_nanos(text: &str) -> Option<i128> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let seconds = i128::from(whole.parse::<i64>().ok()?);
    if part.is_empty() {
        return Some(seconds * 1_000_000_000);
    }
    let digits = part.get(..part.len().min(9))?;
    let nanos: i128 = format!("{digits:0<9}").parse().ok()?;
    let nanos = if whole.starts_with('-') {
        -nanos
    } else {
        nanos
    };
    Some(seconds * 1_000_000_000 + nanos)
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_exact_to_the_nanosecond() {
        let nanos = |text: &str| moment(text).unwrap().unix_timestamp_nanos();
        assert_eq!(nanos("1767225602.123456789"), 1_767_225_602_123_456_789);
        assert_eq!(nanos("1.5"), 1_500_000_000);
        assert_eq!(nanos("-1.5"), -1_500_000_000);
        assert!(moment("99999999999999999999999999999").is_err());
        assert!(moment("99999999999999999999999999999h").is_err());
    }

    #[test]
    fn what_is_true_follows_docker() {
        for (text, expected) in [
            ("", false),
            ("a", false),
            ("a=", false),
            ("a=0", false),
            ("a=No", false),
            ("a=False", false),
            ("a=none", false),
            ("a=1", true),
            ("a=true", true),
            ("a=yes", true),
            ("a=anything", true),
        ] {
            assert_eq!(Query::parse(text).flag("a"), expected, "{text:?}");
        }
        assert!(Query::parse("b=1").flag_or("a", true));
        assert!(!Query::parse("a=0").flag_or("a", true));
    }

    #[test]
    fn moments_are_read_in_three_forms() {
        let at = |text| moment(text).unwrap().unix_timestamp();
        assert_eq!(at("1700000000"), 1_700_000_000);
        assert_eq!(at("2023-11-14T22:13:20Z"), 1_700_000_000);
        assert_eq!(
            go_duration("1h30m"),
            Some(std::time::Duration::from_secs(5400))
        );
        assert_eq!(
            go_duration("1.5s10ms"),
            Some(std::time::Duration::from_millis(1510))
        );
        for bad in ["", "x", "1x", "h", "yesterday"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_repeat_and_numbers_are_checked() {
        let query = Query::parse("t=a%3A1&t=b+c&n=-4&bad=x");
        assert_eq!(query.all("t").collect::<Vec<_>>(), ["a:1", "b c"]);
        assert_eq!(query.number::<i64>("n").unwrap(), Some(-4));
        assert_eq!(query.number::<i64>("absent").unwrap(), None);
        assert!(query.number::<u64>("bad").is_err());
    }
}
