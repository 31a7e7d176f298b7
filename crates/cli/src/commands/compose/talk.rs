//! Commands that look at containers, or carry something between them and here.

use clap::Args;
use serde_json::Value;

use super::{Files, chosen, labels, one};
use crate::commands::{Outcome, copy, events, top};
use crate::daemon::{Call, Client};
use crate::error::{Error, Result};
use crate::options::Window;
use crate::output::{Style, Table, print, print_line, terminal_width};

#[derive(Debug, Args)]
pub struct Events {
    /// An object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    window: Window,
    services: Vec<String>,
}

impl Events {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let (name, _) = files.name()?;
        let label = |key: &str, value: &str| format!("label={key}={value}");
        let mut filter = vec!["type=container".to_owned(), label(labels::PROJECT, &name)];
        // One of them at most: several labels would all have to be there.
        match self.services.as_slice() {
            [] => {}
            [service] => filter.push(label(labels::SERVICE, service)),
            _ => return Err(Error::usage("name one service, or none for all")),
        }
        let events = events::Events {
            filter,
            format: self.json.then(|| "json".to_owned()),
            window: self.window,
        };
        events.run(client).await
    }
}

#[derive(Debug, Args)]
pub struct Top {
    services: Vec<String>,
}

impl Top {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let (_, _, containers) = chosen(client, files, &self.services).await?;
        let texts = |value: &Value| -> Vec<String> {
            let items = value.as_array().into_iter().flatten();
            items
                .map(|item| item.as_str().unwrap_or_default().to_owned())
                .collect()
        };
        let mut table: Option<Table> = None;
        for one in containers.iter().filter(|one| one.is_running()) {
            let found = client.get(format!("/containers/{}/top", one.id)).await?;
            let table = table.get_or_insert_with(|| {
                let own = ["CONTAINER".to_owned()];
                Table::new(own.into_iter().chain(texts(&found["Titles"])))
            });
            for row in found["Processes"].as_array().into_iter().flatten() {
                table.row([one.name.clone()].into_iter().chain(texts(row)));
            }
        }
        if let Some(table) = table {
            print(&table.render(Style::of_stdout(), terminal_width()))?;
        }
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub struct Copy {
    /// Which of the service's containers, by number
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 0,
        hide_default_value = true
    )]
    index: usize,
    /// Keep owners
    #[arg(short, long)]
    archive: bool,
    /// Copy what the source links to
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// path, service:path, or - for a tar archive
    #[arg(allow_hyphen_values = true)]
    source: String,
    /// path, service:path, or - for a tar archive
    #[arg(allow_hyphen_values = true)]
    destination: String,
}

impl Copy {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let index = self.index;
        let place = async |text: String| -> Result<String> {
            match text.split_once(':') {
                Some((service, path)) if !service.contains('/') && !service.is_empty() => {
                    let container = one(client, files, service, index).await?;
                    Ok(format!("{}:{path}", container.id))
                }
                _ => Ok(text),
            }
        };
        let copy = copy::Copy {
            archive: self.archive,
            follow_link: self.follow_link,
            quiet: false,
            source: place(self.source).await?,
            destination: place(self.destination).await?,
        };
        copy.run(client).await
    }
}

#[derive(Debug, Args)]
pub struct Wait {
    /// Stop and remove everything once one has ended
    #[arg(long)]
    down_project: bool,
    #[arg(required = true)]
    services: Vec<String>,
}

impl Wait {
    /// Ends with the code of the last that ended otherwise than well.
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        if self.down_project {
            return Err(Error::usage(
                "--down-project is not there: let `berth compose down` follow",
            ));
        }
        let (_, _, containers) = chosen(client, files, &self.services).await?;
        let mut code = 0;
        for one in &containers {
            let call = Call::post(format!("/containers/{}/wait", one.id));
            let ended: Value = client.ask(call).await?;
            let own = ended["StatusCode"].as_i64().unwrap_or(0);
            print_line(&format!(
                "container {:?} exited with status code {own}",
                one.name
            ))?;
            if own != 0 {
                code = own;
            }
        }
        Ok(u8::try_from(code & 0xff).unwrap_or(1))
    }
}

#[derive(Debug, Args)]
pub struct Port {
    /// Which of the service's containers, by number
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 0,
        hide_default_value = true
    )]
    index: usize,
    /// tcp or udp
    #[arg(long, default_value = "tcp")]
    protocol: String,
    service: String,
    /// In the container
    port: String,
}

impl Port {
    pub async fn run(self, client: &Client, files: &Files) -> Outcome {
        let container = one(client, files, &self.service, self.index).await?;
        let port = match self.port.contains('/') {
            true => self.port,
            false => format!("{}/{}", self.port, self.protocol),
        };
        let asked = top::Port {
            container: container.id,
            port: Some(port),
        };
        asked.run(client).await
    }
}
