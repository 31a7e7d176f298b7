//! The command line that containerd gives to a shim, in the style of Go flags:
//! one dash or two, the value after a space or an equals sign.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Args {
    pub namespace: String,
    pub id: String,
    /// The containerd socket; the shim's own socket is put beside it.
    pub address: PathBuf,
    pub publish_binary: PathBuf,
    pub bundle: PathBuf,
    /// A socket path to remove when `serve` ends.
    pub socket: PathBuf,
    /// Where `serve` tells events; nobody wants any if it is empty.
    pub events: PathBuf,
    /// FIFOs that `copy` reads, and the log that it writes; each may be empty.
    pub stdout: PathBuf,
    pub stderr: PathBuf,
    pub log: PathBuf,
    pub debug: bool,
    pub version: bool,
    pub info: bool,
    pub action: String,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArgsError {
    #[error("unknown flag -{0}")]
    UnknownFlag(String),
    #[error("flag -{0} needs a value")]
    NoValue(String),
    #[error("flag -{0} is not UTF-8")]
    NotText(String),
    #[error("more than one action: {0:?}")]
    Extra(OsString),
}

impl Args {
    /// `words` without the program's name.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, ArgsError> {
        let mut args = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let Some(flag) = word.as_bytes().strip_prefix(b"-") else {
                if !args.action.is_empty() {
                    return Err(ArgsError::Extra(word));
                }
                args.action = text("action", word)?;
                continue;
            };
            let flag = flag.strip_prefix(b"-").unwrap_or(flag);
            let (name, inline) = match flag.iter().position(|&byte| byte == b'=') {
                Some(at) => (
                    &flag[..at],
                    Some(OsStr::from_bytes(&flag[at + 1..]).to_owned()),
                ),
                None => (flag, None),
            };
            let name = String::from_utf8_lossy(name).into_owned();
            args.set(name, inline, &mut words)?;
        }
        Ok(args)
    }

    fn set(
        &mut self,
        name: String,
        inline: Option<OsString>,
        words: &mut dyn Iterator<Item = OsString>,
    ) -> Result<(), ArgsError> {
        let truth =
            |inline: &Option<OsString>| inline.as_ref().is_none_or(|value| value != "false");
        match name.as_str() {
            "debug" => self.debug = truth(&inline),
            "v" | "version" => self.version = truth(&inline),
            "info" => self.info = truth(&inline),
            "namespace" | "id" | "address" | "publish-binary" | "bundle" | "socket" | "events"
            | "stdout" | "stderr" | "log" => {
                let value = inline
                    .or_else(|| words.next())
                    .ok_or_else(|| ArgsError::NoValue(name.clone()))?;
                match name.as_str() {
                    "namespace" => self.namespace = text(&name, value)?,
                    "id" => self.id = text(&name, value)?,
                    "address" => self.address = value.into(),
                    "publish-binary" => self.publish_binary = value.into(),
                    "bundle" => self.bundle = value.into(),
                    "events" => self.events = value.into(),
                    "stdout" => self.stdout = value.into(),
                    "stderr" => self.stderr = value.into(),
                    "log" => self.log = value.into(),
                    _ => self.socket = value.into(),
                }
            }
            _ => return Err(ArgsError::UnknownFlag(name)),
        }
        Ok(())
    }
}

fn text(name: &str, value: OsString) -> Result<String, ArgsError> {
    String::from_utf8(value.into_vec()).map_err(|_| ArgsError::NotText(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, ArgsError> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_are_read_as_containerd_writes_them() {
        let expected = Args {
            namespace: "k8s.io".into(),
            id: "c1".into(),
            address: "/run/containerd/containerd.sock".into(),
            publish_binary: "/usr/bin/containerd".into(),
            debug: true,
            action: "start".into(),
            ..Args::default()
        };
        for line in [
            "-namespace k8s.io -address /run/containerd/containerd.sock -publish-binary \
             /usr/bin/containerd -id c1 -debug start",
            "--namespace=k8s.io --address=/run/containerd/containerd.sock \
             --publish-binary=/usr/bin/containerd --id=c1 --debug start",
        ] {
            assert_eq!(parse(line).as_ref(), Ok(&expected));
        }
        let delete = parse("-id c1 -bundle /b delete").unwrap();
        assert_eq!(
            (delete.bundle, delete.action),
            ("/b".into(), "delete".into())
        );
    }

    #[test]
    fn wrong_lines_are_refused() {
        for (line, error) in [
            ("-unknown x", ArgsError::UnknownFlag("unknown".into())),
            ("-id", ArgsError::NoValue("id".into())),
            ("start delete", ArgsError::Extra("delete".into())),
        ] {
            assert_eq!(parse(line), Err(error), "{line}");
        }
    }
}
