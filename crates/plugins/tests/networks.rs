//! Plugins that have networks and addresses, and what they may answer.
#![allow(clippy::unwrap_used)] // a fake plugin that cannot answer fails the test

mod fake;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use berth_plugins::{
    Config, Error, IpamDriver, NetworkDraft, NetworkDriver, NetworkPool, Patience, PluginInterface,
    Plugins, PoolRequest,
};
use fake::{Script, json, plugin};
use serde_json::{Map, Value};

fn plugins(dir: &Path) -> Plugins {
    Plugins::new(Config {
        sockets: dir.to_owned(),
        specs: Vec::new(),
        look: Duration::from_millis(300),
        change: Duration::from_millis(600),
    })
}

fn unknown() -> Option<String> {
    Some("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned())
}

fn good(method: &str) -> Option<String> {
    let text = match method {
        "Plugin.Activate" => r#"{"Implements": ["NetworkDriver", "IpamDriver"]}"#,
        "NetworkDriver.GetCapabilities" => r#"{"Scope": "global", "ConnectivityScope": "local"}"#,
        "NetworkDriver.CreateEndpoint" => {
            r#"{"Interface": {"MacAddress": "02:42:0a:01:00:05", "Address": null}}"#
        }
        "NetworkDriver.Join" => {
            r#"{"InterfaceName": {"SrcName": "veth5", "DstPrefix": "eth"}, "Gateway": "10.1.0.1",
                "GatewayIPv6": "", "DisableGatewayService": false, "StaticRoutes": [
                {"Destination": "10.9.0.0/16", "RouteType": 0, "NextHop": "10.1.0.2"},
                {"Destination": "10.8.0.0/16", "RouteType": 1, "NextHop": ""}]}"#
        }
        "NetworkDriver.EndpointOperInfo" => r#"{"Value": {"a": [1]}}"#,
        "IpamDriver.GetDefaultAddressSpaces" => {
            r#"{"LocalDefaultAddressSpace": "here", "GlobalDefaultAddressSpace": "all"}"#
        }
        "IpamDriver.RequestPool" => {
            r#"{"PoolID": "here/1", "Pool": "10.1.0.0/16",
                "Data": {"com.docker.network.gateway": "10.1.0.1/16"}}"#
        }
        "IpamDriver.RequestAddress" => r#"{"Address": "10.1.0.5/16", "Data": null}"#,
        "IpamDriver.GetCapabilities" | "NetworkDriver.RevokeExternalConnectivity" => {
            return unknown();
        }
        "NetworkDriver.DeleteNetwork" => r#"{"Err": "it is in use"}"#,
        _ => "{}",
    };
    json(text)
}

#[tokio::test]
async fn a_network_and_its_endpoints_are_asked_for_as_the_contract_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let asked = plugin(&dir.path().join("loom.sock"), good);
    let plugins = plugins(dir.path());
    let driver = NetworkDriver::open(&plugins, "loom", Patience::Change);
    let driver = driver.await.unwrap();
    assert_eq!(driver.scope().await.unwrap(), "global");
    let draft = NetworkDraft {
        id: "n1".to_owned(),
        options: Map::from_iter([("com.docker.network.enable_ipv6".to_owned(), false.into())]),
        ipv4: vec![NetworkPool {
            address_space: "here".to_owned(),
            pool: "10.1.0.0/16".to_owned(),
            gateway: "10.1.0.1/16".to_owned(),
            aux_addresses: BTreeMap::new(),
        }],
        ipv6: Vec::new(),
    };
    driver.create_network(&draft).await.unwrap();
    let given = PluginInterface {
        ipv4: "10.1.0.5/16".parse().ok(),
        ..PluginInterface::default()
    };
    let none = Map::new();
    let added = driver
        .create_endpoint("n1", "e1", &given, &none)
        .await
        .unwrap();
    assert_eq!(
        (added.mac.as_str(), added.ipv4),
        ("02:42:0a:01:00:05", None)
    );
    let sandbox = Path::new("/run/netns/1");
    let joined = driver.join("n1", "e1", sandbox, &none).await.unwrap();
    assert_eq!((&*joined.source, &*joined.prefix), ("veth5", "eth"));
    assert_eq!(joined.gateway.unwrap().to_string(), "10.1.0.1");
    assert_eq!(joined.gateway_ipv6, None);
    let hops: Vec<Option<IpAddr>> = joined.routes.iter().map(|route| route.next_hop).collect();
    assert_eq!(hops, ["10.1.0.2".parse().ok(), None]);
    driver.program_external("n1", "e1", &none).await.unwrap();
    driver.revoke_external("n1", "e1").await.unwrap();
    assert_eq!(driver.endpoint_info("n1", "e1").await.unwrap().len(), 1);
    driver.leave("n1", "e1").await.unwrap();
    driver.delete_endpoint("n1", "e1").await.unwrap();
    let refused = driver.delete_network("n1").await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "NetworkDriver.DeleteNetwork: it is in use"
    );
    assert!(refused.did_nothing());

    let body = |method: &str| -> Value {
        let asked = asked.lock();
        let found = asked.iter().find(|(one, _)| one == method).unwrap();
        serde_json::from_str(&found.1).unwrap()
    };
    let made = body("NetworkDriver.CreateNetwork");
    assert_eq!(
        made,
        serde_json::json!({"NetworkID": "n1", "IPv6Data": [],
            "Options": {"com.docker.network.enable_ipv6": false},
            "IPv4Data": [{"AddressSpace": "here", "Pool": "10.1.0.0/16",
                "Gateway": "10.1.0.1/16", "AuxAddresses": {}}]})
    );
    assert_eq!(
        body("NetworkDriver.CreateEndpoint"),
        serde_json::json!({"NetworkID": "n1", "EndpointID": "e1", "Options": {},
            "Interface": {"Address": "10.1.0.5/16", "AddressIPv6": "", "MacAddress": ""}})
    );
    assert_eq!(
        body("NetworkDriver.Join"),
        serde_json::json!({"NetworkID": "n1", "EndpointID": "e1",
            "SandboxKey": "/run/netns/1", "Options": {}})
    );
}

#[tokio::test]
async fn pools_and_addresses_are_asked_for_as_the_contract_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let asked = plugin(&dir.path().join("loom.sock"), good);
    let plugins = plugins(dir.path());
    let driver = IpamDriver::open(&plugins, "loom", Patience::Change);
    let driver = driver.await.unwrap();
    assert!(!driver.requires_mac().await.unwrap());
    assert_eq!(driver.address_space(false).await.unwrap(), "here");
    let wanted = PoolRequest {
        address_space: "here".to_owned(),
        pool: "10.1.0.0/16".to_owned(),
        ..PoolRequest::default()
    };
    let pool = driver.request_pool(&wanted).await.unwrap();
    assert_eq!((&*pool.id, pool.pool.prefix), ("here/1", 16));
    assert_eq!(pool.gateway.unwrap().to_string(), "10.1.0.1");
    let none = BTreeMap::new();
    let given = driver.request_address("here/1", None, &none).await.unwrap();
    assert_eq!(given.to_string(), "10.1.0.5/16");
    driver
        .release_address("here/1", given.address)
        .await
        .unwrap();
    driver.release_pool("here/1").await.unwrap();

    let asked = asked.lock();
    let bodies: Vec<(&str, Value)> = (asked.iter().skip(3))
        .map(|(method, body)| (method.as_str(), serde_json::from_str(body).unwrap()))
        .collect();
    assert_eq!(
        bodies,
        [
            (
                "IpamDriver.RequestPool",
                serde_json::json!({"AddressSpace": "here", "Pool": "10.1.0.0/16", "SubPool": "",
                    "Options": {}, "V6": false})
            ),
            (
                "IpamDriver.RequestAddress",
                serde_json::json!({"PoolID": "here/1", "Address": "", "Options": {}})
            ),
            (
                "IpamDriver.ReleaseAddress",
                serde_json::json!({"PoolID": "here/1", "Address": "10.1.0.5"})
            ),
            (
                "IpamDriver.ReleasePool",
                serde_json::json!({"PoolID": "here/1"})
            ),
        ]
    );
}

macro_rules! says {
    ($method:literal, $text:literal) => {
        (|method: &str| match method {
            $method => json($text),
            other => good(other),
        }) as Script
    };
}

#[tokio::test]
async fn answers_that_cannot_be_acted_upon_are_told_with_their_plugin_and_method() {
    let cases: [(&str, Script, &str); 12] = [
        (
            "scope",
            says!("NetworkDriver.GetCapabilities", r#"{"Scope": "lunar"}"#),
            r#"the scope "lunar""#,
        ),
        (
            "address",
            says!(
                "NetworkDriver.CreateEndpoint",
                r#"{"Interface": {"Address": "10.1.0.5"}}"#
            ),
            r#"the IPv4 address "10.1.0.5""#,
        ),
        (
            "family",
            says!(
                "NetworkDriver.CreateEndpoint",
                r#"{"Interface": {"AddressIPv6": "10.1.0.5/8"}}"#
            ),
            "the IPv6 address",
        ),
        (
            "kind",
            says!("NetworkDriver.CreateEndpoint", r#"{"Interface": "eth0"}"#),
            "something else",
        ),
        (
            "gateway",
            says!("NetworkDriver.Join", r#"{"Gateway": "10.1.0.1/16"}"#),
            r#"the IPv4 gateway "10.1.0.1/16""#,
        ),
        (
            "route",
            says!(
                "NetworkDriver.Join",
                r#"{"StaticRoutes": [{"Destination": "all"}]}"#
            ),
            "its destination is no subnet",
        ),
        (
            "hop",
            says!(
                "NetworkDriver.Join",
                r#"{"StaticRoutes": [{"Destination": "10.0.0.0/8"}]}"#
            ),
            "no next hop",
        ),
        (
            "families",
            says!(
                "NetworkDriver.Join",
                r#"{"StaticRoutes": [{"Destination": "10.0.0.0/8", "NextHop": "fd00::1"}]}"#
            ),
            "of two families",
        ),
        (
            "type",
            says!(
                "NetworkDriver.Join",
                r#"{"StaticRoutes": [{"Destination": "10.0.0.0/8", "RouteType": 7}]}"#
            ),
            "of the type 7",
        ),
        (
            "pool",
            says!(
                "IpamDriver.RequestPool",
                r#"{"PoolID": "p", "Pool": "10.1.0.0/64"}"#
            ),
            "which is no address/prefix",
        ),
        (
            "pools",
            says!(
                "IpamDriver.RequestPool",
                r#"{"PoolID": "p", "Pool": "fd00::/64"}"#
            ),
            "of the other family",
        ),
        (
            "given",
            says!("IpamDriver.RequestAddress", r#"{"Address": "10.1.0.6/16"}"#),
            "10.1.0.6/16, where 10.1.0.5 was asked for",
        ),
    ];
    let dir = tempfile::tempdir().unwrap();
    let plugins = plugins(dir.path());
    for (name, script, said) in cases {
        plugin(&dir.path().join(format!("{name}.sock")), script);
        let error = first_error(&plugins, name).await;
        assert!(matches!(error, Error::Garbled { .. }), "{name}: {error:?}");
        // It was asked, and may have done it.
        assert!(!error.did_nothing());
        let error = error.report();
        let begin = format!("plugin \"{name}\" answered ");
        assert!(error.starts_with(&begin) && error.contains(said), "{error}");
    }
}

/// Asks for everything in turn.
async fn first_error(plugins: &Plugins, name: &str) -> Error {
    let ask = async {
        let (none, texts) = (Map::new(), BTreeMap::new());
        let driver = NetworkDriver::open(plugins, name, Patience::Change).await?;
        driver.scope().await?;
        let nothing = PluginInterface::default();
        driver.create_endpoint("n", "e", &nothing, &none).await?;
        driver.join("n", "e", Path::new("/s"), &none).await?;
        let driver = IpamDriver::open(plugins, name, Patience::Change).await?;
        driver.request_pool(&PoolRequest::default()).await?;
        let wanted = "10.1.0.5".parse().ok();
        driver.request_address("p", wanted, &texts).await?;
        Ok(())
    };
    let asked: Result<(), Error> = ask.await;
    asked.unwrap_err()
}

#[tokio::test]
async fn a_driver_that_hangs_costs_the_time_that_a_change_may_take() {
    let dir = tempfile::tempdir().unwrap();
    let hangs: Script = |method: &str| match method {
        "NetworkDriver.Join" => None,
        other => good(other),
    };
    plugin(&dir.path().join("loom.sock"), hangs);
    let plugins = plugins(dir.path());
    let began = std::time::Instant::now();
    let error = first_error(&plugins, "loom").await;
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
    assert!(!error.did_nothing() && began.elapsed() < Duration::from_secs(5));
}
