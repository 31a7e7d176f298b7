//! The built-in bridge against the real kernel, on a host of the test's own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use berth_network::{Bandwidth, BridgeConfig, Error, Network, Protocol, Subnet, stats};
use harness::{Pod, inside, installed, on_own_host, run};

const PATIENCE: Duration = Duration::from_secs(2);

/// Serves one connection in the pod: answers with the caller's address.
fn serve(pod: &Pod, port: u16) -> std::thread::JoinHandle<()> {
    let (tell, told) = mpsc::channel();
    let netns = pod.netns.clone();
    let thread = std::thread::spawn(move || {
        inside(&netns, || {
            let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
            tell.send(()).unwrap();
            let (mut connection, peer) = listener.accept().unwrap();
            connection
                .write_all(peer.ip().to_string().as_bytes())
                .unwrap();
        });
    });
    told.recv().unwrap();
    thread
}

fn ask(address: impl Into<SocketAddr>) -> std::io::Result<String> {
    let mut connection = TcpStream::connect_timeout(&address.into(), PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    connection.read_to_string(&mut text)?;
    Ok(text)
}

fn address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

fn records(host: &harness::Host) -> usize {
    std::fs::read_dir(host.path("state/attachments"))
        .unwrap()
        .count()
}

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
fn host_ports_are_reached_from_everywhere() {
    on_own_host(|host| async move {
        // A neighbour of the host, behind a wire of its own.
        let world = host.pod(200);
        run(
            "ip",
            &["link", "add", "wire", "type", "veth", "peer", "name", "w0"],
        );
        let world_file = world.netns.display().to_string();
        run("nsenter", &[&format!("--net={world_file}"), "true"]);
        let move_it = format!("ip link set w0 netns {world_file}");
        // `ip` wants a name below /run/netns or a process; a path works as well.
        run("sh", &["-c", &move_it]);
        run("ip", &["addr", "add", "192.0.2.1/24", "dev", "wire"]);
        run("ip", &["link", "set", "wire", "up"]);
        world.inside(|| {
            run("ip", &["addr", "add", "192.0.2.9/24", "dev", "w0"]);
            run("ip", &["link", "set", "w0", "up"]);
        });

        let network = Network::new(host.config()).unwrap();
        let pod = host
            .pod(1)
            .with_port(Protocol::Tcp, 8080, 80, None)
            .with_port(Protocol::Udp, 5353, 53, None)
            .with_port(Protocol::Tcp, 9090, 80, Some("192.0.2.1"))
            .with_port(Protocol::Tcp, 7070, 80, Some("127.0.0.1"));
        let other = host.pod(2);
        let attached = network.setup(&pod.request()).await.unwrap();
        network.setup(&other.request()).await.unwrap();
        let pod_ip = attached.ips[0].to_string();

        for (from, target, seen) in [
            ("world", address("192.0.2.1", 8080), "192.0.2.9"),
            ("world", address("192.0.2.1", 9090), "192.0.2.9"),
            ("host", address("127.0.0.1", 8080), "10.88.0.1"),
            ("host", address("127.0.0.1", 7070), "10.88.0.1"),
            ("host", address("192.0.2.1", 9090), "192.0.2.1"),
            ("other pod", address("192.0.2.1", 8080), "10.88.0.1"),
            ("same pod", address("192.0.2.1", 8080), "10.88.0.1"),
            ("same pod", address("10.88.0.1", 8080), "10.88.0.1"),
        ] {
            let server = serve(&pod, 80);
            let got = match from {
                "world" => world.inside(|| ask(target)),
                "host" => ask(target),
                "other pod" => other.inside(|| ask(target)),
                _ => pod.inside(|| ask(target)),
            };
            assert_eq!(
                got.unwrap_or_else(|e| panic!("{from} {target}: {e}")),
                seen,
                "{from}"
            );
            server.join().unwrap();
        }
        let refused = world.inside(|| ask(address("192.0.2.1", 7070)));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);

        // UDP, too.
        let netns = pod.netns.clone();
        let echo = std::thread::spawn(move || {
            inside(&netns, || {
                let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut buffer = [0; 16];
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                socket.send_to(&buffer[..length], from).unwrap();
            });
        });
        std::thread::sleep(Duration::from_millis(100));
        world.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(b"ping", "192.0.2.1:5353").unwrap();
            let mut buffer = [0; 16];
            assert_eq!(socket.recv(&mut buffer).unwrap(), 4);
        });
        echo.join().unwrap();

        // Out into the world, with the host's address.
        let server = serve(&world, 81);
        assert_eq!(
            pod.inside(|| ask(address("192.0.2.9", 81))).unwrap(),
            "192.0.2.1"
        );
        server.join().unwrap();

        // What listens on the host's loopback only stays out of a pod's reach, though the kernel
        // would route it.
        let private = TcpListener::bind("127.0.0.1:6060").unwrap();
        let sneaked = pod.inside(|| {
            run("ip", &["route", "add", "127.0.0.2/32", "via", "10.88.0.1"]);
            run(
                "sh",
                &["-c", "echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet"],
            );
            run("ip", &["addr", "del", "127.0.0.1/8", "dev", "lo"]);
            run(
                "ip",
                &[
                    "route",
                    "add",
                    "127.0.0.1/32",
                    "via",
                    "10.88.0.1",
                    "src",
                    &pod_ip,
                ],
            );
            ask(address("127.0.0.1", 6060))
        });
        assert!(sneaked.is_err(), "a pod reached the host's loopback");
        drop(private);

        network.teardown(&pod.id).await.unwrap();
        let gone = world.inside(|| ask(address("192.0.2.1", 8080)));
        assert_eq!(gone.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn the_ruleset_is_as_described_and_restored_when_flushed() {
    if !installed("nft") {
        return;
    }
    on_own_host(|host| async move {
        let network = Network::new(host.config()).unwrap();
        let pod = host
            .pod(1)
            .with_port(Protocol::Tcp, 8080, 80, None)
            .with_port(Protocol::Sctp, 9000, 90, Some("10.88.0.1"));
        network.setup(&pod.request()).await.unwrap();
        let listing = || run("nft", &["list", "ruleset"]);
        let whole = listing();
        for line in [
            "table inet berth_berth0 {",
            "type inet_proto . inet_service : ipv4_addr . inet_service",
            "elements = { tcp . 8080 : 10.88.0.2 . 80 }",
            "elements = { 10.88.0.1 . sctp . 9000 : 10.88.0.2 . 90 }",
            "iifname \"berth0\" ip daddr 127.0.0.0/8 drop",
            "fib daddr type local goto host_ports",
            "meta nfproto ipv4 dnat ip to meta l4proto . th dport map @ports_v4",
            "ip daddr . meta l4proto . th dport map @bound_ports_v4",
            "ip6 daddr . meta l4proto . th dport map @bound_ports_v6",
            "oifname \"berth0\" ip saddr 127.0.0.0/8 masquerade",
            "oifname \"berth0\" ip saddr 10.88.0.0/16 ct status dnat masquerade",
            "ip saddr 10.88.0.0/16 oifname != \"berth0\" ip daddr != 224.0.0.0/4 masquerade",
            "iifname \"berth0\" accept",
        ] {
            assert!(whole.contains(line), "{line} is not in\n{whole}");
        }
        let json: serde_json::Value =
            serde_json::from_str(&run("nft", &["-j", "list", "ruleset"])).unwrap();
        let count = |kind: &str| {
            json["nftables"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|o| o.get(kind).is_some())
                .count()
        };
        assert_eq!(
            (count("table"), count("map"), count("chain"), count("rule")),
            (1, 4, 6, 12)
        );

        assert!(!network.heal().await.unwrap());
        for damage in [
            "flush ruleset",
            "flush table inet berth_berth0",
            "flush map inet berth_berth0 ports_v4",
            "delete element inet berth_berth0 ports_v4 { tcp . 8080 }",
        ] {
            run("nft", &damage.split(' ').collect::<Vec<_>>());
            assert!(network.heal().await.unwrap(), "{damage} went unseen");
            assert_eq!(listing(), whole, "after {damage}");
            assert!(!network.heal().await.unwrap());
        }
        // Another's table is another's business.
        run("nft", &["add", "table", "ip", "other"]);
        assert!(!network.heal().await.unwrap());
        run("nft", &["delete", "table", "inet", "berth_berth0"]);
        network.teardown(&pod.id).await.unwrap();
        assert!(!listing().contains("8080"));
        network.dismantle().await.unwrap();
        assert!(!listing().contains("berth"));
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
fn taken_ports_are_refused_and_cost_nothing() {
    on_own_host(|host| async move {
        let network = Network::new(host.config()).unwrap();
        let first = host.pod(1).with_port(Protocol::Tcp, 8080, 80, None);
        let second = host
            .pod(2)
            .with_port(Protocol::Tcp, 8080, 81, Some("127.0.0.1"));
        network.setup(&first.request()).await.unwrap();
        let error = network.setup(&second.request()).await.unwrap_err();
        assert!(matches!(&error, Error::PortTaken { holder, .. } if *holder == first.id));

        let listener = TcpListener::bind("0.0.0.0:9090").unwrap();
        let third = host.pod(3).with_port(Protocol::Tcp, 9090, 80, None);
        let error = network.setup(&third.request()).await.unwrap_err();
        assert!(
            matches!(error, Error::PortInUse { port: 9090, .. }),
            "{error}"
        );
        drop(listener);

        let family = host.pod(4).with_port(Protocol::Tcp, 9091, 80, Some("::1"));
        let error = network.setup(&family.request()).await.unwrap_err();
        assert!(matches!(error, Error::InvalidPod { .. }), "{error}");

        assert_eq!(records(&host), 1);
        assert_eq!(network.status().await.subnets[0].1, 1);
        network.teardown(&first.id).await.unwrap();
        network.setup(&second.request()).await.unwrap();
        network.setup(&third.request()).await.unwrap();
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
