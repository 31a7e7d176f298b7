//! From a Dockerfile to what is to be done: bases decided, stages that the target needs chosen.

use std::collections::{BTreeMap, BTreeSet};

use berth_images::Platform;

use crate::dockerfile::{Dockerfile, Expander, Instruction, Kind, MountKind};
use crate::emulation;
use crate::error::{Error, Result};

/// Variables of proxies, which steps may use without `ARG`, and which leave no trace.
pub const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What a stage begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    Scratch,
    Stage(usize),
    Image(String),
}

/// Where another tree comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Stage(usize),
    Image(String),
}

#[derive(Debug)]
pub struct Stage {
    pub base: Base,
    /// What its base is for, and its commands.
    pub platform: Platform,
    /// `FROM …` as it is shown.
    pub text: String,
    pub steps: Vec<Instruction>,
    /// Stages that have to be ready before it is.
    pub needs: BTreeSet<usize>,
    /// The number of its first step among all that are carried out.
    pub first_step: usize,
}

#[derive(Debug)]
pub struct Plan {
    /// By their number in the Dockerfile; those that the target needs.
    pub stages: BTreeMap<usize, Stage>,
    pub target: usize,
    /// What is built for.
    pub platform: Platform,
    pub steps: usize,
    pub escape: char,
    /// `ARG` before the first `FROM`, and what the platform gives: for stages that name them.
    pub arguments: BTreeMap<String, String>,
    /// Arguments of the request that no stage can take.
    pub unused: Vec<String>,
}

/// What is asked of a plan.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    pub target: String,
    pub arguments: BTreeMap<String, String>,
    /// What is built for.
    pub platform: Platform,
    /// What is built on.
    pub machine: Platform,
}

impl Plan {
    pub fn new(file: &Dockerfile, wish: &Wish) -> Result<Self> {
        let escape = file.directives.escape;
        let arguments = global(file, wish)?;
        let target = match wish.target.as_str() {
            "" => file.stages.len() - 1,
            name => file.stage(name).ok_or_else(|| no_target(file, name))?,
        };
        let mut all = Vec::new();
        for (index, stage) in file.stages.iter().enumerate() {
            let lookup = |name: &str| arguments.get(name).cloned();
            let expander = Expander {
                escape,
                lookup: &lookup,
            };
            let wrong = |problem: String| Error::Step {
                line: stage.line,
                text: stage.text.clone(),
                problem,
            };
            let said = |problem: crate::dockerfile::Problem| wrong(problem.what);
            let image = expander.word(&stage.from.image).map_err(said)?;
            let platform = match &stage.from.platform {
                Some(text) => {
                    let text = expander.word(text).map_err(said)?;
                    given(&text, wish).map_err(wrong)?
                }
                None => wish.platform.clone(),
            };
            if image.is_empty() {
                return Err(wrong(format!(
                    "base name ({}) should not be blank: give its ARG a default or a --build-arg",
                    stage.from.image
                )));
            }
            let base = match earlier(file, &image, index, false) {
                _ if image == "scratch" => Base::Scratch,
                Some(stage) => Base::Stage(stage),
                None => Base::Image(image),
            };
            let mut needs = BTreeSet::new();
            let mut platform = platform;
            if let Base::Stage(stage) = base {
                needs.insert(stage);
                // It is what it is for, whatever is said of it here.
                let earlier: Option<&Stage> = all.get(stage);
                platform = earlier.map_or(platform, |earlier| earlier.platform.clone());
            }
            for step in &stage.steps {
                for from in origins(&step.kind) {
                    needs.extend(earlier(file, from, index, true));
                }
            }
            all.push(Stage {
                base,
                platform,
                text: stage.text.clone(),
                steps: stage.steps.clone(),
                needs,
                first_step: 0,
            });
        }
        let reached = reached(&all, target);
        let mut plan = Self {
            stages: BTreeMap::new(),
            target,
            platform: wish.platform.clone(),
            steps: 0,
            escape,
            unused: unused(file, wish),
            arguments,
        };
        for (index, mut stage) in all.into_iter().enumerate() {
            if reached.contains(&index) {
                stage.first_step = plan.steps + 1;
                plan.steps += 1 + stage.steps.len();
                plan.stages.insert(index, stage);
            }
        }
        Ok(plan)
    }

    /// Before anything is done: whether every command will be run.
    pub fn check_commands(&self, machine: &Platform) -> Result<()> {
        for stage in self.stages.values() {
            let mut steps = stage.steps.iter();
            let Some(run) = steps.find(|step| matches!(step.kind, Kind::Run(_))) else {
                continue;
            };
            emulation::check(machine, &stage.platform).map_err(|problem| Error::Step {
                line: run.line,
                text: run.text.clone(),
                problem,
            })?;
        }
        Ok(())
    }
}

/// What `--from` means in a stage: an earlier one, or an image.
pub fn origin(file: &Dockerfile, from: &str, stage: usize) -> Origin {
    match earlier(file, from, stage, true) {
        Some(stage) => Origin::Stage(stage),
        None => Origin::Image(from.to_owned()),
    }
}

fn earlier(file: &Dockerfile, name: &str, before: usize, by_number: bool) -> Option<usize> {
    let lower = name.to_ascii_lowercase();
    let stages = file.stages.get(..before).unwrap_or(&file.stages);
    let named = stages
        .iter()
        .rposition(|stage| stage.from.name.as_deref() == Some(lower.as_str()));
    let number = || {
        name.parse()
            .ok()
            .filter(|number| by_number && *number < before)
    };
    named.or_else(number)
}

fn origins(kind: &Kind) -> Vec<&str> {
    match kind {
        Kind::Copy(copy) => copy.from.as_deref().into_iter().collect(),
        Kind::Run(run) => run
            .mounts
            .iter()
            .filter_map(|mount| match &mount.kind {
                MountKind::Bind { from, .. } | MountKind::Cache { from, .. } => from.as_deref(),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn reached(stages: &[Stage], target: usize) -> BTreeSet<usize> {
    let mut reached = BTreeSet::new();
    let mut open = vec![target];
    while let Some(index) = open.pop() {
        if reached.insert(index)
            && let Some(stage) = stages.get(index)
        {
            open.extend(&stage.needs);
        }
    }
    reached
}

/// `ARG` before the first `FROM`, over what the platform gives.
fn global(file: &Dockerfile, wish: &Wish) -> Result<BTreeMap<String, String>> {
    let mut known = automatic(wish);
    for name in known.keys().cloned().collect::<Vec<_>>() {
        if let Some(value) = wish.arguments.get(&name) {
            known.insert(name, value.clone());
        }
    }
    for instruction in &file.arguments {
        let Kind::Arg(arguments) = &instruction.kind else {
            continue;
        };
        for argument in arguments {
            let lookup = |name: &str| known.get(name).cloned();
            let expander = Expander {
                escape: file.directives.escape,
                lookup: &lookup,
            };
            let value = match (wish.arguments.get(&argument.name), &argument.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(expander.word(default)?),
                (None, None) => None,
            };
            if let Some(value) = value {
                known.insert(argument.name.clone(), value);
            }
        }
    }
    Ok(known)
}

/// `--platform` of a `FROM`; nothing is what is built for.
fn given(text: &str, wish: &Wish) -> Result<Platform, String> {
    if text.is_empty() {
        return Ok(wish.platform.clone());
    }
    match Platform::parse(text) {
        Some(platform) if platform.os == "linux" => Ok(platform),
        Some(platform) => Err(format!("images of {} are not built here", platform.os)),
        None => Err(format!(
            "{text:?} is no platform: write it as linux/arm64, or $BUILDPLATFORM"
        )),
    }
}

/// What every build knows without being told.
fn automatic(wish: &Wish) -> BTreeMap<String, String> {
    let mut known = BTreeMap::new();
    for (whose, platform) in [("TARGET", &wish.platform), ("BUILD", &wish.machine)] {
        for (what, value) in [
            ("PLATFORM", platform.to_string()),
            ("OS", platform.os.clone()),
            ("ARCH", platform.architecture.clone()),
            ("VARIANT", platform.variant.clone()),
        ] {
            known.insert(format!("{whose}{what}"), value);
        }
    }
    known
}

fn no_target(file: &Dockerfile, name: &str) -> Error {
    let names = file
        .stages
        .iter()
        .filter_map(|stage| stage.from.name.as_deref());
    let names: Vec<&str> = names.collect();
    Error::invalid(format!(
        "target stage {name:?} could not be found: there are {}",
        match names.is_empty() {
            true => "none with names".to_owned(),
            false => names.join(", "),
        }
    ))
}

/// Arguments that no `ARG` names.
fn unused(file: &Dockerfile, wish: &Wish) -> Vec<String> {
    let steps = file.stages.iter().flat_map(|stage| &stage.steps);
    let mut named: BTreeSet<&str> = BTreeSet::new();
    for instruction in steps.chain(&file.arguments) {
        if let Kind::Arg(arguments) = &instruction.kind {
            named.extend(arguments.iter().map(|argument| argument.name.as_str()));
        }
    }
    let automatic = automatic(wish);
    let is_unused = |name: &&String| {
        !named.contains(name.as_str())
            && !PROXIES.contains(&name.as_str())
            && !automatic.contains_key(name.as_str())
            && name.as_str() != "SOURCE_DATE_EPOCH"
    };
    wish.arguments.keys().filter(is_unused).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str, target: &str, arguments: &[(&str, &str)]) -> Result<Plan> {
        let file = Dockerfile::parse("Dockerfile", text).unwrap();
        let arguments = arguments
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
        let wish = Wish {
            target: target.to_owned(),
            arguments: arguments.collect(),
            platform: Platform::parse("linux/amd64").unwrap(),
            machine: Platform::parse("linux/amd64").unwrap(),
        };
        Plan::new(&file, &wish)
    }

    const STAGES: &str = "FROM a AS base\nRUN x\nFROM base AS test\nRUN y\nFROM b AS tools\n\
                          FROM base AS build\nRUN --mount=from=tools,target=/t z\n\
                          FROM scratch\nCOPY --from=build / /\nCOPY --from=c /x /x\n";

    #[test]
    fn what_the_target_does_not_need_is_left_out() {
        let whole = plan(STAGES, "", &[]).unwrap();
        assert_eq!(
            whole.stages.keys().copied().collect::<Vec<_>>(),
            [0, 2, 3, 4]
        );
        assert_eq!((whole.target, whole.steps), (4, 8));
        assert_eq!(whole.stages[&4].needs, BTreeSet::from([3]));
        assert_eq!(whole.stages[&3].first_step, 4);
        let test = plan(STAGES, "TEST", &[]).unwrap();
        assert_eq!(test.stages.keys().copied().collect::<Vec<_>>(), [0, 1]);
        let error = plan(STAGES, "nosuch", &[]).unwrap_err().to_string();
        assert!(error.contains("base, test, tools, build"), "{error}");
    }

    #[test]
    fn bases_are_named_by_arguments() {
        let text = "ARG V=12 I=debian:$V\nFROM --platform=$BUILDPLATFORM ${I}-slim\nRUN x";
        let base = |arguments| {
            plan(text, "", arguments)
                .unwrap()
                .stages
                .remove(&0)
                .unwrap()
                .base
        };
        assert_eq!(base(&[]), Base::Image("debian:12-slim".into()));
        assert_eq!(base(&[("V", "13")]), Base::Image("debian:13-slim".into()));
        assert_eq!(base(&[("I", "x")]), Base::Image("x-slim".into()));
        let unused = plan(text, "", &[("W", "1"), ("HTTP_PROXY", "p")])
            .unwrap()
            .unused;
        assert_eq!(unused, ["W"]);
        assert!(plan("FROM $NONE", "", &[]).is_err());
    }

    #[test]
    fn each_stage_is_for_the_platform_that_it_says() {
        let text = "ARG P=s390x\nFROM --platform=$BUILDPLATFORM a AS build\n\
                    FROM --platform=$P b AS other\nFROM build AS more\nFROM --platform=$NONE c\n\
                    FROM --platform=linux/$TARGETARCH d\nCOPY --from=0 / /\nCOPY --from=1 / /\n\
                    COPY --from=2 / /\nCOPY --from=3 / /\n";
        let file = Dockerfile::parse("Dockerfile", text).unwrap();
        let wish = Wish {
            platform: Platform::parse("linux/arm/v7").unwrap(),
            machine: Platform::parse("amd64").unwrap(),
            ..Wish::default()
        };
        let plan = Plan::new(&file, &wish).unwrap();
        let platforms = plan.stages.values().map(|stage| stage.platform.to_string());
        let expected = [
            "linux/amd64",
            "linux/s390x",
            "linux/amd64",
            "linux/arm/v7",
            "linux/arm/v7",
        ];
        assert_eq!(platforms.collect::<Vec<_>>(), expected);
        let known = |name: &str| plan.arguments[name].as_str();
        assert_eq!(known("TARGETPLATFORM"), "linux/arm/v7");
        assert_eq!((known("TARGETARCH"), known("TARGETVARIANT")), ("arm", "v7"));
        assert_eq!(
            (known("BUILDPLATFORM"), known("BUILDOS")),
            ("linux/amd64", "linux")
        );
        for (wrong, part) in [("windows/amd64", "windows"), ("a/b/c/d", "no platform")] {
            let text = format!("FROM --platform={wrong} a\n");
            let file = Dockerfile::parse("Dockerfile", &text).unwrap();
            let error = Plan::new(&file, &wish).unwrap_err().to_string();
            assert!(
                error.contains(part) && error.contains("Dockerfile:1"),
                "{error}"
            );
        }
    }
}
