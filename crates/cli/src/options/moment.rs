//! `--since` and `--until`, as the API takes them: seconds since 1970, to the nanosecond.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::daemon::Call;
use crate::error::{Error, Result};
use crate::output::duration_of;

/// Between which moments something was.
#[derive(Debug, Args)]
pub struct Window {
    /// From this moment: RFC 3339, seconds, or 10m
    #[arg(
        long,
        value_name = "TIME",
        default_value = "",
        hide_default_value = true
    )]
    since: String,
    /// Up to this moment
    #[arg(
        long,
        value_name = "TIME",
        default_value = "",
        hide_default_value = true
    )]
    until: String,
}

impl Window {
    pub fn on(&self, call: Call) -> Result<Call> {
        let since = call.given("since", moment(&self.since)?);
        Ok(since.given("until", moment(&self.until)?))
    }
}

/// RFC 3339 (in UTC where it names no zone), seconds, or how long ago. Nothing stays nothing.
pub fn moment(text: &str) -> Result<String> {
    let is_seconds = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if is_seconds {
        return Ok(text.to_owned());
    }
    let day = if text.contains('T') {
        text.to_owned()
    } else {
        format!("{text}T00:00:00")
    };
    for whole in [text.to_owned(), format!("{text}Z"), format!("{day}Z")] {
        if let Ok(at) = OffsetDateTime::parse(&whole, &Rfc3339) {
            return Ok(seconds(at.unix_timestamp_nanos()));
        }
    }
    let ago = duration_of(text).map_err(|_| {
        Error::usage(format!(
            "{text:?} is no moment: write 2026-01-31T12:00:00Z, seconds since 1970, or 10m"
        ))
    })?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let nanos = now.saturating_sub(ago).as_nanos();
    Ok(seconds(i128::try_from(nanos).unwrap_or(i128::MAX)))
}

fn seconds(nanos: i128) -> String {
    let second = 1_000_000_000;
    format!(
        "{}.{:09}",
        nanos.div_euclid(second),
        nanos.rem_euclid(second)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_sent_as_seconds() {
        for (text, expected) in [
            ("", ""),
            ("1700000000.5", "1700000000.5"),
            ("2023-11-14T22:13:20.25Z", "1700000000.250000000"),
            ("2023-11-14T23:13:20+01:00", "1700000000.000000000"),
            ("2023-11-14T22:13:20", "1700000000.000000000"),
            ("2023-11-14", "1699920000.000000000"),
        ] {
            assert_eq!(moment(text).unwrap(), expected, "{text}");
        }
        let ago: f64 = moment("1h").unwrap().parse().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let passed = now.as_secs_f64() - ago;
        assert!((3600.0..3700.0).contains(&passed), "{passed}");
        for bad in ["yesterday", "2023-13-01", "1x"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }
}
