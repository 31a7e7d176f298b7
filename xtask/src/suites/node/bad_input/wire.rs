//! Calls by name with requests as bytes: what no generated client would send can be sent.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use prost_reflect::prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::cri::Answer;

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
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("preparing a gRPC client")?;
        let endpoint = Endpoint::try_from(format!("unix://{}", socket.display()))
            .with_context(|| format!("address of {}", socket.display()))?;
        let channel = runtime
            .block_on(endpoint.connect())
            .with_context(|| format!("connecting to {}", socket.display()))?;
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
            let limited = tokio::time::timeout(LIMIT, send(channel, path, request, streams));
            let bytes = limited
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("the call hangs")))?;
            DynamicMessage::decode(output, bytes.as_slice())
                .map_err(|error| Status::data_loss(format!("the answer: {error}")))
        }
    }
}

async fn send(channel: Channel, path: String, request: Vec<u8>, streams: bool) -> Answer<Vec<u8>> {
    let path = PathAndQuery::try_from(path).map_err(|error| Status::internal(error.to_string()))?;
    let mut client = tonic::client::Grpc::new(channel);
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let request = Request::new(request);
    if !streams {
        return Ok(client.unary(request, path, Bytes).await?.into_inner());
    }
    let stream = tokio::time::timeout(FIRST, async {
        let mut stream = client
            .server_streaming(request, path, Bytes)
            .await?
            .into_inner();
        stream.message().await
    });
    match stream.await {
        Ok(first) => Ok(first?.unwrap_or_default()),
        Err(_) => Ok(Vec::new()),
    }
}

#[derive(Debug, Clone, Copy)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        use prost_reflect::prost::bytes::BufMut;
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        use prost_reflect::prost::bytes::Buf;
        let mut item = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}
