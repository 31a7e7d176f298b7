//! Pinned namespaces.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod harness;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use berth_network::Error;
use berth_network::netns::{IdMapping, PinRequest, UserPin, apply_sysctls, create_pinned, unpin};
use harness::{inside, on_own_host, run};
use rustix::thread::move_into_link_name_space;

fn mounted(path: &Path) -> bool {
    let wanted = path.display().to_string();
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .contains(&wanted)
}

/// Runs `task` in the namespace pinned at `path`, of whatever kind.
fn within<T: Send>(path: &Path, task: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = fs::File::open(path).unwrap();
            move_into_link_name_space(file.as_fd(), None).unwrap();
            task()
        });
        thread.join().unwrap()
    })
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn namespaces_are_pinned_as_asked_and_unpinned_twice() {
    on_own_host(|host| async move {
        let [net, ipc, uts] = ["net", "ipc", "uts"].map(|kind| host.path(kind));
        let before = fs::read_to_string("/proc/sys/kernel/shmmni").unwrap();
        let pinned = create_pinned(PinRequest {
            net: Some(net.clone()),
            ipc: Some(ipc.clone()),
            uts: Some((uts.clone(), "the-pod".to_owned())),
            sysctls: vec![
                pair("net.ipv4.ip_unprivileged_port_start", "42"),
                pair("kernel.shmmni", "77"),
                pair("net.ipv4.conf.eth0.rp_filter", "2"),
            ],
            user: None,
        })
        .unwrap();
        assert_eq!(
            pinned.deferred_sysctls,
            [pair("net.ipv4.conf.eth0.rp_filter", "2")]
        );
        assert!(inside(&net, || run("ip", &["link", "show", "lo"])).contains("LOOPBACK,UP"));
        let read = |path: &str| fs::read_to_string(path).unwrap().trim().to_owned();
        let port = inside(&net, || {
            read("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        });
        assert_eq!(port, "42");
        assert_eq!(within(&ipc, || read("/proc/sys/kernel/shmmni")), "77");
        assert_eq!(
            within(&uts, || read("/proc/sys/kernel/hostname")),
            "the-pod"
        );
        assert_eq!(
            fs::read_to_string("/proc/sys/kernel/shmmni").unwrap(),
            before
        );

        inside(&net, || {
            run("ip", &["link", "add", "eth0", "type", "bridge"])
        });
        apply_sysctls(&net, &pinned.deferred_sysctls).unwrap();
        assert_eq!(
            inside(&net, || read("/proc/sys/net/ipv4/conf/eth0/rp_filter")),
            "2"
        );

        let inode = fs::metadata(&net).unwrap().ino();
        create_pinned(PinRequest {
            net: Some(net.clone()),
            ..PinRequest::default()
        })
        .unwrap();
        assert_ne!(
            fs::metadata(&net).unwrap().ino(),
            inode,
            "the old pin stayed"
        );
        for path in [&net, &ipc, &uts] {
            assert!(mounted(path));
            unpin(path).unwrap();
            unpin(path).unwrap();
            assert!(!mounted(path) && !path.exists());
        }
    });
}

#[test]
fn a_failure_leaves_no_pin() {
    on_own_host(|host| async move {
        let [net, ipc] = ["net", "ipc"].map(|kind| host.path(kind));
        for (request, check) in [
            (
                PinRequest {
                    net: Some(net.clone()),
                    ipc: Some(host.path("no/such/directory")),
                    ..PinRequest::default()
                },
                "cannot pin a namespace",
            ),
            (
                PinRequest {
                    net: Some(net.clone()),
                    sysctls: vec![pair("net.ipv4.no_such_knob", "1")],
                    ..PinRequest::default()
                },
                "does not take the value",
            ),
            (
                PinRequest {
                    ipc: Some(ipc.clone()),
                    sysctls: vec![pair("net.core.somaxconn", "1")],
                    ..PinRequest::default()
                },
                "shares that namespace",
            ),
        ] {
            let error = create_pinned(request).unwrap_err();
            assert!(error.to_string().contains(check), "{error}");
            assert!(!net.exists() && !ipc.exists());
        }
        let error = apply_sysctls(&net, &[pair("kernel.core_pattern", "x")]).unwrap_err();
        assert!(matches!(error, Error::SysctlRefused { .. }));
    });
}

#[test]
fn a_pin_is_for_its_owner_only() {
    on_own_host(|host| async move {
        let net = host.path("net");
        create_pinned(PinRequest {
            net: Some(net.clone()),
            ..PinRequest::default()
        })
        .unwrap();
        rustix::mount::unmount(&net, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert_eq!(
            fs::metadata(&net).unwrap().permissions().mode() & 0o777,
            0o600
        );
        unpin(&net).unwrap();
    });
}

#[test]
fn namespaces_belong_to_the_user_namespace_that_is_made_with_them() {
    on_own_host(|host| async move {
        let [user, net, ipc, uts] = ["user", "net", "ipc", "uts"].map(|kind| host.path(kind));
        let range = IdMapping {
            inside: 0,
            outside: 80_000,
            length: 10,
        };
        create_pinned(PinRequest {
            net: Some(net.clone()),
            ipc: Some(ipc.clone()),
            uts: Some((uts.clone(), "mapped".to_owned())),
            user: Some(UserPin {
                path: user.clone(),
                uids: vec![range],
                gids: vec![range],
            }),
            sysctls: vec![
                pair("net.ipv4.ip_unprivileged_port_start", "42"),
                pair("kernel.shmmni", "77"),
                pair("fs.mqueue.msg_max", "17"),
            ],
        })
        .unwrap();
        let read = |path: &str| fs::read_to_string(path).unwrap().trim().to_owned();
        assert_eq!(within(&ipc, || read("/proc/sys/kernel/shmmni")), "77");
        assert_eq!(within(&ipc, || read("/proc/sys/fs/mqueue/msg_max")), "17");
        assert_eq!(within(&uts, || read("/proc/sys/kernel/hostname")), "mapped");
        assert!(inside(&net, || run("ip", &["link", "show", "lo"])).contains("LOOPBACK,UP"));
        // Its root may do to them what only an owner may.
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let enter = [flag("user", &user), flag("net", &net), flag("uts", &uts)];
        let script = "ip link set lo down && hostname other && cat /proc/self/uid_map";
        let mut words: Vec<&str> = enter.iter().map(String::as_str).collect();
        words.extend(["sh", "-c", script]);
        assert!(run("nsenter", &words).contains("80000"));
        assert_eq!(within(&uts, || read("/proc/sys/kernel/hostname")), "other");
        for path in [&user, &net, &ipc, &uts] {
            unpin(path).unwrap();
            assert!(!mounted(path));
        }
    });
}

#[test]
fn ids_that_the_kernel_does_not_take_leave_nothing() {
    on_own_host(|host| async move {
        let [user, net] = ["user", "net"].map(|kind| host.path(kind));
        let range = IdMapping {
            inside: 0,
            outside: 80_000,
            length: 10,
        };
        let refused = create_pinned(PinRequest {
            net: Some(net.clone()),
            user: Some(UserPin {
                path: user.clone(),
                uids: vec![range, range],
                gids: vec![range],
            }),
            ..PinRequest::default()
        });
        assert!(refused.is_err());
        assert!(!user.exists() && !net.exists());
    });
}
