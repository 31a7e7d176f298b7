//! How many pods a second come and go, by clients that never pause.

use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use berth_api::cri::v1::NamespaceMode;

use super::load;
use crate::cri::Cri;

/// Whole cycles of a measurement, shared by its clients: a second or more on every runtime.
const CYCLES: u32 = 48;

pub struct Load<'a> {
    pub socket: &'a Path,
    pub logs: &'a Path,
    pub image: &'a str,
    /// Begins the pods' names.
    pub prefix: &'a str,
}

impl Load<'_> {
    pub fn cycles_per_second(&self, clients: u32) -> Result<f64> {
        let each = CYCLES / clients;
        let begin = Instant::now();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..clients)
                .map(|client| scope.spawn(move || self.client(client, each)))
                .collect();
            clients.into_iter().try_for_each(|client| {
                let ended = client.join();
                ended.map_err(|_| anyhow!("a client panicked"))?
            })
        })?;
        Ok(f64::from(each * clients) / begin.elapsed().as_secs_f64())
    }

    fn client(&self, client: u32, cycles: u32) -> Result<()> {
        let mut cri = Cri::connect(self.socket)?;
        (0..cycles).try_for_each(|number| {
            let name = format!("{}-{client}-{number}", self.prefix);
            self.cycle(&mut cri, &name).with_context(|| name.clone())
        })
    }

    fn cycle(&self, cri: &mut Cri, name: &str) -> Result<()> {
        let (pod_config, config) = load::requests(name, self.image, self.logs, NamespaceMode::Pod);
        let pod = cri.run_pod(&pod_config).context("RunPodSandbox")?;
        let container = cri
            .create(&pod, &pod_config, &config)
            .context("CreateContainer")?;
        cri.start(&container).context("StartContainer")?;
        cri.stop(&container, 0).context("StopContainer")?;
        cri.remove(&container).context("RemoveContainer")?;
        cri.stop_pod(&pod).context("StopPodSandbox")?;
        cri.remove_pod(&pod).context("RemovePodSandbox")
    }
}
