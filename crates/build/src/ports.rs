//! `EXPOSE`: ports with their protocols, and ranges of them.

use crate::error::{Error, Result};

/// `80`, `80/udp`, `8000-8010/tcp`: each port by itself.
pub fn read(text: &str) -> Result<Vec<String>> {
    let wrong = || {
        Error::invalid(format!(
            "EXPOSE {text}: write a port, as in 80, 53/udp or 8000-8010"
        ))
    };
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(wrong());
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first..=last)
            .map(|port| format!("{port}/{protocol}"))
            .collect()),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_protocols_and_ranges() {
        assert_eq!(read("80").unwrap(), ["80/tcp"]);
        assert_eq!(read("53/UDP").unwrap(), ["53/udp"]);
        assert_eq!(read("8-9/tcp").unwrap(), ["8/tcp", "9/tcp"]);
        for bad in ["", "x", "0", "70000", "80/http", "9-8", "127.0.0.1:80:80"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
