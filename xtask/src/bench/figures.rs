//! Figures of one runtime, and how they compare.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::side::Side;

/// What is measured, in the order of the table: name and unit.
pub const MEASURES: &[(&str, &str)] = &[
    (RUN_POD, "ms"),
    (CREATE, "ms"),
    (START, "ms"),
    (POD_START, "ms"),
    (HOST_POD_START, "ms"),
    (TEARDOWN, "ms"),
    (RATE_OF_ONE, "1/s"),
    (RATE_OF_EIGHT, "1/s"),
    (EXEC, "ms"),
    (STATUS, "ms"),
    (STATS, "ms"),
    (LIST, "ms"),
    (PULL, "ms"),
    (DAEMON, "MiB"),
    (SHIM, "KiB"),
];
pub const RUN_POD: &str = "RunPodSandbox";
pub const CREATE: &str = "CreateContainer";
pub const START: &str = "StartContainer";
pub const POD_START: &str = "pod start, the three";
pub const HOST_POD_START: &str = "the same, host network";
pub const TEARDOWN: &str = "teardown, four calls";
pub const RATE_OF_ONE: &str = "cycles, one client";
pub const RATE_OF_EIGHT: &str = "cycles, eight clients";
pub const EXEC: &str = "ExecSync /bin/true";
pub const STATUS: &str = "ContainerStatus";
pub const STATS: &str = "ContainerStats";
pub const LIST: &str = "ListContainers, 20 pods";
pub const PULL: &str = "pull from loopback";
pub const DAEMON: &str = "daemon RSS, 20 pods";
pub const SHIM: &str = "shim PSS, average";

/// Every single figure, by measure, in the order in which it was taken.
#[derive(Debug, Default)]
pub struct Figures {
    taken: BTreeMap<&'static str, Vec<f64>>,
}

impl Figures {
    pub fn add(&mut self, measure: &'static str, value: f64) {
        self.taken.entry(measure).or_default().push(value);
    }

    /// By nearest rank; none where nothing was measured.
    pub fn quantile(&self, measure: &str, percent: usize) -> Option<f64> {
        let mut values = self.taken.get(measure)?.clone();
        values.sort_by(f64::total_cmp);
        let rank = (values.len() * percent).div_ceil(100);
        values.get(rank.saturating_sub(1)).copied()
    }

    pub fn to_json(&self) -> Value {
        let taken = MEASURES.iter();
        let taken = taken.filter(|(measure, _)| self.taken.contains_key(measure));
        let all = taken.map(|(measure, unit)| ((*measure).to_owned(), self.of(measure, unit)));
        Value::Object(all.collect())
    }

    /// One measure.
    pub fn of(&self, measure: &str, unit: &str) -> Value {
        let quantile = |percent| self.quantile(measure, percent);
        json!({
            "unit": unit, "p50": quantile(50), "p90": quantile(90), "p99": quantile(99),
            "values": self.taken.get(measure),
        })
    }
}

/// A line for each measure; ratios are of the first runtime to the second.
pub fn table(sides: &[Side]) -> String {
    let mut text = format!("{:<26}", "");
    for side in sides {
        let _infallible = write!(text, "{:>27}", side.name());
    }
    let _infallible = write!(text, "\n{:<26}", "");
    for _ in sides {
        let _infallible = write!(text, "{:>9}{:>9}{:>9}", "p50", "p90", "p99");
    }
    text.push_str(if sides.len() > 1 { "    ratio\n" } else { "\n" });
    for (measure, unit) in MEASURES {
        let _infallible = write!(text, "{:<26}", format!("{measure}, {unit}"));
        for side in sides {
            for percent in [50, 90, 99] {
                let value = side.figures().quantile(measure, percent);
                let shown = value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
                let _infallible = write!(text, "{shown:>9}");
            }
        }
        if let Some(ratio) = ratio(sides, measure) {
            let _infallible = write!(text, "{ratio:>9.3}");
        }
        text.push('\n');
    }
    text
}

/// First runtime to second, of the medians.
pub fn ratios(sides: &[Side]) -> Value {
    let ratios = MEASURES
        .iter()
        .filter_map(|(measure, _)| Some(((*measure).to_owned(), json!(ratio(sides, measure)?))));
    Value::Object(ratios.collect())
}

fn ratio(sides: &[Side], measure: &str) -> Option<f64> {
    let [first, second] = sides else {
        return None;
    };
    let median = |side: &Side| side.figures().quantile(measure, 50);
    Some(median(first)? / median(second)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_figures_that_were_taken() {
        let mut figures = Figures::default();
        for value in (1..=200).rev() {
            figures.add(LIST, f64::from(value));
        }
        let quantiles = [50, 90, 99, 100].map(|percent| figures.quantile(LIST, percent));
        assert_eq!(quantiles, [100.0, 180.0, 198.0, 200.0].map(Some));
        figures.add(PULL, 3.0);
        assert_eq!(figures.quantile(PULL, 99), Some(3.0));
        assert_eq!(figures.quantile(EXEC, 50), None);
    }
}
