//! A host of the test's own: a network namespace in which it is free to do anything.
#![allow(dead_code)]

pub mod plugin;

use std::fs::File;
use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use berth_names::SandboxId;
use berth_network::netns::{PinRequest, create_pinned, unpin};
use berth_network::{Dns, NetworkConfig, PodNetwork, PortMapping, Protocol};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// Longer than anything here takes; shorter than a test that waits for nothing.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Runs `body` in a fresh network namespace, on a runtime whose threads are all in it.
pub fn on_own_host<F: Future<Output = ()>>(body: impl FnOnce(Host) -> F + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root: makes network namespaces");
        return;
    }
    if !installed("ip") {
        return;
    }
    let thread = std::thread::spawn(move || {
        #[expect(deprecated)]
        rustix::thread::unshare(UnshareFlags::NEWNET).unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        let host = Host {
            dir: tempfile::tempdir().unwrap(),
        };
        runtime.unwrap().block_on(body(host));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn config(&self) -> NetworkConfig {
        NetworkConfig::new(self.path("net.d"), self.path("bin"), self.path("state"))
    }

    pub fn pod(&self, number: u8) -> Pod {
        let id = SandboxId::from_random([number; 32]);
        let netns = self.path(&format!("netns-{number}"));
        create_pinned(PinRequest {
            net: Some(netns.clone()),
            ..PinRequest::default()
        })
        .unwrap();
        Pod {
            id,
            netns,
            ports: Vec::new(),
        }
    }
}

/// A namespace for a pod; it goes with the value.
pub struct Pod {
    pub id: SandboxId,
    pub netns: PathBuf,
    pub ports: Vec<PortMapping>,
}

impl Pod {
    pub fn with_port(mut self, protocol: Protocol, host: u16, pod: u16, ip: Option<&str>) -> Self {
        self.ports.push(PortMapping {
            protocol,
            container_port: pod,
            host_port: host,
            host_ip: ip.map(|ip| ip.parse().unwrap()),
        });
        self
    }

    pub fn request(&self) -> PodNetwork {
        PodNetwork {
            id: self.id.clone(),
            name: "pod".to_owned(),
            namespace: "test".to_owned(),
            uid: "uid".to_owned(),
            netns: self.netns.clone(),
            port_mappings: self.ports.clone(),
            bandwidth: None,
            dns: Dns::default(),
            annotations: Default::default(),
            cgroup_parent: None,
        }
    }

    /// Runs `task` in the pod's network.
    pub fn inside<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        inside(&self.netns, task)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        unpin(&self.netns).unwrap();
    }
}

pub fn inside<T: Send>(netns: &Path, task: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let netns = File::open(netns).unwrap();
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            task()
        });
        thread.join().unwrap()
    })
}

/// Runs a program in the calling thread's network namespace; its output, or a panic.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a program is there; a test that needs it says so otherwise.
pub fn installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: needs the program {program}");
    }
    found
}

/// Serves one connection in the pod: answers with the caller's address.
pub fn serve(pod: &Pod, port: u16) -> std::thread::JoinHandle<()> {
    let (tell, told) = mpsc::channel();
    let netns = pod.netns.clone();
    let thread = std::thread::spawn(move || {
        inside(&netns, || {
            let listener = listen(port);
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

/// A program that another test starts has copies of our descriptors until it is executed: the last
/// listener may still hold the port for a moment.
fn listen(port: u16) -> TcpListener {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(("0.0.0.0", port)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            bound => return bound.unwrap(),
        }
    }
}

/// Connects, and reads what the server says.
pub fn ask(address: impl Into<SocketAddr>) -> std::io::Result<String> {
    let mut connection = TcpStream::connect_timeout(&address.into(), PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    connection.read_to_string(&mut text)?;
    Ok(text)
}

pub fn address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// How many pods have a record.
pub fn records(host: &Host) -> usize {
    std::fs::read_dir(host.path("state/attachments"))
        .unwrap()
        .count()
}
