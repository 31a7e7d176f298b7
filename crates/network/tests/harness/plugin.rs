//! A plugin of Docker's protocol in the test's own process: it makes veths, gives addresses, keeps
//! what it was asked for, and misbehaves where it is told to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::run;

/// How a method is answered.
#[derive(Debug, Clone)]
pub enum Manner {
    /// With an error, and nothing done.
    Refuse,
    /// As it should be done, and with something that nobody understands.
    Garbage,
    /// As it should be done, and never.
    Hang,
    /// As it should be done, but for these fields.
    Say(Value),
}

/// What it has been asked for and not to take back.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Kept {
    pub pools: Vec<String>,
    pub addresses: BTreeSet<String>,
    pub networks: BTreeSet<String>,
    pub endpoints: BTreeSet<String>,
    pub joined: BTreeSet<String>,
    pub ways_out: BTreeSet<String>,
}

#[derive(Default)]
struct State {
    kept: Kept,
    calls: Vec<(String, Value)>,
    manners: BTreeMap<String, Manner>,
}

/// Clones share everything; what it keeps outlives its sockets.
#[derive(Clone, Default)]
pub struct Plugin(Arc<Mutex<State>>);

impl Plugin {
    /// Listens at `<dir>/<name>.sock` until that is removed and asked once more.
    pub fn listen(&self, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(format!("{name}.sock"));
        let listener = UnixListener::bind(&path).unwrap();
        let this = self.clone();
        let own = path.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if !own.exists() {
                    break;
                }
                let this = this.clone();
                std::thread::spawn(move || this.serve(stream.unwrap()));
            }
        });
        path
    }

    pub fn kept(&self) -> Kept {
        self.0.lock().unwrap().kept.clone()
    }

    pub fn behave(&self, method: &str, manner: Option<Manner>) {
        let manners = &mut self.0.lock().unwrap().manners;
        match manner {
            Some(manner) => _ = manners.insert(method.to_owned(), manner),
            None => _ = manners.remove(method),
        }
    }

    /// Has it forget what nobody heard of, for one.
    pub fn keep(&self, kept: Kept) {
        self.0.lock().unwrap().kept = kept;
    }

    pub fn asked(&self, method: &str) -> Vec<Value> {
        let state = self.0.lock().unwrap();
        let of_method = state.calls.iter().filter(|(called, _)| called == method);
        of_method.map(|(_, body)| body.clone()).collect()
    }

    fn serve(&self, stream: UnixStream) {
        let mut reader = BufReader::new(&stream);
        let (mut method, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim().to_owned();
            if line.is_empty() {
                break;
            }
            if method.is_empty() {
                let path = line.split_whitespace().nth(1).unwrap();
                method = path.trim_start_matches('/').to_owned();
            }
            if let Some((name, value)) = line.split_once(": ")
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if let Some(answer) = self.answer(&method, &body) {
            let length = answer.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            // Whoever asked may have gone.
            let _ = (&stream).write_all((head + &answer).as_bytes());
        }
    }

    fn answer(&self, method: &str, body: &Value) -> Option<String> {
        let mut state = self.0.lock().unwrap();
        state.calls.push((method.to_owned(), body.clone()));
        let manner = state.manners.get(method).cloned();
        if let Some(Manner::Refuse) = manner {
            return Some(json!({"Err": "not today"}).to_string());
        }
        let done = state.kept.act(method, body);
        drop(state);
        let mut answer = match done {
            Ok(answer) => answer,
            Err(problem) => json!({ "Err": problem }),
        };
        match manner {
            Some(Manner::Garbage) => return Some("<html>".to_owned()),
            Some(Manner::Hang) => {
                std::thread::sleep(Duration::from_secs(60));
                return None;
            }
            Some(Manner::Say(Value::Object(fields))) => {
                answer.as_object_mut().unwrap().extend(fields);
            }
            _ => {}
        }
        Some(answer.to_string())
    }
}

impl Kept {
    fn act(&mut self, method: &str, body: &Value) -> Result<Value, String> {
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        let (network, endpoint) = (text("NetworkID"), text("EndpointID"));
        let take = |set: &mut BTreeSet<String>, name: &str| match set.remove(name) {
            true => Ok(json!({})),
            false => Err(format!("{method}: there is no {name}")),
        };
        let short = endpoint.get(..6).unwrap_or_default().to_owned();
        match method {
            "Plugin.Activate" => Ok(json!({"Implements": ["NetworkDriver", "IpamDriver"]})),
            "NetworkDriver.GetCapabilities" => Ok(json!({"Scope": "local"})),
            "NetworkDriver.CreateNetwork" => match self.networks.insert(network) {
                true => Ok(json!({})),
                false => Err("it is there already".to_owned()),
            },
            "NetworkDriver.DeleteNetwork" => take(&mut self.networks, &network),
            "NetworkDriver.CreateEndpoint" => {
                let (host, own) = (format!("fh{short}"), format!("fc{short}"));
                run(
                    "ip",
                    &["link", "add", &host, "type", "veth", "peer", "name", &own],
                );
                run("ip", &["link", "set", &host, "up"]);
                self.endpoints.insert(endpoint);
                Ok(json!({"Interface": {"MacAddress": "02:42:aa:00:00:01"}}))
            }
            "NetworkDriver.DeleteEndpoint" => {
                take(&mut self.endpoints, &endpoint)?;
                // As it was made: the one that a container had is back.
                run("ip", &["link", "show", &format!("fc{short}")]);
                run("ip", &["link", "del", &format!("fh{short}")]);
                Ok(json!({}))
            }
            "NetworkDriver.Join" => {
                self.joined.insert(endpoint);
                Ok(json!({
                    "InterfaceName": {"SrcName": format!("fc{short}"), "DstPrefix": "loom"},
                    "Gateway": "10.77.0.1",
                    "StaticRoutes": [
                        {"Destination": "10.99.0.0/16", "RouteType": 0, "NextHop": "10.77.0.9"},
                        {"Destination": "10.98.0.0/16", "RouteType": 1, "NextHop": ""},
                    ],
                }))
            }
            "NetworkDriver.Leave" => take(&mut self.joined, &endpoint),
            "NetworkDriver.ProgramExternalConnectivity" => {
                self.ways_out.insert(endpoint);
                Ok(json!({}))
            }
            "NetworkDriver.RevokeExternalConnectivity" => take(&mut self.ways_out, &endpoint),
            "NetworkDriver.EndpointOperInfo" => Ok(json!({"Value": {
                "com.docker.network.portmap":
                    [{"Proto": 6, "Port": 80, "HostIP": "0.0.0.0", "HostPort": 8080}],
            }})),
            "IpamDriver.GetDefaultAddressSpaces" => Ok(json!({
                "LocalDefaultAddressSpace": "here", "GlobalDefaultAddressSpace": "all",
            })),
            "IpamDriver.RequestPool" => {
                self.pools.push("here/p".to_owned());
                Ok(json!({"PoolID": "here/p", "Pool": "10.77.0.0/16"}))
            }
            "IpamDriver.ReleasePool" => match self.pools.pop() {
                Some(_) => Ok(json!({})),
                None => Err("there is no pool".to_owned()),
            },
            "IpamDriver.RequestAddress" => {
                let free = (1..250).map(|last| format!("10.77.0.{last}"));
                let mut free = free.filter(|address| !self.addresses.contains(address));
                let address = match text("Address").as_str() {
                    "" => free.next().unwrap(),
                    wanted => wanted.to_owned(),
                };
                match self.addresses.insert(address.clone()) {
                    true => Ok(json!({"Address": format!("{address}/16")})),
                    false => Err(format!("{address} is taken")),
                }
            }
            "IpamDriver.ReleaseAddress" => take(&mut self.addresses, &text("Address")),
            _ => Ok(json!({})),
        }
    }
}
