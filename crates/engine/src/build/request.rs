//! What `POST /build` asks for, by its query.

use std::collections::{BTreeMap, HashMap};

use berth_build::{Attest, Lent, Limits, Request};
use berth_names::ImageRef;
use berth_registry::Credentials;
use berth_standalone::{HostConfig, StepLimits, Ulimit};
use serde::de::DeserializeOwned;

use super::cache;
use crate::images::{self, parse_name};
use crate::{Engine, Error, Query, Result};

/// Docker Hub, as logins name it.
const HUB: [&str; 3] = [
    "https://index.docker.io/v1/",
    "index.docker.io",
    "docker.io",
];

pub fn read(
    engine: &Engine,
    query: &Query,
    credentials: HashMap<String, Credentials>,
) -> Result<Request> {
    refuse(query)?;
    let platform = query.text("platform");
    if platform.contains(',') {
        return Err(Error::bad(
            "a build is for one platform: `berth build` makes one of each, and an index of them",
        ));
    }
    let platform = images::platform(engine, platform)?;
    let mut tags: Vec<ImageRef> = Vec::new();
    for tag in query.all("t").filter(|tag| !tag.is_empty()) {
        let reference = parse_name(tag)?;
        if reference.digest().is_some() {
            return Err(Error::bad(format!(
                "invalid tag {tag:?}: a digest is the outcome of a build, not its name"
            )));
        }
        tags.push(reference);
    }
    // A value that is null is one that the client's environment does not have.
    let arguments: BTreeMap<String, Option<String>> = json(query, "buildargs")?;
    let arguments = arguments.into_iter();
    Ok(Request {
        dockerfile: query.text("dockerfile").to_owned(),
        arguments: arguments
            .filter_map(|(name, value)| Some((name, value?)))
            .collect(),
        target: query.text("target").to_owned(),
        labels: json(query, "labels")?,
        tags,
        platform,
        no_cache: query.flag("nocache"),
        pull: query.flag("pull"),
        limits: limits(query)?,
        // Berth's own client asks for these; nobody else does.
        recorded: query.flag("berth-records"),
        is_beside: query.flag("berth-beside"),
        is_passing: query.flag("berth-passing"),
        lent: Lent::default(),
        cache_from: cache::sources(engine, query, json(query, "cachefrom")?)?,
        cache_to: cache::targets(query)?,
        attest: Attest::parse(query.all("berth-attest"))?,
        source: match query.text("remote") {
            "" => None,
            source => Some(source.to_owned()),
        },
        credentials: Box::new(move |reference| of_registry(&credentials, reference)),
    })
}

/// What is not done, rather than left out.
fn refuse(query: &Query) -> Result<()> {
    if query.text("version") == "2" {
        return Err(Error::NotImplemented(
            "BuildKit's protocol is not served here: build with DOCKER_BUILDKIT=0 docker build"
                .to_owned(),
        ));
    }
    if query.flag("squash") {
        return Err(Error::NotImplemented(
            "--squash is not done: build in stages, and COPY --from what the image is to have"
                .to_owned(),
        ));
    }
    Ok(())
}

fn json<T: DeserializeOwned + Default>(query: &Query, key: &str) -> Result<T> {
    match query.text(key) {
        "" => Ok(T::default()),
        text => {
            let read: Option<T> = serde_json::from_str(text)
                .map_err(|error| Error::bad(format!("{key} is not as expected: {error}")))?;
            Ok(read.unwrap_or_default())
        }
    }
}

fn limits(query: &Query) -> Result<Limits> {
    let number = |key: &str| -> Result<i64> { Ok(query.number(key)?.unwrap_or(0)) };
    let mut host = HostConfig::default();
    host.limits.memory = number("memory")?;
    host.limits.memory_swap = number("memswap")?;
    host.limits.cpu_shares = number("cpushares")?;
    host.limits.cpu_period = number("cpuperiod")?;
    host.limits.cpu_quota = number("cpuquota")?;
    host.limits.cpuset_cpus = query.text("cpusetcpus").to_owned();
    host.limits.cpuset_mems = query.text("cpusetmems").to_owned();
    host.limits.ulimits = json::<Vec<Ulimit>>(query, "ulimits")?;
    let shared = StepLimits::of(&host)?;
    let shm = number("shmsize")?;
    Ok(Limits {
        network: query.text("networkmode").to_owned(),
        resources: shared.resources,
        rlimits: shared.rlimits,
        security: shared.security,
        shm: u64::try_from(shm).map_err(|_| Error::bad("shmsize is negative"))?,
        extra_hosts: query.all("extrahosts").map(str::to_owned).collect(),
        cgroup_parent: query.text("cgroupparent").to_owned(),
    })
}

fn of_registry(all: &HashMap<String, Credentials>, reference: &ImageRef) -> Credentials {
    let domain = reference.domain();
    let hub = (domain == "docker.io").then_some(HUB);
    let names = hub.iter().flatten().copied().chain([domain]);
    let with_scheme = [format!("https://{domain}"), format!("http://{domain}")];
    let names = names.chain(with_scheme.iter().map(String::as_str));
    let mut found = names.filter_map(|name| all.get(name));
    found.next().cloned().unwrap_or(Credentials::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_found_by_the_registry_s_host() {
        let login = || Credentials::basic("u", "p");
        let all = HashMap::from([
            ("https://index.docker.io/v1/".to_owned(), login()),
            ("reg.example.com:5000".to_owned(), login()),
        ]);
        let of = |name: &str| of_registry(&all, &ImageRef::parse(name).unwrap());
        assert_ne!(of("busybox"), Credentials::None);
        assert_ne!(of("reg.example.com:5000/a"), Credentials::None);
        assert_eq!(of("other.example.com/a"), Credentials::None);
    }

    #[test]
    fn what_is_not_done_is_refused() {
        for query in ["version=2", "squash=1"] {
            let refused = refuse(&Query::parse(query)).unwrap_err();
            assert_eq!(refused.status().as_u16(), 501, "{query}");
        }
        assert!(refuse(&Query::parse("version=1&remote=")).is_ok());
        assert!(json::<BTreeMap<String, String>>(&Query::parse("labels=x"), "labels").is_err());
    }
}
