//! Published ports and masquerading against the real kernel, on a host of the test's own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use berth_network::{Error, Network, Protocol};
use harness::{PATIENCE, address, ask, inside, installed, on_own_host, records, run, serve};

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
        network.setup(&pod.request()).await.unwrap();
        network.setup(&other.request()).await.unwrap();

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

        network.teardown(&pod.id).await.unwrap();
        let gone = world.inside(|| ask(address("192.0.2.1", 8080)));
        assert_eq!(gone.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

/// The host's loopback is routed on the bridge, for published ports; the guard keeps pods out.
#[test]
fn pods_do_not_reach_the_loopback_of_the_host() {
    if !installed("nft") {
        return;
    }
    on_own_host(|host| async move {
        let network = Network::new(host.config()).unwrap();
        let pod = host.pod(1);
        network.setup(&pod.request()).await.unwrap();
        let _private = TcpListener::bind("127.0.0.1:6060").unwrap();
        pod.inside(|| {
            let knob = "/proc/sys/net/ipv4/conf/eth0/route_localnet";
            std::fs::write(knob, "1").unwrap();
            run("ip", &["addr", "del", "127.0.0.1/8", "dev", "lo"]);
            run("ip", &["route", "add", "127.0.0.1/32", "via", "10.88.0.1"]);
        });
        let sneak =
            || pod.inside(|| TcpStream::connect_timeout(&address("127.0.0.1", 6060), PATIENCE));
        assert!(sneak().is_err(), "a pod reached the host's loopback");
        // The attempt is a real one: without the guard it succeeds.
        run("nft", &["flush", "chain", "inet", "berth_berth0", "guard"]);
        sneak().unwrap();
        assert!(network.heal().await.unwrap());
        assert!(sneak().is_err());
    });
}

#[test]
fn a_running_udp_flow_follows_a_published_port() {
    on_own_host(|host| async move {
        let network = Network::new(host.config()).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.connect("127.0.0.1:5353").unwrap();
        // Before any pod: the flow is noted as the host's own.
        let _ = client.send(b"nobody");
        for number in 1..3 {
            let pod = host.pod(number).with_port(Protocol::Udp, 5353, 53, None);
            network.setup(&pod.request()).await.unwrap();
            let socket = pod.inside(|| UdpSocket::bind("0.0.0.0:53").unwrap());
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            // An answer of the host may still be waiting: "port unreachable".
            while client.send(b"ping").is_err() {}
            let mut buffer = [0; 16];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..length], from).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 4);
            network.teardown(&pod.id).await.unwrap();
        }
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
