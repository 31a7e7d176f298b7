//! Containers' networks against the real kernel, on a host of the test's own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::collections::HashSet;
use std::net::IpAddr;

use berth_names::ContainerId;
use berth_network::{
    Dns, EndpointRequest, Error, ErrorKind, HostPort, IpamConfig, Member, Membership, Networks,
    NetworksConfig, NewNetwork, PortRequest, Protocol,
};
use harness::{Host, Pod, address, ask, installed, on_own_host, run, serve};

fn open(host: &Host) -> Networks {
    let config = NetworksConfig {
        bridge: "test0".to_owned(),
        resolv_conf: host.path("resolv.conf"),
        ..NetworksConfig::new(host.path("records"), host.path("live"))
    };
    Networks::open(config).unwrap()
}

fn member(pod: &Pod, name: &str) -> Member {
    Member {
        id: ContainerId::parse(pod.id.as_str()).unwrap(),
        name: name.to_owned(),
        netns: pod.netns.clone(),
        ports: Vec::new(),
        dns: Dns::default(),
    }
}

fn port(protocol: Protocol, host: HostPort, container: u16, ip: Option<&str>) -> PortRequest {
    PortRequest {
        protocol,
        container_port: container,
        host_ip: ip.map(|ip| ip.parse().unwrap()),
        host_port: host,
    }
}

fn at(port: u16) -> HostPort {
    HostPort::Among(port..=port)
}

fn ip(membership: &Membership) -> IpAddr {
    membership.endpoints.last().unwrap().addresses[0].address
}

async fn join(networks: &Networks, pod: &Pod, name: &str, network: &str) -> Membership {
    let request = EndpointRequest::default();
    networks
        .attach(member(pod, name), network, request)
        .await
        .unwrap()
}

#[test]
fn containers_of_a_network_talk_and_those_of_another_do_not() {
    on_own_host(|host| async move {
        let networks = open(&host);
        networks.create(NewNetwork::named("front")).await.unwrap();
        networks.create(NewNetwork::named("back")).await.unwrap();
        let pods = [host.pod(1), host.pod(2), host.pod(3)];
        let a = join(&networks, &pods[0], "a", "front").await;
        let b = join(&networks, &pods[1], "b", "front").await;
        let c = join(&networks, &pods[2], "c", "back").await;
        assert_eq!(ip(&a).to_string(), "172.18.0.2");
        assert_eq!(ip(&c).to_string(), "172.19.0.2");

        let server = serve(&pods[1], 80);
        assert_eq!(
            pods[0].inside(|| ask((ip(&b), 80))).unwrap(),
            ip(&a).to_string()
        );
        server.join().unwrap();
        let server = serve(&pods[1], 80);
        assert!(
            pods[2].inside(|| ask((ip(&b), 80))).is_err(),
            "networks are not apart"
        );
        assert_eq!(ask((ip(&b), 80)).unwrap(), "172.18.0.1", "the host reaches");
        server.join().unwrap();

        // Connected to both while running, the third reaches the second; disconnected, no more.
        let c = join(&networks, &pods[2], "c", "front").await;
        assert_eq!(c.endpoints[1].interface, "eth1");
        let server = serve(&pods[1], 80);
        assert_eq!(
            pods[2].inside(|| ask((ip(&b), 80))).unwrap(),
            ip(&c).to_string()
        );
        server.join().unwrap();
        networks.detach(&c.member.id, "front").await.unwrap();
        let links = pods[2].inside(|| run("ip", &["-o", "link"]));
        assert!(links.contains("eth0") && !links.contains("eth1"), "{links}");
        let routes = pods[2].inside(|| run("ip", &["route"]));
        assert!(routes.contains("default via 172.19.0.1"), "{routes}");
    });
}

#[test]
fn published_ports_are_reached_from_host_loopback_containers_and_other_networks() {
    on_own_host(|host| async move {
        let networks = open(&host);
        networks.create(NewNetwork::named("other")).await.unwrap();
        let pods = [host.pod(1), host.pod(2), host.pod(3)];
        let mut web = member(&pods[0], "web");
        web.ports = vec![
            port(Protocol::Tcp, at(8080), 80, None),
            port(Protocol::Tcp, at(7070), 80, Some("127.0.0.1")),
            port(Protocol::Tcp, HostPort::Any, 80, None),
            port(Protocol::Tcp, HostPort::Among(8080..=8090), 80, None),
        ];
        let web = networks
            .attach(web, "bridge", EndpointRequest::default())
            .await
            .unwrap();
        join(&networks, &pods[1], "neighbour", "bridge").await;
        join(&networks, &pods[2], "stranger", "other").await;
        let random = web.ports[2].host_port;
        assert!((32768..=60999).contains(&random), "{random}");
        assert_eq!(web.ports[3].host_port, 8081);
        for (from, target) in [
            (None, address("127.0.0.1", 8080)),
            (None, address("127.0.0.1", 7070)),
            (None, address("127.0.0.1", random)),
            (Some(&pods[0]), address("172.17.0.1", 8080)),
            (Some(&pods[1]), address("172.17.0.1", 8080)),
            (Some(&pods[1]), address("172.18.0.1", 8081)),
            (Some(&pods[2]), address("172.18.0.1", 8080)),
        ] {
            let server = serve(&pods[0], 80);
            let got = match from {
                Some(pod) => pod.inside(|| ask(target)),
                None => ask(target),
            };
            got.unwrap_or_else(|error| panic!("{target}: {error}"));
            server.join().unwrap();
        }
        // What is not published is not reached from another network.
        let server = serve(&pods[0], 80);
        assert!(pods[2].inside(|| ask((ip(&web), 80))).is_err());
        ask((ip(&web), 80)).unwrap();
        server.join().unwrap();

        let mut second = member(&pods[1], "second");
        second.id = ContainerId::from_random([9; 32]);
        second.ports = vec![port(Protocol::Tcp, at(8080), 80, None)];
        let attach = |second: Member| networks.attach(second, "bridge", EndpointRequest::default());
        let error = attach(second.clone()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "Bind for 0.0.0.0:8080 failed: port is already allocated"
        );
        assert!(networks.of(&second.id).is_none());
        // A program of the host cannot take it either, and keeps its own.
        assert!(std::net::TcpListener::bind("0.0.0.0:8080").is_err());
        let own = std::net::TcpListener::bind("0.0.0.0:8099").unwrap();
        second.ports = vec![port(Protocol::Tcp, at(8099), 80, None)];
        let error = attach(second).await.unwrap_err();
        assert!(
            matches!(error, Error::PortInUse { port: 8099, .. }),
            "{error}"
        );
        drop(own);

        networks.release(&web.member.id).await.unwrap();
        std::net::TcpListener::bind("0.0.0.0:8080").unwrap();
    });
}

#[test]
fn internal_networks_lead_nowhere_and_mute_ones_not_to_each_other() {
    on_own_host(|host| async move {
        let networks = open(&host);
        let mut wanted = NewNetwork::named("vault");
        wanted.internal = true;
        networks.create(wanted).await.unwrap();
        let mut wanted = NewNetwork::named("mute");
        let icc = "com.docker.network.bridge.enable_icc".to_owned();
        wanted.options.insert(icc, "false".to_owned());
        networks.create(wanted).await.unwrap();
        let pods = [
            host.pod(1),
            host.pod(2),
            host.pod(3),
            host.pod(4),
            host.pod(5),
        ];
        let vault = join(&networks, &pods[0], "v1", "vault").await;
        join(&networks, &pods[1], "v2", "vault").await;
        let mute = join(&networks, &pods[2], "m1", "mute").await;
        join(&networks, &pods[3], "m2", "mute").await;
        let open = join(&networks, &pods[4], "open", "bridge").await;
        assert_eq!(
            (vault.gateway.as_ref(), open.gateway.is_some()),
            (None, true)
        );

        let server = serve(&pods[0], 80);
        pods[1].inside(|| ask((ip(&vault), 80))).unwrap();
        server.join().unwrap();
        let routes = pods[0].inside(|| run("ip", &["route"]));
        assert!(!routes.contains("default"), "{routes}");
        // A route of the container's own making does not help it.
        let gateway = networks.find("vault").unwrap().definition.subnets[0].gateway;
        pods[0].inside(|| {
            run(
                "ip",
                &["route", "add", "default", "via", &gateway.to_string()],
            )
        });
        let server = serve(&pods[4], 80);
        assert!(pods[0].inside(|| ask((ip(&open), 80))).is_err());
        ask((ip(&open), 80)).unwrap();
        server.join().unwrap();

        let server = serve(&pods[2], 80);
        assert!(pods[3].inside(|| ask((ip(&mute), 80))).is_err(), "not mute");
        ask((ip(&mute), 80)).unwrap();
        server.join().unwrap();
    });
}

#[test]
fn the_way_out_follows_priority_and_what_is_left() {
    on_own_host(|host| async move {
        let networks = open(&host);
        for name in ["alpha", "beta"] {
            networks.create(NewNetwork::named(name)).await.unwrap();
        }
        let pod = host.pod(1);
        let mut it = member(&pod, "it");
        it.ports = vec![port(Protocol::Tcp, at(8080), 80, None)];
        let via = |pod: &Pod| pod.inside(|| run("ip", &["route", "show", "default"]));
        let request = EndpointRequest::default();
        networks
            .attach(it.clone(), "beta", request.clone())
            .await
            .unwrap();
        assert!(via(&pod).contains("172.19.0.1 dev eth0"));
        networks
            .attach(it.clone(), "alpha", request.clone())
            .await
            .unwrap();
        assert!(via(&pod).contains("172.18.0.1 dev eth1"), "{}", via(&pod));
        let first = EndpointRequest {
            gateway_priority: 1,
            interface: Some("wan0".to_owned()),
            ..request
        };
        networks.attach(it.clone(), "bridge", first).await.unwrap();
        assert!(via(&pod).contains("172.17.0.1 dev wan0"), "{}", via(&pod));
        for (gone, left) in [("bridge", "172.18.0.1"), ("alpha", "172.19.0.1")] {
            networks.detach(&it.id, gone).await.unwrap();
            assert!(via(&pod).contains(left), "{}", via(&pod));
            let server = serve(&pod, 80);
            ask(address("127.0.0.1", 8080)).unwrap();
            server.join().unwrap();
        }
    });
}

#[test]
fn addresses_are_given_as_asked_and_not_twice() {
    on_own_host(|host| async move {
        let networks = open(&host);
        let mut wanted = NewNetwork::named("own");
        wanted.ipv6 = std::path::Path::new("/proc/sys/net/ipv6").exists();
        wanted.ipam = vec![IpamConfig {
            subnet: Some("10.42.0.0/24".parse().unwrap()),
            ..IpamConfig::default()
        }];
        networks.create(wanted).await.unwrap();
        let pods = [host.pod(1), host.pod(2)];
        let asked = EndpointRequest {
            ipv4: Some("10.42.0.77".parse().unwrap()),
            mac: Some("02:42:00:00:00:77".parse().unwrap()),
            ..EndpointRequest::default()
        };
        let first = member(&pods[0], "first");
        networks
            .attach(first.clone(), "own", asked.clone())
            .await
            .unwrap();
        let shown = pods[0].inside(|| run("ip", &["addr", "show", "eth0"]));
        assert!(shown.contains("10.42.0.77/24") && shown.contains("02:42:00:00:00:77"));
        assert_eq!(
            shown.contains("inet6 fd"),
            networks.find("own").unwrap().definition.ipv6
        );
        let error = networks
            .attach(member(&pods[1], "second"), "own", asked.clone())
            .await;
        assert!(matches!(error, Err(Error::AddressTaken { .. })));
        let error = networks.attach(first.clone(), "own", asked.clone()).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::InUse);
        let outside = EndpointRequest {
            ipv4: Some("10.43.0.1".parse().unwrap()),
            ..EndpointRequest::default()
        };
        let error = networks
            .attach(member(&pods[1], "second"), "own", outside)
            .await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Invalid);
        let error = networks
            .attach(member(&pods[1], "second"), "bridge", asked)
            .await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Invalid);

        let error = networks.remove("own", false).await.unwrap_err();
        assert!(matches!(error, Error::NetworkInUse { .. }), "{error}");
        networks.release(&first.id).await.unwrap();
        let again = join(&networks, &pods[1], "second", "own").await;
        assert_eq!(ip(&again).to_string(), "10.42.0.2");
        networks.release(&again.member.id).await.unwrap();
        let removed = networks.remove("own", false).await.unwrap();
        assert!(!run("ip", &["link"]).contains(&removed.interface));
        assert_eq!(
            networks.remove("own", false).await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert_eq!(
            networks.remove("bridge", false).await.unwrap_err().kind(),
            ErrorKind::InUse
        );
    });
}

#[test]
fn networks_are_found_by_name_id_and_its_beginning() {
    on_own_host(|host| async move {
        let networks = open(&host);
        let made = networks.create(NewNetwork::named("web")).await.unwrap();
        for reference in ["web", made.id.as_str(), &made.id.as_str()[..12]] {
            assert_eq!(networks.find(reference).unwrap().definition.id, made.id);
        }
        let error = networks.create(NewNetwork::named("web")).await.unwrap_err();
        assert_eq!(error.to_string(), "network with name web already exists");
        assert_eq!(networks.find("").unwrap_err().kind(), ErrorKind::NotFound);
        let names: Vec<_> = networks
            .list()
            .iter()
            .map(|n| n.definition.name.clone())
            .collect();
        assert_eq!(names, ["bridge", "host", "none", "web"]);
        drop(networks);
        let networks = open(&host);
        assert_eq!(networks.find("web").unwrap().definition.id, made.id);
        assert_eq!(networks.list().len(), 4);
    });
}

#[test]
fn the_default_network_moves_out_of_the_way_as_long_as_nobody_is_on_it() {
    on_own_host(|host| async move {
        let networks = open(&host);
        let subnet = || networks.find("bridge").unwrap().definition.subnets[0].subnet;
        assert_eq!(subnet().to_string(), "172.17.0.0/16");
        run(
            "ip",
            &["link", "add", "up0", "type", "veth", "peer", "name", "up1"],
        );
        run("ip", &["addr", "add", "172.17.5.1/24", "dev", "up0"]);
        let pods = [host.pod(1), host.pod(2)];
        let first = join(&networks, &pods[0], "first", "bridge").await;
        assert_eq!(ip(&first).to_string(), "172.18.0.2");
        run("ip", &["addr", "add", "172.18.5.1/24", "dev", "up0"]);
        let second = join(&networks, &pods[1], "second", "bridge").await;
        assert_eq!(ip(&second).to_string(), "172.18.0.3");
        drop(networks);
        let networks = open(&host);
        let kept = networks.find("bridge").unwrap();
        assert_eq!(
            kept.definition.subnets[0].subnet.to_string(),
            "172.18.0.0/16"
        );
    });
}

#[test]
fn a_daemon_that_was_killed_finds_its_containers_networks_as_they_were() {
    if !installed("nft") {
        return;
    }
    on_own_host(|host| async move {
        let pods = [host.pod(1), host.pod(2), host.pod(3)];
        let (kept, lost) = {
            let networks = open(&host);
            networks.create(NewNetwork::named("web")).await.unwrap();
            let mut kept = member(&pods[0], "kept");
            kept.ports = vec![port(Protocol::Tcp, at(8080), 80, None)];
            let kept = networks
                .attach(kept, "web", EndpointRequest::default())
                .await
                .unwrap();
            (kept, join(&networks, &pods[1], "lost", "web").await)
        };
        let before = run("nft", &["list", "ruleset"]);
        let networks = open(&host);
        assert_eq!(networks.of(&kept.member.id).unwrap(), kept);
        let third = join(&networks, &pods[2], "third", "web").await;
        assert_eq!(ip(&third).to_string(), "172.18.0.4");
        assert!(std::net::TcpListener::bind("0.0.0.0:8080").is_err());
        let server = serve(&pods[0], 80);
        ask(address("127.0.0.1", 8080)).unwrap();
        server.join().unwrap();

        let live = HashSet::from([kept.member.id.clone(), third.member.id.clone()]);
        let done = networks.reconcile(&live).await;
        assert_eq!(
            (done.released, done.failed.len()),
            (vec![lost.member.id], 0)
        );
        assert_eq!(networks.find("web").unwrap().endpoints.len(), 2);
        networks.release(&third.member.id).await.unwrap();

        // The table is whole whoever flushed it, and a bridge that was removed comes back.
        assert!(!networks.heal().await.unwrap());
        let whole = run("nft", &["list", "ruleset"]);
        assert_eq!(whole, before);
        run("nft", &["flush", "ruleset"]);
        assert!(networks.heal().await.unwrap());
        assert_eq!(run("nft", &["list", "ruleset"]), whole);
        let interface = networks.find("web").unwrap().definition.interface.clone();
        run("ip", &["link", "del", &interface]);
        assert!(networks.heal().await.unwrap());
        let server = serve(&pods[0], 80);
        ask(address("127.0.0.1", 8080)).unwrap();
        server.join().unwrap();
        assert!(!networks.heal().await.unwrap());
        networks.dismantle().await.unwrap();
        assert_eq!(run("nft", &["list", "ruleset"]).trim(), "");
    });
}

/// Not a threshold: prints what 200 ports cost here, and the removal of one among them.
#[test]
fn the_cost_of_200_ports_is_told() {
    on_own_host(|host| async move {
        let networks = open(&host);
        let pods = [host.pod(1), host.pod(2)];
        join(&networks, &pods[1], "warm", "bridge").await;
        let mut many = member(&pods[0], "many");
        many.ports = (0..200)
            .map(|n| port(Protocol::Tcp, at(20000 + n), 80, None))
            .collect();
        let started = std::time::Instant::now();
        let many = networks
            .attach(many, "bridge", EndpointRequest::default())
            .await
            .unwrap();
        eprintln!("200 ports of one container: {:?}", started.elapsed());
        networks.release(&many.member.id).await.unwrap();

        let all: Vec<_> = (3..203).map(|n| host.pod(n)).collect();
        let mut took = Vec::new();
        for (pod, number) in all.iter().zip(0..) {
            let mut one = member(pod, "one");
            one.ports = vec![port(Protocol::Tcp, at(20000 + number), 80, None)];
            let started = std::time::Instant::now();
            networks
                .attach(one, "bridge", EndpointRequest::default())
                .await
                .unwrap();
            took.push(started.elapsed());
        }
        took.sort();
        eprintln!(
            "a container with a port, beside up to 199: p50 {:?}",
            took[100]
        );
        let id = ContainerId::parse(all[100].id.as_str()).unwrap();
        let started = std::time::Instant::now();
        networks.release(&id).await.unwrap();
        eprintln!(
            "removal of one of 200 containers with a port: {:?}",
            started.elapsed()
        );
    });
}
