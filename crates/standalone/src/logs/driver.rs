//! Which log a container asks for, and how large it may grow.

use berth_names::bytes;
use berth_plugins::{LogDriver, Patience, Plugins};

use crate::config::LogConfig;
use crate::error::{Error, Result};

/// Bytes of a log file, and files, where the request names none.
const LOG_SIZE: u64 = 20 << 20;
const LOG_FILES: u32 = 5;

/// Where what a container writes goes. Whatever it is, it is in files first: they can always be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Driver {
    /// Files that anybody can read.
    JsonFile,
    /// The same, those that were rotated away compressed.
    Local,
    None,
    /// A plugin is sent everything as well.
    Plugin(String),
}

impl Driver {
    pub fn of(config: &LogConfig) -> Self {
        match config.r#type.as_str() {
            "" | "json-file" => Self::JsonFile,
            "local" => Self::Local,
            "none" => Self::None,
            name => Self::Plugin(name.to_owned()),
        }
    }
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Bytes of the newest file.
    pub most: u64,
    /// With the newest one.
    pub files: u32,
    /// Those that are not the newest.
    pub compress: bool,
}

impl Bounds {
    pub fn of(config: &LogConfig) -> Self {
        let driver = Driver::of(config);
        let plugged = matches!(driver, Driver::Plugin(_));
        // A plugin's options are its own.
        let option = |key: &str| config.config.get(key).filter(|_| !plugged);
        let size = option("max-size").and_then(|text| bytes(text));
        let files = option("max-file").and_then(|text| text.parse().ok());
        let compress = option("compress").and_then(|text| text.parse().ok());
        Self {
            most: size.unwrap_or(LOG_SIZE),
            files: files.unwrap_or(LOG_FILES),
            compress: compress.unwrap_or(driver == Driver::Local || plugged),
        }
    }
}

/// Refuses what is no driver, and what is no option of one, in Docker's words.
pub(crate) async fn check(config: &LogConfig, plugins: &Plugins) -> Result<()> {
    let name = config.r#type.as_str();
    let known: &[&str] = match Driver::of(config) {
        Driver::None => return Ok(()),
        Driver::Plugin(name) => {
            let found = LogDriver::open(plugins, &name, Patience::Look).await;
            return found.map(drop).map_err(|error| match error {
                berth_plugins::Error::NotFound(_) | berth_plugins::Error::Lacks { .. } => {
                    Error::invalid(format!(
                        "logger: no log driver named '{name}' is registered"
                    ))
                }
                other => Error::invalid(format!("log driver {name}: {}", other.report())),
            });
        }
        Driver::JsonFile => &[
            "max-file",
            "max-size",
            "compress",
            "labels",
            "labels-regex",
            "env",
            "env-regex",
            "tag",
        ],
        Driver::Local => &["max-file", "max-size", "compress"],
    };
    const OF_ALL: [&str; 2] = ["mode", "max-buffer-size"];
    for (key, value) in &config.config {
        let (key, value) = (key.as_str(), value.as_str());
        if !known.contains(&key) && !OF_ALL.contains(&key) {
            return Err(Error::invalid(match name {
                "local" => format!("unknown log opt '{key}' for log driver local"),
                _ => format!("unknown log opt '{key}' for json-file log driver"),
            }));
        }
        check_value(key, value).map_err(Error::invalid)?;
    }
    Ok(())
}

fn check_value(key: &str, value: &str) -> Result<(), String> {
    let bad = |what: &str| Err(format!("invalid value for {key}: {value:?} is {what}"));
    match key {
        "max-size" | "max-buffer-size" if bytes(value).is_none_or(|bytes| bytes == 0) => {
            bad("no size: write it like 10m")
        }
        "max-file" => match value.parse::<u32>() {
            Ok(0) => Err("max-file cannot be less than 1".to_owned()),
            Ok(_) => Ok(()),
            Err(_) => bad("no number"),
        },
        "compress" if value.parse::<bool>().is_err() => bad("neither true nor false"),
        "mode" if !["blocking", "non-blocking"].contains(&value) => {
            bad("neither blocking nor non-blocking")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, options: &[(&str, &str)]) -> LogConfig {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        LogConfig {
            r#type: name.to_owned(),
            config: options.iter().map(owned).collect(),
        }
    }

    async fn refusal(name: &str, options: &[(&str, &str)]) -> String {
        let nobody = berth_plugins::Config {
            sockets: "/nowhere".into(),
            specs: Vec::new(),
            ..berth_plugins::Config::default()
        };
        let checked = check(&config(name, options), &Plugins::new(nobody)).await;
        checked.map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[tokio::test]
    async fn what_is_no_driver_and_no_option_is_refused() {
        for (name, options, said) in [
            (
                "fluentd",
                &[][..],
                "logger: no log driver named 'fluentd' is registered",
            ),
            (
                "../x",
                &[],
                "logger: no log driver named '../x' is registered",
            ),
            (
                "local",
                &[("tag", "a")],
                "unknown log opt 'tag' for log driver local",
            ),
            (
                "",
                &[("size", "1")],
                "unknown log opt 'size' for json-file log driver",
            ),
            (
                "local",
                &[("max-file", "0")],
                "max-file cannot be less than 1",
            ),
            (
                "local",
                &[("max-size", "ten")],
                "invalid value for max-size: \"ten\"",
            ),
            (
                "json-file",
                &[("compress", "yes")],
                "neither true nor false",
            ),
            ("json-file", &[("mode", "fast")], "neither blocking"),
        ] {
            let told = refusal(name, options).await;
            assert!(told.contains(said), "{name} {options:?}: {told}");
        }
        let all = [
            ("max-size", "10m"),
            ("max-file", "3"),
            ("compress", "true"),
            ("tag", "a"),
        ];
        assert_eq!(refusal("json-file", &all).await, "");
        assert_eq!(refusal("none", &[("max-size", "x")]).await, "");
    }

    #[test]
    fn bounds_are_those_of_the_options_or_the_drivers_own() {
        let of = |name, options| Bounds::of(&config(name, options));
        let usual = Bounds {
            most: 20 << 20,
            files: 5,
            compress: false,
        };
        assert_eq!(of("", &[]), usual);
        assert_eq!(
            of("local", &[]),
            Bounds {
                compress: true,
                ..usual
            }
        );
        let small = of(
            "local",
            &[
                ("max-size", "64k"),
                ("max-file", "2"),
                ("compress", "false"),
            ],
        );
        assert_eq!(
            (small.most, small.files, small.compress),
            (64 << 10, 2, false)
        );
        assert_eq!(of("elsewhere", &[("max-size", "1")]).most, 20 << 20);
    }
}
