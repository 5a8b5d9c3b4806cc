//! The state of one exported disk, beside what is on it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use p2v_contract::address::Address;
use p2v_contract::operation::{Access, Stats};
use pnet::util::MacAddr;

use super::disk::Disk;
use super::scan_job::ScanJob;
use crate::acl::{Directive, LIST_MAX, MacMask, Reserve, mask_error, reserve};
use crate::ata::Identify;
use crate::config::{QueryConfig, sub};
use crate::frame::Header;

/// One disk and the address it is served at.
pub struct Export {
    /// Shelf and slot.
    pub address: Address,
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// Model, serial number and so on for IDENTIFY DEVICE; its size is taken from the disk.
    pub identify: Identify,
    /// What is allowed from the start. The agent of the netboot image begins read-only, or waits where a domain
    /// runs on the disk, until an authorised request.
    pub access: Access,
    /// When a write is acknowledged.
    pub durability: Durability,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it is on stable storage: initiators have no other way to know (the Linux driver never
    /// sends a flush).
    #[default]
    Stable,
    /// When the system has taken it: what was acknowledged is lost if the machine loses power. An
    /// operator must have asked for this by name.
    Fast,
}

/// Counters in the order of [`Stats::NAMES`].
#[derive(Clone, Copy)]
#[repr(usize)]
pub(super) enum Count {
    Requests,
    SectorsRead,
    SectorsWritten,
    DiskErrors,
    WritesRefused,
    Strangers,
    Malformed,
    ControlRefused,
    QueueFull,
    Late,
    Joined,
    InFlightMax,
    ReadWrite,
    Dropped,
    /// The first of [`LATENCIES`].
    Latency,
    InventoryAge = Stats::NAMES.len() - 1,
}

/// Classes of the time a request took.
const LATENCIES: usize = Count::InventoryAge as usize - Count::Latency as usize;

/// Changes of an export that are asked for and kept until the agent ends.
#[derive(Default)]
struct Settings {
    config_string: Vec<u8>,
    /// Whom data commands are answered; empty: everybody.
    hosts: Vec<MacAddr>,
    /// Who holds the reservation; empty: nobody.
    reserved: Vec<MacAddr>,
}

/// An export at work.
pub(super) struct Served {
    pub(super) address: Address,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) identify: [u8; 512],
    pub(super) sectors: u64,
    pub(super) durability: Durability,
    /// There are keys for orders: reservations are taken by them alone.
    takes_orders: bool,
    /// Access is changed by authorised requests alone.
    guarded: bool,
    /// There was a list of hosts from the start: it stays as it is.
    listed: bool,
    /// An [`Access`].
    access: AtomicU8,
    /// When it was made, just after the inventory.
    made: Instant,
    counters: [AtomicU64; Stats::NAMES.len()],
    settings: Mutex<Settings>,
    /// Digests and zero maps: long reads that must not hold up the disk work.
    pub(super) scan: Queue<ScanJob>,
    /// A scan is at work.
    pub(super) scanning: AtomicBool,
    /// The reply that it will have.
    pub(super) scanned: Mutex<Option<Header>>,
}

/// Whether the two are replies to one request of one initiator, sent again.
fn is_repeated(one: &Header, other: &Header) -> bool {
    one.destination == other.destination && one.tag == other.tag
}

impl Served {
    /// `takes_orders`: there are keys for them.
    pub(super) fn new(export: Export, hosts: &[MacAddr], takes_orders: bool) -> Served {
        let sectors = export.disk.sectors();
        Served {
            address: export.address,
            identify: Identify {
                sectors,
                ..export.identify
            }
            .to_bytes(),
            sectors,
            disk: export.disk,
            durability: export.durability,
            takes_orders,
            guarded: takes_orders || export.access != Access::ReadWrite,
            listed: !hosts.is_empty(),
            access: AtomicU8::new(export.access as u8),
            made: Instant::now(),
            counters: Default::default(),
            settings: Mutex::new(Settings {
                hosts: hosts.to_vec(),
                ..Settings::default()
            }),
            scan: Queue::default(),
            scanning: AtomicBool::new(false),
            scanned: Mutex::new(None),
        }
    }

    /// Notes which scan is at work now.
    pub(super) fn now_scans(&self, reply: Option<Header>) {
        self.scanning.store(reply.is_some(), Ordering::Relaxed);
        *self
            .scanned
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner()) = reply;
    }

    /// Whether the scan that has this reply is at work, or waits for its turn.
    pub(super) fn scans(&self, reply: &Header) -> bool {
        let scanned = *self
            .scanned
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        scanned.is_some_and(|at_work| is_repeated(&at_work, reply))
            || self.scan.any(|job| is_repeated(&job.reply, reply))
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn count(&self, what: Count, by: u64) {
        self.counters[what as usize].fetch_add(by, Ordering::Relaxed);
    }

    /// Notes how long a request took from its arrival to its answer.
    pub(super) fn latency(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // 0 to 15: class 0; 16 to 31: class 1; and so on.
        let class = (u64::BITS - (micros >> 4).leading_zeros()) as usize;
        let class = Count::Latency as usize + class.min(LATENCIES - 1);
        self.counters[class].fetch_add(1, Ordering::Relaxed);
    }

    /// Notes how many requests have no answer yet.
    pub(super) fn in_flight(&self, now: usize) {
        self.counters[Count::InFlightMax as usize].fetch_max(now as u64, Ordering::Relaxed);
    }

    /// Notes how many frames were dropped on the machine's interfaces so far.
    pub(super) fn dropped(&self, frames: u64) {
        self.counters[Count::Dropped as usize].store(frames, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> Stats {
        let state = match self.access() {
            Access::ReadOnly => 0,
            Access::ReadWrite => 1,
            Access::Waiting => 2,
        };
        self.counters[Count::ReadWrite as usize].store(state, Ordering::Relaxed);
        let age = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.counters[Count::InventoryAge as usize].store(age, Ordering::Relaxed);
        Stats(std::array::from_fn(|i| {
            self.counters[i].load(Ordering::Relaxed)
        }))
    }

    pub(super) fn access(&self) -> Access {
        let access = self.access.load(Ordering::Acquire);
        Access::from_argument(access).unwrap_or(Access::Waiting)
    }

    pub(super) fn set_access(&self, access: Access) {
        self.access.store(access as u8, Ordering::Release);
    }

    /// Whether this address is on the list (or there is no list).
    pub(super) fn knows(&self, mac: MacAddr) -> bool {
        let settings = self.settings();
        settings.hosts.is_empty() || settings.hosts.contains(&mac)
    }

    /// Whether somebody else holds the reservation.
    pub(super) fn reserved_against(&self, mac: MacAddr) -> bool {
        let settings = self.settings();
        !settings.reserved.is_empty() && !settings.reserved.contains(&mac)
    }

    /// Answers a config query: `Ok(None)` is silence, `Err` the error "config string present".
    pub(super) fn query_config(
        &self,
        query: QueryConfig,
        known: bool,
        buffer_count: u16,
        sectors: u8,
        firmware: u16,
    ) -> Result<Option<QueryConfig>, ConfigRefused> {
        let mut settings = self.settings();
        let silent = match query.sub {
            sub::READ => false,
            sub::TEST => settings.config_string != query.string,
            sub::TEST_PREFIX => !settings.config_string.starts_with(&query.string),
            // A stranger may look but not touch.
            sub::SET_IF_EMPTY | sub::FORCE_SET if !known => true,
            sub::SET_IF_EMPTY
                if !settings.config_string.is_empty() && settings.config_string != query.string =>
            {
                return Err(ConfigRefused::Present);
            }
            sub::SET_IF_EMPTY | sub::FORCE_SET => {
                settings.config_string = query.string;
                false
            }
            _ => return Err(ConfigRefused::BadArgument),
        };
        let string = settings.config_string.clone();
        Ok((!silent).then_some(QueryConfig {
            buffer_count,
            firmware,
            sectors,
            sub: query.sub,
            string,
        }))
    }

    /// Answers a MAC mask request; `None`: unknown sub-command. A list that was given from the start says who may read and
    /// write, and no frame changes it: anybody can send one with a host's address.
    pub(super) fn mac_mask(&self, request: &MacMask) -> Option<MacMask> {
        let mut settings = self.settings();
        let error = match request.sub {
            0 => 0,
            1 if self.listed => mask_error::UNSPECIFIED,
            1 => edited(&settings.hosts, &request.directives).map_or_else(
                |error| error,
                |hosts| {
                    settings.hosts = hosts;
                    0
                },
            ),
            _ => return None,
        };
        let directives = settings
            .hosts
            .iter()
            .map(|mac| Directive {
                directive: 0,
                mac: *mac,
            })
            .collect();
        Some(MacMask {
            sub: request.sub,
            error,
            directives,
        })
    }

    /// Whether a reservation would take the disk from a domain that writes to it, perhaps from another host.
    fn in_use(&self) -> bool {
        self.access() != Access::ReadOnly && self.guarded
    }

    /// Reserves for these stations, or ends the reservation, by an order of `sender`. False: another host has it, or a
    /// domain uses the disk.
    pub(super) fn reserve_by_order(&self, macs: &[MacAddr], sender: MacAddr) -> bool {
        let mut settings = self.settings();
        let foreign = !settings.reserved.is_empty() && !settings.reserved.contains(&sender);
        if foreign || (self.in_use() && !macs.is_empty()) {
            return false;
        }
        settings.reserved = macs.to_vec();
        true
    }

    /// Answers a reserve/release request: the holders, and whether it was refused because another
    /// holds the reservation, or it takes an order. `None`: unknown sub-command.
    pub(super) fn reserve(&self, request: &Reserve, sender: MacAddr) -> Option<(Reserve, bool)> {
        let mut settings = self.settings();
        let foreign = !settings.reserved.is_empty() && !settings.reserved.contains(&sender);
        let refused = match request.sub {
            reserve::READ => false,
            reserve::SET | reserve::FORCE_SET if self.takes_orders => true,
            reserve::SET if foreign => true,
            reserve::SET | reserve::FORCE_SET if self.in_use() && !request.macs.is_empty() => true,
            reserve::SET | reserve::FORCE_SET => {
                settings.reserved.clone_from(&request.macs);
                false
            }
            _ => return None,
        };
        Some((
            Reserve {
                sub: request.sub,
                macs: settings.reserved.clone(),
            },
            refused,
        ))
    }
}

/// Why a config query gets an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConfigRefused {
    Present,
    BadArgument,
}

/// The list after all directives, or the error code; nothing changes unless all can be done. A list
/// that held somebody never becomes empty, because an empty list means everybody.
fn edited(hosts: &[MacAddr], directives: &[Directive]) -> Result<Vec<MacAddr>, u8> {
    let mut edited = hosts.to_vec();
    for Directive { directive, mac } in directives {
        match directive {
            0 => {}
            1 if !edited.contains(mac) => edited.push(*mac),
            1 => {}
            2 => edited.retain(|known| known != mac),
            _ => return Err(mask_error::BAD_DIRECTIVE),
        }
    }
    if edited.len() > LIST_MAX {
        return Err(mask_error::FULL);
    }
    if edited.is_empty() && !hosts.is_empty() {
        return Err(mask_error::UNSPECIFIED);
    }
    Ok(edited)
}

/// Work waiting for a thread: bounded, in the order it came.
pub(super) struct Queue<Job> {
    state: Mutex<(VecDeque<Job>, bool)>,
    ready: Condvar,
}

/// Jobs a queue holds at the most: several hosts' windows. More are dropped and counted, and the
/// initiator asks again.
const QUEUE_MAX: usize = 512;

impl<Job> Default for Queue<Job> {
    fn default() -> Self {
        Queue {
            state: Mutex::new((VecDeque::new(), false)),
            ready: Condvar::new(),
        }
    }
}

impl<Job> Queue<Job> {
    fn lock(&self) -> MutexGuard<'_, (VecDeque<Job>, bool)> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes the job, unless the queue is full.
    pub(super) fn push(&self, job: Job) -> bool {
        let mut state = self.lock();
        if state.0.len() >= QUEUE_MAX || state.1 {
            return false;
        }
        state.0.push_back(job);
        self.ready.notify_one();
        true
    }

    /// Whether a job that waits is like this.
    pub(super) fn any(&self, like: impl FnMut(&Job) -> bool) -> bool {
        self.lock().0.iter().any(like)
    }

    /// Waits for work and moves up to `most` jobs to `batch`; false when the queue was closed and
    /// is empty.
    pub(super) fn take(&self, batch: &mut Vec<Job>, most: usize) -> bool {
        let mut state = self.lock();
        while state.0.is_empty() {
            if state.1 {
                return false;
            }
            state = match self.ready.wait_timeout(state, Duration::from_secs(3600)) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        let count = state.0.len().min(most);
        batch.extend(state.0.drain(..count));
        true
    }

    /// Whether nothing waits.
    #[cfg(test)]
    pub(super) fn idle(&self) -> bool {
        self.lock().0.is_empty()
    }

    /// No more work: what waits is still done.
    pub(super) fn close(&self) {
        self.lock().1 = true;
        self.ready.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
    const B: MacAddr = MacAddr(2, 0, 0, 0, 0, 2);

    #[test]
    fn the_list_never_becomes_everybody() {
        let add = |mac| Directive { directive: 1, mac };
        let delete = |mac| Directive { directive: 2, mac };
        assert_eq!(edited(&[A], &[add(B)]), Ok(vec![A, B]));
        assert_eq!(edited(&[A], &[add(B), delete(A)]), Ok(vec![B]));
        assert_eq!(edited(&[A], &[delete(A)]), Err(mask_error::UNSPECIFIED));
        assert_eq!(
            edited(
                &[A],
                &[
                    add(B),
                    Directive {
                        directive: 3,
                        mac: B
                    }
                ]
            ),
            Err(mask_error::BAD_DIRECTIVE)
        );
        let many: Vec<_> = (0..=255).map(|i| add(MacAddr(2, 0, 0, 0, 1, i))).collect();
        assert_eq!(edited(&[A], &many), Err(mask_error::FULL));
    }
}
