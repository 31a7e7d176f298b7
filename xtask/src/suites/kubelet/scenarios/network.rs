//! Addresses, names, ports.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::command::{stdout, which};
use crate::suites::kubelet::manifest::{STAY, container, pod, probe};
use crate::suites::kubelet::session::Session;

/// Beyond those that hosts choose for themselves, below those that kubelets choose for services.
const EVERYWHERE: u16 = 12110;
const ON_LOOPBACK: u16 = 12111;

pub fn networked(session: &Session) -> Value {
    let web = "mkdir /work/www; echo found > /work/www/it; exec httpd -f -p 80 -h /work/www";
    let ports = json!([
        { "containerPort": 80, "hostPort": EVERYWHERE },
        { "containerPort": 80, "hostPort": ON_LOOPBACK, "hostIP": "127.0.0.1", "name": "local" },
        { "containerPort": 53, "hostPort": EVERYWHERE, "protocol": "UDP" },
        { "containerPort": 90, "hostPort": EVERYWHERE, "protocol": "SCTP" },
    ]);
    let mut manifest = pod(
        session,
        "networked",
        json!({
            "hostname": "harbour",
            "subdomain": "quay",
            "dnsConfig": { "searches": ["more.test"], "options": [{ "name": "edns0" }] },
            "containers": [
                container(session, "web", web, json!({
                    "ports": ports,
                    "readinessProbe": probe(json!({ "tcpSocket": { "port": 80 } })),
                    "env": [
                        { "name": "IPS", "valueFrom": { "fieldRef": { "fieldPath": "status.podIPs" } } },
                    ],
                })),
            ],
        }),
    );
    manifest["metadata"]["annotations"] = json!({
        "kubernetes.io/ingress-bandwidth": "100M",
        "kubernetes.io/egress-bandwidth": "50M",
    });
    manifest
}

pub fn is_connected(session: &mut Session) -> Result<()> {
    let pod = session.ready("networked")?;
    let ips = pod.ips();
    let families: Vec<bool> = ips
        .iter()
        .filter_map(|ip| ip.parse::<IpAddr>().ok())
        .map(|ip| ip.is_ipv4())
        .collect();
    ensure!(families == [true, false], "addresses {ips:?}");

    let web = pod.container("web").id().to_owned();
    let addresses = session.exec(&web, &["ip", "-o", "addr", "show", "dev", "eth0"])?;
    ensure!(ips.iter().all(|ip| addresses.contains(ip)), "{addresses}");
    let told = session.exec(&web, &["sh", "-c", "echo $IPS; hostname; cat /etc/hosts"])?;
    let hosts = format!("{}\tharbour", ips[0]);
    ensure!(
        told.starts_with(&format!("{}\nharbour\n", ips.join(","))) && told.contains(&hosts),
        "{told}"
    );
    let resolver = session.exec(&web, &["cat", "/etc/resolv.conf"])?;
    let expected = [
        "search harbour.test more.test",
        "nameserver 198.18.255.53",
        "ndots:3",
        "edns0",
    ];
    ensure!(
        expected.iter().all(|part| resolver.contains(part)),
        "{resolver}"
    );

    for port in [EVERYWHERE, ON_LOOPBACK] {
        let page = page(port).with_context(|| format!("by host port {port}"))?;
        ensure!(page.ends_with("found\n"), "{page}");
    }
    limited(session, &web)
}

fn page(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET /it HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// A token bucket at either end of the pod's cable.
fn limited(session: &mut Session, container: &str) -> Result<()> {
    let pid = session.cri.pid(container)?.to_string();
    let (nsenter, tc) = (which("nsenter"), which("tc"));
    let (nsenter, tc) = (nsenter.context("no nsenter")?, tc.context("no tc")?);
    let inside = stdout(
        Command::new(nsenter)
            .args(["-t", &pid, "-n"])
            .arg(&tc)
            .args(["qdisc"]),
    )?;
    ensure!(
        inside.contains("tbf") && inside.contains("rate 50Mbit"),
        "{inside}"
    );
    let outside = stdout(Command::new(tc).arg("qdisc"))?;
    ensure!(outside.contains("rate 100Mbit"), "{outside}");
    Ok(())
}

pub fn hostnet(session: &Session) -> Value {
    pod(
        session,
        "hostnet",
        json!({
            "hostNetwork": true,
            "containers": [container(session, "main", STAY, json!({}))],
        }),
    )
}

pub fn is_the_host(session: &mut Session) -> Result<()> {
    let id = session.ready("hostnet")?.container("main").id().to_owned();
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").context("reading our name")?;
    ensure!(
        session.exec(&id, &["hostname"])? == own.trim(),
        "it has another name"
    );
    let links = session.exec(&id, &["ls", "/sys/class/net"])?;
    ensure!(links.contains(session.place.bridge().name()), "{links}");
    Ok(())
}
