//! What `ADD` brings from elsewhere: files by their URLs, and git repositories.

use berth_names::Digest;

use crate::attest::{Checksum, public};
use crate::copy::{Copier, Wish};
use crate::dockerfile;
use crate::error::{Error, Result};
use crate::fetch::{self, Fetched};
use crate::git::{Checkout, Repository};
use crate::steps::Steps;

/// A source that is not in the context.
#[derive(Debug)]
pub enum Elsewhere {
    File {
        url: String,
        /// What it is called in a directory.
        name: String,
        checksum: Option<Digest>,
    },
    Repository {
        repository: Repository,
        commit: String,
        keeps_git: bool,
    },
}

impl Elsewhere {
    /// Where it is, without secrets.
    fn address(&self) -> String {
        match self {
            Self::File { url, .. } => public(url),
            Self::Repository { repository, .. } => {
                let reference = &repository.reference;
                public(&format!("{}#{reference}", repository.url))
            }
        }
    }

    fn checksum(&self, brought: Option<&Brought>) -> Option<Checksum> {
        let of = |digest: &Digest| (digest.algorithm().as_str(), digest.hex().to_owned());
        match (self, brought) {
            (Self::Repository { commit, .. }, _) => Some(("sha1", commit.clone())),
            (_, Some(Brought::File(file))) => Some(of(&file.digest)),
            (Self::File { checksum, .. }, _) => checksum.as_ref().map(of),
        }
    }
}

/// What was there.
pub enum Brought {
    File(Fetched),
    Repository(Box<Checkout>),
}

impl Brought {
    /// Archives are unpacked only where that is asked for.
    pub fn copy(&self, copier: &mut Copier<'_>, wish: &mut Wish, unpacks: bool) -> Result<()> {
        match self {
            Self::File(file) => {
                wish.unpacks = unpacks;
                copier.copy(file, wish, std::slice::from_ref(&file.name))
            }
            Self::Repository(checkout) => {
                wish.unpacks = false;
                copier.copy(&**checkout, wish, &[String::new()])
            }
        }
    }
}

/// A step's sources from elsewhere, and what its outcome depends on of them.
#[derive(Default)]
pub struct Wanted {
    all: Vec<Elsewhere>,
    brought: Vec<Brought>,
    pub fields: Vec<String>,
}

impl Steps<'_> {
    /// Takes the sources that are elsewhere out of a wish. Nothing is fetched of which is known what
    /// it is: a file with its checksum, a repository at its commit.
    pub(crate) async fn elsewhere(
        &self,
        copy: &dockerfile::Copy,
        wish: &mut Wish,
    ) -> Result<Wanted> {
        let checksum = copy.checksum.as_deref().map(|text| self.word(text));
        let checksum = checksum.transpose()?;
        let is_alone = wish.sources.len() == 1;
        let mut wanted = Wanted::default();
        let mut here = Vec::new();
        for source in std::mem::take(&mut wish.sources) {
            match self
                .one(copy, source, checksum.as_deref(), &wish.destination)
                .await?
            {
                Ok(one) => wanted.all.push(one),
                Err(source) => here.push(source),
            }
        }
        if checksum.is_some() && (!is_alone || wanted.all.is_empty()) {
            return Err(Error::invalid(
                "ADD --checksum is for one URL or repository: the sha256 of the file, or the commit",
            ));
        }
        wish.sources = here;
        let is_known = |one: &Elsewhere| match one {
            Elsewhere::File { checksum, .. } => checksum.is_some(),
            Elsewhere::Repository { .. } => true,
        };
        if !wanted.all.iter().all(is_known) {
            self.bring(&mut wanted).await?;
        }
        for (number, one) in wanted.all.iter().enumerate() {
            let brought = wanted.brought.get(number);
            self.job.materials.add(one.address(), one.checksum(brought));
            let field = match (one, brought) {
                (Elsewhere::File { url, .. }, Some(Brought::File(file))) => {
                    format!("{url} {}", file.digest)
                }
                (Elsewhere::File { url, checksum, .. }, _) => {
                    let checksum = checksum.as_ref().map_or("", Digest::as_str);
                    format!("{url} {checksum}")
                }
                (
                    Elsewhere::Repository {
                        repository,
                        commit,
                        keeps_git,
                    },
                    _,
                ) => format!(
                    "{} {commit} {} {keeps_git}",
                    repository.url, repository.directory
                ),
            };
            wanted.fields.push(field);
        }
        Ok(wanted)
    }

    /// The source itself, if it is not elsewhere.
    async fn one(
        &self,
        copy: &dockerfile::Copy,
        source: String,
        checksum: Option<&str>,
        destination: &str,
    ) -> Result<Result<Elsewhere, String>> {
        if let Some(repository) = Repository::parse(&source)? {
            let job = self.job;
            let root = job.core.root.join("run");
            let commit = repository.commit(&root, &job.cancel).await?;
            if let Some(wanted) = checksum.filter(|wanted| !commit.starts_with(wanted)) {
                return Err(Error::invalid(format!(
                    "{source} is commit {commit}, and not {wanted}"
                )));
            }
            return Ok(Ok(Elsewhere::Repository {
                repository,
                commit,
                keeps_git: copy.keep_git_dir,
            }));
        }
        if source.to_ascii_lowercase().starts_with("ftp://") {
            return Err(Error::invalid(format!(
                "ADD {source}: files are fetched by http and https alone"
            )));
        }
        if !fetch::is_one(&source) {
            return Ok(Err(source));
        }
        let checksum = checksum.map(|text| {
            text.parse().map_err(|_| {
                Error::invalid(format!("--checksum={text} is not of the form sha256:…"))
            })
        });
        Ok(Ok(Elsewhere::File {
            name: fetch::name(&source, destination)?,
            checksum: checksum.transpose()?,
            url: source,
        }))
    }

    /// Fetches what was not fetched yet.
    async fn bring(&self, wanted: &mut Wanted) -> Result<()> {
        let (job, core) = (self.job, &self.job.core);
        for one in wanted.all.iter().skip(wanted.brought.len()) {
            let brought = match one {
                Elsewhere::File {
                    url,
                    name,
                    checksum,
                } => {
                    let spool = core.images.spool().await?;
                    let file = tokio::select! {
                        file = fetch::fetch(url, name.clone(), spool) => file?,
                        () = job.cancel.cancelled() => return Err(Error::Cancelled),
                    };
                    let found = &file.digest;
                    if let Some(wanted) = checksum.as_ref().filter(|wanted| *wanted != found) {
                        return Err(Error::invalid(format!(
                            "{url} has the checksum {found}, and not {wanted}"
                        )));
                    }
                    Brought::File(file)
                }
                Elsewhere::Repository {
                    repository,
                    commit,
                    keeps_git,
                } => {
                    let root = core.root.join("run");
                    let checkout = repository.check_out(commit, *keeps_git, &root, &job.cancel);
                    Brought::Repository(Box::new(checkout.await?))
                }
            };
            wanted.brought.push(brought);
        }
        Ok(())
    }

    /// All of it, for a step that has to be carried out.
    pub(crate) async fn brought(&self, mut wanted: Wanted) -> Result<Vec<Brought>> {
        self.bring(&mut wanted).await?;
        Ok(wanted.brought)
    }
}
