//! A registry in this process that can be told to misbehave.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use berth_names::Digest;
use berth_testkit::image::Image;
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone)]
pub(super) struct Server {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    open: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    /// Media type and bytes by tag or digest, in one repository for all.
    manifests: HashMap<String, (String, Vec<u8>)>,
    blobs: HashMap<String, Vec<u8>>,
    /// Blobs that stop in the middle until the gate opens.
    gated: Vec<String>,
    requests: Vec<String>,
}

impl Server {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
            open: watch::Sender::new(true),
        };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = serving.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        server
    }

    pub(super) fn push(&self, image: &Image, tag: &str) {
        let media_type = image.manifest_media_type;
        self.put_manifest(tag, media_type, image.manifest.clone());
        let mut state = self.state.lock();
        state
            .blobs
            .insert(image.config_digest.to_string(), image.config.clone());
        for layer in &image.layers {
            state
                .blobs
                .insert(layer.digest.to_string(), layer.bytes.clone());
        }
    }

    pub(super) fn put_manifest(&self, tag: &str, media_type: &str, bytes: Vec<u8>) -> Digest {
        let digest = Digest::sha256_of(&bytes);
        let mut state = self.state.lock();
        for name in [tag, digest.as_str()] {
            state
                .manifests
                .insert(name.to_owned(), (media_type.to_owned(), bytes.clone()));
        }
        digest
    }

    /// Serves these bytes under a digest, whether they have it or not.
    pub(super) fn put_blob(&self, digest: &Digest, bytes: Vec<u8>) {
        self.state.lock().blobs.insert(digest.to_string(), bytes);
    }

    /// Makes transfers of a blob stop in the middle until [`Server::open_gate`].
    pub(super) fn gate(&self, digest: &Digest) {
        self.open.send_replace(false);
        self.state.lock().gated.push(digest.to_string());
    }

    pub(super) fn open_gate(&self) {
        self.open.send_replace(true);
    }

    /// How often a blob or manifest was asked for.
    pub(super) fn requests(&self, name: &str) -> usize {
        self.state
            .lock()
            .requests
            .iter()
            .filter(|path| path.ends_with(name))
            .count()
    }

    async fn serve(&self, stream: TcpStream) -> Option<()> {
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        while let Some(first) = lines.next_line().await.ok()? {
            let path = first.split(' ').nth(1)?.to_owned();
            let is_head = first.starts_with("HEAD");
            let mut from = 0;
            loop {
                let line = lines.next_line().await.ok()??.to_ascii_lowercase();
                if let Some(range) = line.strip_prefix("range: bytes=") {
                    from = range.split('-').next()?.parse().ok()?;
                }
                if line.is_empty() {
                    break;
                }
            }
            self.answer(&mut writer, &path, is_head, from).await?;
        }
        Some(())
    }

    async fn answer(
        &self,
        writer: &mut (impl AsyncWriteExt + Unpin),
        path: &str,
        is_head: bool,
        from: usize,
    ) -> Option<()> {
        let name = path.rsplit('/').next()?;
        let (found, gated) = {
            let mut state = self.state.lock();
            if !is_head {
                state.requests.push(path.to_owned());
            }
            let found = if path.contains("/manifests/") {
                state.manifests.get(name).cloned()
            } else {
                let octets = "application/octet-stream".to_owned();
                state.blobs.get(name).map(|bytes| (octets, bytes.clone()))
            };
            (found, state.gated.iter().any(|gated| gated == name))
        };
        let Some((media_type, bytes)) = found else {
            writer
                .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                .await
                .ok()?;
            return Some(());
        };
        let (status, range) = match from {
            0 => ("200 OK", String::new()),
            _ => (
                "206 Partial Content",
                format!(
                    "Content-Range: bytes {from}-{}/{}\r\n",
                    bytes.len() - 1,
                    bytes.len()
                ),
            ),
        };
        let body = &bytes[from..];
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n{range}\r\n",
            body.len()
        );
        writer.write_all(head.as_bytes()).await.ok()?;
        if is_head {
            return Some(());
        }
        let (first, rest) = body.split_at(if gated { body.len() / 2 } else { body.len() });
        writer.write_all(first).await.ok()?;
        writer.flush().await.ok()?;
        self.open
            .subscribe()
            .wait_for(|open| *open || !gated)
            .await
            .ok()?;
        writer.write_all(rest).await.ok()
    }
}
