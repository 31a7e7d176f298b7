//! A pod and a container to be asked about, and a sound request for every call.

use anyhow::{Context, Result};
use berth_api::cri::v1 as cri;
use prost_reflect::prost::Message;
use prost_reflect::{DynamicMessage, MethodDescriptor, Value};
use tonic::Code;

use super::super::session::Session;
use super::wire::Wire;
use crate::cri::Answer;

pub struct Calls<'a> {
    pub session: &'a mut Session,
    pub wire: Wire,
    pub pod: String,
    pub container: String,
}

impl<'a> Calls<'a> {
    pub fn new(session: &'a mut Session) -> Result<Self> {
        let wire = Wire::connect(&session.place.socket())?;
        let mut calls = Self {
            session,
            wire,
            pod: String::new(),
            container: String::new(),
        };
        calls.renew()?;
        Ok(calls)
    }

    /// Sees to it that there is a pod that is ready with a container that runs.
    pub fn renew(&mut self) -> Result<()> {
        let cri = &mut self.session.cri;
        let runs =
            |status: cri::ContainerStatus| status.state() == cri::ContainerState::ContainerRunning;
        if !self.container.is_empty() && cri.status(&self.container).is_ok_and(runs) {
            return Ok(());
        }
        self.remove()?;
        let config = self.session.pod("spoilt");
        let cri = &mut self.session.cri;
        self.pod = cri.run_pod(&config).context("RunPodSandbox")?;
        self.container = self.create("main", &["sleep", "3600"])?;
        let cri = &mut self.session.cri;
        cri.start(&self.container).context("StartContainer")
    }

    pub fn create(&mut self, name: &str, command: &[&str]) -> Result<String> {
        let pod_config = self.session.pod("spoilt");
        let config = self.session.container(name, command);
        let cri = &mut self.session.cri;
        cri.create(&self.pod, &pod_config, &config)
            .context("CreateContainer")
    }

    pub fn remove(&mut self) -> Result<()> {
        if !self.pod.is_empty() {
            self.session.remove_pod(&self.pod)?;
        }
        (self.pod, self.container) = (String::new(), String::new());
        Ok(())
    }

    /// A request that would succeed, or be refused only because something is not there.
    pub fn sound(&self, rpc: &MethodDescriptor) -> Result<DynamicMessage> {
        let typed = match rpc.name() {
            "RunPodSandbox" => Some(
                cri::RunPodSandboxRequest {
                    config: Some(self.session.pod("other")),
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
            "CreateContainer" => Some(
                cri::CreateContainerRequest {
                    pod_sandbox_id: self.pod.clone(),
                    config: Some(self.session.container("other", &["true"])),
                    sandbox_config: None,
                }
                .encode_to_vec(),
            ),
            "ExecSync" => Some(
                cri::ExecSyncRequest {
                    container_id: self.container.clone(),
                    cmd: vec!["true".to_owned()],
                    timeout: 10,
                }
                .encode_to_vec(),
            ),
            "Exec" => Some(
                cri::ExecRequest {
                    container_id: self.container.clone(),
                    cmd: vec!["true".to_owned()],
                    stdout: true,
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
            "Attach" => Some(
                cri::AttachRequest {
                    container_id: self.container.clone(),
                    stdout: true,
                    ..Default::default()
                }
                .encode_to_vec(),
            ),
            _ => None,
        };
        let mut request = match typed {
            Some(bytes) => DynamicMessage::decode(rpc.input(), bytes.as_slice())
                .context("reading a sound request")?,
            None => DynamicMessage::new(rpc.input()),
        };
        for (field, id) in [
            ("container_id", &self.container),
            ("pod_sandbox_id", &self.pod),
        ] {
            if request.descriptor_has(field) {
                request.set_field_by_name(field, Value::String(id.clone()));
            }
        }
        Ok(request)
    }

    /// Undoes what a call made.
    pub fn take_back(&mut self, answer: &Answer<DynamicMessage>) -> Result<()> {
        let Ok(made) = answer else { return Ok(()) };
        let id = |name: &str| match made.get_field_by_name(name) {
            Some(value) => value.as_str().unwrap_or_default().to_owned(),
            None => String::new(),
        };
        match made.descriptor_name().as_str() {
            "RunPodSandboxResponse" => self.session.remove_pod(&id("pod_sandbox_id")),
            "CreateContainerResponse" => {
                let cri = &mut self.session.cri;
                cri.remove(&id("container_id")).context("RemoveContainer")
            }
            _ => Ok(()),
        }
    }
}

/// Small questions about messages of any type.
pub trait Shape {
    fn descriptor_has(&self, field: &str) -> bool;
    fn descriptor_name(&self) -> String;
}

impl Shape for DynamicMessage {
    fn descriptor_has(&self, field: &str) -> bool {
        use prost_reflect::ReflectMessage;
        self.descriptor().get_field_by_name(field).is_some()
    }

    fn descriptor_name(&self) -> String {
        use prost_reflect::ReflectMessage;
        self.descriptor().name().to_owned()
    }
}

/// Whether a refusal says whose fault it is. The others are for what the daemon itself did wrong,
/// or does not know.
pub fn is_sound(code: Code) -> bool {
    !matches!(
        code,
        Code::Internal
            | Code::Unknown
            | Code::Unimplemented
            | Code::DataLoss
            | Code::DeadlineExceeded
            | Code::Cancelled
    )
}
