//! `top` and `port`.

use clap::Args;
use serde_json::Value;

use super::Outcome;
use crate::daemon::{Call, Client, segment};
use crate::error::{Error, Result};
use crate::output::{Style, Table, print, print_line, terminal_width};

#[derive(Debug, Args)]
pub struct Top {
    container: String,
    /// Options of ps(1), as in aux or -o pid,cmd
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PS OPTIONS"
    )]
    options: Vec<String>,
}

impl Top {
    pub async fn run(self, client: &Client) -> Outcome {
        let call = Call::get(format!("/containers/{}/top", segment(&self.container)))
            .given("ps_args", self.options.join(" "));
        let found: Value = client.ask(call).await?;
        let texts = |value: &Value| -> Vec<String> {
            let items = value.as_array().into_iter().flatten();
            let texts = items.map(|item| item.as_str().unwrap_or_default().to_owned());
            texts.collect()
        };
        let mut table = Table::new(texts(&found["Titles"]));
        for row in found["Processes"].as_array().into_iter().flatten() {
            table.row(texts(row));
        }
        print(&table.render(Style::of_stdout(), terminal_width()))?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub struct Port {
    pub(super) container: String,
    /// Of the container alone: 80 or 80/udp
    pub(super) port: Option<String>,
}

impl Port {
    pub async fn run(self, client: &Client) -> Outcome {
        let path = format!("/containers/{}/json", segment(&self.container));
        let found = client.get(path).await?;
        let ports = found.pointer("/NetworkSettings/Ports");
        let ports = ports
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        match &self.port {
            None => {
                for (port, bindings) in &ports {
                    for place in places(bindings) {
                        print_line(&format!("{port} -> {place}"))?;
                    }
                }
            }
            Some(port) => self.one(port, &ports)?,
        }
        Ok(0)
    }

    fn one(&self, port: &str, ports: &serde_json::Map<String, Value>) -> Result<()> {
        let key = match port.contains('/') {
            true => port.to_owned(),
            false => format!("{port}/tcp"),
        };
        let places = ports.get(&key).map(places).unwrap_or_default();
        if places.is_empty() {
            let name = &self.container;
            let text = format!("no public port '{key}' published for {name}");
            return Err(Error::Failed(text));
        }
        places.iter().try_for_each(|place| print_line(place))
    }
}

fn places(bindings: &Value) -> Vec<String> {
    let bindings = bindings.as_array().into_iter().flatten();
    let places = bindings.map(|binding| {
        let text = |key: &str| binding[key].as_str().unwrap_or_default();
        let (ip, port) = (text("HostIp"), text("HostPort"));
        match ip.contains(':') {
            true => format!("[{ip}]:{port}"),
            false => format!("{ip}:{port}"),
        }
    });
    places.collect()
}
