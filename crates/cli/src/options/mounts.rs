//! `--volume`, `--mount` and `--tmpfs`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::environment::pairs;
use crate::error::{Error, Result};
use crate::output::bytes_of;

/// `Binds`, `Volumes` (those without a name) and `Mounts`.
#[derive(Debug, Default)]
pub struct Mounts {
    pub binds: Vec<String>,
    pub volumes: Map<String, Value>,
    pub mounts: Vec<Value>,
}

pub fn mounts(volumes: &[String], mounts: &[String]) -> Result<Mounts> {
    let mut found = Mounts::default();
    for text in volumes {
        match text.split(':').collect::<Vec<_>>().as_slice() {
            [target] if target.starts_with('/') => {
                found.volumes.insert((*target).to_owned(), json!({}));
            }
            [source, target] if target.starts_with('/') && !source.is_empty() => {
                found.binds.push(format!("{}:{target}", absolute(source)?));
            }
            [source, target, options] if target.starts_with('/') && !source.is_empty() => {
                let source = absolute(source)?;
                found.binds.push(format!("{source}:{target}:{options}"));
            }
            _ => {
                return Err(Error::usage(format!(
                    "{text:?} is no volume: write /on/host:/in/container, name:/in/container:ro, \
                     or /in/container"
                )));
            }
        }
    }
    for text in mounts {
        found.mounts.push(mount(text)?);
    }
    Ok(found)
}

/// What is a path and not the name of a volume is made one from the root.
pub fn absolute(source: &str) -> Result<String> {
    let is_path = source.starts_with('.') || source.contains('/');
    if !is_path || source.starts_with('/') {
        return Ok(source.to_owned());
    }
    let here = std::env::current_dir().map_err(Error::file("finding", "."))?;
    let mut whole = here;
    for part in Path::new(source).components() {
        match part {
            std::path::Component::ParentDir => {
                whole.pop();
            }
            std::path::Component::Normal(name) => whole.push(name),
            _ => {}
        }
    }
    Ok(whole.display().to_string())
}

/// `type=bind,source=/a,target=/b,readonly`
fn mount(text: &str) -> Result<Value> {
    let bad = |why: String| {
        Error::usage(format!(
            "{text:?} is no mount: {why}; write type=bind,source=/on/host,target=/in/container"
        ))
    };
    let mut mount = Map::new();
    let mut options: Map<String, Value> = Map::new();
    let mut kind = "volume".to_owned();
    let (mut labels, mut driver, mut driver_options) = (Vec::new(), String::new(), Vec::new());
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        let is_set = matches!(value, "" | "true" | "1");
        match key.to_lowercase().as_str() {
            "type" => kind = value.to_lowercase(),
            "source" | "src" => {
                mount.insert("Source".into(), value.into());
            }
            "target" | "destination" | "dst" => {
                mount.insert("Target".into(), value.into());
            }
            "readonly" | "ro" => {
                mount.insert("ReadOnly".into(), is_set.into());
            }
            "consistency" => {}
            "bind-propagation" => {
                options.insert("Propagation".into(), value.into());
            }
            "bind-nonrecursive" => {
                options.insert("NonRecursive".into(), is_set.into());
            }
            "bind-create-src" => {
                options.insert("CreateMountpoint".into(), is_set.into());
            }
            "volume-nocopy" => {
                options.insert("NoCopy".into(), is_set.into());
            }
            "volume-subpath" | "image-subpath" => {
                options.insert("Subpath".into(), value.into());
            }
            "volume-label" => labels.push(value.to_owned()),
            "volume-driver" => value.clone_into(&mut driver),
            "volume-opt" => driver_options.push(value.to_owned()),
            "tmpfs-size" => {
                options.insert("SizeBytes".into(), bytes_of(value)?.into());
            }
            "tmpfs-mode" => {
                let mode = i64::from_str_radix(value, 8);
                let mode = mode.map_err(|_| bad(format!("{value:?} is no octal mode")))?;
                options.insert("Mode".into(), mode.into());
            }
            other => return Err(bad(format!("{other:?} is not known"))),
        }
    }
    if !labels.is_empty() {
        options.insert("Labels".into(), Value::Object(pairs(&labels)));
    }
    if !driver.is_empty() || !driver_options.is_empty() {
        let config = json!({"Name": driver, "Options": pairs(&driver_options)});
        options.insert("DriverConfig".into(), config);
    }
    if mount.get("Target").is_none_or(|target| target == "") {
        return Err(bad("it has no target".to_owned()));
    }
    let own = match kind.as_str() {
        "bind" => "BindOptions",
        "volume" => "VolumeOptions",
        "tmpfs" => "TmpfsOptions",
        "image" => "ImageOptions",
        other => return Err(bad(format!("there is no type {other:?}"))),
    };
    if kind == "bind" {
        let source = mount.get("Source").and_then(Value::as_str);
        let source = source.ok_or_else(|| bad("a bind mount has a source".to_owned()))?;
        let source = match source.contains('/') || source.starts_with('.') {
            true => absolute(source)?,
            false => absolute(&format!("./{source}"))?,
        };
        mount.insert("Source".into(), source.into());
    }
    mount.insert("Type".into(), kind.into());
    if !options.is_empty() {
        mount.insert(own.into(), Value::Object(options));
    }
    Ok(Value::Object(mount))
}

/// `path[:options]`
pub fn tmpfs(given: &[String]) -> Map<String, Value> {
    let mounts = given.iter().map(|text| {
        let (path, options) = text.split_once(':').unwrap_or((text, ""));
        (path.to_owned(), options.into())
    });
    mounts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_binds_names_or_neither() {
        let given = ["/a:/b:ro", "data:/d", "/anonymous", "./x/../y:/z"].map(String::from);
        let found = mounts(&given, &[]).unwrap();
        let here = std::env::current_dir().unwrap();
        assert_eq!(found.binds[..2], ["/a:/b:ro", "data:/d"]);
        assert_eq!(found.binds[2], format!("{}/y:/z", here.display()));
        assert!(found.volumes.contains_key("/anonymous"));
        for bad in ["name", "a:b", ":/x", "/a:/b:ro:x"] {
            assert!(mounts(&[bad.to_owned()], &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_are_read_field_by_field() {
        for (text, expected) in [
            (
                "type=bind,source=/a,target=/b,readonly",
                json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true}),
            ),
            (
                "src=data,dst=/d,volume-nocopy",
                json!({"Type": "volume", "Source": "data", "Target": "/d",
                    "VolumeOptions": {"NoCopy": true}}),
            ),
            (
                "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1777",
                json!({"Type": "tmpfs", "Target": "/t",
                    "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1777}}),
            ),
        ] {
            assert_eq!(mount(text).unwrap(), expected, "{text}");
        }
        for bad in [
            "type=bind,target=/b",
            "source=a",
            "type=x,target=/a",
            "a=b,target=/a",
        ] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }
}
