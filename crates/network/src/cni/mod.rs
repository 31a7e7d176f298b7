//! Networks by plugins: the Container Network Interface, by its exec protocol.
//!
//! ADD runs a list's plugins in order, each told the result of the one before; DEL runs them in
//! reverse, each told the final result, which is therefore kept with the pod's record. A DEL that
//! failed is repeated until it has worked: the record stays so long.

mod conf;
mod directory;
mod execute;
mod result;
mod runtime;
mod template;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_names::SandboxId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::conf::{NetworkList, Plugin, Version};
pub(crate) use self::directory::Chosen;
use self::directory::Directory;
use self::execute::{Call, Plugins, Verb, garbled};
use crate::config::NetworkConfig;
use crate::error::{Error, Result};
use crate::pod::{Attachment, POD_INTERFACE, PodNetwork};
use crate::record::{Driver, Record, Records};
use crate::subnet::Subnet;

/// A plugin's word on its status is believed this long: the kubelet asks every few seconds, and
/// each question is a process.
const STATUS_AGE: Duration = Duration::from_secs(5);

/// What is made from a template.
const GENERATED: &str = "10-berth-net.conflist";

/// One pod's attachment, complete enough to be undone when its configuration is long gone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Invocation {
    list: NetworkList,
    /// CNI_ARGS.
    arguments: String,
    /// What the runtime offers, by capability.
    offers: Map<String, Value>,
    /// The last plugin's, once all have run.
    result: Option<Value>,
}

/// What plugins said of their status: when, which ones, and what.
type Answer = (Instant, Arc<Chosen>, std::result::Result<(), String>);

pub(crate) struct Cni {
    directory: Directory,
    plugins: Plugins,
    records: Arc<Records>,
    template: Option<PathBuf>,
    ranges: Mutex<Vec<Subnet>>,
    status: Mutex<Option<Answer>>,
}

impl Cni {
    pub(crate) fn new(config: &NetworkConfig, records: Arc<Records>) -> Self {
        Self {
            directory: Directory::new(config.conf_dir.clone()),
            plugins: Plugins {
                directories: config.bin_dirs.clone(),
                deadline: config.plugin_timeout,
            },
            records,
            template: config.conf_template.clone(),
            ranges: Mutex::new(Vec::new()),
            status: Mutex::new(None),
        }
    }

    /// The network that counts now, or why there is none.
    pub(crate) fn current(&self) -> std::result::Result<Arc<Chosen>, String> {
        self.directory.current()
    }

    /// The node's pod ranges, offered to plugins as `ipRanges`.
    pub(crate) fn offer_ranges(&self, ranges: &[Subnet]) {
        *self.ranges.lock() = ranges.to_vec();
    }

    /// Makes a configuration of `ranges` where there is a template and nobody else's configuration
    /// in the directory. Blocking.
    pub(crate) fn generate(&self, ranges: &[Subnet]) -> Result<()> {
        let Some(template) = &self.template else {
            return Ok(());
        };
        let generated = self.directory.path().join(GENERATED);
        if self.current().is_ok_and(|chosen| chosen.path != generated) {
            return Ok(());
        }
        let faulty = |reason: String| Error::Conf {
            path: template.clone(),
            reason,
        };
        let text = fs::read_to_string(template).map_err(|error| faulty(error.to_string()))?;
        let text = template::fill(&text, ranges).map_err(faulty)?;
        NetworkList::parse(text.as_bytes())
            .map_err(|fault| faulty(format!("what it makes is {fault}")))?;
        put(&generated, &text).map_err(|source| Error::Io {
            operation: "write",
            path: generated,
            source,
        })
    }

    /// Runs ADD through the list. When that fails DEL is run through it at once; when that fails
    /// too the record stays, for `detach`.
    pub(crate) async fn attach(&self, pod: &PodNetwork, chosen: &Chosen) -> Result<Attachment> {
        let mut invocation = Invocation {
            list: chosen.list.clone(),
            arguments: runtime::arguments(pod)?,
            offers: runtime::offers(pod, &self.ranges.lock()),
            result: None,
        };
        let record = |invocation: &Invocation| Record {
            sandbox: pod.id.clone(),
            netns: pod.netns.clone(),
            driver: Driver::Cni(Box::new(invocation.clone())),
        };
        self.records.put(&record(&invocation))?;
        let attached = self.add(pod, &invocation).await.and_then(|attachment| {
            invocation.result = Some(attachment.result.clone());
            self.records.put(&record(&invocation)).map(|()| attachment)
        });
        if attached.is_err()
            && let Err(error) = self.detach(&record(&invocation), &invocation).await
        {
            tracing::warn!(sandbox = %pod.id, ?error, "a failed pod network is not undone yet");
        }
        attached
    }

    async fn add(&self, pod: &PodNetwork, invocation: &Invocation) -> Result<Attachment> {
        let netns = pod.netns.display().to_string();
        let environment = environment(&pod.id, &netns, invocation);
        let mut result = None;
        let mut last = "";
        for plugin in &invocation.list.plugins {
            let answer = self
                .plugins
                .run(Call {
                    plugin: plugin.kind(),
                    verb: Verb::Add,
                    environment: &environment,
                    input: input(invocation, plugin, result.as_ref()),
                })
                .await?;
            let parsed: Value = serde_json::from_slice(&answer)
                .ok()
                .filter(Value::is_object)
                .ok_or_else(|| garbled(plugin.kind(), Verb::Add, &answer, String::new()))?;
            result = Some(parsed);
            last = plugin.kind();
        }
        let result = result.unwrap_or_default();
        let ips = result::addresses(&result, POD_INTERFACE);
        if ips.is_empty() {
            return Err(Error::NoAddress {
                plugin: last.to_owned(),
            });
        }
        Ok(Attachment { ips, result })
    }

    /// Runs DEL through the list and forgets the record. Every plugin is asked, whatever became of
    /// the others.
    pub(crate) async fn detach(&self, record: &Record, invocation: &Invocation) -> Result<()> {
        // A namespace that is gone is not named: plugins then clean up what lies outside of it.
        let netns = match record.netns.try_exists() {
            Ok(false) => String::new(),
            _ => record.netns.display().to_string(),
        };
        let environment = environment(&record.sandbox, &netns, invocation);
        let remembered = invocation.list.version >= Version::REMEMBERED;
        let result = invocation.result.as_ref().filter(|_| remembered);
        let mut failures = Vec::new();
        for plugin in invocation.list.plugins.iter().rev() {
            let deleted = self
                .plugins
                .run(Call {
                    plugin: plugin.kind(),
                    verb: Verb::Del,
                    environment: &environment,
                    input: input(invocation, plugin, result),
                })
                .await;
            failures.extend(deleted.err());
        }
        if failures.is_empty() {
            failures.extend(self.records.remove(&record.sandbox).err());
        }
        Error::gather(&record.sandbox, failures)
    }

    /// Asks the plugins whether they can serve, where the version has that question.
    pub(crate) async fn ready(&self, chosen: &Arc<Chosen>) -> std::result::Result<(), String> {
        if chosen.list.version < Version::STATUS {
            return Ok(());
        }
        if let Some((asked, of, status)) = &*self.status.lock()
            && asked.elapsed() < STATUS_AGE
            && Arc::ptr_eq(of, chosen)
        {
            return status.clone();
        }
        let status = self.ask_all(chosen, Verb::Status, &Map::new()).await;
        let status = status.map_err(|error| words(&error));
        *self.status.lock() = Some((Instant::now(), Arc::clone(chosen), status.clone()));
        status
    }

    /// Tells the plugins which attachments are valid, so that they release all others.
    pub(crate) async fn collect(&self, chosen: &Chosen, live: &[SandboxId]) -> Result<()> {
        if chosen.list.version < Version::STATUS || chosen.list.disable_gc {
            return Ok(());
        }
        let valid: Vec<_> = live
            .iter()
            .map(|id| json!({ "containerID": id.as_str(), "ifname": POD_INTERFACE }))
            .collect();
        let mut extra = Map::new();
        extra.insert("cni.dev/valid-attachments".to_owned(), Value::Array(valid));
        self.ask_all(chosen, Verb::Gc, &extra).await
    }

    async fn ask_all(&self, chosen: &Chosen, verb: Verb, extra: &Map<String, Value>) -> Result<()> {
        for plugin in &chosen.list.plugins {
            let mut input = base(&chosen.list, plugin);
            input.extend(extra.clone());
            let call = Call {
                plugin: plugin.kind(),
                verb,
                environment: &[],
                input: Value::Object(input).to_string().into_bytes(),
            };
            self.plugins.run(call).await?;
        }
        Ok(())
    }
}

/// Whole or not at all; the directory's readers leave out the name that it has at first.
fn put(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let partial = path.with_extension("new");
    fs::write(&partial, text)?;
    fs::rename(&partial, path)
}

fn environment(
    sandbox: &SandboxId,
    netns: &str,
    invocation: &Invocation,
) -> Vec<(&'static str, String)> {
    vec![
        ("CNI_CONTAINERID", sandbox.to_string()),
        ("CNI_NETNS", netns.to_owned()),
        ("CNI_IFNAME", POD_INTERFACE.to_owned()),
        ("CNI_ARGS", invocation.arguments.clone()),
    ]
}

/// The plugin's own configuration with the network's name and version.
fn base(list: &NetworkList, plugin: &Plugin) -> Map<String, Value> {
    let mut input = plugin.0.clone();
    input.insert("name".to_owned(), Value::String(list.name.clone()));
    input.insert("cniVersion".to_owned(), Value::String(list.version.into()));
    input
}

fn input(invocation: &Invocation, plugin: &Plugin, previous: Option<&Value>) -> Vec<u8> {
    let mut input = base(&invocation.list, plugin);
    let wanted: Map<String, Value> = invocation
        .offers
        .iter()
        .filter(|(capability, _)| plugin.has(capability))
        .map(|(capability, value)| (capability.clone(), value.clone()))
        .collect();
    if !wanted.is_empty() {
        input.insert("runtimeConfig".to_owned(), Value::Object(wanted));
    }
    if let Some(previous) = previous {
        input.insert("prevResult".to_owned(), previous.clone());
    }
    Value::Object(input).to_string().into_bytes()
}

/// An error with its causes, for a reason that people read.
pub(crate) fn words(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}
