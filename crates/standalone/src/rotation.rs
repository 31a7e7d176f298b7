//! Keeps logs from filling the disk.

use std::time::Duration;

use berth_lifecycle::chain;

use crate::config::HostConfig;
use crate::files::blocking;
use crate::house::House;
use crate::logs;

/// How often logs are looked at for their size.
const EVERY: Duration = Duration::from_secs(5);
/// Bytes of a log file, and files, where the request names none.
const LOG_SIZE: u64 = 20 << 20;
const LOG_FILES: u32 = 5;

pub(crate) async fn rotate(house: std::sync::Weak<House>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(house) = house.upgrade() else { return };
        for container in house.all() {
            let Ok(run) = container.running() else {
                continue;
            };
            let view = container.view();
            let (most, files) = log_bounds(&view.host);
            let Some(path) = view.log_path.clone() else {
                continue;
            };
            let turned = blocking(move || Ok(logs::rotate(&path, most, files))).await;
            if turned.unwrap_or(false)
                && let Err(error) = run.reopen_log().await
            {
                tracing::warn!(id = %view.id, error = chain(&error), "log not opened again");
            }
        }
    }
}

/// From the options `max-size` and `max-file`.
fn log_bounds(host: &HostConfig) -> (u64, u32) {
    let options = &host.log_config.config;
    let size = options.get("max-size").and_then(|text| bytes(text));
    let files = options.get("max-file").and_then(|text| text.parse().ok());
    (size.unwrap_or(LOG_SIZE), files.unwrap_or(LOG_FILES))
}

/// `10m`, `1g`, `500k` or a number.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_lowercase();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match &text[digits.len()..] {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}
