//! Making a pod: namespaces, network, files and, where PIDs are shared, an init.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use berth_kernel::sysctl;
use berth_names::SandboxId;
use berth_network::PodNetwork;
use berth_network::netns::{self, PinRequest};

use super::{Init, Task, bandwidth, cgroup, user_namespace};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::events::EventKind;
use crate::files::{self, PodFiles};
use crate::record::{self, PodRecord, PodState};
use crate::request::{PodRequest, Protocol, Scope};
use crate::undo::{Undo, blocking};

type Sysctls = Vec<(String, String)>;

/// Makes the pod that `request` asks for and starts its task. On failure nothing stays.
pub(crate) async fn run(core: Arc<Core>, request: PodRequest) -> Result<SandboxId> {
    check(&core, &request)?;
    let handler = core.config.handlers.find(&request.runtime_handler)?;
    user_namespace::check(&request, &handler)?;
    let id = core.new_pod_id()?;
    let selinux_level = selinux_level(&core, &request)?;
    let mut record = PodRecord {
        handler: handler.name.clone(),
        cgroup_parent: cgroup::parent(&core, id.as_str(), &request)?,
        cgroup_made: false,
        id,
        request,
        state: PodState::Creating,
        created_at: record::now(),
        ips: Vec::new(),
        network_held: false,
        init_pid: None,
        selinux_level,
    };
    let mut undo = Undo::default();
    match steps(&core, &mut record, &mut undo).await {
        Ok(init) => {
            let id = record.id.clone();
            let pod = Task::spawn(Arc::clone(&core), record, init);
            core.tell_pod(EventKind::Created, &pod);
            core.tell_pod(EventKind::Started, &pod);
            berth_faults::passing("pod.run.before-answer");
            Ok(id)
        }
        Err(error) => {
            undo.run().await;
            Err(error)
        }
    }
}

/// Of its own among the pods that there are.
fn selinux_level(core: &Core, request: &PodRequest) -> Result<String> {
    let pods = core.pods.all();
    let taken = pods.iter().map(|pod| pod.view().selinux_level.clone());
    let taken: Vec<String> = taken.collect();
    let random = || {
        let [a, b, c, d, ..] = crate::core::random()?;
        Ok((u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])))
    };
    let confinement = &core.config.confinement;
    confinement.choose_level(request.selinux.as_ref(), &taken, random)
}

async fn steps(core: &Arc<Core>, record: &mut PodRecord, undo: &mut Undo) -> Result<Option<Init>> {
    let files = core.pod_files(&record.id);
    let dropped = files.clone();
    undo.push(
        "pod directory",
        blocking("remove", move || dropped.remove()),
    );
    let pinned = files.clone();
    undo.push("namespaces", blocking("unpin", move || unpin(&pinned)));
    let others = Others::of(core, &record.request)?;
    let deferred = prepare(&files, record, others).await?;
    let release = cgroup::release(Arc::clone(core), Arc::new(record.clone()));
    undo.push("cgroup", release);
    record.cgroup_made = cgroup::make(core, record).await?;
    berth_faults::at("pod.run.after-cgroup")?;

    if record.request.namespaces.network != Scope::Node {
        if !record.request.unattached {
            record.network_held = true;
            let release = detach(Arc::clone(core), Arc::new(record.clone()));
            undo.push("network", release);
            record.ips = attach(core, record, &files).await?;
        }
        berth_faults::at("pod.run.after-network")?;
        apply_deferred(record, &files, deferred).await?;
    }
    let init = match record.request.namespaces.pid {
        Scope::Pod => Some(Init::start(core, record, &files, undo).await?),
        _ => None,
    };
    record.init_pid = init.as_ref().map(Init::pid);
    berth_faults::at("pod.run.after-init")?;
    record.state = PodState::Ready;
    let (path, ready) = (files.record(), record.clone());
    blocking("write the record of", move || record::write(&path, &ready)).await?;
    berth_faults::at("pod.run.after-ready")?;
    core.store_pod(record);
    Ok(init)
}

/// The directory with its first record, the namespaces and the files.
async fn prepare(files: &PodFiles, record: &PodRecord, others: Others) -> Result<Sysctls> {
    let (files, record) = (files.clone(), record.clone());
    blocking("prepare", move || {
        files.create()?;
        berth_faults::at("pod.run.after-directory")?;
        record::write(&files.record(), &record)?;
        berth_faults::at("pod.run.after-record")?;
        let deferred = pin(&files, &record)?;
        others.share(&files, &record.id)?;
        berth_faults::at("pod.run.after-namespaces")?;
        let shm = others.ipc.as_ref().map(PodFiles::shm);
        files.populate(&record.request, shm.as_deref())?;
        berth_faults::at("pod.run.after-files")?;
        Ok(deferred)
    })
    .await
}

/// The files of other pods whose namespaces a pod uses.
struct Others {
    network: Option<PodFiles>,
    ipc: Option<PodFiles>,
}

impl Others {
    fn of(core: &Core, request: &PodRequest) -> Result<Self> {
        let files = |pod: &Option<SandboxId>| -> Result<Option<PodFiles>> {
            let Some(id) = pod else { return Ok(None) };
            core.pod(id.as_str())?.ready("share its namespaces")?;
            Ok(Some(core.pod_files(id)))
        };
        Ok(Self {
            network: files(&request.joined.network)?,
            ipc: files(&request.joined.ipc)?,
        })
    }

    /// Pins what is joined where a pod has what is its own: nobody else has to tell them apart.
    fn share(&self, files: &PodFiles, id: &SandboxId) -> Result<()> {
        let network = self.network.as_ref().map(PodFiles::netns);
        let ipc = self.ipc.as_ref().map(PodFiles::ipcns);
        for (theirs, ours) in [(network, files.netns()), (ipc, files.ipcns())] {
            let Some(theirs) = theirs else { continue };
            netns::pin(&theirs, &ours).map_err(|source| Error::Network {
                id: id.clone(),
                source,
            })?;
        }
        Ok(())
    }
}

fn has_own_network(request: &PodRequest) -> bool {
    request.namespaces.network != Scope::Node && request.joined.network.is_none()
}

fn has_own_ipc(request: &PodRequest) -> bool {
    request.namespaces.ipc != Scope::Node && request.joined.ipc.is_none()
}

/// The namespaces, and the sysctls that have to wait for the pod's interfaces.
fn pin(files: &PodFiles, record: &PodRecord) -> Result<Sysctls> {
    let request = &record.request;
    let own_name = request.namespaces.network != Scope::Node;
    let pin = PinRequest {
        net: has_own_network(request).then(|| files.netns()),
        ipc: has_own_ipc(request).then(|| files.ipcns()),
        uts: own_name.then(|| (files.utsns(), files::hostname(request))),
        user: user_namespace::pin(request, files),
        sysctls: request
            .sysctls
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect(),
    };
    let failed = |source| Error::Network {
        id: record.id.clone(),
        source,
    };
    netns::create_pinned(pin)
        .map(|pinned| pinned.deferred_sysctls)
        .map_err(failed)
}

/// Blocking: releases the pinned namespaces; repeating it is harmless.
pub(crate) fn unpin(files: &PodFiles) -> Result<()> {
    for path in [files.netns(), files.ipcns(), files.utsns(), files.userns()] {
        netns::unpin(&path).map_err(|source| Error::State {
            action: "unpin",
            path: path.clone(),
            source: std::io::Error::other(source),
        })?;
    }
    Ok(())
}

async fn attach(core: &Core, record: &PodRecord, files: &PodFiles) -> Result<Vec<IpAddr>> {
    let attached = core.network.setup(&pod_network(record, files)?).await;
    match attached {
        Ok(attachment) => Ok(attachment.ips),
        Err(source) => Err(Error::Network {
            id: record.id.clone(),
            source,
        }),
    }
}

async fn apply_deferred(record: &PodRecord, files: &PodFiles, sysctls: Sysctls) -> Result<()> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let (id, netns) = (record.id.clone(), files.netns());
    blocking("set the sysctls of", move || {
        netns::apply_sysctls(&netns, &sysctls).map_err(|source| Error::Network { id, source })
    })
    .await
}

/// Releases what the network holds for a pod; repeating it is harmless.
pub(super) async fn detach(core: Arc<Core>, record: Arc<PodRecord>) -> Result<()> {
    core.network
        .teardown(&record.id)
        .await
        .map_err(|source| Error::Network {
            id: record.id.clone(),
            source,
        })
}

/// Takes back a pod whose making was cut short, as found after a restart.
pub(crate) async fn undo_half_made(core: &Arc<Core>, record: &PodRecord) -> Result<()> {
    let files = core.pod_files(&record.id);
    let (id, cgroup) = (record.id.as_str(), super::init::cgroup(core, record));
    crate::shim::reclaim(core, id, &files.init_bundle(), &cgroup).await?;
    if record.request.namespaces.network != Scope::Node {
        detach(Arc::clone(core), Arc::new(record.clone())).await?;
    }
    cgroup::release(Arc::clone(core), Arc::new(record.clone())).await?;
    blocking("undo", move || {
        unpin(&files)?;
        files.remove()
    })
    .await
}

fn pod_network(record: &PodRecord, files: &PodFiles) -> Result<PodNetwork> {
    let request = &record.request;
    let dns = request.dns.clone().unwrap_or_default();
    let ports = request
        .port_mappings
        .iter()
        .map(|port| berth_network::PortMapping {
            protocol: match port.protocol {
                Protocol::Tcp => berth_network::Protocol::Tcp,
                Protocol::Udp => berth_network::Protocol::Udp,
                Protocol::Sctp => berth_network::Protocol::Sctp,
            },
            container_port: port.container_port,
            host_port: port.host_port,
            host_ip: port.host_ip.parse().ok(),
        });
    let annotations: BTreeMap<String, String> = request.annotations.clone();
    Ok(PodNetwork {
        id: record.id.clone(),
        name: request.name.clone(),
        namespace: request.namespace.clone(),
        uid: request.uid.clone(),
        netns: files.netns(),
        port_mappings: ports.filter(|port| port.host_port != 0).collect(),
        bandwidth: bandwidth::of(&request.annotations)?,
        dns: berth_network::Dns {
            servers: dns.servers,
            searches: dns.searches,
            options: dns.options,
        },
        annotations,
        cgroup_parent: Some(record.cgroup_parent.clone()),
    })
}

fn check(core: &Core, request: &PodRequest) -> Result<()> {
    if request.name.is_empty() || request.uid.is_empty() {
        return Err(Error::invalid("metadata", "a pod needs a name and a uid"));
    }
    if request.hostname.len() > 64 {
        return Err(Error::invalid(
            "hostname",
            "it is longer than 64 characters",
        ));
    }
    for port in &request.port_mappings {
        if !port.host_ip.is_empty() && port.host_ip.parse::<IpAddr>().is_err() {
            let problem = format!("{:?} is not an address", port.host_ip);
            return Err(Error::invalid("port_mappings.host_ip", problem));
        }
    }
    for resources in [&request.resources, &request.overhead]
        .into_iter()
        .flatten()
    {
        core.check_resources(resources)?;
    }
    bandwidth::of(&request.annotations)?;
    core.config
        .confinement
        .check_pod(request.selinux.as_ref())?;
    check_sysctls(request)
}

fn is_hostname(sysctl: &str) -> bool {
    sysctl.replace('/', ".") == "kernel.hostname"
}

/// A sysctl may be set only in a namespace that is the pod's own: anything else changes the host.
fn check_sysctls(request: &PodRequest) -> Result<()> {
    for name in request.sysctls.keys() {
        let own = match sysctl::scope(name) {
            Some(sysctl::Scope::Ipc) => has_own_ipc(request),
            Some(sysctl::Scope::Network) => has_own_network(request),
            // The hostname is the pod's own field; the name beside it is a sysctl only.
            Some(sysctl::Scope::Uts) if is_hostname(name) => {
                let problem = format!("{name:?}: a pod's hostname is a field of its own");
                return Err(Error::invalid("sysctls", problem));
            }
            Some(sysctl::Scope::Uts) => request.namespaces.network != Scope::Node,
            None => {
                let problem = format!("{name:?} is not kept per namespace: set it on the host");
                return Err(Error::invalid("sysctls", problem));
            }
        };
        if !own {
            let problem =
                format!("{name:?} would change others: the pod shares that namespace with them");
            return Err(Error::invalid("sysctls", problem));
        }
        if sysctl::path(name).is_none() {
            let problem = format!("{name:?} is not a setting's name");
            return Err(Error::invalid("sysctls", problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sysctl_is_for_a_namespace_that_is_the_pod_s_own() {
        let check = |name: &str, network: Scope, ipc: Scope| {
            let mut request = PodRequest {
                sysctls: [(name.to_owned(), "1".to_owned())].into(),
                ..PodRequest::default()
            };
            request.namespaces.network = network;
            request.namespaces.ipc = ipc;
            check_sysctls(&request).is_ok()
        };
        // Name, and what it needs: network or UTS, IPC.
        let cases = [
            ("net.ipv4.ip_forward", true, false),
            ("net/ipv4/conf/eth0.1/forwarding", true, false),
            ("kernel.domainname", true, false),
            ("kernel.shmmax", false, true),
            ("kernel.sem", false, true),
            ("kernel.msgmax", false, true),
            ("fs.mqueue.msg_max", false, true),
        ];
        for (name, network, ipc) in cases {
            assert!(check(name, Scope::Pod, Scope::Pod), "{name}");
            assert_eq!(check(name, Scope::Node, Scope::Pod), !network, "{name}");
            assert_eq!(check(name, Scope::Pod, Scope::Node), !ipc, "{name}");
        }
        for name in [
            "",
            "kernel.hostname",
            "kernel.core_pattern",
            "kernel.shm_next_id",
            "vm.overcommit_memory",
            "fs.file-max",
            "net..core",
            "net/../kernel/core_pattern",
        ] {
            assert!(!check(name, Scope::Pod, Scope::Pod), "{name:?} was taken");
        }
    }
}
