//! How a container is told: the words and times of the Engine API.

use berth_standalone::{Health, HealthStatus, Phase, Record};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What Docker writes for a time that never was.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 from nanoseconds since the epoch.
pub fn time(nanos: i64) -> String {
    if nanos == 0 {
        return NEVER.to_owned();
    }
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos)).ok();
    let text = moment.and_then(|moment| moment.format(&Rfc3339).ok());
    text.unwrap_or_else(|| NEVER.to_owned())
}

/// `Up 5 minutes`, `Exited (0) 2 hours ago`, …
pub fn status(record: &Record, now: i64) -> String {
    let since = |then: i64| span((now - then).max(0) / 1_000_000_000);
    match record.phase {
        Phase::Created => "Created".to_owned(),
        Phase::Running => {
            let health = match record.health.as_ref().map(|health| health.status) {
                None => String::new(),
                Some(HealthStatus::Starting) => " (health: starting)".to_owned(),
                Some(status) => format!(" ({})", status.name()),
            };
            format!("Up {}{health}", since(record.started_at))
        }
        Phase::Paused => format!("Up {} (Paused)", since(record.started_at)),
        Phase::Restarting => {
            let ago = since(record.finished_at);
            format!("Restarting ({}) {ago} ago", record.exit_code)
        }
        // Its start failed: it never ended.
        Phase::Exited if record.finished_at == 0 => "Created".to_owned(),
        Phase::Exited => {
            let ago = since(record.finished_at);
            format!("Exited ({}) {ago} ago", record.exit_code)
        }
        Phase::Removing => "Removal In Progress".to_owned(),
        Phase::Dead => "Dead".to_owned(),
    }
}

pub fn health(health: &Health) -> Value {
    let log = health.log.iter().map(|one| {
        json!({
            "Start": time(one.start),
            "End": time(one.end),
            "ExitCode": one.exit_code,
            "Output": one.output,
        })
    });
    json!({
        "Status": health.status.name(),
        "FailingStreak": health.failing_streak,
        "Log": log.collect::<Vec<_>>(),
    })
}

/// As filters name it.
pub fn health_name(record: &Record) -> &'static str {
    record
        .health
        .as_ref()
        .map_or("none", |health| health.status.name())
}

/// As people say it.
fn span(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        ..MINUTE => format!("{seconds} seconds"),
        MINUTE..120 => "About a minute".to_owned(),
        120..HOUR => format!("{} minutes", seconds / MINUTE),
        HOUR..7200 => "About an hour".to_owned(),
        s if s < 2 * DAY => format!("{} hours", s / HOUR),
        s if s < 14 * DAY => format!("{} days", s / DAY),
        s if s < 60 * DAY => format!("{} weeks", s / (7 * DAY)),
        s if s < 730 * DAY => format!("{} months", s / (30 * DAY)),
        s => format!("{} years", s / (365 * DAY)),
    }
}

#[cfg(test)]
pub fn sample() -> Record {
    let image = format!("sha256:{}", "a".repeat(64));
    serde_json::from_value(serde_json::json!({
        "id": "0123456789abcdef".repeat(4), "name": "web", "created_at": 1_000_000_000,
        "image_id": image, "config": {"Image": "app"}, "host": {}, "command": ["/bin/app", "-x"],
        "mounts": [], "log_path": null, "phase": "created",
    }))
    .unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_told_as_users_know_them() {
        let mut record = sample();
        let second = 1_000_000_000;
        assert_eq!(status(&record, 0), "Created");
        (record.phase, record.started_at) = (Phase::Running, second);
        assert_eq!(status(&record, 6 * second), "Up 5 seconds");
        assert_eq!(status(&record, 121 * second), "Up 2 minutes");
        record.health = Some(Health::at_start(None));
        assert_eq!(
            status(&record, 121 * second),
            "Up 2 minutes (health: starting)"
        );
        record.health.as_mut().unwrap().status = HealthStatus::Unhealthy;
        assert_eq!(status(&record, 121 * second), "Up 2 minutes (unhealthy)");
        record.phase = Phase::Paused;
        assert_eq!(status(&record, 91 * second), "Up About a minute (Paused)");
        (record.phase, record.finished_at, record.exit_code) = (Phase::Exited, second, 3);
        assert_eq!(status(&record, 3601 * second * 5), "Exited (3) 5 hours ago");
    }

    #[test]
    fn a_time_that_never_was_is_docker_s() {
        assert_eq!(time(0), NEVER);
        assert_eq!(
            time(1_500_000_000_000_000_001),
            "2017-07-14T02:40:00.000000001Z"
        );
    }
}
