//! Caches elsewhere: in registries, in images, in directories of clients, in the form that BuildKit
//! gave them.
//!
//! ```text
//! manifest ─► application/vnd.buildkit.cacheconfig.v0   records of steps, and layers  ([`document`])
//!    └──────► the layers' archives                      as in images
//! ```
//!
//! A record names a step by the builder's own key: what another kind of builder left is read, and of
//! no use. What a cache says is believed as far as its reference is: that the step with this key made
//! the layer with this digest. All else is checked: digests and sizes of whatever is fetched, the
//! digest of the archive within, and the document's own order. What is wrong costs a warning, and the
//! step is carried out.

mod document;
mod export;
mod import;
mod layout;
mod offered;
mod trace;

use std::fs::File;

use berth_images::Packing;
use berth_names::ImageRef;

use crate::error::{Error, Result};

pub use layout::Layout;

pub(crate) use document::{FIELD, Layer};
pub(crate) use export::{export, inline};
pub(crate) use import::{Imported, import};
pub(crate) use trace::{Trace, Traced};

/// Where a cache comes from.
#[derive(Debug)]
pub enum CacheSource {
    /// A cache in a registry, or an image there with one in its config.
    Registry(ImageRef),
    /// The same, unless an image of this name is here.
    Image(ImageRef),
    /// An OCI layout that the client sent, and the tag or digest in it.
    Layout(Layout, String),
}

/// Where a cache goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheTarget {
    pub to: CacheTo,
    /// Steps of every stage, and not only of those that the image consists of.
    pub has_all_stages: bool,
    pub packing: Packing,
    /// Described as an image is, for registries that take nothing else; else by an index.
    pub is_image_manifest: bool,
    /// That it did not get there is told, and no more.
    pub ignores_errors: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheTo {
    Registry(ImageRef),
    /// Into the config of the image itself.
    Inline,
    /// An OCI layout for the client, with this tag.
    Layout(String),
}

/// An OCI layout as an archive, on its way to the client.
#[derive(Debug)]
pub struct LayoutFile {
    /// Which of the request's targets it is for.
    pub target: usize,
    pub file: File,
}

/// What follows `--cache-from` and `--cache-to`: `name=value`, separated by commas.
struct Fields<'t> {
    whole: &'t str,
    all: Vec<(&'t str, &'t str)>,
}

impl<'t> Fields<'t> {
    fn parse(whole: &'t str) -> Result<Self> {
        let wrong = |field: &str| Error::invalid(format!("{whole:?}: {field:?} is no name=value"));
        let pairs = whole.split(',');
        let all = pairs.map(|field| field.split_once('=').ok_or_else(|| wrong(field)));
        Ok(Self {
            whole,
            all: all.collect::<Result<_>>()?,
        })
    }

    fn take(&mut self, name: &str) -> Option<&'t str> {
        let place = self.all.iter().position(|(known, _)| *known == name)?;
        Some(self.all.remove(place).1)
    }

    fn flag(&mut self, name: &str, default: bool) -> Result<bool> {
        match self.take(name) {
            None => Ok(default),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(self.wrong(&format!("{name}={other} is neither true nor false"))),
        }
    }

    fn reference(&mut self) -> Result<ImageRef> {
        let text = self
            .take("ref")
            .ok_or_else(|| self.wrong("ref= is missing"))?;
        ImageRef::parse(text).map_err(|_| self.wrong(&format!("{text:?} is no reference")))
    }

    fn wrong(&self, problem: &str) -> Error {
        Error::invalid(format!("cache {:?}: {problem}", self.whole))
    }

    fn end(self) -> Result<()> {
        match self.all.first() {
            None => Ok(()),
            Some((name, _)) => Err(self.wrong(&format!("{name}= is not known"))),
        }
    }
}

impl CacheSource {
    /// `type=registry,ref=…`, `type=local`, or a reference by itself. `layout` is what came with it.
    ///
    /// # Errors
    /// If it is of a type that is not there, or has other fields.
    pub fn parse(text: &str, layout: impl FnOnce(&str) -> Result<Layout>) -> Result<Self> {
        if !text.contains('=') {
            let reference = ImageRef::parse(text);
            let wrong = |_| Error::invalid(format!("cache {text:?} is no reference"));
            return reference.map(Self::Registry).map_err(wrong);
        }
        let mut fields = Fields::parse(text)?;
        let source = match fields.take("type").unwrap_or("registry") {
            "registry" => Self::Registry(fields.reference()?),
            "local" => {
                let id = fields.take("id").unwrap_or_default();
                let tag = fields.take("digest").or_else(|| fields.take("tag"));
                Self::Layout(layout(id)?, tag.unwrap_or(layout::TAG).to_owned())
            }
            other => return Err(unknown(&fields, other)),
        };
        fields.end()?;
        Ok(source)
    }
}

impl CacheTarget {
    /// `type=registry,ref=…`, `type=local` or `type=inline`, with what BuildKit has beside them.
    ///
    /// # Errors
    /// If it is of a type that is not there, or has other fields.
    pub fn parse(text: &str) -> Result<Self> {
        if !text.contains('=') {
            return Self::parse(&format!("type=registry,ref={text}"));
        }
        let mut fields = Fields::parse(text)?;
        let to = match fields.take("type").unwrap_or("registry") {
            "registry" => CacheTo::Registry(fields.reference()?),
            "inline" => CacheTo::Inline,
            "local" => CacheTo::Layout(fields.take("tag").unwrap_or(layout::TAG).to_owned()),
            other => return Err(unknown(&fields, other)),
        };
        let has_all_stages = match fields.take("mode").unwrap_or("min") {
            "min" => false,
            "max" if to == CacheTo::Inline => {
                return Err(fields.wrong("an image holds no cache of other stages: mode=min"));
            }
            "max" => true,
            other => return Err(fields.wrong(&format!("mode={other} is neither min nor max"))),
        };
        let packing = match fields.take("compression").unwrap_or("gzip") {
            "gzip" => Packing::Gzip,
            "zstd" => Packing::Zstd,
            "uncompressed" => Packing::Plain,
            other => {
                let known = "there are gzip, zstd and uncompressed";
                return Err(fields.wrong(&format!("compression={other}: {known}")));
            }
        };
        if !fields.flag("oci-mediatypes", true)? {
            return Err(fields.wrong("only media types of OCI are written"));
        }
        // Layers that came compressed stay so, as BuildKit's do without being forced.
        fields.flag("force-compression", false)?;
        fields.take("compression-level");
        let target = Self {
            to,
            has_all_stages,
            packing,
            is_image_manifest: fields.flag("image-manifest", true)?,
            ignores_errors: fields.flag("ignore-error", false)?,
        };
        fields.end()?;
        Ok(target)
    }
}

fn unknown(fields: &Fields<'_>, kind: &str) -> Error {
    fields.wrong(&format!(
        "type={kind} is not there: registry, local and, to build into the image, inline are"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_buildkit_s() {
        let of = |text: &str| CacheTarget::parse(text).unwrap();
        let reference = ImageRef::parse("r.example.com/a:cache").unwrap();
        let plain = of("r.example.com/a:cache");
        assert_eq!(plain, of("type=registry,ref=r.example.com/a:cache"));
        assert_eq!(plain.to, CacheTo::Registry(reference));
        assert!(plain.is_image_manifest && !plain.has_all_stages && !plain.ignores_errors);
        let full = of(
            "type=registry,ref=a,mode=max,image-manifest=false,compression=zstd,ignore-error=true,oci-mediatypes=true",
        );
        assert!(full.has_all_stages && !full.is_image_manifest && full.ignores_errors);
        assert_eq!(full.packing, Packing::Zstd);
        assert_eq!(of("type=inline").to, CacheTo::Inline);
        assert_eq!(of("type=local").to, CacheTo::Layout("latest".to_owned()));
        for wrong in [
            "type=registry",
            "type=gha",
            "type=registry,ref=a,mode=most",
            "type=inline,mode=max",
            "type=registry,ref=a,compression=lz4",
            "type=registry,ref=a,unheard=of",
            "type=registry,ref=A B",
            "type=registry,ref=a,ignore-error=perhaps",
            "type=registry,ref",
        ] {
            assert!(CacheTarget::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sources_are_read_as_buildkit_s() {
        let of = |text: &str| CacheSource::parse(text, |_| Err(Error::invalid("none")));
        for text in ["a:1", "type=registry,ref=a:1", "ref=a:1"] {
            let source = of(text).unwrap();
            assert!(matches!(source, CacheSource::Registry(_)), "{text}");
        }
        for wrong in ["type=local", "type=s3", "A B", "type=registry,ref=a,x=y"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
