//! Steps in the life of a pod and its containers.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::session::Session;
use super::{contains, same};
use crate::command::retry;

pub const SOON: Duration = Duration::from_secs(10);
const MEMORY: u64 = 64 << 20;
const MORE_MEMORY: u64 = 96 << 20;

/// Says who it is once and then ticks; ends with 7 when asked to.
const MAIN: &str = "\
trap 'echo bye; exit 7' TERM
cat /proc/sys/kernel/random/uuid > /tmp/token
echo hello from stdout; echo hello from stderr >&2
httpd -p 8080 -h /data
while :; do echo tick; sleep 0.1; done";

pub fn version(session: &mut Session) -> Result<()> {
    let version = session
        .crictl
        .json(&["version", "--output", "json"])
        .or_else(|_| -> Result<Value> {
            let text = session.crictl.text(&["version"])?;
            let value = |key: &str| {
                text.lines()
                    .find_map(|line| line.strip_prefix(key))
                    .unwrap_or_default()
                    .trim()
            };
            Ok(json!({ "runtimeName": value("RuntimeName:"),
                "runtimeApiVersion": value("RuntimeApiVersion:") }))
        })?;
    same("runtime", version["runtimeName"].as_str(), Some("berth"))?;
    same(
        "contract",
        version["runtimeApiVersion"].as_str(),
        Some("v1"),
    )
}

pub fn info(session: &mut Session) -> Result<()> {
    let info = session.crictl.json(&["info"])?;
    let conditions = info["status"]["conditions"]
        .as_array()
        .context("no conditions")?;
    for wanted in ["RuntimeReady", "NetworkReady"] {
        let condition = conditions
            .iter()
            .find(|condition| condition["type"] == wanted);
        let condition = condition.with_context(|| format!("no {wanted}"))?;
        ensure!(condition["status"] == true, "{condition}");
    }
    Ok(())
}

pub fn run_pod(session: &mut Session) -> Result<()> {
    let request = session.request("pod", &pod_request(session))?;
    session.pod = session.crictl.text(&["runp", &request])?;
    ensure!(is_id(&session.pod), "{:?} is not an id", session.pod);
    Ok(())
}

pub fn show_pod(session: &mut Session) -> Result<()> {
    let pods = session.crictl.json(&["pods", "--output", "json"])?;
    same(
        "number of pods",
        pods["items"].as_array().map(Vec::len),
        Some(1),
    )?;
    let pod = &pods["items"][0];
    same("id", pod["id"].as_str(), Some(session.pod.as_str()))?;
    same("state", pod["state"].as_str(), Some("SANDBOX_READY"))?;
    same("label", pod["labels"]["crew"].as_str(), Some("deck"))?;

    let pod = session.crictl.json(&["inspectp", &session.pod])?;
    same(
        "annotation",
        pod["status"]["annotations"]["note/é"].as_str(),
        Some("a=b \"c\""),
    )?;
    let address = pod["status"]["network"]["ip"].as_str().unwrap_or_default();
    address
        .parse::<std::net::IpAddr>()
        .with_context(|| format!("address {address:?}"))?;
    Ok(())
}

pub fn create(session: &mut Session) -> Result<()> {
    let data = session.place.scratch().join("data");
    fs::create_dir_all(&data).context("creating a volume")?;
    fs::write(data.join("index.html"), "from the host\n").context("filling a volume")?;
    let mut request = container_request(session, "main", &["sh", "-c", MAIN]);
    request["working_dir"] = json!("/var/www");
    request["envs"] = json!([{ "key": "GREETING", "value": "ahoy = \"you\"" }]);
    request["mounts"] = json!([
        { "host_path": data, "container_path": "/data", "readonly": true },
        { "host_path": data, "container_path": "/writable" },
    ]);
    request["linux"]["resources"] = json!({
        "memory_limit_in_bytes": MEMORY, "cpu_shares": 512, "oom_score_adj": 100 });
    session.container = create_container(session, &request)?;
    same(
        "state",
        state(session, &session.container)?.as_str(),
        "CONTAINER_CREATED",
    )
}

pub fn start(session: &mut Session) -> Result<()> {
    session.crictl.text(&["start", &session.container])?;
    same(
        "state",
        state(session, &session.container)?.as_str(),
        "CONTAINER_RUNNING",
    )?;
    let running = session.crictl.text(&["ps", "--quiet", "--no-trunc"])?;
    same("running", running.as_str(), &session.container)
}

pub fn inspect(session: &mut Session) -> Result<()> {
    let shown = session.crictl.json(&["inspect", &session.container])?;
    let status = &shown["status"];
    same("name", status["metadata"]["name"].as_str(), Some("main"))?;
    same("label", status["labels"]["role"].as_str(), Some("main"))?;
    let id = session.image.config_digest.as_str();
    same("image id", status["imageId"].as_str(), Some(id))?;
    let log = session
        .place
        .pod_logs()
        .join("main.log")
        .display()
        .to_string();
    same("log path", status["logPath"].as_str(), Some(log.as_str()))?;
    let mounts = status["mounts"].as_array().context("no mounts")?;
    let mount = mounts
        .iter()
        .find(|mount| mount["containerPath"] == "/data");
    same(
        "read-only mount",
        mount.map(|mount| mount["readonly"] == true),
        Some(true),
    )?;
    let memory = &status["resources"]["linux"]["memoryLimitInBytes"];
    same(
        "memory limit",
        memory.as_str(),
        Some(MEMORY.to_string().as_str()),
    )
}

pub fn logs(session: &mut Session) -> Result<()> {
    retry(SOON, || {
        let (out, err) = session.crictl.streams(&["logs", &session.container])?;
        contains("standard output", &out, "hello from stdout\n")?;
        contains("standard error", &err, "hello from stderr\n")?;
        ensure!(
            !out.contains("stderr") && !err.contains("stdout"),
            "the streams are mixed"
        );
        Ok(())
    })
}

/// A line of 40,000 characters is cut into parts of 16 KiB; only the last is full.
pub fn log_format(session: &mut Session) -> Result<()> {
    let command = "head -c 40000 /dev/zero | tr '\\000' x; echo; printf unfinished";
    let container = create_container(
        session,
        &container_request(session, "long", &["sh", "-c", command]),
    )?;
    session.crictl.text(&["start", &container])?;
    wait_for_exit(session, &container)?;

    let path = session.place.pod_logs().join("long.log");
    let text = fs::read_to_string(&path).context("reading the log file")?;
    let mut parts = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.splitn(4, ' ').collect();
        let [time, "stdout", flag, text] = fields[..] else {
            anyhow::bail!("line {:?}", line.chars().take(80).collect::<String>())
        };
        ensure!(time.contains('T') && time.len() >= 20, "time {time:?}");
        parts.push((flag, text.len()));
    }
    let expected = [("P", 16384), ("P", 16384), ("F", 7232)];
    same("parts", parts.get(..3), Some(&expected[..]))?;
    same(
        "last part",
        parts.get(3).map(|part| part.1),
        Some("unfinished".len()),
    )?;
    contains(
        "crictl logs",
        &session.crictl.text(&["logs", &container])?,
        &"x".repeat(40000),
    )?;
    session.crictl.text(&["rm", &container]).map(drop)
}

pub fn log_rotation(session: &mut Session) -> Result<()> {
    let path = session.place.pod_logs().join("main.log");
    let old = path.with_extension("old");
    fs::rename(&path, &old).context("renaming the log file")?;
    session
        .crictl
        .text(&["logs", "--reopen", &session.container])?;
    let length = || {
        fs::metadata(&old)
            .map(|found| found.len())
            .context("looking at the old log")
    };
    let before = length()?;
    retry(SOON, || {
        let text = fs::read_to_string(&path).context("reading the new log file")?;
        contains("new log file", &text, "tick")
    })?;
    same("length of the old file", length()?, before)
}

pub fn exec(session: &mut Session) -> Result<()> {
    let said = session
        .crictl
        .text(&["exec", "-s", &session.container, "echo", "a  b", "$HOME"])?;
    same("output", said.as_str(), "a  b $HOME")?;
    let failing = [
        "exec",
        "-s",
        &session.container,
        "sh",
        "-c",
        "echo out; echo err >&2; exit 3",
    ];
    let said = session.crictl.refusal(&failing)?;
    contains("output", &said, "out")?;
    contains("output", &said, "err")?;
    contains("output", &said, "3")?;
    session
        .crictl
        .refusal(&["exec", "-s", &session.container, "no-such-program"])
        .map(drop)
}

pub fn surroundings(session: &mut Session) -> Result<()> {
    for (command, expected) in [
        ("echo \"$GREETING $FROM_IMAGE\"", "ahoy = \"you\" yes"),
        ("pwd", "/var/www"),
        ("hostname", "crew-pod"),
        ("grep nameserver /etc/resolv.conf", "nameserver 10.9.8.7"),
        ("cat /data/index.html", "from the host"),
        ("touch /data/x 2>/dev/null || echo refused", "refused"),
        ("echo 1 > /writable/made && cat /data/made", "1"),
        ("cat /etc/marker", "public"),
        ("cat /proc/1/comm", "sh"),
        ("id -u", "0"),
        ("df /dev/shm | tail -n 1 | awk '{print $2}'", "65536"),
        ("ls -d /sys/class/net/lo /sys/class/net/eth0 | wc -l", "2"),
        (
            "touch /proc/sys/kernel/x 2>/dev/null || echo refused",
            "refused",
        ),
    ] {
        same(command, in_container(session, command)?.as_str(), expected)?;
    }
    Ok(())
}

pub fn exec_timeout(session: &mut Session) -> Result<()> {
    let begin = Instant::now();
    let command = [
        "exec",
        "-s",
        "--timeout",
        "1",
        &session.container,
        "sleep",
        "30",
    ];
    session.crictl.refusal(&command)?;
    let took = begin.elapsed();
    ensure!(took < Duration::from_secs(15), "it took {took:?}");
    // The shell that asks has the words in its own command line, and so has each copy of it.
    let left = in_container(session, "pgrep -f '[s]leep 30' | wc -l")?;
    same("commands left", left.as_str(), "0")
}

pub fn limits(session: &mut Session) -> Result<()> {
    let limit = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true";
    same(
        "memory limit",
        in_container(session, limit)?,
        MEMORY.to_string(),
    )?;
    let more = MORE_MEMORY.to_string();
    session
        .crictl
        .text(&["update", "--memory", &more, &session.container])?;
    same(
        "memory limit after update",
        in_container(session, limit)?,
        more.clone(),
    )?;
    let shown = session.crictl.json(&["inspect", &session.container])?;
    let memory = &shown["status"]["resources"]["linux"]["memoryLimitInBytes"];
    same(
        "memory limit in the status",
        memory.as_str(),
        Some(more.as_str()),
    )
}

pub fn reachable(session: &mut Session) -> Result<()> {
    let pod = session.crictl.json(&["inspectp", &session.pod])?;
    let address = pod["status"]["network"]["ip"]
        .as_str()
        .context("no address")?
        .to_owned();
    retry(SOON, || {
        let answer = fetch(&address, 8080)?;
        contains("answer", &answer, "from the host")
    })
}

/// The first page of a server.
pub fn fetch(host: &str, port: u16) -> Result<String> {
    let mut stream = TcpStream::connect((host, port)).context("connecting")?;
    stream
        .set_read_timeout(Some(SOON))
        .context("setting a timeout")?;
    stream
        .write_all(b"GET / HTTP/1.0\r\n\r\n")
        .context("asking")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("reading the answer")?;
    Ok(answer)
}

pub fn survive_kill(session: &mut Session) -> Result<()> {
    let token = in_container(session, "cat /tmp/token")?;
    session.restart_daemon(|| Ok(()))?;
    same(
        "state",
        state(session, &session.container)?.as_str(),
        "CONTAINER_RUNNING",
    )?;
    same("token", in_container(session, "cat /tmp/token")?, token)?;
    show_pod(session)?;
    reachable(session)
}

pub fn stop(session: &mut Session) -> Result<()> {
    let begin = Instant::now();
    session
        .crictl
        .text(&["stop", "--timeout", "20", &session.container])?;
    ensure!(begin.elapsed() < SOON, "it waited for its grace period");
    let shown = session.crictl.json(&["inspect", &session.container])?;
    same(
        "state",
        shown["status"]["state"].as_str(),
        Some("CONTAINER_EXITED"),
    )?;
    same("exit code", number(&shown["status"]["exitCode"]), 7)?;
    same("reason", shown["status"]["reason"].as_str(), Some("Error"))?;
    let said = session
        .crictl
        .text(&["logs", "--tail", "1", &session.container])?;
    same("last line", said.as_str(), "bye")?;
    // A second stop finds nothing to do.
    session.crictl.text(&["stop", &session.container]).map(drop)
}

pub fn start_refused(session: &mut Session) -> Result<()> {
    session.crictl.refusal(&["start", &session.container])?;
    session
        .crictl
        .refusal(&["exec", "-s", &session.container, "true"])?;
    same(
        "state",
        state(session, &session.container)?.as_str(),
        "CONTAINER_EXITED",
    )
}

/// Without privileges, and on a root filesystem that it cannot change.
pub fn exit_code(session: &mut Session) -> Result<()> {
    let command = "id -u; id -G; touch /x 2>/dev/null || echo refused; exit 3";
    let mut request = container_request(session, "failing", &["sh", "-c", command]);
    request["linux"]["security_context"] = json!({
        "namespace_options": { "pid": 1 },
        "run_as_user": { "value": 1002 }, "run_as_group": { "value": 1003 },
        "supplemental_groups": [1004], "readonly_rootfs": true, "no_new_privs": true });
    let container = create_container(session, &request)?;
    session.crictl.text(&["start", &container])?;
    let status = wait_for_exit(session, &container)?;
    same("exit code", number(&status["exitCode"]), 3)?;
    same("reason", status["reason"].as_str(), Some("Error"))?;
    let said = session.crictl.text(&["logs", &container])?;
    same("output", said.as_str(), "1002\n1003 1004\nrefused")?;
    session.crictl.text(&["rm", &container]).map(drop)
}

pub fn exit_while_away(session: &mut Session) -> Result<()> {
    let gate = session.place.scratch().join("data/go");
    let command = "while [ ! -e /gate/go ]; do sleep 0.1; done; exit 5";
    let mut request = container_request(session, "alone", &["sh", "-c", command]);
    request["mounts"] =
        json!([{ "host_path": session.place.scratch().join("data"), "container_path": "/gate" }]);
    let container = create_container(session, &request)?;
    session.crictl.text(&["start", &container])?;
    let record: PathBuf = session
        .place
        .state()
        .join("containers")
        .join(&container)
        .join("exit.json");
    session.restart_daemon(|| {
        fs::write(&gate, "").context("opening the gate")?;
        retry(SOON, || {
            ensure!(record.exists(), "no {}", record.display());
            Ok(())
        })
    })?;
    let status = wait_for_exit(session, &container)?;
    same("exit code", number(&status["exitCode"]), 5)?;
    session.crictl.text(&["rm", &container]).map(drop)
}

pub fn remove(session: &mut Session) -> Result<()> {
    session.crictl.text(&["rm", &session.container])?;
    same(
        "containers",
        session.crictl.text(&["ps", "--all", "--quiet"])?,
        String::new(),
    )
}

pub fn stop_pod(session: &mut Session) -> Result<()> {
    for _ in 0..2 {
        session.crictl.text(&["stopp", &session.pod])?;
        let pods = session.crictl.json(&["pods", "--output", "json"])?;
        same(
            "state",
            pods["items"][0]["state"].as_str(),
            Some("SANDBOX_NOTREADY"),
        )?;
    }
    let request = container_request(session, "late", &["true"]);
    let requests = [
        session.request("late", &request)?,
        session.request("pod", &pod_request(session))?,
    ];
    session
        .crictl
        .refusal(&["create", &session.pod, &requests[0], &requests[1]])
        .map(drop)
}

pub fn remove_pod(session: &mut Session) -> Result<()> {
    session.crictl.text(&["rmp", &session.pod])?;
    same(
        "pods",
        session.crictl.text(&["pods", "--quiet"])?,
        String::new(),
    )
}

pub fn end_daemon(session: &mut Session) -> Result<()> {
    session.end_daemon()
}

fn pod_request(session: &Session) -> Value {
    json!({
        "metadata": { "name": "crew", "namespace": "harbour", "uid": "crew-1", "attempt": 1 },
        "hostname": "crew-pod",
        "log_directory": session.place.pod_logs(),
        "labels": { "crew": "deck" },
        "annotations": { "note/é": "a=b \"c\"" },
        "dns_config": { "servers": ["10.9.8.7"], "searches": ["harbour.test"] },
        "linux": { "security_context": own_processes() },
    })
}

pub fn container_request(session: &Session, name: &str, command: &[&str]) -> Value {
    json!({
        "metadata": { "name": name },
        "image": { "image": session.reference(":one") },
        "command": command,
        "log_path": format!("{name}.log"),
        "labels": { "role": name },
        "linux": { "security_context": own_processes() },
    })
}

/// As a kubelet asks for it: each container sees only its own processes.
fn own_processes() -> Value {
    json!({ "namespace_options": { "pid": 1 } })
}

pub fn create_container(session: &Session, request: &Value) -> Result<String> {
    let container = session.request("container", request)?;
    let pod = session.request("pod", &pod_request(session))?;
    let id = session
        .crictl
        .text(&["create", &session.pod, &container, &pod])?;
    ensure!(is_id(&id), "{id:?} is not an id");
    Ok(id)
}

pub fn in_container(session: &Session, command: &str) -> Result<String> {
    session
        .crictl
        .text(&["exec", "-s", &session.container, "sh", "-c", command])
}

pub fn state(session: &Session, container: &str) -> Result<String> {
    let listed = session.crictl.json(&["ps", "--all", "--output", "json"])?;
    let containers = listed["containers"].as_array().context("no containers")?;
    let found = containers
        .iter()
        .find(|listed| listed["id"] == container)
        .context("not listed")?;
    Ok(found["state"].as_str().unwrap_or_default().to_owned())
}

pub fn wait_for_exit(session: &Session, container: &str) -> Result<Value> {
    retry(SOON, || {
        let shown = session.crictl.json(&["inspect", container])?;
        same(
            "state",
            shown["status"]["state"].as_str(),
            Some("CONTAINER_EXITED"),
        )?;
        Ok(shown["status"].clone())
    })
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
}

/// 64-bit numbers come as strings, smaller ones as numbers.
pub fn number(value: &Value) -> i64 {
    value
        .as_i64()
        .or_else(|| value.as_str()?.parse().ok())
        .unwrap_or(0)
}
