//! The limits of a pod's network, which Kubernetes writes into annotations.
//!
//! The values are resource quantities in bits a second, from 1k to 1P, as the kubelet's own
//! network once took them and CNI's runtimes still do.

use std::collections::BTreeMap;

use berth_network::Bandwidth;

use crate::error::{Error, Result};

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

const LEAST: f64 = 1e3;
const MOST: f64 = 1e15;
/// A bucket holds what the rate gives in a tenth of a second, and at least 64 KiB, without which
/// offloaded packets of full size never pass. In bits.
const BURST_PART: u64 = 10;
const LEAST_BURST: u64 = 64 * 1024 * 8;

/// None where the annotations limit nothing.
pub(super) fn of(annotations: &BTreeMap<String, String>) -> Result<Option<Bandwidth>> {
    let rate = |name: &str| {
        annotations
            .get(name)
            .map(|text| parse(name, text))
            .transpose()
    };
    let (ingress, egress) = (rate(INGRESS)?, rate(EGRESS)?);
    if ingress.is_none() && egress.is_none() {
        return Ok(None);
    }
    let burst = |rate: Option<u64>| rate.map_or(0, |rate| (rate / BURST_PART).max(LEAST_BURST));
    Ok(Some(Bandwidth {
        ingress_rate: ingress.unwrap_or(0),
        ingress_burst: burst(ingress),
        egress_rate: egress.unwrap_or(0),
        egress_burst: burst(egress),
    }))
}

fn parse(name: &str, text: &str) -> Result<u64> {
    let wrong = |problem: &str| Error::invalid("annotations", format!("{name} {text:?} {problem}"));
    let value = quantity(text).ok_or_else(|| wrong("is no quantity such as 10M"))?;
    if !(LEAST..=MOST).contains(&value) {
        return Err(wrong("is not between 1k and 1P bits a second"));
    }
    Ok(value as u64)
}

/// A number with a decimal or binary suffix or an exponent.
fn quantity(text: &str) -> Option<f64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024f64,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        exponent => 10f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(ingress: &str) -> Result<Option<Bandwidth>> {
        of(&BTreeMap::from([(INGRESS.to_owned(), ingress.to_owned())]))
    }

    #[test]
    fn quantities_are_bits_a_second() {
        for (text, rate) in [
            ("1k", 1_000),
            ("10M", 10_000_000),
            ("1.5M", 1_500_000),
            ("1Mi", 1 << 20),
            ("2e6", 2_000_000),
            ("5000000m", 5_000),
            ("1P", 1_000_000_000_000_000),
        ] {
            let limits = limits(text).unwrap().unwrap();
            assert_eq!(
                (limits.ingress_rate, limits.egress_rate),
                (rate, 0),
                "{text}"
            );
            assert_eq!(limits.ingress_burst, (rate / 10).max(LEAST_BURST));
            assert_eq!(limits.egress_burst, 0);
        }
        assert_eq!(of(&BTreeMap::new()).unwrap(), None);
    }

    #[test]
    fn what_is_no_rate_is_refused_with_its_name() {
        for text in [
            "", "M", "-1M", "fast", "10Q", "1 M", "999", "1.1P", "1e99", "NaN", "inf",
        ] {
            let error = limits(text).unwrap_err().to_string();
            assert!(error.contains(INGRESS), "{text:?}: {error}");
        }
    }
}
