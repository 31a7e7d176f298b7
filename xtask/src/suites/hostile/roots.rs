//! Root filesystems and settings of images that lead elsewhere.

use std::fs;

use anyhow::{Context, Result, ensure};
use berth_testkit::archive::{Entry, Tar};
use berth_testkit::image::Recipe;

use super::stage::{Stage, is_told};
use super::users::said;

/// A descriptor of the runtime is no place to work in, for containers and for commands in them.
pub fn working_directories(stage: &mut Stage) -> Result<()> {
    let archive = || Tar::of([Entry::file("etc/marker", "m")]).end();
    for number in (3..24).chain([64]) {
        let directory = format!("/proc/self/fd/{number}");
        let recipe = Recipe::new().working_dir(&directory);
        let image = stage.image_with(archive(), recipe)?;
        let config = stage.waiting(&image);
        let answer = stage.run(&config, |session, container| {
            let seen = said(
                session,
                container,
                "cd -P . && pwd && ls -a /proc/self/cwd/..",
            )?;
            anyhow::bail!("it runs in {directory}: {seen:?}")
        })?;
        ensure!(!is_told(&directory, &answer)?, "{directory} was taken");
        stage.remove(&image)?;
    }
    let target = Entry::symlink("work", "/proc/self/fd/7/../../../../..");
    let image = stage.image_with(Tar::of([target]).end(), Recipe::new().working_dir("/work"))?;
    let config = stage.waiting(&image);
    let answer = stage.run(&config, |_, _| Ok(()))?;
    ensure!(!is_told("a link", &answer)?, "a link to one was taken");
    stage.remove(&image)?;

    let image = stage.image_with(archive(), Recipe::new())?;
    let config = stage.waiting(&image);
    let seen = stage.run(&config, |session, container| {
        let open = said(session, container, "ls /proc/1/fd")?;
        let open: Vec<&str> = open.lines().collect();
        ensure!(open == ["0", "1", "2"], "it has {open:?} open");
        Ok(())
    })?;
    seen.context("an honest directory")?;
    stage.remove(&image)
}

/// Whatever an image has where the runtime mounts: refused, or mounted over inside.
pub fn links(stage: &mut Stage) -> Result<()> {
    let canary = stage.canary.path();
    for place in [
        "proc",
        "sys",
        "dev",
        "dev/null",
        "dev/console",
        "dev/pts",
        "dev/shm",
        "etc",
    ] {
        for target in [
            canary.as_str(),
            "/proc/1/root/tmp",
            "../../../../../../tmp",
            "/",
        ] {
            for terminal in [false, true] {
                let case = format!("{place} to {target}");
                // The layers below have directories there: they go first.
                let hidden = format!(".wh.{}", place.rsplit('/').next().unwrap_or(place));
                let hidden = match place.rsplit_once('/') {
                    Some((parent, _)) => format!("{parent}/{hidden}"),
                    None => hidden,
                };
                let entries = [Entry::file(hidden, ""), Entry::symlink(place, target)];
                let image = stage.image_with(Tar::of(entries).end(), Recipe::new())?;
                let mut config = stage.waiting(&image);
                config.tty = terminal;
                let answer = stage.run(&config, |session, container| {
                    let pid = session.cri.pid(container)?;
                    let root = format!("/proc/{pid}/root");
                    let procfs = fs::metadata(format!("{root}/proc/uptime")).is_ok();
                    ensure!(procfs || place == "proc", "{case}: no procfs");
                    Ok(())
                })?;
                is_told(&case, &answer)?;
                stage.remove(&image)?;
                stage.canary.unharmed().context(case)?;
            }
        }
    }
    Ok(())
}

/// A volume that an image declares is filled from the image and from nowhere else.
pub fn volumes(stage: &mut Stage) -> Result<()> {
    let canary = stage.canary.path();
    let links = [
        Entry::symlink("out", &canary),
        Entry::symlink("up", "../../../../../../.."),
        Entry::symlink("root", "/proc/1/root"),
    ];
    let archive = Tar::of(links).end();
    let up = format!("/../../../../../../..{canary}");
    let through = format!("/up{canary}");
    for path in [
        "/out",
        "/up/etc",
        "/root/etc",
        &up,
        &through,
        "/.",
        "/",
        "",
        "//",
    ] {
        let recipe = Recipe::new().volumes(&[path]);
        let image = stage.image_with(archive.clone(), recipe)?;
        let config = stage.waiting(&image);
        let case = format!("volume {path:?}");
        let answer = stage.run(&config, |session, container| {
            let seen = said(
                session,
                container,
                "cat /out/f /etc/shadow 2>/dev/null; true",
            )?;
            ensure!(!seen.contains("untouched"), "{case}: the canary is there");
            ensure!(
                !seen.contains("root:"),
                "{case}: the host's files are there"
            );
            let write = "touch /out/new /etc/new 2>/dev/null; rm -f /etc/new; true";
            said(session, container, write).map(drop)
        })?;
        is_told(&case, &answer)?;
        stage.remove(&image)?;
        stage.canary.unharmed().context(case)?;
    }
    Ok(())
}

/// A program that is the runtime itself, and commands that look for it.
pub fn own_program(stage: &mut Stage) -> Result<()> {
    let script = Entry::file("run", "#!/proc/self/exe\n").mode(0o755);
    let image = stage.image_with(
        Tar::of([script, Entry::symlink("self", "/proc/self/exe")]).end(),
        Recipe::new(),
    )?;
    for program in ["/run", "/self", "/proc/self/exe"] {
        let mut config = stage.waiting(&image);
        config.command = vec![program.to_owned()];
        let answer = stage.run(&config, |_, _| Ok(()))?;
        is_told(program, &answer)?;
    }
    let config = stage.waiting(&image);
    let ran = stage.run(&config, |session, container| {
        for program in ["/run", "/self"] {
            for _ in 0..50 {
                // Whatever becomes of the command, the program on disk is looked at below.
                let _refused = session.cri.exec(container, &[program]);
            }
        }
        let write = "for p in /proc/[0-9]*; do echo x > $p/exe; done 2>/dev/null; true";
        said(session, container, write).map(drop)
    })?;
    ran.context("StartContainer")?;
    stage.remove(&image)?;
    stage.canary.unharmed()
}

/// Neither the first process nor a command in it hands capabilities on through files.
pub fn capabilities(stage: &mut Stage) -> Result<()> {
    let image = stage.image_with(Tar::of([Entry::file("x", "")]).end(), Recipe::new())?;
    for shared in [false, true] {
        let mut config = stage.waiting(&image);
        let mut pod = stage.pod("inheriting");
        if shared {
            // The first process of such a pod is our own.
            pod = stage.session.pod("inheriting");
            let linux = config.linux.get_or_insert_default();
            let security = linux.security_context.get_or_insert_default();
            security.namespace_options = None;
        }
        let looked = stage.run_in(&pod, &config, |session, container| {
            let script = "grep -h CapInh /proc/1/status /proc/self/status";
            let seen = said(session, container, script)?;
            let sets: Vec<&str> = seen.split_whitespace().filter(|w| w.len() == 16).collect();
            ensure!(sets == ["0000000000000000"; 2], "{seen:?}");
            Ok(())
        })?;
        looked.context("StartContainer")?;
    }
    stage.remove(&image)
}

/// Names that runtimes give a meaning to change nothing when an image brings them.
pub fn reserved_names(stage: &mut Stage) -> Result<()> {
    const LABELS: [(&str, &str); 8] = [
        ("io.kubernetes.container.name", "other"),
        ("io.kubernetes.cri-o.Privileged", "true"),
        ("io.containerd.runc.v2.group", "other"),
        ("run.oci.keep_original_groups", "1"),
        ("run.oci.hooks.stderr", "/dev/null"),
        ("org.systemd.property.ExecStartPre", "'/bin/touch /tmp/x'"),
        ("io.podman.annotations.privileged", "TRUE"),
        ("io.berth.privileged", "true"),
    ];
    const VARIABLES: [&str; 5] = [
        "_LIBCONTAINER_INITPIPE=3",
        "LISTEN_FDS=7",
        "NOTIFY_SOCKET=/run/systemd/notify",
        "BERTH_FAULTS=*=kill",
        "LD_PRELOAD=/no/such/library.so",
    ];
    let archive = || Tar::of([Entry::file("x", "")]).end();
    let plain = stage.image_with(archive(), Recipe::new())?;
    let variables = [&["PATH=/usr/bin:/bin"][..], &VARIABLES].concat();
    let loud = {
        let recipe = Recipe::new().labels(&LABELS).layer(stage.session.shell()?);
        let recipe = recipe.layer(super::stage::raw(archive())?).env(&variables);
        let image = recipe.build()?;
        let name = stage.serve(&image, "loud");
        stage.session.cri.pull(&name).context("PullImage")?;
        name
    };
    let mut pictures = Vec::new();
    for image in [&plain, &loud] {
        let config = stage.waiting(image);
        let script = "unset LD_PRELOAD; grep -E 'Cap|Seccomp|NoNewPrivs|Uid|Groups' /proc/1/status; \
            cut -d' ' -f5,6 /proc/1/mountinfo; cat /proc/1/oom_score_adj; ls -l /proc/1/fd | wc -l";
        let mut picture = String::new();
        let looked = stage.run(&config, |session, container| {
            picture = said(session, container, script)?;
            Ok(())
        })?;
        looked.context("StartContainer")?;
        pictures.push(picture);
    }
    ensure!(pictures[0] == pictures[1], "{pictures:#?}");
    stage.remove(&plain)?;
    stage.remove(&loud)
}
