//! How long the Docker door takes for what `docker run --rm` and `docker exec` ask of it, without
//! the time that the CLI needs for itself: the same requests in the same order, from a thread that
//! does nothing else.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::figures::Figures;
use super::load;
use crate::daemon::Daemon;
use crate::place::Place;
use crate::registry::Registry;
use crate::workspace;

const ROUNDS: usize = 100;
const WARM_UP: usize = 5;
const PATIENCE: Duration = Duration::from_secs(30);

const MEASURES: [&str; 3] = ["run --rm", "run --rm --network host", "exec"];

pub fn run(released: bool) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("needs root");
    }
    let programs = super::programs(released)?;
    let place = Place::as_on_a_node()?;
    let registry = Registry::start(&place.scratch())?;
    let image = load::publish_small(&registry)?;
    let log = workspace::logs()?.join("bench-docker-berthd.log");
    let daemon = Daemon::start_from(&programs, &place, &log)?;
    let door = Door(place.socket().with_file_name("docker.sock"));
    let (name, tag) = image.rsplit_once(':').context("a tag")?;
    door.call(
        "POST",
        &format!("/images/create?fromImage={name}&tag={tag}"),
        None,
    )?;
    let figures = measure(&door, &image)?;
    daemon.stop()?;
    for measure in MEASURES {
        let at = |percent| figures.quantile(measure, percent).unwrap_or(f64::NAN);
        println!(
            "{measure:<26} p50 {:6.2}  p90 {:6.2}  p99 {:6.2} ms",
            at(50),
            at(90),
            at(99)
        );
    }
    Ok(())
}

fn measure(door: &Door, image: &str) -> Result<Figures> {
    let mut figures = Figures::default();
    let kept = door.create(&json!({"Image": image, "Cmd": ["sleep", "1000"]}))?;
    door.call("POST", &format!("/containers/{kept}/start"), None)?;
    for round in 0..ROUNDS + WARM_UP {
        for measure in MEASURES {
            let begin = Instant::now();
            match measure {
                "exec" => exec(door, &kept)?,
                "run --rm" => run_once(door, image, "bridge")?,
                _ => run_once(door, image, "host")?,
            }
            if round >= WARM_UP {
                figures.add(measure, begin.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    door.call("DELETE", &format!("/containers/{kept}?force=1"), None)?;
    Ok(figures)
}

/// As the CLI does it: made, attached, waited for, started; then the output's end and the removal.
fn run_once(door: &Door, image: &str, network: &str) -> Result<()> {
    let id = door.create(&json!({
        "Image": image, "Cmd": ["true"], "AttachStdout": true, "AttachStderr": true,
        "HostConfig": {"AutoRemove": true, "NetworkMode": network},
    }))?;
    let mut output = door.upgrade(
        &format!("/containers/{id}/attach?stream=1&stdout=1&stderr=1"),
        None,
    )?;
    let mut waiting = door.send(
        "POST",
        &format!("/containers/{id}/wait?condition=removed"),
        None,
    )?;
    head(&mut waiting)?;
    door.call("POST", &format!("/containers/{id}/start"), None)?;
    output.read_to_end(&mut Vec::new())?;
    let mut line = String::new();
    while !line.contains("StatusCode") {
        line.clear();
        ensure!(
            waiting.read_line(&mut line)? > 0,
            "the wait ended without a code"
        );
    }
    ensure!(line.contains("\"StatusCode\":0"), "{line}");
    Ok(())
}

fn exec(door: &Door, container: &str) -> Result<()> {
    let asked = json!({"Cmd": ["true"], "AttachStdout": true, "AttachStderr": true});
    let made = door.call(
        "POST",
        &format!("/containers/{container}/exec"),
        Some(&asked),
    )?;
    let id = made["Id"].as_str().context("an id")?.to_owned();
    let mut output = door.upgrade(
        &format!("/exec/{id}/start"),
        Some(&json!({"Detach": false})),
    )?;
    output.read_to_end(&mut Vec::new())?;
    let told = door.call("GET", &format!("/exec/{id}/json"), None)?;
    ensure!(told["ExitCode"] == 0, "{told}");
    Ok(())
}

/// The socket, with a connection for each request.
pub struct Door(PathBuf);

impl Door {
    pub fn new(socket: PathBuf) -> Self {
        Self(socket)
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn create(&self, body: &Value) -> Result<String> {
        let made = self.call("POST", "/containers/create", Some(body))?;
        Ok(made["Id"].as_str().context("an id")?.to_owned())
    }

    /// One request on a connection of its own, and the answer's JSON, if it is any.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut stream = self.send(method, path, body)?;
        let status = head(&mut stream)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(status < 400, "{method} {path}: {status} {answer}");
        let text = answer.find('{').zip(answer.rfind('}'));
        let text = text.and_then(|(begin, end)| answer.get(begin..=end));
        Ok(text
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default())
    }

    /// The answer as it is.
    pub fn list(&self, path: &str) -> Result<String> {
        let mut stream = self.send("GET", &path.replace('"', "%22"), None)?;
        let status = head(&mut stream)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(status == 200, "{path}: {status} {answer}");
        Ok(answer)
    }

    /// Sends bytes; the answer follows.
    pub fn upload(&self, path: &str, kind: &str, body: &[u8]) -> Result<BufReader<UnixStream>> {
        self.open("POST", path, (kind, body), "Connection: close\r\n")
    }

    fn upgrade(&self, path: &str, body: Option<&Value>) -> Result<BufReader<UnixStream>> {
        let mut stream = self.begin(
            "POST",
            path,
            body,
            "Connection: Upgrade\r\nUpgrade: tcp\r\n",
        )?;
        let status = head(&mut stream)?;
        ensure!(status == 101, "{path}: {status}");
        Ok(stream)
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<BufReader<UnixStream>> {
        self.begin(method, path, body, "Connection: close\r\n")
    }

    fn begin(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        headers: &str,
    ) -> Result<BufReader<UnixStream>> {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.open(method, path, ("application/json", body.as_bytes()), headers)
    }

    fn open(
        &self,
        method: &str,
        path: &str,
        (kind, body): (&str, &[u8]),
        headers: &str,
    ) -> Result<BufReader<UnixStream>> {
        let mut stream = UnixStream::connect(self.path()).context("connecting to the daemon")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let request = format!(
            "{method} /v1.50{path} HTTP/1.1\r\nHost: docker\r\n{headers}Content-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        stream.write_all(body)?;
        Ok(BufReader::new(stream))
    }
}

/// Reads the head of an answer: its status.
pub fn head(stream: &mut BufReader<UnixStream>) -> Result<u16> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).context("an answer")?.parse()?;
    while line.trim() != "" {
        line.clear();
        ensure!(stream.read_line(&mut line)? > 0, "the head breaks off");
    }
    Ok(status)
}
