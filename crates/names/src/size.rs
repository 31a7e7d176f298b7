//! Sizes as people write them.

/// Bytes: `10m`, `1.5 GiB`, `64kb` or a number. Units are powers of 1024, whatever they are called.
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.trim().to_ascii_lowercase();
    let letter = unit.strip_suffix("ib").or(unit.strip_suffix('b'));
    let factor: u64 = match letter.unwrap_or(&unit) {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        "p" => 1 << 50,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let bytes = number.parse::<f64>().ok()? * factor as f64;
    (bytes < u64::MAX as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_powers_of_1024_however_they_are_written() {
        for (text, expected) in [
            ("10", 10),
            ("10b", 10),
            ("10k", 10 << 10),
            ("10 KB", 10 << 10),
            ("10m", 10 << 20),
            ("10MiB", 10 << 20),
            ("1.5g", 3 << 29),
            ("2T", 2 << 40),
            ("0", 0),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text:?}");
        }
        for odd in [
            "", "g", "-1", "1x", "1.2.3g", "ten", "20000p", "1 g b", "inf",
        ] {
            assert_eq!(bytes(odd), None, "{odd:?}");
        }
    }
}
