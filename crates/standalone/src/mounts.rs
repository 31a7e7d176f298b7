//! From the ways in which a request names mounts to what is mounted.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use berth_lifecycle::request::{MountRequest, Propagation};
use serde_json::Value;

use crate::config::{Config, HostConfig, Mount};
use crate::error::{Error, Result};
use crate::local;
use crate::record::MountPoint;
use crate::volumes::{VolumeDraft, Volumes, made_up_name};

/// A mount whose source is not made yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Planned {
    pub point: MountPoint,
    /// What the image has there is copied into a new volume.
    pub copy: bool,
    /// Where the source is missing, make a directory.
    pub create: bool,
    pub volume: Option<PlannedVolume>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PlannedVolume {
    pub driver: String,
    pub labels: BTreeMap<String, String>,
    pub options: BTreeMap<String, String>,
}

/// Every mount that the request and the image ask for; `inherited` are those of other containers.
/// What the request names wins over what the image declares at the same place.
pub(crate) fn plan<'a>(
    config: &'a Config,
    host: &HostConfig,
    declared: impl Iterator<Item = &'a str>,
    inherited: Vec<MountPoint>,
) -> Result<Vec<Planned>> {
    let mut all: Vec<Planned> = Vec::new();
    for bind in &host.binds {
        add(&mut all, by_driver(parse_bind(bind)?, &host.volume_driver))?;
    }
    for mount in &host.mounts {
        add(&mut all, of_mount(mount)?)?;
    }
    for (target, options) in &host.tmpfs {
        add(&mut all, tmpfs(target, options)?)?;
    }
    for point in inherited {
        if !has(&all, &point.destination) {
            all.push(simple(point));
        }
    }
    let declared = declared.chain(config.volumes.keys().map(String::as_str));
    for target in declared {
        let target = destination(target)?;
        if !has(&all, &target) {
            all.push(by_driver(anonymous(target), &host.volume_driver));
        }
    }
    Ok(all)
}

fn by_driver(mut planned: Planned, driver: &str) -> Planned {
    if let Some(volume) = &mut planned.volume {
        driver.clone_into(&mut volume.driver);
    }
    planned
}

fn has(all: &[Planned], destination: &str) -> bool {
    all.iter()
        .any(|planned| planned.point.destination == destination)
}

fn add(all: &mut Vec<Planned>, planned: Planned) -> Result<()> {
    let destination = &planned.point.destination;
    if has(all, destination) {
        return Err(Error::invalid(format!(
            "Duplicate mount point: {destination}"
        )));
    }
    all.push(planned);
    Ok(())
}

/// Absolute and without `.` and `..`.
fn destination(target: &str) -> Result<String> {
    let bad = |why: &str| {
        let text = format!("invalid mount config: mount path {target:?} {why}");
        Err(Error::invalid(text))
    };
    if !target.starts_with('/') {
        return bad("must be absolute");
    }
    let mut clean = PathBuf::from("/");
    for part in Path::new(target).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if clean == Path::new("/") {
        return bad("must not be the root of the container");
    }
    Ok(clean.to_string_lossy().into_owned())
}

fn simple(point: MountPoint) -> Planned {
    Planned {
        point,
        copy: false,
        create: false,
        volume: None,
    }
}

fn anonymous(destination: String) -> Planned {
    let point = MountPoint {
        r#type: "volume".to_owned(),
        destination,
        driver: "local".to_owned(),
        rw: true,
        anonymous: true,
        ..MountPoint::default()
    };
    Planned {
        copy: true,
        volume: Some(PlannedVolume::default()),
        ..simple(point)
    }
}

/// `source:target[:modes]`, or a target alone.
fn parse_bind(text: &str) -> Result<Planned> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, modes) = match parts.as_slice() {
        [target] => return destination(target).map(anonymous),
        [source, target] => (*source, *target, ""),
        [source, target, modes] => (*source, *target, *modes),
        _ => {
            return Err(Error::invalid(format!(
                "invalid volume specification: '{text}'"
            )));
        }
    };
    let mut point = MountPoint {
        destination: destination(target)?,
        mode: modes.to_owned(),
        rw: true,
        ..MountPoint::default()
    };
    let mut copy = true;
    for mode in modes.split(',').filter(|mode| !mode.is_empty()) {
        match mode {
            "ro" => point.rw = false,
            "nocopy" => copy = false,
            "rw" | "z" | "Z" | "consistent" | "cached" | "delegated" | "volume-nocopy" => {}
            mode if propagation(mode).is_some() => point.propagation = mode.to_owned(),
            _ => return Err(Error::invalid(format!("invalid mode: {mode}"))),
        }
    }
    if source.starts_with('/') {
        point.r#type = "bind".to_owned();
        point.source = source.to_owned();
        if point.propagation.is_empty() {
            point.propagation = "rprivate".to_owned();
        }
        return Ok(simple(point));
    }
    point.r#type = "volume".to_owned();
    point.driver = "local".to_owned();
    point.name = source.to_owned();
    Ok(Planned {
        copy,
        volume: Some(PlannedVolume::default()),
        ..simple(point)
    })
}

fn of_mount(mount: &Mount) -> Result<Planned> {
    let target = destination(&mount.target)?;
    let option = |group: &str, key: &str| mount.rest.get(group).and_then(|group| group.get(key));
    let is = |group, key| option(group, key).and_then(Value::as_bool).unwrap_or(false);
    let point = MountPoint {
        r#type: mount.r#type.clone(),
        destination: target,
        rw: !mount.read_only,
        ..MountPoint::default()
    };
    match mount.r#type.as_str() {
        "bind" if mount.source.starts_with('/') => {
            let asked = option("BindOptions", "Propagation").and_then(Value::as_str);
            let propagation = asked
                .filter(|asked| !asked.is_empty())
                .unwrap_or("rprivate");
            Ok(Planned {
                create: is("BindOptions", "CreateMountpoint"),
                ..simple(MountPoint {
                    source: mount.source.clone(),
                    propagation: propagation.to_owned(),
                    ..point
                })
            })
        }
        "bind" => Err(Error::invalid(format!(
            "invalid mount config for type \"bind\": invalid mount path: '{}' mount path must be \
             absolute",
            mount.source
        ))),
        "volume" => {
            let sub_path = option("VolumeOptions", "Subpath").and_then(Value::as_str);
            let sub_path = sub_path.unwrap_or_default();
            check_sub_path(sub_path)?;
            let driver = option("VolumeOptions", "DriverConfig")
                .cloned()
                .unwrap_or_default();
            let texts = |value: Option<&Value>| {
                let read = value.map(|value| serde_json::from_value(value.clone()));
                read.and_then(Result::ok).unwrap_or_default()
            };
            Ok(Planned {
                // A part has to be there before.
                copy: !is("VolumeOptions", "NoCopy") && sub_path.is_empty(),
                volume: Some(PlannedVolume {
                    driver: driver
                        .get("Name")
                        .and_then(Value::as_str)
                        .unwrap_or_default()
                        .to_owned(),
                    labels: texts(option("VolumeOptions", "Labels")),
                    options: texts(driver.get("Options")),
                }),
                ..simple(MountPoint {
                    name: mount.source.clone(),
                    anonymous: mount.source.is_empty(),
                    driver: "local".to_owned(),
                    sub_path: sub_path.to_owned(),
                    ..point
                })
            })
        }
        "tmpfs" => {
            let mut options: Vec<String> = Vec::new();
            if let Some(size) = option("TmpfsOptions", "SizeBytes").and_then(Value::as_u64) {
                options.push(format!("size={size}"));
            }
            if let Some(mode) = option("TmpfsOptions", "Mode").and_then(Value::as_u64) {
                options.push(format!("mode={mode:o}"));
            }
            // Each is a word, or a key and a value.
            let more = option("TmpfsOptions", "Options").and_then(Value::as_array);
            for words in more.into_iter().flatten().filter_map(Value::as_array) {
                let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
                options.push(words.join("="));
            }
            if mount.read_only {
                options.push("ro".to_owned());
            }
            tmpfs(&mount.target, &options.join(","))
        }
        other => Err(Error::invalid(format!("mount type unknown: {other:?}"))),
    }
}

fn check_sub_path(path: &str) -> Result<()> {
    let inside = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    match Path::new(path).components().all(inside) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "invalid volume subpath {path:?}: subpath must be a relative path within the volume"
        ))),
    }
}

fn tmpfs(target: &str, options: &str) -> Result<Planned> {
    let options: Vec<String> = options
        .split(',')
        .filter(|option| !option.is_empty())
        .map(str::to_owned)
        .collect();
    if let Some(unknown) = options.iter().find(|option| !is_of_tmpfs(option)) {
        return Err(Error::invalid(format!("invalid tmpfs option {unknown:?}")));
    }
    let mut all = options.clone();
    if !options
        .iter()
        .any(|option| option == "exec" || option == "noexec")
    {
        all.push("noexec".to_owned());
    }
    all.retain(|option| !["exec", "rw", "defaults"].contains(&option.as_str()));
    Ok(simple(MountPoint {
        r#type: "tmpfs".to_owned(),
        destination: destination(target)?,
        rw: !options.iter().any(|option| option == "ro"),
        options: all,
        ..MountPoint::default()
    }))
}

/// What mount(8) knows for every filesystem, and tmpfs(5) for its own.
fn is_of_tmpfs(option: &str) -> bool {
    const FLAGS: [&str; 22] = [
        "ro",
        "rw",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "exec",
        "noexec",
        "sync",
        "async",
        "dirsync",
        "mand",
        "nomand",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "defaults",
    ];
    const KEYS: [&str; 7] = [
        "size",
        "mode",
        "uid",
        "gid",
        "nr_inodes",
        "nr_blocks",
        "mpol",
    ];
    match option.split_once('=') {
        None => FLAGS.contains(&option),
        Some((key, value)) => KEYS.contains(&key) && !value.is_empty(),
    }
}

fn propagation(name: &str) -> Option<Propagation> {
    match name {
        "" | "private" | "rprivate" => Some(Propagation::Private),
        "slave" | "rslave" => Some(Propagation::HostToContainer),
        "shared" | "rshared" => Some(Propagation::Bidirectional),
        _ => None,
    }
}

/// Decides what volumes are called that nobody named.
pub(crate) fn name_anonymous(planned: &mut [Planned]) {
    for planned in planned {
        let point = &mut planned.point;
        if planned.volume.is_some() && point.name.is_empty() {
            point.name = made_up_name();
        }
    }
}

/// Makes the volumes, and says for each mount whether what the image has is to be copied into it.
pub(crate) async fn settle(
    volumes: &Volumes,
    planned: Vec<Planned>,
) -> Result<Vec<(MountPoint, bool)>> {
    let mut points = Vec::with_capacity(planned.len());
    for Planned {
        mut point,
        copy,
        create,
        volume,
    } in planned
    {
        if point.r#type == "bind" {
            source_is_there(&point.source, create)?;
        }
        let mut copies = false;
        if let Some(volume) = volume {
            let draft = VolumeDraft {
                name: point.name.clone(),
                driver: volume.driver,
                labels: volume.labels,
                options: volume.options,
                anonymous: point.anonymous,
            };
            let (volume, _) = volumes.create(draft).await?;
            copies = copy
                && match volume.is_plugged() {
                    true => true,
                    // Another filesystem comes over it: what is copied would be under that.
                    false => volume.options.is_empty() && is_empty(&volume.mountpoint),
                };
            // A mount of one that is written to would lift that.
            point.rw &= volume.is_plugged() || !local::is_read_only(&volume.options);
            point.name.clone_from(&volume.name);
            point.driver.clone_from(&volume.driver);
            point.source = volume.mountpoint.display().to_string();
        }
        points.push((point, copies));
    }
    Ok(points)
}

pub(crate) fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

/// A directory that appears where a typing error pointed to helps nobody: it is made only where the
/// request says so.
fn source_is_there(source: &str, create: bool) -> Result<()> {
    match std::fs::symlink_metadata(source) {
        Ok(_) => Ok(()),
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound && create => {
            std::fs::create_dir_all(source).map_err(Error::file("create", Path::new(source)))
        }
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => {
            Err(Error::invalid(format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {source}"
            )))
        }
        Err(error) => Err(Error::file("look at", Path::new(source))(error)),
    }
}

/// What the core mounts for a run.
pub(crate) fn requests(points: &[MountPoint]) -> Vec<MountRequest> {
    let request = |point: &MountPoint| MountRequest {
        container_path: point.destination.clone(),
        host_path: point.source.clone(),
        readonly: !point.rw,
        sub_path: point.sub_path.clone(),
        propagation: propagation(&point.propagation).unwrap_or_default(),
        tmpfs: (point.r#type == "tmpfs").then(|| point.options.clone()),
        ..MountRequest::default()
    };
    points.iter().map(request).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(binds: &[&str], declared: &[&str]) -> Result<Vec<Planned>> {
        let host = HostConfig {
            binds: binds.iter().map(|&bind| bind.to_owned()).collect(),
            ..HostConfig::default()
        };
        plan(
            &Config::default(),
            &host,
            declared.iter().copied(),
            Vec::new(),
        )
    }

    #[test]
    fn a_bind_is_a_path_and_a_volume_a_name() {
        let found = planned(&["/a:/b:ro", "data:/c", "/d"], &[]).unwrap();
        let kinds: Vec<_> = found
            .iter()
            .map(|planned| {
                (
                    planned.point.r#type.as_str(),
                    planned.point.rw,
                    planned.point.anonymous,
                )
            })
            .collect();
        assert_eq!(
            kinds,
            [
                ("bind", false, false),
                ("volume", true, false),
                ("volume", true, true)
            ]
        );
    }

    #[test]
    fn a_volume_of_the_image_gives_way_to_a_mount_at_its_place() {
        let found = planned(&["/a:/data/"], &["/data", "/more"]).unwrap();
        let places: Vec<_> = found
            .iter()
            .map(|planned| planned.point.destination.as_str())
            .collect();
        assert_eq!(places, ["/data", "/more"]);
        assert_eq!(found[0].point.r#type, "bind");
    }

    #[test]
    fn mounts_that_cannot_be_are_refused() {
        for bind in [
            "/a:b",
            "/a:/",
            "/a:/b:what",
            "a:b:c:d",
            "/a:/b/..",
            "data:/x/../..",
        ] {
            assert!(planned(&[bind], &[]).is_err(), "{bind}");
        }
        assert!(planned(&["/a:/x", "/b:/x/."], &[]).is_err());
    }

    #[test]
    fn a_tmpfs_takes_its_own_options_and_no_others() {
        let options = |text: &str| tmpfs("/t", text).map(|planned| planned.point.options.join(","));
        assert_eq!(options("").unwrap(), "noexec");
        assert_eq!(options("rw,exec,size=1m,uid=5").unwrap(), "size=1m,uid=5");
        assert_eq!(
            options("dev,nr_inodes=9").unwrap(),
            "dev,nr_inodes=9,noexec"
        );
        assert!(!tmpfs("/t", "ro").unwrap().point.rw);
        for bad in ["size", "size=", "lowerdir=/", "what"] {
            assert!(options(bad).is_err(), "{bad}");
        }
        let mount: Mount = serde_json::from_value(serde_json::json!({
            "Type": "tmpfs", "Target": "/t", "TmpfsOptions": {
                "SizeBytes": 5, "Mode": 448, "Options": [["exec"], ["uid", "7"]]},
        }))
        .unwrap();
        let point = of_mount(&mount).unwrap().point;
        assert_eq!(point.options, ["size=5", "mode=700", "uid=7"]);
    }

    #[test]
    fn a_part_of_a_volume_is_inside_of_it() {
        let mount = |path: &str| {
            let mount: Mount = serde_json::from_value(serde_json::json!({
                "Type": "volume", "Source": "data", "Target": "/d",
                "VolumeOptions": {"Subpath": path},
            }))
            .unwrap();
            of_mount(&mount)
        };
        let planned = mount("a/b").unwrap();
        assert_eq!(planned.point.sub_path, "a/b");
        assert!(!planned.copy && mount("").unwrap().copy);
        for outside in ["/etc", "../x", "a/../../b"] {
            assert!(mount(outside).is_err(), "{outside}");
        }
    }

    #[test]
    fn a_missing_source_is_an_error_unless_it_is_to_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("a").display().to_string();
        assert!(source_is_there(&missing, false).is_err());
        assert!(!dir.path().join("a").exists());
        assert!(source_is_there(&missing, true).is_ok());
        assert!(dir.path().join("a").is_dir());
    }
}
