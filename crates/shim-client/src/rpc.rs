//! Calls over one connection, with the service's name chosen at run time:
//! the Task API is the same under the names of its versions 2 and 3.

use std::time::Duration;

use containerd_shim_protos::api::WaitResponse;
use containerd_shim_protos::protobuf::Message;
use tokio::net::UnixStream;
use tokio::sync::watch;
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;
use ttrpc::proto::{Request, Status};

use crate::error::Error;
use crate::socket::Watched;

/// How long a call may take.
#[derive(Debug, Clone, Copy)]
pub enum Patience {
    Limited(Duration),
    /// For `Wait`.
    Endless,
}

#[derive(Clone)]
pub struct Rpc {
    id: String,
    client: Client,
    gone: watch::Receiver<bool>,
}

/// Names the detail of a status that carries an exit status, in the shape of a `WaitResponse`.
const EXIT_STATUS_TYPE: &str = "berth.shim.v1.ExitStatus";

/// What shims of others do not tell, and nobody guesses from their words.
fn exit_status(status: &Status) -> Option<u32> {
    let mut details = status.details.iter();
    let detail = details.find(|detail| detail.type_url == EXIT_STATUS_TYPE)?;
    let answer = WaitResponse::parse_from_bytes(&detail.value).ok()?;
    (1..=255)
        .contains(&answer.exit_status)
        .then_some(answer.exit_status)
}

impl Rpc {
    pub fn new(id: &str, stream: UnixStream) -> Self {
        let (stream, gone) = Watched::new(stream);
        Self {
            id: id.to_owned(),
            client: Client::new(Socket::new(stream)),
            gone,
        }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub async fn call<A: Message>(
        &self,
        service: &str,
        method: &'static str,
        message: &impl Message,
        patience: Patience,
    ) -> Result<A, Error> {
        let id = || self.id.clone();
        let mut request = Request::new();
        request.service = service.to_owned();
        request.method = method.to_owned();
        request.payload = message.write_to_bytes().map_err(|source| Error::Message {
            method,
            id: id(),
            source,
        })?;
        if let Patience::Limited(limit) = patience {
            request.timeout_nano = i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX);
        }
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| match error {
                ttrpc::Error::RpcStatus(status) => Error::Refused {
                    method,
                    id: id(),
                    code: status.code.enum_value_or_default(),
                    exit_status: exit_status(&status),
                    message: status.message,
                },
                source => Error::Gone {
                    method,
                    id: id(),
                    source,
                },
            })?;
        A::parse_from_bytes(&response.payload).map_err(|source| Error::Answer {
            method,
            id: id(),
            source,
        })
    }

    /// Completes when the peer has closed the connection.
    pub async fn gone(&self) {
        let mut gone = self.gone.clone();
        // An error means that the stream was dropped: gone as well.
        let _ = gone.wait_for(|gone| *gone).await;
    }

    pub fn is_gone(&self) -> bool {
        *self.gone.borrow() || self.gone.has_changed().is_err()
    }
}
