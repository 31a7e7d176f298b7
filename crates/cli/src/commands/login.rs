//! `login` and `logout`.

use std::io::{Read, Write};

use clap::Args;
use serde_json::Value;

use super::Outcome;
use crate::daemon::{Call, Client};
use crate::error::{Error, Result};
use crate::logins::{HUB, Login, Logins, server};
use crate::output::{note, print_line};
use crate::terminal::{is_terminal_input, read_secret};

#[derive(Debug, Args)]
pub struct LogIn {
    /// User name
    #[arg(short, long)]
    username: Option<String>,
    /// Password; others on this machine can read it here: --password-stdin is safer
    #[arg(short, long, conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// The registry [default: Docker Hub]
    server: Option<String>,
}

impl LogIn {
    pub async fn run(self, client: &Client) -> Outcome {
        let server = server(self.server.as_deref().unwrap_or(HUB));
        let mut logins = Logins::open()?;
        let mut login = self.ask(&logins, &server)?;
        let call = Call::post("/auth").json(&login.json(&server));
        let answer: Value = client.ask(call).await?;
        if let Some(token) = answer["IdentityToken"].as_str()
            && !token.is_empty()
        {
            token.clone_into(&mut login.identity_token);
            login.password.clear();
        }
        logins.put(&server, &login)?;
        if logins.is_plain(&server) {
            note(&format!(
                "The password is kept in {}, readable by you alone. A credential helper \
                 (credsStore in that file) keeps it better.",
                logins.path().display()
            ));
        }
        print_line(answer["Status"].as_str().unwrap_or("Login Succeeded"))?;
        Ok(0)
    }

    fn ask(&self, logins: &Logins, server: &str) -> Result<Login> {
        let known = logins.get(server)?;
        let user = match (&self.username, known) {
            (Some(user), _) => user.clone(),
            (None, _) if self.password_stdin => {
                return Err(Error::usage("--password-stdin needs --username"));
            }
            // What is kept is tried again.
            (None, Some(known)) if self.password.is_none() => return Ok(known),
            (None, _) => question("User name: ")?,
        };
        let password = match &self.password {
            Some(password) => password.clone(),
            None if self.password_stdin => {
                let mut text = String::new();
                let read = std::io::stdin().read_to_string(&mut text);
                read.map_err(|source| Error::Terminal("reading the password", source))?;
                text.trim_end_matches(['\r', '\n']).to_owned()
            }
            None if !is_terminal_input() => {
                return Err(Error::usage(
                    "nobody is there to type a password: use --password-stdin",
                ));
            }
            None => read_secret("Password: ")?,
        };
        if user.is_empty() || password.is_empty() {
            return Err(Error::usage("a login needs a user name and a password"));
        }
        Ok(Login {
            user,
            password,
            identity_token: String::new(),
        })
    }
}

fn question(text: &str) -> Result<String> {
    if !is_terminal_input() {
        return Err(Error::usage(
            "nobody is there to type a user name: use --username",
        ));
    }
    eprint!("{text}");
    let _unseen = std::io::stderr().flush();
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    read.map_err(|source| Error::Terminal("reading what is typed", source))?;
    Ok(line.trim().to_owned())
}

#[derive(Debug, Args)]
pub struct LogOut {
    /// The registry [default: Docker Hub]
    server: Option<String>,
}

impl LogOut {
    pub fn run(self) -> Outcome {
        let server = server(self.server.as_deref().unwrap_or(HUB));
        match Logins::open()?.remove(&server)? {
            true => print_line(&format!("Removing login credentials for {server}"))?,
            false => print_line(&format!("Not logged in to {server}"))?,
        }
        Ok(0)
    }
}
