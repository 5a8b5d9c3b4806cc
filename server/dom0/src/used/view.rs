//! The disk at the other end of the wire, as the programs see it that look into file systems.

use std::io;
use std::sync::{Mutex, PoisonError};

use p2v_copy::Source;

use super::DiskView;

/// A disk that is read through a session of its own.
pub struct SourceView {
    sectors: u64,
    source: Mutex<Box<dyn Source + Send>>,
}

impl SourceView {
    /// Of `sectors` sectors of 512 bytes.
    pub fn new(sectors: u64, source: Box<dyn Source + Send>) -> SourceView {
        SourceView {
            sectors,
            source: Mutex::new(source),
        }
    }
}

impl DiskView for SourceView {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read(&self, lba: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        source
            .read(lba, buffer)
            .map_err(|error| io::Error::other(error.to_string()))
    }
}
