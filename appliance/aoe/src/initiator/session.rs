//! A session with one target: what it is, its sectors, and the vendor operations.

use std::collections::BTreeSet;
use std::time::Duration;

use pnet::util::MacAddr;

use super::exchange::{Ask, Counters, DiskPatience, Exchange, Link, Take, no_data};
use super::probe::ALWAYS_FITS;
use super::{ATTACH_WAIT, Error, Found, Silence, ask_all, probe};
use crate::acl::{Reserve, reserve};
use crate::address::{Address, SECTOR};
use crate::ata::{ATA_LEN, Identify, Registers, STATUS_FAILED, opcode, sectors_that_fit};
use crate::frame::command;
use crate::inventory::Inventory;
use crate::token::Token;
use crate::vendor::{Access, Control, Finish, Reply, Request, Stats, control_tag, op};

/// Silence after which a request fails: long enough for an old machine to be plugged in again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Silence after which a target that just answered discovery counts as not wanting to talk to us.
const PATIENCE_FIRST: Duration = Duration::from_secs(4);
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

/// A conversation with one target.
pub struct Session {
    exchange: Exchange,
    identify: Identify,
    sectors_per_frame: u8,
    /// Answers to reads name the sector that was asked for.
    names_sectors: bool,
    /// Answers with data do not come.
    without_data: bool,
    /// Which start of the agent the inventory was of that was read last.
    boot_id: Option<String>,
}

impl Session {
    /// Begins with the answers to discovery, each with the index of the link on which it came.
    pub(super) fn start(
        links: Vec<Link>,
        found: &BTreeSet<(usize, Found)>,
    ) -> Result<Session, Error> {
        let Some((_, first)) = found.first() else {
            return Err(Error::NoAnswer {
                address: Address::ALL,
                iface: String::new(),
                waited: Duration::ZERO,
            });
        };
        let ways: BTreeSet<(usize, MacAddr)> = found.iter().map(|(l, f)| (*l, f.mac)).collect();
        let ways: Vec<(usize, MacAddr)> = ways.into_iter().collect();
        let buffers = found.iter().map(|(_, f)| f.buffer_count).min();
        let mut session = Session {
            exchange: Exchange::new(
                first.address,
                links,
                &ways,
                buffers.unwrap_or(1),
                PATIENCE_FIRST,
            ),
            identify: Identify::default(),
            sectors_per_frame: 1,
            names_sectors: false,
            without_data: false,
            boot_id: None,
        };
        session.use_ways_to_one_disk()?;
        let offered = found.iter().map(|(_, f)| f.sectors_per_frame).min();
        // 0: not said (`aoecmd_cfg_rsp` takes it for 2).
        let offered = offered.filter(|offered| *offered != 0).unwrap_or(2);
        let mut most = u8::MAX;
        for path in 0..session.exchange.paths.len() {
            most = most.min(session.probe(path, offered)?);
        }
        session.sectors_per_frame = most;
        session.exchange.patience = PATIENCE;
        session.exchange.suspect = false;
        Ok(session)
    }

    fn probe(&mut self, path: usize, offered: u8) -> Result<u8, Error> {
        let exchange = &mut self.exchange;
        let wire = &exchange.links[exchange.paths[path].wire].wire;
        // A disk of fewer sectors cannot be asked for more.
        let fits = sectors_that_fit(wire.mtu());
        let most = u8::try_from(self.identify.sectors).map_or(fits, |sectors| fits.min(sectors));
        probe::sectors(exchange, path, most.max(1), offered)
    }

    /// Asks on every way what is there, and keeps those that lead to the same disk. A station that is
    /// not known to be the same machine as the others is an error.
    fn use_ways_to_one_disk(&mut self) -> Result<(), Error> {
        let count = self.exchange.paths.len();
        let stations: BTreeSet<MacAddr> = self.exchange.paths.iter().map(|p| p.mac).collect();
        let mut answers = Vec::new();
        for path in 0..count {
            answers.push(match self.ask_identify(Some(path)) {
                Ok(identify) => {
                    self.identify = identify.clone();
                    let boot_id = match count {
                        1 => None,
                        _ => self.read_inventory(Some(path)).ok().map(|i| i.boot_id),
                    };
                    Some((identify, boot_id))
                }
                // This way, we are not on the target's list.
                Err(Error::Silent { .. }) => None,
                Err(error) => return Err(error),
            });
        }
        let Some(first) = answers.iter().flatten().next().cloned() else {
            let path = &self.exchange.paths[0];
            return Err(Error::NotOnList {
                address: self.address(),
                mac: path.mac,
                own: self.exchange.own_mac(0),
                iface: self.exchange.links[path.wire].iface.clone(),
            });
        };
        let known: BTreeSet<MacAddr> = (0..count)
            .filter(|path| answers[*path].is_some())
            .map(|path| self.exchange.paths[path].mac)
            .collect();
        let alike = answers.iter().flatten().all(|answer| *answer == first);
        let proven = first.1.as_ref().is_some_and(|boot_id| !boot_id.is_empty());
        if !alike || known != stations || (stations.len() > 1 && !proven) {
            return Err(Error::TwoStations {
                address: self.address(),
                macs: stations.into_iter().collect(),
            });
        }
        let keep: Vec<bool> = answers.iter().map(Option::is_some).collect();
        self.exchange.retain(&keep);
        self.identify = first.0;
        Ok(())
    }

    /// Runs requests, and makes sure that it is still the same disk that answered.
    fn run(&mut self, ask: &Ask<'_>, take: &mut Take<'_>) -> Result<(), Error> {
        let result = self.exchange.run(ask, take).and_then(|()| self.verify());
        result.map_err(|error| self.with_whereabouts(error))
    }

    /// Compares the disk with what it was, if frames were lost or there was a long pause: an old machine
    /// that was restarted meanwhile may give its disks other places.
    fn verify(&mut self) -> Result<(), Error> {
        if !std::mem::take(&mut self.exchange.suspect) {
            return Ok(());
        }
        let now = self.ask_identify(None);
        // A question without an answer leaves it open.
        let now = now.inspect_err(|_| self.exchange.suspect = true)?;
        // The firmware's revision is that of the agent, which may be a newer one.
        let same = Identify {
            firmware: now.firmware.clone(),
            ..self.identify.clone()
        };
        if now == same {
            return Ok(());
        }
        // Whatever is asked next must fail as well.
        self.exchange.suspect = true;
        let words = |identify: &Identify| {
            let Identify { model, serial, .. } = identify;
            format!("{model} {serial} of {} sectors", identify.sectors)
        };
        Err(Error::Changed {
            address: self.address(),
            mac: self.mac(),
            was: words(&self.identify),
            is: words(&now),
        })
    }

    /// The same before something that cannot be taken back.
    fn check_after_pause(&mut self) -> Result<(), Error> {
        self.exchange.suspect |= self.exchange.is_idle();
        self.verify().map_err(|error| self.with_whereabouts(error))
    }

    /// Adds to the news of silence who answers for the address now.
    fn with_whereabouts(&self, mut error: Error) -> Error {
        if let Error::Silent { now, .. } = &mut error
            && let Ok(found) = ask_all(&self.exchange.links, self.address(), ATTACH_WAIT)
        {
            let macs: BTreeSet<MacAddr> = found.into_iter().map(|(_, f)| f.mac).collect();
            *now = Some(macs.into_iter().collect());
        }
        error
    }

    /// The target's address.
    pub fn address(&self) -> Address {
        self.exchange.address
    }

    /// The station that answers for it; the first one, where there are several.
    pub fn mac(&self) -> MacAddr {
        self.exchange.paths[0].mac
    }

    /// Ways that lead to it.
    pub fn paths(&self) -> usize {
        self.exchange.paths.len()
    }

    /// Has `listener` told when the target is silent for long, and when it speaks again.
    pub fn listen_for_silence(&mut self, listener: impl FnMut(Silence) + Send + 'static) {
        self.exchange.listener = Some(Box::new(listener));
    }

    /// What the disk said of itself when the session began.
    pub fn identify(&self) -> &Identify {
        &self.identify
    }

    /// Size in 512-byte sectors.
    pub fn sectors(&self) -> u64 {
        self.identify.sectors
    }

    /// Sectors in one frame, which have made it to the target and back.
    pub fn sectors_per_frame(&self) -> u8 {
        self.sectors_per_frame
    }

    /// For a session that reads no data, beside one that does: answers with data are not received, and cost
    /// nothing. [`Session::read`] is an error from now on.
    pub fn without_data(&mut self) {
        self.without_data = true;
        for link in self.exchange.links.iter() {
            link.wire.pass_over_data();
        }
    }

    /// What became of the frames so far.
    pub fn counters(&self) -> Counters {
        self.exchange.counters
    }

    /// Silence after which a request fails (60 s unless changed).
    pub fn set_patience(&mut self, patience: Duration) {
        self.exchange.patience = patience;
    }

    /// Lets a request take this long while the target says that it is there, beyond the patience that is had
    /// with one that says nothing: a disk that fails takes minutes for a few sectors.
    pub fn wait_for_disk(&mut self, most: Duration) {
        let length = long_body(self.sectors_per_frame);
        self.exchange.disk = Some(DiskPatience { most, length });
    }

    /// Reads whole sectors from `lba` on into `data`, with many requests in flight.
    ///
    /// After [`Error::Unreadable`] all of `data` but the bad sectors is right, and those are zero.
    /// After any other error nothing of it is known.
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

    /// Whether a silence ends with shorter frames: the way may carry less than it did when the session
    /// began.
    fn shorten(&mut self, error: &Error) -> bool {
        let answers = |macs: &[MacAddr]| self.exchange.paths.iter().any(|p| macs.contains(&p.mac));
        let Error::Silent {
            now: Some(macs), ..
        } = error
        else {
            return false;
        };
        if self.sectors_per_frame <= ALWAYS_FITS || !answers(macs) {
            return false;
        }
        let mut most = u8::MAX;
        for path in 0..self.paths() {
            self.exchange.links[self.exchange.paths[path].wire]
                .wire
                .refresh();
            match self.probe(path, self.sectors_per_frame) {
                Ok(sectors) => most = most.min(sectors),
                Err(_) => return false,
            }
        }
        let shorter = most < self.sectors_per_frame;
        self.sectors_per_frame = self.sectors_per_frame.min(most);
        if let Some(disk) = &mut self.exchange.disk {
            disk.length = long_body(self.sectors_per_frame);
        }
        shorter
    }

    /// Reads in pieces of `most` sectors; returns start and length of those the disk failed on.
    fn read_pieces(
        &mut self,
        lba: u64,
        data: &mut [u8],
        most: u8,
    ) -> Result<Vec<(u64, u64)>, Error> {
        if self.without_data {
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

    /// One request, one answer, by the way that is named, or any; from the same disk as before.
    fn ask(
        &mut self,
        what: &'static str,
        command: u8,
        request: &[u8],
        slow: Duration,
        path: Option<usize>,
    ) -> Result<Vec<u8>, Error> {
        let answer = self.ask_whoever(what, command, request, slow, path);
        let answer = answer.and_then(|answer| self.verify().map(|()| answer));
        answer.map_err(|error| self.with_whereabouts(error))
    }

    /// One request, one answer.
    fn ask_whoever(
        &mut self,
        what: &'static str,
        command: u8,
        request: &[u8],
        slow: Duration,
        path: Option<usize>,
    ) -> Result<Vec<u8>, Error> {
        let body = |_: usize, body: &mut Vec<u8>| body.extend_from_slice(request);
        let ask = Ask {
            what,
            command,
            count: 1,
            body: &body,
            data: &no_data,
            slow,
            path,
        };
        let mut answer = Vec::new();
        let mut take = |_: usize, body: &[u8]| {
            answer = body.to_vec();
            Ok(())
        };
        self.exchange.run(&ask, &mut take)?;
        Ok(answer)
    }

    fn nonsense(&self, what: &'static str, why: impl ToString) -> Error {
        Error::Nonsense {
            address: self.address(),
            what,
            why: why.to_string(),
        }
    }

    fn ask_identify(&mut self, path: Option<usize>) -> Result<Identify, Error> {
        let what = "identify itself";
        let registers = Registers {
            count: 1,
            command: opcode::IDENTIFY,
            ..Registers::default()
        };
        let answer = self.ask_whoever(
            what,
            command::ATA,
            &registers.to_bytes(),
            Duration::ZERO,
            path,
        )?;
        let data = check_ata(self.address(), what, 0, &answer)?;
        Identify::parse(data).map_err(|e| self.nonsense(what, e))
    }

    /// Puts everything written on stable storage.
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

    fn reservation(&mut self, what: &'static str, macs: Vec<MacAddr>) -> Result<(), Error> {
        let request = Reserve {
            sub: reserve::SET,
            macs: macs.clone(),
        };
        let answer = self.ask(
            what,
            command::RESERVE,
            &request.to_bytes(),
            Duration::ZERO,
            None,
        )?;
        let now = Reserve::parse(&answer).map_err(|e| self.nonsense(what, e))?;
        if now.macs == macs {
            Ok(())
        } else {
            Err(Error::Reserved {
                address: self.address(),
            })
        }
    }

    /// Reserves the target for this host: others' reads and writes get an error until
    /// [`Session::release`].
    pub fn reserve(&mut self) -> Result<(), Error> {
        let own = (0..self.paths()).map(|path| self.exchange.own_mac(path));
        let own: BTreeSet<MacAddr> = own.collect();
        self.reservation("reserve itself for this host", own.into_iter().collect())
    }

    /// Ends the reservation.
    pub fn release(&mut self) -> Result<(), Error> {
        // It is the end: no disk is waited for any more.
        self.exchange.disk = None;
        self.reservation("end its reservation", Vec::new())
    }

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
    pub fn inventory(&mut self) -> Result<Inventory, Error> {
        let inventory = self.read_inventory(None)?;
        self.boot_id = Some(inventory.boot_id.clone());
        Ok(inventory)
    }

    fn read_inventory(&mut self, path: Option<usize>) -> Result<Inventory, Error> {
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
                return serde_json::from_slice(&document).map_err(|e| self.nonsense(what, e));
            }
        }
    }

    /// Digest of a range of at most [`crate::vendor::DIGEST_SECTORS_MAX`] sectors, computed by the
    /// agent.
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
        token: &Token,
        counter: u64,
    ) -> Result<(), Error> {
        // For the start of the agent whose inventory the caller has seen: one that was started again
        // since, with other disks perhaps, refuses.
        let boot_id = match &self.boot_id {
            Some(seen) => seen.clone(),
            None => self.inventory()?.boot_id,
        };
        let path = self.exchange.main();
        let tag = control_tag(
            token,
            &boot_id,
            self.exchange.own_mac(path),
            self.address(),
            operation,
            argument,
            counter,
        );
        let control = Control {
            argument,
            counter,
            tag: *tag.as_bytes(),
        };
        let request = if operation == op::ACCESS {
            Request::Access(control)
        } else {
            Request::Finish(control)
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
    /// control request before it in the machine's current boot.
    pub fn access(&mut self, token: &Token, counter: u64, access: Access) -> Result<(), Error> {
        let what = match access {
            Access::ReadOnly => "make the export read-only",
            Access::ReadWrite => "make the export read-write",
        };
        self.control(what, op::ACCESS, access as u8, token, counter)
    }

    /// Powers the machine off or restarts it. Refused while a disk of it is read-write.
    pub fn finish(&mut self, token: &Token, counter: u64, finish: Finish) -> Result<(), Error> {
        self.control(
            "end the machine's session",
            op::FINISH,
            finish as u8,
            token,
            counter,
        )
    }

    /// Counters of the export.
    pub fn stats(&mut self) -> Result<Stats, Error> {
        let what = "give its counters";
        match self.vendor(what, Request::Stats, Duration::ZERO, None)? {
            Reply::Stats(stats) => Ok(stats),
            _ => Err(self.nonsense(what, "the reply is to another operation")),
        }
    }
}

/// Bytes of the body of an answer with so many sectors.
fn long_body(sectors: u8) -> u16 {
    (ATA_LEN + usize::from(sectors) * SECTOR as usize) as u16
}

/// The data after the registers, unless the status says failure.
fn check_ata<'a>(
    address: Address,
    what: &'static str,
    lba: u64,
    body: &'a [u8],
) -> Result<&'a [u8], Error> {
    let (registers, data) = Registers::parse(body).map_err(|e| Error::Nonsense {
        address,
        what,
        why: e.to_string(),
    })?;
    if registers.command & STATUS_FAILED != 0 {
        return Err(Error::Ata {
            address,
            what,
            lba,
            status: registers.command,
            error: registers.feature,
        });
    }
    Ok(data)
}
