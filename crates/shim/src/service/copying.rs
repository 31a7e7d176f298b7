//! Output of a container that another shim runs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use super::{Container, Service};
use crate::engine::Engine;
use crate::io::log::{LogFile, Stream};
use crate::io::pump::{Pump, Role};
use crate::io::stdio::{StdioRequest, open_source};
use crate::process::{Process, State};
use crate::status::Error;

impl<E: Engine> Service<E> {
    /// Reads the FIFOs from now until their last writer has gone. An empty path is no stream, and
    /// an empty `log` keeps nothing: the output is read all the same, or the writers would block.
    pub fn copy(
        &mut self,
        id: &str,
        bundle: &Path,
        outputs: &[(Stream, &Path)],
        log: &Path,
    ) -> Result<(), Error> {
        let given = |path: &Path| !path.as_os_str().is_empty();
        let mut init = Process::added(self.key(), StdioRequest::default(), Vec::new());
        init.state = State::Running;
        if given(log) {
            init.logs.push(Rc::new(RefCell::new(LogFile::open(log)?)));
        }
        for (stream, path) in outputs.iter().filter(|(_, path)| given(path)) {
            let mut pump = Pump::new(init.key, Role::Output(*stream), open_source(path)?);
            if let Some(log) = init.logs.first() {
                pump = pump.with_log(Rc::clone(log));
            }
            self.pumps.add(pump);
        }
        self.copying = true;
        self.container = Some(Container {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            init,
            execs: BTreeMap::new(),
            paused: false,
            killed: false,
        });
        Ok(())
    }
}
