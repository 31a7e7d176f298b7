//! Builds: from a directory here to an image there.
//!
//! ```text
//! Context ─► pack ─► POST /build ─► records ─► Follower ─► display
//!                         ▲                        │
//!             secrets, agents, caches ◄────────────┘
//! ```
//!
//! `berth build` and whatever else builds on behalf of a file use [`build`].

mod cache;
mod context;
mod display;
mod follow;
mod lend;
mod output;
pub mod pack;
mod record;
mod several;

pub use cache::Caches;
pub use context::{Context, Instructions};
pub use display::Show;
pub use lend::Lent;
pub use output::Output;
pub use several::Several;

use http::HeaderName;
use serde_json::{Map, Value, json};

use crate::commands::pull::AUTH;
use crate::commands::transfer::TAR;
use crate::daemon::{Call, Client, segment};
use crate::error::{Error, Result};
use crate::logins::Logins;
use crate::options::BuildLimits;

const LOGINS: HeaderName = HeaderName::from_static("x-registry-config");

/// What is to be built, apart from how it is shown.
#[derive(Debug, Default)]
pub struct Wanted {
    pub context: Context,
    pub tags: Vec<String>,
    /// `--build-arg`.
    pub arguments: Map<String, Value>,
    /// A stage's name; empty for the last.
    pub target: String,
    pub labels: Map<String, Value>,
    pub no_cache: bool,
    /// Asks registries for newer images.
    pub pull: bool,
    pub platform: String,
    pub limits: BuildLimits,
    /// What is asked for is something that is made of the image, not the image.
    pub is_passing: bool,
    pub lent: Lent,
    pub caches: Caches,
    /// What is to be said of the image: `type=provenance` or `type=sbom` each.
    pub attestations: Vec<String>,
}

/// Builds, and returns the image's id. What happens is shown on standard error.
pub async fn build(client: &Client, wanted: &Wanted, show: Show) -> Result<String> {
    let sent = wanted.context.open()?;
    let mut call = sent.name(wanted.call(show)?);
    call = wanted.caches.offer(client, call).await?;
    call = call.given("berth-lent", wanted.lent.offer(client).await?);
    let (call, packing) = sent.attach(call);
    let mut follower = follow::Follower::new(show);
    follower.sending()?;
    let answer = match client.send(call).await {
        Ok(answer) => answer,
        // What could not be read here is the reason for what broke off there.
        Err(error @ Error::Broken(_)) => {
            packing.outcome().await?;
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    let built = follower.follow(answer, (client, &wanted.lent)).await?;
    wanted.caches.fetch(client, &built.caches).await?;
    Ok(built.image)
}

/// What `--metadata-file` tells, in the words of buildx.
pub async fn metadata(client: &Client, id: &str, names: &[String]) -> Result<String> {
    let image = client.get(format!("/images/{}/json", segment(id))).await?;
    let digest = image["Descriptor"]["digest"].as_str().unwrap_or(id);
    let told = json!({
        "containerimage.config.digest": id,
        "containerimage.digest": digest,
        "image.name": names.join(","),
    });
    serde_json::to_string_pretty(&told).map_err(Error::Answer)
}

/// The same of an image of several platforms, which is nowhere but where it was pushed.
pub async fn metadata_of_index(
    client: &Client,
    names: &[String],
    is_pushed: bool,
) -> Result<String> {
    let mut told = json!({ "image.name": names.join(",") });
    if let Some(name) = names.first().filter(|_| is_pushed) {
        let call = Call::get(format!("/distribution/{}/json", segment(name)));
        let login = Logins::open()?.header_for(name)?;
        let call = match login.as_str() {
            "" => call,
            login => call.header(AUTH, login),
        };
        let found: Value = client.ask(call).await?;
        told["containerimage.digest"] = found["Descriptor"]["digest"].clone();
        told["containerimage.descriptor"] = found["Descriptor"].clone();
    }
    serde_json::to_string_pretty(&told).map_err(Error::Answer)
}

impl Wanted {
    fn call(&self, show: Show) -> Result<Call> {
        let mut call = Call::post("/build")
            .given("target", &self.target)
            .given("platform", &self.platform)
            .flag("nocache", self.no_cache)
            .flag("pull", self.pull)
            .flag("q", show == Show::Quiet)
            .flag("berth-records", show != Show::Quiet)
            .flag("berth-passing", self.is_passing)
            .query("rm", "1");
        for tag in &self.tags {
            call = call.query("t", tag);
        }
        for said in &self.attestations {
            call = call.query("berth-attest", said);
        }
        for (key, pairs) in [("buildargs", &self.arguments), ("labels", &self.labels)] {
            if !pairs.is_empty() {
                call = call.query(key, Value::Object(pairs.clone()).to_string());
            }
        }
        let logins = Logins::open()?.all_header();
        if !logins.is_empty() {
            call = call.header(LOGINS, logins);
        }
        self.limits.add(call)
    }
}

/// What `--provenance`, `--sbom` and `--attest` ask for: what comes later counts.
pub fn attestations(provenance: Option<&str>, sbom: Option<&str>, all: &[String]) -> Vec<String> {
    let of = |kind: &str, given: Option<&str>| {
        given.map(|given| match given {
            "true" | "1" | "" => format!("type={kind}"),
            "false" | "0" => format!("type={kind},disabled=true"),
            fields => format!("type={kind},{fields}"),
        })
    };
    let short = [of("provenance", provenance), of("sbom", sbom)];
    all.iter()
        .cloned()
        .chain(short.into_iter().flatten())
        .collect()
}

/// `NAME=value`, or `NAME` for the value that this program's environment has, if it has one.
pub fn arguments(given: &[String]) -> Map<String, Value> {
    let mut all = Map::new();
    for entry in given {
        let value = match entry.split_once('=') {
            Some((name, value)) => Some((name, value.to_owned())),
            None => std::env::var(entry)
                .ok()
                .map(|value| (entry.as_str(), value)),
        };
        if let Some((name, value)) = value {
            all.insert(name.to_owned(), value.into());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attestations_are_asked_for_in_short_and_in_full() {
        let all = ["type=sbom".to_owned()];
        let asked = attestations(Some("mode=max"), Some("false"), &all);
        let expected = [
            "type=sbom",
            "type=provenance,mode=max",
            "type=sbom,disabled=true",
        ];
        assert_eq!(asked, expected);
        assert_eq!(attestations(Some("true"), None, &[]), ["type=provenance"]);
        assert!(attestations(None, None, &[]).is_empty());
    }

    #[test]
    fn arguments_without_a_value_take_that_of_the_environment() {
        let given = ["A=1", "B=", "C=x=y", "HOME", "BERTH_NEVER_SET"].map(str::to_owned);
        let all = arguments(&given);
        assert_eq!(all["A"], "1");
        assert_eq!(all["B"], "");
        assert_eq!(all["C"], "x=y");
        assert_eq!(all["HOME"], std::env::var("HOME").unwrap());
        assert_eq!(all.len(), 4);
    }
}
