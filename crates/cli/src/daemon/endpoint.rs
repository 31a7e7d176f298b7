//! Where a daemon is: `unix:///path`, `tcp://host:port` or `ssh://user@host`.

use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, Result};

const PLAIN_PORT: u16 = 2375;
const TLS_PORT: u16 = 2376;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    Unix(PathBuf),
    Tcp {
        host: String,
        port: u16,
        tls: Option<TlsFiles>,
    },
    /// A `berth dial-stdio` on that machine; it knows where its daemon is.
    Ssh {
        target: String,
        port: Option<u16>,
    },
}

/// PEM files: whom to trust, and who this is.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

impl Endpoint {
    pub fn parse(text: &str, tls: Option<TlsFiles>) -> Result<Self> {
        let bad = |why: &str| {
            Error::usage(format!(
                "{text:?} is no daemon's address: {why}; write unix:///path, tcp://host:port or \
                 ssh://user@host"
            ))
        };
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| bad("it has no scheme"))?;
        let rest = rest.trim_end_matches('/');
        match scheme {
            _ if rest.is_empty() => Err(bad("it is empty")),
            "unix" => Ok(Self::Unix(rest.into())),
            "tcp" | "http" | "https" => {
                let (host, port) = host_and_port(rest).ok_or_else(|| bad("its port is wrong"))?;
                let default = if tls.is_some() { TLS_PORT } else { PLAIN_PORT };
                if scheme == "https" && tls.is_none() {
                    return Err(bad("TLS needs to know whom to trust (--tlscacert)"));
                }
                Ok(Self::Tcp {
                    host,
                    port: port.unwrap_or(default),
                    tls,
                })
            }
            "ssh" => {
                let (user, place) = match rest.rsplit_once('@') {
                    Some((user, place)) => (Some(user), place),
                    None => (None, rest),
                };
                let (host, port) = host_and_port(place).ok_or_else(|| bad("its port is wrong"))?;
                let target = user.map_or(host.clone(), |user| format!("{user}@{host}"));
                // ssh(1) would take it for an option.
                if target.starts_with('-') {
                    return Err(bad("a host does not begin with a dash"));
                }
                Ok(Self::Ssh { target, port })
            }
            other => Err(bad(&format!("{other} is not spoken"))),
        }
    }
}

/// An IPv6 address stands in brackets.
fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
    if let Some(inner) = text.strip_prefix('[') {
        let (host, rest) = inner.split_once(']')?;
        let port = match rest {
            "" => None,
            rest => Some(rest.strip_prefix(':')?.parse().ok()?),
        };
        return Some((host.to_owned(), port));
    }
    match text.split_once(':') {
        Some((host, port)) => Some((host.to_owned(), Some(port.parse().ok()?))),
        None => Some((text.to_owned(), None)),
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port, .. } if host.contains(':') => {
                write!(f, "tcp://[{host}]:{port}")
            }
            Self::Tcp { host, port, .. } => write!(f, "tcp://{host}:{port}"),
            Self::Ssh { target, port: None } => write!(f, "ssh://{target}"),
            Self::Ssh {
                target,
                port: Some(port),
            } => write!(f, "ssh://{target}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_the_same() {
        for (text, shown) in [
            ("unix:///run/a.sock", "unix:///run/a.sock"),
            ("/run/a.sock", "unix:///run/a.sock"),
            ("tcp://h", "tcp://h:2375"),
            ("tcp://h:99/", "tcp://h:99"),
            ("tcp://[::1]:99", "tcp://[::1]:99"),
            ("ssh://me@h", "ssh://me@h"),
            ("ssh://h:22", "ssh://h:22"),
        ] {
            assert_eq!(Endpoint::parse(text, None).unwrap().to_string(), shown);
        }
        let tls = Endpoint::parse("tcp://h", Some(TlsFiles::default())).unwrap();
        assert_eq!(tls.to_string(), "tcp://h:2376");
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_to_write() {
        for text in [
            "",
            "h:1",
            "tcp://",
            "tcp://h:x",
            "npipe:////./pipe/x",
            "https://h",
            "ssh://-oProxyCommand=x",
            "tcp://[::1",
        ] {
            let error = Endpoint::parse(text, None).unwrap_err().to_string();
            assert!(error.contains("write unix://"), "{text}: {error}");
        }
    }
}
