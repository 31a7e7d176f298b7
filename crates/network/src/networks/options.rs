//! The bridge driver's options, by the names that they have in the field. Others are kept and not
//! acted upon.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::error::{Error, Result};

const NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const MTU: &str = "com.docker.network.driver.mtu";

/// The least that IPv4 promises to carry, and what an interface can be told at most.
const MTU_RANGE: std::ops::RangeInclusive<u32> = 68..=65535;
const INTERFACE_NAME_LIMIT: usize = 15;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BridgeOptions {
    pub name: Option<String>,
    /// Whether containers of the network reach each other.
    pub icc: bool,
    pub masquerade: bool,
    pub mtu: Option<u32>,
    /// Where ports are published that name no address.
    pub host_binding: Option<Ipv4Addr>,
}

impl BridgeOptions {
    pub(super) fn parse(options: &BTreeMap<String, String>) -> Result<Self> {
        let text = |key: &str| {
            options
                .get(key)
                .map(String::as_str)
                .filter(|v| !v.is_empty())
        };
        let name = text(NAME).map(str::to_owned);
        if let Some(name) = &name {
            check_interface(NAME, name)?;
        }
        Ok(Self {
            name,
            icc: text(ICC).map_or(Ok(true), |value| boolean(ICC, value))?,
            masquerade: text(MASQUERADE).map_or(Ok(true), |value| boolean(MASQUERADE, value))?,
            mtu: text(MTU).map(mtu).transpose()?.flatten(),
            host_binding: text(HOST_BINDING).map(host_binding).transpose()?,
        })
    }
}

/// Refuses what is no name of an interface (`dev_valid_name` in the kernel).
pub(super) fn check_interface(option: &'static str, name: &str) -> Result<()> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let first = name.bytes().next();
    if first.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && name.bytes().all(good)
        && name.len() <= INTERFACE_NAME_LIMIT
    {
        return Ok(());
    }
    Err(invalid(
        option,
        name,
        "an interface name of at most 15 letters, digits and _.-",
    ))
}

/// What Go's `ParseBool` takes, for clients hand their users' text on.
fn boolean(option: &'static str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(invalid(option, value, "true or false")),
    }
}

/// 0 leaves it to the host.
fn mtu(value: &str) -> Result<Option<u32>> {
    match value.parse::<u32>() {
        Ok(0) => Ok(None),
        Ok(mtu) if MTU_RANGE.contains(&mtu) => Ok(Some(mtu)),
        _ => Err(invalid(MTU, value, "a number from 68 to 65535")),
    }
}

fn host_binding(value: &str) -> Result<Ipv4Addr> {
    value
        .parse()
        .map_err(|_| invalid(HOST_BINDING, value, "an IPv4 address"))
}

fn invalid(option: &'static str, value: &str, wanted: &'static str) -> Error {
    let value: String = value.chars().take(64).collect();
    Error::NetworkInvalid {
        reason: format!("option {option} is {value:?}, not {wanted}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<BridgeOptions> {
        let pairs = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        BridgeOptions::parse(&pairs.collect())
    }

    #[test]
    fn options_have_the_defaults_of_the_field() {
        let plain = parse(&[(NAME, ""), ("com.example.unknown", "kept")]).unwrap();
        assert_eq!(
            plain,
            BridgeOptions {
                name: None,
                icc: true,
                masquerade: true,
                mtu: None,
                host_binding: None
            }
        );
        let all = parse(&[
            (NAME, "br-mine"),
            (ICC, "false"),
            (MASQUERADE, "0"),
            (MTU, "1450"),
            (HOST_BINDING, "127.0.0.1"),
        ])
        .unwrap();
        assert_eq!(all.name.as_deref(), Some("br-mine"));
        assert!(!all.icc && !all.masquerade);
        assert_eq!(
            (all.mtu, all.host_binding),
            (Some(1450), Some(Ipv4Addr::LOCALHOST))
        );
    }

    #[test]
    fn an_option_that_cannot_be_is_named_in_the_error() {
        for (option, value) in [
            (NAME, "sixteen-letters-"),
            (NAME, "a/b"),
            (NAME, "-x"),
            (ICC, "yes"),
            (MASQUERADE, "maybe"),
            (MTU, "67"),
            (MTU, "-1"),
            (MTU, "70000"),
            (HOST_BINDING, "::1"),
        ] {
            let error = parse(&[(option, value)]).unwrap_err().to_string();
            assert!(error.contains(option) && error.contains(value), "{error}");
        }
    }
}
