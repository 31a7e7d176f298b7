//! What a build is lent of this side: secrets, and ssh agents.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncWriteExt, copy, split};
use tokio::net::UnixStream;

use crate::daemon::{Call, Client};
use crate::error::{Error, Result};
use crate::output::note;

/// The daemon takes no larger ones.
const LARGEST: usize = 500 << 10;

/// What `--secret` and `--ssh` name.
#[derive(Debug, Default, Clone)]
pub struct Lent {
    secrets: BTreeMap<String, Place>,
    /// Sockets, by id.
    agents: BTreeMap<String, PathBuf>,
}

/// Where a secret is.
#[derive(Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Variable(String),
    /// Nowhere else.
    Here(String),
}

impl fmt::Debug for Place {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => to.debug_tuple("File").field(path).finish(),
            Self::Variable(name) => to.debug_tuple("Variable").field(name).finish(),
            Self::Here(_) => to.write_str("Here"),
        }
    }
}

impl Lent {
    pub fn parse(secrets: &[String], agents: &[String]) -> Result<Self> {
        let variable = |name: &str| std::env::var_os(name).is_some();
        let mut lent = Self::default();
        for text in secrets {
            let (id, place) = secret(text, variable)?;
            lent.secrets.insert(id, place);
        }
        for text in agents {
            let (id, socket) = agent(text)?;
            lent.agents.insert(id, socket);
        }
        Ok(lent)
    }

    /// A secret from a file, as compose files name them.
    pub fn add_file(&mut self, id: impl Into<String>, path: impl Into<PathBuf>) {
        self.secrets.insert(id.into(), Place::File(path.into()));
    }

    /// A secret itself.
    pub fn add_value(&mut self, id: impl Into<String>, value: impl Into<String>) {
        self.secrets.insert(id.into(), Place::Here(value.into()));
    }

    /// Hands the secrets over before the build. Returns the token that the build is to name; empty
    /// where there is nothing.
    pub async fn offer(&self, client: &Client) -> Result<String> {
        if self.secrets.is_empty() && self.agents.is_empty() {
            return Ok(String::new());
        }
        let mut secrets = Map::new();
        for (id, place) in &self.secrets {
            secrets.insert(id.clone(), STANDARD.encode(read(id, place)?).into());
        }
        let agents: Vec<&String> = self.agents.keys().collect();
        let body = json!({ "Secrets": secrets, "Agents": agents });
        let taken: Result<Value> = client.ask(Call::post("/build/secrets").json(&body)).await;
        let taken = match taken {
            Err(error) if error.is_not_found() => {
                return Err(Error::usage(
                    "this daemon takes no secrets and no ssh agents: it is not Berth, or an older \
                     one",
                ));
            }
            taken => taken?,
        };
        Ok(taken["Id"].as_str().unwrap_or_default().to_owned())
    }

    /// Connects a command there with an agent here, for as long as they speak.
    pub fn connect(&self, client: &Client, id: &str, ticket: &str) {
        let Some(socket) = self.agents.get(id).cloned() else {
            return;
        };
        let (client, ticket) = (client.clone(), ticket.to_owned());
        tokio::spawn(async move {
            if let Err(error) = join(&client, &socket, &ticket).await {
                note(&format!("the ssh agent is not reached: {}", error.report()));
            }
        });
    }
}

async fn join(client: &Client, socket: &PathBuf, ticket: &str) -> Result<()> {
    let here = UnixStream::connect(socket).await;
    let mut here = here.map_err(Error::file("connecting to", socket))?;
    let call = Call::post("/build/agent").query("ticket", ticket);
    let (there, _) = client.hijack(call).await?;
    let (mut from_there, mut to_there) = split(there);
    let (mut from_here, mut to_here) = here.split();
    let inwards = async {
        let _gone = copy(&mut from_there, &mut to_here).await;
        let _gone = to_here.shutdown().await;
    };
    let outwards = async {
        let _gone = copy(&mut from_here, &mut to_there).await;
        let _gone = to_there.shutdown().await;
    };
    tokio::join!(inwards, outwards);
    Ok(())
}

fn read(id: &str, place: &Place) -> Result<Vec<u8>> {
    let bytes = match place {
        Place::File(path) => {
            std::fs::read(path).map_err(Error::file("reading the secret", path))?
        }
        Place::Variable(name) => std::env::var_os(name)
            .map(std::os::unix::ffi::OsStringExt::into_vec)
            .ok_or_else(|| {
                Error::usage(format!("secret {id}: {name} is not in the environment"))
            })?,
        Place::Here(value) => value.clone().into_bytes(),
    };
    match bytes.len() > LARGEST {
        true => Err(Error::usage(format!(
            "secret {id} is larger than {LARGEST} bytes"
        ))),
        false => Ok(bytes),
    }
}

/// `id=NAME[,src=FILE|,env=VARIABLE]`: without either a variable of that name, or a file.
fn secret(text: &str, has_variable: impl Fn(&str) -> bool) -> Result<(String, Place)> {
    let wrong = |what: &str| {
        Error::usage(format!(
            "--secret {text:?}: {what}: write id=NAME,src=FILE or id=NAME,env=VARIABLE"
        ))
    };
    let (mut id, mut kind, mut file, mut variable) = (None, None, None, None);
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("id", value)) => id = Some(value.to_owned()),
            Some(("type", value @ ("file" | "env"))) => kind = Some(value),
            Some(("src" | "source", value)) => file = Some(value.to_owned()),
            Some(("env", value)) => variable = Some(value.to_owned()),
            _ => return Err(wrong(&format!("{field:?} is not understood"))),
        }
    }
    let id = id.filter(|id| !id.is_empty());
    let place = match (kind, file, variable) {
        (_, Some(_), Some(_)) => return Err(wrong("a file or a variable, not both")),
        (Some("env"), Some(name), None) | (_, None, Some(name)) => Some(Place::Variable(name)),
        (_, Some(path), None) => Some(Place::File(path.into())),
        (_, None, None) => None,
    };
    match (id, place) {
        (Some(id), Some(place)) => Ok((id, place)),
        (Some(id), None) if kind != Some("file") && has_variable(&id) => {
            Ok((id.clone(), Place::Variable(id)))
        }
        (Some(id), None) => Ok((id.clone(), Place::File(id.into()))),
        (None, _) => Err(wrong("it has no id")),
    }
}

/// `default`, or `NAME=SOCKET`; without a socket that of `SSH_AUTH_SOCK`.
fn agent(text: &str) -> Result<(String, PathBuf)> {
    use std::os::unix::fs::FileTypeExt;

    let (id, socket) = match text.split_once('=') {
        Some((id, socket)) => (id, PathBuf::from(socket)),
        None => {
            let given = std::env::var_os("SSH_AUTH_SOCK").filter(|given| !given.is_empty());
            let given = given.ok_or_else(|| {
                Error::usage(format!(
                    "--ssh {text}: no agent runs here, as SSH_AUTH_SOCK is not set: start one by \
                     eval $(ssh-agent), and ssh-add the key"
                ))
            })?;
            (text, PathBuf::from(given))
        }
    };
    let found = std::fs::metadata(&socket).map_err(Error::file("finding the agent", &socket))?;
    if !found.file_type().is_socket() {
        return Err(Error::usage(format!(
            "--ssh {text}: {} is no agent's socket: add keys to an agent by ssh-add",
            socket.display()
        )));
    }
    let id = if id.is_empty() { "default" } else { id };
    Ok((id.to_owned(), socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_files_or_variables() {
        let read = |text: &str| secret(text, |name| name == "SET");
        let file = |path: &str| Place::File(path.into());
        let variable = |name: &str| Place::Variable(name.into());
        for (text, id, place) in [
            ("id=a,src=/f", "a", file("/f")),
            ("type=file,id=a,source=f", "a", file("f")),
            ("id=a,env=B", "a", variable("B")),
            ("id=a,type=env,src=B", "a", variable("B")),
            ("id=SET", "SET", variable("SET")),
            ("id=SET,type=file", "SET", file("SET")),
            ("id=f", "f", file("f")),
        ] {
            assert_eq!(read(text).unwrap(), (id.to_owned(), place), "{text}");
        }
        for text in ["", "src=/f", "id=", "id=a,src=f,env=B", "id=a,mode=1", "a"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_agent_is_a_socket() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("agent");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let text = format!("key={}", path.display());
        assert_eq!(agent(&text).unwrap(), ("key".to_owned(), path));
        let file = scratch.path().join("id_rsa");
        std::fs::write(&file, "").unwrap();
        let told = agent(&format!("default={}", file.display())).unwrap_err();
        assert!(told.to_string().contains("ssh-add"), "{told}");
        assert!(agent("default=/nowhere/agent").is_err());
    }

    #[test]
    fn a_secret_s_value_is_not_printed() {
        let mut lent = Lent::default();
        lent.add_value("id", "opensesame");
        assert!(!format!("{lent:?}").contains("opensesame"));
    }
}
