//! What is done to the processes of a container without changing its state.

use std::sync::Arc;

use super::Container;
use crate::error::{Error, Result};
use crate::record::{ContainerRecord, ContainerState};
use crate::shim;

impl Container {
    /// Sends a signal to the first process; `SIGKILL` reaches all.
    pub async fn signal(&self, number: u32) -> Result<()> {
        let shim = self.running("signal it")?;
        shim::signal(&shim, number).await
    }

    /// Stops all processes where they are, by the freezer.
    pub async fn pause(&self) -> Result<()> {
        let shim = self.running("pause it")?;
        shim.pause()
            .await
            .map_err(Error::of_shim("pause", shim.id()))
    }

    pub async fn resume(&self) -> Result<()> {
        let shim = self.running("resume it")?;
        let resumed = shim.resume().await;
        resumed.map_err(Error::of_shim("resume", shim.id()))
    }

    /// Every process, by its number on the host.
    pub async fn pids(&self) -> Result<Vec<u32>> {
        let shim = self.running("list its processes")?;
        let pids = shim.pids().await;
        pids.map_err(Error::of_shim("list the processes of", shim.id()))
    }

    /// Sets the size of its terminal, in characters.
    pub async fn resize(&self, width: u16, height: u16) -> Result<()> {
        let shim = self.running("resize its terminal")?;
        let resized = shim.resize_pty(None, width.into(), height.into()).await;
        resized.map_err(Error::of_shim("resize the terminal of", shim.id()))
    }

    /// Waits for the end of a container that was started, and says how it is then.
    pub async fn finished(&self) -> Arc<ContainerRecord> {
        let mut shim = self.watch_shim();
        loop {
            // An error means that the container is removed.
            let gone = shim.wait_for(Option::is_none).await.is_err();
            let view = self.view();
            if gone || view.state == ContainerState::Exited {
                return view;
            }
            if shim.changed().await.is_err() {
                return self.view();
            }
        }
    }
}
