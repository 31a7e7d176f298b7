//! Flags of instructions: which there are, once or often, and what their values mean.

use std::time::Duration;

use super::instruction::{Mount, MountKind, Owned, RunNetwork, RunSecurity, Sharing};
use super::syntax_error::Problem;
use super::words::Flag;

/// The flags of one instruction, each looked at by its reader.
pub struct Options {
    instruction: &'static str,
    flags: Vec<Flag>,
}

impl Options {
    /// # Errors
    /// If a flag is not `known`, or is given twice and not among those that may be.
    pub fn new(
        instruction: &'static str,
        flags: Vec<Flag>,
        known: &[&str],
        repeated: &[&str],
    ) -> Result<Self, Problem> {
        for (index, flag) in flags.iter().enumerate() {
            let name = flag.name.as_str();
            if !known.contains(&name) {
                let what = format!("{instruction} has no flag --{name}");
                let advice = match super::nearest(name, known.iter().copied()) {
                    Some(near) => format!("did you mean --{near}?"),
                    None if known.is_empty() => format!("{instruction} takes no flags"),
                    None => format!("there are --{}", known.join(", --")),
                };
                return Err(Problem::new(flag.at, what).advise(advice));
            }
            let before = flags.iter().take(index);
            if !repeated.contains(&name) && before.into_iter().any(|other| other.name == name) {
                let what = format!("--{name} is given twice");
                return Err(Problem::new(flag.at, what).advise("keep one of them"));
            }
        }
        Ok(Self { instruction, flags })
    }

    fn find(&self, name: &str) -> Option<&Flag> {
        self.flags.iter().find(|flag| flag.name == name)
    }

    /// A flag that needs a value.
    pub fn value(&self, name: &str) -> Result<Option<String>, Problem> {
        let Some(flag) = self.find(name) else {
            return Ok(None);
        };
        given(flag).map(Some)
    }

    pub fn values(&self, name: &str) -> Result<Vec<String>, Problem> {
        let all = self.flags.iter().filter(|flag| flag.name == name);
        all.map(given).collect()
    }

    /// A flag that is on where it stands alone.
    pub fn switch(&self, name: &str) -> Result<Option<bool>, Problem> {
        let Some(flag) = self.find(name) else {
            return Ok(None);
        };
        match boolean(flag.value.as_deref()) {
            Some(on) => Ok(Some(on)),
            None => {
                let value = flag.value.as_deref().unwrap_or_default();
                let what = format!("--{name} is {value:?}");
                Err(Problem::new(flag.at, what).advise("it is true or false"))
            }
        }
    }

    pub fn duration(&self, name: &str, least: Duration) -> Result<Option<Duration>, Problem> {
        let (Some(flag), Some(text)) = (self.find(name), self.value(name)?) else {
            return Ok(None);
        };
        let wrong = |what: String| Problem::new(flag.at, what);
        let read = match text.as_str() {
            "0" => Some(Duration::ZERO),
            text => berth_names::go_duration(text),
        };
        let Some(duration) = read else {
            let what = format!("--{name} is {text:?}, which is no duration");
            return Err(wrong(what).advise("write it as in 30s, 1m30s or 500ms"));
        };
        if !duration.is_zero() && duration < least {
            return Err(wrong(format!(
                "--{name} is {text}: at least {least:?} is needed"
            )));
        }
        Ok(Some(duration))
    }

    pub fn number(&self, name: &str) -> Result<Option<u32>, Problem> {
        let (Some(flag), Some(text)) = (self.find(name), self.value(name)?) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Problem::new(
                flag.at,
                format!("--{name} is {text:?}, which is no number"),
            )),
        }
    }

    pub fn network(&self) -> Result<RunNetwork, Problem> {
        let Some(flag) = self.find("network") else {
            return Ok(RunNetwork::Default);
        };
        match given(flag)?.as_str() {
            "default" => Ok(RunNetwork::Default),
            "none" => Ok(RunNetwork::None),
            "host" => Ok(RunNetwork::Host),
            other => Err(self.no_choice(flag, other, "default, none and host")),
        }
    }

    pub fn security(&self) -> Result<RunSecurity, Problem> {
        let Some(flag) = self.find("security") else {
            return Ok(RunSecurity::Sandbox);
        };
        match given(flag)?.as_str() {
            "sandbox" => Ok(RunSecurity::Sandbox),
            "insecure" => Ok(RunSecurity::Insecure),
            other => Err(self.no_choice(flag, other, "sandbox and insecure")),
        }
    }

    fn no_choice(&self, flag: &Flag, value: &str, choices: &str) -> Problem {
        let (instruction, name) = (self.instruction, &flag.name);
        let what = format!("{instruction} --{name} cannot be {value:?}");
        Problem::new(flag.at, what).advise(format!("there are {choices}"))
    }

    pub fn mounts(&self) -> Result<Vec<Mount>, Problem> {
        let all = self.flags.iter().filter(|flag| flag.name == "mount");
        all.map(|flag| {
            let value = given(flag)?;
            mount(&value).map_err(|problem| Problem {
                at: flag.at,
                ..problem
            })
        })
        .collect()
    }
}

fn given(flag: &Flag) -> Result<String, Problem> {
    let missing = || {
        let what = format!("--{} needs a value", flag.name);
        Problem::new(flag.at, what).advise(format!("write --{}=…", flag.name))
    };
    flag.value.clone().ok_or_else(missing)
}

fn boolean(value: Option<&str>) -> Option<bool> {
    match value {
        None => Some(true),
        Some(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "t" => Some(true),
            "false" | "0" | "f" => Some(false),
            _ => None,
        },
    }
}

const MOUNT_KEYS: &[&str] = &[
    "type",
    "target",
    "dst",
    "destination",
    "source",
    "src",
    "from",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "size",
    "required",
    "env",
];

/// `type=cache,target=/x,…`. Places in the problem are not known yet.
fn mount(text: &str) -> Result<Mount, Problem> {
    let mut fields = Fields::parse(text)?;
    let kind = fields.take("type").unwrap_or_else(|| "bind".to_owned());
    let target = ["target", "dst", "destination"]
        .iter()
        .find_map(|key| fields.take(key))
        .unwrap_or_default();
    let source = ["source", "src"]
        .iter()
        .find_map(|key| fields.take(key))
        .unwrap_or_default();
    let read_only = fields.read_only()?;
    let from = fields.take("from");
    let kind = match kind.as_str() {
        "bind" => MountKind::Bind { from, source },
        "cache" => MountKind::Cache {
            id: fields.take("id").unwrap_or_default(),
            from,
            source,
            sharing: fields.sharing()?,
            owned: fields.owned(0o755)?,
        },
        "tmpfs" => MountKind::Tmpfs {
            size: fields.bytes("size")?,
        },
        "secret" => MountKind::Secret {
            id: secret_id(fields.take("id"), &source, &target)?,
            env: fields.take("env"),
            required: fields.boolean("required")?.unwrap_or(false),
            owned: fields.owned(0o400)?,
        },
        "ssh" => MountKind::Ssh {
            id: fields.take("id").unwrap_or_else(|| "default".to_owned()),
            required: fields.boolean("required")?.unwrap_or(false),
            owned: fields.owned(0o600)?,
        },
        other => {
            let what = format!("there are no mounts of type {other:?}");
            let known = "there are bind, cache, tmpfs, secret and ssh";
            return Err(Problem::new(0, what).advise(known));
        }
    };
    let needs_target = matches!(
        kind,
        MountKind::Bind { .. } | MountKind::Cache { .. } | MountKind::Tmpfs { .. }
    );
    if needs_target && target.is_empty() {
        return Err(Problem::new(0, "the mount has no target").advise("add target=/PATH"));
    }
    fields.done()?;
    let read_only = read_only.unwrap_or(matches!(kind, MountKind::Bind { .. }));
    Ok(Mount {
        kind,
        target,
        read_only,
    })
}

fn secret_id(id: Option<String>, source: &str, target: &str) -> Result<String, Problem> {
    let named = id.or_else(|| (!source.is_empty()).then(|| source.to_owned()));
    let by_target = || {
        let last = target.rsplit('/').next().unwrap_or_default();
        (!last.is_empty()).then(|| last.to_owned())
    };
    named
        .or_else(by_target)
        .ok_or_else(|| Problem::new(0, "the secret has no id").advise("add id=NAME"))
}

/// The parts of a mount's text that nobody took yet.
struct Fields(Vec<(String, Option<String>)>);

impl Fields {
    fn parse(text: &str) -> Result<Self, Problem> {
        let mut fields: Vec<(String, Option<String>)> = Vec::new();
        for part in parts(text) {
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (part.as_str(), None),
            };
            let key = key.trim().to_ascii_lowercase();
            if !MOUNT_KEYS.contains(&key.as_str()) {
                let what = format!("mounts have no {key:?}");
                let near = super::nearest(&key, MOUNT_KEYS.iter().copied());
                let advice = near.map_or_else(String::new, |near| format!("did you mean {near}?"));
                return Err(Problem::new(0, what).advise(advice));
            }
            fields.push((key, value));
        }
        Ok(Self(fields))
    }

    fn remove(&mut self, key: &str) -> Option<Option<String>> {
        let at = self.0.iter().rposition(|(known, _)| known == key)?;
        Some(self.0.remove(at).1)
    }

    fn take(&mut self, key: &str) -> Option<String> {
        self.remove(key).map(Option::unwrap_or_default)
    }

    fn boolean(&mut self, key: &str) -> Result<Option<bool>, Problem> {
        let Some(value) = self.remove(key) else {
            return Ok(None);
        };
        let wrong = || Problem::new(0, format!("{key} of a mount is true or false"));
        boolean(value.as_deref()).map(Some).ok_or_else(wrong)
    }

    fn read_only(&mut self) -> Result<Option<bool>, Problem> {
        let mut read_only = None;
        for (key, means) in [
            ("readonly", true),
            ("ro", true),
            ("readwrite", false),
            ("rw", false),
        ] {
            if let Some(on) = self.boolean(key)? {
                read_only = Some(on == means);
            }
        }
        Ok(read_only)
    }

    fn sharing(&mut self) -> Result<Sharing, Problem> {
        match self.take("sharing").as_deref() {
            None | Some("shared") => Ok(Sharing::Shared),
            Some("private") => Ok(Sharing::Private),
            Some("locked") => Ok(Sharing::Locked),
            Some(other) => Err(Problem::new(0, format!("sharing cannot be {other:?}"))
                .advise("there are shared, private and locked")),
        }
    }

    fn number(&mut self, key: &str) -> Result<Option<u32>, Problem> {
        let Some(text) = self.take(key) else {
            return Ok(None);
        };
        let wrong = |_| Problem::new(0, format!("{key} of a mount is {text:?}, no number"));
        text.parse().map(Some).map_err(wrong)
    }

    /// With `mode` where none is given; root's, where nobody is.
    fn owned(&mut self, mode: u32) -> Result<Owned, Problem> {
        Ok(Owned {
            mode: self.octal("mode")?.unwrap_or(mode),
            uid: self.number("uid")?.unwrap_or(0),
            gid: self.number("gid")?.unwrap_or(0),
        })
    }

    fn octal(&mut self, key: &str) -> Result<Option<u32>, Problem> {
        let Some(text) = self.take(key) else {
            return Ok(None);
        };
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(Some(mode)),
            _ => Err(Problem::new(0, format!("{key} of a mount is {text:?}"))
                .advise("write it in octal, as in 0755")),
        }
    }

    fn bytes(&mut self, key: &str) -> Result<Option<u64>, Problem> {
        let Some(text) = self.take(key) else {
            return Ok(None);
        };
        bytes(&text).map(Some).ok_or_else(|| {
            Problem::new(0, format!("{key} of a mount is {text:?}"))
                .advise("write bytes, or as in 64m or 1g")
        })
    }

    /// What is left belongs to another type.
    fn done(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((key, _)) => Err(Problem::new(
                0,
                format!("a mount of this type has no {key}"),
            )),
        }
    }
}

fn bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text.strip_prefix(number)? {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Parts between commas that are not in double quotes, as in CSV; the quotes go.
fn parts(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut is_quoted = false;
    for letter in text.chars() {
        match letter {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => parts.push(String::new()),
            _ => {
                if let Some(part) = parts.last_mut() {
                    part.push(letter);
                }
            }
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_by_their_types() {
        let cache = mount("type=cache,dst=/c,id=x,sharing=locked,mode=0700,uid=5,ro").unwrap();
        assert_eq!(cache.target, "/c");
        assert!(cache.read_only);
        assert_eq!(
            cache.kind,
            MountKind::Cache {
                id: "x".into(),
                from: None,
                source: String::new(),
                sharing: Sharing::Locked,
                owned: Owned {
                    mode: 0o700,
                    uid: 5,
                    gid: 0,
                },
            }
        );
        let bind = mount("target=/b,from=base,source=/x").unwrap();
        assert!(bind.read_only);
        assert!(!mount("target=/b,rw").unwrap().read_only);
        let secret = mount("type=secret,target=/run/secrets/token,required").unwrap();
        assert!(matches!(
            secret.kind,
            MountKind::Secret { ref id, required: true, owned: Owned { mode: 0o400, .. }, .. } if id == "token"
        ));
        let tmpfs = mount("type=tmpfs,target=/t,size=64m").unwrap();
        assert_eq!(
            tmpfs.kind,
            MountKind::Tmpfs {
                size: Some(64 << 20)
            }
        );
    }

    #[test]
    fn mounts_that_cannot_be_are_refused() {
        for (text, part) in [
            ("type=none,target=/x", "no mounts of type"),
            ("type=cache", "no target"),
            ("type=cache,target=/x,sharing=all", "sharing cannot"),
            ("type=cache,target=/x,mode=999", "mode of a mount"),
            ("type=cache,target=/x,uid=me", "uid of a mount"),
            ("type=tmpfs,target=/x,size=big", "size of a mount"),
            ("type=tmpfs,target=/x,id=1", "has no id"),
            ("type=secret", "no id"),
            ("target=/x,nosuch=1", "mounts have no"),
            ("target=/x,ro=perhaps", "true or false"),
        ] {
            let problem = mount(text).unwrap_err();
            assert!(problem.what.contains(part), "{text}: {problem:?}");
        }
    }
}
