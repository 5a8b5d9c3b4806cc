//! What only p2v's agent answers: the inventory, scans of the disk, control of the machine, counters.

use std::time::Duration;

use p2v_contract::inventory::Inventory;
use p2v_contract::key::SecretKey;
use p2v_contract::operation::{Access, Finish, Order, Reply, Request, Reservation, Stats, op};

use super::Session;
use crate::frame::command;
use crate::initiator::Error;

/// Time-out of requests that make the target read a long range.
const SCAN_TIMEOUT: Duration = Duration::from_secs(3);
/// An inventory of more bytes than this is nonsense.
const INVENTORY_MAX: u32 = 1 << 20;

/// Digest of a range of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Every byte is zero.
    pub zero: bool,
    /// BLAKE3 of the range.
    pub blake3: [u8; 32],
}

impl Session {
    fn vendor(
        &mut self,
        what: &'static str,
        request: Request,
        slow: Duration,
        path: Option<usize>,
    ) -> Result<Reply, Error> {
        let answer = self.ask(what, command::P2V, &request.to_bytes(), slow, path)?;
        self.vendor_reply(what, &answer)
    }

    fn vendor_reply(&self, what: &'static str, answer: &[u8]) -> Result<Reply, Error> {
        match Reply::parse(answer).map_err(|e| self.nonsense(what, e))? {
            Reply::Refused { status, lba, .. } => Err(Error::Vendor {
                address: self.address(),
                what,
                status,
                lba,
            }),
            reply => Ok(reply),
        }
    }

    /// Reads the machine's inventory. A target that is not p2v's agent refuses.
    ///
    /// # Errors
    /// The target refuses, falls silent, answers nonsense, or is another disk than before.
    pub fn inventory(&mut self) -> Result<Inventory, Error> {
        let inventory = self.read_inventory(None)?;
        self.boot_id = Some(inventory.boot_id.clone());
        Ok(inventory)
    }

    pub(super) fn read_inventory(&mut self, path: Option<usize>) -> Result<Inventory, Error> {
        let what = "give the machine's inventory";
        let mut document = Vec::new();
        loop {
            let request = Request::Inventory {
                offset: document.len() as u32,
            };
            let Reply::Inventory {
                total,
                offset,
                data,
            } = self.vendor(what, request, Duration::ZERO, path)?
            else {
                return Err(self.nonsense(what, "the reply is to another operation"));
            };
            let complete = document.len() + data.len() >= total as usize;
            if offset as usize != document.len()
                || total > INVENTORY_MAX
                || (data.is_empty() && !complete)
            {
                return Err(
                    self.nonsense(what, format!("{} bytes at {offset} of {total}", data.len()))
                );
            }
            document.extend(data);
            if complete {
                return Inventory::from_document(&document).map_err(|e| self.nonsense(what, e));
            }
        }
    }

    /// Digest of a range of at most [`p2v_contract::operation::DIGEST_SECTORS_MAX`] sectors, computed by the
    /// agent.
    ///
    /// # Errors
    /// [`Error::Vendor`]: the agent refuses, or cannot read its disk; else as [`Session::inventory`].
    pub fn digest(&mut self, lba: u64, sectors: u32) -> Result<Digest, Error> {
        let what = "compute a digest";
        match self.vendor(what, Request::Digest { lba, sectors }, SCAN_TIMEOUT, None)? {
            Reply::Digest {
                lba: l,
                sectors: s,
                zero,
                blake3,
            } if (l, s) == (lba, sectors) => Ok(Digest { zero, blake3 }),
            _ => Err(self.nonsense(what, "the reply is to another request")),
        }
    }

    /// Which of `bits` ranges of `sectors_per_bit` sectors each, from `lba` on, read as zeros.
    ///
    /// # Errors
    /// [`Error::Vendor`]: the agent refuses; else as [`Session::inventory`]. A range that cannot be read is no error.
    pub fn zero_map(
        &mut self,
        lba: u64,
        sectors_per_bit: u32,
        bits: u16,
    ) -> Result<Vec<bool>, Error> {
        let what = "look for zeros";
        let request = Request::ZeroMap {
            lba,
            sectors_per_bit,
            bits,
        };
        match self.vendor(what, request, SCAN_TIMEOUT, None)? {
            Reply::ZeroMap {
                lba: l,
                sectors_per_bit: s,
                bits: b,
                map,
            } if (l, s, b) == (lba, sectors_per_bit, bits) => Ok((0..usize::from(bits))
                .map(|i| map[i / 8] & (1 << (i % 8)) != 0)
                .collect()),
            _ => Err(self.nonsense(what, "the reply is to another request")),
        }
    }

    fn control(
        &mut self,
        what: &'static str,
        operation: u8,
        argument: u8,
        key: &SecretKey,
        counter: u64,
    ) -> Result<(), Error> {
        // For the start of the agent whose inventory the caller has seen: one that was started again
        // since, with other disks perhaps, refuses.
        let boot_id = match &self.boot_id {
            Some(seen) => seen.clone(),
            None => self.inventory()?.boot_id,
        };
        let path = self.exchange.main();
        let stations = match operation {
            op::RESERVE => self.own_macs(),
            _ => Vec::new(),
        };
        let order = Order {
            boot_id: &boot_id,
            sender: self.exchange.own_mac(path),
            target: self.address(),
            operation,
            argument,
            counter,
            stations: &stations,
        };
        let control = order.signed(key);
        let request = match operation {
            op::ACCESS => Request::Access(control),
            op::FINISH => Request::Finish(control),
            _ => Request::Reserve { control, stations },
        };
        // Is it the same disk? Asked before: a machine that was told to end does not answer afterwards.
        self.check_after_pause()?;
        let request = request.to_bytes();
        let answer = self.ask_whoever(what, command::P2V, &request, Duration::ZERO, Some(path));
        let answer = answer.map_err(|error| self.with_whereabouts(error))?;
        match self.vendor_reply(what, &answer)? {
            Reply::Done {
                operation: o,
                argument: a,
                counter: c,
            } if (o, a, c) == (operation, argument, counter) => Ok(()),
            _ => Err(self.nonsense(what, "the reply is to another request")),
        }
    }

    /// Makes the export read-only or read-write. The order is for the start of the agent whose
    /// inventory was read last in this session, and for no other. `counter` must be higher than that of every
    /// control request of this host before it to this start of the agent.
    ///
    /// # Errors
    /// [`Error::Vendor`]: the agent refuses the order, or cannot carry it out; else as [`Session::inventory`].
    pub fn access(&mut self, key: &SecretKey, counter: u64, access: Access) -> Result<(), Error> {
        let what = match access {
            Access::ReadOnly => "make the export read-only",
            Access::ReadWrite => "make the export read-write",
            Access::Waiting => "have the export wait",
        };
        self.control(what, op::ACCESS, access as u8, key, counter)
    }

    /// Powers the machine off or restarts it. Refused while a disk of it is read-write.
    ///
    /// # Errors
    /// As [`Session::access`].
    pub fn finish(&mut self, key: &SecretKey, counter: u64, finish: Finish) -> Result<(), Error> {
        self.control(
            "end the machine's session",
            op::FINISH,
            finish as u8,
            key,
            counter,
        )
    }

    /// Reserves the disk for this host's stations, or ends that, as [`Session::reserve`] does with a target that takes no
    /// orders.
    ///
    /// # Errors
    /// As [`Session::access`]; another host has reserved it.
    pub fn reserve_by_order(
        &mut self,
        key: &SecretKey,
        counter: u64,
        reservation: Reservation,
    ) -> Result<(), Error> {
        let what = match reservation {
            Reservation::Take => "reserve itself for this host",
            Reservation::End => "end its reservation",
        };
        if reservation == Reservation::End {
            // It is the end: no disk is waited for any more.
            self.exchange.disk = None;
        }
        self.control(what, op::RESERVE, reservation as u8, key, counter)
    }

    /// Counters of the export.
    ///
    /// # Errors
    /// As [`Session::inventory`].
    pub fn stats(&mut self) -> Result<Stats, Error> {
        let what = "give its counters";
        match self.vendor(what, Request::Stats, Duration::ZERO, None)? {
            Reply::Stats(stats) => Ok(stats),
            _ => Err(self.nonsense(what, "the reply is to another operation")),
        }
    }
}
