//! Calls whose answers are taken as bytes: what the daemon needs, without what reading it costs.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;

use crate::cri::{Raw, dial};

pub struct Client {
    runtime: tokio::runtime::Runtime,
    grpc: Grpc<Channel>,
}

impl Client {
    pub fn connect(socket: &Path) -> Result<Self> {
        let (runtime, channel) = dial(socket, None)?;
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
                .unary(tonic::Request::new(Bytes::new()), path, Raw)
                .await
                .with_context(|| method.to_owned())?;
            Ok((begin.elapsed(), answer.into_inner().len()))
        })
    }
}
