//! Where things come from and go to, by the rules of docker's `cp`.

use std::path::{Path, PathBuf};

use super::Stat;
use super::pack::Source;
use crate::error::{Error, Result};

#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// Container and path.
    Inside(String, String),
    /// A path, or `-`.
    Here(String),
}

impl Place {
    /// A path with a colon in it is written `./a:b`.
    pub fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((container, path)) if !container.is_empty() && !text.starts_with(['.', '/']) => {
                let path = match path.starts_with('/') {
                    true => path.to_owned(),
                    false => format!("/{path}"),
                };
                Self::Inside(container.to_owned(), path)
            }
            _ => Self::Here(text.to_owned()),
        }
    }
}

/// `directory/.` is what is in the directory.
pub fn means_contents(path: &str) -> bool {
    path.ends_with("/.") || path == "."
}

/// A link's target, from where the link is.
pub fn followed(path: &str, target: &str) -> String {
    match target.starts_with('/') {
        true => target.to_owned(),
        false => {
            let parent = Path::new(path).parent().unwrap_or(Path::new("/"));
            parent.join(target).display().to_string()
        }
    }
}

/// What the copied thing is called here.
pub fn target(to: &str, stat: &Stat, contents: bool) -> Result<PathBuf> {
    let path = PathBuf::from(to);
    let found = std::fs::metadata(&path).ok();
    let is_directory = found.as_ref().map(std::fs::Metadata::is_dir);
    match (is_directory, stat.is_directory()) {
        (Some(true), true) if contents => Ok(path),
        (Some(true), _) => Ok(path.join(&stat.name)),
        (Some(false), true) => Err(Error::usage(format!(
            "a directory cannot take the place of the file {to}"
        ))),
        (Some(false), false) => Ok(path),
        (None, is_directory) => {
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            let has_parent = parent.is_none_or(Path::is_dir);
            match has_parent && (is_directory || !to.ends_with('/')) {
                true => Ok(path),
                false => Err(Error::usage(format!(
                    "{to} has no directory to be in: make it first"
                ))),
            }
        }
    }
}

/// The directory in a container that is written to, and what the copied thing is called in it;
/// nothing for the contents of a directory.
pub fn inside(path: &str, stat: Option<&Stat>, source: &Source) -> Result<(String, PathBuf)> {
    let trimmed = path.trim_end_matches('/');
    let split = || {
        let whole = Path::new(if trimmed.is_empty() { "/" } else { trimmed });
        let parent = whole.parent().unwrap_or(Path::new("/"));
        let name = whole.file_name().map(PathBuf::from).unwrap_or_default();
        (parent.display().to_string(), name)
    };
    match stat {
        Some(stat) if stat.is_directory() => {
            let name = if source.contents {
                PathBuf::new()
            } else {
                source.name.clone()
            };
            Ok((path.to_owned(), name))
        }
        Some(_) if source.is_directory => Err(Error::usage(format!(
            "a directory cannot take the place of the file {path}"
        ))),
        None if !source.is_directory && path.ends_with('/') => Err(Error::usage(format!(
            "{path} is no directory in that container: make it first"
        ))),
        _ => Ok(split()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECTORY: &str = r#"{"name":"d","mode":2147484141}"#;
    const FILE: &str = r#"{"name":"f","mode":420}"#;

    fn stat(text: &str) -> Stat {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn places_are_told_apart() {
        let inside = |path: &str| Place::Inside("web".to_owned(), path.to_owned());
        assert_eq!(Place::parse("web:/a"), inside("/a"));
        assert_eq!(Place::parse("web:a/b"), inside("/a/b"));
        for here in ["-", "a/b", "./a:b", "/a:b", ":x"] {
            assert_eq!(Place::parse(here), Place::Here(here.to_owned()));
        }
        assert_eq!(followed("/a/link", "b"), "/a/b");
        assert_eq!(followed("/a/link", "/b"), "/b");
    }

    #[test]
    fn a_copy_here_is_called_as_docker_calls_it() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name).display().to_string();
        std::fs::create_dir(at("dir")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        for (to, stat_text, contents, expected) in [
            ("dir", FILE, false, Some("dir/f")),
            ("dir", DIRECTORY, false, Some("dir/d")),
            ("dir", DIRECTORY, true, Some("dir")),
            ("file", FILE, false, Some("file")),
            ("file", DIRECTORY, false, None),
            ("new", FILE, false, Some("new")),
            ("new/", FILE, false, None),
            ("new", DIRECTORY, false, Some("new")),
            ("no/new", FILE, false, None),
        ] {
            let found = target(&at(to), &stat(stat_text), contents).ok();
            assert_eq!(
                found,
                expected.map(|name| scratch.path().join(name)),
                "{to} {stat_text}"
            );
        }
    }

    #[test]
    fn a_copy_into_a_container_is_called_as_docker_calls_it() {
        let source = |is_directory: bool, contents: bool| Source {
            path: "x".into(),
            name: "x".into(),
            is_directory,
            contents,
        };
        for (path, found, from, expected) in [
            (
                "/d",
                Some(DIRECTORY),
                source(false, false),
                Some(("/d", "x")),
            ),
            ("/d", Some(DIRECTORY), source(true, true), Some(("/d", ""))),
            ("/a/f", Some(FILE), source(false, false), Some(("/a", "f"))),
            ("/a/f", Some(FILE), source(true, false), None),
            ("/a/new", None, source(false, false), Some(("/a", "new"))),
            ("/a/new/", None, source(false, false), None),
            ("/a/new/", None, source(true, true), Some(("/a", "new"))),
        ] {
            let stat = found.map(stat);
            let found = inside(path, stat.as_ref(), &from).ok();
            let expected = expected.map(|(directory, name)| (directory.to_owned(), name.into()));
            assert_eq!(found, expected, "{path}");
        }
    }
}
