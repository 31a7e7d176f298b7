use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

const CHUNK: usize = 32 << 10;

/// A body that ends as it is told to.
pub(super) struct Scripted {
    data: Bytes,
    /// Bytes still sent before the end that is not a good one.
    until: Option<(u64, Ending)>,
    hide_length: bool,
}

#[derive(Clone, Copy)]
pub(super) enum Ending {
    Stall,
    Close,
}

impl Scripted {
    pub(super) fn whole(data: impl Into<Bytes>) -> Self {
        Self {
            data: data.into(),
            until: None,
            hide_length: false,
        }
    }

    pub(super) fn ending(mut self, after: u64, ending: Ending) -> Self {
        self.until = Some((after, ending));
        self
    }

    pub(super) fn hide_length(mut self, hide: bool) -> Self {
        self.hide_length = hide;
        self
    }
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let mut length = CHUNK.min(self.data.len());
        match &mut self.until {
            // Never woken again: the client has to give up.
            Some((0, Ending::Stall)) => return Poll::Pending,
            Some((0, Ending::Close)) => {
                return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
            }
            Some((left, _)) => {
                length = length.min(*left as usize);
                *left -= length as u64;
            }
            None => {}
        }
        if length == 0 {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::data(self.data.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && !matches!(self.until, Some((0, _)))
    }

    fn size_hint(&self) -> SizeHint {
        match self.hide_length {
            true => SizeHint::default(),
            false => SizeHint::with_exact(self.data.len() as u64),
        }
    }
}
