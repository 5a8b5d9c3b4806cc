//! Bytes on their way to a client, and the word about what became of them.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::{Buf, Bytes};

use super::connection::End;
use super::parts::Parts;
use crate::boot_menu::BootFile;
use crate::catalogue::Catalogue;
use crate::event::BootEvent;

/// The body of an answer: a part of a file's shared bytes, never a copy. hyper advances it by what the
/// kernel took, and drops it when that was all or the connection has ended.
pub(super) struct Sending {
    rest: Bytes,
    sent: u64,
    told: Option<Logged>,
}

/// A transfer of which the log and the records hear.
pub(super) struct Logged {
    pub catalogue: Arc<Catalogue>,
    pub end: Arc<End>,
    pub peer: IpAddr,
    pub file: String,
    pub begun: Instant,
    pub part: PartOf,
}

/// Which part of which file is sent.
pub(super) struct PartOf {
    pub file: BootFile,
    pub first: u64,
    /// All of it was asked for.
    pub anew: bool,
    /// Of the file.
    pub size: u64,
    /// What is known of others' and of earlier ones.
    pub parts: Arc<Mutex<Parts>>,
}

impl Sending {
    pub fn new(bytes: Bytes, told: Option<Logged>) -> Sending {
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
        let part = told.part;
        let sent = part.first..part.first + self.sent;
        // What broke off may be gone on with, by a part that begins where it did.
        let progress = part
            .parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(
                (told.peer, part.file),
                part.size,
                sent,
                part.anew,
                told.begun,
                Instant::now(),
            );
        let (file, bytes) = (told.file, progress.bytes);
        let event = if progress.whole {
            // The last bytes (the listener's `SO_SNDBUF`) may still be in the kernel.
            BootEvent::Fetched {
                file,
                bytes,
                elapsed: Some(progress.elapsed),
            }
        } else if self.rest.is_empty() {
            // The rest is still to come.
            return;
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
