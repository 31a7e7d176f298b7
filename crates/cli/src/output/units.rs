//! Sizes, durations and moments as people write and read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// Four digits at most, in powers of 1000, as Docker shows images: `4.43MB`.
pub fn size(bytes: u64) -> String {
    scaled(
        bytes as f64,
        1000.0,
        &["B", "kB", "MB", "GB", "TB", "PB"],
        3,
    )
}

/// In powers of 1024, as Docker shows memory: `1.938GiB`.
pub fn binary_size(bytes: u64) -> String {
    scaled(
        bytes as f64,
        1024.0,
        &["B", "KiB", "MiB", "GiB", "TiB", "PiB"],
        4,
    )
}

/// With so many digits that count, and no zeros at the end.
fn scaled(mut value: f64, step: f64, units: &[&str], digits: usize) -> String {
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let whole = format!("{:.0}", value.trunc()).len();
    let mut text = format!("{value:.*}", digits.saturating_sub(whole));
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    text + units.get(unit).copied().unwrap_or_default()
}

/// `512m`, `2g`, `1.5GiB`, `100`: in powers of 1024, as Docker reads sizes.
pub fn bytes_of(text: &str) -> Result<i64> {
    let bad = || {
        Error::usage(format!(
            "{text:?} is no size: write bytes, or 512m, 2g, 1.5GiB"
        ))
    };
    let lower = text.trim().to_ascii_lowercase();
    let end = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let power = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return Err(bad()),
    };
    let number: f64 = number.parse().map_err(|_| bad())?;
    let bytes = number * 1024_f64.powi(power);
    if bytes < i64::MAX as f64 {
        Ok(bytes as i64)
    } else {
        Err(bad())
    }
}

/// `1h30m`, `1.5s`, `300ms`; a number alone is refused.
pub fn duration_of(text: &str) -> Result<Duration> {
    let bad = || Error::usage(format!("{text:?} is no duration: write 30s, 5m or 1h30m"));
    let mut rest = text;
    let mut seconds = 0.0;
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let factor = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        seconds += number.parse::<f64>().map_err(|_| bad())? * factor;
        rest = tail;
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| bad())
}

/// In the words of Docker's tables.
pub fn how_long(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match (seconds, minutes) {
        (0, _) => "Less than a second".to_owned(),
        (1, _) => "1 second".to_owned(),
        (2..60, _) => format!("{seconds} seconds"),
        (_, 1) => "About a minute".to_owned(),
        (_, 2..60) => format!("{minutes} minutes"),
        _ => match hours {
            1 => "About an hour".to_owned(),
            2..48 => format!("{hours} hours"),
            48..336 => format!("{} days", hours / 24),
            336..1440 => format!("{} weeks", hours / 24 / 7),
            1440..17520 => format!("{} months", hours / 24 / 30),
            _ => format!("{} years", hours / 24 / 365),
        },
    }
}

/// Of Unix seconds; what has no time has none.
pub fn ago(seconds: i64) -> String {
    match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => {
            let then = UNIX_EPOCH + Duration::from_secs(seconds);
            let past = SystemTime::now().duration_since(then).unwrap_or_default();
            how_long(past) + " ago"
        }
        _ => "N/A".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_docker_shows_them() {
        for (bytes, decimal, binary) in [
            (0, "0B", "0B"),
            (999, "999B", "999B"),
            (4_430_000, "4.43MB", "4.225MiB"),
            (1_000, "1kB", "1000B"),
            (2_080_374_784, "2.08GB", "1.938GiB"),
            (187_600_000, "188MB", "178.9MiB"),
        ] {
            assert_eq!(size(bytes), decimal);
            assert_eq!(binary_size(bytes), binary);
        }
    }

    #[test]
    fn sizes_are_read_in_powers_of_1024() {
        for (text, bytes) in [
            ("100", 100),
            ("4k", 4096),
            ("512m", 512 << 20),
            ("1.5GiB", 3 << 29),
            ("1 g", 1 << 30),
        ] {
            assert_eq!(bytes_of(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "m", "1x", "-1", "1e400", "99999999p"] {
            assert!(bytes_of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let millis = |text: &str| duration_of(text).unwrap().as_millis();
        assert_eq!(millis("1h30m"), 5_400_000);
        assert_eq!(millis("1.5s10ms"), 1_510);
        assert_eq!(millis("0"), 0);
        for text in ["", "5", "s", "1x", "1h5"] {
            assert!(duration_of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ages_are_told_in_dockers_words() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (150, "2 minutes"),
            (3_600, "About an hour"),
            (7_200, "2 hours"),
            (3 * 86_400, "3 days"),
            (21 * 86_400, "3 weeks"),
            (90 * 86_400, "3 months"),
            (800 * 86_400, "2 years"),
        ] {
            assert_eq!(how_long(Duration::from_secs(seconds)), words);
        }
        assert_eq!(ago(0), "N/A");
    }
}
