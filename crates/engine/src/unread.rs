//! What a client still sends when its answer is known already.
//!
//! A connection that is closed with something unread is broken to the other side: a client in the
//! middle of a build context never sees why its request was refused. So what a handler leaves of a
//! body is read before a refusal is answered, for a while.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::timeout;

/// A client that needs longer is cut off.
const PATIENCE: Duration = Duration::from_secs(10);

/// A body lent to a handler: what is not read of it comes back when it is dropped.
pub(crate) struct Lent<B> {
    body: Option<B>,
    back: Arc<Mutex<Option<B>>>,
}

/// Where it comes back.
pub(crate) struct Lender<B>(Arc<Mutex<Option<B>>>);

pub(crate) fn lend<B>(body: B) -> (Lent<B>, Lender<B>) {
    let back = Arc::new(Mutex::new(None));
    let lent = Lent {
        body: Some(body),
        back: Arc::clone(&back),
    };
    (lent, Lender(back))
}

impl<B: Body + Unpin> Lender<B> {
    /// Reads what has come back to its end. Nothing, while the handler's work goes on elsewhere.
    pub async fn read_rest(self) {
        self.read_within(PATIENCE).await;
    }

    async fn read_within(self, patience: Duration) {
        let Some(mut body) = self.0.lock().take() else {
            return;
        };
        let reading = async { while let Some(Ok(_)) = body.frame().await {} };
        if timeout(patience, reading).await.is_err() {
            tracing::debug!("a client goes on sending what was refused");
        }
    }
}

impl<B: Body + Unpin> Body for Lent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let none = || SizeHint::with_exact(0);
        self.body.as_ref().map_or_else(none, Body::size_hint)
    }
}

impl<B> Drop for Lent<B> {
    fn drop(&mut self) {
        *self.back.lock() = self.body.take();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;

    use super::*;

    /// A body of so many pieces that tells how many are left.
    struct Pieces(VecDeque<&'static str>, Arc<Mutex<usize>>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            let piece = self.0.pop_front();
            *self.1.lock() = self.0.len();
            Poll::Ready(piece.map(|piece| Ok(Frame::data(Bytes::from(piece)))))
        }
    }

    #[tokio::test]
    async fn what_a_handler_leaves_is_read_to_its_end() {
        for taken in 0..3 {
            let left = Arc::new(Mutex::new(3));
            let pieces = Pieces(["a", "b", "c"].into(), Arc::clone(&left));
            let (mut lent, lender) = lend(pieces);
            for _ in 0..taken {
                lent.frame().await.unwrap().unwrap();
            }
            drop(lent);
            assert_eq!(*left.lock(), 3 - taken);
            lender.read_rest().await;
            assert_eq!(*left.lock(), 0);
        }
    }

    #[tokio::test]
    async fn a_body_that_is_still_being_read_elsewhere_is_left_alone() {
        let left = Arc::new(Mutex::new(1));
        let (lent, lender) = lend(Pieces(["a"].into(), Arc::clone(&left)));
        lender.read_rest().await;
        assert_eq!(*left.lock(), 1);
        let all = lent.collect().await.unwrap().to_bytes();
        assert_eq!(all, Bytes::from("a"));
    }

    #[tokio::test]
    async fn a_client_that_never_ends_is_cut_off() {
        let never = http_body_util::StreamBody::new(futures::stream::pending::<
            Result<Frame<Bytes>, std::io::Error>,
        >());
        let (lent, lender) = lend(never);
        drop(lent);
        lender.read_within(Duration::from_millis(10)).await;
    }
}
