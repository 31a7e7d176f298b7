//! Go's notation of durations, which the field's configurations and clients write.

use std::time::Duration;

/// Numbers with units, one after the other and without signs: `1h2m3.5s`, `10ms`. `None` for
/// anything else, and for more than a [`Duration`] holds.
pub fn go_duration(text: &str) -> Option<Duration> {
    if text.is_empty() {
        return None;
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * seconds;
        rest = tail;
    }
    Duration::try_from_secs_f64(total).ok()
}

/// As Go prints it: `1m30s`, `2.5s`, `250ms`, `0s`.
pub fn to_go_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let (unit, size) = match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => ("ns", 1),
        1_000..1_000_000 => ("µs", 1_000),
        1_000_000..1_000_000_000 => ("ms", 1_000_000),
        _ => {
            let seconds = duration.as_secs();
            let rest = decimal(nanos % 60_000_000_000, 1_000_000_000);
            return match (seconds / 3600, seconds / 60 % 60) {
                (0, 0) => format!("{rest}s"),
                (0, minutes) => format!("{minutes}m{rest}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
            };
        }
    };
    decimal(nanos, size) + unit
}

/// `value / size`, without zeros at its end; `size` is a power of ten.
fn decimal(value: u128, size: u128) -> String {
    let (whole, fraction) = (value / size, value % size);
    if fraction == 0 {
        return whole.to_string();
    }
    let digits = (size + fraction).to_string();
    format!("{whole}.{}", digits[1..].trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_as_go_prints_them() {
        for (nanos, text) in [
            (0, "0s"),
            (7, "7ns"),
            (1_500, "1.5µs"),
            (250_000_000, "250ms"),
            (1_000_000_000, "1s"),
            (2_050_000_000, "2.05s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (3_723_500_000_000, "1h2m3.5s"),
        ] {
            assert_eq!(to_go_duration(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn durations_are_gos() {
        let cases = [
            ("10s", Some(10_000)),
            ("1h", Some(3_600_000)),
            ("1m30s", Some(90_000)),
            ("1h2m3.5s", Some(3_723_500)),
            ("250ms", Some(250)),
            (".5s", Some(500)),
            ("0s", Some(0)),
            ("", None),
            ("s", None),
            ("1.2.3s", None),
            ("5", None),
            ("5 s", None),
            ("1e3s", None),
            ("1h-2m", None),
            ("9999999999999999999999h", None),
        ];
        for (text, expected) in cases {
            assert_eq!(
                go_duration(text),
                expected.map(Duration::from_millis),
                "{text:?}"
            );
        }
    }
}
