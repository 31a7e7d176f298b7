//! Which files make a project, where it is, what it is called, and what its variables are.

use std::fs;
use std::path::{Path, PathBuf};

use crate::dotenv;
use crate::error::{Error, Result};
use crate::interpolate::Variables;
use crate::read::clean;

const NAMES: &[&str] = &[
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
];

const OVERRIDES: &[&str] = &[
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// What the command line says, and where it was typed.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `-` is standard input.
    pub files: Vec<PathBuf>,
    pub project_directory: Option<PathBuf>,
    pub project_name: Option<String>,
    pub env_files: Vec<PathBuf>,
    pub profiles: Vec<String>,
    /// Of the shell.
    pub environment: Variables,
    pub current_directory: PathBuf,
    /// Leaves variables as they are written.
    pub no_interpolation: bool,
}

/// A project's surroundings, before its files are read.
#[derive(Debug)]
pub struct Place {
    pub files: Vec<PathBuf>,
    pub directory: PathBuf,
    pub variables: Variables,
    pub env_files: Vec<PathBuf>,
    pub profiles: Vec<String>,
}

impl Options {
    pub fn place(&self) -> Result<Place> {
        let here = |path: &Path| PathBuf::from(clean(&self.current_directory.join(path)));
        let mut files = self.files.clone();
        // A .env beside the shell may say which files there are.
        let first = self.variables(
            &self
                .project_directory
                .as_deref()
                .map_or_else(|| self.current_directory.clone(), here),
        )?;
        if files.is_empty()
            && let Some(list) = first.0.get("COMPOSE_FILE").filter(|list| !list.is_empty())
        {
            let separator = first.0.get("COMPOSE_PATH_SEPARATOR");
            let separator = separator.map_or(":", String::as_str);
            files = list.split(separator).map(PathBuf::from).collect();
        }
        let files = if files.is_empty() {
            let start = self.project_directory.as_deref().map(here);
            find(&start.unwrap_or_else(|| self.current_directory.clone()))?
        } else {
            let absolute = |path: &PathBuf| match path.as_os_str() == "-" {
                true => path.clone(),
                false => here(path),
            };
            files.iter().map(absolute).collect()
        };
        let directory = match (&self.project_directory, files.first()) {
            (Some(directory), _) => here(directory),
            (None, Some(file)) if file.as_os_str() != "-" => {
                file.parent().unwrap_or(Path::new("/")).to_owned()
            }
            (None, _) => self.current_directory.clone(),
        };
        let (variables, env_files) = self.variables(&directory)?;
        let mut profiles = self.profiles.clone();
        if profiles.is_empty()
            && let Some(list) = variables.get("COMPOSE_PROFILES")
        {
            profiles = list.split(',').map(|name| name.trim().to_owned()).collect();
        }
        profiles.retain(|name| !name.is_empty());
        Ok(Place {
            files,
            directory,
            variables,
            env_files,
            profiles,
        })
    }

    /// The shell's variables over those of `.env`, or of the files that were named instead.
    fn variables(&self, directory: &Path) -> Result<(Variables, Vec<PathBuf>)> {
        let mut files: Vec<PathBuf> = self.env_files.clone();
        if files.is_empty()
            && let Some(list) = self.environment.get("COMPOSE_ENV_FILES")
        {
            files = list.split(',').map(PathBuf::from).collect();
        }
        for file in &mut files {
            *file = PathBuf::from(clean(&self.current_directory.join(&*file)));
        }
        let given = files.clone();
        if files.is_empty() {
            let default = directory.join(".env");
            if default.is_file() {
                files.push(default);
            }
        }
        Ok((over_files(&self.environment, &files)?, given))
    }

    /// The name that was asked for, else what the files say, else that of the directory.
    pub fn name(&self, place: &Place, said: Option<String>) -> Result<String> {
        let asked = self.project_name.clone().filter(|name| !name.is_empty());
        let variable = || place.variables.get("COMPOSE_PROJECT_NAME").cloned();
        if let Some(name) = asked.or_else(|| variable().filter(|name| !name.is_empty())) {
            return match normal(&name) == name {
                true => Ok(name),
                false => Err(Error::ProjectName(name)),
            };
        }
        let said = said
            .map(|name| normal(&name))
            .filter(|name| !name.is_empty());
        let directory = place
            .directory
            .file_name()
            .map(|name| name.to_string_lossy());
        let name = said.unwrap_or_else(|| normal(&directory.unwrap_or_default()));
        match name.is_empty() {
            true => Err(Error::ProjectName(place.directory.display().to_string())),
            false => Ok(name),
        }
    }
}

/// Variables of files below those that are there already; later files count more.
pub fn over_files(variables: &Variables, files: &[PathBuf]) -> Result<Variables> {
    let mut all = Variables::new();
    for file in files {
        let mut known = all.clone();
        known.extend(variables.clone());
        for (name, value) in dotenv::read(file, &known)? {
            if let Some(value) = value {
                all.insert(name, value);
            }
        }
    }
    all.extend(variables.clone());
    Ok(all)
}

/// What a name becomes where nobody chose it.
fn normal(name: &str) -> String {
    let lower = name.to_lowercase();
    let kept = lower
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(*c));
    let kept: String = kept.collect();
    kept.trim_start_matches(['-', '_']).to_owned()
}

/// The files of a directory, or of the nearest one above that has some.
fn find(start: &Path) -> Result<Vec<PathBuf>> {
    for directory in start.ancestors() {
        let first = |names: &[&str]| {
            let paths = names.iter().map(|name| directory.join(name));
            paths.into_iter().find(|path| fs::metadata(path).is_ok())
        };
        if let Some(file) = first(NAMES) {
            let over = first(OVERRIDES);
            return Ok(std::iter::once(file).chain(over).collect());
        }
    }
    Err(Error::NoFile)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(directory: &Path) -> Options {
        Options {
            current_directory: directory.to_owned(),
            ..Options::default()
        }
    }

    #[test]
    fn files_are_found_here_or_above_with_their_override() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        assert!(matches!(options(&below).place(), Err(Error::NoFile)));
        for name in [
            "docker-compose.yml",
            "compose.yaml",
            "compose.override.yaml",
        ] {
            fs::write(root.path().join(name), "").unwrap();
        }
        let place = options(&below).place().unwrap();
        let names: Vec<_> = place.files.iter().map(|file| file.file_name()).collect();
        assert_eq!(
            names,
            [
                Some("compose.yaml".as_ref()),
                Some("compose.override.yaml".as_ref())
            ]
        );
        assert_eq!(place.directory, root.path());
    }

    #[test]
    fn variables_of_the_shell_count_more_than_those_of_files() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("other.yaml"), "").unwrap();
        fs::write(
            root.path().join(".env"),
            "A=file\nB=file-$A\nCOMPOSE_FILE=other.yaml\nCOMPOSE_PROFILES=x, y\n",
        )
        .unwrap();
        let mut options = options(root.path());
        options.environment = [("A".to_owned(), "shell".to_owned())].into();
        let place = options.place().unwrap();
        assert_eq!(place.files, [root.path().join("other.yaml")]);
        assert_eq!(place.variables["A"], "shell");
        assert_eq!(place.variables["B"], "file-shell");
        assert_eq!(place.profiles, ["x", "y"]);
        options.env_files = vec!["gone.env".into()];
        let error = options.place().unwrap_err().to_string();
        assert!(error.contains("gone.env"), "{error}");
    }

    #[test]
    fn names_come_from_the_nearest_that_has_one() {
        let place = |variables: &[(&str, &str)]| Place {
            files: Vec::new(),
            directory: "/srv/My App_2.0".into(),
            variables: variables
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect(),
            env_files: Vec::new(),
            profiles: Vec::new(),
        };
        let mut options = Options::default();
        let said = |name: &str| Some(name.to_owned());
        assert_eq!(options.name(&place(&[]), None).unwrap(), "myapp_20");
        assert_eq!(
            options.name(&place(&[]), said("The-One")).unwrap(),
            "the-one"
        );
        let variable = place(&[("COMPOSE_PROJECT_NAME", "var")]);
        assert_eq!(options.name(&variable, said("one")).unwrap(), "var");
        options.project_name = said("typed");
        assert_eq!(options.name(&variable, said("one")).unwrap(), "typed");
        options.project_name = said("No Good");
        let error = options.name(&variable, None).unwrap_err().to_string();
        assert!(error.starts_with("\"No Good\" cannot be"), "{error}");
    }
}
