//! Reads a report of ginkgo and judges it by what is known.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::outcome::Tally;

/// What became of every spec that was meant to run.
#[derive(Debug)]
pub struct Report {
    specs: Vec<Spec>,
    /// Of the suite's own set-up and tear-down.
    accidents: Vec<String>,
}

#[derive(Debug)]
struct Spec {
    name: String,
    state: State,
    /// Of a failure, or of a skip that the spec itself decided.
    reason: String,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Passed,
    Failed,
    /// The spec found that something is missing here.
    Skipped,
    /// Not selected: another focus, or a benchmark.
    NotSelected,
}

/// A judged report.
#[derive(Debug)]
pub struct Verdict {
    pub tally: Tally,
    /// Name and reason.
    pub skips: Vec<(String, String)>,
    /// One line for each failure of the suite.
    pub complaints: Vec<String>,
}

impl Report {
    pub fn parse(text: &str) -> Result<Self> {
        let suites: Value = serde_json::from_str(text).context("reading the report of ginkgo")?;
        let suites = suites.as_array().context("a report without suites")?;
        let mut report = Self {
            specs: Vec::new(),
            accidents: Vec::new(),
        };
        for spec in suites
            .iter()
            .flat_map(|suite| suite["SpecReports"].as_array())
            .flatten()
        {
            let name = name(spec);
            let reason = reason(spec);
            let state = match spec["State"].as_str().unwrap_or_default() {
                "passed" => State::Passed,
                "skipped" if !reason.is_empty() => State::Skipped,
                "skipped" | "pending" => State::NotSelected,
                _ => State::Failed,
            };
            if spec["LeafNodeType"] == "It" {
                report.specs.push(Spec {
                    name,
                    state,
                    reason,
                });
            } else if state == State::Failed {
                report.accidents.push(format!("{name}: {reason}"));
            }
        }
        Ok(report)
    }

    /// Failures and skips that are not known are failures, and so is a known
    /// failure that passes. A known skip may pass: another kernel may have more.
    pub fn judge(&self, failures: &BTreeSet<String>, skips: &BTreeSet<String>) -> Verdict {
        let mut verdict = Verdict {
            tally: Tally::default(),
            skips: Vec::new(),
            complaints: Vec::new(),
        };
        for accident in &self.accidents {
            verdict.complain(accident.clone());
        }
        for Spec {
            name,
            state,
            reason,
        } in &self.specs
        {
            match state {
                State::Passed if failures.contains(name) => {
                    verdict.complain(format!("{name}: passes now, take it from the list"));
                }
                State::Passed => verdict.tally += Tally::PASSED,
                State::Failed if failures.contains(name) => verdict.skip(name, "fails as expected"),
                State::Failed => verdict.complain(format!("{name}: {reason}")),
                State::Skipped if skips.contains(name) => verdict.skip(name, reason),
                State::Skipped => verdict.complain(format!("{name}: skipped anew: {reason}")),
                State::NotSelected => {}
            }
        }
        verdict
    }
}

impl Verdict {
    fn complain(&mut self, complaint: String) {
        self.complaints.push(complaint);
        self.tally += Tally::FAILED;
    }

    fn skip(&mut self, name: &str, reason: &str) {
        self.skips.push((name.to_owned(), reason.to_owned()));
        self.tally += Tally::SKIPPED;
    }
}

/// As ginkgo shows it: containers and leaf, by blanks.
fn name(spec: &Value) -> String {
    let containers = spec["ContainerHierarchyTexts"]
        .as_array()
        .into_iter()
        .flatten();
    let leaf = match spec["LeafNodeText"].as_str().unwrap_or_default() {
        "" => &spec["LeafNodeType"],
        _ => &spec["LeafNodeText"],
    };
    containers
        .chain([leaf])
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join(" ")
}

/// On one line, cut where a dump of structures would begin.
fn reason(spec: &Value) -> String {
    let failure = &spec["Failure"];
    let text = [&failure["Message"], &failure["ForwardedPanic"]]
        .iter()
        .filter_map(|text| text.as_str())
        .collect::<Vec<_>>()
        .join(" ");
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(name: &str, state: &str, message: &str) -> Value {
        json!({
            "ContainerHierarchyTexts": ["[k8s.io] Pod"],
            "LeafNodeText": name,
            "LeafNodeType": "It",
            "State": state,
            "Failure": { "Message": message },
        })
    }

    fn judged(specs: Value, failures: &[&str], skips: &[&str]) -> Verdict {
        let report = Report::parse(&json!([{ "SpecReports": specs }]).to_string()).unwrap();
        let set = |names: &[&str]| {
            names
                .iter()
                .map(|name| format!("[k8s.io] Pod {name}"))
                .collect()
        };
        report.judge(&set(failures), &set(skips))
    }

    #[test]
    fn known_and_unknown_outcomes_are_told_apart() {
        let specs = json!([
            spec("a", "passed", ""),
            spec("b", "failed", "no\n  good"),
            spec("c", "failed", "offline"),
            spec("d", "skipped", "no AppArmor"),
            spec("e", "skipped", ""),
            spec("f", "panicked", "boom"),
            spec("g", "timedout", "late"),
            spec("h", "skipped", "no userns"),
        ]);
        let verdict = judged(specs, &["c"], &["d"]);
        assert_eq!(
            verdict.tally,
            Tally {
                passed: 1,
                failed: 4,
                skipped: 2
            }
        );
        assert_eq!(
            verdict.complaints,
            [
                "[k8s.io] Pod b: no good",
                "[k8s.io] Pod f: boom",
                "[k8s.io] Pod g: late",
                "[k8s.io] Pod h: skipped anew: no userns"
            ]
        );
    }

    #[test]
    fn listed_failure_that_passes_is_a_complaint() {
        let verdict = judged(json!([spec("a", "passed", "")]), &["a"], &[]);
        assert_eq!(verdict.tally, Tally::FAILED);
        assert!(verdict.complaints[0].contains("passes now"));
        assert_eq!(
            judged(json!([spec("a", "passed", "")]), &[], &["a"]).tally,
            Tally::PASSED
        );
    }

    #[test]
    fn failed_set_up_of_the_suite_is_a_complaint() {
        let node = json!({ "LeafNodeType": "BeforeSuite", "State": "failed",
            "Failure": { "Message": "no socket" } });
        let verdict = judged(json!([node]), &[], &[]);
        assert_eq!(verdict.complaints, ["BeforeSuite: no socket"]);
    }
}
