//! From lines to instructions.

use std::time::Duration;

use super::Warning;
use super::instruction::{
    Argument, Command, Copy, Document, From, Healthcheck, Instruction, Kind, Run,
};
use super::options::Options;
use super::source::{Logical, Source};
use super::syntax_error::{Problem, SyntaxError};
use super::words::{self, Flag, Word};

const KEYWORDS: &[&str] = &[
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Shortest that a health check may be told to wait.
const SHORTEST: Duration = Duration::from_millis(1);

/// Reads every instruction.
pub fn all(
    source: &mut Source<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<Instruction>, SyntaxError> {
    let mut instructions = Vec::new();
    while let Some(logical) = source.logical() {
        if let Some(line) = logical.empty_lines.first() {
            let rule = "NoEmptyContinuation";
            let text = "an empty line within a continued one: later versions may end it there";
            warnings.push(Warning::new(rule, *line, text));
        }
        instructions.push(one(source, logical, warnings)?);
    }
    Ok(instructions)
}

fn one(
    source: &mut Source<'_>,
    logical: Logical,
    warnings: &mut Vec<Warning>,
) -> Result<Instruction, SyntaxError> {
    let escape = source.directives.escape;
    let refused = |source: &Source<'_>, problem| source.error(&logical, problem);
    let (keyword, rest_at) = keyword(&logical.text).map_err(|problem| refused(source, problem))?;
    let mut documents = Vec::new();
    let rest = logical.from(rest_at);
    if matches!(keyword, "ADD" | "COPY" | "RUN") {
        documents = here_documents(source, &rest, keyword, escape)?;
    } else if keyword == "ONBUILD" && !opened(&rest.text, escape).is_empty() {
        let what = "ONBUILD cannot have a here-document";
        return Err(refused(source, Problem::new(rest_at, what)));
    }
    let mut reader = Reader {
        escape,
        rest: &rest.text,
        documents,
        line: logical.line,
        in_small_letters: logical
            .text
            .starts_with(|letter: char| letter.is_ascii_lowercase()),
        warnings,
    };
    let kind = reader.kind(keyword).map_err(|problem| {
        let at = problem.at;
        source.error(&rest, Problem { at, ..problem })
    })?;
    Ok(Instruction {
        kind,
        text: logical.text.trim_end().to_owned(),
        line: logical.line,
        last_line: source.read(),
    })
}

/// The instruction's name, and where its arguments begin.
fn keyword(text: &str) -> Result<(&'static str, usize), Problem> {
    let word: String = (text.chars())
        .take_while(|letter| !letter.is_whitespace())
        .collect();
    let upper = word.to_ascii_uppercase();
    let Some(keyword) = KEYWORDS.iter().find(|keyword| **keyword == upper) else {
        let what = format!("unknown instruction: {word}");
        let near = super::nearest(&upper, KEYWORDS.iter().copied());
        let advice = match near {
            Some(near) => format!("did you mean {near}?"),
            None => "a line that goes on needs a \\ at its end".to_owned(),
        };
        return Err(Problem::new(0, what).advise(advice));
    };
    let length = word.chars().count();
    let space = text.chars().skip(length);
    let space = space.take_while(|letter| letter.is_whitespace()).count();
    Ok((keyword, length + space))
}

/// What a word says of the here-document that it begins.
struct Opened {
    name: String,
    expands: bool,
    strips: bool,
    descriptor: Option<u32>,
    at: usize,
}

fn opened(text: &str, escape: char) -> Vec<Opened> {
    let words = words::quoted(text, escape);
    let open = |word: Word| {
        let (descriptor, rest) = word.text.split_once("<<")?;
        let (strips, name) = match rest.strip_prefix('-') {
            Some(name) => (true, name),
            None => (false, rest),
        };
        if name.contains('<') || !descriptor.chars().all(|letter| letter.is_ascii_digit()) {
            return None;
        }
        let bare = name.trim_matches(['"', '\'']);
        let good = |letter: char| letter.is_alphanumeric() || "_.-/+@".contains(letter);
        (!bare.is_empty() && bare.chars().all(good)).then(|| Opened {
            name: bare.to_owned(),
            expands: bare == name,
            strips,
            descriptor: descriptor.parse().ok(),
            at: word.at,
        })
    };
    words.into_iter().filter_map(open).collect()
}

fn here_documents(
    source: &mut Source<'_>,
    rest: &Logical,
    keyword: &str,
    escape: char,
) -> Result<Vec<Document>, SyntaxError> {
    let (_, at) = words::flags(&rest.text, escape);
    let arguments = rest.from(at);
    if keyword == "RUN" && words::json(&arguments.text).ok().flatten().is_some() {
        return Ok(Vec::new());
    }
    let mut documents = Vec::new();
    for open in opened(&arguments.text, escape) {
        let Some(content) = source.until(&open.name, open.strips) else {
            let what = format!("the here-document {} does not end", open.name);
            let advice = format!("end it with a line that is {} alone", open.name);
            let problem = Problem::new(open.at, what).advise(advice);
            return Err(source.error(&arguments, problem));
        };
        documents.push(Document {
            name: open.name,
            content,
            expands: open.expands,
            descriptor: open.descriptor,
        });
    }
    Ok(documents)
}

/// The arguments of one instruction.
struct Reader<'a> {
    escape: char,
    rest: &'a str,
    documents: Vec<Document>,
    line: usize,
    /// How the instruction is written.
    in_small_letters: bool,
    warnings: &'a mut Vec<Warning>,
}

impl Reader<'_> {
    fn kind(&mut self, keyword: &'static str) -> Result<Kind, Problem> {
        let empty = self.rest.trim().is_empty();
        if empty && !matches!(keyword, "CMD" | "ENTRYPOINT") {
            return Err(Problem::new(0, format!("{keyword} requires arguments"))
                .advise(format!("as in {}", example(keyword))));
        }
        match keyword {
            "FROM" => self.from(),
            "ARG" => self.arg(),
            "RUN" => self.run(),
            "COPY" => self.copy().map(Box::new).map(Kind::Copy),
            "ADD" => self.add().map(Box::new).map(Kind::Add),
            "CMD" => self.command("CMD").map(Kind::Cmd),
            "ENTRYPOINT" => self.command("ENTRYPOINT").map(Kind::Entrypoint),
            "ENV" => self.pairs("ENV").map(Kind::Env),
            "LABEL" => self.pairs("LABEL").map(Kind::Label),
            "EXPOSE" => {
                let ports = self.no_flags("EXPOSE")?;
                Ok(Kind::Expose(texts(words::plain(&ports))))
            }
            "VOLUME" => self.volume(),
            "USER" => self.no_flags("USER").map(Kind::User),
            "WORKDIR" => self.no_flags("WORKDIR").map(Kind::WorkDir),
            "STOPSIGNAL" => self.no_flags("STOPSIGNAL").map(Kind::StopSignal),
            "SHELL" => self.shell(),
            "HEALTHCHECK" => self.healthcheck().map(Kind::Healthcheck),
            "ONBUILD" => self.on_build(),
            _ => {
                let text = "MAINTAINER is deprecated: use LABEL org.opencontainers.image.authors";
                self.warn("MaintainerDeprecated", text);
                self.no_flags("MAINTAINER").map(Kind::Maintainer)
            }
        }
    }

    fn warn(&mut self, rule: &'static str, text: impl Into<String>) {
        self.warnings.push(Warning::new(rule, self.line, text));
    }

    /// The flags, and what is behind them with its place.
    fn split(&self) -> (Vec<Flag>, String, usize) {
        let (flags, at) = words::flags(self.rest, self.escape);
        let rest: String = self.rest.chars().skip(at).collect();
        (flags, rest.trim_end().to_owned(), at)
    }

    fn no_flags(&self, keyword: &'static str) -> Result<String, Problem> {
        let (flags, rest, _) = self.split();
        Options::new(keyword, flags, &[], &[])?;
        Ok(rest)
    }

    fn from(&mut self) -> Result<Kind, Problem> {
        let (flags, rest, at) = self.split();
        let options = Options::new("FROM", flags, &["platform"], &[])?;
        let words = words::plain(&rest);
        let of = |index: usize| words.get(index).map(|word| word.text.as_str());
        let image = of(0).unwrap_or_default().to_owned();
        let name = match (of(1), of(2), words.get(3)) {
            (None, ..) if !image.is_empty() => None,
            (Some(between), Some(name), None) if between.eq_ignore_ascii_case("as") => {
                let lower = |word: &str| word.chars().any(|letter| letter.is_ascii_lowercase());
                if lower(between) != self.in_small_letters {
                    let text = format!("FROM and {between} are not in the same case");
                    self.warn("FromAsCasing", text);
                }
                Some(self.stage_name(name, at + place_of(&words, 2))?)
            }
            _ => {
                let place = at + place_of(&words, 1);
                return Err(
                    Problem::new(place, "FROM takes an image, or an image AS a name")
                        .advise("as in FROM debian:12 AS build"),
                );
            }
        };
        Ok(Kind::From(From {
            image,
            platform: options.value("platform")?,
            name,
        }))
    }

    fn stage_name(&mut self, name: &str, at: usize) -> Result<String, Problem> {
        let lower = name.to_ascii_lowercase();
        let good = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        if !lower.starts_with(|letter: char| letter.is_ascii_lowercase())
            || !lower.chars().all(good)
        {
            return Err(
                Problem::new(at, format!("{name:?} cannot be a stage's name"))
                    .advise("it begins with a letter; letters, digits, - _ and . follow"),
            );
        }
        if lower != name {
            let text = format!("the stage's name {name} should be in small letters");
            self.warn("StageNameCasing", text);
        }
        if ["scratch", "context"].contains(&lower.as_str()) {
            self.warn(
                "ReservedStageName",
                format!("{lower} has a meaning of its own"),
            );
        }
        Ok(lower)
    }

    fn arg(&mut self) -> Result<Kind, Problem> {
        let (flags, rest, at) = self.split();
        Options::new("ARG", flags, &[], &[])?;
        let argument = |word: Word| {
            let (name, default) = match word.text.split_once('=') {
                Some((name, default)) => (name, Some(default.to_owned())),
                None => (word.text.as_str(), None),
            };
            if name.is_empty() {
                return Err(Problem::new(at + word.at, "a name is missing before ="));
            }
            Ok(Argument {
                name: name.to_owned(),
                default,
            })
        };
        let words = words::quoted(&rest, self.escape);
        let arguments: Vec<_> = words.into_iter().map(argument).collect::<Result<_, _>>()?;
        for argument in &arguments {
            self.no_secret(&argument.name, "ARG");
        }
        Ok(Kind::Arg(arguments))
    }

    fn no_secret(&mut self, name: &str, keyword: &str) {
        const TELLING: [&str; 8] = [
            "apikey",
            "auth",
            "credential",
            "credentials",
            "key",
            "password",
            "secret",
            "token",
        ];
        let lower = name.to_ascii_lowercase();
        let tells = |part: &str| TELLING.contains(&part) || ["pword", "passwd"].contains(&part);
        if lower.split('_').any(tells) && !lower.split('_').any(|part| part == "public") {
            let text = format!(
                "do not use {keyword} for a secret ({name}): it stays in the image; \
                 use RUN --mount=type=secret"
            );
            self.warn("SecretsUsedInArgOrEnv", text);
        }
    }

    fn pairs(&mut self, keyword: &'static str) -> Result<Vec<(String, String)>, Problem> {
        let (flags, rest, at) = self.split();
        Options::new(keyword, flags, &[], &[])?;
        let moved = |problem: Problem| Problem {
            at: at + problem.at,
            ..problem
        };
        let (pairs, is_old) = words::pairs(&rest, self.escape).map_err(moved)?;
        if is_old {
            let text = format!("{keyword} NAME VALUE is the old form: write {keyword} NAME=VALUE");
            self.warn("LegacyKeyValueFormat", text);
        }
        let pairs: Vec<(String, String)> = (pairs.into_iter())
            .map(|(name, value)| (name.text, value.text))
            .collect();
        if keyword == "ENV" {
            for (name, _) in &pairs {
                self.no_secret(name, "ENV");
            }
        }
        Ok(pairs)
    }

    /// A JSON array, or the rest for the shell.
    fn command(&mut self, keyword: &'static str) -> Result<Command, Problem> {
        let (flags, rest, at) = self.split();
        Options::new(keyword, flags, &[], &[])?;
        self.command_of(&rest, at, keyword)
    }

    fn command_of(&mut self, text: &str, at: usize, keyword: &str) -> Result<Command, Problem> {
        let moved = |problem: Problem| Problem {
            at: at + problem.at,
            ..problem
        };
        if let Some(words) = words::json(text).map_err(moved)? {
            return Ok(Command::Exec(words));
        }
        if text.is_empty() {
            return Ok(Command::Exec(Vec::new()));
        }
        if keyword != "RUN" {
            let text =
                format!("{keyword} in the shell's form: as a JSON array it gets signals itself");
            self.warn("JSONArgsRecommended", text);
        }
        Ok(Command::Shell(text.to_owned()))
    }

    fn run(&mut self) -> Result<Kind, Problem> {
        let (flags, rest, at) = self.split();
        let known = ["mount", "network", "security"];
        let options = Options::new("RUN", flags, &known, &["mount"])?;
        if rest.is_empty() {
            return Err(Problem::new(at, "RUN has no command").advise("as in RUN make"));
        }
        let command = self.command_of(&rest, at, "RUN")?;
        if command == Command::Exec(Vec::new()) {
            return Err(Problem::new(at, "RUN has no command").advise("as in RUN [\"make\"]"));
        }
        Ok(Kind::Run(Box::new(Run {
            command,
            documents: std::mem::take(&mut self.documents),
            mounts: options.mounts()?,
            network: options.network()?,
            security: options.security()?,
        })))
    }

    /// The paths of COPY and ADD: all but the last are sources.
    fn paths(&mut self, keyword: &str) -> Result<Copy, Problem> {
        let (_, rest, at) = self.split();
        let mut words = match words::json(&rest)? {
            Some(words) => words,
            None => texts(words::plain(&rest)),
        };
        let destination = words.pop().unwrap_or_default();
        let escape = self.escape;
        words.retain(|word| opened(word, escape).is_empty());
        let documents = std::mem::take(&mut self.documents);
        if words.is_empty() && documents.is_empty() {
            let what = format!("{keyword} requires a source and a destination");
            return Err(Problem::new(at, what).advise(format!("as in {}", example(keyword))));
        }
        if words.len() + documents.len() > 1 && !destination.ends_with('/') && destination != "." {
            // A variable may bring the slash.
            if !destination.contains('$') && !destination.ends_with("\"") {
                let length = rest.chars().count() - destination.chars().count();
                let what = format!("{destination:?} has to be a directory for several sources");
                return Err(Problem::new(at + length.min(rest.chars().count()), what)
                    .advise(format!("end it with a slash: {destination}/")));
            }
        }
        Ok(Copy {
            sources: words,
            documents,
            destination,
            ..Copy::default()
        })
    }

    fn copy(&mut self) -> Result<Copy, Problem> {
        let (flags, ..) = self.split();
        let known = ["from", "chown", "chmod", "link", "parents", "exclude"];
        let options = Options::new("COPY", flags, &known, &["exclude"])?;
        let paths = self.paths("COPY")?;
        Ok(Copy {
            from: options.value("from")?,
            chown: options.value("chown")?,
            chmod: options.value("chmod")?,
            link: options.switch("link")?.unwrap_or(false),
            parents: options.switch("parents")?.unwrap_or(false),
            exclude: options.values("exclude")?,
            ..paths
        })
    }

    fn add(&mut self) -> Result<Copy, Problem> {
        let (flags, ..) = self.split();
        let known = [
            "chown",
            "chmod",
            "link",
            "checksum",
            "keep-git-dir",
            "unpack",
            "exclude",
        ];
        let options = Options::new("ADD", flags, &known, &["exclude"])?;
        let paths = self.paths("ADD")?;
        Ok(Copy {
            chown: options.value("chown")?,
            chmod: options.value("chmod")?,
            link: options.switch("link")?.unwrap_or(false),
            exclude: options.values("exclude")?,
            checksum: options.value("checksum")?,
            keep_git_dir: options.switch("keep-git-dir")?.unwrap_or(false),
            unpack: options.switch("unpack")?,
            ..paths
        })
    }

    fn volume(&mut self) -> Result<Kind, Problem> {
        let text = self.no_flags("VOLUME")?;
        let paths = match words::json(&text)? {
            Some(paths) => paths,
            None => texts(words::plain(&text)),
        };
        if paths.is_empty() || paths.iter().any(|path| path.trim().is_empty()) {
            return Err(Problem::new(0, "VOLUME has an empty path"));
        }
        Ok(Kind::Volume(paths))
    }

    fn shell(&mut self) -> Result<Kind, Problem> {
        let text = self.no_flags("SHELL")?;
        match words::json(&text)? {
            Some(words) if !words.is_empty() => Ok(Kind::Shell(words)),
            _ => Err(Problem::new(0, "SHELL requires a JSON array")
                .advise("as in SHELL [\"/bin/bash\", \"-c\"]")),
        }
    }

    fn healthcheck(&mut self) -> Result<Healthcheck, Problem> {
        let (flags, rest, at) = self.split();
        let known = [
            "interval",
            "timeout",
            "start-period",
            "start-interval",
            "retries",
        ];
        let options = Options::new("HEALTHCHECK", flags, &known, &[])?;
        let kind: String = rest
            .chars()
            .take_while(|letter| !letter.is_whitespace())
            .collect();
        let behind = rest.strip_prefix(kind.as_str()).unwrap_or_default();
        let command = behind.trim_start();
        let command_at = at + rest.chars().count() - command.chars().count();
        match kind.to_ascii_uppercase().as_str() {
            "NONE" if command.is_empty() => Ok(Healthcheck::None),
            "NONE" => Err(Problem::new(
                command_at,
                "HEALTHCHECK NONE takes no arguments",
            )),
            "CMD" if command.is_empty() => {
                let what = "HEALTHCHECK CMD has no command";
                Err(Problem::new(command_at, what)
                    .advise("as in HEALTHCHECK CMD curl -f localhost"))
            }
            "CMD" => Ok(Healthcheck::Check {
                command: self.command_of(command, command_at, "RUN")?,
                interval: options.duration("interval", SHORTEST)?,
                timeout: options.duration("timeout", SHORTEST)?,
                start_period: options.duration("start-period", SHORTEST)?,
                start_interval: options.duration("start-interval", SHORTEST)?,
                retries: options.number("retries")?,
            }),
            _ => Err(Problem::new(at, format!("HEALTHCHECK has no {kind}"))
                .advise("there are HEALTHCHECK CMD … and HEALTHCHECK NONE")),
        }
    }

    fn on_build(&mut self) -> Result<Kind, Problem> {
        let (flags, rest, at) = self.split();
        Options::new("ONBUILD", flags, &[], &[])?;
        let moved = |problem: Problem, by: usize| Problem {
            at: by + problem.at,
            ..problem
        };
        let (keyword, inner_at) = keyword(&rest).map_err(|problem| moved(problem, at))?;
        if matches!(keyword, "ONBUILD" | "FROM" | "MAINTAINER") {
            let what = format!("{keyword} cannot be a trigger of ONBUILD");
            return Err(Problem::new(at, what));
        }
        let inner: String = rest.chars().skip(inner_at).collect();
        let mut reader = Reader {
            escape: self.escape,
            rest: &inner,
            documents: Vec::new(),
            line: self.line,
            in_small_letters: self.in_small_letters,
            warnings: &mut *self.warnings,
        };
        let read = reader.kind(keyword);
        read.map_err(|problem| moved(problem, at + inner_at))?;
        Ok(Kind::OnBuild(rest))
    }
}

fn texts(words: Vec<Word>) -> Vec<String> {
    words.into_iter().map(|word| word.text).collect()
}

fn place_of(words: &[Word], index: usize) -> usize {
    let word = words.get(index).or(words.last());
    word.map_or(0, |word| word.at)
}

fn example(keyword: &str) -> &'static str {
    match keyword {
        "ADD" => "ADD source.tar /target/",
        "ARG" => "ARG VERSION=1.0",
        "COPY" => "COPY source /target/",
        "ENV" => "ENV NAME=VALUE",
        "EXPOSE" => "EXPOSE 80/tcp",
        "FROM" => "FROM debian:12 AS build",
        "HEALTHCHECK" => "HEALTHCHECK CMD curl -f localhost",
        "LABEL" => "LABEL name=value",
        "MAINTAINER" => "LABEL org.opencontainers.image.authors=…",
        "ONBUILD" => "ONBUILD RUN make",
        "RUN" => "RUN make",
        "SHELL" => "SHELL [\"/bin/bash\", \"-c\"]",
        "STOPSIGNAL" => "STOPSIGNAL SIGTERM",
        "USER" => "USER www-data",
        "VOLUME" => "VOLUME /data",
        _ => "WORKDIR /srv",
    }
}
