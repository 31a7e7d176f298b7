use std::path::PathBuf;
use std::time::Duration;

/// How the client behaves towards all registries. What differs by registry is in `hosts.toml`.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Directory with a directory per registry that holds `hosts.toml`. Read anew for each
    /// operation, so that changes take effect at once.
    pub hosts_dir: Option<PathBuf>,
    /// A transfer is given up, and resumed, when no byte arrives for this long.
    pub progress_timeout: Duration,
    /// Limit for a connection to be established, unless `dial_timeout` says otherwise.
    pub connect_timeout: Duration,
    /// Further attempts after the first, at the last host of the list.
    pub retries: u32,
    /// Delay before the first retry; doubles with each, with jitter.
    pub retry_delay: Duration,
    /// Upper limit of a delay. A `Retry-After` beyond it ends the operation instead.
    pub retry_delay_max: Duration,
    /// Largest manifest that is accepted, in bytes.
    pub manifest_limit: u64,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            hosts_dir: None,
            progress_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(15),
            retries: 5,
            retry_delay: Duration::from_millis(250),
            retry_delay_max: Duration::from_secs(30),
            manifest_limit: 8 << 20,
        }
    }
}
