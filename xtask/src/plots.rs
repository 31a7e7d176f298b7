//! Plots of what the benches measured: from `docs/figures/*.json`, which the benches wrote, to a
//! drawing beside each.
//!
//! Bars of one group share a scale, and a line at the end of each says what it stands for: groups of
//! different units stand below each other. A thin line goes on to the ninth of ten values.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace;

const WIDTH: f64 = 760.0;
/// Where bars begin and where the longest one ends.
const LEFT: f64 = 230.0;
const RIGHT: f64 = 640.0;
const BAR: f64 = 16.0;
const GAP: f64 = 14.0;
const HEAD: f64 = 44.0;
const COLOURS: [&str; 3] = ["#1f6f8b", "#c9a66b", "#a3a3a3"];

/// What a bench wrote, and where it is kept.
const KEPT: [(&str, &str); 3] = [
    ("bench.json", "cri.json"),
    ("bench-oci.json", "oci.json"),
    ("bench-density.json", "density.json"),
];

/// One bar: whose it is, the median, and what nine of ten values do not exceed.
#[derive(Debug, PartialEq)]
struct Bar {
    name: String,
    median: f64,
    most: f64,
}

#[derive(Debug, PartialEq)]
struct Group {
    title: String,
    unit: String,
    bars: Vec<Bar>,
}

/// Draws what is kept; with `take`, what the benches wrote last is kept first.
pub fn draw(take: bool) -> Result<()> {
    let directory = directory();
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    for (written, kept) in KEPT {
        let from = workspace::target().join("berth").join(written);
        if take && from.exists() {
            fs::copy(&from, directory.join(kept))
                .with_context(|| format!("copying {}", from.display()))?;
        }
    }
    for path in figures()? {
        let drawing = drawing_of(&path)?;
        let to = path.with_extension("svg");
        fs::write(&to, drawing).with_context(|| format!("writing {}", to.display()))?;
        println!("{}", to.display());
    }
    Ok(())
}

/// Refuses drawings that are not of the figures beside them.
pub fn check() -> Result<()> {
    for path in figures()? {
        let to = path.with_extension("svg");
        let drawn = fs::read_to_string(&to).with_context(|| format!("reading {}", to.display()))?;
        ensure!(
            drawn == drawing_of(&path)?,
            "{} is not of {}: run `cargo xtask plots`",
            to.display(),
            path.display()
        );
    }
    Ok(())
}

fn directory() -> PathBuf {
    workspace::root().join("docs/figures")
}

fn figures() -> Result<Vec<PathBuf>> {
    let directory = directory();
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("reading {}", directory.display()))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.context("reading the directory of figures")?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn drawing_of(path: &Path) -> Result<String> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let value: Value =
        serde_json::from_slice(&text).with_context(|| format!("parsing {}", path.display()))?;
    let groups = groups(&value);
    ensure!(!groups.is_empty(), "{} has no figures", path.display());
    Ok(drawing(&machine(&value), &groups))
}

/// `runtimes.<name>.figures.<measure>` with `unit`, `p50` and `p90`, by measure.
fn groups(value: &Value) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let runtimes = value["runtimes"].as_object().into_iter().flatten();
    for (name, runtime) in runtimes {
        for (title, figure) in runtime["figures"].as_object().into_iter().flatten() {
            let (Some(median), Some(most)) = (figure["p50"].as_f64(), figure["p90"].as_f64())
            else {
                continue;
            };
            let bar = Bar {
                name: name.clone(),
                median,
                most,
            };
            match groups.iter_mut().find(|group| group.title == *title) {
                Some(group) => group.bars.push(bar),
                None => groups.push(Group {
                    title: title.clone(),
                    unit: figure["unit"].as_str().unwrap_or_default().to_owned(),
                    bars: vec![bar],
                }),
            }
        }
    }
    groups
}

fn machine(value: &Value) -> String {
    let machine = &value["machine"];
    let memory = machine["memory_kib"].as_u64().unwrap_or(0) >> 20;
    format!(
        "{} processors, {memory} GiB, Linux {}",
        machine["cpus"],
        machine["kernel"].as_str().unwrap_or("?")
    )
}

fn drawing(subtitle: &str, groups: &[Group]) -> String {
    let bars: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = HEAD + bars as f64 * BAR + groups.len() as f64 * GAP;
    let mut svg = String::new();
    let mut line = |text: String| {
        // Into memory: it does not fail.
        let _ = writeln!(svg, "{text}");
    };
    line(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">"#
    ));
    line(format!(
        r#"<rect width="{WIDTH}" height="{height}" fill="white"/>"#
    ));
    line(format!(
        r##"<text x="10" y="20" fill="#333">median, and nine of ten values · {}</text>"##,
        escaped(subtitle)
    ));
    let mut y = HEAD;
    for group in groups {
        line(format!(
            r##"<text x="{:.0}" y="{:.0}" text-anchor="end" fill="#111">{}</text>"##,
            LEFT - 8.0,
            y + BAR - 4.0,
            escaped(&group.title)
        ));
        let longest = group.bars.iter().map(|bar| bar.most.max(bar.median));
        let scale = (RIGHT - LEFT) / longest.fold(f64::MIN_POSITIVE, f64::max);
        for (bar, colour) in group.bars.iter().zip(COLOURS.iter().cycle()) {
            for text in drawn(bar, &group.unit, colour, scale, y) {
                line(text);
            }
            y += BAR;
        }
        y += GAP;
    }
    line("</svg>".to_owned());
    svg
}

/// The bar, its line, and what it says.
fn drawn(bar: &Bar, unit: &str, colour: &str, scale: f64, y: f64) -> [String; 3] {
    let length = bar.median * scale;
    let end = LEFT + (bar.most * scale).max(length);
    let middle = y + BAR / 2.0;
    [
        format!(
            r#"<rect x="{LEFT}" y="{:.1}" width="{length:.1}" height="{:.1}" fill="{colour}"/>"#,
            y + 1.0,
            BAR - 2.0
        ),
        format!(
            r#"<line x1="{:.1}" y1="{middle:.1}" x2="{end:.1}" y2="{middle:.1}" stroke="{colour}" stroke-width="2"/>"#,
            LEFT + length
        ),
        format!(
            r##"<text x="{:.1}" y="{:.1}" fill="#333">{} {} {}</text>"##,
            end + 6.0,
            y + BAR - 4.0,
            escaped(&bar.name),
            rounded(bar.median),
            escaped(unit)
        ),
    ]
}

/// Three digits that count, and no more.
fn rounded(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn figures() -> Value {
        let figure = |p50: f64, p90: f64| json!({ "unit": "ms", "p50": p50, "p90": p90 });
        json!({
            "machine": { "cpus": 2, "memory_kib": 4_194_304, "kernel": "6.1" },
            "runtimes": {
                "a": { "figures": { "run": figure(10.0, 20.0), "exec": figure(1.0, 1.0) } },
                "b": { "figures": { "run": figure(40.0, 40.0) } },
            },
        })
    }

    #[test]
    fn bars_of_one_measure_share_a_scale() {
        let groups = groups(&figures());
        let run = groups.iter().find(|group| group.title == "run").unwrap();
        assert_eq!(run.bars.len(), 2);
        let svg = drawing(&machine(&figures()), &groups);
        let full = RIGHT - LEFT;
        for width in [full / 4.0, full] {
            assert!(svg.contains(&format!(r#"width="{width:.1}""#)), "{svg}");
        }
        assert!(svg.contains("a 10.0 ms") && svg.contains("b 40.0 ms"));
        assert!(svg.contains("2 processors, 4 GiB, Linux 6.1"));
    }
}
