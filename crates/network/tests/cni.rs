//! CNI networks, with plugins that record what they are told and misbehave on demand.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use berth_network::{Bandwidth, Dns, Error, Network, NetworkConfig, Protocol};
use harness::{Host, on_own_host};
use serde_json::{Value, json};

/// Notes environment and input of each call in `calls/<n>-<plugin>-<command>.{env,json}`, then does
/// what the file `<plugin>.<command>` beside it says.
const PLUGIN: &str = r#"#!/bin/sh
here=$(dirname "$0"); name=$(basename "$0")
n=$(ls "$here/calls" | wc -l)
call=$(printf '%s/calls/%03d-%s-%s' "$here" "$n" "$name" "$CNI_COMMAND")
env | grep ^CNI_ | sort > "$call.env"
cat > "$call.json"
if [ -e "$here/$name.$CNI_COMMAND" ]; then . "$here/$name.$CNI_COMMAND"; fi
[ "$CNI_COMMAND" != ADD ] && exit 0
echo '{"cniVersion":"1.0.0","by":"'$name'","interfaces":[{"name":"br"},{"name":"eth0","sandbox":"'$CNI_NETNS'"}],
       "ips":[{"address":"10.1.2.3/24","interface":1},{"address":"fd01::3/64","interface":1}]}'
"#;

fn install(host: &Host, plugins: &[&str]) {
    fs::create_dir_all(host.path("bin/calls")).unwrap();
    for plugin in plugins {
        let path = host.path("bin").join(plugin);
        fs::write(&path, PLUGIN).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn configure(host: &Host, version: &str, plugins: Value) {
    fs::create_dir_all(host.path("net.d")).unwrap();
    let list = json!({ "cniVersion": version, "name": "testnet", "plugins": plugins });
    fs::write(host.path("net.d/10-test.conflist"), list.to_string()).unwrap();
}

fn config(host: &Host) -> NetworkConfig {
    NetworkConfig {
        plugin_timeout: Duration::from_secs(2),
        bridge: None,
        ..host.config()
    }
}

/// Makes a plugin do something on a command before it answers.
fn when(host: &Host, plugin: &str, command: &str, script: &str) {
    fs::write(host.path("bin").join(format!("{plugin}.{command}")), script).unwrap();
}

fn calm(host: &Host, plugin: &str, command: &str) {
    fs::remove_file(host.path("bin").join(format!("{plugin}.{command}"))).unwrap();
}

struct Told {
    call: String,
    env: String,
    input: Value,
}

/// What was told so far, in order; forgets it.
fn calls(host: &Host) -> Vec<Told> {
    let mut files: Vec<_> = fs::read_dir(host.path("bin/calls"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut told = Vec::new();
    for path in files
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
    {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        told.push(Told {
            call: stem.split_once('-').unwrap().1.to_owned(),
            env: fs::read_to_string(path.with_extension("env")).unwrap(),
            input: serde_json::from_slice(&fs::read(path).unwrap()).unwrap(),
        });
    }
    files.iter().for_each(|path| fs::remove_file(path).unwrap());
    told
}

fn names(told: &[Told]) -> Vec<&str> {
    told.iter().map(|told| told.call.as_str()).collect()
}

fn recorded(host: &Host) -> usize {
    fs::read_dir(host.path("state/attachments"))
        .unwrap()
        .count()
}

#[test]
fn a_chain_is_told_what_the_specification_says() {
    on_own_host(|host| async move {
        install(&host, &["main", "meta"]);
        let all = json!({
            "portMappings": true, "bandwidth": true, "dns": true, "cgroupPath": true,
            "ipRanges": true, "io.kubernetes.cri.pod-annotations": true,
        });
        let plugins = json!([
            { "type": "main", "knob": 7, "capabilities": { "bandwidth": false } },
            { "type": "meta", "capabilities": all },
        ]);
        configure(&host, "0.4.0", plugins);
        let network = Network::new(config(&host)).unwrap();
        network.ready().await.unwrap();
        network
            .set_pod_ranges(&["10.1.2.0/24".parse().unwrap()])
            .unwrap();
        let pod = host
            .pod(1)
            .with_port(Protocol::Udp, 53, 5353, Some("127.0.0.1"))
            .with_port(Protocol::Tcp, 0, 80, None);
        let mut request = pod.request();
        request.bandwidth = Some(Bandwidth {
            ingress_rate: 1000,
            ..Bandwidth::default()
        });
        request.dns = Dns {
            servers: vec!["192.0.2.53".to_owned()],
            ..Dns::default()
        };
        request.annotations.insert("a".to_owned(), "b".to_owned());
        request.cgroup_parent = Some("/kubepods/x".to_owned());

        let attached = network.setup(&request).await.unwrap();
        let ips: Vec<_> = attached.ips.iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.1.2.3", "fd01::3"]);
        assert_eq!(attached.result["by"], "meta");
        let told = calls(&host);
        assert_eq!(names(&told), ["main-ADD", "meta-ADD"]);
        let id = pod.id.as_str();
        let environment = format!(
            "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=test;K8S_POD_NAME=pod;\
             K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=uid\nCNI_COMMAND=ADD\n\
             CNI_CONTAINERID={id}\nCNI_IFNAME=eth0\nCNI_NETNS={}\nCNI_PATH={}\n",
            pod.netns.display(),
            host.path("bin").display(),
        );
        assert_eq!(told[0].env, environment);
        assert_eq!(told[1].env, environment);
        assert_eq!(
            told[0].input,
            json!({
                "type": "main", "knob": 7, "name": "testnet", "cniVersion": "0.4.0",
                "capabilities": { "bandwidth": false },
            })
        );
        assert_eq!(told[1].input["prevResult"]["by"], "main");
        assert_eq!(
            told[1].input["runtimeConfig"],
            json!({
                "portMappings": [{
                    "hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "127.0.0.1",
                }],
                "bandwidth": {
                    "ingressRate": 1000, "ingressBurst": 0, "egressRate": 0, "egressBurst": 0,
                },
                "dns": { "servers": ["192.0.2.53"], "searches": [], "options": [] },
                "ipRanges": [[{ "subnet": "10.1.2.0/24" }]],
                "cgroupPath": "/kubepods/x",
                "io.kubernetes.cri.pod-annotations": { "a": "b" },
            })
        );

        // The configuration goes and the daemon restarts; DEL still knows everything.
        fs::remove_file(host.path("net.d/10-test.conflist")).unwrap();
        let network = Network::new(config(&host)).unwrap();
        assert_eq!(
            network.ready().await.unwrap_err().reason,
            "NetworkNotConfigured"
        );
        network.teardown(&pod.id).await.unwrap();
        let told = calls(&host);
        assert_eq!(names(&told), ["meta-DEL", "main-DEL"]);
        for told in &told {
            assert_eq!(told.env, environment.replace("ADD", "DEL"));
            assert_eq!(told.input["prevResult"]["by"], "meta");
        }
        assert!(told[0].input["runtimeConfig"]["portMappings"].is_array());
        network.teardown(&pod.id).await.unwrap();
        assert_eq!((names(&calls(&host)).len(), recorded(&host)), (0, 0));
    });
}

#[test]
fn a_failed_add_is_told_in_words_and_undone() {
    on_own_host(|host| async move {
        install(&host, &["main", "meta"]);
        configure(
            &host,
            "1.0.0",
            json!([{ "type": "main" }, { "type": "meta" }]),
        );
        let network = Network::new(config(&host)).unwrap();
        let pod = host.pod(1);
        for (script, words) in [
            (
                r#"echo '{"code":7,"msg":"no bridge","details":"br9"}'; echo grumble >&2; exit 1"#,
                "CNI plugin meta failed ADD: the configuration is invalid: no bridge (br9); \
                 stderr: grumble",
            ),
            (
                "echo panic: nil; exit 2",
                "meta failed ADD: exit status: 2: panic: nil",
            ),
            ("exit 3", "meta failed ADD: exit status: 3"),
            ("kill -9 $$", "meta failed ADD: signal: 9 (SIGKILL)"),
            (
                "echo oops; exit 0",
                "meta answered ADD with nonsense: \"oops\"",
            ),
            (
                "echo '[1]'; exit 0",
                "meta answered ADD with nonsense: \"[1]\"",
            ),
            ("exit 0", "meta answered ADD with nonsense: \"\""),
            (
                "head -c 2000000 /dev/zero; exit 0",
                "meta answered ADD with nonsense",
            ),
            (
                "echo '{\"ips\":[]}'; exit 0",
                "meta gave the pod no address",
            ),
        ] {
            when(&host, "meta", "ADD", script);
            let error = network.setup(&pod.request()).await.unwrap_err().to_string();
            assert!(error.contains(words), "{script}: {error}");
            let told = calls(&host);
            assert_eq!(
                names(&told),
                ["main-ADD", "meta-ADD", "meta-DEL", "main-DEL"]
            );
            assert!(told[2].input.get("prevResult").is_none());
            assert_eq!(recorded(&host), 0);
        }
        calm(&host, "meta", "ADD");
        fs::remove_file(host.path("bin/meta")).unwrap();
        let error = network.setup(&pod.request()).await.unwrap_err();
        assert!(matches!(error, Error::PluginMissing { .. }), "{error}");
        // The missing plugin cannot have been asked to delete either: the record waits for it.
        assert_eq!(recorded(&host), 1);
        install(&host, &["meta"]);
        network.teardown(&pod.id).await.unwrap();
        assert_eq!(recorded(&host), 0);
    });
}

#[test]
fn a_hanging_plugin_is_ended_with_its_children_and_its_record_kept() {
    on_own_host(|host| async move {
        install(&host, &["main"]);
        configure(&host, "1.0.0", json!([{ "type": "main" }]));
        let network = Network::new(config(&host)).unwrap();
        let pod = host.pod(1);
        let children = host.path("children").display().to_string();
        let hang = format!("echo stuck >&2; sleep 600 & echo $! >> {children}; sleep 600");
        when(&host, "main", "ADD", &hang);
        when(&host, "main", "DEL", &hang);
        let started = Instant::now();
        let error = network.setup(&pod.request()).await.unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(8));
        let words = "main did not finish ADD within 2 s; stderr: stuck";
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(recorded(&host), 1);
        for child in fs::read_to_string(&children).unwrap().lines() {
            // It has to run once more to end, and may wait for its reaper then.
            let killed = Instant::now();
            loop {
                let state = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
                if state.is_empty() || state.contains(") Z ") {
                    break;
                }
                let patience = Duration::from_secs(5);
                assert!(killed.elapsed() < patience, "{child} lives: {state}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        let done = network.reconcile(&HashSet::new()).await.unwrap();
        assert_eq!((done.released.len(), done.failed.len()), (0, 1));
        calm(&host, "main", "DEL");
        let done = network.reconcile(&HashSet::new()).await.unwrap();
        assert_eq!(
            (done.released.len(), done.failed.len(), recorded(&host)),
            (1, 0, 0)
        );
    });
}

#[test]
fn a_child_that_keeps_the_pipes_does_not_keep_the_pod() {
    on_own_host(|host| async move {
        install(&host, &["main"]);
        configure(&host, "1.0.0", json!([{ "type": "main" }]));
        let network = Network::new(config(&host)).unwrap();
        let pod = host.pod(1);
        when(&host, "main", "ADD", "sleep 5 &");
        let started = Instant::now();
        network.setup(&pod.request()).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(2));
        network.teardown(&pod.id).await.unwrap();
    });
}

#[test]
fn deletion_goes_on_past_failures_and_without_a_namespace() {
    on_own_host(|host| async move {
        install(&host, &["main", "meta"]);
        configure(
            &host,
            "1.0.0",
            json!([{ "type": "main" }, { "type": "meta" }]),
        );
        let network = Network::new(config(&host)).unwrap();
        let pod = host.pod(1);
        network.setup(&pod.request()).await.unwrap();
        calls(&host);
        berth_network::netns::unpin(&pod.netns).unwrap();
        when(
            &host,
            "meta",
            "DEL",
            r#"echo '{"code":11,"msg":"later"}'; exit 1"#,
        );
        let error = network.teardown(&pod.id).await.unwrap_err();
        assert!(
            matches!(error, Error::Teardown { remaining: 0, .. }),
            "{error}"
        );
        let told = calls(&host);
        assert_eq!(names(&told), ["meta-DEL", "main-DEL"]);
        assert!(told[0].env.contains("CNI_NETNS=\n"), "{}", told[0].env);
        // "Unknown container" means that there is nothing to delete.
        when(
            &host,
            "meta",
            "DEL",
            r#"echo '{"code":3,"msg":"who?"}'; exit 1"#,
        );
        network.teardown(&pod.id).await.unwrap();
        assert_eq!(recorded(&host), 0);
    });
}

#[test]
fn status_and_gc_are_asked_from_version_1_1_on() {
    on_own_host(|host| async move {
        install(&host, &["main"]);
        for version in ["1.0.0", "1.1.0"] {
            configure(&host, version, json!([{ "type": "main" }]));
            when(
                &host,
                "main",
                "STATUS",
                r#"echo '{"code":50,"msg":"no uplink"}'; exit 1"#,
            );
            let network = Network::new(config(&host)).unwrap();
            let ready = network.ready().await;
            let pod = host.pod(1);
            let live = HashSet::from([pod.id.clone()]);
            network.reconcile(&live).await.unwrap();
            let told = calls(&host);
            if version == "1.0.0" {
                assert!(ready.is_ok());
                assert_eq!(names(&told), [""; 0]);
                continue;
            }
            let not = ready.unwrap_err();
            assert!(
                not.message
                    .contains("the plugin is not available: no uplink"),
                "{not:?}"
            );
            assert_eq!(names(&told), ["main-STATUS", "main-GC"]);
            let valid = json!([{ "containerID": pod.id.as_str(), "ifname": "eth0" }]);
            assert_eq!(told[1].input["cni.dev/valid-attachments"], valid);
            assert!(!network.status().await.ready);
            assert!(calls(&host).is_empty(), "the answer was not remembered");
        }
    });
}

#[test]
fn garbage_is_collected_only_while_no_pod_comes_or_goes() {
    on_own_host(|host| async move {
        install(&host, &["main"]);
        configure(&host, "1.1.0", json!([{ "type": "main" }]));
        when(&host, "main", "ADD", "touch \"$here/adding\"; sleep 0.5");
        let network = Network::new(config(&host)).unwrap();
        let (pod, nobody) = (host.pod(1), HashSet::new());
        let request = pod.request();
        let (setup, collected) = tokio::join!(network.setup(&request), async {
            while !host.path("bin/adding").exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            network.collect(&nobody).await
        });
        setup.unwrap();
        assert!(!collected.unwrap());
        assert!(network.collect(&nobody).await.unwrap());
        let told = calls(&host);
        assert_eq!(names(&told), ["main-ADD", "main-GC"]);
        let valid = json!([{ "containerID": pod.id.as_str(), "ifname": "eth0" }]);
        assert_eq!(told[1].input["cni.dev/valid-attachments"], valid);
        network.teardown(&pod.id).await.unwrap();
    });
}

#[test]
fn names_cannot_smuggle_arguments() {
    on_own_host(|host| async move {
        install(&host, &["main"]);
        configure(&host, "1.0.0", json!([{ "type": "main" }]));
        let network = Network::new(config(&host)).unwrap();
        let pod = host.pod(1);
        for name in ["a;K8S_POD_UID=0", "a=b", "a\n", "a\0"] {
            let mut request = pod.request();
            request.name = name.to_owned();
            let error = network.setup(&request).await.unwrap_err();
            assert!(matches!(error, Error::InvalidPod { .. }), "{error}");
        }
        assert!(calls(&host).is_empty());
        assert_eq!(recorded(&host), 0);
    });
}

#[test]
fn the_bridge_serves_until_a_configuration_appears() {
    on_own_host(|host| async move {
        install(&host, &["main"]);
        let network = Network::new(host.config()).unwrap();
        let (one, two) = (host.pod(1), host.pod(2));
        network.setup(&one.request()).await.unwrap();
        assert_eq!(network.status().await.driver, "bridge");
        configure(&host, "1.0.0", json!([{ "type": "main" }]));
        let status = network.status().await;
        assert_eq!(
            (status.driver, status.network.as_deref()),
            ("cni", Some("testnet"))
        );
        network.setup(&two.request()).await.unwrap();
        assert_eq!(names(&calls(&host)), ["main-ADD"]);
        // Each pod is disconnected by whoever connected it.
        network.teardown(&one.id).await.unwrap();
        assert!(calls(&host).is_empty());
        network.teardown(&two.id).await.unwrap();
        assert_eq!(names(&calls(&host)), ["main-DEL"]);
    });
}

/// The reference plugins, where a directory of them is given.
#[test]
fn the_reference_plugins_connect_a_pod() {
    let Some(directory) = std::env::var_os("BERTH_CNI_BIN_DIR") else {
        eprintln!("skipped: needs the reference CNI plugins: BERTH_CNI_BIN_DIR is not set");
        return;
    };
    if !Path::new(&directory).join("bridge").exists() {
        eprintln!("skipped: no plugin called bridge in {directory:?}");
        return;
    }
    on_own_host(move |host| async move {
        let plugins = json!([
            {
                "type": "bridge", "bridge": "cnitest0", "isGateway": true, "ipMasq": true,
                "ipam": {
                    "type": "host-local", "dataDir": host.path("ipam"),
                    "ranges": [[{ "subnet": "10.99.0.0/24" }]],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
            { "type": "loopback" },
        ]);
        configure(&host, "1.0.0", plugins);
        let network = Network::new(NetworkConfig {
            bin_dirs: vec![directory.into()],
            plugin_timeout: Duration::from_secs(20),
            ..config(&host)
        })
        .unwrap();
        let pod = host.pod(1).with_port(Protocol::Tcp, 8080, 80, None);
        let attached = network.setup(&pod.request()).await.unwrap();
        assert_eq!(attached.ips[0].to_string(), "10.99.0.2");
        let listener = pod.inside(|| std::net::TcpListener::bind("0.0.0.0:80").unwrap());
        std::net::TcpStream::connect("127.0.0.1:8080").unwrap();
        drop(listener);
        network.teardown(&pod.id).await.unwrap();
        network.teardown(&pod.id).await.unwrap();
        assert!(
            !host.path("ipam/testnet/10.99.0.2").exists(),
            "the address leaked"
        );
    });
}
