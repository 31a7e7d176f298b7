//! What a device changes in a container's OCI specification.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Hook, HookBuilder, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroupBuilder, LinuxDeviceType,
    LinuxIntelRdtBuilder, LinuxNetDeviceBuilder, MountBuilder, Spec,
};
use serde::Deserialize;

use crate::error::{Error, Result};

/// `containerEdits` of a device or of all devices in a file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Edits {
    env: Vec<String>,
    device_nodes: Vec<DeviceNode>,
    net_devices: Vec<NetDevice>,
    hooks: Vec<NamedHook>,
    mounts: Vec<Mount>,
    intel_rdt: Option<IntelRdt>,
    additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct DeviceNode {
    path: PathBuf,
    host_path: Option<PathBuf>,
    #[serde(rename = "type")]
    kind: String,
    major: i64,
    minor: i64,
    file_mode: Option<u32>,
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NetDevice {
    host_interface_name: String,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NamedHook {
    hook_name: String,
    path: PathBuf,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mount {
    host_path: PathBuf,
    container_path: PathBuf,
    #[serde(default)]
    options: Vec<String>,
    #[serde(default, rename = "type")]
    kind: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct IntelRdt {
    #[serde(rename = "closID")]
    clos_id: String,
    l3_cache_schema: String,
    mem_bw_schema: String,
    schemata: Vec<String>,
    enable_monitoring: bool,
}

const HOOKS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// The oldest version of the specification that has all fields of these edits.
pub(crate) fn needed_version(edits: &Edits) -> &'static str {
    let rdt = edits.intel_rdt.as_ref();
    if !edits.net_devices.is_empty()
        || rdt.is_some_and(|rdt| rdt.enable_monitoring || !rdt.schemata.is_empty())
    {
        "1.1.0"
    } else if rdt.is_some() || !edits.additional_gids.is_empty() {
        "0.7.0"
    } else if edits
        .device_nodes
        .iter()
        .any(|node| node.host_path.is_some())
    {
        "0.5.0"
    } else if edits.mounts.iter().any(|mount| !mount.kind.is_empty()) {
        "0.4.0"
    } else {
        "0.1.0"
    }
}

impl Edits {
    /// What is wrong with them, for people.
    pub(crate) fn check(&self) -> Result<(), String> {
        check_env(&self.env)?;
        for node in &self.device_nodes {
            let shown = node.path.display();
            if !node.path.is_absolute() {
                return Err(format!("deviceNodes: path {shown:?} is not absolute"));
            }
            if !["", "b", "c", "u", "p"].contains(&node.kind.as_str()) {
                return Err(format!("deviceNodes: {shown}: type {:?}", node.kind));
            }
            if !node.permissions.chars().all(|one| "rwm".contains(one)) {
                let permissions = &node.permissions;
                return Err(format!("deviceNodes: {shown}: permissions {permissions:?}"));
            }
        }
        for mount in &self.mounts {
            if mount.host_path.as_os_str().is_empty() {
                return Err("mounts: hostPath is empty".to_owned());
            }
            if !mount.container_path.is_absolute() {
                let shown = mount.container_path.display();
                return Err(format!("mounts: containerPath {shown:?} is not absolute"));
            }
        }
        for hook in &self.hooks {
            if !HOOKS.contains(&hook.hook_name.as_str()) {
                return Err(format!("hooks: {:?} is not a hook", hook.hook_name));
            }
            if !hook.path.is_absolute() {
                let shown = hook.path.display();
                return Err(format!("hooks: path {shown:?} is not absolute"));
            }
            check_env(&hook.env)?;
        }
        let mut names = BTreeSet::new();
        for device in &self.net_devices {
            let pair = [&device.host_interface_name, &device.name];
            if pair.iter().any(|name| name.is_empty()) {
                return Err("netDevices: a name is empty".to_owned());
            }
            if !names.insert(("host", pair[0])) || !names.insert(("container", pair[1])) {
                return Err(format!("netDevices: {} is given twice", device.name));
            }
        }
        self.intel_rdt.as_ref().map_or(Ok(()), IntelRdt::check)
    }

    /// Changes `spec`. Nodes are looked up on the host where the file does not say what they are.
    pub fn apply(&self, spec: &mut Spec) -> Result<()> {
        self.set_env(spec);
        for node in &self.device_nodes {
            add_device(spec, node)?;
        }
        self.add_mounts(spec)?;
        for hook in &self.hooks {
            add_hook(spec, hook)?;
        }
        self.set_linux(spec)?;
        if let Some(process) = spec.process_mut() {
            let user = process.user_mut();
            let mut gids = user.additional_gids().clone().unwrap_or_default();
            // Zero is refused by silence in the reference: it would make everybody root's.
            for gid in self.additional_gids.iter().filter(|gid| **gid != 0) {
                if !gids.contains(gid) {
                    gids.push(*gid);
                }
            }
            user.set_additional_gids(Some(gids));
        }
        Ok(())
    }

    fn set_env(&self, spec: &mut Spec) {
        let Some(process) = spec.process_mut() else {
            return;
        };
        let mut env = process.env().clone().unwrap_or_default();
        for entry in &self.env {
            let key = entry.split_once('=').map_or(entry.as_str(), |(key, _)| key);
            env.retain(|present| {
                present
                    .split_once('=')
                    .is_none_or(|(other, _)| other != key)
            });
            env.push(entry.clone());
        }
        process.set_env(Some(env));
    }

    /// A mount of the device replaces what is at its place; parents come first.
    fn add_mounts(&self, spec: &mut Spec) -> Result<()> {
        if self.mounts.is_empty() {
            return Ok(());
        }
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        for mount in &self.mounts {
            mounts.retain(|present| *present.destination() != mount.container_path);
            let mut options = mount.options.clone();
            let kind = Some(mount.kind.clone()).filter(|kind| !kind.is_empty());
            let is_bind = kind.as_deref().is_none_or(|kind| kind == "bind");
            if is_bind
                && !options
                    .iter()
                    .any(|option| option == "bind" || option == "rbind")
            {
                options.push("rbind".to_owned());
            }
            let made = MountBuilder::default()
                .destination(&mount.container_path)
                .source(&mount.host_path)
                .typ(kind.unwrap_or_else(|| "bind".to_owned()))
                .options(options)
                .build()?;
            let depth = made.destination().components().count();
            // After everything that it may lie in; the base set keeps its order.
            let place = mounts
                .iter()
                .position(|present| {
                    present.destination().starts_with(made.destination())
                        && present.destination().components().count() > depth
                })
                .unwrap_or(mounts.len());
            mounts.insert(place, made);
        }
        spec.set_mounts(Some(mounts));
        Ok(())
    }

    fn set_linux(&self, spec: &mut Spec) -> Result<()> {
        let Some(linux) = spec.linux_mut() else {
            return Ok(());
        };
        if let Some(rdt) = &self.intel_rdt {
            linux.set_intel_rdt(Some(rdt.to_oci()?));
        }
        if !self.net_devices.is_empty() {
            let mut devices: HashMap<_, _> = linux.net_devices().clone().unwrap_or_default();
            for device in &self.net_devices {
                let made = LinuxNetDeviceBuilder::default()
                    .name(&device.name)
                    .build()?;
                devices.insert(device.host_interface_name.clone(), made);
            }
            linux.set_net_devices(Some(devices));
        }
        Ok(())
    }
}

impl IntelRdt {
    fn check(&self) -> Result<(), String> {
        let id = self.clos_id.as_str();
        if id != "/" && (id.len() >= 4096 || id == "." || id == ".." || id.contains(['/', '\n'])) {
            return Err("intelRdt: closID is not a file name".to_owned());
        }
        Ok(())
    }

    fn to_oci(&self) -> Result<oci_spec::runtime::LinuxIntelRdt> {
        let mut rdt = LinuxIntelRdtBuilder::default();
        if !self.clos_id.is_empty() {
            rdt = rdt.clos_id(&self.clos_id);
        }
        if !self.l3_cache_schema.is_empty() {
            rdt = rdt.l3_cache_schema(&self.l3_cache_schema);
        }
        if !self.mem_bw_schema.is_empty() {
            rdt = rdt.mem_bw_schema(&self.mem_bw_schema);
        }
        if !self.schemata.is_empty() {
            rdt = rdt.schemata(self.schemata.clone());
        }
        if self.enable_monitoring {
            rdt = rdt.enable_monitoring(true);
        }
        Ok(rdt.build()?)
    }
}

fn check_env(env: &[String]) -> Result<(), String> {
    match env.iter().find(|entry| entry.find('=').unwrap_or(0) == 0) {
        Some(bad) => Err(format!("env: {bad:?} is not NAME=value")),
        None => Ok(()),
    }
}

fn add_device(spec: &mut Spec, node: &DeviceNode) -> Result<()> {
    let owner = spec
        .process()
        .as_ref()
        .map(|process| process.user().clone());
    let Some(linux) = spec.linux_mut() else {
        return Ok(());
    };
    let mut device = node.resolve()?;
    // A device of nobody in particular belongs to whoever runs in the container.
    let owner = owner.unwrap_or_default();
    if node.uid.is_none() && owner.uid() != 0 {
        device.set_uid(Some(owner.uid()));
    }
    if node.gid.is_none() && owner.gid() != 0 {
        device.set_gid(Some(owner.gid()));
    }
    let mut rule = None;
    if device.typ() != LinuxDeviceType::P {
        let access = Some(node.permissions.as_str()).filter(|access| !access.is_empty());
        let mut made = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(device.typ())
            .access(access.unwrap_or("rwm"))
            .build()?;
        made.set_major(Some(device.major()))
            .set_minor(Some(device.minor()));
        rule = Some(made);
    }
    let mut devices = linux.devices().clone().unwrap_or_default();
    devices.retain(|present| present.path() != device.path());
    devices.push(device);
    linux.set_devices(Some(devices));
    let mut resources = linux.resources().clone().unwrap_or_default();
    let mut rules = resources.devices().clone().unwrap_or_default();
    rules.extend(rule);
    resources.set_devices(Some(rules));
    linux.set_resources(Some(resources));
    Ok(())
}

impl DeviceNode {
    /// What the file leaves out is what the node on the host is. Links are not followed: the file
    /// names a node, and what a link leads to may change.
    fn resolve(&self) -> Result<LinuxDevice> {
        let host = self.host_path.as_deref().unwrap_or(&self.path);
        let described = LinuxDeviceType::from_letter(&self.kind);
        let complete = matches!(described, Some(LinuxDeviceType::P))
            || (described.is_some() && (self.major != 0 || self.minor != 0));
        let mut device = LinuxDeviceBuilder::default().path(&self.path);
        let (mut typ, mut major, mut minor) = (described, self.major, self.minor);
        let mut mode = self.file_mode;
        if !complete {
            let found = Found::at(host)?;
            if described.is_some_and(|described| !found.is(described)) {
                return Err(Error::NotADevice {
                    path: host.to_owned(),
                });
            }
            typ = Some(found.typ);
            if self.major == 0 && self.minor == 0 {
                (major, minor) = (found.major, found.minor);
            }
            mode = mode.or(Some(found.mode));
        }
        device = device
            .typ(typ.unwrap_or(LinuxDeviceType::C))
            .major(major)
            .minor(minor);
        if let Some(mode) = mode {
            device = device.file_mode(mode & 0o7777);
        }
        if let Some(uid) = self.uid {
            device = device.uid(uid);
        }
        if let Some(gid) = self.gid {
            device = device.gid(gid);
        }
        Ok(device.build()?)
    }
}

/// A node of the host.
struct Found {
    typ: LinuxDeviceType,
    major: i64,
    minor: i64,
    mode: u32,
}

impl Found {
    fn at(path: &Path) -> Result<Self> {
        let metadata = fs::symlink_metadata(path).map_err(|source| Error::Node {
            path: path.to_owned(),
            source,
        })?;
        let kind = metadata.file_type();
        let typ = if kind.is_char_device() {
            LinuxDeviceType::C
        } else if kind.is_block_device() {
            LinuxDeviceType::B
        } else if kind.is_fifo() {
            LinuxDeviceType::P
        } else {
            return Err(Error::NotADevice {
                path: path.to_owned(),
            });
        };
        let number = metadata.rdev();
        Ok(Self {
            typ,
            major: i64::from(rustix::fs::major(number)),
            minor: i64::from(rustix::fs::minor(number)),
            mode: metadata.mode(),
        })
    }

    fn is(&self, described: LinuxDeviceType) -> bool {
        let plain = |typ| match typ {
            LinuxDeviceType::U => LinuxDeviceType::C,
            other => other,
        };
        plain(self.typ) == plain(described)
    }
}

trait FromLetter: Sized {
    fn from_letter(letter: &str) -> Option<Self>;
}

impl FromLetter for LinuxDeviceType {
    fn from_letter(letter: &str) -> Option<Self> {
        match letter {
            "b" => Some(LinuxDeviceType::B),
            "c" => Some(LinuxDeviceType::C),
            "u" => Some(LinuxDeviceType::U),
            "p" => Some(LinuxDeviceType::P),
            _ => None,
        }
    }
}

fn add_hook(spec: &mut Spec, named: &NamedHook) -> Result<()> {
    let mut hook = HookBuilder::default().path(&named.path);
    if !named.args.is_empty() {
        hook = hook.args(named.args.clone());
    }
    if !named.env.is_empty() {
        hook = hook.env(named.env.clone());
    }
    if let Some(timeout) = named.timeout {
        hook = hook.timeout(timeout);
    }
    let hook = hook.build()?;
    let mut hooks = spec.hooks().clone().unwrap_or_default();
    let push = |list: &mut Option<Vec<Hook>>| list.get_or_insert_default().push(hook);
    #[allow(deprecated)] // files still have it, and runtimes still run it
    match named.hook_name.as_str() {
        "prestart" => push(hooks.prestart_mut()),
        "createRuntime" => push(hooks.create_runtime_mut()),
        "createContainer" => push(hooks.create_container_mut()),
        "startContainer" => push(hooks.start_container_mut()),
        "poststart" => push(hooks.poststart_mut()),
        _ => push(hooks.poststop_mut()),
    }
    spec.set_hooks(Some(hooks));
    Ok(())
}

#[cfg(test)]
#[path = "edits_tests.rs"]
mod tests;
