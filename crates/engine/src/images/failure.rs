//! Why a registry did not give an image, in the words that Docker's users search for.

use std::sync::Arc;

use berth_images::Error as Images;
use berth_names::ImageRef;
use berth_registry::Error as Registry;

use crate::Error;

/// The error of a pull, or of another question about `reference`.
pub fn of_pull(reference: &ImageRef, error: Arc<Images>) -> Error {
    match &*error {
        Images::Registry { source, .. } => match translated(reference, source) {
            Some(told) => told,
            None => Error::SharedImages(error),
        },
        Images::NoPlatform { wanted, .. } => Error::NotFound(format!(
            "no matching manifest for {wanted} in the manifest list entries: {error}"
        )),
        _ => Error::SharedImages(error),
    }
}

pub fn of_registry(reference: &ImageRef, error: Registry) -> Error {
    translated(reference, &error).unwrap_or(Error::Registry(error))
}

fn translated(reference: &ImageRef, error: &Registry) -> Option<Error> {
    match error {
        Registry::NotFound { .. } => Some(Error::NotFound(format!(
            "manifest for {} not found: manifest unknown: manifest unknown",
            reference.familiar()
        ))),
        // Registries do not tell a stranger what there is and what is not.
        Registry::Unauthorized { reason, .. } => Some(Error::NotFound(format!(
            "pull access denied for {}, repository does not exist or may require 'docker login': \
             denied: {reason}",
            reference.familiar_name()
        ))),
        _ => None,
    }
}
