//! The node's pod ranges, on the bridge and in a configuration made from a template.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::fs;

use berth_network::{BridgeConfig, Error, Network, NetworkConfig, Subnet};
use harness::{Host, on_own_host};
use serde_json::Value;

const TEMPLATE: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [{
    "type": "bridge",
    "ipam": {
      "type": "host-local",
      "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
      "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]
    }
  }]
}"#;

fn ranges(texts: &[&str]) -> Vec<Subnet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn templated(host: &Host, template: &str) -> NetworkConfig {
    fs::write(host.path("template"), template).unwrap();
    NetworkConfig {
        conf_template: Some(host.path("template")),
        bridge: None,
        ..host.config()
    }
}

fn generated(host: &Host) -> Value {
    let text = fs::read(host.path("net.d/10-berth-net.conflist")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn a_template_becomes_the_network_and_follows_the_ranges() {
    on_own_host(|host| async move {
        let network = Network::new(templated(&host, TEMPLATE)).unwrap();
        assert_eq!(
            network.ready().await.unwrap_err().reason,
            "NetworkNotConfigured"
        );
        network
            .set_pod_ranges(&ranges(&["10.1.0.0/24", "fd00:1::/64"]))
            .unwrap();
        network.ready().await.unwrap();
        let ipam = &generated(&host)["plugins"][0]["ipam"];
        assert_eq!(ipam["ranges"][1][0]["subnet"], "fd00:1::/64");
        assert_eq!(ipam["routes"][1]["dst"], "::/0");

        network.set_pod_ranges(&ranges(&["10.2.0.0/24"])).unwrap();
        let ipam = &generated(&host)["plugins"][0]["ipam"];
        assert_eq!(ipam["ranges"][0][0]["subnet"], "10.2.0.0/24");

        // One that was lost comes back with the next daemon.
        fs::remove_file(host.path("net.d/10-berth-net.conflist")).unwrap();
        let network = Network::new(templated(&host, TEMPLATE)).unwrap();
        network.ready().await.unwrap();
    });
}

#[test]
fn a_network_of_somebody_else_is_left_alone() {
    on_own_host(|host| async move {
        let own = r#"{"cniVersion":"1.0.0","name":"own","plugins":[{"type":"x"}]}"#;
        fs::create_dir_all(host.path("net.d")).unwrap();
        fs::write(host.path("net.d/90-own.conflist"), own).unwrap();
        let network = Network::new(templated(&host, TEMPLATE)).unwrap();
        network.set_pod_ranges(&ranges(&["10.1.0.0/24"])).unwrap();
        assert_eq!(network.status().await.network.as_deref(), Some("own"));
        assert!(!host.path("net.d/10-berth-net.conflist").exists());
    });
}

#[test]
fn a_template_that_makes_nonsense_is_told_and_writes_nothing() {
    on_own_host(|host| async move {
        for (template, why) in [
            ("{{.Nonsense}}", ".Nonsense"),
            ("no JSON {{.PodCIDR}}", "not JSON"),
        ] {
            let network = Network::new(templated(&host, template)).unwrap();
            let error = network
                .set_pod_ranges(&ranges(&["10.1.0.0/24"]))
                .unwrap_err();
            assert!(
                matches!(&error, Error::Conf { reason, .. } if reason.contains(why)),
                "{error}"
            );
            assert!(!host.path("net.d/10-berth-net.conflist").exists());
            fs::remove_file(host.path("state/pod-ranges.json")).unwrap();
        }
    });
}

#[test]
fn the_bridge_takes_the_ranges_and_keeps_what_its_pods_have() {
    on_own_host(|host| async move {
        let both = ["10.7.0.0/24", "fd00:7::/64"];
        let network = Network::new(host.config()).unwrap();
        assert!(network.set_pod_ranges(&ranges(&both)).unwrap());
        // A daemon that was restarted before the first pod knows them too.
        let network = Network::new(host.config()).unwrap();
        let pod = host.pod(1);
        let ips = network.setup(&pod.request()).await.unwrap().ips;
        let ips: Vec<_> = ips.iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.7.0.2", "fd00:7::2"]);

        // Under a running pod nothing moves, not even with the next daemon.
        assert!(!network.set_pod_ranges(&ranges(&["10.8.0.0/24"])).unwrap());
        assert!(network.set_pod_ranges(&ranges(&both)).unwrap());
        network.set_pod_ranges(&ranges(&["10.8.0.0/24"])).unwrap();
        drop(network);
        let network = Network::new(host.config()).unwrap();
        let ips = network.setup(&host.pod(2).request()).await.unwrap().ips;
        let ips: Vec<_> = ips.iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.7.0.3", "fd00:7::3"]);
    });
}

#[test]
fn subnets_that_were_chosen_win_over_announced_ranges() {
    on_own_host(|host| async move {
        let config = NetworkConfig {
            bridge: Some(BridgeConfig {
                subnets: ranges(&["10.9.0.0/24"]),
                ..BridgeConfig::default()
            }),
            ..host.config()
        };
        let network = Network::new(config).unwrap();
        assert!(!network.set_pod_ranges(&ranges(&["10.1.0.0/24"])).unwrap());
        let ips = network.setup(&host.pod(1).request()).await.unwrap().ips;
        assert_eq!(ips[0].to_string(), "10.9.0.2");
    });
}
