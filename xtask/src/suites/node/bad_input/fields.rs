//! Every field of every call, out of range.

use anyhow::{Result, ensure};
use tonic::Code;

use super::calls::{Calls, is_sound};
use super::spoil;
use crate::suites::node::session::Session;

/// What ends the pod or the container that the others ask about comes last.
const LAST: [&str; 4] = [
    "StopContainer",
    "RemoveContainer",
    "StopPodSandbox",
    "RemovePodSandbox",
];

pub fn all(session: &mut Session) -> Result<()> {
    let mut calls = Calls::new(session)?;
    let mut rpcs = calls.wire.rpcs();
    rpcs.sort_by_key(|rpc| LAST.iter().position(|last| *last == rpc.name()));
    let mut wrong = Vec::new();
    for rpc in rpcs {
        calls.renew()?;
        let sound = calls.sound(&rpc)?;
        for spoilt in spoil::each(&sound) {
            let answer = calls.wire.call(&rpc, &spoilt.request);
            let verdict = match &answer {
                // Nothing is in a state that nobody knows.
                Ok(_) if spoilt.field == "filter.state.state" => None,
                Ok(_) if spoilt.unknown_enum => Some("is taken".to_owned()),
                Ok(_) => None,
                Err(status) if spoilt.unknown_enum && status.code() != Code::InvalidArgument => {
                    Some(format!("{:?}: {}", status.code(), status.message()))
                }
                Err(status) if !is_sound(status.code()) || status.message().is_empty() => {
                    Some(format!("{:?}: {}", status.code(), status.message()))
                }
                Err(_) => None,
            };
            let place = format!("{} {} = {}", rpc.name(), spoilt.field, spoilt.value);
            if let Some(verdict) = verdict {
                wrong.push(format!("{place}: {verdict}"));
            }
            if let Err(error) = calls.take_back(&answer) {
                wrong.push(format!("{place}: taking it back: {error:#}"));
            }
        }
    }
    calls.remove()?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n    "));
    Ok(())
}

/// A length that is longer than what follows it.
pub fn garbage(session: &mut Session) -> Result<()> {
    let calls = Calls::new(session)?;
    let mut wrong = Vec::new();
    for rpc in calls.wire.rpcs() {
        let call = calls.wire.calling(&rpc, vec![0x0a, 0xff, 0x7f, 0x01]);
        let answer = calls.wire.runtime.block_on(call);
        // The library that decodes has this one code for it.
        let refused = answer
            .is_err_and(|status| matches!(status.code(), Code::Internal | Code::InvalidArgument));
        if !refused {
            wrong.push(rpc.name().to_owned());
        }
    }
    let mut calls = calls;
    calls.remove()?;
    ensure!(wrong.is_empty(), "taken by {}", wrong.join(", "));
    Ok(())
}
