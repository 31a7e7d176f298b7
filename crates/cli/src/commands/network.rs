//! `network`.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::inspect::Inspect;
use super::ps::{cut, labels as shown_labels};
use super::{Outcome, confirm, each};
use crate::daemon::{Call, Client, segment};
use crate::error::{Error, Result};
use crate::options::{filters, labels, pairs};
use crate::output::{Listing, note, print_line};

const SHORT: usize = 12;

const COLUMNS: &[(&str, &str)] = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

#[derive(Debug, Subcommand)]
pub enum Network {
    /// List networks
    #[command(alias = "list")]
    Ls(List),
    /// Make a network
    Create(Create),
    /// Show everything about networks
    Inspect(Inspect),
    /// Put a container on a network
    Connect(Connect),
    /// Take a container off a network
    Disconnect(Disconnect),
    /// Remove networks
    #[command(alias = "remove")]
    Rm(Remove),
    /// Remove every network that no container is on
    Prune(Prune),
}

#[derive(Debug, Args)]
pub struct List {
    /// name=value, as in driver=bridge, name=front
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// table, json, or a template such as '{{.Name}}'
    #[arg(long)]
    format: Option<String>,
    /// Cut nothing
    #[arg(long)]
    no_trunc: bool,
    /// Ids alone
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub struct Create {
    /// bridge, or a plugin's name
    #[arg(short, long, default_value = "bridge")]
    driver: String,
    /// Who gives addresses: default, null, or a plugin's name
    #[arg(long, default_value = "default", value_name = "DRIVER")]
    ipam_driver: String,
    /// name=value of the one who gives addresses
    #[arg(long, value_name = "OPTION")]
    ipam_opt: Vec<String>,
    /// Addresses, as in 10.1.0.0/16
    #[arg(long, value_name = "SUBNET")]
    subnet: Vec<String>,
    /// Part of the subnet that containers get addresses of
    #[arg(long, value_name = "RANGE")]
    ip_range: Vec<String>,
    /// The host's address on it
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<String>,
    /// name=address that no container gets
    #[arg(long, value_name = "ADDRESS")]
    aux_address: Vec<String>,
    /// Without a way out
    #[arg(long)]
    internal: bool,
    /// Also with IPv6
    #[arg(long)]
    ipv6: bool,
    /// Containers that are not its own can join it
    #[arg(long)]
    attachable: bool,
    /// name[=value]
    #[arg(long)]
    label: Vec<String>,
    /// name=value of the driver
    #[arg(short, long, value_name = "OPTION")]
    opt: Vec<String>,
    name: String,
}

#[derive(Debug, Args)]
pub struct Connect {
    /// A further name on that network
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// IPv6 address
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    network: String,
    container: String,
}

#[derive(Debug, Args)]
pub struct Disconnect {
    /// Even if the container cannot be told
    #[arg(short, long)]
    force: bool,
    network: String,
    container: String,
}

#[derive(Debug, Args)]
pub struct Remove {
    /// Those that are not there are no error, and those whose plugin is gone are forgotten
    #[arg(short, long)]
    force: bool,
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Prune {
    /// name=value, as in until=24h, label=tier
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

impl Network {
    pub async fn run(self, client: &Client) -> Outcome {
        match self {
            Self::Ls(list) => list.run(client).await,
            Self::Create(create) => create.run(client).await,
            Self::Inspect(inspect) => inspect.of("network").run(client).await,
            Self::Connect(connect) => connect.run(client).await,
            Self::Disconnect(disconnect) => disconnect.run(client).await,
            Self::Rm(remove) => remove.run(client).await,
            Self::Prune(prune) => prune.run(client).await,
        }
    }
}

impl List {
    async fn run(self, client: &Client) -> Outcome {
        let call = Call::get("/networks").given("filters", filters(&self.filter)?);
        let mut found: Vec<Value> = client.ask(call).await?;
        found.sort_by_key(|network| network["Name"].as_str().map(str::to_owned));
        let shown = &["ID", "Name", "Driver", "Scope"];
        let mut listing = Listing::new(COLUMNS, shown, "ID");
        for network in &found {
            let text = |key: &str| network[key].as_str().unwrap_or_default();
            let flag = |key: &str| network[key].as_bool().unwrap_or(false).to_string();
            listing.push(json!({
                "ID": cut(text("Id"), SHORT, self.no_trunc),
                "Name": text("Name"),
                "Driver": text("Driver"),
                "Scope": text("Scope"),
                "IPv6": flag("EnableIPv6"),
                "Internal": flag("Internal"),
                "Labels": shown_labels(&network["Labels"]),
                "CreatedAt": text("Created"),
            }));
        }
        listing.print(self.quiet, self.format.as_deref(), self.no_trunc)?;
        Ok(0)
    }
}

impl Create {
    async fn run(self, client: &Client) -> Outcome {
        let call = Call::post("/networks/create").json(&self.body()?);
        let made: Value = client.ask(call).await?;
        if let Some(warning) = made["Warning"].as_str()
            && !warning.is_empty()
        {
            note(&format!("WARNING: {warning}"));
        }
        print_line(made["Id"].as_str().unwrap_or_default())?;
        Ok(0)
    }

    fn body(&self) -> Result<Value> {
        let mut body = json!({
            "Name": self.name,
            "Driver": self.driver,
            "Internal": self.internal,
            "Attachable": self.attachable,
            "EnableIPv6": self.ipv6,
            "Labels": labels(&self.label, &[])?,
            "Options": pairs(&self.opt),
        });
        let pools = self.pools()?;
        body["IPAM"] = json!({
            "Driver": self.ipam_driver,
            "Options": pairs(&self.ipam_opt),
            "Config": pools,
        });
        Ok(body)
    }

    /// Each range and gateway belongs to the subnet that holds it: to the one at its place, where
    /// there are as many of them.
    fn pools(&self) -> Result<Vec<Value>> {
        let most = self.ip_range.len().max(self.gateway.len());
        if most > self.subnet.len() {
            return Err(Error::usage(
                "a gateway or a range needs its --subnet, each its own",
            ));
        }
        let mut pools: Vec<Map<String, Value>> = Vec::new();
        for subnet in &self.subnet {
            let mut pool = Map::new();
            pool.insert("Subnet".into(), json!(subnet));
            let same_kind = |text: &&String| text.contains(':') == subnet.contains(':');
            let place = pools.iter().filter(|earlier| {
                let earlier = earlier["Subnet"].as_str().unwrap_or_default();
                earlier.contains(':') == subnet.contains(':')
            });
            let place = place.count();
            if let Some(range) = self.ip_range.iter().filter(same_kind).nth(place) {
                pool.insert("IPRange".into(), json!(range));
            }
            if let Some(gateway) = self.gateway.iter().filter(same_kind).nth(place) {
                pool.insert("Gateway".into(), json!(gateway));
            }
            if place == 0 && pools.is_empty() && !self.aux_address.is_empty() {
                pool.insert("AuxiliaryAddresses".into(), pairs(&self.aux_address).into());
            }
            pools.push(pool);
        }
        Ok(pools.into_iter().map(Value::Object).collect())
    }
}

impl Connect {
    async fn run(self, client: &Client) -> Outcome {
        let mut endpoint = json!({});
        if !self.alias.is_empty() {
            endpoint["Aliases"] = json!(self.alias);
        }
        if self.ip.is_some() || self.ip6.is_some() {
            let mut address = Map::new();
            address.extend(self.ip.map(|ip| ("IPv4Address".to_owned(), ip.into())));
            address.extend(self.ip6.map(|ip| ("IPv6Address".to_owned(), ip.into())));
            endpoint["IPAMConfig"] = Value::Object(address);
        }
        let body = json!({"Container": self.container, "EndpointConfig": endpoint});
        let call = Call::post(format!("/networks/{}/connect", segment(&self.network)));
        client.tell(call.json(&body)).await.map(|()| 0)
    }
}

impl Disconnect {
    async fn run(self, client: &Client) -> Outcome {
        let body = json!({"Container": self.container, "Force": self.force});
        let call = Call::post(format!("/networks/{}/disconnect", segment(&self.network)));
        client.tell(call.json(&body)).await.map(|()| 0)
    }
}

impl Remove {
    async fn run(self, client: &Client) -> Outcome {
        each(&self.networks, async |name| {
            let call = Call::delete(format!("/networks/{}", segment(name)));
            let call = call.given("force", if self.force { "1" } else { "" });
            match client.tell(call).await {
                Err(error) if self.force && error.is_not_found() => Ok(()),
                Err(error) => Err(error),
                Ok(()) => print_line(name),
            }
        })
        .await
    }
}

impl Prune {
    async fn run(self, client: &Client) -> Outcome {
        if !self.force && !confirm("Every network that no container is on will be removed")? {
            return Ok(0);
        }
        let filters = filters(&self.filter)?;
        prune(client, &filters).await?;
        Ok(0)
    }
}

pub async fn prune(client: &Client, filters: &str) -> Result<()> {
    let call = Call::post("/networks/prune").given("filters", filters);
    let gone: Value = client.ask(call).await?;
    let names: Vec<&str> = gone["NetworksDeleted"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !names.is_empty() {
        print_line(&format!("Deleted Networks:\n{}\n", names.join("\n")))?;
    }
    Ok(())
}
