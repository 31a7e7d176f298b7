//! Files to one model: each is read, its variables replaced, its `extends` and `include` followed,
//! and laid over those before it.

use std::fs;
use std::path::{Path as FilePath, PathBuf};

use crate::error::{Error, Path, Result};
use crate::files::over_files;
use crate::interpolate::{Variables, interpolate};
use crate::merge::{merge, once, without_resets};
use crate::node::{Kind, Node};
use crate::read::Reader;
use crate::schema::{MODEL, SERVICE};
use crate::yaml;

/// Reads the files of one project, or of one `include`.
pub struct Loader<'a> {
    pub directory: &'a FilePath,
    pub variables: &'a Variables,
    pub no_interpolation: bool,
    /// Names that nobody has set, for a warning.
    pub unset: Vec<String>,
    /// Files that are being included, so that none includes itself.
    pub including: Vec<PathBuf>,
}

impl Loader<'_> {
    pub fn model(&mut self, files: &[PathBuf]) -> Result<Node> {
        let mut model: Option<Node> = None;
        for file in files {
            self.including.push(file.clone());
            for document in self.documents(file)? {
                let next = self.document(document, file)?;
                model = Some(match model {
                    None => next,
                    Some(model) => merge(model, next, &MODEL),
                });
            }
        }
        self.including.truncate(self.including.len() - files.len());
        match model {
            Some(model) => Ok(without_resets(once(model, &MODEL))),
            None => {
                let file = files.first().map(|file| show(file)).unwrap_or_default();
                Err(Error::Yaml(
                    crate::error::At {
                        file: file.as_str().into(),
                        line: 1,
                        column: 1,
                    },
                    "the file is empty; it needs services".to_owned(),
                ))
            }
        }
    }

    /// Of a file, as it is written.
    fn documents(&self, file: &FilePath) -> Result<Vec<Node>> {
        let failed = |source| Error::Read {
            path: file.to_owned(),
            source,
        };
        let text = if file.as_os_str() == "-" {
            std::io::read_to_string(std::io::stdin()).map_err(failed)?
        } else {
            fs::read_to_string(file).map_err(failed)?
        };
        yaml::documents(&show(file), &text)
    }

    /// What a document says of the project's name, which variables may refer to.
    pub fn name(&mut self, files: &[PathBuf]) -> Result<Option<String>> {
        let mut name = None;
        for file in files.iter().filter(|file| file.as_os_str() != "-") {
            for document in self.documents(file)? {
                if let Some(node) = document.get("name") {
                    let mut node = node.clone();
                    self.interpolate(&mut node, &Path::of("name"))?;
                    name = node.scalar().or(name);
                }
            }
        }
        Ok(name)
    }

    fn interpolate(&mut self, node: &mut Node, path: &Path) -> Result<()> {
        if self.no_interpolation {
            return Ok(());
        }
        interpolate(node, path, self.variables, &mut self.unset)
    }

    fn document(&mut self, mut document: Node, file: &FilePath) -> Result<Node> {
        if !matches!(document.kind, Kind::Map(_)) {
            let reason = format!(
                "a Compose file is a mapping with services in it, and this is {}",
                document.what()
            );
            return Err(Error::place(&document.at, reason));
        }
        self.interpolate(&mut document, &Path::default())?;
        let directory = self.directory;
        let reader = Reader { base: directory };
        let mut model = reader.read(&document, &MODEL, &Path::default())?;
        self.extend(&mut model, file)?;
        for entry in model.take("include").iter().flat_map(Node::items) {
            self.include(&mut model, entry)?;
        }
        Ok(model)
    }

    fn extend(&mut self, model: &mut Node, file: &FilePath) -> Result<()> {
        let Some(services) = model.get("services").cloned() else {
            return Ok(());
        };
        for entry in services.entries() {
            if entry.value.get("extends").is_some() {
                let mut chain = Vec::new();
                let whole = self.extended(&entry.key, &services, file, &mut chain)?;
                if let Some(all) = model.get_mut("services") {
                    all.set(&entry.key, whole);
                }
            }
        }
        Ok(())
    }

    /// A service with all that it extends below it.
    fn extended(
        &mut self,
        name: &str,
        services: &Node,
        file: &FilePath,
        chain: &mut Vec<(PathBuf, String)>,
    ) -> Result<Node> {
        let path = Path::of("services").key(name).key("extends");
        let mut service = match services.get(name) {
            Some(service) => service.clone(),
            None => return Ok(Node::new(&services.at, Kind::Null)),
        };
        let Some(extends) = service.take("extends") else {
            return Ok(service);
        };
        let link = (file.to_owned(), name.to_owned());
        if chain.contains(&link) {
            let names: Vec<&str> = chain.iter().map(|(_, name)| name.as_str()).collect();
            let reason = format!("services extend each other: {} → {name}", names.join(" → "));
            return Err(Error::field(&extends.at, &path, reason));
        }
        chain.push(link);
        let Some(base) = extends.get("service").and_then(Node::scalar) else {
            let reason = "it has no service to extend";
            return Err(Error::field(&extends.at, &path, reason));
        };
        let other = extends.get("file").and_then(Node::scalar);
        let (others, other) = match &other {
            None => (services.clone(), file.to_owned()),
            Some(other) => (self.services_of(other)?, PathBuf::from(other)),
        };
        if others.get(&base).is_none() {
            let reason = format!("{} has no service {base:?}", show(&other));
            return Err(Error::field(&extends.at, &path, reason));
        }
        let base = self.extended(&base, &others, &other, chain)?;
        Ok(merge(base, service, &SERVICE))
    }

    /// Services of a file that others extend: its paths begin at its own directory.
    fn services_of(&mut self, file: &str) -> Result<Node> {
        let file = FilePath::new(file);
        let directory = file.parent().unwrap_or(FilePath::new("/"));
        let mut services = Node::new(&crate::error::At::nowhere(), Kind::Map(Vec::new()));
        for mut document in self.documents(file)? {
            self.interpolate(&mut document, &Path::default())?;
            let reader = Reader { base: directory };
            let model = reader.read(&document, &MODEL, &Path::default())?;
            if let Some(more) = model.get("services") {
                services = merge(services, more.clone(), &crate::shape::Shape::Map(&SERVICE));
            }
        }
        Ok(services)
    }

    fn include(&mut self, model: &mut Node, entry: &Node) -> Result<()> {
        let path = Path::of("include");
        let texts = |key| entry.get(key).map(Node::items).unwrap_or_default();
        let list = |key| -> Vec<PathBuf> {
            let texts = texts(key).iter().filter_map(Node::scalar);
            texts.map(PathBuf::from).collect()
        };
        let files = list("path");
        let Some(first) = files.first() else {
            return Err(Error::field(&entry.at, &path, "it has no path"));
        };
        if let Some(file) = files.iter().find(|file| self.including.contains(file)) {
            let reason = format!("{} includes itself", show(file));
            return Err(Error::field(&entry.at, &path, reason));
        }
        let directory = match entry.get("project_directory").and_then(Node::scalar) {
            Some(directory) => PathBuf::from(directory),
            None => first.parent().unwrap_or(FilePath::new("/")).to_owned(),
        };
        let mut env_files = list("env_file");
        if env_files.is_empty() && directory.join(".env").is_file() {
            env_files.push(directory.join(".env"));
        }
        let variables = over_files(self.variables, &env_files)?;
        let mut loader = Loader {
            directory: &directory,
            variables: &variables,
            no_interpolation: self.no_interpolation,
            unset: Vec::new(),
            including: self.including.clone(),
        };
        let included = loader.model(&files)?;
        self.unset.append(&mut loader.unset);
        self.import(model, included, entry)
    }

    /// Everything of an included model. What is there twice has to be the same.
    fn import(&self, model: &mut Node, included: Node, entry: &Node) -> Result<()> {
        for kind in [
            "services", "networks", "volumes", "secrets", "configs", "models",
        ] {
            let Some(more) = included.get(kind) else {
                continue;
            };
            if model.get(kind).is_none_or(Node::is_null) {
                model.set(kind, Node::new(&more.at, Kind::Map(Vec::new())));
            }
            let Some(all) = model.get_mut(kind) else {
                continue;
            };
            for new in more.entries() {
                match all.get(&new.key) {
                    Some(old) if *old != new.value => {
                        let reason = format!(
                            "{kind}.{} stands at {} and, with other words, at {}; rename one of them",
                            new.key, old.at, new.value.at
                        );
                        return Err(Error::field(&entry.at, &Path::of("include"), reason));
                    }
                    Some(_) => {}
                    None => all.set(&new.key, new.value.clone()),
                }
            }
        }
        Ok(())
    }
}

/// A file as messages name it: from here where that is shorter.
fn show(file: &FilePath) -> String {
    if file.as_os_str() == "-" {
        return "standard input".to_owned();
    }
    let here = std::env::current_dir().unwrap_or_default();
    let short = file.strip_prefix(&here).unwrap_or(file);
    short.display().to_string()
}
