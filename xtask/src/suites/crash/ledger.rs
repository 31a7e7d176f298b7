//! What a client knows of its pods: what was acknowledged, and what was cut short.

use berth_api::cri::v1 as cri;

/// What a pod may be found as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodIs {
    Absent,
    Ready,
    NotReady,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerIs {
    Absent,
    Created,
    Running,
    Exited,
}

#[derive(Debug)]
pub struct Pod {
    pub name: String,
    pub config: cri::PodSandboxConfig,
    pub id: Option<String>,
    /// One state where it was acknowledged; more while something is under way.
    pub may_be: Vec<PodIs>,
    pub ip: String,
    pub containers: Vec<Container>,
}

#[derive(Debug)]
pub struct Container {
    pub name: String,
    pub config: cri::ContainerConfig,
    pub id: Option<String>,
    pub may_be: Vec<ContainerIs>,
    /// Pid and start time of its first process.
    pub process: Option<(i32, String)>,
    /// What it ends with when it is told to end.
    pub code: i32,
    /// What it may have ended with.
    pub ends: Vec<i32>,
}

impl Pod {
    pub fn is(&self, state: PodIs) -> bool {
        self.may_be == [state]
    }

    pub fn id(&self) -> String {
        self.id.clone().unwrap_or_default()
    }

    /// Its stop was acknowledged. A removal that failed before may have come so far that the next
    /// start of the daemon finishes it: the stop takes nothing of that back.
    pub fn has_stopped(&mut self) {
        self.may_be.retain(|state| *state == PodIs::Absent);
        self.may_be.push(PodIs::NotReady);
        self.containers
            .iter_mut()
            .for_each(Container::has_ended_if_it_ran);
    }
}

impl Container {
    pub fn is(&self, state: ContainerIs) -> bool {
        self.may_be == [state]
    }

    pub fn id(&self) -> String {
        self.id.clone().unwrap_or_default()
    }

    /// It may also be this, from now on until it is settled.
    pub fn may_be_also(&mut self, state: ContainerIs) {
        if !self.may_be.contains(&state) {
            self.may_be.push(state);
        }
    }

    /// It may have ended, so or so.
    pub fn may_end(&mut self, codes: &[i32]) {
        if !self.is(ContainerIs::Exited) {
            self.may_be_also(ContainerIs::Exited);
            self.ends.extend(codes);
        }
    }

    pub fn has_ended_if_it_ran(&mut self) {
        self.may_be.retain(|state| *state != ContainerIs::Running);
    }
}

pub fn pod_state(state: cri::PodSandboxState) -> PodIs {
    match state {
        cri::PodSandboxState::SandboxReady => PodIs::Ready,
        cri::PodSandboxState::SandboxNotready => PodIs::NotReady,
    }
}

pub fn container_state(state: cri::ContainerState) -> ContainerIs {
    match state {
        cri::ContainerState::ContainerCreated => ContainerIs::Created,
        cri::ContainerState::ContainerRunning => ContainerIs::Running,
        // Nothing is unknown to a runtime that keeps records; if it says so it is no end.
        cri::ContainerState::ContainerUnknown => ContainerIs::Absent,
        cri::ContainerState::ContainerExited => ContainerIs::Exited,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(may_be: &[PodIs]) -> Pod {
        Pod {
            name: "p".to_owned(),
            config: cri::PodSandboxConfig::default(),
            id: None,
            may_be: may_be.to_vec(),
            ip: String::new(),
            containers: Vec::new(),
        }
    }

    #[test]
    fn a_stop_after_a_removal_that_failed_leaves_open_whether_the_pod_is_gone() {
        let mut stopped = pod(&[PodIs::Ready]);
        stopped.has_stopped();
        assert_eq!(stopped.may_be, [PodIs::NotReady]);

        let mut half_removed = pod(&[PodIs::Ready, PodIs::NotReady, PodIs::Absent]);
        half_removed.has_stopped();
        assert_eq!(half_removed.may_be, [PodIs::Absent, PodIs::NotReady]);
    }
}
