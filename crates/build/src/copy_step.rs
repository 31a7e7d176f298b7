//! `COPY` and `ADD`.

use std::fs::File;
use std::sync::Arc;

use berth_names::Digest;

use crate::copy::{self, Copier, Wish};
use crate::dockerfile::{self, Instruction};
use crate::elsewhere::{Brought, Wanted};
use crate::error::{Error, Result, blocking};
use crate::ignore::Ignore;
use crate::job::Opened;
use crate::layer::Layer;
use crate::mode::Mode;
use crate::plan::Origin;
use crate::steps::Steps;
use crate::tree::{self, Tree};
use crate::users;

/// Where the files of a copy are.
enum Source {
    Context,
    /// The files of a stage or an image.
    Image(Digest),
    /// A stage that has none.
    Nothing,
}

impl Steps<'_> {
    pub(crate) async fn copy(
        &mut self,
        copy: &dockerfile::Copy,
        instruction: &Instruction,
        is_add: bool,
    ) -> Result<()> {
        let mut wish = self.wish(copy, is_add)?;
        let elsewhere = match is_add {
            true => self.elsewhere(copy, &mut wish).await?,
            false => Wanted::default(),
        };
        let (source, of_source) = self.source(copy, &wish).await?;
        let documents = self.documents(copy)?;
        let by = instruction.text.clone();
        let mut fields = vec![
            wish.destination.clone(),
            copy.chown.clone().unwrap_or_default(),
            format!("{:?} {} {}", wish.mode, wish.parents, wish.unpacks),
            copy.exclude.join("\n"),
            of_source,
        ];
        fields.extend(wish.sources.iter().cloned());
        fields.extend(elsewhere.fields.iter().cloned());
        for (name, text) in &documents {
            fields.extend([name.clone(), text.clone()]);
        }
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let key = self.key("copy", &fields);
        if self.cached(&key).await? || self.carried(&key, &by).await? {
            return Ok(());
        }
        let brought = self.brought(elsewhere).await?;
        let archive = self.copied(copy, wish, source, documents, brought).await?;
        self.put_layer(key, &by, archive).await
    }

    fn wish(&self, copy: &dockerfile::Copy, is_add: bool) -> Result<Wish> {
        let mut sources = Vec::new();
        for source in &copy.sources {
            sources.push(self.word(source)?);
        }
        let destination = self.word(&copy.destination)?;
        if destination.is_empty() {
            return Err(Error::invalid("the destination is empty"));
        }
        let destination = self.state.config.absolute(&destination);
        let several = sources.len() + copy.documents.len() > 1;
        if several && !destination.ends_with('/') {
            return Err(Error::invalid(format!(
                "{destination} has to be a directory for several sources: end it with a slash"
            )));
        }
        let mode = copy
            .chmod
            .as_deref()
            .map(|mode| self.word(mode))
            .transpose()?;
        let mut exclude = Vec::new();
        for pattern in &copy.exclude {
            exclude.push(self.word(pattern)?);
        }
        Ok(Wish {
            sources,
            destination,
            owner: None,
            mode: mode.as_deref().map(Mode::parse).transpose()?,
            parents: copy.parents,
            exclude: Ignore::of(exclude.iter().map(String::as_str))?,
            unpacks: is_add && copy.unpack != Some(false),
        })
    }

    /// Where the files are, and what the outcome depends on of them.
    async fn source(&self, copy: &dockerfile::Copy, wish: &Wish) -> Result<(Source, String)> {
        let Some(from) = &copy.from else {
            let (context, sources) = (Arc::clone(&self.job.context), wish.sources.clone());
            let digest = blocking("hashing what is copied", move || {
                let mut paths = Vec::new();
                for source in &sources {
                    for path in copy::expand(&*context, source)? {
                        paths.push(path.clone());
                        paths.push(context.resolve(&path)?);
                    }
                }
                tree::digest(&*context, &paths)
            })
            .await?;
            return Ok((Source::Context, digest.to_string()));
        };
        match self.job.origin(from, self.stage) {
            Origin::Stage(stage) => {
                let state = self.job.ready(stage).await?;
                let source = match &state.image {
                    Some(image) => Source::Image(image.clone()),
                    None => Source::Nothing,
                };
                Ok((source, state.key.to_string()))
            }
            Origin::Image(name) => {
                let image = self.job.image_from(&name).await?;
                Ok((Source::Image(image.id.clone()), image.id.to_string()))
            }
        }
    }

    fn documents(&self, copy: &dockerfile::Copy) -> Result<Vec<(String, String)>> {
        let all = copy.documents.iter();
        all.map(|document| {
            let name = document.name.rsplit('/').next().unwrap_or_default();
            Ok((name.to_owned(), self.document(document)?))
        })
        .collect()
    }

    /// The layer's archive.
    async fn copied(
        &self,
        copy: &dockerfile::Copy,
        mut wish: Wish,
        source: Source,
        documents: Vec<(String, String)>,
        brought: Vec<Brought>,
    ) -> Result<File> {
        // Archives from elsewhere are unpacked only where that is asked for.
        let unpacks = copy.unpack == Some(true);
        let below = self.below().await?;
        let from = match &source {
            Source::Image(image) => Some(self.job.open(image).await),
            Source::Context | Source::Nothing => None,
        };
        let from = match from.transpose() {
            Ok(from) => from,
            Err(error) => {
                self.job.close(below).await;
                return Err(error);
            }
        };
        let chown = copy
            .chown
            .as_deref()
            .map(|owner| self.word(owner))
            .transpose();
        let file = self.job.core.images.spool().await;
        let work = {
            let (below, from) = (Arc::clone(&below), from.clone());
            let context = Arc::clone(&self.job.context);
            let (epoch, now, link) = (self.job.epoch, self.job.now(), copy.link);
            blocking("copying", move || {
                let chown = chown?;
                let tree: &dyn Tree = match (&source, &from) {
                    (Source::Context, _) => &*context,
                    (_, Some(from)) => from.tree(),
                    _ => &tree::Nothing,
                };
                if let Some(owner) = &chown {
                    wish.owner = Some(users::owner(below.tree(), owner)?);
                }
                // A linked layer does not look at what it lies on.
                let seen: &dyn Tree = match link {
                    true => &tree::Nothing,
                    false => below.tree(),
                };
                let from = From {
                    tree,
                    brought: &brought,
                    documents: &documents,
                    unpacks,
                };
                write(&from, seen, wish, Layer::new(file?, epoch), now)
            })
            .await
        };
        self.job.close(below).await;
        if let Some(from) = from {
            self.job.close(from).await;
        }
        work
    }

    /// The files that the stage has so far.
    pub(crate) async fn below(&self) -> Result<Arc<Opened>> {
        match &self.state.image {
            Some(image) => self.job.open(image).await,
            None => Ok(Arc::new(Opened::nothing())),
        }
    }
}

/// What a layer is made from.
struct From<'a> {
    tree: &'a dyn Tree,
    brought: &'a [Brought],
    documents: &'a [(String, String)],
    /// What was brought is unpacked where it is an archive.
    unpacks: bool,
}

fn write(
    from: &From<'_>,
    below: &dyn Tree,
    mut wish: Wish,
    mut layer: Layer,
    now: u64,
) -> Result<File> {
    let mut paths = Vec::new();
    for source in &wish.sources {
        paths.extend(copy::expand(from.tree, source)?);
    }
    let count = paths.len() + from.documents.len() + from.brought.len();
    if count > 1 && !wish.destination.ends_with('/') {
        return Err(Error::invalid(format!(
            "{} has to be a directory for {count} sources: end it with a slash",
            wish.destination
        )));
    }
    let mut copier = Copier::new(below, &mut layer, now);
    if !paths.is_empty() {
        copier.copy(from.tree, &wish, &paths)?;
    }
    for (name, text) in from.documents {
        copier.text(&wish, name, text, count > 1)?;
    }
    for brought in from.brought {
        brought.copy(&mut copier, &mut wish, from.unpacks)?;
    }
    layer.finish().map_err(Error::Layer)
}
