//! Networks and addresses of plugins against the real kernel, on a host of the test's own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use berth_names::ContainerId;
use berth_network::{
    Dns, EndpointRequest, HostPort, IpamConfig, Member, Membership, Networks, NetworksConfig,
    NewNetwork, PortRequest, Protocol,
};
use berth_plugins::{Config, Plugins};
use harness::plugin::{Kept, Manner, Plugin};
use harness::{Host, Pod, ask, on_own_host, run, serve};
use serde_json::json;

const SOON: Duration = Duration::from_secs(10);

/// A daemon; another one after it finds what it has left.
fn open(host: &Host) -> Networks {
    let plugins = Config {
        sockets: host.path(""),
        specs: Vec::new(),
        look: Duration::from_secs(1),
        change: Duration::from_secs(1),
    };
    let config = NetworksConfig {
        bridge: "test0".to_owned(),
        resolv_conf: host.path("resolv.conf"),
        plugins: Plugins::new(plugins),
        ..NetworksConfig::new(host.path("records"), host.path("live"))
    };
    Networks::open(config).unwrap()
}

fn loom(host: &Host) -> Plugin {
    let plugin = Plugin::default();
    plugin.listen(&host.path(""), "loom");
    plugin
}

fn plugged(name: &str, ipam: &str) -> NewNetwork {
    let subnet = IpamConfig {
        subnet: Some("10.77.0.0/16".parse().unwrap()),
        ..IpamConfig::default()
    };
    NewNetwork {
        driver: "loom".to_owned(),
        ipam_driver: ipam.to_owned(),
        ipam: vec![subnet],
        options: [("colour".to_owned(), "red".to_owned())].into(),
        ..NewNetwork::named(name)
    }
}

fn member(pod: &Pod) -> Member {
    Member {
        id: ContainerId::parse(pod.id.as_str()).unwrap(),
        name: format!("c{}", &pod.id.as_str()[..2]),
        netns: pod.netns.clone(),
        ports: Vec::new(),
        dns: Dns::default(),
    }
}

async fn join(networks: &Networks, pod: &Pod, network: &str) -> Membership {
    let request = EndpointRequest::default();
    let joined = networks.attach(member(pod), network, request).await;
    joined.unwrap()
}

/// What is on the host, but for a firewall.
fn links() -> String {
    run("ip", &["-br", "link"])
}

fn recorded(host: &Host) -> usize {
    std::fs::read_dir(host.path("records/asked"))
        .unwrap()
        .count()
}

fn until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < SOON, "not yet: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_container_has_what_the_plugin_says_and_nothing_of_it_stays() {
    on_own_host(|host| async move {
        let (before, plugin, networks) = (links(), loom(&host), open(&host));
        networks.create(plugged("mesh", "")).await.unwrap();
        let made = &plugin.asked("NetworkDriver.CreateNetwork")[0];
        assert_eq!(
            made["Options"]["com.docker.network.generic"],
            json!({"colour": "red"})
        );
        assert_eq!(
            made["IPv4Data"],
            json!([{"AddressSpace": "LocalDefault", "Pool": "10.77.0.0/16",
                "Gateway": "10.77.0.1/16", "AuxAddresses": {}}])
        );
        let pod = host.pod(1);
        let mut wanted = member(&pod);
        wanted.ports = vec![PortRequest {
            protocol: Protocol::Tcp,
            container_port: 80,
            host_ip: None,
            host_port: HostPort::Among(8080..=8080),
        }];
        let request = EndpointRequest {
            ipv4: "10.77.3.4".parse().ok(),
            ..EndpointRequest::default()
        };
        let joined = networks.attach(wanted, "mesh", request).await.unwrap();
        let asked = &plugin.asked("NetworkDriver.CreateEndpoint")[0];
        assert_eq!(asked["Interface"]["Address"], "10.77.3.4/16");
        assert_eq!(asked["Interface"]["MacAddress"], "");
        let join = &plugin.asked("NetworkDriver.Join")[0];
        assert_eq!(join["SandboxKey"], json!(pod.netns));
        let out = &plugin.asked("NetworkDriver.ProgramExternalConnectivity")[0];
        assert_eq!(
            out["Options"]["com.docker.network.portmap"][0]["HostPort"],
            8080
        );
        let published: Vec<u16> = joined.published().map(|port| port.host_port).collect();
        assert_eq!(published, [8080]);

        let inside = pod.inside(|| run("ip", &["addr", "show", "loom0"]));
        for part in ["10.77.3.4/16", "02:42:aa:00:00:01", "state UP"] {
            assert!(inside.contains(part), "{part}: {inside}");
        }
        let routes = pod.inside(|| run("ip", &["route"]));
        for part in [
            "default via 10.77.0.1 dev loom0",
            "10.99.0.0/16 via 10.77.0.9",
            "10.98.0.0/16 dev loom0",
        ] {
            assert!(routes.contains(part), "{part}: {routes}");
        }
        // One more network beside, and back: the way out is told to who has it.
        networks.create(NewNetwork::named("aside")).await.unwrap();
        join_first(&networks, &pod, "aside").await;
        assert!(
            plugin.kept().ways_out.is_empty(),
            "the way out is elsewhere"
        );
        networks.detach(&joined.member.id, "aside").await.unwrap();
        assert_eq!(plugin.kept().ways_out.len(), 1);
        let routes = pod.inside(|| run("ip", &["route"]));
        assert!(routes.contains("default via 10.77.0.1"), "{routes}");

        networks.detach(&joined.member.id, "mesh").await.unwrap();
        let kept = plugin.kept();
        assert_eq!(
            (kept.endpoints.len(), kept.joined.len(), kept.ways_out.len()),
            (0, 0, 0)
        );
        let inside = pod.inside(|| run("ip", &["-br", "link"]));
        assert!(!inside.contains("loom0"), "{inside}");
        networks.remove("mesh", false).await.unwrap();
        networks.remove("aside", false).await.unwrap();
        assert_eq!(plugin.kept(), Kept::default());
        assert_eq!((links(), recorded(&host)), (before, 0));
    });
}

/// The network becomes the way out.
async fn join_first(networks: &Networks, pod: &Pod, network: &str) {
    let request = EndpointRequest {
        gateway_priority: 9,
        ..EndpointRequest::default()
    };
    let joined = networks.attach(member(pod), network, request).await;
    joined.unwrap();
}

#[test]
fn whichever_step_fails_what_was_asked_before_is_given_back() {
    on_own_host(|host| async move {
        let (plugin, networks, before) = (loom(&host), open(&host), links());
        let manners = || [Manner::Refuse, Manner::Garbage, Manner::Hang];
        for method in [
            "IpamDriver.RequestPool",
            "IpamDriver.RequestAddress",
            "NetworkDriver.CreateNetwork",
        ] {
            for manner in manners() {
                let name = format!("{method} {manner:?}");
                plugin.behave(method, Some(manner.clone()));
                let error = networks.create(plugged("mesh", "loom")).await.unwrap_err();
                assert!(
                    error.to_string().starts_with("create network mesh: "),
                    "{error}"
                );
                plugin.behave(method, None);
                until(&name, || recorded(&host) == 0);
                let kept = plugin.kept();
                // Whose name was never heard cannot be given back.
                let known = |all: usize| all == 0 || !matches!(manner, Manner::Refuse);
                assert!(
                    known(kept.pools.len()) && known(kept.addresses.len()),
                    "{name}: {kept:?}"
                );
                assert!(kept.networks.is_empty(), "{name}: {kept:?}");
                assert_eq!(networks.list().len(), 3, "{name}");
                plugin.keep(Kept::default());
            }
        }
        networks.create(plugged("mesh", "loom")).await.unwrap();
        let (with_network, pod) = (plugin.kept(), host.pod(1));
        let missing = json!({"InterfaceName": {"SrcName": "nowhere0", "DstPrefix": "eth"}});
        let strange = json!({"InterfaceName": {"SrcName": "../x", "DstPrefix": "eth"}});
        let other = json!({"Interface": {"Address": "10.77.9.9/16"}});
        let mac = json!({"Interface": {"MacAddress": "ff:ff:ff:ff:ff:ff"}});
        let outside = json!({"Address": "10.1.2.3/16"});
        let mut cases = vec![
            ("NetworkDriver.Join", Manner::Say(missing), "nowhere0"),
            ("NetworkDriver.Join", Manner::Say(strange), "the interface"),
            (
                "NetworkDriver.CreateEndpoint",
                Manner::Say(other),
                "where it was given",
            ),
            ("NetworkDriver.CreateEndpoint", Manner::Say(mac), "a MAC"),
            (
                "IpamDriver.RequestAddress",
                Manner::Say(outside),
                "which is not in",
            ),
        ];
        for manner in manners() {
            let said = match &manner {
                Manner::Refuse => "not today",
                Manner::Garbage => "no JSON",
                _ => "has not answered",
            };
            cases.push(("IpamDriver.RequestAddress", manner.clone(), said));
            cases.push(("NetworkDriver.CreateEndpoint", manner.clone(), said));
            cases.push(("NetworkDriver.Join", manner.clone(), said));
            cases.push(("NetworkDriver.ProgramExternalConnectivity", manner, said));
        }
        for (method, manner, said) in cases {
            let name = format!("{method} {manner:?}");
            plugin.behave(method, Some(manner));
            let request = EndpointRequest::default();
            let failed = networks.attach(member(&pod), "mesh", request).await;
            let error = failed.unwrap_err().to_string();
            assert!(error.contains(said), "{name}: {error}");
            plugin.behave(method, None);
            until(&name, || recorded(&host) == 1);
            let mut kept = plugin.kept();
            if method == "IpamDriver.RequestAddress" {
                // Its answer was not heard, or is of no use.
                kept.addresses.clone_from(&with_network.addresses);
                plugin.keep(kept.clone());
            }
            assert_eq!(kept, with_network, "{name}");
            assert!(
                networks.find("mesh").unwrap().endpoints.is_empty(),
                "{name}"
            );
            assert_eq!(links(), before, "{name}");
            let inside = pod.inside(|| run("ip", &["-br", "link"]));
            assert_eq!(inside.lines().count(), 1, "{name}: {inside}");
        }
        // It is none the worse for all that.
        let joined = join(&networks, &pod, "mesh").await;
        networks.release(&joined.member.id).await.unwrap();
        networks.release(&joined.member.id).await.unwrap();
        networks.remove("mesh", false).await.unwrap();
        assert!(plugin.kept().networks.is_empty() && plugin.kept().pools.is_empty());
        assert_eq!((links(), recorded(&host)), (before, 0));
    });
}

#[test]
fn what_a_daemon_that_is_killed_has_left_the_next_one_gives_back() {
    on_own_host(|host| async move {
        let (before, plugin, first) = (links(), loom(&host), open(&host));
        first.create(plugged("mesh", "loom")).await.unwrap();
        let (stays, ends) = (host.pod(1), host.pod(2));
        let kept = join(&first, &stays, "mesh").await.member.id;
        join(&first, &ends, "mesh").await;
        drop(first);

        let second = open(&host);
        let done = second.reconcile(&HashSet::from([kept.clone()])).await;
        assert_eq!((done.released.len(), done.failed.len()), (1, 0));
        until("the one that ended", || plugin.kept().endpoints.len() == 1);
        until("its address", || plugin.kept().addresses.len() == 2);
        let inside = stays.inside(|| run("ip", &["-br", "addr"]));
        assert!(
            inside.contains("loom0") && inside.contains("10.77.0.2/16"),
            "{inside}"
        );
        assert_eq!(second.of(&kept).unwrap().endpoints.len(), 1);
        drop(second);

        // The host was booted: nothing is known but what is on the disk.
        std::fs::remove_dir_all(host.path("live")).unwrap();
        let third = open(&host);
        until("the endpoint", || plugin.kept().endpoints.is_empty());
        until("the ledger", || recorded(&host) == 1);
        assert_eq!(plugin.asked("NetworkDriver.CreateNetwork").len(), 1);
        assert_eq!(plugin.kept().networks.len(), 1);
        let again = join(&third, &ends, "mesh").await;
        third.release(&again.member.id).await.unwrap();
        drop(third);

        // A removal that was cut short behind the definition.
        let records = std::fs::read_dir(host.path("records")).unwrap();
        for record in records.map(|record| record.unwrap().path()) {
            let text = std::fs::read_to_string(&record).unwrap_or_default();
            if text.contains("\"mesh\"") {
                std::fs::remove_file(record).unwrap();
            }
        }
        let fourth = open(&host);
        until("the network", || plugin.kept() == Kept::default());
        until("the ledger", || recorded(&host) == 0);
        assert_eq!((fourth.list().len(), links()), (3, before));
    });
}

#[test]
fn a_plugin_that_is_away_holds_nobody_up_and_is_asked_when_it_is_back() {
    on_own_host(|host| async move {
        let (plugin, networks) = (Plugin::default(), open(&host));
        let error = networks.create(plugged("mesh", "")).await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("neither \"bridge\" nor a plugin"),
            "{error}"
        );
        let socket = plugin.listen(&host.path(""), "loom");
        for name in ["mesh", "lost"] {
            let mut wanted = plugged(name, "");
            if name == "lost" {
                wanted.ipam.clear();
            }
            networks.create(wanted).await.unwrap();
        }
        let pod = host.pod(1);
        let joined = join(&networks, &pod, "mesh").await;
        std::fs::remove_file(&socket).unwrap();
        let began = Instant::now();
        networks.release(&joined.member.id).await.unwrap();
        assert!(networks.of(&joined.member.id).is_none());
        let inside = pod.inside(|| run("ip", &["-br", "link"]));
        assert!(!inside.contains("loom0"), "cut off at once: {inside}");
        let error = networks
            .remove("mesh", false)
            .await
            .unwrap_err()
            .to_string();
        for part in ["plugin \"loom\" not found", "berth network rm --force mesh"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(networks.find("mesh").is_ok(), "it stays");
        let request = EndpointRequest::default();
        let failed = networks.attach(member(&pod), "lost", request).await;
        assert!(
            failed
                .unwrap_err()
                .to_string()
                .contains("plugin \"loom\" not found")
        );
        networks.remove("lost", true).await.unwrap();
        assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
        assert_eq!(plugin.kept().endpoints.len(), 1);

        plugin.listen(&host.path(""), "loom");
        until("the endpoint", || plugin.kept().endpoints.is_empty());
        networks.remove("mesh", false).await.unwrap();
        assert_eq!(
            plugin.kept().networks.len(),
            1,
            "the one that was forgotten"
        );
        assert_eq!(recorded(&host), 0);
    });
}

#[test]
fn a_bridge_has_addresses_that_a_plugin_gives() {
    on_own_host(|host| async move {
        let (plugin, networks) = (loom(&host), open(&host));
        let mut wanted = plugged("front", "loom");
        wanted.driver = "bridge".to_owned();
        wanted.options.clear();
        networks.create(wanted).await.unwrap();
        let pool = &plugin.asked("IpamDriver.RequestPool")[0];
        assert_eq!(
            (&pool["AddressSpace"], &pool["Pool"]),
            (&json!("here"), &json!("10.77.0.0/16"))
        );
        let gateway = &plugin.asked("IpamDriver.RequestAddress")[0];
        let kind = json!({"RequestAddressType": "com.docker.network.gateway"});
        assert_eq!(gateway["Options"], kind);
        let pods = [host.pod(1), host.pod(2)];
        let a = join(&networks, &pods[0], "front").await;
        let b = join(&networks, &pods[1], "front").await;
        let address = |joined: &Membership| joined.endpoints[0].addresses[0].address;
        assert_eq!(address(&b).to_string(), "10.77.0.3");
        let server = serve(&pods[1], 80);
        let seen = pods[0].inside(|| ask((address(&b), 80))).unwrap();
        assert_eq!(seen, address(&a).to_string());
        server.join().unwrap();
        // What another has is not taken for this one's.
        let twice = json!({"Address": "10.77.0.3/16"});
        plugin.behave("IpamDriver.RequestAddress", Some(Manner::Say(twice)));
        let third = host.pod(3);
        let request = EndpointRequest::default();
        let failed = networks.attach(member(&third), "front", request).await;
        assert!(failed.unwrap_err().to_string().contains("which container"));
        plugin.behave("IpamDriver.RequestAddress", None);
        assert!(plugin.kept().addresses.contains("10.77.0.3"));
        let mut kept = plugin.kept();
        kept.addresses.remove("10.77.0.4");
        plugin.keep(kept);
        for joined in [a, b] {
            networks.release(&joined.member.id).await.unwrap();
        }
        assert_eq!(plugin.kept().addresses.len(), 1, "the gateway's");
        networks.remove("front", false).await.unwrap();
        assert_eq!((plugin.kept(), recorded(&host)), (Kept::default(), 0));
        assert!(!links().contains("br-"), "{}", links());
    });
}
