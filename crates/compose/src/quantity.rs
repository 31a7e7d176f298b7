//! Sizes, times and truths as people write them.

/// Bytes: `512m`, `1.5 GiB`, `64kb`. Units are powers of 1024, whatever they are called.
pub fn bytes(text: &str) -> Option<i64> {
    let text = text.trim();
    if text == "-1" {
        return Some(-1);
    }
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.trim().to_ascii_lowercase();
    let letter = unit.strip_suffix("ib").or(unit.strip_suffix('b'));
    let power = match letter.unwrap_or(&unit) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    Some((number * 1024f64.powi(power)) as i64)
}

/// Nanoseconds: `1h30m`, `1.5s`, `2d`, `0`.
pub fn duration(text: &str) -> Option<i64> {
    let text = text.trim();
    if text == "0" {
        return Some(0);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total += number * unit(&rest[..end])?;
        rest = &rest[end..];
    }
    (total < i64::MAX as f64).then_some(total as i64)
}

fn unit(text: &str) -> Option<f64> {
    Some(match text {
        "ns" => 1.0,
        "us" | "µs" | "μs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        "d" => 86_400e9,
        "w" => 604_800e9,
        _ => return None,
    })
}

/// As Go writes it: `1m30s`, `500ms`, `0s`.
pub fn show_duration(nanoseconds: i64) -> String {
    let fraction = |value: i64, of: i64, unit: &str| {
        let (whole, rest) = (value / of, value % of);
        let digits = of.ilog10() as usize;
        let rest = format!("{rest:0digits$}");
        match rest.trim_end_matches('0') {
            "" => format!("{whole}{unit}"),
            rest => format!("{whole}.{rest}{unit}"),
        }
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => fraction(nanoseconds, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(nanoseconds, 1_000_000, "ms"),
        _ => {
            let minutes = nanoseconds / 60_000_000_000;
            let seconds = fraction(nanoseconds % 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

pub fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "y" | "yes" | "on" | "1" => Some(true),
        "false" | "n" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, expected) in [
            ("1024b", Some(1024)),
            ("1k", Some(1024)),
            ("1.5KB", Some(1536)),
            ("2 MiB", Some(2 << 20)),
            ("1g", Some(1 << 30)),
            ("-1", Some(-1)),
            ("12", Some(12)),
            ("m", None),
            ("1x", None),
            ("1.2.3k", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn times_are_shown_as_go_shows_them() {
        for (text, shown) in [
            ("0", "0s"),
            ("90s", "1m30s"),
            ("1.5s", "1.5s"),
            ("500ms", "500ms"),
            ("1h", "1h0m0s"),
            ("2d", "48h0m0s"),
            ("1m0.25s", "1m0.25s"),
            ("15us", "15µs"),
            ("7ns", "7ns"),
        ] {
            assert_eq!(show_duration(duration(text).unwrap()), shown, "{text}");
        }
        for text in ["", "5", "s", "1x", "1s2", "1..5s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
