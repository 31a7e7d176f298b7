//! What containerd's other clients are told as it happens: the events of the Task API.
//!
//! The order is part of the contract: a start is told before the end, an end before the deletion.

use std::collections::VecDeque;
use std::time::SystemTime;

use containerd_shim_protos::api::ForwardRequest;
use containerd_shim_protos::events::task as api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;
use containerd_shim_protos::protobuf::{Error, Message, MessageFull};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::topics;
use containerd_shim_protos::types::mount::Mount;

use crate::engine::RootMount;
use crate::io::stdio::StdioRequest;
use crate::process::Exit;

/// What waits when containerd is away for long; the oldest goes first.
const MOST: usize = 256;

/// One event, as it is sent but for the namespace.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    topic: &'static str,
    event: Any,
    at: SystemTime,
}

impl Event {
    fn new<M: MessageFull>(topic: &'static str, message: &M) -> Self {
        let mut event = Any::new();
        event.type_url = format!("containerd.events.{}", M::NAME);
        // Encoding a message of a few strings into memory does not fail.
        event.value = message.write_to_bytes().unwrap_or_default();
        Self {
            topic,
            event,
            at: SystemTime::now(),
        }
    }

    pub fn topic(&self) -> &'static str {
        self.topic
    }

    /// The encoded request by which containerd takes it.
    pub fn forward(&self, namespace: &str) -> Result<Vec<u8>, Error> {
        let mut envelope = Envelope::new();
        envelope.timestamp = Some(Timestamp::from(self.at)).into();
        namespace.clone_into(&mut envelope.namespace);
        self.topic.clone_into(&mut envelope.topic);
        envelope.event = Some(self.event.clone()).into();
        let mut request = ForwardRequest::new();
        request.envelope = Some(envelope).into();
        request.write_to_bytes()
    }

    pub fn created(id: &str, bundle: &str, pid: u32, made_of: MadeOf<'_>) -> Self {
        let mut message = api::TaskCreate::new();
        id.clone_into(&mut message.container_id);
        bundle.clone_into(&mut message.bundle);
        message.pid = pid;
        made_of.checkpoint.clone_into(&mut message.checkpoint);
        let io = message.io.mut_or_insert_default();
        io.stdin.clone_from(&made_of.stdio.stdin);
        io.stdout.clone_from(&made_of.stdio.stdout);
        io.stderr.clone_from(&made_of.stdio.stderr);
        io.terminal = made_of.stdio.terminal;
        message.rootfs.extend(made_of.rootfs.iter().map(|mount| {
            let mut told = Mount::new();
            told.type_.clone_from(&mount.kind);
            told.source.clone_from(&mount.source);
            told.target.clone_from(&mount.target);
            told.options.clone_from(&mount.options);
            told
        }));
        Self::new(topics::TASK_CREATE_EVENT_TOPIC, &message)
    }

    /// Of the container, or of an exec that has an id.
    pub fn started(id: &str, exec_id: &str, pid: u32) -> Self {
        if exec_id.is_empty() {
            let mut message = api::TaskStart::new();
            id.clone_into(&mut message.container_id);
            message.pid = pid;
            return Self::new(topics::TASK_START_EVENT_TOPIC, &message);
        }
        let mut message = api::TaskExecStarted::new();
        id.clone_into(&mut message.container_id);
        exec_id.clone_into(&mut message.exec_id);
        message.pid = pid;
        Self::new(topics::TASK_EXEC_STARTED_EVENT_TOPIC, &message)
    }

    pub fn exec_added(id: &str, exec_id: &str) -> Self {
        let mut message = api::TaskExecAdded::new();
        id.clone_into(&mut message.container_id);
        exec_id.clone_into(&mut message.exec_id);
        Self::new(topics::TASK_EXEC_ADDED_EVENT_TOPIC, &message)
    }

    /// A container's own process is told by the id of the container.
    pub fn exited(id: &str, exec_id: &str, pid: u32, exit: &Exit) -> Self {
        let mut message = api::TaskExit::new();
        id.clone_into(&mut message.container_id);
        let process = if exec_id.is_empty() { id } else { exec_id };
        process.clone_into(&mut message.id);
        message.pid = pid;
        message.exit_status = exit.status;
        message.exited_at = Some(exit.timestamp()).into();
        Self::new(topics::TASK_EXIT_EVENT_TOPIC, &message)
    }

    /// Here a container's own process has no id.
    pub fn deleted(id: &str, exec_id: &str, pid: u32, exit: &Exit) -> Self {
        let mut message = api::TaskDelete::new();
        id.clone_into(&mut message.container_id);
        exec_id.clone_into(&mut message.id);
        message.pid = pid;
        message.exit_status = exit.status;
        message.exited_at = Some(exit.timestamp()).into();
        Self::new(topics::TASK_DELETE_EVENT_TOPIC, &message)
    }

    pub fn paused(id: &str) -> Self {
        let mut message = api::TaskPaused::new();
        id.clone_into(&mut message.container_id);
        Self::new(topics::TASK_PAUSED_EVENT_TOPIC, &message)
    }

    pub fn resumed(id: &str) -> Self {
        let mut message = api::TaskResumed::new();
        id.clone_into(&mut message.container_id);
        Self::new(topics::TASK_RESUMED_EVENT_TOPIC, &message)
    }

    pub fn out_of_memory(id: &str) -> Self {
        let mut message = api::TaskOOM::new();
        id.clone_into(&mut message.container_id);
        Self::new(topics::TASK_OOM_EVENT_TOPIC, &message)
    }

    pub fn checkpointed(id: &str, images: &str) -> Self {
        let mut message = api::TaskCheckpointed::new();
        id.clone_into(&mut message.container_id);
        images.clone_into(&mut message.checkpoint);
        Self::new(topics::TASK_CHECKPOINTED_EVENT_TOPIC, &message)
    }
}

/// What a container was made of.
#[derive(Debug, Clone, Copy)]
pub struct MadeOf<'a> {
    pub rootfs: &'a [RootMount],
    pub stdio: &'a StdioRequest,
    /// Directory of the images, empty if there are none.
    pub checkpoint: &'a str,
}

/// Events on their way; nothing is kept where nobody wants any.
#[derive(Debug, Default)]
pub struct Events {
    wanted: bool,
    waiting: VecDeque<Event>,
}

impl Events {
    pub fn want(&mut self) {
        self.wanted = true;
    }

    pub fn tell(&mut self, event: impl FnOnce() -> Event) {
        if !self.wanted {
            return;
        }
        if self.waiting.len() >= MOST {
            self.waiting.pop_front();
        }
        self.waiting.push_back(event());
    }

    pub fn first(&self) -> Option<&Event> {
        self.waiting.front()
    }

    pub fn drop_first(&mut self) {
        self.waiting.pop_front();
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn clear(&mut self) -> usize {
        std::mem::take(&mut self.waiting).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn an_event_is_told_under_its_topic_type_and_namespace() {
        let exit = Exit {
            status: 7,
            at: UNIX_EPOCH + Duration::from_secs(5),
        };
        let event = Event::exited("c", "", 42, &exit);
        let request = ForwardRequest::parse_from_bytes(&event.forward("ns").unwrap()).unwrap();
        let envelope = request.envelope.unwrap();
        assert_eq!(
            (&*envelope.namespace, &*envelope.topic),
            ("ns", "/tasks/exit")
        );
        assert_eq!(envelope.event.type_url, "containerd.events.TaskExit");
        let told = api::TaskExit::parse_from_bytes(&envelope.event.value).unwrap();
        assert_eq!((&*told.container_id, &*told.id), ("c", "c"));
        assert_eq!((told.pid, told.exit_status), (42, 7));
        assert_eq!(told.exited_at.seconds, 5);
        let of_exec = Event::exited("c", "e", 43, &exit);
        let told = api::TaskExit::parse_from_bytes(&of_exec.event.value).unwrap();
        assert_eq!(told.id, "e");
    }

    #[test]
    fn nothing_is_kept_where_nobody_wants_it_and_little_where_nobody_takes_it() {
        let mut events = Events::default();
        events.tell(|| Event::paused("c"));
        assert!(events.is_empty());
        events.want();
        for number in 0..MOST + 3 {
            events.tell(|| Event::paused(&number.to_string()));
        }
        assert_eq!(events.first().map(|event| event.event.clone()), {
            let event = Event::paused("3");
            Some(event.event)
        });
        assert_eq!(events.clear(), MOST);
    }
}
