//! The flags of `run` and `create`, and the body of the request that they make.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use super::endpoints::{First, endpoints};
use super::environment::{environment, labels, pairs};
use super::limits::LimitOptions;
use super::mounts::{mounts, tmpfs};
use super::ports::ports;
use super::values::{device, gpus, hosts, policy, security, ulimit};
use crate::error::Result;
use crate::output::{bytes_of, duration_of};

#[derive(Debug, Args)]
pub struct CreateOptions {
    /// A name to find it by
    #[arg(long)]
    pub name: Option<String>,
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Remove it, with its unnamed volumes, when it ends
    #[arg(long)]
    pub rm: bool,
    /// Whether to pull the image first: always, missing or never
    #[arg(long, default_value = "missing", value_parser = ["always", "missing", "never"])]
    pub pull: String,
    /// Tell nothing of the pull
    #[arg(short, long)]
    pub quiet: bool,
    /// os/architecture of the image
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Write the container's id to this file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,

    /// NAME=value, or NAME for this shell's value
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// A file of variables, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Program that is run in place of the image's
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Directory in which it starts
    #[arg(short, long, value_name = "DIRECTORY")]
    workdir: Option<String>,
    /// user[:group], by name or number
    #[arg(short, long)]
    user: Option<String>,
    /// Further groups, by number
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Its own name
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,
    /// Its domain's name
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
    /// name[=value]
    #[arg(short, long, value_name = "LABEL")]
    label: Vec<String>,
    /// A file of labels, one a line
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,
    /// name=value, for the runtime
    #[arg(long)]
    annotation: Vec<String>,
    /// Run a small init that reaps and forwards signals
    #[arg(long)]
    init: bool,
    /// Signal that asks it to end
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Seconds that it has to end before it is killed
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    stop_timeout: Option<i64>,
    /// no, on-failure[:times], always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Handler of the daemon that runs it
    #[arg(long)]
    runtime: Option<String>,
    /// json-file, local or none
    #[arg(long, value_name = "DRIVER", help_heading = "Logs")]
    log_driver: Option<String>,
    /// name=value of the log driver
    #[arg(long, value_name = "OPTION", help_heading = "Logs")]
    log_opt: Vec<String>,

    #[command(flatten)]
    health: HealthOptions,
    #[command(flatten)]
    network: NetworkOptions,
    #[command(flatten)]
    storage: StorageOptions,
    #[command(flatten)]
    security: SecurityOptions,
    #[command(flatten)]
    limits: LimitOptions,
    #[command(flatten)]
    devices: DeviceOptions,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Health")]
struct HealthOptions {
    /// Command, for a shell, that tells whether it works
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Between two checks, as in 30s
    #[arg(long, value_name = "DURATION")]
    health_interval: Option<String>,
    /// That a check may take
    #[arg(long, value_name = "DURATION")]
    health_timeout: Option<String>,
    /// While failures do not count
    #[arg(long, value_name = "DURATION")]
    health_start_period: Option<String>,
    /// Between two checks in that time
    #[arg(long, value_name = "DURATION")]
    health_start_interval: Option<String>,
    /// Failures in a row after which it counts as unhealthy
    #[arg(long, value_name = "NUMBER")]
    health_retries: Option<i64>,
    /// Do not run the image's check
    #[arg(long, conflicts_with = "health_cmd")]
    no_healthcheck: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
struct NetworkOptions {
    /// Publish a port: [[address:]host:]container[/protocol]
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<String>,
    /// Publish every port that the image exposes
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// A port that it listens on
    #[arg(long, value_name = "PORT")]
    expose: Vec<String>,
    /// A network, host, none, or container:NAME
    #[arg(long, alias = "net", value_name = "NETWORK")]
    network: Vec<String>,
    /// A further name on its network
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,
    /// IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// IPv6 address
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    /// MAC address
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<String>,
    /// Resolver
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Domain to search
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Option of the resolver
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
    /// name:address for /etc/hosts
    #[arg(long, value_name = "HOST")]
    add_host: Vec<String>,
    /// A container that it finds by name
    #[arg(long, value_name = "CONTAINER")]
    link: Vec<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Storage")]
struct StorageOptions {
    /// [source:]target[:options]
    #[arg(short, long, value_name = "VOLUME")]
    volume: Vec<String>,
    /// type=bind,source=…,target=…
    #[arg(long)]
    mount: Vec<String>,
    /// A directory in memory: path[:options]
    #[arg(long, value_name = "PATH")]
    tmpfs: Vec<String>,
    /// The volumes of this container
    #[arg(long, value_name = "CONTAINER")]
    volumes_from: Vec<String>,
    /// Driver of unnamed volumes
    #[arg(long, value_name = "DRIVER")]
    volume_driver: Option<String>,
    /// Nothing but volumes can be written to
    #[arg(long)]
    read_only: bool,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES")]
    shm_size: Option<String>,
    /// name=value of its layer
    #[arg(long, value_name = "OPTION")]
    storage_opt: Vec<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Security")]
struct SecurityOptions {
    /// Everything that the host may do
    #[arg(long)]
    privileged: bool,
    /// Capability that it has
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Capability that it has not
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// seccomp=FILE, apparmor=PROFILE, no-new-privileges, …
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Kernel setting of its own: name=value
    #[arg(long)]
    sysctl: Vec<String>,
    /// host, or container:NAME
    #[arg(long, value_name = "MODE")]
    pid: Option<String>,
    /// private, shareable, host, or container:NAME
    #[arg(long, value_name = "MODE")]
    ipc: Option<String>,
    /// host
    #[arg(long, value_name = "MODE")]
    uts: Option<String>,
    /// host
    #[arg(long, value_name = "MODE")]
    userns: Option<String>,
    /// private or host
    #[arg(long, value_name = "MODE")]
    cgroupns: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
struct DeviceOptions {
    /// name=soft[:hard]
    #[arg(long, value_name = "LIMIT")]
    ulimit: Vec<String>,
    /// A device: path[:path inside[:rwm]]
    #[arg(long)]
    device: Vec<String>,
    /// A rule of the device cgroup, as in "c 1:3 rw"
    #[arg(long, value_name = "RULE")]
    device_cgroup_rule: Vec<String>,
    /// GPUs: all, or how many
    #[arg(long)]
    gpus: Option<String>,
    /// Parent of its cgroup
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// How gladly the kernel kills it: -1000 to 1000
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    oom_score_adj: Option<i64>,
    /// Do not kill it when memory runs out
    #[arg(long)]
    oom_kill_disable: bool,
}

/// Which streams a client looks at from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

impl CreateOptions {
    /// The body of the request. `command` begins with the image.
    pub fn body(&self, image: &str, command: &[String], attached: Attached) -> Result<Value> {
        let network = &self.network;
        let ports = ports(&network.publish, &network.expose)?;
        let first = First {
            aliases: &network.network_alias,
            ip: network.ip.as_deref(),
            ip6: network.ip6.as_deref(),
            mac: network.mac_address.as_deref(),
        };
        let (mode, endpoints) = endpoints(&network.network, &first)?;
        let mounts = mounts(&self.storage.volume, &self.storage.mount)?;
        let mut body = json!({
            "Image": image,
            "Env": environment(&self.env, &self.env_file)?,
            "Labels": labels(&self.label, &self.label_file)?,
            "AttachStdin": attached.stdin,
            "AttachStdout": attached.stdout,
            "AttachStderr": attached.stderr,
            "OpenStdin": self.interactive,
            // A terminal is left, and come back to.
            "StdinOnce": self.interactive && attached.stdin && !self.tty,
            "Tty": self.tty,
            "ExposedPorts": ports.exposed,
            "Volumes": mounts.volumes,
            "NetworkingConfig": { "EndpointsConfig": endpoints },
        });
        let mut host = self.host()?;
        set(&mut host, "NetworkMode", mode);
        set(&mut host, "PortBindings", ports.bindings);
        set(&mut host, "Binds", mounts.binds);
        set(&mut host, "Mounts", mounts.mounts);
        host.extend(self.limits.fields()?);
        body["HostConfig"] = Value::Object(host);
        if !command.is_empty() {
            body["Cmd"] = json!(command);
        }
        // An empty one takes the image's away.
        if let Some(program) = &self.entrypoint {
            body["Entrypoint"] = json!([program]);
        }
        let texts = [
            ("Hostname", &self.hostname),
            ("Domainname", &self.domainname),
            ("User", &self.user),
            ("WorkingDir", &self.workdir),
            ("StopSignal", &self.stop_signal),
        ];
        for (name, given) in texts {
            if let Some(text) = given {
                body[name] = json!(text);
            }
        }
        if let Some(seconds) = self.stop_timeout {
            body["StopTimeout"] = json!(seconds);
        }
        if let Some(check) = self.health.check()? {
            body["Healthcheck"] = check;
        }
        Ok(body)
    }

    fn host(&self) -> Result<Map<String, Value>> {
        let (network, storage, devices) = (&self.network, &self.storage, &self.devices);
        let mut host = Map::new();
        self.security.add(&mut host)?;
        set(&mut host, "AutoRemove", self.rm);
        set(&mut host, "PublishAllPorts", network.publish_all);
        set(&mut host, "Dns", network.dns.clone());
        set(&mut host, "DnsSearch", network.dns_search.clone());
        set(&mut host, "DnsOptions", network.dns_option.clone());
        set(&mut host, "ExtraHosts", hosts(&network.add_host)?);
        set(&mut host, "Links", network.link.clone());
        set(&mut host, "GroupAdd", self.group_add.clone());
        set(&mut host, "Annotations", pairs(&self.annotation));
        set(&mut host, "Tmpfs", tmpfs(&storage.tmpfs));
        set(&mut host, "VolumesFrom", storage.volumes_from.clone());
        set(&mut host, "VolumeDriver", storage.volume_driver.clone());
        set(&mut host, "StorageOpt", pairs(&storage.storage_opt));
        set(&mut host, "ReadonlyRootfs", storage.read_only);
        set(&mut host, "Runtime", self.runtime.clone());
        set(&mut host, "CgroupParent", devices.cgroup_parent.clone());
        set(&mut host, "OomScoreAdj", devices.oom_score_adj);
        set(&mut host, "OomKillDisable", devices.oom_kill_disable);
        set(
            &mut host,
            "DeviceCgroupRules",
            devices.device_cgroup_rule.clone(),
        );
        set(&mut host, "Ulimits", each(&devices.ulimit, ulimit)?);
        set(&mut host, "Devices", each(&devices.device, device)?);
        if self.init {
            set(&mut host, "Init", true);
        }
        if let Some(text) = &storage.shm_size {
            set(&mut host, "ShmSize", bytes_of(text)?);
        }
        if let Some(text) = &devices.gpus {
            set(&mut host, "DeviceRequests", vec![gpus(text)?]);
        }
        if self.log_driver.is_some() || !self.log_opt.is_empty() {
            let driver = self.log_driver.clone().unwrap_or_default();
            let config = json!({"Type": driver, "Config": pairs(&self.log_opt)});
            set(&mut host, "LogConfig", config);
        }
        if let Some(text) = &self.restart {
            set(&mut host, "RestartPolicy", policy(text)?);
        }
        Ok(host)
    }
}

/// Leaves out what says nothing.
fn set(fields: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    let value = value.into();
    let says_nothing = match &value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    if !says_nothing {
        fields.insert(name.to_owned(), value);
    }
}

fn each(given: &[String], read: impl Fn(&str) -> Result<Value>) -> Result<Vec<Value>> {
    given.iter().map(|text| read(text)).collect()
}

impl HealthOptions {
    fn check(&self) -> Result<Option<Value>> {
        if self.no_healthcheck {
            return Ok(Some(json!({"Test": ["NONE"]})));
        }
        let mut check = Map::new();
        if let Some(command) = &self.health_cmd {
            check.insert("Test".into(), json!(["CMD-SHELL", command]));
        }
        let durations = [
            ("Interval", &self.health_interval),
            ("Timeout", &self.health_timeout),
            ("StartPeriod", &self.health_start_period),
            ("StartInterval", &self.health_start_interval),
        ];
        for (name, given) in durations {
            if let Some(text) = given {
                let nanos = i64::try_from(duration_of(text)?.as_nanos()).unwrap_or(i64::MAX);
                check.insert(name.into(), nanos.into());
            }
        }
        if let Some(retries) = self.health_retries {
            check.insert("Retries".into(), retries.into());
        }
        Ok((!check.is_empty()).then_some(Value::Object(check)))
    }
}

impl SecurityOptions {
    fn add(&self, host: &mut Map<String, Value>) -> Result<()> {
        set(host, "Privileged", self.privileged);
        set(host, "CapAdd", self.cap_add.clone());
        set(host, "CapDrop", self.cap_drop.clone());
        set(host, "SecurityOpt", each(&self.security_opt, security)?);
        set(host, "Sysctls", pairs(&self.sysctl));
        set(host, "PidMode", self.pid.clone());
        set(host, "IpcMode", self.ipc.clone());
        set(host, "UTSMode", self.uts.clone());
        set(host, "UsernsMode", self.userns.clone());
        set(host, "CgroupnsMode", self.cgroupns.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    #[command(disable_help_flag = true)]
    struct Line {
        #[command(flatten)]
        options: CreateOptions,
        #[arg(required = true, trailing_var_arg = true)]
        words: Vec<String>,
    }

    const NOTHING: Attached = Attached {
        stdin: false,
        stdout: true,
        stderr: true,
    };

    fn body(line: &str) -> Result<Value> {
        let words = std::iter::once("run").chain(line.split(' '));
        let line = Line::try_parse_from(words).unwrap();
        let (image, command) = line.words.split_first().unwrap();
        line.options.body(image, command, NOTHING)
    }

    #[test]
    fn flags_become_the_fields_of_the_api() {
        let body = body(
            "-it --rm -p 8800:80 -v data:/d -e A=1 -h box --memory 64m --restart on-failure:3 \
             --ulimit nofile=10:20 --device /dev/fuse --cap-add NET_ADMIN --entrypoint /x \
             --health-cmd true --health-interval 1s --tmpfs /t:size=1m image -la --rm",
        )
        .unwrap();
        for (pointer, expected) in [
            ("/Image", json!("image")),
            ("/Cmd", json!(["-la", "--rm"])),
            ("/Entrypoint", json!(["/x"])),
            ("/Tty", json!(true)),
            ("/OpenStdin", json!(true)),
            ("/Env", json!(["A=1"])),
            ("/Hostname", json!("box")),
            ("/ExposedPorts", json!({"80/tcp": {}})),
            ("/HostConfig/AutoRemove", json!(true)),
            ("/HostConfig/Binds", json!(["data:/d"])),
            ("/HostConfig/Memory", json!(64 << 20)),
            ("/HostConfig/PortBindings/80~1tcp/0/HostPort", json!("8800")),
            (
                "/HostConfig/RestartPolicy",
                json!({"Name": "on-failure", "MaximumRetryCount": 3}),
            ),
            (
                "/HostConfig/Ulimits/0",
                json!({"Name": "nofile", "Soft": 10, "Hard": 20}),
            ),
            ("/HostConfig/Devices/0/PathInContainer", json!("/dev/fuse")),
            ("/HostConfig/CapAdd", json!(["NET_ADMIN"])),
            ("/HostConfig/Tmpfs", json!({"/t": "size=1m"})),
            ("/Healthcheck/Test", json!(["CMD-SHELL", "true"])),
            ("/Healthcheck/Interval", json!(1_000_000_000)),
        ] {
            assert_eq!(body.pointer(pointer), Some(&expected), "{pointer}: {body}");
        }
    }

    #[test]
    fn what_was_not_asked_for_is_not_sent() {
        let body = body("image").unwrap();
        assert_eq!(body["HostConfig"], json!({}));
        assert!(body.get("Cmd").is_none() && body.get("Entrypoint").is_none());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_before_it_is_sent() {
        for line in [
            "--restart sometimes image",
            "--restart always:3 image",
            "--ulimit nofile image",
            "--memory lots image",
            "--security-opt seccomp=/nowhere image",
            "--add-host name image",
            "--gpus some image",
        ] {
            assert!(body(line).is_err(), "{line}");
        }
    }
}
