//! From a build that has ended to what is said of its image.

use berth_images::{Attestation, Image, Platform, package_url};
use berth_names::{Digest, ImageRef};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{BILL_TYPE, Facts, PROVENANCE_TYPE, bill, predicate, public, scan};
use crate::error::{Error, Result, blocking};
use crate::job::Job;

impl Job {
    /// Says of the image what is asked for, in place of what an earlier build said.
    pub(crate) async fn attest(&self, id: &Digest) -> Result<()> {
        let images = &self.core.images;
        let wanted = &self.request.attest;
        if wanted.is_nothing() && !images.is_attested(id) {
            return Ok(());
        }
        let mut said = Vec::new();
        if wanted.provenance.is_some() {
            said.push(Attestation {
                predicate_type: PROVENANCE_TYPE.to_owned(),
                predicate: predicate(&self.facts(id)),
            });
        }
        if wanted.has_bill {
            said.push(Attestation {
                predicate_type: BILL_TYPE.to_owned(),
                predicate: self.bill(id).await?,
            });
        }
        Ok(images.attest(id, said).await?)
    }

    fn facts(&self, id: &Digest) -> Facts<'_> {
        let request = &self.request;
        let mut secrets: Vec<&str> = request.lent.secrets.keys().map(String::as_str).collect();
        secrets.sort_unstable();
        let source = request.source.as_deref();
        let started = match self.epoch {
            Some(_) => self.created(),
            None => self.began.format(&Rfc3339).unwrap_or_default(),
        };
        Facts {
            wanted: request.attest.provenance.clone().unwrap_or_default(),
            source: source.map(public),
            file: (&self.text.0, &self.text.1),
            target: &request.target,
            arguments: request.arguments.clone(),
            labels: request.labels.clone(),
            secrets,
            agents: request.lent.agents.iter().map(String::as_str).collect(),
            platform: self.core.images.platform().to_string(),
            materials: self.materials.all(),
            invocation: match self.epoch {
                Some(_) => id.hex().to_owned(),
                None => format!("{:032x}", fastrand::u128(..)),
            },
            started,
            finished: self.created(),
            is_reproducible: self.epoch.is_some(),
        }
    }

    async fn bill(&self, id: &Digest) -> Result<serde_json::Value> {
        let opened = self.open(id).await?;
        let found = {
            let opened = std::sync::Arc::clone(&opened);
            blocking("looking for packages", move || scan(opened.tree())).await
        };
        self.close(opened).await;
        let moment = i64::try_from(self.now()).ok();
        let moment = moment.and_then(|moment| OffsetDateTime::from_unix_timestamp(moment).ok());
        let created = moment.and_then(|moment| moment.format(&Rfc3339).ok());
        let created = created.ok_or_else(|| Error::invalid("there is no such moment"))?;
        let name = self.request.tags.first().map(ImageRef::familiar);
        let name = name.unwrap_or_else(|| id.to_string());
        Ok(bill(&name, id, &created, &found?))
    }

    /// Notes an image that the build used.
    pub(crate) fn used(&self, name: &str, platform: &Platform, image: &Image) {
        let Ok(reference) = ImageRef::parse(name) else {
            return;
        };
        let repository = reference.repository();
        let known = image.repo_digests.iter().find_map(|known| {
            let (own, digest) = known.split_once('@')?;
            (own == repository).then(|| Digest::parse(digest).ok())?
        });
        let digest = known.unwrap_or_else(|| image.manifest.clone());
        let address = package_url(&reference, platform);
        let checksum = (digest.algorithm().as_str(), digest.hex().to_owned());
        self.materials.add(address, Some(checksum));
    }
}
