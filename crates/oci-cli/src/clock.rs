//! Moments as RFC 3339 text, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;

/// Nanoseconds since 1970.
pub fn now() -> u64 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH);
    passed.map_or(0, |passed| u64::try_from(passed.as_nanos()).unwrap_or(0))
}

/// To the second.
pub fn seconds(moment: u64) -> String {
    format!("{}Z", civil(moment))
}

/// To the nanosecond, without zeros at the end, as Go's `RFC3339Nano`.
pub fn nanoseconds(moment: u64) -> String {
    let fraction = format!("{:09}", moment % 1_000_000_000);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{}{point}{fraction}Z", civil(moment))
}

fn civil(moment: u64) -> String {
    let seconds = moment / 1_000_000_000;
    let (days, of_day) = (seconds / DAY, seconds % DAY);
    // Years that begin in March end with the leap day: a day number is then
    // turned into a date by counting eras of 400 years (146,097 days).
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_read_as_go_writes_them() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_500_000_000, "2000-02-29T00:00:00.5Z"),
            (1_709_251_199_000_000_001, "2024-02-29T23:59:59.000000001Z"),
            (1_709_251_200_123_000_000, "2024-03-01T00:00:00.123Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00Z"),
        ];
        for (moment, text) in cases {
            assert_eq!(nanoseconds(moment), text);
        }
        assert_eq!(seconds(951_782_400_500_000_000), "2000-02-29T00:00:00Z");
    }
}
