//! Images that the project makes itself, as `berth build` makes them.

use std::path::{Path, PathBuf};

use berth_compose::{Project, Service, read};
use berth_ignore::Ignore;
use serde_json::{Map, Value};

use super::labels;
use crate::build::{self, Caches, Context, Instructions, Lent, Several, Show, Wanted};
use crate::commands::push;
use crate::daemon::Client;
use crate::error::{Error, Result};
use crate::options::BuildLimits;
use crate::output::{Progress, note};

/// What the command line says of every build.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub no_cache: bool,
    pub pull: bool,
    pub show: Show,
    /// NAME=value
    pub arguments: Vec<String>,
    /// As `--ssh`; these come before those of the files.
    pub agents: Vec<String>,
}

/// Fields that change nothing here, and are told to.
const PASSED_OVER: &[&str] = &["privileged", "entitlements", "isolation"];

/// The image's id.
pub async fn build(
    client: &Client,
    project: &Project,
    service: &Service,
    options: &Options,
) -> Result<String> {
    let wanted = wanted(project, service, options)?;
    if options.show != Show::Quiet {
        let image = service.image(&project.name);
        note(&format!("Building {} ({image})", service.name));
        for field in passed_over(&service.value["build"]) {
            note(&format!(
                "berth: build.{field} of {} is passed over",
                service.name
            ));
        }
    }
    build::build(client, &wanted, options.show).await
}

/// Every platform of a build, where there are several and the service does not say which is its own.
pub fn platforms(service: &Service) -> Result<Option<Several>> {
    if !service.text("platform").is_empty() {
        return Ok(None);
    }
    let all = list(&service.value["build"]["platforms"]);
    Several::of(&all.map(str::to_owned).collect::<Vec<_>>())
}

/// Builds for all of these, and sends the image to the registries of its names.
pub async fn push_several(
    client: &Client,
    project: &Project,
    service: &Service,
    platforms: Several,
    options: &Options,
) -> Result<()> {
    if service.text("image").is_empty() {
        return Err(Error::usage(format!(
            "{} has no image name, and cannot be pushed: give it one with image:",
            service.name
        )));
    }
    let wanted = wanted(project, service, options)?;
    let tags = wanted.tags.clone();
    let built = platforms.build(client, wanted, options.show).await?;
    for tag in &tags {
        note(&format!("Pushing {} ({tag})", service.name));
        let answer = client.send(push::index_call(tag, &built)?).await?;
        let is_quiet = options.show == Show::Quiet;
        Progress::on_stderr().follow(answer, is_quiet).await?;
    }
    Ok(())
}

fn passed_over(value: &Value) -> impl Iterator<Item = &'static str> {
    let says = |field: &&str| match &value[*field] {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::String(text) => !text.is_empty() && text != "false",
        _ => true,
    };
    PASSED_OVER.iter().copied().filter(says)
}

fn wanted(project: &Project, service: &Service, options: &Options) -> Result<Wanted> {
    let value = &service.value["build"];
    let mut tags = vec![service.image(&project.name)];
    tags.extend(list(&value["tags"]).map(str::to_owned));
    let mut arguments = pairs(&value["args"]);
    arguments.extend(build::arguments(&options.arguments));
    let mut labels = pairs(&value["labels"]);
    labels.insert(labels::BUILDER.to_owned(), "classic".into());
    if let Some(names) = value["additional_contexts"].as_object()
        && let Some(name) = names.keys().next()
    {
        return Err(Error::usage(format!(
            "build.additional_contexts of {}: a build has one context: have {name} in it, or COPY \
             --from an image that is built before",
            service.name
        )));
    }
    Ok(Wanted {
        context: context(value)?,
        tags,
        arguments,
        target: value["target"].as_str().unwrap_or_default().to_owned(),
        labels,
        no_cache: options.no_cache || value["no_cache"] == true,
        pull: options.pull || value["pull"] == true,
        platform: platform(service)?,
        limits: limits(value),
        is_passing: false,
        lent: lent(project, service, &options.agents)?,
        caches: caches(value)?,
        attestations: build::attestations(
            value["provenance"].as_str(),
            value["sbom"].as_str(),
            &[],
        ),
    })
}

/// The directory of a service's build, and what is left out of it; `None` where there is none here.
pub fn left_out(service: &Service) -> Result<Option<(PathBuf, Ignore)>> {
    match service.has_build() {
        true => context(&service.value["build"])?.left_out(),
        false => Ok(None),
    }
}

fn context(value: &Value) -> Result<Context> {
    let context = value["context"].as_str().unwrap_or_default();
    if read::is_elsewhere(context) {
        return elsewhere(context, value);
    }
    let instructions = match value["dockerfile_inline"].as_str() {
        Some(text) => Instructions::Text(text.to_owned()),
        None => {
            let name = value["dockerfile"].as_str().unwrap_or("Dockerfile");
            Instructions::At(read::clean(&Path::new(context).join(name)).into())
        }
    };
    Ok(Context::Directory {
        path: PathBuf::from(context),
        instructions,
    })
}

/// A repository or an archive, which the daemon fetches with the Dockerfile that is in it.
fn elsewhere(context: &str, value: &Value) -> Result<Context> {
    if context.starts_with("service:") {
        return Err(Error::usage(format!(
            "build.context: {context}: a service is no context; COPY --from its image"
        )));
    }
    if value["dockerfile_inline"].is_string() {
        return Err(Error::usage(format!(
            "build.dockerfile_inline: the Dockerfile of {context} is a file of it, named by \
             build.dockerfile"
        )));
    }
    Ok(Context::Remote {
        source: context.to_owned(),
        dockerfile: match value["dockerfile"].as_str() {
            // The address may be that of a Dockerfile, and say so by itself.
            None | Some("Dockerfile") => String::new(),
            Some(name) => name.to_owned(),
        },
    })
}

/// The service's own, or the only one that the build has.
fn platform(service: &Service) -> Result<String> {
    let own = service.text("platform");
    let all: Vec<&str> = list(&service.value["build"]["platforms"]).collect();
    match (own, all.as_slice()) {
        ("", []) => Ok(String::new()),
        ("", [one]) => Ok((*one).to_owned()),
        (own, []) => Ok(own.to_owned()),
        (own, all) if all.contains(&own) => Ok(own.to_owned()),
        // Each image here is of one platform: this machine's.
        ("", _) => Ok(String::new()),
        (own, all) => Err(Error::usage(format!(
            "{} is for {own}, which its build.platforms do not have: {}",
            service.name,
            all.join(", ")
        ))),
    }
}

fn limits(value: &Value) -> BuildLimits {
    let hosts = list(&value["extra_hosts"]).map(|line| line.replacen('=', ":", 1));
    let ulimits = value["ulimits"].as_object().into_iter().flatten();
    let ulimit = |(name, limit): (&String, &Value)| match limit {
        Value::Object(both) => format!("{name}={}:{}", both["soft"], both["hard"]),
        single => format!("{name}={single}"),
    };
    let mut limits = BuildLimits::default();
    limits.network = value["network"].as_str().map(str::to_owned);
    limits.add_host = hosts.collect();
    limits.shm_size = match &value["shm_size"] {
        Value::String(size) => Some(size.clone()),
        size => size.as_i64().map(|size| size.to_string()),
    };
    limits.ulimit = ulimits.map(ulimit).collect();
    limits
}

fn lent(project: &Project, service: &Service, agents: &[String]) -> Result<Lent> {
    let value = &service.value["build"];
    let given = agents.iter().map(|agent| name_of(agent).to_owned());
    let given: Vec<String> = given.collect();
    let own = value["ssh"].as_object().into_iter().flatten();
    let own = own
        .filter(|(id, _)| !given.iter().any(|given| given == name_of(id)))
        .map(|(id, socket)| match socket.as_str() {
            None | Some("") => id.clone(),
            Some(socket) => format!("{id}={}", project.directory.join(socket).display()),
        });
    let agents: Vec<String> = agents.iter().cloned().chain(own).collect();
    let mut lent = Lent::parse(&[], &agents)?;
    for grant in value["secrets"].as_array().into_iter().flatten() {
        let source = grant["source"].as_str().unwrap_or_default();
        let id = grant["target"].as_str().unwrap_or(source);
        if ["uid", "gid", "mode"]
            .iter()
            .any(|key| !grant[key].is_null())
        {
            note(&format!(
                "berth: owner and mode of the secret {source} are told by RUN --mount, not by \
                 build.secrets of {}",
                service.name
            ));
        }
        let part = project.secrets.get(source).map(|part| &part.value);
        let part = part.unwrap_or(&Value::Null);
        match (part["file"].as_str(), super::files::content(project, part)?) {
            (Some(file), _) => lent.add_file(id, file),
            (None, Some(content)) => lent.add_value(id, content),
            (None, None) => {
                return Err(Error::usage(format!(
                    "the secret {source}, which the build of {} wants, is neither a file nor a \
                     variable",
                    service.name
                )));
            }
        }
    }
    Ok(lent)
}

fn caches(value: &Value) -> Result<Caches> {
    let all = |field: &str| -> Vec<String> { list(&value[field]).map(str::to_owned).collect() };
    Caches::parse(&all("cache_from"), &all("cache_to"))
}

fn name_of(agent: &str) -> &str {
    agent.split_once('=').map_or(agent, |(name, _)| name)
}

fn pairs(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use berth_compose::Options as Files;

    use super::*;

    fn project(text: &str) -> (tempfile::TempDir, Project) {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("compose.yaml"), text).unwrap();
        let files = Files {
            current_directory: scratch.path().to_owned(),
            environment: BTreeMap::from([("PASS".to_owned(), "opensesame".to_owned())]),
            ..Files::default()
        };
        let project = Project::load(&files).unwrap();
        (scratch, project)
    }

    fn of(text: &str) -> Result<Wanted> {
        let (_scratch, project) = project(text);
        wanted(&project, &project.services["app"], &Options::default())
    }

    #[test]
    fn a_build_gets_what_its_file_says() {
        let wanted = of("name: p\n\
             services:\n  app:\n    build:\n      context: ./src\n      dockerfile: ../File\n\
             \x20     args: {A: 1}\n      target: last\n      labels: [x=y]\n      tags: [other:1]\n\
             \x20     shm_size: 64m\n      ulimits: {nofile: {soft: 10, hard: 20}, nproc: 5}\n\
             \x20     extra_hosts: [a=10.0.0.1]\n      platforms: [linux/amd64]\n\
             \x20     secrets: [pass, {source: pass, target: word}]\n\
             \x20     cache_from: [team/app:1, 'type=local,src=/there']\n\
             \x20     cache_to: ['type=inline']\n\x20     provenance: mode=max\n\
             secrets: {pass: {environment: PASS}}\n")
        .unwrap();
        assert_eq!(wanted.tags, ["p-app", "other:1"]);
        assert_eq!(wanted.arguments["A"], "1");
        assert_eq!(wanted.labels["x"], "y");
        assert_eq!(
            (wanted.target.as_str(), wanted.platform.as_str()),
            ("last", "linux/amd64")
        );
        let limits = &wanted.limits;
        assert_eq!(limits.shm_size.as_deref(), Some("67108864"));
        assert_eq!(limits.ulimit, ["nofile=10:20", "nproc=5"]);
        assert_eq!(limits.add_host, ["a:10.0.0.1"]);
        let Context::Directory { path, instructions } = &wanted.context else {
            panic!("{:?}", wanted.context);
        };
        let Instructions::At(file) = instructions else {
            panic!("{instructions:?}");
        };
        assert_eq!(file, &path.parent().unwrap().join("File"));
        let from = ["team/app:1", "type=local,src=/there"].map(str::to_owned);
        let to = ["type=inline".to_owned()];
        assert_eq!(wanted.caches, Caches::parse(&from, &to).unwrap());
        assert_eq!(wanted.attestations, ["type=provenance,mode=max"]);
        let lent = format!("{:?}", wanted.lent);
        assert!(lent.contains("pass") && lent.contains("word"), "{lent}");
        assert!(!lent.contains("opensesame"), "{lent}");
    }

    #[test]
    fn what_is_elsewhere_is_left_to_the_daemon() {
        for (text, address, file) in [
            (
                "https://example.com/a.git#main:sub",
                "https://example.com/a.git#main:sub",
                "",
            ),
            (
                "{context: 'git@example.com:a/b', dockerfile: docker/File}",
                "git@example.com:a/b",
                "docker/File",
            ),
        ] {
            let wanted = of(&format!("services:\n  app:\n    build: {text}\n")).unwrap();
            let Context::Remote { source, dockerfile } = &wanted.context else {
                panic!("{:?}", wanted.context);
            };
            assert_eq!((source.as_str(), dockerfile.as_str()), (address, file));
        }
    }

    #[test]
    fn of_several_platforms_the_machine_s_own_is_built_unless_they_are_pushed() {
        let build = "build: {context: ., platforms: [linux/amd64, linux/arm64]}";
        let text = format!("services:\n  app:\n    {build}\n");
        assert_eq!(of(&text).unwrap().platform, "");
        let (_scratch, own) = project(&text);
        assert!(platforms(&own.services["app"]).unwrap().is_some());
        let text = format!("{text}    platform: linux/arm64\n");
        assert_eq!(of(&text).unwrap().platform, "linux/arm64");
        let (_scratch, own) = project(&text);
        assert!(platforms(&own.services["app"]).unwrap().is_none());
        let told = of(&text.replace("platform: linux/arm64", "platform: linux/s390x"));
        assert!(
            told.unwrap_err()
                .report()
                .contains("which its build.platforms do not have")
        );
    }

    #[test]
    fn what_a_build_cannot_have_is_told() {
        let build = |text: &str| of(&format!("services:\n  app:\n    build: {text}\n"));
        for (text, part) in [
            ("service:other", "COPY --from"),
            (
                "{context: 'https://example.com/a.git', dockerfile_inline: FROM a}",
                "named by build.dockerfile",
            ),
            (
                "{context: ., additional_contexts: {b: ./b}}",
                "have b in it",
            ),
            ("{context: ., ssh: [key=/nowhere/agent]}", "/nowhere/agent"),
        ] {
            let told = build(text).unwrap_err().report();
            assert!(told.contains(part), "{text}: {told}");
        }
        let granted = serde_json::json!({"entitlements": ["x"], "privileged": false});
        assert_eq!(passed_over(&granted).collect::<Vec<_>>(), ["entitlements"]);
    }
}
