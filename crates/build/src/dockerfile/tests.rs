//! What is read, and what is refused with its place.

use std::time::Duration;

use super::*;

fn parse(text: &str) -> Dockerfile {
    Dockerfile::parse("Dockerfile", text).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

fn step(text: &str) -> Kind {
    let mut stage = parse(&format!("FROM scratch\n{text}")).stages.remove(0);
    assert_eq!(stage.steps.len(), 1, "{text}");
    stage.steps.remove(0).kind
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn exec(words: &[&str]) -> Command {
    Command::Exec(strings(words))
}

fn shell(text: &str) -> Command {
    Command::Shell(text.to_owned())
}

#[test]
fn instructions_are_read_in_all_their_forms() {
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    for (text, expected) in [
        ("CMD [\"a\", \"b c\"]", Kind::Cmd(exec(&["a", "b c"]))),
        ("cmd a  'b c'", Kind::Cmd(shell("a  'b c'"))),
        ("CMD", Kind::Cmd(exec(&[]))),
        ("CMD [ 'a' ]", Kind::Cmd(shell("[ 'a' ]"))),
        ("ENTRYPOINT [\"/x\"]", Kind::Entrypoint(exec(&["/x"]))),
        (
            "ENV A=1 B=\"x y\" C=a\\ b",
            Kind::Env(vec![
                pair("A", "1"),
                pair("B", "\"x y\""),
                pair("C", "a\\ b"),
            ]),
        ),
        (
            "ENV PATH /bin:$PATH and more",
            Kind::Env(vec![pair("PATH", "/bin:$PATH and more")]),
        ),
        (
            "LABEL \"a b\"=c org.x=\"multi \\\n line\"",
            Kind::Label(vec![pair("\"a b\"", "c"), pair("org.x", "\"multi  line\"")]),
        ),
        (
            "EXPOSE 80 443/tcp $PORT",
            Kind::Expose(strings(&["80", "443/tcp", "$PORT"])),
        ),
        (
            "VOLUME [\"/a b\", \"/c\"]",
            Kind::Volume(strings(&["/a b", "/c"])),
        ),
        ("VOLUME /a /b", Kind::Volume(strings(&["/a", "/b"]))),
        ("USER me:us", Kind::User("me:us".into())),
        ("WORKDIR /a b", Kind::WorkDir("/a b".into())),
        ("STOPSIGNAL 9", Kind::StopSignal("9".into())),
        (
            "SHELL [\"/bin/bash\", \"-c\"]",
            Kind::Shell(strings(&["/bin/bash", "-c"])),
        ),
        ("HEALTHCHECK NONE", Kind::Healthcheck(Healthcheck::None)),
        ("ONBUILD run make", Kind::OnBuild("run make".into())),
        (
            "ARG A B=c D=\"e f\"",
            Kind::Arg(vec![
                Argument {
                    name: "A".into(),
                    default: None,
                },
                Argument {
                    name: "B".into(),
                    default: Some("c".into()),
                },
                Argument {
                    name: "D".into(),
                    default: Some("\"e f\"".into()),
                },
            ]),
        ),
        ("MAINTAINER A B", Kind::Maintainer("A B".into())),
    ] {
        assert_eq!(step(text), expected, "{text}");
    }
}

#[test]
fn a_health_check_has_its_times() {
    let Kind::Healthcheck(Healthcheck::Check {
        command,
        interval,
        timeout,
        retries,
        start_period,
        ..
    }) =
        step("HEALTHCHECK --interval=1m30s --timeout=3s --retries=5 \\\n  CMD curl -f x || exit 1")
    else {
        panic!("no check");
    };
    assert_eq!(command, shell("curl -f x || exit 1"));
    assert_eq!(interval, Some(Duration::from_secs(90)));
    assert_eq!(
        (timeout, start_period),
        (Some(Duration::from_secs(3)), None)
    );
    assert_eq!(retries, Some(5));
}

#[test]
fn copies_have_sources_flags_and_a_destination() {
    let Kind::Copy(copy) = step(
        "COPY --from=build --chown=1:2 --chmod=0644 --link --exclude=*.o --exclude=b a b/ /c/",
    ) else {
        panic!("no copy");
    };
    assert_eq!(copy.sources, ["a", "b/"]);
    assert_eq!(copy.destination, "/c/");
    assert_eq!(copy.from.as_deref(), Some("build"));
    assert_eq!(copy.chown.as_deref(), Some("1:2"));
    assert_eq!(copy.chmod.as_deref(), Some("0644"));
    assert!(copy.link && !copy.parents);
    assert_eq!(copy.exclude, ["*.o", "b"]);
    let Kind::Copy(json) = step("COPY [\"a b\", \"/c d\"]") else {
        panic!("no copy");
    };
    assert_eq!(
        (json.sources, json.destination),
        (strings(&["a b"]), "/c d".into())
    );
    let Kind::Add(add) = step("ADD --checksum=sha256:00 --keep-git-dir --unpack=false x /y") else {
        panic!("no add");
    };
    assert_eq!(add.checksum.as_deref(), Some("sha256:00"));
    assert!(add.keep_git_dir);
    assert_eq!(add.unpack, Some(false));
}

#[test]
fn runs_have_mounts_a_network_and_documents() {
    let Kind::Run(run) =
        step("RUN --mount=type=cache,target=/c --mount=target=/b --network=none make \\\n  all")
    else {
        panic!("no run");
    };
    assert_eq!(run.command, shell("make   all"));
    assert_eq!(run.mounts.len(), 2);
    assert_eq!(run.network, RunNetwork::None);
    let Kind::Run(run) = step("RUN <<EOF\nset -e\n# kept\necho \"$x\" \\\n  y\nEOF\n") else {
        panic!("no run");
    };
    assert_eq!(run.command, shell("<<EOF"));
    assert_eq!(
        run.documents[0].content,
        "set -e\n# kept\necho \"$x\" \\\n  y\n"
    );
    assert!(run.documents[0].expands);
    let Kind::Run(run) = step("RUN python3 <<-'PY' && ls\n\tprint(1)\n\tPY\n") else {
        panic!("no run");
    };
    assert_eq!(run.documents[0].content, "print(1)\n");
    assert!(!run.documents[0].expands);
    let Kind::Run(run) = step("RUN cat <<< here") else {
        panic!("no run");
    };
    assert!(run.documents.is_empty());
}

#[test]
fn files_are_copied_from_documents() {
    let Kind::Copy(copy) =
        step("COPY a <<robots.txt <<\"second\" /web/\nUser-agent: *\nrobots.txt\n$x\nsecond")
    else {
        panic!("no copy");
    };
    assert_eq!(copy.sources, ["a"]);
    let names: Vec<_> = copy.documents.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["robots.txt", "second"]);
    assert_eq!(copy.documents[0].content, "User-agent: *\n");
    assert_eq!(copy.documents[1].content, "$x\n");
    assert!(!copy.documents[1].expands);
}

#[test]
fn stages_are_found_by_name_and_number() {
    let file = parse(
        "ARG BASE=debian\nFROM --platform=linux/amd64 $BASE:12 AS Build\nRUN a\nFROM scratch\nFROM build\n",
    );
    assert_eq!(file.arguments.len(), 1);
    assert_eq!(file.stages[0].from.image, "$BASE:12");
    assert_eq!(file.stages[0].from.platform.as_deref(), Some("linux/amd64"));
    assert_eq!(file.stage("BUILD"), Some(0));
    assert_eq!(file.stage("1"), Some(1));
    assert_eq!((file.stage("3"), file.stage("other")), (None, None));
}

/// What is refused: text, line, column, part of the problem, part of the advice.
const BAD: &[(&str, usize, usize, &str, &str)] = &[
    ("", 1, 1, "no FROM", "begin with FROM"),
    ("# only\n\n", 1, 1, "no FROM", ""),
    ("RUN x", 1, 1, "no build stage", "only ARG"),
    ("FROM", 1, 5, "FROM requires arguments", "FROM debian"),
    ("FROM a b", 1, 8, "FROM takes an image", "AS build"),
    ("FROM a AS", 1, 8, "FROM takes an image", "AS build"),
    ("FROM a AS b c", 1, 8, "FROM takes an image", ""),
    (
        "FROM a AS 1b",
        1,
        11,
        "cannot be a stage's name",
        "begins with a letter",
    ),
    (
        "FROM --plattform=x a",
        1,
        6,
        "no flag --plattform",
        "--platform?",
    ),
    ("FROM --platform a", 1, 6, "needs a value", "--platform="),
    (
        "FROM a\nRUM x",
        2,
        1,
        "unknown instruction: RUM",
        "did you mean RUN?",
    ),
    (
        "FROM a\n  COPPY x y",
        2,
        3,
        "unknown instruction: COPPY",
        "COPY?",
    ),
    (
        "FROM a\nRUN x &&\n  make",
        3,
        3,
        "unknown instruction: make",
        "needs a \\",
    ),
    ("FROM a\nRUN", 2, 4, "RUN requires arguments", "RUN make"),
    ("FROM a\nRUN []", 2, 5, "no command", ""),
    (
        "FROM a\nRUN --mount=type=cache x",
        2,
        5,
        "no target",
        "target=",
    ),
    (
        "FROM a\nRUN --mount=type=cach,target=/x x",
        2,
        5,
        "no mounts of type",
        "cache",
    ),
    (
        "FROM a\nRUN --network=own x",
        2,
        5,
        "cannot be \"own\"",
        "default, none and host",
    ),
    ("FROM a\nRUN --link x", 2, 5, "no flag --link", "--mount"),
    (
        "FROM a\nCOPY x",
        2,
        6,
        "a source and a destination",
        "COPY source",
    ),
    ("FROM a\nCOPY a b c", 2, 10, "has to be a directory", "c/"),
    (
        "FROM a\nCOPY --from=a --from=b x y",
        2,
        15,
        "given twice",
        "keep one",
    ),
    (
        "FROM a\nCOPY --link=maybe x y",
        2,
        6,
        "--link is \"maybe\"",
        "true or false",
    ),
    ("FROM a\nCOPY [\"a\", 1]", 2, 12, "is no string", "quotes"),
    (
        "FROM a\nCOPY <<EOF /x\nabc\n",
        2,
        6,
        "EOF does not end",
        "EOF alone",
    ),
    ("FROM a\nADD --from=b x y", 2, 5, "no flag --from", ""),
    ("FROM a\nENV", 2, 4, "requires arguments", "NAME=VALUE"),
    ("FROM a\nENV A", 2, 5, "A has no value", "NAME=VALUE"),
    ("FROM a\nENV A=1 B", 2, 9, "B has no =", "quotes"),
    ("FROM a\nENV =1", 2, 5, "a name is missing", ""),
    ("FROM a\nARG =1", 2, 5, "a name is missing", ""),
    (
        "FROM a\nSHELL /bin/sh",
        2,
        7,
        "requires a JSON array",
        "/bin/bash",
    ),
    ("FROM a\nVOLUME [\"\"]", 2, 8, "empty path", ""),
    (
        "FROM a\nHEALTHCHECK curl x",
        2,
        13,
        "HEALTHCHECK has no curl",
        "NONE",
    ),
    ("FROM a\nHEALTHCHECK CMD", 2, 16, "no command", ""),
    (
        "FROM a\nHEALTHCHECK NONE x",
        2,
        18,
        "takes no arguments",
        "",
    ),
    (
        "FROM a\nHEALTHCHECK --interval=5 CMD x",
        2,
        13,
        "no duration",
        "30s",
    ),
    (
        "FROM a\nHEALTHCHECK --retries=x CMD x",
        2,
        13,
        "no number",
        "",
    ),
    (
        "FROM a\nONBUILD ONBUILD RUN x",
        2,
        9,
        "cannot be a trigger",
        "",
    ),
    ("FROM a\nONBUILD FROM b", 2, 9, "cannot be a trigger", ""),
    ("FROM a\nONBUILD RUM x", 2, 9, "unknown instruction", "RUN?"),
    (
        "FROM a\nONBUILD COPY x",
        2,
        14,
        "a source and a destination",
        "",
    ),
    ("FROM a\nONBUILD RUN <<EOF\nEOF", 2, 9, "here-document", ""),
    ("# escape=x\nFROM a", 1, 10, "has to be", ""),
    (
        "# escape=`\n# escape=`\nFROM a",
        2,
        1,
        "given twice",
        "keep one",
    ),
];

#[test]
fn what_cannot_be_read_is_refused_with_its_place_and_advice() {
    let mut wrong = Vec::new();
    for (text, line, column, problem, advice) in BAD {
        match Dockerfile::parse("Dockerfile", text) {
            Ok(_) => wrong.push(format!("{text:?} is read")),
            Err(error) => {
                let is_there = (error.line, error.column) == (*line, *column);
                let said = error.problem.contains(problem) && error.advice.contains(advice);
                if !is_there || !said {
                    wrong.push(format!("{text:?} should be {line}:{column}\n{error}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn what_is_better_written_otherwise_is_told() {
    let rules = |text: &str| -> Vec<(&'static str, usize)> {
        let warnings = parse(text).warnings;
        warnings.iter().map(|one| (one.rule, one.line)).collect()
    };
    for (text, expected) in [
        ("FROM a\nMAINTAINER me", &[("MaintainerDeprecated", 2)][..]),
        ("FROM a AS Build", &[("StageNameCasing", 1)]),
        ("FROM a as b", &[("FromAsCasing", 1)]),
        ("from a as b", &[]),
        ("FROM a AS scratch", &[("ReservedStageName", 1)]),
        ("FROM a AS b\nFROM c AS b", &[("DuplicateStageName", 2)]),
        ("FROM a\nCMD x", &[("JSONArgsRecommended", 2)]),
        (
            "FROM a\nCMD [\"x\"]\nCMD [\"y\"]",
            &[("MultipleInstructionsDisallowed", 2)],
        ),
        ("FROM a\nENV A b", &[("LegacyKeyValueFormat", 2)]),
        ("FROM a\nENV API_TOKEN=x", &[("SecretsUsedInArgOrEnv", 2)]),
        ("FROM a\nARG PUBLIC_KEY", &[]),
        ("FROM a\nWORKDIR b", &[("WorkdirRelativePath", 2)]),
        ("FROM a\nWORKDIR /b\nWORKDIR c", &[]),
        (
            "FROM a\nrun x\nRUN y",
            &[("ConsistentInstructionCasing", 2)],
        ),
        ("FROM a\nRUN x \\\n\n  y", &[("NoEmptyContinuation", 3)]),
        ("# check=skip=all\nFROM a AS Build", &[]),
        (
            "# check=skip=StageNameCasing,X\nFROM a AS Build\nCMD x",
            &[("JSONArgsRecommended", 3)],
        ),
    ] {
        assert_eq!(rules(text), expected, "{text}");
    }
    let error = Dockerfile::parse("Dockerfile", "# check=error=true\nFROM a AS Build").unwrap_err();
    assert!(error.to_string().contains("StageNameCasing"), "{error}");
}

#[test]
fn triggers_of_images_are_read_again() {
    assert!(matches!(
        trigger("COPY . /app").unwrap().kind,
        Kind::Copy(_)
    ));
    assert!(trigger("nonsense").is_err());
    assert!(trigger("RUN a\nRUN b").is_err());
}

/// Whatever the text, it is read or refused: nothing panics, and nothing takes for ever.
#[test]
fn no_text_breaks_the_reader() {
    let seeds = super::corpus::ALL;
    let letters = [
        "\\", "\"", "'", "$", "{", "}", "<<", "\n", " ", "[", "=", "--", "#", "`", "é",
    ];
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(state >> 33).unwrap_or(0) % below
    };
    for _ in 0..3000 {
        let mut text = seeds[random(seeds.len())].text.to_owned();
        for _ in 0..=random(4) {
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            let at = places[random(places.len())];
            match random(3) {
                0 => text.truncate(at),
                1 => text.insert_str(at, letters[random(letters.len())]),
                _ => drop(text.remove(at)),
            }
            if text.is_empty() {
                break;
            }
        }
        let _ = Dockerfile::parse("f", &text);
        let lookup = |_: &str| Some("v".to_owned());
        let expander = Expander {
            escape: '\\',
            lookup: &lookup,
        };
        let _ = expander.words(&text);
        let _ = crate::ignore::Ignore::parse(&text);
    }
}
