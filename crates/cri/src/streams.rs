//! Lists as streams of bounded messages.
//!
//! A list in one message ends at the 16 MiB that kubelets accept. As a stream it is cut into
//! messages of about [`CHUNK`] bytes. Only what was listed is held meanwhile, by reference; the
//! next message is made when the transport asks for it, and a client that goes away ends the work.

use futures::stream::{self, BoxStream, StreamExt};
use prost::Message;
use tonic::Status;

/// Bytes of records after which a message is sent. One record may be longer: it was taken in a
/// message of at most 16 MiB.
const CHUNK: usize = 1 << 20;

/// Containers or pods that are sampled in one pass: what a cancelled stream wastes at most.
const AT_ONCE: usize = 64;

pub type Stream<M> = BoxStream<'static, Result<M, Status>>;

/// Messages of the records that `tell` makes of what was listed; `None` leaves one out.
pub fn of_records<S, R, M>(
    listed: Vec<S>,
    tell: impl Fn(S) -> Option<R> + Send + 'static,
    wrap: fn(Vec<R>) -> M,
) -> Stream<M>
where
    S: Send + 'static,
    R: Message + 'static,
    M: Send + 'static,
{
    let mut records = listed.into_iter().filter_map(tell);
    let messages = std::iter::from_fn(move || {
        let chunk = next_chunk(&mut records);
        (!chunk.is_empty()).then(|| Ok(wrap(chunk)))
    });
    // A long list does not keep a worker from others between two messages.
    stream::iter(messages)
        .then(|message| async {
            tokio::task::yield_now().await;
            message
        })
        .boxed()
}

/// Messages of what `sample` makes of the listed items, [`AT_ONCE`] at a time.
pub fn of_samples<S, R, M, F>(
    listed: Vec<S>,
    sample: impl FnMut(Vec<S>) -> F + Send + 'static,
    wrap: fn(Vec<R>) -> M,
) -> Stream<M>
where
    S: Send + 'static,
    R: Message + 'static,
    M: Send + 'static,
    F: Future<Output = Result<Vec<R>, Status>> + Send + 'static,
{
    let mut left = listed.into_iter();
    let batches = std::iter::from_fn(move || {
        let batch: Vec<S> = left.by_ref().take(AT_ONCE).collect();
        (!batch.is_empty()).then_some(batch)
    });
    stream::iter(batches)
        .then(sample)
        .flat_map(move |sampled| match sampled {
            Ok(records) => of_records(records, Some, wrap),
            Err(status) => stream::once(async { Err(status) }).boxed(),
        })
        .boxed()
}

fn next_chunk<R: Message>(records: &mut impl Iterator<Item = R>) -> Vec<R> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    while bytes < CHUNK
        && let Some(record) = records.next()
    {
        bytes += record.encoded_len();
        chunk.push(record);
    }
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_api::cri::v1::{Image, StreamImagesResponse};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn image(bytes: usize) -> Image {
        Image {
            id: "x".repeat(bytes),
            ..Image::default()
        }
    }

    fn wrap(images: Vec<Image>) -> StreamImagesResponse {
        StreamImagesResponse { images }
    }

    #[tokio::test]
    async fn every_record_comes_once_in_order_and_no_message_is_long() {
        let sizes: Vec<usize> = (0..5000).map(|number| 1 + number % 4096).collect();
        let messages: Vec<_> = of_records(sizes.clone(), |size| Some(image(size)), wrap)
            .map(Result::unwrap)
            .collect()
            .await;
        assert!(messages.len() > 5, "{} messages", messages.len());
        assert!(
            messages
                .iter()
                .all(|message| message.encoded_len() < CHUNK + 5000)
        );
        let found: Vec<usize> = messages
            .iter()
            .flat_map(|message| message.images.iter().map(|image| image.id.len()))
            .collect();
        assert_eq!(found, sizes);
    }

    #[tokio::test]
    async fn a_client_that_leaves_stops_the_work() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let tell = move |size| {
            count.fetch_add(1, Ordering::Relaxed);
            Some(image(size))
        };
        let mut stream = of_records(vec![CHUNK; 100], tell, wrap);
        stream.next().await.unwrap().unwrap();
        drop(stream);
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn nothing_listed_is_a_stream_without_messages() {
        let none: Vec<_> = of_records(Vec::<usize>::new(), |size| Some(image(size)), wrap)
            .collect()
            .await;
        assert!(none.is_empty());
    }

    #[tokio::test]
    async fn samples_are_taken_in_batches_and_a_failure_reaches_the_client() {
        let batches = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&batches);
        let sample = move |batch: Vec<usize>| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                if batch.contains(&0) {
                    return Err(Status::internal("no sample"));
                }
                Ok(batch.into_iter().map(image).collect())
            }
        };
        let mut listed = vec![1; 2 * AT_ONCE + 1];
        listed[AT_ONCE] = 0;
        let outcomes: Vec<_> = of_samples(listed, sample, wrap).collect().await;
        assert_eq!(batches.load(Ordering::Relaxed), 3);
        let shape: Vec<_> = outcomes
            .iter()
            .map(|outcome| outcome.as_ref().ok().map(|message| message.images.len()))
            .collect();
        assert_eq!(shape, [Some(AT_ONCE), None, Some(1)]);
    }
}
