//! What a network driver is asked: the remote driver's contract of libnetwork
//! (<https://github.com/moby/moby/tree/master/libnetwork/drivers/remote/api>).
//!
//! ```text
//!   CreateNetwork ─▶ CreateEndpoint ─▶ Join ─▶ ProgramExternalConnectivity
//!   DeleteNetwork ◀─ DeleteEndpoint ◀─ Leave ◀─ RevokeExternalConnectivity
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::cidr::Cidr;
use crate::client::{Patience, Plugin};
use crate::error::{Error, Result};
use crate::registry::Plugins;

const INTERFACE: &str = "NetworkDriver";

/// A subnet of a network, as its driver learns of it: every address with its prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkPool {
    pub address_space: String,
    pub pool: String,
    pub gateway: String,
    pub aux_addresses: BTreeMap<String, String>,
}

/// A network that is to be made.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkDraft {
    #[serde(rename = "NetworkID")]
    pub id: String,
    pub options: Map<String, Value>,
    #[serde(rename = "IPv4Data")]
    pub ipv4: Vec<NetworkPool>,
    #[serde(rename = "IPv6Data")]
    pub ipv6: Vec<NetworkPool>,
}

/// What an interface has been given, or is to have. The driver says what nobody said yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PluginInterface {
    pub ipv4: Option<Cidr>,
    pub ipv6: Option<Cidr>,
    /// As text: what a hardware address is, is not decided here.
    pub mac: String,
}

/// What is to be done with an endpoint in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Joined {
    /// The interface in the host's namespace; empty where the container gets none.
    pub source: String,
    /// What it is called in the container, less its number.
    pub prefix: String,
    pub gateway: Option<IpAddr>,
    pub gateway_ipv6: Option<IpAddr>,
    pub routes: Vec<PluginRoute>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginRoute {
    pub destination: Cidr,
    /// `None`: what is there is on the interface's own link.
    pub next_hop: Option<IpAddr>,
}

#[derive(Deserialize)]
struct Nothing {}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Capable {
    scope: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Made {
    interface: Told,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Told {
    #[serde(rename = "Address")]
    ipv4: String,
    #[serde(rename = "AddressIPv6")]
    ipv6: String,
    #[serde(rename = "MacAddress")]
    mac: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Answer {
    #[serde(rename = "InterfaceName")]
    interface: Names,
    #[serde(rename = "Gateway")]
    gateway: String,
    #[serde(rename = "GatewayIPv6")]
    gateway_ipv6: String,
    #[serde(rename = "StaticRoutes")]
    routes: Vec<Route>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Names {
    src_name: String,
    dst_prefix: String,
}

/// `RouteType` 0 leads to the next hop, 1 to the link.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Route {
    destination: String,
    route_type: u8,
    next_hop: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Info {
    value: Map<String, Value>,
}

/// A plugin that has networks.
#[derive(Debug, Clone)]
pub struct NetworkDriver(Arc<Plugin>);

impl NetworkDriver {
    pub async fn open(plugins: &Plugins, name: &str, patience: Patience) -> Result<Self> {
        plugins.get(name, INTERFACE, patience).await.map(Self)
    }

    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// `local`, or `global` for networks that are the same on every node.
    pub async fn scope(&self) -> Result<&'static str> {
        let method = "NetworkDriver.GetCapabilities";
        let capable: Capable = match self.0.call(method, &json!({}), Patience::Look).await {
            Err(error) if error.is_unknown_method() => Capable::default(),
            other => other?,
        };
        match capable.scope.to_lowercase().as_str() {
            "" | "local" => Ok("local"),
            "global" => Ok("global"),
            other => Err(self.nonsense(method, format!("the scope {other:?}"))),
        }
    }

    pub async fn create_network(&self, network: &NetworkDraft) -> Result<()> {
        self.change("NetworkDriver.CreateNetwork", network).await
    }

    pub async fn delete_network(&self, network: &str) -> Result<()> {
        let body = json!({ "NetworkID": network });
        self.change("NetworkDriver.DeleteNetwork", &body).await
    }

    /// Answers with what the driver adds to the interface.
    pub async fn create_endpoint(
        &self,
        network: &str,
        endpoint: &str,
        interface: &PluginInterface,
        options: &Map<String, Value>,
    ) -> Result<PluginInterface> {
        let method = "NetworkDriver.CreateEndpoint";
        let text = |cidr: Option<Cidr>| cidr.map_or_else(String::new, |cidr| cidr.to_string());
        let body = json!({
            "NetworkID": network,
            "EndpointID": endpoint,
            "Interface": {
                "Address": text(interface.ipv4),
                "AddressIPv6": text(interface.ipv6),
                "MacAddress": interface.mac,
            },
            "Options": options,
        });
        let made: Made = self.0.call(method, &body, Patience::Change).await?;
        let told = made.interface;
        Ok(PluginInterface {
            ipv4: self.cidr(method, &told.ipv4, true)?,
            ipv6: self.cidr(method, &told.ipv6, false)?,
            mac: told.mac,
        })
    }

    pub async fn delete_endpoint(&self, network: &str, endpoint: &str) -> Result<()> {
        let method = "NetworkDriver.DeleteEndpoint";
        self.change(method, &of(network, endpoint)).await
    }

    /// What the driver tells of an endpoint; nothing, if it does not know the question.
    pub async fn endpoint_info(&self, network: &str, endpoint: &str) -> Result<Map<String, Value>> {
        let method = "NetworkDriver.EndpointOperInfo";
        let body = of(network, endpoint);
        match self.0.call(method, &body, Patience::Look).await {
            Err(error) if error.is_refusal() => Ok(Map::new()),
            other => other.map(|info: Info| info.value),
        }
    }

    /// `sandbox` is the container's network namespace.
    pub async fn join(
        &self,
        network: &str,
        endpoint: &str,
        sandbox: &Path,
        options: &Map<String, Value>,
    ) -> Result<Joined> {
        let method = "NetworkDriver.Join";
        let mut body = of(network, endpoint);
        body["SandboxKey"] = json!(sandbox);
        body["Options"] = json!(options);
        let answer: Answer = self.0.call(method, &body, Patience::Change).await?;
        let routes = answer.routes.iter().map(|route| self.route(method, route));
        Ok(Joined {
            gateway: self.address(method, &answer.gateway, true)?,
            gateway_ipv6: self.address(method, &answer.gateway_ipv6, false)?,
            routes: routes.collect::<Result<_>>()?,
            source: answer.interface.src_name,
            prefix: answer.interface.dst_prefix,
        })
    }

    pub async fn leave(&self, network: &str, endpoint: &str) -> Result<()> {
        let method = "NetworkDriver.Leave";
        self.change(method, &of(network, endpoint)).await
    }

    /// The endpoint is its container's way out; `options` have the ports to publish. A driver need
    /// not know the question.
    pub async fn program_external(
        &self,
        network: &str,
        endpoint: &str,
        options: &Map<String, Value>,
    ) -> Result<()> {
        let mut body = of(network, endpoint);
        body["Options"] = json!(options);
        let method = "NetworkDriver.ProgramExternalConnectivity";
        or_unknown(self.change(method, &body).await)
    }

    pub async fn revoke_external(&self, network: &str, endpoint: &str) -> Result<()> {
        let method = "NetworkDriver.RevokeExternalConnectivity";
        or_unknown(self.change(method, &of(network, endpoint)).await)
    }

    /// An answer that cannot be acted upon, for who finds that out later.
    pub fn nonsense(&self, method: &str, what: String) -> Error {
        self.0.nonsense(method, what)
    }

    async fn change(&self, method: &str, body: &impl Serialize) -> Result<()> {
        let _nothing: Nothing = self.0.call(method, body, Patience::Change).await?;
        Ok(())
    }

    fn route(&self, method: &str, route: &Route) -> Result<PluginRoute> {
        let nonsense = |what: &str| {
            let (to, by) = (&route.destination, &route.next_hop);
            self.nonsense(method, format!("a route to {to:?} by {by:?}: {what}"))
        };
        let destination: Cidr =
            (route.destination.parse()).map_err(|()| nonsense("its destination is no subnet"))?;
        let next_hop = match (route.route_type, route.next_hop.as_str()) {
            (1, _) => None,
            (0, text) => Some(text.parse().map_err(|_| nonsense("no next hop"))?),
            (other, _) => return Err(nonsense(&format!("of the type {other}"))),
        };
        let same = |hop: IpAddr| hop.is_ipv4() == destination.address.is_ipv4();
        match next_hop.is_none_or(same) {
            true => Ok(PluginRoute {
                destination,
                next_hop,
            }),
            false => Err(nonsense("of two families")),
        }
    }

    fn cidr(&self, method: &str, text: &str, v4: bool) -> Result<Option<Cidr>> {
        if text.is_empty() {
            return Ok(None);
        }
        let parsed: Option<Cidr> = text.parse().ok();
        match parsed.filter(|cidr| cidr.address.is_ipv4() == v4) {
            Some(cidr) => Ok(Some(cidr)),
            None => Err(self.nonsense(method, format!("the {} address {text:?}", family(v4)))),
        }
    }

    fn address(&self, method: &str, text: &str, v4: bool) -> Result<Option<IpAddr>> {
        if text.is_empty() {
            return Ok(None);
        }
        let parsed: Option<IpAddr> = text.parse().ok();
        match parsed.filter(|address| address.is_ipv4() == v4) {
            Some(address) => Ok(Some(address)),
            None => Err(self.nonsense(method, format!("the {} gateway {text:?}", family(v4)))),
        }
    }
}

fn of(network: &str, endpoint: &str) -> Value {
    json!({ "NetworkID": network, "EndpointID": endpoint })
}

fn or_unknown(answer: Result<()>) -> Result<()> {
    match answer {
        Err(error) if error.is_unknown_method() => Ok(()),
        other => other,
    }
}

fn family(v4: bool) -> &'static str {
    if v4 { "IPv4" } else { "IPv6" }
}
