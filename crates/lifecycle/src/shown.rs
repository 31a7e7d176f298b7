//! What others see of a pod or container: a record that is swapped whole.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::RwLock;

/// The record of the moment. Readers wait for nothing but the swap of a pointer.
pub(crate) struct Shown<R> {
    present: RwLock<Present<R>>,
}

struct Present<R> {
    record: Arc<R>,
    /// The record as a door lists it; made once, gone with the record.
    listed: Arc<OnceLock<Bytes>>,
}

impl<R> Present<R> {
    fn new(record: Arc<R>) -> Self {
        Self {
            record,
            listed: Arc::default(),
        }
    }
}

impl<R> Shown<R> {
    pub fn new(record: Arc<R>) -> Self {
        Self {
            present: RwLock::new(Present::new(record)),
        }
    }

    pub fn view(&self) -> Arc<R> {
        Arc::clone(&self.present.read().record)
    }

    pub fn show(&self, record: Arc<R>) {
        *self.present.write() = Present::new(record);
    }

    /// What `tell` makes of the record, remembered until the record changes.
    pub fn listed(&self, tell: impl FnOnce(&R) -> Bytes) -> Bytes {
        let (record, listed) = {
            let present = self.present.read();
            if let Some(known) = present.listed.get() {
                return known.clone();
            }
            (Arc::clone(&present.record), Arc::clone(&present.listed))
        };
        listed.get_or_init(|| tell(&record)).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(shown: &Shown<u8>, times: &mut u32) -> Bytes {
        shown.listed(|record| {
            *times += 1;
            Bytes::copy_from_slice(&[*record])
        })
    }

    #[test]
    fn a_record_is_told_once_and_anew_when_it_changed() {
        let (shown, mut times) = (Shown::new(Arc::new(1)), 0);
        assert_eq!(told(&shown, &mut times), [1][..]);
        assert_eq!(told(&shown, &mut times), [1][..]);
        assert_eq!(times, 1);
        shown.show(Arc::new(2));
        assert_eq!(
            (told(&shown, &mut times), *shown.view()),
            (Bytes::from_static(&[2]), 2)
        );
        assert_eq!(times, 2);
    }
}
