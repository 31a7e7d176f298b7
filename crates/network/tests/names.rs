//! The resolver of containers against the real kernel, on a host of the test's own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use berth_names::ContainerId;
use berth_network::{Dns, EndpointRequest, Member, Networks, NetworksConfig, NewNetwork};
use harness::{Host, PATIENCE, Pod, inside, on_own_host, run};

const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;
const RESOLVER: &str = "127.0.0.11:53";

fn open(host: &Host) -> Networks {
    std::fs::write(host.path("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
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

async fn join(networks: &Networks, pod: &Pod, name: &str, network: &str, alias: &str) -> IpAddr {
    let request = EndpointRequest {
        aliases: vec![alias.to_owned()],
        ..EndpointRequest::default()
    };
    let joined = networks.attach(member(pod, name), network, request).await;
    joined.unwrap().endpoints.last().unwrap().addresses[0].address
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out
}

/// The code of an answer, and its records' data.
#[derive(Debug, PartialEq)]
struct Answer {
    code: u8,
    data: Vec<Vec<u8>>,
}

impl Answer {
    fn read(bytes: &[u8], question: &[u8]) -> Self {
        assert_eq!(bytes[..2], question[..2], "another's answer");
        let (mut at, mut data) = (question.len(), Vec::new());
        for _ in 0..u16::from_be_bytes([bytes[6], bytes[7]]) {
            let length = usize::from(u16::from_be_bytes([bytes[at + 10], bytes[at + 11]]));
            data.push(bytes[at + 12..at + 12 + length].to_vec());
            at += 12 + length;
        }
        Self {
            code: bytes[3] & 0xf,
            data,
        }
    }

    fn address(&self) -> Option<IpAddr> {
        let four: [u8; 4] = self.data.first()?.as_slice().try_into().ok()?;
        Some(four.into())
    }
}

/// Asks by a datagram, from within a container.
fn ask(pod: &Pod, name: &str, kind: u16) -> Answer {
    let question = question(name, kind);
    pod.inside(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(RESOLVER).unwrap();
        socket.send(&question).unwrap();
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        Answer::read(&buffer[..length], &question)
    })
}

fn ask_by_stream(pod: &Pod, name: &str, kind: u16) -> Answer {
    let question = question(name, kind);
    pod.inside(|| {
        let mut stream = TcpStream::connect(RESOLVER).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = (question.len() as u16).to_be_bytes();
        stream
            .write_all(&[&length[..], &question].concat())
            .unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut buffer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut buffer).unwrap();
        Answer::read(&buffer, &question)
    })
}

/// A name server that knows one address for everything; counts what it is asked.
fn world(
    netns: Option<std::path::PathBuf>,
    ip: &'static str,
    address: [u8; 4],
) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let bind = move || {
        (
            UdpSocket::bind((ip, 53)).unwrap(),
            TcpListener::bind((ip, 53)).unwrap(),
        )
    };
    let (udp, tcp) = match netns {
        Some(netns) => inside(&netns, bind),
        None => bind(),
    };
    let answer = move |question: &[u8]| {
        let mut out = question.to_vec();
        out[2] |= 0x80;
        out[7] = 1;
        out.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4]);
        out.extend_from_slice(&address);
        out
    };
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            count.fetch_add(1, Ordering::Relaxed);
            let _ = udp.send_to(&answer(&buffer[..length]), from);
        }
    });
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut question = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut question).unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            let out = answer(&question);
            let framed = [&(out.len() as u16).to_be_bytes()[..], &out].concat();
            stream.write_all(&framed).unwrap();
        }
    });
    asked
}

#[test]
fn containers_find_each_other_by_name_and_not_across_networks() {
    on_own_host(|host| async move {
        let asked = world(None, "127.0.0.1", [192, 0, 2, 53]);
        let networks = open(&host);
        for name in ["front", "back"] {
            networks.create(NewNetwork::named(name)).await.unwrap();
        }
        let pods = [host.pod(1), host.pod(2), host.pod(3)];
        let web = join(&networks, &pods[0], "web", "front", "svc").await;
        let app = join(&networks, &pods[1], "app", "front", "svc").await;
        join(&networks, &pods[2], "db", "back", "store").await;

        let short = &pods[1].id.as_str()[..12];
        for name in ["app", "APP", "app.front", short] {
            assert_eq!(ask(&pods[0], name, A).address(), Some(app), "{name}");
        }
        assert_eq!(ask_by_stream(&pods[0], "web", A).address(), Some(web));
        let firsts: HashSet<_> = (0..4).map(|_| ask(&pods[0], "svc", A).address()).collect();
        assert_eq!(firsts, HashSet::from([Some(web), Some(app)]));
        let none = ask(&pods[0], "app", AAAA);
        assert_eq!((none.code, none.data.len()), (0, 0));
        let reverse = ask(&pods[0], "3.0.18.172.in-addr.arpa", PTR);
        assert_eq!(reverse.data[0], b"\x03app\x05front\0");
        assert_eq!(
            asked.load(Ordering::Relaxed),
            0,
            "the world was asked for a container"
        );

        // What is on no network of the asker is the world's to answer.
        for stranger in ["db", "store", "db.back"] {
            let got = ask(&pods[0], stranger, A).address().unwrap();
            assert_eq!(got.to_string(), "192.0.2.53", "{stranger}");
        }
        assert_eq!(
            ask(&pods[0], "2.0.19.172.in-addr.arpa", PTR).data[0],
            [192, 0, 2, 53]
        );
        join(&networks, &pods[0], "web", "back", "other").await;
        assert_eq!(
            ask(&pods[2], "other", A).address().unwrap().to_string(),
            "172.19.0.3"
        );
        networks
            .detach(&member(&pods[0], "web").id, "back")
            .await
            .unwrap();
        assert_eq!(
            ask(&pods[2], "other", A).address().unwrap().to_string(),
            "192.0.2.53"
        );
    });
}

#[test]
fn other_names_are_asked_of_the_host_or_of_the_containers_own_servers() {
    on_own_host(|host| async move {
        let asked = world(None, "127.0.0.1", [192, 0, 2, 53]);
        let networks = open(&host);
        let mut vault = NewNetwork::named("vault");
        vault.internal = true;
        networks.create(vault).await.unwrap();
        networks.create(NewNetwork::named("net")).await.unwrap();
        let pods = [host.pod(1), host.pod(2), host.pod(3)];
        join(&networks, &pods[0], "one", "net", "x").await;
        // Types that nobody here knows pass through.
        for (kind, ask) in [
            (A, ask as fn(&Pod, &str, u16) -> Answer),
            (A, ask_by_stream),
            (65399, ask),
        ] {
            let got = ask(&pods[0], "www.example.com", kind);
            assert_eq!(got.data, [[192, 0, 2, 53]]);
        }
        assert_eq!(asked.load(Ordering::Relaxed), 3);

        // On an internal network nothing is asked of the world, neither by name.
        let vault = join(&networks, &pods[1], "two", "vault", "y").await;
        assert_eq!(ask(&pods[1], "two", A).address(), Some(vault));
        assert_eq!(ask(&pods[1], "www.example.com", A).code, 2);
        assert_eq!(asked.load(Ordering::Relaxed), 3);

        // Its own server is asked from where the container is.
        let own = world(Some(pods[2].netns.clone()), "127.0.0.1", [192, 0, 2, 99]);
        let mut three = member(&pods[2], "three");
        three.dns.servers = vec!["127.0.0.1".to_owned()];
        networks
            .attach(three, "net", EndpointRequest::default())
            .await
            .unwrap();
        assert_eq!(ask(&pods[2], "www.example.com", A).data, [[192, 0, 2, 99]]);
        assert_eq!(
            (own.load(Ordering::Relaxed), asked.load(Ordering::Relaxed)),
            (1, 3)
        );
    });
}

#[test]
fn names_are_answered_again_after_a_daemon_that_was_killed() {
    on_own_host(|host| async move {
        let pods = [host.pod(1), host.pod(2)];
        let web = {
            let networks = open(&host);
            networks.create(NewNetwork::named("net")).await.unwrap();
            join(&networks, &pods[0], "app", "net", "x").await;
            join(&networks, &pods[1], "web", "net", "x").await
        };
        let networks = open(&host);
        assert_eq!(ask(&pods[0], "web", A).address(), Some(web));
        networks.release(&member(&pods[1], "web").id).await.unwrap();
        // Nobody to ask: a failure, and at once.
        let started = Instant::now();
        assert_eq!(ask(&pods[0], "web", A).code, 2);
        assert!(started.elapsed() < PATIENCE);
    });
}

#[test]
fn a_container_that_floods_harms_itself_only() {
    on_own_host(|host| async move {
        // A name server that never answers: everything that is asked of it stays under way.
        let _deaf = UdpSocket::bind("127.0.0.1:53").unwrap();
        let networks = open(&host);
        networks.create(NewNetwork::named("net")).await.unwrap();
        let pods = [host.pod(1), host.pod(2)];
        join(&networks, &pods[0], "bad", "net", "x").await;
        let good = join(&networks, &pods[1], "good", "net", "x").await;
        let before = descriptors();
        pods[0].inside(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(RESOLVER).unwrap();
            let idle: Vec<_> = (0..64).map(|_| TcpStream::connect(RESOLVER)).collect();
            for number in 0..20_000u32 {
                let name = format!("x{number}.example.com");
                let _ = socket.send(&question(&name, A));
                let _ = socket.send(&[0xff; 40][..number as usize % 40]);
            }
            drop(idle);
        });
        assert!(
            descriptors() < before + 300,
            "{} descriptors",
            descriptors()
        );
        // The other is served meanwhile, and the flooder itself soon.
        assert_eq!(ask(&pods[1], "good", A).address(), Some(good));
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(ask(&pods[0], "good", A).address(), Some(good));
    });
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_name_server_of_the_containers_own_may_have_port_53() {
    on_own_host(|host| async move {
        let networks = open(&host);
        networks.create(NewNetwork::named("net")).await.unwrap();
        let pod = host.pod(1);
        let own = join(&networks, &pod, "dns", "net", "x").await;
        let server = pod.inside(|| UdpSocket::bind("0.0.0.0:53").unwrap());
        assert_eq!(ask(&pod, "dns", A).address(), Some(own));
        // Released, the namespace goes and its cable with it: nothing of the daemon's holds it.
        networks.release(&member(&pod, "dns").id).await.unwrap();
        assert!(run("ip", &["-o", "link"]).contains("veth"));
        drop((server, pod));
        let deadline = Instant::now() + PATIENCE;
        while run("ip", &["-o", "link"]).contains("veth") {
            assert!(Instant::now() < deadline, "the namespace is held");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}
