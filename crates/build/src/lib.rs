//! Images from Dockerfiles.

pub mod dockerfile;
pub mod ignore;
