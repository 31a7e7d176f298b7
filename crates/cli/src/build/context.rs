//! What a build is made from: a directory, an archive, or a Dockerfile alone.

use std::fs;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use berth_ignore::Ignore;
use tokio::io::AsyncReadExt;

use super::TAR;
use super::pack::{self, Packing, Tree};
use crate::daemon::Call;
use crate::error::{Error, Result};
use crate::terminal::is_terminal_input;

/// Where what is not part of the context is sent beside it.
const BESIDE: &str = ".berth-beside";
/// Bytes of a Dockerfile, or of what is looked at to tell what it is.
const LARGEST: u64 = 4 << 20;
const BLOCK: usize = 512;

/// The files that a build may read.
#[derive(Debug)]
pub enum Context {
    Directory {
        path: PathBuf,
        instructions: Instructions,
    },
    /// Standard input: an archive, or a Dockerfile.
    Input { dockerfile: String },
    /// A git repository or a URL, which the daemon fetches.
    Remote { source: String, dockerfile: String },
}

/// Which Dockerfile.
#[derive(Debug, Default, Clone)]
pub enum Instructions {
    /// `Dockerfile` in the directory.
    #[default]
    Usual,
    /// A path, in the directory or elsewhere.
    At(PathBuf),
    /// Standard input.
    Input,
    /// Its text: files that name services have it inline.
    Text(String),
}

impl Default for Context {
    fn default() -> Self {
        Self::Directory {
            path: PathBuf::from("."),
            instructions: Instructions::Usual,
        }
    }
}

/// A context that is ready to be sent.
#[derive(Debug)]
pub struct Ready {
    body: Body,
    /// The Dockerfile's name in it.
    dockerfile: String,
    is_beside: bool,
}

#[derive(Debug)]
enum Body {
    Tree(Tree),
    /// What was read of standard input; the rest follows.
    Archive(Vec<u8>),
    /// Nothing is sent.
    Remote(String),
}

impl Context {
    /// As `build` is told it: a directory or `-`, and `--file`.
    pub fn parse(text: &str, file: Option<&str>) -> Result<Self> {
        if text == "-" {
            return match file {
                Some("-") => Err(Error::usage(
                    "context and Dockerfile cannot both come from standard input",
                )),
                file => Ok(Self::Input {
                    dockerfile: file.unwrap_or_default().to_owned(),
                }),
            };
        }
        if is_remote(text) {
            return match file {
                Some("-") => Err(Error::usage(
                    "--file - is for a directory: name a file of the repository",
                )),
                file => Ok(Self::Remote {
                    source: text.to_owned(),
                    dockerfile: file.unwrap_or_default().to_owned(),
                }),
            };
        }
        Ok(Self::Directory {
            path: PathBuf::from(text),
            instructions: match file {
                None => Instructions::Usual,
                Some("-") => Instructions::Input,
                Some(path) => Instructions::At(PathBuf::from(path)),
            },
        })
    }

    /// A directory here, and what is left out of it; `None` of what is elsewhere.
    pub fn left_out(&self) -> Result<Option<(PathBuf, Ignore)>> {
        let Self::Directory { path, .. } = self else {
            return Ok(None);
        };
        match self.open()?.body {
            Body::Tree(tree) => Ok(Some((path.clone(), tree.ignore))),
            _ => Ok(None),
        }
    }

    /// Looks at what there is, and reads what is small.
    pub fn open(&self) -> Result<Ready> {
        match self {
            Self::Directory { path, instructions } => directory(path, instructions),
            Self::Input { dockerfile } => input(dockerfile),
            Self::Remote { source, dockerfile } => Ok(Ready {
                body: Body::Remote(source.clone()),
                dockerfile: dockerfile.clone(),
                is_beside: false,
            }),
        }
    }
}

fn is_remote(text: &str) -> bool {
    let schemes = ["http://", "https://", "git://", "ssh://", "git@"];
    let is_here = Path::new(text).exists();
    !is_here
        && (schemes.iter().any(|scheme| text.starts_with(scheme))
            || text.starts_with("github.com/"))
}

fn directory(path: &Path, instructions: &Instructions) -> Result<Ready> {
    let found = fs::metadata(path).map_err(Error::file("reading the context", path))?;
    if !found.is_dir() {
        return Err(Error::usage(format!(
            "{} is no directory: the context is a directory, or - for standard input",
            path.display()
        )));
    }
    let root = fs::canonicalize(path).map_err(Error::file("reading the context", path))?;
    let beside = |name: &str, text: Vec<u8>, ignore: Option<Vec<u8>>| {
        let name = format!("{BESIDE}/{name}");
        let mut members = vec![(name.clone(), text)];
        members.extend(ignore.map(|text| (format!("{name}.dockerignore"), text)));
        (name, members)
    };
    let (dockerfile, members) = match instructions {
        Instructions::Usual => (usual(&root)?, Vec::new()),
        Instructions::Input => beside("Dockerfile", read_input()?, None),
        Instructions::Text(text) => beside("Dockerfile", text.clone().into_bytes(), None),
        Instructions::At(file) => match within(&root, file)? {
            Some(name) => (name, Vec::new()),
            None => {
                let text = fs::read(file).map_err(Error::file("reading", file))?;
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                let mut own = file.clone().into_os_string();
                own.push(".dockerignore");
                beside(&name, text, fs::read(&own).ok())
            }
        },
    };
    let ignore = ignore(&root, &dockerfile, &members)?;
    Ok(Ready {
        is_beside: !members.is_empty(),
        body: Body::Tree(Tree {
            root,
            ignore,
            // The daemon reads them, whatever is left out.
            always: vec![dockerfile.clone(), format!("{dockerfile}.dockerignore")],
            members,
        }),
        dockerfile,
    })
}

fn usual(root: &Path) -> Result<String> {
    let mut names = ["Dockerfile", "dockerfile"].into_iter();
    let found = names.find(|name| root.join(name).symlink_metadata().is_ok());
    found.map(str::to_owned).ok_or_else(|| {
        Error::usage(format!(
            "there is no Dockerfile in {}: name it with --file",
            root.display()
        ))
    })
}

/// The name of a file in the context, if it is there.
fn within(root: &Path, file: &Path) -> Result<Option<String>> {
    let reading = || Error::file("reading", file);
    fs::metadata(file).map_err(reading())?;
    let parent = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let parent = fs::canonicalize(parent).map_err(reading())?;
    let Ok(below) = parent.strip_prefix(root) else {
        return Ok(None);
    };
    let name = below.join(file.file_name().unwrap_or_default());
    Ok(Some(name.to_string_lossy().into_owned()))
}

/// What is left out: by the Dockerfile's own rules, else by those of the directory.
fn ignore(root: &Path, dockerfile: &str, members: &[(String, Vec<u8>)]) -> Result<Ignore> {
    let own = format!("{dockerfile}.dockerignore");
    let beside = members.iter().find(|(name, _)| *name == own);
    let (name, text) = match beside {
        Some((name, text)) => (name.clone(), text.clone()),
        None => {
            let files = [own.as_str(), ".dockerignore"];
            let mut read = files
                .iter()
                .filter_map(|name| Some((*name, fs::read(root.join(name)).ok()?)));
            match read.next() {
                Some((name, text)) => (name.to_owned(), text),
                None => return Ok(Ignore::default()),
            }
        }
    };
    Ignore::parse(&String::from_utf8_lossy(&text))
        .map_err(|error| Error::usage(format!("{name}: {error}")))
}

fn refuse_terminal(what: &str) -> Result<()> {
    match is_terminal_input() {
        true => Err(Error::usage(format!(
            "{what} is expected on standard input: redirect it"
        ))),
        false => Ok(()),
    }
}

fn read_input() -> Result<Vec<u8>> {
    refuse_terminal("a Dockerfile")?;
    let mut text = Vec::new();
    let read = std::io::stdin().take(LARGEST).read_to_end(&mut text);
    read.map_err(|source| Error::Terminal("reading standard input", source))?;
    Ok(text)
}

/// An archive is told by how it begins.
fn input(dockerfile: &str) -> Result<Ready> {
    refuse_terminal("an archive or a Dockerfile")?;
    let mut begin = Vec::new();
    let mut stdin = std::io::stdin().lock();
    let failed = |source| Error::Terminal("reading standard input", source);
    let head = (&mut stdin).take(BLOCK as u64).read_to_end(&mut begin);
    head.map_err(failed)?;
    if is_archive(&begin) {
        // What the standard library holds back comes with it.
        let held = std::io::BufRead::fill_buf(&mut stdin).map_err(failed)?;
        begin.extend_from_slice(held);
        let count = held.len();
        std::io::BufRead::consume(&mut stdin, count);
        return Ok(Ready {
            body: Body::Archive(begin),
            dockerfile: dockerfile.to_owned(),
            is_beside: false,
        });
    }
    if !dockerfile.is_empty() {
        return Err(Error::usage(
            "--file names a file in the archive on standard input, which is none",
        ));
    }
    let rest = stdin.take(LARGEST).read_to_end(&mut begin);
    rest.map_err(failed)?;
    let name = format!("{BESIDE}/Dockerfile");
    Ok(Ready {
        body: Body::Tree(Tree {
            members: vec![(name.clone(), begin)],
            ..Tree::default()
        }),
        dockerfile: name,
        is_beside: true,
    })
}

fn is_archive(begin: &[u8]) -> bool {
    let packed: [&[u8]; 4] = [
        &[0x1f, 0x8b],
        b"BZh",
        &[0xfd, b'7', b'z', b'X', b'Z'],
        &[0x28, 0xb5, 0x2f, 0xfd],
    ];
    begin.get(257..262) == Some(b"ustar") || packed.iter().any(|magic| begin.starts_with(magic))
}

impl Ready {
    /// Puts into the query which file is the Dockerfile.
    pub fn name(&self, call: Call) -> Call {
        call.given("dockerfile", &self.dockerfile)
            .flag("berth-beside", self.is_beside)
    }

    /// Makes it the body of a request, packed as it is sent.
    pub fn attach(self, call: Call) -> (Call, Packing) {
        match self.body {
            Body::Tree(tree) => {
                let (reader, packing) = pack::start(tree);
                (call.upload(TAR, reader), packing)
            }
            Body::Archive(begin) => {
                let whole = AsyncReadExt::chain(Cursor::new(begin), tokio::io::stdin());
                (call.upload(TAR, whole), Packing::none())
            }
            Body::Remote(source) => (call.query("remote", source), Packing::none()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_dockerfile_lies_decides_how_it_is_sent() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("context");
        fs::create_dir_all(root.join("docker")).unwrap();
        let outside = scratch.path().join("Outside");
        for path in [root.join("docker/File"), outside.clone()] {
            fs::write(path, "FROM scratch\n").unwrap();
        }
        let open = |file: Option<&Path>| {
            let file = file.map(|file| file.display().to_string());
            let text = root.display().to_string();
            Context::parse(&text, file.as_deref())?.open()
        };
        let inside = open(Some(&root.join("docker/../docker/File"))).unwrap();
        assert_eq!(
            (inside.dockerfile.as_str(), inside.is_beside),
            ("docker/File", false)
        );
        let beside = open(Some(&outside)).unwrap();
        assert_eq!(beside.dockerfile, ".berth-beside/Outside");
        assert!(beside.is_beside);
        let missing = open(None).unwrap_err().to_string();
        assert!(missing.contains("name it with --file"), "{missing}");
        fs::write(root.join("dockerfile"), "").unwrap();
        assert_eq!(open(None).unwrap().dockerfile, "dockerfile");
        assert!(open(Some(&root.join("none"))).is_err());
        assert!(Context::parse("-", Some("-")).is_err());
        for remote in ["https://example.com/x.git", "git@example.com:a/b"] {
            let ready = Context::parse(remote, Some("sub/File")).unwrap().open();
            assert_eq!(ready.unwrap().dockerfile, "sub/File");
            assert!(Context::parse(remote, Some("-")).is_err());
        }
    }

    #[test]
    fn the_dockerfile_s_own_rules_come_before_the_directory_s() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        fs::write(root.join(".dockerignore"), "a\n").unwrap();
        let rules = |dockerfile: &str| ignore(root, dockerfile, &[]).unwrap();
        assert!(rules("Dockerfile").excludes("a"));
        fs::write(root.join("Dockerfile.dockerignore"), "b\n").unwrap();
        assert!(!rules("Dockerfile").excludes("a") && rules("Dockerfile").excludes("b"));
        assert!(rules("Other").excludes("a"));
        fs::write(root.join(".dockerignore"), "[\n").unwrap();
        let wrong = ignore(root, "Other", &[]).unwrap_err().to_string();
        assert!(wrong.starts_with(".dockerignore: "), "{wrong}");
    }

    #[test]
    fn archives_are_told_from_dockerfiles() {
        let mut tar = vec![0; BLOCK];
        tar[257..262].copy_from_slice(b"ustar");
        assert!(is_archive(&tar) && is_archive(&[0x1f, 0x8b, 8]));
        assert!(!is_archive(b"FROM scratch\n") && !is_archive(b""));
    }
}
