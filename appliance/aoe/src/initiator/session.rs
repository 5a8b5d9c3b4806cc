//! A session with one target: how it begins, that it stays with the same disk, and for whom it is reserved.

use std::collections::BTreeSet;
use std::time::Duration;

use p2v_contract::address::{Address, SECTOR};
use p2v_contract::operation::PROBE_LEN;
use pnet::util::MacAddr;

use super::exchange::{Ask, Counters, DiskPatience, Exchange, Take, no_data};
use super::link::Link;
use super::{ATTACH_WAIT, Error, Found, Silence, ask_all};
use crate::acl::{Reserve, reserve};
use crate::ata::{ATA_LEN, Identify, Registers, STATUS_FAILED, opcode};
use crate::frame::command;

mod agent;
mod data;
mod ways;

pub use agent::Digest;

/// Silence after which a request fails: long enough for an old machine to be plugged in again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Silence after which a target that just answered discovery counts as not wanting to talk to us.
const PATIENCE_FIRST: Duration = Duration::from_secs(4);

/// A conversation with one target.
pub struct Session {
    exchange: Exchange,
    identify: Identify,
    sectors_per_frame: u8,
    /// Answers to reads name the sector that was asked for.
    names_sectors: bool,
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
        if let Error::Silent { now, .. } = &mut error {
            if let Ok(found) = ask_all(&self.exchange.links, self.address(), ATTACH_WAIT) {
                let macs: BTreeSet<MacAddr> = found.into_iter().map(|(_, f)| f.mac).collect();
                *now = Some(macs.into_iter().collect());
            }
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
        self.exchange.pass_over_data();
        self.probe_no_longer_than_needed();
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
        let length = self.longest_answer();
        self.exchange.disk = Some(DiskPatience { most, length });
    }

    /// Bytes of the body of the longest answers.
    fn longest_answer(&self) -> u16 {
        match self.exchange.without_data {
            true => PROBE_LEN as u16,
            false => long_body(self.sectors_per_frame),
        }
    }

    /// What a Probe of a disk that takes long has to carry, after that has changed.
    fn probe_no_longer_than_needed(&mut self) {
        let length = self.longest_answer();
        if let Some(disk) = &mut self.exchange.disk {
            disk.length = length;
        }
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
    ///
    /// # Errors
    /// [`Error::Reserved`]: another host has reserved it; else the target refuses, falls silent, answers nonsense, or
    /// is another disk than before.
    pub fn reserve(&mut self) -> Result<(), Error> {
        let own = self.own_macs();
        self.reservation("reserve itself for this host", own)
    }

    /// The stations of this host that the session speaks with.
    fn own_macs(&self) -> Vec<MacAddr> {
        let own = (0..self.paths()).map(|path| self.exchange.own_mac(path));
        let own: BTreeSet<MacAddr> = own.collect();
        own.into_iter().collect()
    }

    /// Ends the reservation.
    ///
    /// # Errors
    /// As [`Session::reserve`].
    pub fn release(&mut self) -> Result<(), Error> {
        // It is the end: no disk is waited for any more.
        self.exchange.disk = None;
        self.reservation("end its reservation", Vec::new())
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
