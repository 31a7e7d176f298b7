//! Refusals of one container's spec.

use crate::error::Error;
use berth_kernel::Errno;
use std::path::Path;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Refuse<'a> {
    pub(crate) id: &'a str,
}

impl Refuse<'_> {
    pub(crate) fn invalid(
        &self,
        field: &'static str,
        value: impl ToString,
        problem: &'static str,
    ) -> Error {
        Error::InvalidSpec {
            id: self.id.to_owned(),
            field,
            value: value.to_string(),
            problem,
        }
    }

    pub(crate) fn unsupported(&self, feature: &'static str) -> Error {
        Error::Unsupported {
            id: self.id.to_owned(),
            feature,
        }
    }

    /// A call of the runtime itself that failed.
    pub(crate) fn host(&self, operation: &'static str, path: &Path, source: Errno) -> Error {
        Error::Host {
            id: self.id.to_owned(),
            operation,
            path: Some(path.to_owned()),
            source,
        }
    }
}
