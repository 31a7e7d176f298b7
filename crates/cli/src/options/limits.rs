//! Limits, as `run`, `create` and `update` take them.

use clap::Args;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::output::bytes_of;

#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Limits")]
pub struct LimitOptions {
    /// Memory, as in 512m or 2g
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// Memory and swap together; -1 for no limit of swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Memory that is kept for it under pressure
    #[arg(long, value_name = "BYTES")]
    memory_reservation: Option<String>,
    /// Processors, as in 1.5
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// Weight against others when processors are busy
    #[arg(short, long, value_name = "WEIGHT")]
    cpu_shares: Option<i64>,
    /// Microseconds of a period of the scheduler
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<i64>,
    /// Microseconds of processor time in each period
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// Processors it may run on, as in 0-2,4
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes it may use, as in 0-1
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Processes and threads; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Weight against others when disks are busy, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,
}

impl LimitOptions {
    /// Those that were given, in the fields of the API.
    pub fn fields(&self) -> Result<Map<String, Value>> {
        let mut fields = Map::new();
        let sizes = [
            ("Memory", &self.memory),
            ("MemorySwap", &self.memory_swap),
            ("MemoryReservation", &self.memory_reservation),
        ];
        for (name, given) in sizes {
            match given.as_deref() {
                None => {}
                Some("-1") => {
                    fields.insert(name.into(), (-1).into());
                }
                Some(text) => {
                    fields.insert(name.into(), bytes_of(text)?.into());
                }
            }
        }
        if let Some(cpus) = &self.cpus {
            fields.insert("NanoCpus".into(), billionths(cpus)?.into());
        }
        let numbers = [
            ("CpuShares", self.cpu_shares),
            ("CpuPeriod", self.cpu_period),
            ("CpuQuota", self.cpu_quota),
            ("PidsLimit", self.pids_limit),
            ("BlkioWeight", self.blkio_weight.map(i64::from)),
        ];
        for (name, given) in numbers {
            fields.extend(given.map(|number| (name.to_owned(), number.into())));
        }
        let texts = [
            ("CpusetCpus", &self.cpuset_cpus),
            ("CpusetMems", &self.cpuset_mems),
        ];
        for (name, given) in texts {
            fields.extend(given.clone().map(|text| (name.to_owned(), text.into())));
        }
        Ok(fields)
    }
}

fn billionths(text: &str) -> Result<i64> {
    let number: Option<f64> = text.parse().ok();
    let fits = number.filter(|number| (0.0..1e6).contains(number));
    let number = fits.ok_or_else(|| {
        Error::usage(format!(
            "{text:?} is no number of processors: write 2 or 0.5"
        ))
    })?;
    Ok((number * 1e9).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_given_is_sent() {
        let limits = LimitOptions {
            memory: Some("1m".into()),
            memory_swap: Some("-1".into()),
            cpus: Some("0.29".into()),
            pids_limit: Some(5),
            ..LimitOptions::default()
        };
        assert_eq!(
            Value::Object(limits.fields().unwrap()).to_string(),
            r#"{"Memory":1048576,"MemorySwap":-1,"NanoCpus":290000000,"PidsLimit":5}"#
        );
        assert!(LimitOptions::default().fields().unwrap().is_empty());
        assert!(billionths("x").is_err() && billionths("-1").is_err());
    }
}
