//! Limits and network of the commands of a build.

use clap::Args;
use serde_json::Value;

use super::values::ulimit;
use crate::daemon::Call;
use crate::error::{Error, Result};
use crate::output::bytes_of;

#[derive(Debug, Args, Clone, Default)]
#[command(next_help_heading = "Commands of the build")]
pub struct BuildLimits {
    /// Their network: default, none, host or a network's name
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// name:address, for their /etc/hosts
    #[arg(long, value_name = "HOST")]
    pub add_host: Vec<String>,
    /// Memory, as in 512m or 2g
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// Memory and swap together; -1 for no limit of swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Weight against others when processors are busy
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<i64>,
    /// Microseconds of a period of the scheduler
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<i64>,
    /// Microseconds of processor time in each period
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Processors they may run on, as in 0-2,4
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes they may use, as in 0-1
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Size of /dev/shm, as in 128m
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<String>,
    /// name=soft[:hard], as in nofile=1024:2048
    #[arg(long, value_name = "LIMIT")]
    pub ulimit: Vec<String>,
    /// Parent of their cgroups
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
}

impl BuildLimits {
    /// Puts them into the query of a build.
    pub fn add(&self, mut call: Call) -> Result<Call> {
        let size = |given: &Option<String>| match given.as_deref() {
            None => Ok(String::new()),
            Some("-1") => Ok("-1".to_owned()),
            Some(text) => bytes_of(text).map(|bytes| bytes.to_string()),
        };
        let number = |given: Option<i64>| given.map_or(String::new(), |given| given.to_string());
        let text = |given: &Option<String>| given.clone().unwrap_or_default();
        call = call
            .given("networkmode", text(&self.network))
            .given("memory", size(&self.memory)?)
            .given("memswap", size(&self.memory_swap)?)
            .given("cpushares", number(self.cpu_shares))
            .given("cpuperiod", number(self.cpu_period))
            .given("cpuquota", number(self.cpu_quota))
            .given("cpusetcpus", text(&self.cpuset_cpus))
            .given("cpusetmems", text(&self.cpuset_mems))
            .given("shmsize", size(&self.shm_size)?)
            .given("cgroupparent", text(&self.cgroup_parent));
        for host in &self.add_host {
            if !host.contains([':', '=']) {
                let what = format!("{host:?} is no host: write name:address");
                return Err(Error::usage(what));
            }
            call = call.query("extrahosts", host);
        }
        let ulimits: Result<Vec<Value>> = self.ulimit.iter().map(|text| ulimit(text)).collect();
        Ok(match ulimits?.as_slice() {
            [] => call,
            ulimits => call.query("ulimits", Value::from(ulimits).to_string()),
        })
    }
}
