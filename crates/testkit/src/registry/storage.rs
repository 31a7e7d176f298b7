use std::collections::HashMap;

use berth_names::Digest;
use bytes::Bytes;

#[derive(Default)]
pub(super) struct Storage {
    blobs: HashMap<Digest, Bytes>,
    manifests: HashMap<(String, String), Manifest>,
    /// Number of the last upload.
    uploads: u64,
    /// What has come of uploads so far.
    arriving: HashMap<u64, Vec<u8>>,
}

#[derive(Clone)]
pub(super) struct Manifest {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) bytes: Bytes,
}

impl Storage {
    pub(super) fn add_blob(&mut self, bytes: Bytes) -> Digest {
        let digest = Digest::sha256_of(&bytes);
        self.blobs.insert(digest.clone(), bytes);
        digest
    }

    pub(super) fn add_manifest(
        &mut self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: Bytes,
    ) -> Digest {
        let digest = Digest::sha256_of(&bytes);
        let manifest = Manifest {
            media_type: media_type.to_owned(),
            digest: digest.clone(),
            bytes,
        };
        for reference in [Some(digest.as_str()), tag].into_iter().flatten() {
            let key = (repository.to_owned(), reference.to_owned());
            self.manifests.insert(key, manifest.clone());
        }
        digest
    }

    pub(super) fn replace(&mut self, digest: &Digest, bytes: Bytes) {
        for manifest in self.manifests.values_mut().filter(|m| m.digest == *digest) {
            manifest.bytes = bytes.clone();
        }
        if let Some(blob) = self.blobs.get_mut(digest) {
            *blob = bytes;
        }
    }

    pub(super) fn manifest(&self, repository: &str, reference: &str) -> Option<Manifest> {
        self.manifests
            .get(&(repository.to_owned(), reference.to_owned()))
            .cloned()
    }

    /// In order.
    pub(super) fn tags(&self, repository: &str) -> Vec<String> {
        let known = self.manifests.keys();
        let own = known.filter(|(name, reference)| name == repository && !reference.contains(':'));
        let mut tags: Vec<String> = own.map(|(_, tag)| tag.clone()).collect();
        tags.sort();
        tags
    }

    pub(super) fn blob(&self, digest: &str) -> Option<Bytes> {
        self.blobs.get(&Digest::parse(digest).ok()?).cloned()
    }

    pub(super) fn begin_upload(&mut self) -> u64 {
        self.uploads += 1;
        self.arriving.insert(self.uploads, Vec::new());
        self.uploads
    }

    /// Appends to an upload and returns how much there is; `None` for one that was not begun.
    pub(super) fn append(&mut self, upload: u64, bytes: &[u8]) -> Option<usize> {
        let data = self.arriving.get_mut(&upload)?;
        data.extend_from_slice(bytes);
        Some(data.len())
    }

    /// Ends an upload; whether its data has this digest.
    pub(super) fn finish(&mut self, upload: u64, digest: &str) -> bool {
        let Some(data) = self.arriving.remove(&upload) else {
            return false;
        };
        let Ok(digest) = Digest::parse(digest) else {
            return false;
        };
        let right = digest.matches(&data);
        if right {
            self.blobs.insert(digest, data.into());
        }
        right
    }
}
