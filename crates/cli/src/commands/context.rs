//! `context`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Outcome, each_name};
use crate::contexts::{Context as Kept, Contexts};
use crate::daemon::TlsFiles;
use crate::error::{Error, Result};
use crate::output::{Listing, note, print_inspected, print_line};

const COLUMNS: &[(&str, &str)] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("DockerEndpoint", "ADDRESS"),
    ("Current", "IN USE"),
];

#[derive(Debug, Subcommand)]
pub enum Context {
    /// List them
    #[command(alias = "list")]
    Ls(List),
    /// Give a daemon a name
    Create(Create),
    /// Use one from now on
    Use(Name),
    /// Show everything about some, or about the one in use
    Inspect(Inspect),
    /// Forget some
    #[command(alias = "remove")]
    Rm(Remove),
    /// Show the name of the one in use
    Show,
}

#[derive(Debug, Args)]
pub struct List {
    /// table, json, or a template such as '{{.Name}}'
    #[arg(long)]
    format: Option<String>,
    /// Names alone
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub struct Create {
    /// What it is
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// unix:///path, tcp://host:port or ssh://user@host
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// host=ADDRESS[,ca=FILE,cert=FILE,key=FILE], as docker writes it
    #[arg(long, value_name = "PARTS", conflicts_with = "host")]
    docker: Option<String>,
    /// Whom to trust, for TLS
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// This client's certificate
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    name: String,
}

#[derive(Debug, Args)]
pub struct Name {
    name: String,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// json, or a template such as '{{.Host}}'
    #[arg(short, long)]
    format: Option<String>,
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Remove {
    /// Also the one in use
    #[arg(short, long)]
    force: bool,
    #[arg(required = true)]
    names: Vec<String>,
}

impl Context {
    pub fn run(self) -> Outcome {
        let mut contexts = Contexts::open()?;
        match self {
            Self::Ls(list) => list.run(&contexts),
            Self::Create(create) => {
                let name = create.name.clone();
                contexts.create(&name, create.context()?)?;
                print_line(&name)?;
                Ok(0)
            }
            Self::Use(Name { name }) => {
                contexts.select(&name)?;
                print_line(&name)?;
                for variable in ["BERTH_HOST", "BERTH_CONTEXT"] {
                    if std::env::var_os(variable).is_some_and(|value| !value.is_empty()) {
                        note(&format!("{variable} is set, and counts for more."));
                    }
                }
                Ok(0)
            }
            Self::Inspect(inspect) => inspect.run(&contexts),
            Self::Rm(remove) => each_name(&remove.names, |name| {
                contexts.remove(name, remove.force)?;
                print_line(name)
            }),
            Self::Show => {
                print_line(contexts.current())?;
                Ok(0)
            }
        }
    }
}

impl List {
    fn run(self, contexts: &Contexts) -> Outcome {
        let shown = &["Name", "Description", "DockerEndpoint", "Current"];
        let mut listing = Listing::new(COLUMNS, shown, "Name");
        for name in contexts.names() {
            let context = contexts.get(name)?;
            listing.push(json!({
                "Name": name,
                "Description": context.description,
                "DockerEndpoint": context.host,
                "Current": if name == contexts.current() { "*" } else { "" },
            }));
        }
        listing.print(self.quiet, self.format.as_deref(), false)?;
        Ok(0)
    }
}

impl Create {
    fn context(self) -> Result<Kept> {
        let (mut host, mut ca, mut cert, mut key) = (self.host, self.ca, self.cert, self.key);
        for part in self.docker.iter().flat_map(|parts| parts.split(',')) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            match name {
                "host" => host = Some(value.to_owned()),
                "ca" => ca = Some(value.into()),
                "cert" => cert = Some(value.into()),
                "key" => key = Some(value.into()),
                other => {
                    return Err(Error::usage(format!(
                        "{other:?} is not known: there are host, ca, cert and key"
                    )));
                }
            }
        }
        let host = host
            .ok_or_else(|| Error::usage("a context has an address: --host ssh://user@machine"))?;
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let tls = match (ca, cert, key) {
            (None, None, None) => None,
            (Some(ca), certificate, key) => Some(TlsFiles {
                ca: absolute(ca),
                certificate: certificate.map(absolute),
                key: key.map(absolute),
            }),
            (None, ..) => return Err(Error::usage("TLS needs to know whom to trust: --ca FILE")),
        };
        Ok(Kept {
            description: self.description,
            host,
            tls,
        })
    }
}

impl Inspect {
    fn run(self, contexts: &Contexts) -> Outcome {
        let names = match self.names.is_empty() {
            true => vec![contexts.current().to_owned()],
            false => self.names,
        };
        let mut found = Vec::new();
        for name in &names {
            let context = contexts.get(name)?;
            let tls = context
                .tls
                .map(|tls| json!({"CA": tls.ca, "Certificate": tls.certificate, "Key": tls.key}));
            found.push(json!({
                "Name": name,
                "Description": context.description,
                "Host": context.host,
                "TLS": tls,
            }));
        }
        print_inspected(&found, self.format.as_deref())?;
        Ok(0)
    }
}
