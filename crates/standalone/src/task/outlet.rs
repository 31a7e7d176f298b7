//! Runs whose output a plugin is sent.

use std::sync::Arc;

use berth_lifecycle::record::ContainerRecord;

use super::Task;
use crate::error::Result;
use crate::logs::forward::{Forward, Link, Outlet};

impl Task {
    fn outlet(&self) -> Option<Outlet> {
        Outlet::of(&self.record, &self.files, &self.house.volumes.plugins)
    }

    /// A run that begins only once its plugin listens, if it has one.
    pub(super) async fn run_told(&mut self) -> Result<(Arc<ContainerRecord>, Option<Link>)> {
        let link = match self.outlet() {
            Some(outlet) => Some(outlet.open().await?),
            None => None,
        };
        match self.run_once().await {
            Ok(view) => Ok((view, link)),
            Err(error) => {
                if let Some(link) = link {
                    link.close().await;
                }
                Err(error)
            }
        }
    }

    /// Of a run that has begun, under this daemon or, without a link, under a former one.
    pub(super) fn send_on(&mut self, link: Option<Link>) {
        self.forward =
            (self.outlet()).map(|outlet| Forward::begin(Arc::clone(&self.container), outlet, link));
    }
}
