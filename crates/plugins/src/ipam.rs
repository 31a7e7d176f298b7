//! What a driver of addresses is asked
//! (<https://github.com/moby/libnetwork/blob/master/docs/ipam.md>).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cidr::Cidr;
use crate::client::{Patience, Plugin};
use crate::error::{Error, Result};
use crate::registry::Plugins;

const INTERFACE: &str = "IpamDriver";
const GATEWAY: &str = "com.docker.network.gateway";

/// A pool that is asked for. Empty texts leave the choice to the driver.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct PoolRequest {
    pub address_space: String,
    pub pool: String,
    pub sub_pool: String,
    pub options: BTreeMap<String, String>,
    #[serde(rename = "V6")]
    pub ipv6: bool,
}

/// A pool that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginPool {
    pub id: String,
    pub pool: Cidr,
    /// The driver has one already, that needs not be asked for.
    pub gateway: Option<IpAddr>,
}

#[derive(Deserialize)]
struct Nothing {}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Capable {
    #[serde(rename = "RequiresMACAddress")]
    requires_mac: bool,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Spaces {
    local_default_address_space: String,
    global_default_address_space: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Pool {
    #[serde(rename = "PoolID")]
    id: String,
    #[serde(rename = "Pool")]
    pool: String,
    #[serde(rename = "Data")]
    data: BTreeMap<String, Value>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Given {
    address: String,
}

/// A plugin that gives addresses.
#[derive(Debug, Clone)]
pub struct IpamDriver(Arc<Plugin>);

impl IpamDriver {
    pub async fn open(plugins: &Plugins, name: &str, patience: Patience) -> Result<Self> {
        plugins.get(name, INTERFACE, patience).await.map(Self)
    }

    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Whether it wants to know the hardware address of who gets an address.
    pub async fn requires_mac(&self) -> Result<bool> {
        let method = "IpamDriver.GetCapabilities";
        let asked = self.0.call(method, &json!({}), Patience::Look).await;
        match asked {
            Err(error) if error.is_refusal() => Ok(false),
            other => other.map(|capable: Capable| capable.requires_mac),
        }
    }

    /// The address space of networks of this node, or of those that are the same on every node.
    pub async fn address_space(&self, global: bool) -> Result<String> {
        let method = "IpamDriver.GetDefaultAddressSpaces";
        let spaces: Spaces = self.0.call(method, &json!({}), Patience::Look).await?;
        Ok(match global {
            true => spaces.global_default_address_space,
            false => spaces.local_default_address_space,
        })
    }

    pub async fn request_pool(&self, wanted: &PoolRequest) -> Result<PluginPool> {
        let method = "IpamDriver.RequestPool";
        let given: Pool = self.0.call(method, wanted, Patience::Change).await?;
        let v4 = !wanted.ipv6;
        let pool = self.cidr(method, &given.pool)?;
        if pool.address.is_ipv4() != v4 {
            return Err(self.nonsense(method, format!("the pool {pool}, of the other family")));
        }
        let gateway = given.data.get(GATEWAY).and_then(Value::as_str);
        let gateway = gateway.filter(|text| !text.is_empty());
        let gateway = gateway.map(|text| self.cidr(method, text)).transpose()?;
        Ok(PluginPool {
            id: given.id,
            pool,
            gateway: gateway.map(|cidr| cidr.address),
        })
    }

    pub async fn release_pool(&self, pool: &str) -> Result<()> {
        let body = json!({ "PoolID": pool });
        self.change("IpamDriver.ReleasePool", &body).await
    }

    pub async fn request_address(
        &self,
        pool: &str,
        wanted: Option<IpAddr>,
        options: &BTreeMap<String, String>,
    ) -> Result<Cidr> {
        let method = "IpamDriver.RequestAddress";
        let address = wanted.map_or_else(String::new, |address| address.to_string());
        let body = json!({ "PoolID": pool, "Address": address, "Options": options });
        let given: Given = self.0.call(method, &body, Patience::Change).await?;
        let given = self.cidr(method, &given.address)?;
        match wanted.is_none_or(|wanted| wanted == given.address) {
            true => Ok(given),
            false => Err(self.nonsense(method, format!("{given}, where {address} was asked for"))),
        }
    }

    pub async fn release_address(&self, pool: &str, address: IpAddr) -> Result<()> {
        let body = json!({ "PoolID": pool, "Address": address });
        self.change("IpamDriver.ReleaseAddress", &body).await
    }

    /// An answer that cannot be acted upon, for who finds that out later.
    pub fn nonsense(&self, method: &str, what: String) -> Error {
        self.0.nonsense(method, what)
    }

    async fn change(&self, method: &str, body: &Value) -> Result<()> {
        let _nothing: Nothing = self.0.call(method, body, Patience::Change).await?;
        Ok(())
    }

    fn cidr(&self, method: &str, text: &str) -> Result<Cidr> {
        let cidr = text.parse();
        cidr.map_err(|()| self.nonsense(method, format!("{text:?}, which is no address/prefix")))
    }
}
