//! A session with an AoE target, as the disk that is copied.

use p2v_aoe::frame::ErrorCode;
use p2v_aoe::initiator::{Error, Session};
use p2v_contract::operation::Status;

use super::{Digest, Source, SourceError};

/// What a target says to a command that it has not.
const UNRECOGNISED: u8 = ErrorCode::UnrecognisedCommand as u8;

fn source_error(error: Error) -> SourceError {
    match error {
        Error::Unreadable { bad, .. } if !bad.is_empty() => SourceError::Unreadable { bad },
        Error::Vendor {
            status: Status::DiskError,
            lba,
            ..
        } => SourceError::Unreadable { bad: vec![lba] },
        other => SourceError::Failed(other.to_string()),
    }
}

impl Source for Session {
    fn sectors(&self) -> u64 {
        Session::sectors(self)
    }

    fn read(&mut self, lba: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        Session::read(self, lba, buffer).map_err(source_error)
    }

    fn read_once(&mut self, lba: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        Session::read_once(self, lba, buffer).map_err(source_error)
    }

    fn digest(&mut self, lba: u64, sectors: u32) -> Result<Digest, SourceError> {
        let digest = Session::digest(self, lba, sectors).map_err(source_error)?;
        Ok(Digest {
            zero: digest.zero,
            blake3: digest.blake3,
        })
    }

    fn zeros(&mut self, lba: u64, sectors: u32, bits: u16) -> Result<Vec<bool>, SourceError> {
        match Session::zero_map(self, lba, sectors, bits) {
            // A target that is not one of ours: it has no such command, and its sectors are read.
            Err(Error::Refused {
                code: UNRECOGNISED, ..
            }) => Ok(vec![false; bits.into()]),
            answer => answer.map_err(source_error),
        }
    }
}
