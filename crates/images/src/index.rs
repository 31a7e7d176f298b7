//! Images of several platforms under one name: pushed, or written as an archive. Here they are
//! images of their own.

use std::io::Write;
use std::sync::Arc;

use berth_names::{Digest, ImageRef};
use berth_registry::Credentials;
use berth_registry::media_type::OCI_INDEX;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::images::blocking;
use crate::platform::Platform;
use crate::push::{Push, PushWatch, PushedImage};
use crate::{Image, Images, Result, archive, pull};

/// An image in an index.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    pub platform: Platform,
    /// The manifest of the image that this says something of, if it is none itself.
    pub about: Option<Digest>,
}

/// The document; the order of the images is that of the entries.
pub(crate) fn document(entries: &[Entry]) -> Bytes {
    let manifests = entries.iter().map(|entry| {
        let mut platform = json!({
            "architecture": entry.platform.architecture,
            "os": entry.platform.os,
        });
        if !entry.platform.variant.is_empty() {
            platform["variant"] = entry.platform.variant.clone().into();
        }
        let mut manifest = json!({
            "mediaType": entry.media_type,
            "digest": entry.digest,
            "size": entry.size,
            "platform": platform,
        });
        if let Some(about) = &entry.about {
            manifest["annotations"] = json!({
                "vnd.docker.reference.digest": about,
                "vnd.docker.reference.type": "attestation-manifest",
            });
        }
        manifest
    });
    let document = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": manifests.collect::<Vec<Value>>(),
    });
    document.to_string().into()
}

impl Images {
    /// What an image was built for; this machine's, where it does not say.
    pub(crate) fn platform_of(&self, image: &Image) -> Platform {
        let told = image.config.platform();
        told.unwrap_or_else(|| self.platform().clone())
    }

    /// Pushes images by their digests, and an index of them to where the reference says.
    ///
    /// # Errors
    /// If one was removed meanwhile, or the registry does not take it.
    pub async fn push_index(
        &self,
        reference: &ImageRef,
        images: &[Arc<Image>],
        credentials: &Credentials,
        watch: &PushWatch,
    ) -> Result<PushedImage> {
        let shared = &self.shared;
        let push = Push {
            shared,
            reference,
            credentials,
            watch,
        };
        let (mut entries, mut said) = (Vec::new(), Vec::new());
        for image in images {
            let catalog = shared.catalog();
            let record = catalog.record(&image.id);
            let record = record.ok_or_else(|| archive::gone(&image.id))?;
            let _hold = shared.holds.hold(pull::items(record)).await;
            let (media_type, bytes) = push.content(record).await?;
            let entry = push
                .entry(media_type, bytes, self.platform_of(image))
                .await?;
            said.extend(push.said(record, &entry).await?);
            entries.push(entry);
        }
        entries.extend(said);
        let bytes = document(&entries);
        push.manifest(reference, OCI_INDEX, bytes).await
    }

    /// Writes an OCI layout whose index leads to one of these images, by platform. `sink` is written
    /// to by a thread of its own.
    ///
    /// # Errors
    /// If an image was removed meanwhile, or `sink` fails.
    pub async fn save_index(
        &self,
        images: &[Arc<Image>],
        names: Vec<ImageRef>,
        sink: impl Write + Send + 'static,
    ) -> Result<()> {
        let mut holds = Vec::new();
        let mut members = Vec::new();
        for image in images {
            let catalog = self.shared.catalog();
            let record = catalog.record(&image.id);
            let record = record.ok_or_else(|| archive::gone(&image.id))?;
            holds.push(self.shared.holds.hold(pull::items(record)).await);
            members.push(self.member(image, record));
        }
        let shared = Arc::clone(&self.shared);
        blocking("write an archive", move || {
            let _holds = holds;
            let mut archive = archive::Archive::new(shared, sink);
            archive.index(&members, &names)?;
            archive.finish()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn an_index_names_each_image_with_its_platform() {
        let entry = |platform: &str| Entry {
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            digest: Digest::sha256_of(platform.as_bytes()),
            size: 7,
            platform: Platform::parse(platform).unwrap(),
            about: None,
        };
        let bytes = document(&[entry("linux/amd64"), entry("linux/arm/v6")]);
        let digest = Digest::sha256_of(&bytes);
        let choose = |platform: &str| {
            let platform = Platform::parse(platform).unwrap();
            crate::manifest::choose("ref", &digest, OCI_INDEX, &bytes, &platform)
        };
        let found = |platform: &str| choose(platform).unwrap().digest;
        assert_eq!(found("amd64"), Digest::sha256_of(b"linux/amd64"));
        assert_eq!(found("linux/arm/v7"), Digest::sha256_of(b"linux/arm/v6"));
        let error: Error = choose("arm64").unwrap_err();
        assert!(error.to_string().contains("linux/arm64"), "{error}");
    }
}
