//! Devices by path and by name, and mounts of the host.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use berth_api::cri::v1::{CdiDevice, ContainerConfig, Device, Mount, MountPropagation};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use tonic::Code;

use super::inventory::Inventory;
use super::session::Session;
use super::volumes::{begin, said};

const WAIT: [&str; 3] = ["sh", "-c", "while :; do sleep 1; done"];
/// A character and a block device that no container may use by itself.
const CHARACTER: &str = "/dev/loop-control";
const BLOCK: &str = "/dev/loop0";

const CARD: &str = "\
cdiVersion: 0.7.0
kind: vendor.example/card
containerEdits:
  env: [CARDS=yes]
devices:
- name: zero
  containerEdits:
    env: [CARD=zero]
    additionalGids: [4242]
    deviceNodes:
    - {path: /dev/card0, hostPath: /dev/loop-control, permissions: r}
    mounts:
    - {hostPath: LIBRARY, containerPath: /usr/lib/card, options: [ro]}
- name: one
  containerEdits: {env: [CARD_ONE=yes]}
";

/// By the request's field and by annotation; what cannot be resolved is named.
pub fn by_name(session: &mut Session) -> Result<()> {
    let before = Inventory::take(session)?;
    let library = session.place.scratch().join("library");
    fs::create_dir_all(&library).context("creating a library")?;
    fs::write(library.join("driver"), "driver\n").context("writing a driver")?;
    let pod_config = session.pod("cdi");
    let pod = session.cri.run_pod(&pod_config).context("RunPodSandbox")?;
    let mut config = session.container("main", &WAIT);
    config.cdi_devices = vec![CdiDevice {
        name: "vendor.example/card=zero".to_owned(),
    }];
    let refusal = |session: &mut Session, config: &ContainerConfig| {
        let refused = session.cri.create(&pod, &pod_config, config);
        refused.err().context("it was taken")
    };
    let status = refusal(session, &config).context("a device that nobody describes")?;
    ensure!(
        status.code() == Code::FailedPrecondition && status.message().contains("card=zero"),
        "{status}"
    );

    let file = session.place.cdi().join("card.yaml");
    let described = CARD.replace("LIBRARY", &library.display().to_string());
    fs::write(&file, &described).context("describing a card")?;
    config.annotations.insert(
        "cdi.k8s.io/plugin_card".to_owned(),
        "vendor.example/card=one,vendor.example/card=zero".to_owned(),
    );
    let container = begin(session, &pod, &pod_config, &config)?;
    let look = "echo $CARDS $CARD $CARD_ONE; cat /usr/lib/card/driver; id -G; \
        (: </dev/card0) && echo readable; (: >/dev/card0) 2>/dev/null || echo 'not writable'";
    said(
        session,
        &container,
        look,
        "yes zero yes\ndriver\n0 4242\nreadable\nnot writable\n",
    )?;
    let user = session
        .cri
        .status(&container)
        .context("ContainerStatus")?
        .user;
    let groups = user.and_then(|user| user.linux).unwrap_or_default();
    ensure!(groups.supplemental_groups.contains(&4242), "{groups:?}");

    let twin = session.place.cdi().join("twin.yaml");
    fs::write(&twin, &described).context("describing the card again")?;
    config.metadata.get_or_insert_default().name = "second".to_owned();
    let status = refusal(session, &config).context("a device that two files describe")?;
    let message = status.message();
    ensure!(
        message.contains("card.yaml") && message.contains("twin.yaml"),
        "{message}"
    );
    config.cdi_devices = vec![CdiDevice {
        name: "no name".to_owned(),
    }];
    let status = refusal(session, &config).context("a name that is none")?;
    ensure!(status.code() == Code::InvalidArgument, "{status}");
    for file in [file, twin] {
        fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
    }
    session.tear_down(&pod, &container)?;
    before.restored(session)
}

/// A container does with a device what it was given it for, and nothing with any other.
pub fn by_path(session: &mut Session) -> Result<()> {
    let before = Inventory::take(session)?;
    let pod_config = session.pod("devices");
    let pod = session.cri.run_pod(&pod_config).context("RunPodSandbox")?;
    // Directories of devices lie below /dev. What is in this one is only looked at.
    let directory = tempfile::Builder::new()
        .prefix("bt-")
        .tempdir_in("/dev/shm")
        .context("creating a directory of devices")?;
    let directory = directory.path();
    fs::create_dir(directory.join("deep")).context("creating a directory of devices")?;
    rustix::fs::mknodat(
        rustix::fs::CWD,
        directory.join("deep/card7"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o660),
        rustix::fs::makedev(1, 7),
    )
    .context("making a device")?;
    let device = |host: &str, container: &str, permissions: &str| Device {
        container_path: container.to_owned(),
        host_path: host.to_owned(),
        permissions: permissions.to_owned(),
    };
    let mut config = session.container("main", &WAIT);
    config.devices = vec![
        device(CHARACTER, "/dev/char", "r"),
        device(BLOCK, "/dev/disks/block", "r"),
        device(&directory.display().to_string(), "/dev/cards", "rw"),
    ];
    let container = begin(session, &pod, &pod_config, &config)?;
    let look = "for d in /dev/char /dev/disks/block; do \
        (: <$d) && echo readable; (: >$d) 2>/dev/null || echo 'not writable'; done; \
        test -c /dev/char -a -b /dev/disks/block -a -c /dev/cards/deep/card7 && echo nodes; \
        mknod /tmp/own b 7 1 && echo made; (: </tmp/own) 2>/dev/null || echo 'of no use'";
    let expected = "readable\nnot writable\nreadable\nnot writable\nnodes\nmade\nof no use\n";
    said(session, &container, look, expected)?;
    for (bad, why) in [
        (device("/etc/passwd", "/dev/x", "r"), "not a device"),
        (device("/dev/no-such", "/dev/x", "r"), "no-such"),
        (device(CHARACTER, "dev/x", "r"), "absolute"),
        (device(CHARACTER, "/dev/x", "rx"), "'x'"),
    ] {
        let mut config = session.container("bad", &WAIT);
        config.devices = vec![bad];
        let refused = session.cri.create(&pod, &pod_config, &config);
        let status = refused.err().context("it was taken")?;
        ensure!(
            status.code() == Code::InvalidArgument && status.message().contains(why),
            "{status}"
        );
    }
    session.tear_down(&pod, &container)?;
    before.restored(session)
}

/// Missing directories are made, links followed, files mounted below /dev; what could never
/// propagate is refused.
pub fn host_paths(session: &mut Session) -> Result<()> {
    let before = Inventory::take(session)?;
    let base = session.place.scratch().join("host-paths");
    let private = base.join("private");
    fs::create_dir_all(&private).context("creating directories")?;
    fs::write(base.join("file"), "file\n").context("writing a file")?;
    symlink("file", base.join("link")).context("linking")?;
    symlink("nowhere", base.join("dead")).context("linking")?;
    let pod_config = session.pod("host-paths");
    let pod = session.cri.run_pod(&pod_config).context("RunPodSandbox")?;
    let mount = |host: &Path, container: &str| Mount {
        container_path: container.to_owned(),
        host_path: host.display().to_string(),
        ..Default::default()
    };
    let mut config = session.container("main", &WAIT);
    let mut readonly = mount(&base.join("new/deep"), "/made");
    readonly.readonly = true;
    config.mounts = vec![
        mount(&base.join("link"), "/dev/termination-log"),
        readonly,
        mount(&base, "/data"),
    ];
    let container = begin(session, &pod, &pod_config, &config)?;
    ensure!(base.join("new/deep").is_dir(), "the directory was not made");
    let look = "cat /dev/termination-log; echo ended >/dev/termination-log; \
        touch /made/x 2>/dev/null || echo 'read-only'; touch /data/new/deep/written";
    said(session, &container, look, "file\nread-only\n")?;
    let written = fs::read_to_string(base.join("file")).context("reading back")?;
    ensure!(written == "ended\n", "the host sees {written:?}");

    mount_bind(&private, &private).context("mounting")?;
    let refused = (|| {
        mount_change(&private, MountPropagationFlags::PRIVATE).context("making it private")?;
        let mut cases = vec![(mount(&base.join("dead"), "/x"), "link to nothing")];
        for (propagation, why) in [
            (MountPropagation::PropagationBidirectional, "BIDIRECTIONAL"),
            (
                MountPropagation::PropagationHostToContainer,
                "HOST_TO_CONTAINER",
            ),
        ] {
            let mut mount = mount(&private, "/x");
            mount.propagation = propagation as i32;
            cases.push((mount, why));
        }
        for (bad, why) in cases {
            let mut config = session.container("bad", &WAIT);
            config.mounts = vec![bad];
            let refused = session.cri.create(&pod, &pod_config, &config);
            let status = refused
                .err()
                .with_context(|| format!("{why}: it was taken"))?;
            ensure!(
                status.code() == Code::InvalidArgument && status.message().contains(why),
                "{status}"
            );
        }
        anyhow::Ok(())
    })();
    unmount(&private, UnmountFlags::DETACH).context("unmounting")?;
    refused?;
    session.tear_down(&pod, &container)?;
    before.restored(session)
}
