//! How a container is to be checked: from the request and its image.

use std::time::Duration;

use berth_images::ImageConfig;

use crate::config::{Config, Healthcheck};
use crate::error::{Error, Result};

const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: i64 = 3;
/// Nanoseconds; no duration that is given may be shorter.
const SHORTEST: i64 = 1_000_000;
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// A check that is to be made, every value settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub command: Vec<String>,
    pub interval: Duration,
    pub timeout: Duration,
    /// Failures do not count for so long after a start.
    pub start_period: Duration,
    pub start_interval: Duration,
    pub retries: i64,
}

impl Plan {
    /// `None` where nothing is to be checked. `shell` is that of the image.
    pub fn of(config: &Config, shell: &[String]) -> Option<Self> {
        let wanted = config.healthcheck.as_ref()?;
        let (kind, line) = wanted.test.split_first()?;
        let command = match kind.as_str() {
            "CMD" => line.to_vec(),
            "CMD-SHELL" if shell.is_empty() => with(&SHELL.map(str::to_owned), line),
            "CMD-SHELL" => with(shell, line),
            _ => return None,
        };
        if command.is_empty() {
            return None;
        }
        let or = |nanos: i64, usual| match u64::try_from(nanos) {
            Ok(nanos) if nanos > 0 => Duration::from_nanos(nanos),
            _ => usual,
        };
        Some(Self {
            command,
            interval: or(wanted.interval, INTERVAL),
            timeout: or(wanted.timeout, TIMEOUT),
            start_period: or(wanted.start_period, Duration::ZERO),
            start_interval: or(wanted.start_interval, START_INTERVAL),
            retries: if wanted.retries > 0 {
                wanted.retries
            } else {
                RETRIES
            },
        })
    }
}

fn with(shell: &[String], line: &[String]) -> Vec<String> {
    shell.iter().chain(line).cloned().collect()
}

/// What the request says, and the image where the request says nothing.
pub(crate) fn merged(asked: Option<Healthcheck>, image: &ImageConfig) -> Option<Healthcheck> {
    let of_image = image.healthcheck().map(|given| Healthcheck {
        test: given.test.clone(),
        interval: given.interval,
        timeout: given.timeout,
        start_period: given.start_period,
        start_interval: given.start_interval,
        retries: given.retries,
    });
    let (Some(asked), Some(usual)) = (&asked, &of_image) else {
        return asked.or(of_image);
    };
    let or = |asked: i64, usual| if asked == 0 { usual } else { asked };
    Some(Healthcheck {
        test: match asked.test.is_empty() {
            true => usual.test.clone(),
            false => asked.test.clone(),
        },
        interval: or(asked.interval, usual.interval),
        timeout: or(asked.timeout, usual.timeout),
        start_period: or(asked.start_period, usual.start_period),
        start_interval: or(asked.start_interval, usual.start_interval),
        retries: or(asked.retries, usual.retries),
    })
}

/// Refuses what cannot be meant, in the words of the Engine API.
pub(crate) fn check(wanted: &Healthcheck) -> Result<()> {
    for (name, nanos) in [
        ("Interval", wanted.interval),
        ("Timeout", wanted.timeout),
        ("StartPeriod", wanted.start_period),
        ("StartInterval", wanted.start_interval),
    ] {
        if nanos != 0 && nanos < SHORTEST {
            return Err(Error::invalid(format!(
                "{name} in Healthcheck cannot be less than 1ms"
            )));
        }
    }
    if wanted.retries < 0 {
        return Err(Error::invalid("Retries in Healthcheck cannot be negative"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(test: &[&str]) -> Config {
        Config {
            healthcheck: Some(Healthcheck {
                test: test.iter().map(|&word| word.to_owned()).collect(),
                ..Healthcheck::default()
            }),
            ..Config::default()
        }
    }

    #[test]
    fn a_check_is_a_command_or_a_line_for_the_shell() {
        let command = |test: &[&str], shell: &[String]| {
            Plan::of(&config(test), shell).map(|plan| plan.command.join(" "))
        };
        assert_eq!(command(&["CMD", "a", "b"], &[]).unwrap(), "a b");
        assert_eq!(
            command(&["CMD-SHELL", "a|b"], &[]).unwrap(),
            "/bin/sh -c a|b"
        );
        let bash = ["bash".to_owned(), "-ec".to_owned()];
        assert_eq!(
            command(&["CMD-SHELL", "a|b"], &bash).unwrap(),
            "bash -ec a|b"
        );
        for none in [&["NONE"][..], &[], &["CMD"], &["a"]] {
            assert_eq!(command(none, &[]), None, "{none:?}");
        }
    }

    #[test]
    fn what_is_not_said_is_the_usual() {
        let plan = Plan::of(&config(&["CMD", "a"]), &[]).unwrap();
        assert_eq!((plan.interval, plan.timeout), (INTERVAL, TIMEOUT));
        assert_eq!((plan.start_period, plan.retries), (Duration::ZERO, RETRIES));
    }

    #[test]
    fn the_request_changes_what_the_image_says_part_by_part() {
        let image: ImageConfig = serde_json::from_value(serde_json::json!({
            "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []},
            "config": {"Healthcheck": {"Test": ["CMD", "a"], "Interval": 5, "Retries": 7}},
        }))
        .unwrap();
        let asked = Healthcheck {
            interval: 9,
            ..Healthcheck::default()
        };
        let both = merged(Some(asked), &image).unwrap();
        assert_eq!(both.test, ["CMD", "a"]);
        assert_eq!((both.interval, both.retries), (9, 7));
        assert_eq!(merged(None, &image).unwrap().interval, 5);
        let none = config(&["NONE"]).healthcheck;
        assert_eq!(merged(none, &image).unwrap().test, ["NONE"]);
        assert_eq!(merged(None, &ImageConfig::default()), None);
    }

    #[test]
    fn durations_too_short_are_refused() {
        let mut wanted = Healthcheck {
            interval: 999_999,
            ..Healthcheck::default()
        };
        let text = check(&wanted).unwrap_err().to_string();
        assert_eq!(text, "Interval in Healthcheck cannot be less than 1ms");
        wanted.interval = SHORTEST;
        assert!(check(&wanted).is_ok());
        wanted.retries = -1;
        assert!(check(&wanted).is_err());
    }
}
