//! Bytes on their way to a client, and the word about what became of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::{Buf, Bytes};

use super::connection::End;
use crate::catalogue::Catalogue;
use crate::event::BootEvent;

/// The body of an answer: a part of a file's shared bytes, never a copy. hyper advances it by what the
/// kernel took, and drops it when that was all or the connection has ended.
pub(super) struct Sending {
    rest: Bytes,
    sent: u64,
    told: Option<Told>,
}

/// Who is told of what.
pub(super) struct Told {
    pub catalogue: Arc<Catalogue>,
    pub end: Arc<End>,
    pub peer: IpAddr,
    pub file: String,
    pub begun: Instant,
}

impl Sending {
    pub fn new(bytes: Bytes, told: Option<Told>) -> Sending {
        Sending {
            rest: bytes,
            sent: 0,
            told,
        }
    }

    /// One whose end is no news.
    pub fn untold(bytes: Bytes) -> Sending {
        Sending::new(bytes, None)
    }
}

impl Buf for Sending {
    fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.rest
    }

    fn advance(&mut self, count: usize) {
        self.rest.advance(count);
        self.sent += count as u64;
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let Some(told) = self.told.take() else {
            return;
        };
        let (file, bytes) = (told.file, self.sent);
        let event = if self.rest.is_empty() {
            // The last bytes (the listener's `SO_SNDBUF`) may still be in the kernel.
            BootEvent::Fetched {
                file,
                bytes,
                elapsed: told.begun.elapsed(),
            }
        } else if told.end.silent.load(Ordering::Relaxed) {
            BootEvent::Silent { file, bytes }
        } else if told.end.closed.load(Ordering::Relaxed) {
            let why = "it closed the connection".to_owned();
            BootEvent::Aborted { file, bytes, why }
        } else {
            let why = "not sent to its end: the service was stopped".to_owned();
            BootEvent::Failed { file, why }
        };
        told.catalogue.tell(told.peer, event);
    }
}
