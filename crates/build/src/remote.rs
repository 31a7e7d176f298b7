//! Contexts that the daemon fetches: a git repository, an archive or a Dockerfile by its URL.

use std::fs::File;
use std::io::Read;

use tokio_util::sync::CancellationToken;

use crate::builder::Builder;
use crate::error::{Error, Result, blocking};
use crate::fetch;
use crate::git::Repository;
use crate::layer::{Attributes, Layer};
use crate::tree::{Context, NodeKind, Tree, joined};
use crate::{archive, dockerfile};

const NAME: &str = "context";

impl Builder {
    /// Fetches a context. A file that is no archive is the Dockerfile, and there is nothing else.
    pub async fn remote(&self, source: &str, cancel: &CancellationToken) -> Result<Context> {
        let full = match source.strip_prefix("github.com/") {
            Some(path) => with_suffix(&format!("https://github.com/{path}")),
            None => source.to_owned(),
        };
        let images = &self.core.images;
        let (spool, second) = (images.spool().await?, images.spool().await?);
        if let Some(repository) = Repository::parse(&full)? {
            let root = self.core.root.join("run");
            let commit = repository.commit(&root, cancel).await?;
            let checkout = repository.check_out(&commit, false, &root, cancel).await?;
            return blocking("packing the context", move || {
                let mut layer = Layer::new(spool, None);
                pack(&checkout, "", &mut layer)?;
                let packed = layer.finish().map_err(Error::Layer)?;
                Context::read(packed, || Ok(second))
            })
            .await;
        }
        if !fetch::is_one(&full) {
            return Err(Error::invalid(format!(
                "the context {source:?} is neither a git repository nor a URL by http or https"
            )));
        }
        let fetched = tokio::select! {
            fetched = fetch::fetch(&full, NAME.to_owned(), spool) => fetched?,
            () = cancel.cancelled() => return Err(Error::Cancelled),
        };
        blocking("reading the context", move || {
            match archive::is_one(&fetched, NAME)? {
                true => Context::read(fetched.file, || Ok(second)),
                false => alone(&fetched, second),
            }
        })
        .await
    }
}

/// Docker's short form leaves it out.
fn with_suffix(url: &str) -> String {
    let (path, fragment) = match url.split_once('#') {
        Some((path, fragment)) => (path, format!("#{fragment}")),
        None => (url, String::new()),
    };
    let suffix = if path.ends_with(".git") { "" } else { ".git" };
    format!("{path}{suffix}{fragment}")
}

fn alone(file: &dyn Tree, spool: File) -> Result<Context> {
    let mut text = Vec::new();
    let limit = dockerfile::LARGEST as u64 + 1;
    let read = file.open(NAME)?.take(limit).read_to_end(&mut text);
    read.map_err(Error::Context)?;
    if text.len() > dockerfile::LARGEST || std::str::from_utf8(&text).is_err() {
        return Err(Error::invalid(
            "what is at the context's URL is neither an archive nor a Dockerfile",
        ));
    }
    let mut layer = Layer::new(spool, None);
    let attributes = Attributes {
        mode: 0o644,
        ..Attributes::default()
    };
    let size = text.len() as u64;
    let put = layer.file("Dockerfile", &attributes, size, &text[..]);
    put.map_err(Error::Layer)?;
    let packed = layer.finish().map_err(Error::Layer)?;
    Context::read(packed, || Err(Error::CutShort("reading the context")))
}

/// Puts what is below a directory into an archive.
fn pack(tree: &dyn Tree, directory: &str, layer: &mut Layer) -> Result<()> {
    for name in tree.list(directory)? {
        let path = joined(directory, &name);
        let Some(node) = tree.node(&path)? else {
            continue;
        };
        let attributes = &node.attributes;
        match &node.kind {
            NodeKind::Directory => {
                layer.directory(&path, attributes).map_err(Error::Layer)?;
                pack(tree, &path, layer)?;
            }
            NodeKind::File { size } => {
                let content = tree.open(&path)?;
                let put = layer.file(&path, attributes, *size, content);
                put.map_err(Error::Layer)?;
            }
            NodeKind::Symlink(target) => {
                let put = layer.symlink(&path, attributes, target);
                put.map_err(Error::Layer)?;
            }
            NodeKind::Other(..) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_of_a_repository_is_completed() {
        assert_eq!(
            with_suffix("https://github.com/a/b"),
            "https://github.com/a/b.git"
        );
        assert_eq!(with_suffix("https://x/b.git#r:d"), "https://x/b.git#r:d");
        assert_eq!(with_suffix("https://x/b#r"), "https://x/b.git#r");
    }

    #[test]
    fn a_file_that_is_no_archive_is_the_dockerfile() {
        struct One(&'static [u8]);
        impl Tree for One {
            fn node(&self, _: &str) -> Result<Option<crate::tree::Node>> {
                Ok(None)
            }
            fn list(&self, _: &str) -> Result<Vec<String>> {
                Ok(Vec::new())
            }
            fn open(&self, _: &str) -> Result<Box<dyn Read + '_>> {
                Ok(Box::new(self.0))
            }
        }
        let context = alone(&One(b"FROM x\n"), tempfile::tempfile().unwrap()).unwrap();
        let text = context.text("Dockerfile", 100).unwrap();
        assert_eq!(text.as_deref(), Some("FROM x\n"));
        assert!(alone(&One(b"\xff\xfe"), tempfile::tempfile().unwrap()).is_err());
    }
}
