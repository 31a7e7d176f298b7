//! From `[runtimes.NAME]` to runtime handlers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use berth_lifecycle::handlers::{Features, Handler, Handlers, OCI_VERSION, Runner};
use berth_shim_client::{
    CONFIG_OPTIONS, ForeignShim, OptionValue, RUNC_OPTIONS, config_options, runc_options,
};
use serde::Deserialize;

use crate::config::{Config, RuntimeHandler};

/// The handler that is always there.
const OWN: &str = "berth";
const SNAPSHOTTERS: [&str; 1] = ["overlay"];
/// Shims keep containers of one daemon apart from another's by this and the socket's path.
const NAMESPACE: &str = "berth";
const RUNC_SHIM: &str = "containerd-shim-runc-";
/// What runtimes understand that do not say what they understand.
const OLD_OCI_VERSION: &str = "1.0.2";

/// Checks and translates every handler. Programs that are missing are told and left for later: the
/// other handlers of the node have to run.
pub fn from(config: &Config) -> Result<Handlers> {
    let mapped = berth_lifecycle::user_namespaces_supported_at(&config.root);
    let mut handlers = BTreeMap::from([(OWN.to_owned(), own(OWN, mapped))]);
    for (name, runtime) in &config.runtimes {
        let made =
            handler(config, name, runtime, mapped).with_context(|| format!("runtimes.{name}"))?;
        handlers.insert(name.clone(), made);
    }
    let Some(default) = handlers.get(&config.default_runtime).cloned() else {
        let known: Vec<&str> = handlers.keys().map(String::as_str).collect();
        let wanted = &config.default_runtime;
        bail!(
            "default-runtime {wanted:?} is not one of {}",
            known.join(", ")
        );
    };
    Ok(Handlers::new(default, handlers.into_values()))
}

/// User namespaces need layers whose ids can be mapped.
fn own(name: &str, user_namespaces: bool) -> Handler {
    let mut own = Handler::own(name);
    own.features.user_namespaces = user_namespaces;
    own
}

fn handler(config: &Config, name: &str, runtime: &RuntimeHandler, mapped: bool) -> Result<Handler> {
    ensure!(
        is_label(name),
        "a name has lower-case letters, digits and inner dashes, as a RuntimeClass has it"
    );
    let snapshotter = &runtime.snapshotter;
    ensure!(
        SNAPSHOTTERS.contains(&snapshotter.as_str()),
        "snapshotter {snapshotter:?} is not known; there is {}",
        SNAPSHOTTERS.join(", ")
    );
    let own = Handler {
        pod_annotations: runtime.pod_annotations.clone(),
        container_annotations: runtime.container_annotations.clone(),
        privileged_without_host_devices: runtime.privileged_without_host_devices,
        ..own(name, mapped)
    };
    let Some(binary) = shim(runtime)? else {
        ensure!(
            runtime.options.is_empty(),
            "options are for another shim: name it with runtime-type or shim"
        );
        return Ok(own);
    };
    if !binary.is_file() {
        tracing::warn!(name, binary = %binary.display(), "the shim of a runtime handler is missing");
    }
    let (options, runtime_binary) = options(config, name, &binary, &runtime.options)?;
    let said = runtime_binary.as_deref().and_then(features_of);
    let (features, oci_version) = understood(said.as_ref(), mapped);
    Ok(Handler {
        runner: Runner::Foreign(ForeignShim {
            binary,
            namespace: NAMESPACE.to_owned(),
            address: config.state.join("shims.sock"),
            options,
        }),
        features,
        oci_version,
        ..own
    })
}

/// A label of the domain name system (RFC 1123), which names of RuntimeClass handlers are.
fn is_label(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(plain)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// `None` means Berth's own shim.
fn shim(runtime: &RuntimeHandler) -> Result<Option<PathBuf>> {
    if !runtime.shim.as_os_str().is_empty() {
        ensure!(
            runtime.shim.is_absolute(),
            "shim {:?} is not absolute",
            runtime.shim
        );
        return Ok(Some(runtime.shim.clone()));
    }
    if runtime.runtime_type.is_empty() {
        return Ok(None);
    }
    let parts: Vec<&str> = runtime.runtime_type.split('.').collect();
    let [.., kind, version] = parts.as_slice() else {
        bail!(
            "runtime-type {:?} is not of the form io.containerd.NAME.vN",
            runtime.runtime_type
        );
    };
    let name = format!("containerd-shim-{kind}-{version}");
    // Found again at every launch by the same path, whatever PATH is by then.
    Ok(Some(
        which(&name).unwrap_or_else(|| Path::new("/usr/bin").join(name)),
    ))
}

fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

type ShimOptions = Option<(String, Vec<u8>)>;

/// The encoded options, and the runtime's own binary where the shim is known to have one.
fn options(
    config: &Config,
    name: &str,
    shim: &Path,
    given: &BTreeMap<String, toml::Value>,
) -> Result<(ShimOptions, Option<PathBuf>)> {
    let mut options = given
        .iter()
        .map(|(key, value)| Ok((key.clone(), option(key, value)?)))
        .collect::<Result<BTreeMap<_, _>>>()?;
    let program = shim.file_name().unwrap_or_default().to_string_lossy();
    if !program.starts_with(RUNC_SHIM) {
        if options.is_empty() {
            return Ok((None, None));
        }
        let encoded = config_options(&options).map_err(|key| unknown(&key, &CONFIG_OPTIONS))?;
        return Ok((Some(encoded), None));
    }
    if options.remove("SystemdCgroup") == Some(OptionValue::Flag(true)) {
        bail!("options.SystemdCgroup: this daemon drives cgroups by cgroupfs; leave it out");
    }
    let root = config.state.join("runtimes").join(name);
    options
        .entry("Root".to_owned())
        .or_insert_with(|| OptionValue::Text(root.display().to_string()));
    let binary = match options.get("BinaryName") {
        Some(OptionValue::Text(binary)) => binary.clone(),
        _ => "runc".to_owned(),
    };
    let found = match Path::new(&binary).is_absolute() {
        true => Some(PathBuf::from(&binary)),
        false => which(&binary),
    };
    if !found.as_deref().is_some_and(Path::is_file) {
        tracing::warn!(name, binary, "the runtime of a runtime handler is missing");
    }
    let encoded = runc_options(&options).map_err(|key| {
        let known: Vec<&str> = RUNC_OPTIONS.into_iter().chain(["SystemdCgroup"]).collect();
        unknown(&key, &known)
    })?;
    Ok((Some(encoded), found))
}

fn option(key: &str, value: &toml::Value) -> Result<OptionValue> {
    Ok(match value {
        toml::Value::String(text) => OptionValue::Text(text.clone()),
        toml::Value::Boolean(flag) => OptionValue::Flag(*flag),
        toml::Value::Integer(number) => {
            let number = u32::try_from(*number);
            OptionValue::Number(number.with_context(|| format!("options.{key}"))?)
        }
        _ => bail!("options.{key} is neither text, number, true nor false"),
    })
}

fn unknown(key: &str, known: &[&str]) -> anyhow::Error {
    anyhow::anyhow!(
        "options.{key} is not known, or has a value of another kind; there are {}",
        known.join(", ")
    )
}

/// What `runc features` prints (the runtime specification's "features structure"), as far as it
/// is used here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Said {
    oci_version_max: String,
    mount_options: Vec<String>,
    linux: SaidOfLinux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SaidOfLinux {
    namespaces: Vec<String>,
    mount_extensions: SaidOfMounts,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SaidOfMounts {
    idmap: SaidOfIdmap,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SaidOfIdmap {
    enabled: bool,
}

impl Said {
    fn has_option(&self, wanted: &str) -> bool {
        self.mount_options.iter().any(|option| option == wanted)
    }

    /// Volumes and the root of a pod in a user namespace rest on mapped mounts. A runtime that has
    /// these knows the option `ridmap`, which few of them list.
    fn has_user_namespaces(&self) -> bool {
        let linux = &self.linux;
        linux.namespaces.iter().any(|kind| kind == "user") && linux.mount_extensions.idmap.enabled
    }
}

/// `None` where the binary has no such command, as older ones.
fn features_of(binary: &Path) -> Option<Said> {
    let output = Command::new(binary)
        .arg("features")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

/// `mapped`: the layers below the daemon's root can be.
fn understood(said: Option<&Said>, mapped: bool) -> (Features, String) {
    let features = Features {
        recursive_read_only_mounts: said.is_some_and(|said| said.has_option("rro")),
        user_namespaces: mapped && said.is_some_and(Said::has_user_namespaces),
    };
    let numbers = |version: &str| -> Vec<u32> {
        let parts = version.split(['.', '-', '+']);
        parts.map_while(|part| part.parse().ok()).collect()
    };
    let version = match said.map(|said| said.oci_version_max.as_str()) {
        Some(most) if numbers(most) >= numbers(OCI_VERSION) => OCI_VERSION,
        Some(most) if !numbers(most).is_empty() => most,
        _ => OLD_OCI_VERSION,
    };
    (features, version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Handlers> {
        from(&toml::from_str(text).unwrap())
    }

    #[test]
    fn a_handler_has_its_shim_options_and_a_root_of_its_own() {
        let text = "state = \"/s\"\n[runtimes.crun]\nshim = \"/x/containerd-shim-runc-v2\"\n\
                    pod-annotations = [\"a.*\"]\n[runtimes.crun.options]\nBinaryName = \"/x/crun\"\n";
        let handlers = read(text).unwrap();
        let (_, crun) = handlers.all().find(|(name, _)| *name == "crun").unwrap();
        let Runner::Foreign(shim) = &crun.runner else {
            panic!("not a foreign shim");
        };
        let (kind, options) = shim.options.clone().unwrap();
        assert_eq!(kind, "containerd.runc.v1.Options");
        for part in ["/x/crun", "/s/runtimes/crun"] {
            let found = options.windows(part.len()).any(|w| w == part.as_bytes());
            assert!(found, "{part}");
        }
        assert_eq!(crun.pod_annotations, ["a.*"]);
        assert_eq!(crun.oci_version, OLD_OCI_VERSION);
    }

    #[test]
    fn what_is_wrong_with_a_handler_is_told_with_its_name() {
        let runc = "shim = \"/x/containerd-shim-runc-v2\"";
        for (text, words) in [
            ("default-runtime = \"runc\"".to_owned(), "default-runtime"),
            ("[runtimes.Runc]".to_owned(), "runtimes.Runc"),
            ("[runtimes.x]\nsnapshotter = \"zfs\"".to_owned(), "overlay"),
            (
                "[runtimes.x]\nruntime-type = \"runc\"".to_owned(),
                "io.containerd",
            ),
            ("[runtimes.x]\nshim = \"runc\"".to_owned(), "absolute"),
            (
                "[runtimes.x.options]\nBinaryName = \"x\"".to_owned(),
                "another shim",
            ),
            (
                format!("[runtimes.x]\n{runc}\noptions.Binary = \"x\""),
                "BinaryName",
            ),
            (format!("[runtimes.x]\n{runc}\noptions.IoUid = -1"), "IoUid"),
            (
                format!("[runtimes.x]\n{runc}\noptions.SystemdCgroup = true"),
                "cgroupfs",
            ),
        ] {
            let error = format!("{:#}", read(&text).unwrap_err());
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_specification_is_written_in_a_version_that_the_runtime_knows() {
        for (most, expected) in [
            ("1.3.0", OCI_VERSION),
            ("1.2.0", OCI_VERSION),
            ("1.1.0-rc.1", "1.1.0-rc.1"),
            ("", OLD_OCI_VERSION),
        ] {
            let said = Said {
                oci_version_max: most.to_owned(),
                ..Said::default()
            };
            assert_eq!(understood(Some(&said), true).1, expected);
        }
    }

    #[test]
    fn a_runtime_has_the_features_that_it_tells_and_no_others() {
        let said = |text: &str| serde_json::from_str::<Said>(text).unwrap();
        let all = said(
            r#"{"ociVersionMin": "1.0.0", "mountOptions": ["ro", "rro"], "linux": {
                "namespaces": ["pid", "user"], "mountExtensions": {"idmap": {"enabled": true}}}}"#,
        );
        let old = said(r#"{"mountOptions": ["ro"], "linux": {"namespaces": ["user"]}}"#);
        let told = |said, mapped| {
            let features = understood(said, mapped).0;
            (
                features.recursive_read_only_mounts,
                features.user_namespaces,
            )
        };
        assert_eq!(told(Some(&all), true), (true, true));
        assert_eq!(told(Some(&all), false), (true, false));
        assert_eq!(told(Some(&old), true), (false, false));
        assert_eq!(told(None, true), (false, false));
    }
}
