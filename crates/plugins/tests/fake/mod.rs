//! A plugin that says what a test has it say.
#![allow(clippy::unwrap_used)] // a fake plugin that cannot answer fails the test

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;

pub type Asked = Arc<Mutex<Vec<(String, String)>>>;

/// What is said to one method; the text goes out as it is.
pub type Script = fn(&str) -> Option<String>;

pub fn json(text: &str) -> Option<String> {
    let length = text.len();
    Some(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{text}"
    ))
}

#[allow(dead_code, reason = "those behind TLS listen by themselves")]
/// Listens at once, and answers until the test ends. `None` never answers.
pub fn plugin(path: &Path, script: Script) -> Asked {
    let listener = UnixListener::bind(path).unwrap();
    let asked = Asked::default();
    let heard = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, script, Arc::clone(&heard)));
        }
    });
    asked
}

pub async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, script: Script, heard: Asked) {
    let mut text = String::new();
    let mut piece = [0; 4096];
    let (method, body) = loop {
        let count = stream.read(&mut piece).await.unwrap();
        text.push_str(std::str::from_utf8(&piece[..count]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then_some(value)
        });
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            let method = head.split_whitespace().nth(1).unwrap();
            break (method.trim_start_matches('/').to_owned(), body.to_owned());
        }
    };
    heard.lock().push((method.clone(), body));
    match script(&method) {
        Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
        None => std::future::pending().await,
    }
}
