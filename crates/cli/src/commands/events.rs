//! `events`.

use clap::Args;
use serde_json::Value;

use super::Outcome;
use crate::daemon::{Call, Client};
use crate::options::{Window, filters};
use crate::output::{print_line, template::Template};
use crate::terminal::forward_nothing;

#[derive(Debug, Args)]
pub struct Events {
    /// name=value, as in event=die, container=web, type=image
    #[arg(short, long, value_name = "FILTER")]
    pub(super) filter: Vec<String>,
    /// json, or a template such as '{{.Type}} {{.Action}}'
    #[arg(long)]
    pub(super) format: Option<String>,
    #[command(flatten)]
    pub(super) window: Window,
}

impl Events {
    pub async fn run(self, client: &Client) -> Outcome {
        let template = match self.format.as_deref() {
            None | Some("json") => None,
            Some(text) => Some(Template::parse(text)?),
        };
        forward_nothing()?;
        let call = self.window.on(Call::get("/events"))?;
        let call = call.given("filters", filters(&self.filter)?);
        let mut objects = client.send(call).await?.objects();
        while let Some(event) = objects.next().await? {
            let line = match (&template, &self.format) {
                (Some(template), _) => template.render(&event)?,
                (None, Some(_)) => event.to_string(),
                (None, None) => told(&event),
            };
            print_line(&line)?;
        }
        Ok(0)
    }
}

/// `2026-11-21T18:00:00.000000000Z container start <id> (image=…, name=…)`
fn told(event: &Value) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let nanos = event["timeNano"].as_i64().unwrap_or(0);
    let attributes = event
        .pointer("/Actor/Attributes")
        .and_then(Value::as_object);
    let mut attributes: Vec<String> = attributes
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    attributes.sort();
    let id = event.pointer("/Actor/ID").and_then(Value::as_str);
    let line = format!(
        "{} {} {} {}",
        stamp(nanos),
        text("Type"),
        text("Action"),
        id.unwrap_or_default()
    );
    match attributes.is_empty() {
        true => line,
        false => format!("{line} ({})", attributes.join(", ")),
    }
}

fn stamp(nanos: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos));
    at.map_or_else(
        |_| String::new(),
        |at| {
            format!(
                "{}T{:02}:{:02}:{:02}.{:09}Z",
                at.date(),
                at.hour(),
                at.minute(),
                at.second(),
                at.nanosecond()
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let event = serde_json::json!({
            "Type": "container", "Action": "start", "timeNano": 1_000_000_007_i64,
            "Actor": {"ID": "ab", "Attributes": {"name": "web", "image": "i"}},
        });
        assert_eq!(
            told(&event),
            "1970-01-01T00:00:01.000000007Z container start ab (image=i, name=web)"
        );
    }
}
