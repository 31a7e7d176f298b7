//! The built-in bridge against the real kernel, on a host of the test's own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::collections::HashSet;
use std::io::Write;
use std::net::{IpAddr, TcpListener};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use berth_network::netns::{PinRequest, create_pinned, unpin};
use berth_network::{Bandwidth, BridgeConfig, Error, Network, Protocol, Subnet, stats};
use harness::{PATIENCE, address, ask, inside, installed, on_own_host, records, run, serve};

#[test]
fn two_pods_and_the_host_talk() {
    on_own_host(|host| async move {
        let network = Network::new(host.config()).unwrap();
        network.ready().await.unwrap();
        let (one, two) = (host.pod(1), host.pod(2));
        let first = network.setup(&one.request()).await.unwrap();
        let second = network.setup(&two.request()).await.unwrap();
        assert_eq!(first.ips, ["10.88.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(second.result["ips"][0]["address"], "10.88.0.3/16");

        let server = serve(&two, 80);
        assert_eq!(
            one.inside(|| ask((second.ips[0], 80))).unwrap(),
            "10.88.0.2"
        );
        server.join().unwrap();
        let server = serve(&one, 80);
        assert_eq!(ask((first.ips[0], 80)).unwrap(), "10.88.0.1");
        server.join().unwrap();

        let counted = stats(vec![one.netns.clone(), host.path("none")]).unwrap();
        let interfaces = counted[0].as_ref().unwrap();
        assert_eq!(interfaces.len(), 1);
        assert_eq!(interfaces[0].name, "eth0");
        assert!(interfaces[0].counters.rx_bytes > 0 && interfaces[0].counters.tx_packets > 0);
        assert!(counted[1].is_err());

        network.teardown(&one.id).await.unwrap();
        network.teardown(&one.id).await.unwrap();
        assert_eq!(network.status().await.subnets[0].1, 1);
    });
}

#[test]
fn pods_set_up_at_the_same_time_do_not_collide() {
    on_own_host(|host| async move {
        let network = Network::new(host.config()).unwrap();
        let pods: Vec<_> = (1..25)
            .map(|n| {
                host.pod(n)
                    .with_port(Protocol::Tcp, 8000 + u16::from(n), 80, None)
            })
            .collect();
        let tasks: Vec<_> = pods
            .iter()
            .map(|pod| {
                let (network, request) = (network.clone(), pod.request());
                tokio::spawn(async move { network.setup(&request).await.unwrap().ips[0] })
            })
            .collect();
        let mut seen = HashSet::new();
        for task in tasks {
            assert!(seen.insert(task.await.unwrap()));
        }
        for (pod, port) in pods.iter().zip(8001..) {
            let server = serve(pod, 80);
            ask(address("127.0.0.1", port)).unwrap();
            server.join().unwrap();
        }
        let done = network.reconcile(&HashSet::new()).await.unwrap();
        assert_eq!((done.released.len(), done.failed.len()), (24, 0));
    });
}

#[test]
fn a_removed_bridge_comes_back_with_its_pods() {
    on_own_host(|host| async move {
        let network = Network::new(host.config()).unwrap();
        let pod = host.pod(1);
        let attached = network.setup(&pod.request()).await.unwrap();
        run("ip", &["link", "del", "berth0"]);
        assert!(network.heal().await.unwrap());
        let server = serve(&pod, 80);
        assert_eq!(ask((attached.ips[0], 80)).unwrap(), "10.88.0.1");
        server.join().unwrap();
        assert!(!network.heal().await.unwrap());
    });
}

#[test]
fn failed_and_finished_pods_leak_no_address_over_200_cycles() {
    on_own_host(|host| async move {
        let mut config = host.config();
        // Four pods fit.
        let subnets = vec!["10.99.0.0/29".parse::<Subnet>().unwrap()];
        config.bridge = Some(BridgeConfig {
            subnets,
            ..BridgeConfig::default()
        });
        let network = Network::new(config).unwrap();
        let pod = host.pod(1);
        for _ in 0..100 {
            network.setup(&pod.request()).await.unwrap();
            network.teardown_in_place(&pod.id).await.unwrap();
        }
        // A namespace that does not exist fails late: address and record are taken by then.
        let mut broken = pod.request();
        broken.netns = host.path("none");
        for _ in 0..100 {
            assert!(matches!(
                network.setup(&broken).await,
                Err(Error::Io { .. })
            ));
        }
        assert_eq!(
            (records(&host), network.status().await.subnets[0].1),
            (0, 0)
        );

        let pods: Vec<_> = (2..8).map(|number| host.pod(number)).collect();
        let mut seen = HashSet::new();
        for pod in &pods[..5] {
            assert!(seen.insert(network.setup(&pod.request()).await.unwrap().ips[0]));
        }
        let full = network.setup(&pods[5].request()).await;
        assert!(matches!(full, Err(Error::AddressesExhausted { .. })));
    });
}

#[test]
fn addresses_and_ports_survive_a_restart_and_are_reconciled() {
    if !installed("nft") {
        return;
    }
    on_own_host(|host| async move {
        let pods: Vec<_> = (1..4)
            .map(|n| {
                host.pod(n)
                    .with_port(Protocol::Tcp, 8000 + u16::from(n), 80, None)
            })
            .collect();
        let mut ips = Vec::new();
        {
            let network = Network::new(host.config()).unwrap();
            for pod in &pods[..2] {
                ips.push(network.setup(&pod.request()).await.unwrap().ips[0]);
            }
        }
        // A record that a disk ate must not stop the daemon.
        std::fs::write(host.path("state/attachments/junk.json"), "{").unwrap();
        let network = Network::new(host.config()).unwrap();
        assert!(run("nft", &["list", "ruleset"]).contains("tcp . 8001"));
        let again = host.pod(9).with_port(Protocol::Tcp, 8001, 80, None);
        assert!(matches!(
            network.setup(&again.request()).await,
            Err(Error::PortTaken { .. })
        ));
        let third = network.setup(&pods[2].request()).await.unwrap().ips[0];
        assert!(!ips.contains(&third));
        let server = serve(&pods[0], 80);
        assert_eq!(ask(address("127.0.0.1", 8001)).unwrap(), "10.88.0.1");
        server.join().unwrap();

        let live = HashSet::from([pods[2].id.clone()]);
        let done = network.reconcile(&live).await.unwrap();
        assert_eq!((done.released.len(), done.failed.len()), (2, 0));
        let listing = run("nft", &["list", "ruleset"]);
        assert!(listing.contains("tcp . 8003") && !listing.contains("tcp . 8001"));
        assert_eq!(network.status().await.subnets[0].1, 1);
    });
}

#[test]
fn the_bridge_avoids_what_the_host_routes() {
    on_own_host(|host| async move {
        run(
            "ip",
            &["link", "add", "up0", "type", "veth", "peer", "name", "up1"],
        );
        run("ip", &["addr", "add", "10.88.7.1/24", "dev", "up0"]);
        run("ip", &["link", "set", "up0", "mtu", "1400", "up"]);
        run("ip", &["link", "set", "up1", "up"]);
        for taken in ["10.89.0.0/16", "10.90.0.0/16"] {
            run("ip", &["route", "add", taken, "via", "10.88.7.2"]);
        }
        run("ip", &["route", "add", "default", "via", "10.88.7.2"]);
        let network = Network::new(host.config()).unwrap();
        let pod = host.pod(1);
        let attached = network.setup(&pod.request()).await.unwrap();
        assert_eq!(attached.ips[0].to_string(), "10.91.0.2");
        assert!(
            pod.inside(|| run("ip", &["link", "show", "eth0"]))
                .contains("mtu 1400")
        );
        // The choice holds, even when the better range is free again.
        run("ip", &["link", "del", "up0"]);
        drop(network);
        let network = Network::new(host.config()).unwrap();
        let other = host.pod(2);
        let attached = network.setup(&other.request()).await.unwrap();
        assert_eq!(attached.ips[0].to_string(), "10.91.0.3");
    });
}

#[test]
fn both_families_and_bandwidth_limits_are_served() {
    on_own_host(|host| async move {
        if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
            eprintln!("skipped: needs IPv6");
            return;
        }
        let mut config = host.config();
        let subnets = ["fd00:88::/64", "10.77.0.0/24"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        config.bridge = Some(BridgeConfig {
            subnets,
            name: "br6".into(),
            ..Default::default()
        });
        let network = Network::new(config).unwrap();
        let (one, two) = (
            host.pod(1),
            host.pod(2).with_port(Protocol::Tcp, 8080, 80, None),
        );
        let mut request = one.request();
        request.bandwidth = Some(Bandwidth {
            ingress_rate: 80_000_000,
            egress_rate: 40_000_000_000,
            ..Bandwidth::default()
        });
        let first = network.setup(&request).await.unwrap();
        let second = network.setup(&two.request()).await.unwrap();
        assert_eq!(
            first
                .ips
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            ["fd00:88::2", "10.77.0.2"]
        );
        let egress = one.inside(|| run("tc", &["qdisc", "show", "dev", "eth0"]));
        assert!(
            egress.contains("tbf") && egress.contains("rate 40Gbit"),
            "{egress}"
        );
        let ingress = run("tc", &["qdisc"]);
        assert!(ingress.contains("rate 80Mbit"), "{ingress}");

        let netns = two.netns.clone();
        let (tell, told) = mpsc::channel();
        let server = std::thread::spawn(move || {
            inside(&netns, || {
                let listener = TcpListener::bind("[::]:80").unwrap();
                tell.send(()).unwrap();
                for _ in 0..2 {
                    let (mut connection, peer) = listener.accept().unwrap();
                    connection
                        .write_all(peer.ip().to_string().as_bytes())
                        .unwrap();
                }
            });
        });
        told.recv().unwrap();
        assert_eq!(
            one.inside(|| ask((second.ips[0], 80))).unwrap(),
            "fd00:88::2"
        );
        assert_eq!(
            one.inside(|| ask(address("fd00:88::1", 8080))).unwrap(),
            "fd00:88::1"
        );
        server.join().unwrap();
    });
}

#[test]
fn a_cancelled_setup_is_undone() {
    on_own_host(|host| async move {
        let network = Network::new(host.config()).unwrap();
        let pod = host.pod(1);
        for micros in (0..3000).step_by(150) {
            let request = pod.request();
            let setup = network.setup(&request);
            let _ = tokio::time::timeout(Duration::from_micros(micros), setup).await;
            // Whether it was cut or not, this waits for its turn and ends in the same state.
            network.teardown_in_place(&pod.id).await.unwrap();
        }
        let deadline = Instant::now() + PATIENCE;
        while records(&host) > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(
            (records(&host), network.status().await.subnets[0].1),
            (0, 0)
        );
    });
}

/// Not a threshold: prints what a setup costs here, back to back and with pauses.
#[test]
fn setup_cost_is_told() {
    on_own_host(|host| async move {
        let network = Network::new(host.config()).unwrap();
        let mut took = Vec::new();
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let paths = ["net", "ipc", "uts"].map(|kind| host.path(kind));
            let [net, ipc, uts] = paths.clone();
            let (net, ipc, uts) = (Some(net), Some(ipc), Some((uts, "pod".to_owned())));
            let started = Instant::now();
            create_pinned(PinRequest {
                net,
                ipc,
                uts,
                sysctls: Vec::new(),
                user: None,
            })
            .unwrap();
            took.push(started.elapsed());
            paths.iter().for_each(|path| unpin(path).unwrap());
        }
        took.sort();
        eprintln!("three namespaces pinned, pause 50 ms: p50 {:?}", took[10]);
        for (ports, pause) in [(false, 0), (false, 50), (true, 50)] {
            let mut took = [Vec::new(), Vec::new()];
            for number in 1..=20u8 {
                let mut pod = host.pod(number);
                if ports {
                    pod = pod.with_port(Protocol::Tcp, 8000 + u16::from(number), 80, None);
                }
                tokio::time::sleep(Duration::from_millis(pause)).await;
                let started = Instant::now();
                network.setup(&pod.request()).await.unwrap();
                took[0].push(started.elapsed());
                tokio::time::sleep(Duration::from_millis(pause)).await;
                let started = Instant::now();
                network.teardown(&pod.id).await.unwrap();
                took[1].push(started.elapsed());
            }
            let median = took.map(|mut times| {
                times.sort();
                times[times.len() / 2]
            });
            eprintln!("ports {ports}, pause {pause} ms: setup, teardown p50 {median:?}");
        }
    });
}
