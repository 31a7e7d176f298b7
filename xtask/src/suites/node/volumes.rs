//! Images as volumes, and the volumes that images declare.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use berth_api::cri::v1::{ContainerConfig, ImageSpec, Mount, PodSandboxConfig};
use berth_testkit::image::{Artifact, Layer, Recipe};

use super::inventory::Inventory;
use super::session::Session;
use crate::command::retry;
use crate::suites::fixtures::pack;

const DATA: &str = "node/data";
const DECLARING: &str = "node/declaring";
const MODEL: &str = "node/model";
/// Collection goes on behind the answer.
const SOON: Duration = Duration::from_secs(20);
const WAIT: [&str; 3] = ["sh", "-c", "while :; do sleep 1; done"];

/// Whole, in part, as one file, by two containers, and after the image's removal.
pub fn show_images(session: &mut Session) -> Result<()> {
    let layers = layers(session);
    let lower = Layer::new()
        .file("/v1/weights/a", 0o644, "first\n")
        .file("/v1/gone", 0o644, "")
        .file("/bin/run", 0o755, "#!/bin/sh\n");
    let upper = Layer::new()
        .whiteout("/v1/gone")
        .symlink("/current", "/v1")
        .file("/README", 0o644, "read me\n");
    let image = Recipe::new().layer(pack(&lower)?).layer(pack(&upper)?);
    let image = session.publish(&image.build()?, DATA, "one")?;
    let id = session.cri.pull(&image).context("PullImage")?;

    let before = Inventory::take(session)?;
    let pod_config = session.pod("image-volumes");
    let pod = session.cri.run_pod(&pod_config).context("RunPodSandbox")?;
    let mut config = session.container("first", &WAIT);
    config.mounts = vec![
        mounted(&image, "", "/model"),
        mounted(&id, "current/weights", "/weights"),
        mounted(&id, "README", "/etc/readme"),
    ];
    let first = begin(session, &pod, &pod_config, &config)?;
    config.metadata.get_or_insert_default().name = "second".to_owned();
    let second = begin(session, &pod, &pod_config, &config)?;
    for container in [&first, &second] {
        looks_right(session, container)?;
    }
    reported(session, &first, &id)?;

    session.cri.remove_image(&image).context("RemoveImage")?;
    looks_right(session, &first).context("after the image's removal")?;
    refused(
        session,
        &pod,
        &pod_config,
        mounted(&image, "", "/x"),
        "not present",
    )?;
    session.cri.pull(&image).context("PullImage")?;
    let nowhere = mounted(&image, "v1/gone", "/x");
    refused(session, &pod, &pod_config, nowhere, "v1/gone")?;
    let outside = mounted(&image, "../escape", "/x");
    refused(session, &pod, &pod_config, outside, "relative path")?;

    session.kill_daemon()?;
    session.start_daemon()?;
    session.cri.remove_image(&image).context("RemoveImage")?;
    looks_right(session, &second).context("with a new daemon")?;
    session.tear_down(&pod, &first)?;
    before.restored(session)?;
    left(session, &layers)
}

/// Unpacked layers on disk.
fn layers(session: &Session) -> BTreeSet<OsString> {
    let directory = session.place.root().join("snapshots/layers");
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).collect()
}

/// Waits until an image that was removed while it was mounted is off the disk.
fn left(session: &Session, before: &BTreeSet<OsString>) -> Result<()> {
    retry(SOON, || {
        let now = layers(session);
        let more: Vec<_> = now.difference(before).collect();
        ensure!(more.is_empty(), "layers are left: {more:?}");
        Ok(())
    })
}

fn looks_right(session: &mut Session, container: &str) -> Result<()> {
    let script = "cat /model/README /model/v1/weights/a /weights/a /etc/readme; ls /model/v1; \
        touch /model/new 2>/dev/null && echo writable; \
        /model/bin/run 2>/dev/null && echo executable; true";
    said(
        session,
        container,
        script,
        "read me\nfirst\nfirst\nread me\nweights\n",
    )
}

fn reported(session: &mut Session, container: &str, id: &str) -> Result<()> {
    let status = session.cri.status(container).context("ContainerStatus")?;
    for (path, sub_path) in [("/model", ""), ("/weights", "current/weights")] {
        let mount = status.mounts.iter().find(|m| m.container_path == path);
        let mount = mount.with_context(|| format!("no mount at {path} in the status"))?;
        let image = mount.image.clone().unwrap_or_default();
        ensure!(
            image.image == id && image.image_ref == id && mount.image_sub_path == sub_path,
            "the status says {mount:?}"
        );
    }
    Ok(())
}

/// As kubelets count it, with nothing left behind.
fn refused(
    session: &mut Session,
    pod: &str,
    pod_config: &PodSandboxConfig,
    mount: Mount,
    why: &str,
) -> Result<()> {
    let before = Inventory::take(session)?;
    let mut config = session.container("refused", &WAIT);
    config.mounts = vec![mount];
    let Err(status) = session.cri.create(pod, pod_config, &config) else {
        anyhow::bail!("a mount was taken that cannot work: {:?}", config.mounts);
    };
    let message = status.message();
    ensure!(
        message.starts_with("ImageVolumeMountFailed") && message.contains(why),
        "refused with {message:?}"
    );
    before.restored(session)
}

/// Files by their titles, as an image is mounted; nothing that could be run.
pub fn show_artifacts(session: &mut Session) -> Result<()> {
    let layers = layers(session);
    let artifact = Artifact::new("application/vnd.example.model")
        .file("weights/model.bin", "weights\n")
        .file("card.md", "card\n");
    let artifact = artifact.build()?;
    let digest = artifact.manifest_digest.to_string();
    let name = session.publish(&artifact, MODEL, "one")?;
    let id = session.cri.pull(&name).context("PullImage")?;
    ensure!(id == digest, "{id} instead of {digest}");
    let listed = session.cri.images().context("ListImages")?;
    let listed = listed.iter().find(|image| image.id == id);
    let listed = listed.context("the artifact is not listed")?;
    ensure!(listed.repo_tags == [name.clone()], "listed as {listed:?}");

    let before = Inventory::take(session)?;
    let pod_config = session.pod("artifacts");
    let pod = session.cri.run_pod(&pod_config).context("RunPodSandbox")?;
    let mut config = session.container("main", &WAIT);
    config.mounts = vec![
        mounted(&id, "", "/model"),
        mounted(&name, "weights/model.bin", "/model.bin"),
    ];
    let container = begin(session, &pod, &pod_config, &config)?;
    session.cri.remove_image(&id).context("RemoveImage")?;
    let look = "find /model -type f | sort; cat /model/card.md /model.bin; \
        touch /model/new 2>/dev/null || echo read-only";
    let expected = "/model/card.md\n/model/weights/model.bin\ncard\nweights\nread-only\n";
    said(session, &container, look, expected)?;
    session.cri.pull(&name).context("PullImage")?;
    let mut run = session.container("run", &WAIT);
    run.image = Some(crate::cri::image(&name));
    let refused = session.cri.create(&pod, &pod_config, &run);
    let status = refused.err().context("an artifact was run")?;
    ensure!(status.message().contains("artifact"), "{status}");
    session.cri.remove_image(&id).context("RemoveImage")?;
    session.tear_down(&pod, &container)?;
    before.restored(session)?;
    left(session, &layers)
}

/// Filled from the image, fresh for each container, out of the way of a mount, gone in the end.
pub fn declared_by_images(session: &mut Session) -> Result<()> {
    let content = Layer::new()
        .directory("/srv/data", 0o1770)
        .owned("/srv/data", 33, 33)
        .file("/srv/data/seed", 0o640, "seed\n")
        .owned("/srv/data/seed", 33, 34)
        .symlink("/escape", "../../../../etc")
        .file(
            "/etc/passwd",
            0o644,
            "root:x:0:0::/:/bin/sh\nwww-data:x:33:33::/:/bin/sh\n",
        );
    let image = Recipe::new()
        .layer(session.shell()?)
        .layer(pack(&content)?)
        .env(&["PATH=/usr/bin:/bin"])
        .volumes(&["/srv/data", "/escape", "/var/empty/", "/proc/self"]);
    let image = session.publish(&image.build()?, DECLARING, "one")?;
    session.cri.pull(&image).context("PullImage")?;

    let before = Inventory::take(session)?;
    let pod_config = session.pod("declared");
    let pod = session.cri.run_pod(&pod_config).context("RunPodSandbox")?;
    let declaring = |session: &Session, name: &str| {
        let mut config = session.container(name, &WAIT);
        config.image = Some(crate::cri::image(&image));
        config
    };
    let config = declaring(session, "first");
    let first = begin(session, &pod, &pod_config, &config)?;
    let look = "stat -c '%n %a %u:%g' /srv/data /srv/data/seed; cat /srv/data/seed; \
        ls /var/empty; cat /escape/marker 2>/dev/null; grep -c ' /srv/data ' /proc/self/mountinfo";
    let fresh = "/srv/data 1770 33:33\n/srv/data/seed 640 33:34\nseed\n1\n";
    said(session, &first, look, fresh)?;
    said(session, &first, "echo changed >/srv/data/seed", "")?;

    let config = declaring(session, "second");
    let second = begin(session, &pod, &pod_config, &config)?;
    said(session, &second, look, fresh).context("the second container")?;

    let host = session.place.scratch().join("instead");
    fs::create_dir_all(&host).context("creating a volume")?;
    fs::write(host.join("mine"), "mine\n").context("filling a volume")?;
    let mut config = declaring(session, "third");
    config.mounts = vec![Mount {
        container_path: "/srv/data/".to_owned(),
        host_path: host.display().to_string(),
        ..Default::default()
    }];
    let third = begin(session, &pod, &pod_config, &config)?;
    said(session, &third, "ls /srv/data", "mine\n")?;

    session.tear_down(&pod, &first)?;
    before.restored(session)?;
    session.cri.remove_image(&image).context("RemoveImage")?;
    Ok(())
}

fn mounted(image: &str, sub_path: &str, path: &str) -> Mount {
    Mount {
        container_path: path.to_owned(),
        image: Some(ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
        image_sub_path: sub_path.to_owned(),
        ..Default::default()
    }
}

pub fn begin(
    session: &mut Session,
    pod: &str,
    pod_config: &PodSandboxConfig,
    config: &ContainerConfig,
) -> Result<String> {
    let container = session
        .cri
        .create(pod, pod_config, config)
        .context("CreateContainer")?;
    session.cri.start(&container).context("StartContainer")?;
    Ok(container)
}

pub fn said(session: &mut Session, container: &str, script: &str, expected: &str) -> Result<()> {
    let said = session
        .cri
        .exec(container, &["sh", "-c", script])
        .context("ExecSync")?;
    let out = String::from_utf8_lossy(&said.stdout);
    let err = String::from_utf8_lossy(&said.stderr);
    ensure!(
        out == expected,
        "the container said {out:?} instead of {expected:?} ({err})"
    );
    Ok(())
}
