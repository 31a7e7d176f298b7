//! Images that the project makes itself, by the builder behind `POST /build`.

use std::io::Write;
use std::path::{Path, PathBuf};

use berth_compose::{Project, Service, read};
use serde_json::{Map, Value, json};

use crate::commands::copy::{Source, pack};
use crate::commands::transfer::TAR;
use crate::daemon::{Call, Client};
use crate::error::{Error, Result};
use crate::logins::Logins;
use crate::output::{note, print};

/// Bytes between the side that packs and the side that sends.
const PIPE: usize = 256 << 10;

/// Where a Dockerfile stands in the context that is sent, if it is not of the context.
const OWN_DOCKERFILE: &str = ".berth-compose.Dockerfile";

#[derive(Debug, Clone, Default)]
pub struct Options {
    pub no_cache: bool,
    pub pull: bool,
    pub quiet: bool,
    /// NAME=value
    pub arguments: Vec<String>,
}

/// The image's id.
pub async fn build(
    client: &Client,
    project: &Project,
    service: &Service,
    options: &Options,
) -> Result<()> {
    let image = service.image(&project.name);
    note(&format!("Building {} ({image})", service.name));
    let value = &service.value["build"];
    let call = query(service, value, &image, options)?;
    for field in ["ssh", "secrets", "additional_contexts", "platforms"] {
        if value[field].is_array() || value[field].is_object() {
            note(&format!(
                "berth: build.{field} of {} needs a builder session, and is passed over",
                service.name
            ));
        }
    }
    let context = value["context"].as_str().unwrap_or_default();
    let answer = if read::is_elsewhere(context) {
        client.send(call.query("remote", context)).await?
    } else {
        let dockerfile = Dockerfile::of(value, context);
        let call = call.query("dockerfile", dockerfile.name());
        let (reader, writer) = tokio::io::duplex(PIPE);
        let context = PathBuf::from(context);
        let packing = tokio::task::spawn_blocking(move || {
            let bridge = tokio_util::io::SyncIoBridge::new(writer);
            send(&context, &dockerfile, bridge)
        });
        let sent = client.send(call.upload(TAR, reader)).await;
        // What kept the context from being read is the reason for everything after.
        match packing.await {
            Ok(Err(error @ Error::File { .. })) => return Err(error),
            _ => sent?,
        }
    };
    follow(answer, options.quiet).await
}

fn query(service: &Service, value: &Value, image: &str, options: &Options) -> Result<Call> {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let mut arguments: Map<String, Value> = value["args"].as_object().cloned().unwrap_or_default();
    for argument in &options.arguments {
        let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
        arguments.insert(name.to_owned(), Value::from(value));
    }
    let labels = match &value["labels"] {
        Value::Null => json!({}),
        labels => labels.clone(),
    };
    let hosts: Vec<String> = list(&value["extra_hosts"])
        .map(|line| line.replacen('=', ":", 1))
        .collect();
    let mut call = Call::post("/build")
        .query("version", "1")
        .query("t", image)
        .query("buildargs", Value::Object(arguments).to_string())
        .query("labels", labels.to_string())
        .query("rm", "1")
        .flag("nocache", options.no_cache || value["no_cache"] == true)
        .flag("pull", options.pull || value["pull"] == true)
        .given("target", text("target"))
        .given("networkmode", text("network"))
        .given("extrahosts", hosts.join(","))
        .given("platform", service.text("platform"));
    for tag in list(&value["tags"]) {
        call = call.query("t", tag);
    }
    let sources: Vec<&str> = list(&value["cache_from"]).collect();
    if !sources.is_empty() {
        call = call.query("cachefrom", json!(sources).to_string());
    }
    if let Some(size) = value["shm_size"].as_i64() {
        call = call.query("shmsize", size.to_string());
    }
    let logins = Logins::open()?.header_for(image)?;
    Ok(match logins.is_empty() {
        true => call,
        false => call.header(crate::commands::pull::AUTH, logins),
    })
}

fn list(value: &Value) -> impl Iterator<Item = &str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}

enum Dockerfile {
    /// Of the context.
    Inside(String),
    Inline(String),
    /// Beside it: it is sent along.
    Outside(PathBuf),
}

impl Dockerfile {
    fn of(value: &Value, context: &str) -> Self {
        if let Some(text) = value["dockerfile_inline"].as_str() {
            return Self::Inline(text.to_owned());
        }
        let name = value["dockerfile"].as_str().unwrap_or("Dockerfile");
        let path = read::clean(&Path::new(context).join(name));
        match Path::new(&path).strip_prefix(context) {
            Ok(inside) => Self::Inside(inside.display().to_string()),
            Err(_) => Self::Outside(path.into()),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Inside(name) => name,
            Self::Inline(_) | Self::Outside(_) => OWN_DOCKERFILE,
        }
    }
}

fn send(context: &Path, dockerfile: &Dockerfile, to: impl Write) -> Result<()> {
    let own = match dockerfile {
        Dockerfile::Inside(_) => None,
        Dockerfile::Inline(text) => Some(text.clone().into_bytes()),
        Dockerfile::Outside(path) => {
            Some(std::fs::read(path).map_err(Error::file("reading", path))?)
        }
    };
    let text = format!("{}/.", context.display());
    let source = Source::find(&text, false)?;
    let mut to = to;
    if let Some(own) = own {
        // Ahead of the context, in the same archive: its end is written with the context's.
        let mut header = tar::Header::new_gnu();
        header.set_size(own.len() as u64);
        header.set_mode(0o644);
        let mut entry = tar::Builder::new(Vec::new());
        entry
            .append_data(&mut header, OWN_DOCKERFILE, own.as_slice())
            .map_err(Error::Stream)?;
        to.write_all(entry.get_ref()).map_err(Error::Stream)?;
    }
    pack(to, &source, Path::new(""))
}

async fn follow(answer: crate::daemon::Answer, quiet: bool) -> Result<()> {
    let mut objects = answer.objects();
    while let Some(object) = objects.next().await? {
        if let Some(error) = object["error"].as_str() {
            return Err(Error::Failed(error.to_owned()));
        }
        if let Some(text) = object["stream"].as_str()
            && !quiet
        {
            print(text)?;
        }
    }
    Ok(())
}
