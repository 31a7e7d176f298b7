//! Calls whose answers are taken as bytes: what the daemon needs, without what reading it costs.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::{Buf, BufMut};
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};

pub struct Client {
    runtime: tokio::runtime::Runtime,
    grpc: Grpc<Channel>,
}

impl Client {
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
        let grpc = Grpc::new(channel).max_decoding_message_size(64 << 20);
        Ok(Self { runtime, grpc })
    }

    /// An empty request to a method of the runtime service: how long until all of the answer was
    /// there, and how many bytes it has.
    pub fn call(&mut self, method: &str) -> Result<(Duration, usize)> {
        let path = format!("/runtime.v1.RuntimeService/{method}");
        let path = PathAndQuery::try_from(path).context("naming the method")?;
        let grpc = &mut self.grpc;
        self.runtime.block_on(async {
            grpc.ready().await.context("waiting for the connection")?;
            let begin = Instant::now();
            let answer = grpc
                .unary(tonic::Request::new(()), path, Bytes)
                .await
                .with_context(|| method.to_owned())?;
            Ok((begin.elapsed(), answer.into_inner()))
        })
    }
}

/// Sends nothing and counts what comes.
#[derive(Debug, Clone, Copy, Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = ();
    type Decode = usize;
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
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&[]);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = usize;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let bytes = buffer.remaining();
        buffer.advance(bytes);
        Ok(Some(bytes))
    }
}
