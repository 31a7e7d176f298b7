//! Steps that concern builds.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::terminals::shown;
use super::{Step, berth, contains, ended, same};
use crate::command::{output, run};
use crate::suites::docker::session::Session;

pub const STEPS: &[(&str, Step)] = &[
    ("build tells each step, what was there and how long", told),
    ("build on a terminal draws what goes on", drawn),
    ("build that fails says where and its last words", failing),
    (
        "build reads what the directory has, but for what is left out",
        contexts,
    ),
    ("build of standard input: a Dockerfile, an archive", piped),
    (
        "five stages: at the same time, not at all, only what follows",
        five_stages,
    ),
    ("secrets reach commands and stay nowhere", secrets),
    ("an ssh agent is spoken to from within", agent),
    ("build leaves directories and archives", outputs),
];

/// A context, made anew.
pub fn context(session: &Session, name: &str, files: &[(&str, &str)]) -> Result<PathBuf> {
    let directory = session.place.scratch().join(name);
    let _fresh = fs::remove_dir_all(&directory);
    for (name, text) in files {
        let path = directory.join(name);
        let parent = path.parent().context("a file in a directory")?;
        fs::create_dir_all(parent).context("creating a directory")?;
        fs::write(&path, text).with_context(|| format!("writing {name}"))?;
    }
    Ok(directory)
}

/// What is told on standard error of a build that has to succeed.
pub fn built(session: &Session, directory: &Path, more: &[&str]) -> Result<String> {
    let directory = directory.display().to_string();
    let arguments = [&["build"], more, &[&directory]].concat();
    let (code, out, err) = ended(session, &arguments)?;
    ensure!(code == 0, "berth build ended with {code}: {err}{out}");
    Ok(err)
}

fn cat(session: &Session, image: &str, path: &str) -> Result<String> {
    berth(session, &["run", "--rm", image, "cat", path])
}

fn told(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!(
        "FROM {base} AS tools\nRUN echo said && echo tool > /tool\nFROM {base}\nCOPY --from=tools /tool /\nCMD [\"cat\", \"/tool\"]\n"
    );
    let directory = context(session, "told", &[("Dockerfile", &text)])?;
    let file = session.place.scratch().join("iid");
    let iid = file.display().to_string();
    let err = built(
        session,
        &directory,
        &[
            "-t",
            "made/told:1",
            "--iidfile",
            &iid,
            "--build-arg",
            "NO=1",
        ],
    )?;
    for part in [
        &format!("#1 [tools 1/2] FROM {base} AS tools\n"),
        "#2 [tools 2/2] RUN echo said && echo tool > /tool\n",
        " said\n",
        "#2 DONE ",
        "[stage-1 2/3] COPY --from=tools /tool /\n",
        "WARNING: One or more build-args [NO] were not consumed\n",
        "Built ",
        "5 steps, 0 cached",
    ] {
        contains("berth build", &err, part)?;
    }
    let id = berth(session, &["inspect", "--format", "{{.Id}}", "made/told:1"])?;
    same("the file of the id", fs::read_to_string(&file)?, id.clone())?;
    let err = built(session, &directory, &[])?;
    contains("again", &err, "#2 CACHED\n")?;
    contains("again", &err, "5 steps, 3 cached")?;
    let directory = directory.display().to_string();
    let quiet = berth(session, &["build", "-q", &directory])?;
    same("quiet", quiet, id)?;
    let said = berth(session, &["run", "--rm", "made/told:1"])?;
    same("what it says", said, "tool".to_owned())
}

fn drawn(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!("FROM {base}\nRUN echo on its way; sleep 0.5\nRUN echo $RANDOM\n");
    let directory = context(session, "drawn", &[("Dockerfile", &text)])?;
    let line = format!("stty rows 20 cols 70; $berth build {}", directory.display());
    let shown = shown(session, &line)?;
    for part in [
        "Sending the context",
        "▸ [stage-0 2/3] RUN echo on its way; sleep 0.5",
        "│ on its way",
        "✓ [stage-0 3/3] RUN echo $RANDOM",
        "\x1b[J",
        "Built ",
    ] {
        contains("on a terminal", &shown, part)?;
    }
    let shown = self::shown(session, &line)?;
    contains("again", &shown, "✓ CACHED [stage-0 2/3] RUN")
}

fn failing(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!("FROM {base}\nRUN echo before; echo wrong >&2; exit 9\n");
    let directory = context(session, "failing", &[("Dockerfile", &text)])?;
    let path = directory.display().to_string();
    let (code, out, err) = ended(session, &["build", &path])?;
    same("exit code", code, 1)?;
    same("standard output", out, String::new())?;
    for part in [
        " before\n",
        " wrong\n",
        "#2 FAILED",
        "returned a non-zero code: 9",
    ] {
        contains("berth build", &err, part)?;
    }
    let (code, _, err) = ended(session, &["build", "-q", &path])?;
    same("exit code", code, 1)?;
    contains("quiet, until it fails", &err, "before\n")?;
    let shown = shown(session, &format!("$berth build {path}; true"))?;
    contains("on a terminal", &shown, "✗ [stage-0 2/2]")?;
    contains("on a terminal", &shown, "│ wrong")?;
    fs::write(directory.join("Dockerfile"), "FROM scratch\n  COPPY a b\n")?;
    let said = session.docker.refusal(&["build", &path])?;
    contains(
        "the place",
        &said,
        "Dockerfile:2:3: unknown instruction: COPPY",
    )?;
    contains("the advice", &said, "did you mean COPY?")?;
    for (arguments, part) in [
        (&["build", "/nowhere"][..], "/nowhere"),
        (
            &["build", "git@example.com:x/a.git"],
            "the daemon has no keys",
        ),
        (&["build", "-f", "/nowhere/File", &path], "/nowhere/File"),
        (&["build", "--secret", "src=/x", &path], "it has no id"),
        (&["build", "-o", "type=registry", &path], "--tag NAME"),
    ] {
        let said = session.docker.refusal(arguments)?;
        contains(&arguments.join(" "), &said, part)?;
    }
    Ok(())
}

fn contexts(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!("FROM {base}\nCOPY . /all\nRUN find /all | sort > /found\n");
    let files = [
        (
            "context/.dockerignore",
            "*.log\nout\n!out/kept\nDockerfile\n",
        ),
        ("context/Dockerfile", text.as_str()),
        ("context/a", "a"),
        ("context/b.log", "b"),
        ("context/out/x", "x"),
        ("context/out/kept/y", "y"),
        ("elsewhere/Other", text.as_str()),
        ("elsewhere/Other.dockerignore", "*\n!a\n"),
    ];
    let scratch = context(session, "contexts", &files)?;
    let directory = scratch.join("context");
    built(session, &directory, &["-t", "made/context:1"])?;
    let all = "/all\n/all/.dockerignore\n/all/a\n/all/out\n/all/out/kept\n/all/out/kept/y";
    same(
        "copied",
        cat(session, "made/context:1", "/found")?,
        all.into(),
    )?;
    let other = scratch.join("elsewhere/Other").display().to_string();
    built(session, &directory, &["-t", "made/context:2", "-f", &other])?;
    let few = "/all\n/all/a";
    same(
        "by its own rules",
        cat(session, "made/context:2", "/found")?,
        few.into(),
    )?;
    let path = directory.display().to_string();
    let id = piped_in(session, &["build", "-q", "-f", "-", &path], text.as_bytes())?;
    // The Dockerfile is beside the context, and no part of it.
    same("copied", cat(session, id.trim(), "/found")?, all.into())?;
    let wrong = piped_in(
        session,
        &["build", "-f", "-", &path],
        b"FROM scratch\nCOPPY\n",
    );
    let wrong = format!("{:#}", wrong.err().context("it was built")?);
    contains("the place", &wrong, "Dockerfile:2:1: unknown instruction")
}

/// Standard output of a command that is given an input, and has to succeed.
fn piped_in(session: &Session, arguments: &[&str], input: &[u8]) -> Result<String> {
    let mut child = session
        .docker
        .command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting berth")?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(input).context("writing its input")?;
    drop(stdin);
    let output = child.wait_with_output().context("waiting for berth")?;
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {err}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn piped(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!("FROM {base}\nRUN echo piped > /x\n");
    let id = piped_in(session, &["build", "-q", "-"], text.as_bytes())?;
    same(
        "a Dockerfile",
        cat(session, id.trim(), "/x")?,
        "piped".into(),
    )?;
    let text = format!("FROM {base}\nCOPY file /x\n");
    let directory = context(
        session,
        "piped",
        &[("sub/File", &text), ("file", "archived")],
    )?;
    for flag in ["-c", "-cz"] {
        let tar = output(
            Command::new("tar")
                .arg("-C")
                .arg(&directory)
                .args([flag, "."]),
        )?;
        let line = ["build", "-q", "-f", "sub/File", "-"];
        let id = piped_in(session, &line, &tar.stdout)?;
        same(flag, cat(session, id.trim(), "/x")?, "archived".into())?;
    }
    Ok(())
}

/// The records of a build, by `--progress rawjson`.
pub fn records(session: &Session, directory: &Path, more: &[&str]) -> Result<Vec<Value>> {
    let more = [&["--progress", "rawjson"], more].concat();
    let err = built(session, directory, &more)?;
    err.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("reading {line:?}")))
        .collect()
}

/// Texts of steps that were carried out.
pub fn worked(records: &[Value]) -> Vec<&str> {
    let of = |what: &'static str| {
        let found = records.iter().filter(move |record| record["what"] == what);
        found.map(|record| (record["step"].as_u64(), record))
    };
    let cached: Vec<_> = of("cached").map(|(step, _)| step).collect();
    of("begun")
        .filter(|(step, _)| !cached.contains(step))
        .filter_map(|(_, record)| record["text"].as_str())
        .filter(|text| !text.starts_with("FROM"))
        .collect()
}

/// Milliseconds at which the step with this text began and ended.
fn span(records: &[Value], text: &str) -> Result<(u64, u64)> {
    let begun = records.iter().find(|record| {
        record["text"]
            .as_str()
            .is_some_and(|found| found.contains(text))
    });
    let begun = begun.with_context(|| format!("{text:?} never began"))?;
    let ended = records
        .iter()
        .find(|record| record["step"] == begun["step"] && record["what"] == "ended");
    let ended = ended.with_context(|| format!("{text:?} never ended"))?;
    let at = |record: &Value| record["at"].as_u64().context("a moment");
    Ok((at(begun)?, at(ended)?))
}

fn five_stages(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!(
        "FROM {base} AS base\nRUN echo base > /base\n\
         FROM base AS api\nCOPY api /src\nRUN sleep 0.5; cat /src/* > /api\n\
         FROM base AS web\nCOPY web /src\nRUN sleep 0.5; cat /src/* > /web\n\
         FROM base AS docs\nRUN exit 1\n\
         FROM base AS all\nCOPY --from=api /api /\nCOPY --from=web /web /\nRUN cat /api /web > /all\nCMD [\"cat\", \"/all\"]\n"
    );
    let files = [
        ("Dockerfile", text.as_str()),
        ("api/a", "api\n"),
        ("web/w", "web\n"),
    ];
    let directory = context(session, "stages", &files)?;
    let cold = records(session, &directory, &["-t", "made/stages:1"])?;
    same("steps that were carried out", worked(&cold).len(), 9)?;
    ensure!(
        !cold.iter().any(|record| record["stage"] == "docs"),
        "docs is built"
    );
    let (api, web) = (span(&cold, "> /api")?, span(&cold, "> /web")?);
    ensure!(
        api.0 < web.1 && web.0 < api.1,
        "one after the other: {api:?} {web:?}"
    );
    let said = berth(session, &["run", "--rm", "made/stages:1"])?;
    same("what it says", said, "api\nweb".to_owned())?;

    let noop = records(session, &directory, &["-t", "made/stages:1"])?;
    same("steps of a no-op", worked(&noop), Vec::new())?;
    let took = noop.iter().filter_map(|record| record["at"].as_u64()).max();
    println!(
        "    no-op of five stages, in the daemon: {} ms",
        took.unwrap_or(0)
    );

    fs::write(directory.join("web/w"), "changed\n")?;
    let changed = records(session, &directory, &["-t", "made/stages:1"])?;
    same(
        "steps after a change",
        worked(&changed),
        vec![
            "COPY web /src",
            "RUN sleep 0.5; cat /src/* > /web",
            "COPY --from=web /web /",
            "RUN cat /api /web > /all",
            "CMD [\"cat\", \"/all\"]",
        ],
    )?;
    let said = berth(session, &["run", "--rm", "made/stages:1"])?;
    same("what it says", said, "api\nchanged".to_owned())
}

/// Bytes that are nowhere else.
pub fn unlikely(what: &str) -> String {
    format!(
        "{what}-{:016x}-berth",
        std::process::id().wrapping_mul(0x9e37_79b9)
    )
}

/// Files below `directory` with these bytes, which may be compressed.
pub fn with_bytes(directory: &Path, bytes: &str) -> Result<Vec<String>> {
    let script = "cd \"$1\" || exit 2; grep -raFl -- \"$2\" .; \
                  LC_ALL=C grep -rlaP '^\\x1f\\x8b' . | tr '\\n' '\\0' \
                  | xargs -0 -r zgrep -aFl -- \"$2\" 2>/dev/null; true";
    let found = output(
        Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(directory)
            .arg(bytes),
    )?;
    ensure!(found.status.success(), "the search of {directory:?} failed");
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    Ok(text.lines().map(str::to_owned).collect())
}

fn secrets(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!(
        "FROM {base} AS one\n\
         RUN --mount=type=secret,id=token,required=true,mode=0440,uid=33 stat -c '%a %u' /run/secrets/token > /mode && wc -c < /run/secrets/token > /size\n\
         RUN --mount=type=secret,id=token,target=/etc/deep/token --mount=type=secret,id=pass,env=PASS \
             test \"$PASS\" != \"$(cat /etc/deep/token)\" && echo ${{#PASS}} > /length\n\
         RUN test -z \"$PASS\" && test ! -e /run/secrets && test ! -e /etc/deep && echo none > /after\n\
         RUN --mount=type=secret,id=other test ! -e /run/secrets/other\n\
         FROM {base}\nCOPY --from=one /mode /size /length /after /\n"
    );
    let directory = context(session, "secrets", &[("Dockerfile", &text)])?;
    let (token, pass) = (unlikely("token"), unlikely("pass"));
    let file = session.place.scratch().join("token");
    fs::write(&file, &token)?;
    let path = directory.display().to_string();
    let by_file = format!("id=token,src={}", file.display());
    let line = [
        "build",
        "-t",
        "made/secrets:1",
        "--secret",
        &by_file,
        "--secret",
        "id=pass,env=BERTH_TEST_PASS",
        &path,
    ];
    let built = output(session.docker.command(&line).env("BERTH_TEST_PASS", &pass))?;
    let err = String::from_utf8_lossy(&built.stderr).into_owned();
    ensure!(built.status.success(), "{err}");
    fs::remove_file(&file)?;
    let made = berth(
        session,
        &[
            "run",
            "--rm",
            "made/secrets:1",
            "cat",
            "/mode",
            "/size",
            "/length",
            "/after",
        ],
    )?;
    let expected = format!("440 33\n{}\n{}\nnone", token.len(), pass.len());
    same("what the commands saw", made, expected)?;

    // Everything that the daemon keeps: layers, their archives, configs, history, records, and the
    // image as it leaves; and what it and the client said.
    let saved = session.place.scratch().join("saved");
    let _fresh = fs::remove_dir_all(&saved);
    fs::create_dir(&saved)?;
    let archive = saved.join("image.tar").display().to_string();
    berth(session, &["save", "-o", &archive, "made/secrets:1"])?;
    run(Command::new("tar")
        .arg("-C")
        .arg(&saved)
        .args(["-xf", &archive]))?;
    let logs = session
        .daemon_log()
        .parent()
        .context("a directory of logs")?
        .to_owned();
    let places = [session.place.root(), session.place.state(), saved, logs];
    for bytes in [&token, &pass] {
        for place in &places {
            same(
                &format!("in {place:?}"),
                with_bytes(place, bytes)?,
                Vec::new(),
            )?;
        }
        ensure!(!err.contains(bytes.as_str()), "it is told: {err}");
    }
    // The search finds what is there.
    let marked = unlikely("marked");
    fs::write(
        directory.join("Dockerfile"),
        format!("FROM {base}\nRUN echo {marked} > /marked\n"),
    )?;
    self::built(session, &directory, &[])?;
    ensure!(
        !with_bytes(&places[0], &marked)?.is_empty(),
        "the search finds nothing"
    );

    // What is not sent is refused where it is required, and not taken from the cache's key.
    let said = session
        .docker
        .refusal(&["build", "--no-cache", &path, "-f", &{
            let file = directory.join("Required");
            fs::write(
                &file,
                format!("FROM {base}\nRUN --mount=type=secret,id=token,required=true true\n"),
            )?;
            file.display().to_string()
        }])?;
    contains("what is missing", &said, "secret token: not found")
}

fn agent(session: &mut Session) -> Result<()> {
    let base = session.services();
    let text = format!(
        "FROM {base}\nRUN --mount=type=ssh test \"$SSH_AUTH_SOCK\" = /run/buildkit/ssh_agent.0 && \
         echo sign this | socat -t5 - UNIX-CONNECT:$SSH_AUTH_SOCK > /answer\n\
         RUN test -z \"$SSH_AUTH_SOCK\" && test ! -e /run/buildkit && cat /answer\n"
    );
    let directory = context(session, "agent", &[("Dockerfile", &text)])?;
    let socket = session.place.scratch().join("agent.sock");
    let _fresh = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).context("listening as an agent")?;
    let answering = std::thread::spawn(move || -> Result<String> {
        let (mut stream, _) = listener.accept()?;
        let mut asked = String::new();
        stream.read_to_string(&mut asked)?;
        stream.write_all(b"signed\n")?;
        Ok(asked)
    });
    let by_socket = format!("default={}", socket.display());
    let err = built(session, &directory, &["--ssh", &by_socket])?;
    let asked = answering.join().ok().context("the agent broke off")??;
    same("what the agent was asked", asked, "sign this\n".to_owned())?;
    contains("its answer", &err, " signed\n")?;
    let path = directory.display().to_string();
    fs::write(
        directory.join("Dockerfile"),
        format!("FROM {base}\nRUN --mount=type=ssh,required=true true\n"),
    )?;
    let said = session.docker.refusal(&["build", &path])?;
    contains("without an agent", &said, "ssh agent default: not found")
}

fn outputs(session: &mut Session) -> Result<()> {
    let base = session.reference(":one");
    let text = format!(
        "FROM {base} AS build\nRUN mkdir -p /out/bin && echo made > /out/bin/app && chmod 750 /out/bin/app && ln -s app /out/bin/link\n\
         FROM scratch\nCOPY --from=build /out/ /\n"
    );
    let directory = context(session, "outputs", &[("Dockerfile", &text)])?;
    let scratch = session.place.scratch().join("outputs-made");
    let _fresh = fs::remove_dir_all(&scratch);
    fs::create_dir(&scratch)?;
    let before = berth(session, &["images", "-q"])?;
    let to = |text: &str| text.replace("DIR", &scratch.display().to_string());
    let all = [
        "DIR/files",
        "type=tar,dest=DIR/files.tar",
        "type=oci,dest=DIR/layout.tar",
        "type=oci,tar=false,dest=DIR/layout",
    ]
    .map(to);
    let outputs: Vec<&str> = all
        .iter()
        .flat_map(|output| ["-o", output.as_str()])
        .collect();
    built(session, &directory, &outputs)?;
    let listed = |path: &Path| -> Result<String> {
        let found = output(Command::new("find").arg(path).args([
            "-mindepth",
            "1",
            "-printf",
            "%P %m %y\\n",
        ]))?;
        let mut lines: Vec<String> = String::from_utf8_lossy(&found.stdout)
            .lines()
            .map(str::to_owned)
            .collect();
        lines.sort();
        Ok(lines.join(", "))
    };
    same(
        "files",
        listed(&scratch.join("files"))?,
        "bin 755 d, bin/app 750 f, bin/link 777 l".into(),
    )?;
    let tar = output(
        Command::new("tar")
            .arg("-tf")
            .arg(scratch.join("files.tar")),
    )?;
    let names = String::from_utf8_lossy(&tar.stdout).into_owned();
    contains("an archive of the files", &names, "bin/app\n")?;
    for part in ["oci-layout", "index.json", "blobs/sha256"] {
        ensure!(scratch.join("layout").join(part).exists(), "no {part}");
    }
    // An image that was only on the way to something else is nobody's image.
    same("images", berth(session, &["images", "-q"])?, before)?;
    let containers = berth(session, &["ps", "-aq"])?;
    same("containers", containers, String::new())?;
    let archive = to("type=docker,dest=DIR/image.tar");
    built(
        session,
        &directory,
        &["-t", "made/archived:1", "-o", &archive],
    )?;
    berth(session, &["rmi", "made/archived:1"])?;
    let loaded = berth(session, &["load", "-i", &to("DIR/image.tar")])?;
    contains("load", &loaded, "made/archived:1")?;
    let path = directory.display().to_string();
    let tar = output(&mut session.docker.command(&["build", "-o", "-", &path]))?;
    ensure!(
        tar.stdout.get(257..262) == Some(b"ustar"),
        "no archive on standard output"
    );
    Ok(())
}
