//! Progress as Docker streams it: JSON objects, each sent at once. What fails before the first
//! object is an ordinary error; what fails later is the stream's last object.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::StreamExt;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tracing::Instrument;

use crate::{Error, Result};

/// Objects that wait for a slow client.
const QUEUE: usize = 64;

/// One object of the stream.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress_detail: Option<Detail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<ErrorDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aux: Option<serde_json::Value>,
}

/// How far something is, in bytes. Empty where only the status changed.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Detail {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ErrorDetail {
    /// What a command ended with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    pub message: String,
}

/// Where work says how far it is. Clones write to the same stream.
#[derive(Clone)]
pub struct Progress {
    lines: mpsc::Sender<Bytes>,
    began: Arc<AtomicBool>,
}

impl Progress {
    /// Sends one object. A client that has gone is not an error here: the work is ended with the
    /// stream.
    pub async fn send(&self, object: &impl Serialize) {
        let Ok(mut line) = serde_json::to_vec(object) else {
            return;
        };
        line.extend_from_slice(b"\r\n");
        self.began.store(true, Ordering::Release);
        let _ = self.lines.send(line.into()).await;
    }

    /// `{"status": …}`, of the thing with this id if there is one.
    pub async fn status(&self, id: Option<&str>, status: impl Into<String>) {
        self.send(&Line {
            status: Some(status.into()),
            id: id.map(str::to_owned),
            ..Line::default()
        })
        .await;
    }

    /// `{"stream": …}`: text for the terminal.
    pub async fn text(&self, text: impl Into<String>) {
        self.send(&Line {
            stream: Some(text.into()),
            ..Line::default()
        })
        .await;
    }

    async fn fail(&self, error: &Error) {
        let message = error.report();
        tracing::info!(error = message, "request failed on its way");
        self.send(&Line {
            error_detail: Some(ErrorDetail {
                code: error.exit_code(),
                message: message.clone(),
            }),
            error: Some(message),
            ..Line::default()
        })
        .await;
    }
}

/// Ends the work when the client has gone and the stream is dropped.
struct Guard(JoinHandle<Result<()>>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs `work` and answers with what it sends.
pub async fn stream<F>(work: impl FnOnce(Progress) -> F) -> Result<Response>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let (lines, mut sent) = mpsc::channel(QUEUE);
    let progress = Progress {
        lines,
        began: Arc::default(),
    };
    let running = work(progress.clone());
    let whole = async move {
        match running.await {
            Err(error) if progress.began.load(Ordering::Acquire) => {
                progress.fail(&error).await;
                Ok(())
            }
            outcome => outcome,
        }
    };
    let mut task = Guard(tokio::spawn(whole.in_current_span()));
    let body = match sent.recv().await {
        Some(first) => {
            let rest = ReceiverStream::new(sent);
            let all = futures::stream::once(async { first }).chain(rest);
            let all = all.map(move |line| {
                let _ = &task;
                Ok::<_, std::convert::Infallible>(line)
            });
            Body::from_stream(all)
        }
        None => {
            let outcome = (&mut task.0).await;
            outcome.unwrap_or(Err(Error::Panicked {
                operation: "the request",
            }))?;
            Body::empty()
        }
    };
    let mut response = Response::new(body);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 4096)
            .await
            .unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn an_error_before_the_first_object_is_an_ordinary_one() {
        let refused = stream(|_| async { Err(Error::no_such("image", "x")) }).await;
        assert_eq!(refused.unwrap_err().status().as_u16(), 404);
    }

    #[tokio::test]
    async fn an_error_after_it_is_the_last_object() {
        let answered = stream(|progress| async move {
            progress.status(Some("ab"), "Waiting").await;
            Err(Error::no_such("image", "x"))
        });
        assert_eq!(
            text(answered.await.unwrap()).await,
            "{\"status\":\"Waiting\",\"id\":\"ab\"}\r\n\
             {\"errorDetail\":{\"message\":\"No such image: x\"},\"error\":\"No such image: x\"}\r\n"
        );
    }

    #[tokio::test]
    async fn the_work_ends_with_the_client() {
        struct Tell(Option<tokio::sync::oneshot::Sender<()>>);
        impl Drop for Tell {
            fn drop(&mut self) {
                self.0.take().map(|tell| tell.send(()));
            }
        }
        let (tell, ended) = tokio::sync::oneshot::channel();
        let tell = Tell(Some(tell));
        let answered = stream(|progress| async move {
            let _tell = tell;
            progress.text("began").await;
            std::future::pending().await
        });
        drop(answered.await.unwrap());
        ended.await.unwrap();
    }
}
