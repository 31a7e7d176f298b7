//! Moments as RFC 3339 text, in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use berth_executor::Stamp;

/// Nanoseconds since 1970.
pub fn now() -> u64 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH);
    passed.map_or(0, |passed| u64::try_from(passed.as_nanos()).unwrap_or(0))
}

/// To the second.
pub fn seconds(moment: u64) -> String {
    let text = text(moment);
    format!("{}Z", &text[.."0000-00-00T00:00:00".len()])
}

/// To the nanosecond, without zeros at the end, as Go's `RFC3339Nano`.
pub fn nanoseconds(moment: u64) -> String {
    let text = text(moment);
    let shortest = text.trim_end_matches('Z').trim_end_matches('0');
    format!("{}Z", shortest.trim_end_matches('.'))
}

fn text(moment: u64) -> String {
    Stamp::at(UNIX_EPOCH + Duration::from_nanos(moment)).to_string()
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
