//! What a volume driver is asked
//! (<https://docs.docker.com/engine/extend/plugins_volume/#volume-plugin-protocol>).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::client::{Patience, Plugin};
use crate::error::{Error, Result};
use crate::registry::Plugins;

const INTERFACE: &str = "VolumeDriver";

/// A volume as its plugin tells it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PluginVolume {
    pub name: String,
    /// Empty while it is mounted nowhere.
    pub mountpoint: PathBuf,
    /// RFC 3339.
    pub created_at: String,
    pub status: Map<String, Value>,
}

#[derive(Deserialize)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct One {
    volume: PluginVolume,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Many {
    volumes: Vec<PluginVolume>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Place {
    mountpoint: PathBuf,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Capable {
    capabilities: Capabilities,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Capabilities {
    scope: String,
}

/// A plugin that has volumes.
#[derive(Debug, Clone)]
pub struct VolumeDriver(Arc<Plugin>);

impl VolumeDriver {
    pub async fn open(plugins: &Plugins, name: &str, patience: Patience) -> Result<Self> {
        plugins.get(name, INTERFACE, patience).await.map(Self)
    }

    /// Every one that is there, and why others could not be asked.
    pub async fn all(plugins: &Plugins) -> (Vec<Self>, Vec<(String, Error)>) {
        let found = plugins.all(INTERFACE).await;
        (found.plugins.into_iter().map(Self).collect(), found.failed)
    }

    pub fn name(&self) -> &str {
        self.0.name()
    }

    pub async fn create(&self, volume: &str, options: &BTreeMap<String, String>) -> Result<()> {
        let body = json!({ "Name": volume, "Opts": options });
        self.change("VolumeDriver.Create", &body).await
    }

    pub async fn remove(&self, volume: &str) -> Result<()> {
        self.change("VolumeDriver.Remove", &json!({ "Name": volume }))
            .await
    }

    /// Makes the volume's files appear on the host and says where. `holder` is who needs them: a
    /// plugin counts those.
    pub async fn mount(&self, volume: &str, holder: &str) -> Result<PathBuf> {
        let method = "VolumeDriver.Mount";
        let body = json!({ "Name": volume, "ID": holder });
        let place: Place = self.0.call(method, &body, Patience::Change).await?;
        match place.mountpoint.is_absolute() {
            true => Ok(place.mountpoint),
            false => Err(Error::Garbled {
                name: self.name().to_owned(),
                method: method.to_owned(),
                what: format!("{:?}, which is no absolute path", place.mountpoint),
            }),
        }
    }

    pub async fn unmount(&self, volume: &str, holder: &str) -> Result<()> {
        let body = json!({ "Name": volume, "ID": holder });
        self.change("VolumeDriver.Unmount", &body).await
    }

    pub async fn get(&self, volume: &str) -> Result<PluginVolume> {
        let body = json!({ "Name": volume });
        let one: One = (self.0)
            .call("VolumeDriver.Get", &body, Patience::Look)
            .await?;
        Ok(one.volume)
    }

    pub async fn list(&self) -> Result<Vec<PluginVolume>> {
        let many: Many = (self.0)
            .call("VolumeDriver.List", &json!({}), Patience::Look)
            .await?;
        Ok(many.volumes)
    }

    /// `local`, or `global` for volumes that are the same on every node. A plugin that does not say
    /// means this node.
    pub async fn scope(&self) -> Result<&'static str> {
        let method = "VolumeDriver.Capabilities";
        let asked = self.0.call(method, &json!({}), Patience::Look).await;
        let capable: Capable = match asked {
            Err(error) if error.is_refusal() => Capable::default(),
            other => other?,
        };
        match capable.capabilities.scope.to_lowercase().as_str() {
            "global" => Ok("global"),
            _ => Ok("local"),
        }
    }

    async fn change(&self, method: &str, body: &Value) -> Result<()> {
        let _nothing: Nothing = self.0.call(method, body, Patience::Change).await?;
        Ok(())
    }
}
