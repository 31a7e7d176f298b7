//! What `berth build` lends to a build, beside Docker's protocol: secrets come before the build,
//! and are kept in memory until it begins; to an agent of the client's a connection is asked for in
//! the build's answer, and brought by a request of its own.
//!
//! ```text
//! POST /build/secrets              {"Secrets": {id: base64}, "Agents": [id]}  ─►  {"Id": token}
//! POST /build?berth-lent=token     ─►  … {"berth-agent": {"id": …, "ticket": …}} …
//! POST /build/agent?ticket=…       Upgrade: the command on the other side speaks
//! ```

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_build::{AgentCall, LARGEST_SECRET, Lent, Secret};
use http::StatusCode;
use parking_lot::Mutex;
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, copy};
use tokio::net::UnixStream;

use crate::hijack::hijack;
use crate::{Engine, Error, Json, Query, Result};

/// For how long something waits for whom it is for.
const PATIENCE: Duration = Duration::from_secs(60);
/// What waits at the same time.
const MOST: usize = 256;
const RAW: &str = "application/vnd.docker.raw-stream";

/// What waits for a request that names it by a token. Each is given once.
pub struct Waiting<T>(Mutex<HashMap<String, (Instant, T)>>);

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Waiting<T> {
    pub(super) fn put(&self, thing: T) -> Result<String> {
        let token = random()?;
        let mut all = self.0.lock();
        all.retain(|_, (since, _)| since.elapsed() < PATIENCE);
        if all.len() >= MOST {
            return Err(Error::Unavailable("too many builds wait to begin"));
        }
        all.insert(token.clone(), (Instant::now(), thing));
        Ok(token)
    }

    pub(super) fn take(&self, token: &str) -> Option<T> {
        let (since, thing) = self.0.lock().remove(token)?;
        (since.elapsed() < PATIENCE).then_some(thing)
    }
}

/// What builds are lent, and commands that wait for an agent.
#[derive(Default)]
pub struct Lending {
    lent: Waiting<Lent>,
    calls: Waiting<UnixStream>,
}

impl Lending {
    /// What a build's query names.
    pub fn of(&self, query: &Query) -> Result<Lent> {
        match query.text("berth-lent") {
            "" => Ok(Lent::default()),
            token => self.lent.take(token).ok_or_else(|| {
                Error::bad("what was lent to this build is not here any more: send it again")
            }),
        }
    }

    /// What the client is told when a command calls for an agent.
    pub fn call(&self, call: AgentCall) -> Result<Value> {
        let ticket = self.calls.put(call.stream)?;
        Ok(json!({ "berth-agent": { "id": call.id, "ticket": ticket } }))
    }
}

/// No `Debug`: it holds secrets.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
pub struct Offer {
    secrets: HashMap<String, String>,
    agents: BTreeSet<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Taken {
    id: String,
}

pub async fn secrets(
    State(engine): State<Arc<Engine>>,
    Json(offer): Json<Offer>,
) -> Result<(StatusCode, Json<Taken>)> {
    let mut lent = Lent {
        agents: offer.agents,
        ..Lent::default()
    };
    for (id, text) in offer.secrets {
        let bytes = STANDARD.decode(text);
        let bytes = bytes.map_err(|_| Error::bad(format!("secret {id} is not in base64")))?;
        if bytes.len() > LARGEST_SECRET {
            return Err(Error::bad(format!(
                "secret {id} is larger than {LARGEST_SECRET} bytes"
            )));
        }
        lent.secrets.insert(id, Secret::new(bytes));
    }
    let id = engine.lending.lent.put(lent)?;
    Ok((StatusCode::CREATED, Json(Taken { id })))
}

pub async fn agent(
    State(engine): State<Arc<Engine>>,
    query: Query,
    request: Request,
) -> Result<Response> {
    let found = engine.lending.calls.take(query.text("ticket"));
    let stream = found.ok_or_else(|| Error::NotFound("no command waits for this".to_owned()))?;
    let hijacked = hijack(request, RAW);
    tokio::spawn(async move {
        let Ok((mut input, mut output)) = hijacked.streams.await else {
            return;
        };
        let (mut from, mut to) = stream.into_split();
        let inwards = async {
            let _gone = copy(&mut input, &mut to).await;
            let _gone = to.shutdown().await;
        };
        let outwards = async {
            let _gone = copy(&mut from, &mut output).await;
            let _gone = output.shutdown().await;
        };
        tokio::join!(inwards, outwards);
    });
    Ok(hijacked.response)
}

fn random() -> Result<String> {
    let mut bits = [0; 16];
    getrandom(&mut bits, GetRandomFlags::empty()).map_err(|errno| Error::Io {
        operation: "cannot make a token",
        source: errno.into(),
    })?;
    Ok(bits.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_given_once_and_only_by_its_token() {
        let waiting = Waiting::default();
        let token = waiting.put(7).unwrap();
        assert_eq!(waiting.take(""), None);
        assert_eq!(waiting.take(&token), Some(7));
        assert_eq!(waiting.take(&token), None);
        for _ in 0..MOST {
            waiting.put(1).unwrap();
        }
        assert!(waiting.put(1).is_err());
    }
}
