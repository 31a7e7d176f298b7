//! Stop signals: the contract's numbers, and the names that records keep.

use berth_api::cri::v1 as cri;

use super::Result;
use crate::status::invalid;

pub fn stop_signal(signal: i32) -> Result<Option<String>> {
    match cri::Signal::try_from(signal) {
        Ok(cri::Signal::RuntimeDefault) => Ok(None),
        Ok(signal) => Ok(Some(signal_name(signal))),
        Err(_) => Err(invalid(format!("stop_signal {signal} is not known"))),
    }
}

/// The contract spells `SIGRTMIN+1` as `SIGRTMINPLUS1`.
fn signal_name(signal: cri::Signal) -> String {
    signal
        .as_str_name()
        .replace("PLUS", "+")
        .replace("MINUS", "-")
}

/// The contract's signal for a name as records keep it.
pub fn signal_of(name: &str) -> cri::Signal {
    let wire = name
        .to_ascii_uppercase()
        .replace('+', "PLUS")
        .replace('-', "MINUS");
    let wire = if wire.starts_with("SIG") {
        wire
    } else {
        format!("SIG{wire}")
    };
    cri::Signal::from_str_name(&wire).unwrap_or(cri::Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stop_signal_of_the_contract_has_a_number_and_a_way_back() {
        for value in 1..=65 {
            let name = stop_signal(value).unwrap().unwrap();
            assert!(berth_lifecycle::signal::parse(&name).is_some(), "{name}");
            assert_eq!(signal_of(&name) as i32, value, "{name}");
        }
        assert_eq!(stop_signal(0).unwrap(), None);
        assert!(stop_signal(66).is_err());
    }
}
