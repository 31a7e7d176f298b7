//! Calls by name with requests as bytes: what no generated client would send can be sent.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use prost_reflect::prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::cri::{Answer, Raw, dial};

/// A call that takes longer hangs: nothing here waits for anything.
const LIMIT: Duration = Duration::from_secs(60);
/// How long the first message of a stream is waited for. Streams of events may have none.
const FIRST: Duration = Duration::from_millis(100);

pub struct Wire {
    pub runtime: tokio::runtime::Runtime,
    channel: Channel,
    pool: DescriptorPool,
}

impl Wire {
    pub fn connect(socket: &Path) -> Result<Self> {
        let (runtime, channel) = dial(socket, None)?;
        let pool = DescriptorPool::decode(berth_api::FILE_DESCRIPTOR_SET)
            .context("reading the contract's descriptors")?;
        Ok(Self {
            runtime,
            channel,
            pool,
        })
    }

    /// Every call of the contract.
    pub fn rpcs(&self) -> Vec<MethodDescriptor> {
        let services = self.pool.services();
        services
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .collect()
    }

    pub fn rpc(&self, name: &str) -> Result<MethodDescriptor> {
        let found = self.rpcs().into_iter().find(|rpc| rpc.name() == name);
        found.with_context(|| format!("the contract has no {name}"))
    }

    /// Makes one call and waits for its answer, or for the first message of its stream.
    pub fn call(&self, rpc: &MethodDescriptor, request: &DynamicMessage) -> Answer<DynamicMessage> {
        self.runtime
            .block_on(self.calling(rpc, request.encode_to_vec()))
    }

    /// The same as a future, to be dropped half-way or joined with another one.
    pub fn calling(
        &self,
        rpc: &MethodDescriptor,
        request: Vec<u8>,
    ) -> impl Future<Output = Answer<DynamicMessage>> + use<> {
        let channel = self.channel.clone();
        let path = format!("/{}/{}", rpc.parent_service().full_name(), rpc.name());
        let (output, streams) = (rpc.output(), rpc.is_server_streaming());
        async move {
            let limited = tokio::time::timeout(LIMIT, send(channel, path, request.into(), streams));
            let bytes = limited
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("the call hangs")))?;
            DynamicMessage::decode(output, bytes)
                .map_err(|error| Status::data_loss(format!("the answer: {error}")))
        }
    }
}

async fn send(channel: Channel, path: String, request: Bytes, streams: bool) -> Answer<Bytes> {
    let path = PathAndQuery::try_from(path).map_err(|error| Status::internal(error.to_string()))?;
    let mut client = tonic::client::Grpc::new(channel);
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let request = Request::new(request);
    if !streams {
        return Ok(client.unary(request, path, Raw).await?.into_inner());
    }
    let stream = tokio::time::timeout(FIRST, async {
        let mut stream = client
            .server_streaming(request, path, Raw)
            .await?
            .into_inner();
        stream.message().await
    });
    match stream.await {
        Ok(first) => Ok(first?.unwrap_or_default()),
        Err(_) => Ok(Bytes::new()),
    }
}
