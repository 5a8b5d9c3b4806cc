//! The sectors of the disk: read and written in pieces as large as a frame, many at a time.

use std::time::Duration;

use p2v_contract::address::SECTOR;

use super::{Session, check_ata};
use crate::ata::{Registers, STATUS_FAILED, opcode};
use crate::frame::command;
use crate::initiator::Error;
use crate::initiator::exchange::{Ask, no_data};

impl Session {
    /// Reads whole sectors from `lba` on into `data`, with many requests in flight.
    ///
    /// After [`Error::Unreadable`] all of `data` but the bad sectors is right, and those are zero.
    /// After any other error nothing of it is known.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Unreadable`]; the target refuses, is reserved by another host, falls silent,
    /// answers nonsense, or is another disk than before; [`Session::without_data`] was called.
    pub fn read(&mut self, lba: u64, data: &mut [u8]) -> Result<(), Error> {
        let suspects = self.read_frames(lba, data)?;
        if suspects.is_empty() {
            return Ok(());
        }
        // Sector by sector where a piece failed, so that only what is bad is missing.
        let mut bad = Vec::new();
        for (from, count) in suspects {
            for sector in from..from + count {
                let at = ((sector - lba) * SECTOR) as usize;
                let piece = &mut data[at..at + SECTOR as usize];
                if !self.read_pieces(sector, piece, 1)?.is_empty() {
                    piece.fill(0);
                    bad.push(sector);
                }
            }
        }
        if bad.is_empty() {
            Ok(())
        } else {
            Err(Error::Unreadable {
                address: self.address(),
                bad,
            })
        }
    }

    /// As [`Session::read`], but every request is made once: [`Error::Unreadable`] names all sectors of
    /// the requests that failed, of which some may be readable. For a disk that takes long over each
    /// sector that it cannot read.
    ///
    /// After [`Error::Unreadable`] all of `data` but those sectors is right, and those are zero. After any
    /// other error nothing of it is known.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn read_once(&mut self, lba: u64, data: &mut [u8]) -> Result<(), Error> {
        let mut bad = Vec::new();
        for (from, count) in self.read_frames(lba, data)? {
            let at = ((from - lba) * SECTOR) as usize;
            data[at..at + (count * SECTOR) as usize].fill(0);
            bad.extend(from..from + count);
        }
        if bad.is_empty() {
            return Ok(());
        }
        Err(Error::Unreadable {
            address: self.address(),
            bad,
        })
    }

    /// Reads with frames as large as the way carries; returns start and length of those the disk failed on.
    fn read_frames(&mut self, lba: u64, data: &mut [u8]) -> Result<Vec<(u64, u64)>, Error> {
        match self.read_pieces(lba, data, self.sectors_per_frame) {
            Err(error) if self.shorten(&error) => {
                self.read_pieces(lba, data, self.sectors_per_frame)
            }
            read => read,
        }
    }

    /// Reads in pieces of `most` sectors; returns start and length of those the disk failed on.
    fn read_pieces(
        &mut self,
        lba: u64,
        data: &mut [u8],
        most: u8,
    ) -> Result<Vec<(u64, u64)>, Error> {
        if self.exchange.without_data {
            return Err(self.nonsense("read", "this session was told to take no data"));
        }
        let pieces = self.pieces(lba, data.len(), most)?;
        let address = self.address();
        let mut failed = Vec::new();
        let mut learned = self.names_sectors;
        let names_sectors = &mut learned;
        let body = |i: usize, body: &mut Vec<u8>| {
            body.extend(Registers::transfer(false, pieces[i].0, pieces[i].1).to_bytes());
        };
        let mut take = |i: usize, body: &[u8]| {
            let (from, count) = pieces[i];
            let nonsense = |why: String| Error::Nonsense {
                address,
                what: "read",
                why,
            };
            let (registers, read) = Registers::parse(body).map_err(|e| nonsense(e.to_string()))?;
            if registers.command & STATUS_FAILED != 0 {
                failed.push((from, u64::from(count)));
                return Ok(());
            }
            // Tags are not enough where another program of this host reads the same disk.
            if registers.lba == Registers::transfer(false, from, count).lba {
                // A target that says 0 always says nothing.
                *names_sectors |= from != 0;
            } else if *names_sectors {
                let other = registers.lba();
                return Err(nonsense(format!("sector {other} instead of {from}")));
            }
            let at = ((from - lba) * SECTOR) as usize;
            let bytes = usize::from(count) * SECTOR as usize;
            let read = read
                .get(..bytes)
                .ok_or_else(|| nonsense(format!("{} bytes instead of {bytes}", read.len())))?;
            data[at..at + bytes].copy_from_slice(read);
            Ok(())
        };
        let ask = Ask {
            what: "read",
            command: command::ATA,
            count: pieces.len(),
            body: &body,
            data: &no_data,
            slow: Duration::ZERO,
            path: None,
        };
        let result = self.run(&ask, &mut take);
        self.names_sectors = learned;
        result?;
        failed.sort_unstable();
        Ok(failed)
    }

    /// Writes whole sectors from `lba` on. When it returns, the target has acknowledged all of
    /// them, and so (rule 3) they are on stable storage.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Ata`]: the disk does not take it; the target refuses, is reserved by another
    /// host, falls silent, answers nonsense, or is another disk than before. Any of it may be written then.
    pub fn write(&mut self, lba: u64, data: &[u8]) -> Result<(), Error> {
        let pieces = self.pieces(lba, data.len(), self.sectors_per_frame)?;
        let address = self.address();
        let body = |i: usize, body: &mut Vec<u8>| {
            let (from, count) = pieces[i];
            body.extend(Registers::transfer(true, from, count).to_bytes());
        };
        let part = |i: usize| {
            let (from, count) = pieces[i];
            let at = ((from - lba) * SECTOR) as usize;
            &data[at..at + usize::from(count) * SECTOR as usize]
        };
        let mut take =
            |i: usize, body: &[u8]| check_ata(address, "write", pieces[i].0, body).map(|_| ());
        // What is written to another disk is lost with the disk's own: asked before, not after.
        self.check_after_pause()?;
        let ask = Ask {
            what: "write",
            command: command::ATA,
            count: pieces.len(),
            body: &body,
            data: &part,
            slow: Duration::ZERO,
            path: Some(self.exchange.main()),
        };
        self.run(&ask, &mut take)
    }

    /// Puts everything written on stable storage.
    ///
    /// # Errors
    /// [`Error::Ata`]: the disk does not do it; the target refuses, is reserved by another host, falls silent, answers
    /// nonsense, or is another disk than before.
    pub fn flush(&mut self) -> Result<(), Error> {
        let what = "flush its cache";
        let registers = Registers {
            command: opcode::FLUSH_EXT,
            ..Registers::default()
        };
        let answer = self.ask(
            what,
            command::ATA,
            &registers.to_bytes(),
            Duration::ZERO,
            None,
        )?;
        check_ata(self.address(), what, 0, &answer).map(|_| ())
    }

    /// Start and length of each request that a range needs.
    fn pieces(&self, lba: u64, bytes: usize, most: u8) -> Result<Vec<(u64, u8)>, Error> {
        let count = bytes as u64 / SECTOR;
        let sectors = self.sectors();
        let whole = bytes as u64 % SECTOR == 0;
        let end = lba
            .checked_add(count)
            .filter(|end| whole && *end <= sectors);
        let end = end.ok_or(Error::OutOfRange {
            address: self.address(),
            sectors,
            lba,
            count,
        })?;
        let step = u64::from(most.max(1));
        Ok((lba..end)
            .step_by(step as usize)
            .map(|from| (from, (end - from).min(step) as u8))
            .collect())
    }
}
