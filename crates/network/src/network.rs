//! The façade: one network, whoever provides it.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use berth_names::SandboxId;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::bridge::Bridge;
use crate::cni::Cni;
use crate::config::NetworkConfig;
use crate::error::{Error, Result};
use crate::pod::{Attachment, PodNetwork};
use crate::record::{Driver, Records};
use crate::subnet::Subnet;
use crate::threads;

/// Connects pods, by CNI while its directory holds a usable configuration, by the built-in bridge
/// otherwise. A handle: clones share everything.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    records: Arc<Records>,
    cni: Cni,
    bridge: Option<Arc<Bridge>>,
    /// Shared by all that connect and disconnect pods; garbage is collected only while nobody does.
    changing: tokio::sync::RwLock<()>,
    /// One operation at a time on one sandbox.
    turns: Mutex<HashMap<SandboxId, Weak<tokio::sync::Mutex<()>>>>,
}

/// The network as the CRI's `Status` tells it.
#[derive(Debug, Clone, Serialize)]
pub struct NetworkStatus {
    pub ready: bool,
    /// A word for programs: empty when ready.
    pub reason: &'static str,
    /// A sentence for people: empty when ready.
    pub message: String,
    /// `cni`, `bridge`, or empty.
    pub driver: &'static str,
    /// The CNI network's name.
    pub network: Option<String>,
    pub conf_file: Option<PathBuf>,
    /// The bridge's subnets and how many of each one's addresses are in use.
    pub subnets: Vec<(Subnet, usize)>,
}

/// Why pods cannot be connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReady {
    pub reason: &'static str,
    pub message: String,
}

/// What a reconciliation did.
#[derive(Debug, Default)]
pub struct Reconciled {
    pub released: Vec<SandboxId>,
    /// These keep their records, and are tried again by the next one.
    pub failed: Vec<(SandboxId, Error)>,
}

/// A finished setup on its way to the caller. If nobody is there to take it any more, the pod is
/// disconnected again.
struct Delivery {
    inner: Arc<Inner>,
    sandbox: SandboxId,
    attachment: Option<Attachment>,
}

impl Network {
    /// Must be called in the host's network namespace, which the bridge then serves for good.
    /// Blocking; if pods of an earlier daemon are on the bridge, its table is made whole.
    pub fn new(config: NetworkConfig) -> Result<Self> {
        let records = Arc::new(Records::open(&config.state_dir)?);
        let bridge = match &config.bridge {
            Some(bridge) => Some(Arc::new(Bridge::open(
                bridge.clone(),
                Arc::clone(&records),
            )?)),
            None => None,
        };
        let inner = Inner {
            cni: Cni::new(&config, Arc::clone(&records)),
            bridge,
            changing: tokio::sync::RwLock::new(()),
            turns: Mutex::new(HashMap::new()),
            records,
        };
        let bridged = inner.take_up_ranges()?;
        if let (Some(bridge), true) = (&inner.bridge, bridged)
            && let Err(error) = bridge.ensure()
        {
            tracing::error!(?error, "the bridge of running pods cannot be restored");
        }
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Connects a pod. On failure nothing stays acquired, or a record stays that `teardown` and
    /// `reconcile` work off. Cancelling is safe: the work is finished and then undone behind.
    pub async fn setup(&self, pod: &PodNetwork) -> Result<Attachment> {
        let (inner, pod) = (Arc::clone(&self.inner), pod.clone());
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let connected = inner.connect(&pod).await.map(|attachment| Delivery {
                inner: Arc::clone(&inner),
                sandbox: pod.id.clone(),
                attachment: Some(attachment),
            });
            // An unsent delivery undoes itself when it is dropped.
            let _ = tell.send(connected);
        });
        let lost = Error::TaskLost {
            task: "berth-setup",
        };
        let mut delivery = told.await.unwrap_or(Err(lost))?;
        delivery.attachment.take().ok_or(Error::TaskLost {
            task: "berth-setup",
        })
    }

    /// Disconnects a pod; one that is not connected is no failure, nor is a namespace that is gone.
    /// On failure the record stays: call again. The interface itself goes with the namespace.
    pub async fn teardown(&self, sandbox: &SandboxId) -> Result<()> {
        self.disconnect(sandbox, false).await
    }

    /// The same for a namespace that will stay: the interface is removed too, which takes the
    /// kernel tens of milliseconds.
    pub async fn teardown_in_place(&self, sandbox: &SandboxId) -> Result<()> {
        self.disconnect(sandbox, true).await
    }

    async fn disconnect(&self, sandbox: &SandboxId, unplug: bool) -> Result<()> {
        let (inner, sandbox) = (Arc::clone(&self.inner), sandbox.clone());
        let task = tokio::spawn(async move {
            let _changing = inner.changing.read().await;
            let turn = inner.turn(&sandbox);
            let _turn = turn.lock().await;
            inner.disconnect(&sandbox, unplug).await
        });
        task.await.unwrap_or(Err(Error::TaskLost {
            task: "berth-teardown",
        }))
    }

    /// Whether pods can be connected now. Costs a few `stat`s; with CNI 1.1 also, at most every
    /// five seconds, a run of each plugin.
    pub async fn ready(&self) -> std::result::Result<(), NotReady> {
        let inner = &self.inner;
        let reason = match inner.cni.current() {
            Ok(chosen) => {
                return inner.cni.ready(&chosen).await.map_err(|message| NotReady {
                    reason: "NetworkPluginNotReady",
                    message,
                });
            }
            Err(reason) => reason,
        };
        let Some(bridge) = &inner.bridge else {
            return Err(NotReady {
                reason: "NetworkNotConfigured",
                message: reason,
            });
        };
        if bridge.fault().is_some() {
            // It may have been repaired in the meantime; if not, the fault says why.
            let _ = inner.with_bridge("berth-bridge", Bridge::ensure).await;
        }
        match bridge.fault() {
            None => Ok(()),
            Some(message) => Err(NotReady {
                reason: "BridgeNotReady",
                message,
            }),
        }
    }

    pub async fn status(&self) -> NetworkStatus {
        let ready = self.ready().await;
        let chosen = self.inner.cni.current().ok();
        let bridge = self.inner.bridge.as_ref();
        let not_ready = ready.as_ref().err();
        NetworkStatus {
            ready: ready.is_ok(),
            reason: not_ready.map_or("", |not| not.reason),
            message: not_ready.map(|not| not.message.clone()).unwrap_or_default(),
            driver: match (&chosen, bridge) {
                (Some(_), _) => "cni",
                (None, Some(_)) => "bridge",
                (None, None) => "",
            },
            network: chosen.as_ref().map(|chosen| chosen.list.name.clone()),
            conf_file: chosen.map(|chosen| chosen.path.clone()),
            subnets: bridge.map(|bridge| bridge.usage()).unwrap_or_default(),
        }
    }

    /// Releases what sandboxes hold that are not among the `live`: after a start, and whenever a
    /// teardown had to be left unfinished.
    pub async fn reconcile(&self, live: &HashSet<SandboxId>) -> Result<Reconciled> {
        let inner = &self.inner;
        let mut done = Reconciled::default();
        for record in inner.records.load()? {
            if live.contains(&record.sandbox) {
                continue;
            }
            match self.teardown(&record.sandbox).await {
                Ok(()) => done.released.push(record.sandbox),
                Err(error) => done.failed.push((record.sandbox, error)),
            }
        }
        if let Err(error) = self.collect(live).await {
            tracing::warn!(?error, "a CNI plugin did not collect its garbage");
        }
        Ok(done)
    }

    /// Has CNI plugins release what belongs neither to a pod with a record nor to one of the `live`.
    /// Meant to be called every few minutes. Says whether it was done: it is not while pods are
    /// being connected or disconnected, which the specification keeps apart from it.
    pub async fn collect(&self, live: &HashSet<SandboxId>) -> Result<bool> {
        let inner = &self.inner;
        let Ok(chosen) = inner.cni.current() else {
            return Ok(true);
        };
        let Ok(_alone) = inner.changing.try_write() else {
            return Ok(false);
        };
        let mut valid = live.clone();
        valid.extend(
            inner
                .records
                .load()?
                .into_iter()
                .map(|record| record.sandbox),
        );
        let valid: Vec<_> = valid.into_iter().collect();
        inner.cni.collect(&chosen, &valid).await.map(|()| true)
    }

    /// Restores what others took from the bridge: its interface, its table. Meant to be called
    /// every few seconds; costs two questions to the kernel. Says whether anything was amiss.
    pub async fn heal(&self) -> Result<bool> {
        if self.inner.bridge.is_none() {
            return Ok(false);
        }
        self.inner.with_bridge("berth-heal", Bridge::heal).await
    }

    /// The node's pod ranges, by the CRI's `UpdateRuntimeConfig`: offered to CNI plugins, written
    /// into a configuration where there is a template for one, and offered to the bridge as long as
    /// it does not stand. Later daemons know them too. Says whether the bridge has them. Blocking.
    pub fn set_pod_ranges(&self, ranges: &[Subnet]) -> Result<bool> {
        self.inner.records.put_pod_ranges(ranges)?;
        self.inner.offer_ranges(ranges)
    }

    /// Removes the bridge and its table from the host. Connected pods lose their network.
    pub async fn dismantle(&self) -> Result<()> {
        if self.inner.bridge.is_none() {
            return Ok(());
        }
        self.inner
            .with_bridge("berth-dismantle", Bridge::dismantle)
            .await
    }
}

impl Inner {
    fn offer_ranges(&self, ranges: &[Subnet]) -> Result<bool> {
        self.cni.offer_ranges(ranges);
        self.cni.generate(ranges)?;
        let bridge = self.bridge.as_ref();
        Ok(bridge.is_some_and(|bridge| bridge.offer_subnets(ranges)))
    }

    /// Goes on with the ranges that an earlier daemon was told of; says whether its pods are on the
    /// bridge. As long as they have addresses of another range, the bridge keeps that.
    fn take_up_ranges(&self) -> Result<bool> {
        let records = self.records.load()?;
        let bridged = || {
            records.iter().filter_map(|record| match &record.driver {
                Driver::Bridge(attachment) => Some(attachment),
                Driver::Cni(_) => None,
            })
        };
        let ranges = self.records.pod_ranges();
        let within =
            |address: &std::net::IpAddr| ranges.iter().any(|range| range.contains(*address));
        let fits = bridged().all(|pod| pod.addresses.iter().all(within));
        if !ranges.is_empty() && fits {
            self.offer_ranges(&ranges)?;
        }
        Ok(bridged().next().is_some())
    }

    async fn connect(&self, pod: &PodNetwork) -> Result<Attachment> {
        let _changing = self.changing.read().await;
        let turn = self.turn(&pod.id);
        let _turn = turn.lock().await;
        // What an earlier attempt left would be acquired twice.
        self.disconnect(&pod.id, true).await?;
        match self.cni.current() {
            Ok(chosen) => self.cni.attach(pod, &chosen).await,
            Err(reason) if self.bridge.is_none() => Err(Error::NotReady { reason }),
            Err(_) => {
                let pod = pod.clone();
                self.with_bridge("berth-attach", move |bridge| bridge.attach(&pod))
                    .await
            }
        }
    }

    async fn disconnect(&self, sandbox: &SandboxId, unplug: bool) -> Result<()> {
        let Some(record) = self.records.get(sandbox)? else {
            return Ok(());
        };
        match &record.driver {
            Driver::Cni(invocation) => self.cni.detach(&record, invocation).await,
            // A bridge that was configured away holds nothing but the record.
            Driver::Bridge(_) if self.bridge.is_none() => self.records.remove(sandbox),
            Driver::Bridge(_) => {
                let sandbox = sandbox.clone();
                let detach = move |bridge: &Bridge| bridge.detach(&sandbox, unplug);
                self.with_bridge("berth-detach", detach).await
            }
        }
    }

    /// Runs `task` on a thread of its own: it blocks, and may change its namespace.
    async fn with_bridge<T: Send + 'static>(
        &self,
        name: &'static str,
        task: impl FnOnce(&Bridge) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some(bridge) = self.bridge.clone() else {
            return Err(Error::NotReady {
                reason: "the built-in bridge is not configured".into(),
            });
        };
        threads::run_async(name, move || task(&bridge)).await
    }

    fn turn(&self, sandbox: &SandboxId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock();
        if let Some(turn) = turns.get(sandbox).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        turns.insert(sandbox.clone(), Arc::downgrade(&turn));
        turn
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.attachment.is_none() {
            return;
        }
        let (inner, sandbox) = (Arc::clone(&self.inner), self.sandbox.clone());
        // Without a runtime the daemon is ending; the next one reconciles.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            let _changing = inner.changing.read().await;
            let turn = inner.turn(&sandbox);
            let _turn = turn.lock().await;
            if let Err(error) = inner.disconnect(&sandbox, true).await {
                tracing::warn!(%sandbox, ?error, "a cancelled pod network is not undone yet");
            }
        });
    }
}
