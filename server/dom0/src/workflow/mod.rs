//! The operator's commands on the Xen host. Each says what it does, refuses by the rules that keep
//! data safe, and takes back what it did when it fails.
//!
//! The rules, whatever the order in which commands are typed:
//! - The old disk has one writer. The export is read-write only between `start` and the next
//!   `stop`, `copy` or `cutover`, all of which first look for a domain that uses it; and while `disarm` or `rearm` writes
//!   a boot sector.
//! - A copy counts as current only until the old disk may have been written: `start` takes the mark
//!   away before it asks for write access, and a restart of the old machine is noticed by the id of its agent's start.
//! - Nothing is copied over, or started from, what another domain has as a disk.
//! - What a domain stands on (its devices, write access, marks) is taken away only when the domain is
//!   known to be gone.
//! - A volume that a domain was switched to is marked before the domain starts, and no copy is ever
//!   made over it.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use crate::disk_user;
use crate::host::Host;
use crate::name::MachineName;
use crate::record::Record;
use crate::report::Report;
use crate::timestamp::Timestamp;
use crate::tool::aoe_driver::AoeDriver;
use crate::tool::{ToolError, dmsetup, xl};
use crate::undo::Undo;
use crate::wire::Wire;
use error::{refusal, refused};

mod alike;
mod code;
mod config;
mod contact;
mod continuity;
mod copying;
mod cutover;
mod devices;
mod disarm;
mod discover;
mod error;
mod forget;
mod guests;
mod next;
mod old_disks;
mod other_record;
mod outage;
mod release;
mod resume;
mod start;
mod stop;
mod verify;
mod watch;

pub use code::Code;
pub use config::{ConfigWritten, config, write_config};
use contact::Contact;
pub use continuity::{LastBoot, ServedBoot};
pub use copying::{CopyDone, CopyPlan, CopyRequest, CopyTarget, copy, plan_copy};
pub use cutover::{CutoverOptions, cutover};
pub use devices::{DeviceResult, devices_down, devices_up};
pub use disarm::{disarm, rearm};
pub use discover::{MachineView, discover, statistics};
pub use error::Error;
pub use forget::forget;
pub use guests::bridges as guests_bridges;
pub use next::{Action, Why};
pub use other_record::SharedCards;
pub use outage::{Outage, Pause, outage};
use p2v_contract::Address;
use p2v_contract::inventory::Disk;
pub use release::{ReleaseOptions, release};
pub use resume::{ResumeOptions, Resumed, resume};
pub use start::{StartOptions, start};
pub use stop::{StopOptions, stop};
pub use verify::{Against, VerifyDone, verify};
pub use watch::{INTERVAL as WATCH_INTERVAL, is_watched, watch, watch_once};

/// What a command works with.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// This host.
    pub host: &'a Host,
    /// The wire to the old machines.
    pub wire: &'a dyn Wire,
    /// Who is told what is done.
    pub report: &'a dyn Report,
}

impl<'a> Context<'a> {
    /// Refuses if a disk that the machine once had is not there, unless the operator left it out by
    /// its slot.
    fn refuse_missing(&self, record: &Record, without: &[u8]) -> Result<(), Error> {
        let missing = record.missing();
        let name = &record.name;
        if let Some(there) = without.iter().find(|slot| !missing.contains(*slot)) {
            return refused(
                Code::BadOption,
                format!(
                    "--without-disk {there}: no such disk of {name} is missing, and one that is there is not left out"
                ),
            );
        }
        let missed: Vec<u8> = missing
            .into_iter()
            .filter(|slot| !without.contains(slot))
            .collect();
        if missed.is_empty() {
            return Ok(());
        }
        let list: Vec<String> = missed
            .iter()
            .map(|slot| Address::new(record.shelf, *slot).to_string())
            .collect();
        let flags: Vec<String> = missed
            .iter()
            .map(|slot| format!("--without-disk {slot}"))
            .collect();
        refused(
            Code::DiskMissing,
            format!(
                "{name} had the disk {} before, and does not export it now. A disk that did not come up also moves those \
                 after it: look at the old machine and boot it again. If it is meant to be gone: {}",
                list.join(" and "),
                flags.join(" ")
            ),
        )
    }

    /// Refuses where disks of a machine of this name were copied, and the record knows of none: it was lost, and its
    /// server may run from there.
    fn refuse_forgotten(&self, record: &Record) -> Result<(), Error> {
        let copies = self.host.store.forgotten_copies(record)?;
        let Some(copy) = copies.first() else {
            return Ok(());
        };
        let (name, records) = (&record.name, self.host.store.machines().display());
        refused(
            Code::RecordLost,
            format!(
                "{name} was copied to {copy} once, and its record does not know: that was lost or put back from before. Its \
                 server may run from there. Put the right record back in {records}, then `p2v trust {name}`; or, if \
                 nothing of it is left, `p2v forget {name}`, and boot the old machine again"
            ),
        )
    }

    /// Refuses while `xendomains` has an image of the domain: restored later, it would go on with what
    /// it remembers of a disk that was changed meanwhile.
    fn refuse_saved(&self, name: &MachineName) -> Result<(), Error> {
        let Some(image) = self.host.saved_image(name) else {
            return Ok(());
        };
        refused(
            Code::SavedImage,
            format!(
                "there is a saved image of the domain {name}, {}: restored later, it would destroy its disk. Restore it and \
                 shut that domain down (`xl restore {}`), or remove it if it may be lost",
                image.display(),
                image.display()
            ),
        )
    }

    /// Refuses while a domain, a mount or anything else on this host uses the machine's disks.
    fn refuse_while_in_use(&self, name: &MachineName, addresses: &[Address]) -> Result<(), Error> {
        let driver = AoeDriver::new(&self.host.tools, &self.host.paths);
        let mut paths = Vec::new();
        for address in addresses {
            paths.push(
                self.host
                    .paths
                    .dev_mapper
                    .join(name.dm_name(address.slot.into())),
            );
            paths.push(driver.device(*address));
        }
        let domains = self.domains()?;
        for domain in &domains {
            if domain.name == name.as_str() {
                return refused(
                    Code::DomainRuns,
                    format!(
                        "the domain {name} (number {}) exists and its disk has one writer only: shut it down first \
                         (`p2v stop {name}`)",
                        domain.id
                    ),
                );
            }
        }
        for path in &paths {
            if let Some(user) = disk_user::user_among(self.host, &domains, path)? {
                return refused(
                    Code::DomainRuns,
                    format!(
                        "the domain {} (number {}) uses {}: shut it down first (`xl shutdown {}`)",
                        user.domain, user.id, user.disk, user.domain
                    ),
                );
            }
        }
        for device in self.dm_devices()? {
            let ours = addresses
                .iter()
                .any(|a| device.name == name.dm_name(a.slot.into()));
            if ours && device.open > 0 {
                return refused(
                    Code::DiskInUse,
                    format!(
                        "{} is in use on this host (opened {} times), though no domain says so: `fuser -v /dev/mapper/{}` \
                         and `dmsetup ls --tree` show by what",
                        device.name, device.open, device.name
                    ),
                );
            }
        }
        Ok(())
    }

    /// The domains there are; none on a host that does not run Xen.
    fn domains(&self) -> Result<Vec<xl::Domain>, Error> {
        Ok(disk_user::domains(self.host)?)
    }

    /// The device-mapper devices there are; none where `dmsetup` was never installed.
    fn dm_devices(&self) -> Result<Vec<dmsetup::Device>, Error> {
        match dmsetup::list(&self.host.tools) {
            Err(ToolError::Missing { .. }) => Ok(Vec::new()),
            other => Ok(other?),
        }
    }

    /// Removes the machine's device-mapper devices, and has the kernel's driver forget the old
    /// disks. Closing them wrote out what the page cache still had.
    fn let_go(&self, name: &MachineName, addresses: &[Address]) -> Result<(), Error> {
        for device in self.dm_devices()? {
            if !addresses
                .iter()
                .any(|a| device.name == name.dm_name(a.slot.into()))
            {
                continue;
            }
            if !device.is_ours() || !self.made_for(name, &device.name)? {
                return refused(
                    Code::DeviceNotOurs,
                    format!(
                        "the device-mapper device {} was not made by p2v for this machine (another one may have had its name): \
                         remove it (`dmsetup remove {}`) if nothing needs it",
                        device.name, device.name
                    ),
                );
            }
            self.report
                .step(&format!("removing /dev/mapper/{}", device.name));
            dmsetup::remove(&self.host.tools, &device.name)?;
        }
        let driver = AoeDriver::new(&self.host.tools, &self.host.paths);
        for address in addresses {
            let node = driver.device(*address);
            // Fails with EBUSY while anything else has it: a mount, another mapping.
            match OpenOptions::new()
                .read(true)
                .custom_flags(nix::libc::O_EXCL)
                .open(&node)
            {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                    return refused(
                        Code::DiskInUse,
                        format!(
                            "{} is in use on this host (a mount or a mapping): `lsblk` and `dmsetup ls --tree` show by what",
                            node.display()
                        ),
                    );
                }
                // Not there, or down: nobody has it.
                Err(_) => continue,
            }
            if let Err(error) = driver.forget(*address) {
                self.report.warn(&error.to_string());
            }
        }
        Ok(())
    }

    /// Whether a device of the machine's name is what its record tells of: a record that was lost is followed by another of
    /// that name.
    fn made_for(&self, name: &MachineName, device: &str) -> Result<bool, Error> {
        let record = self.host.store.get(name)?;
        let mut mapped = record
            .disks
            .iter()
            .filter(|(_, disk)| disk.mapping.is_some());
        Ok(mapped.any(|(slot, _)| name.dm_name((*slot).into()) == device))
    }

    /// Where no domain is on an old disk any more, the kernel's driver gives a silent one up as soon as it did before, and
    /// guests' AoE is their own affair.
    fn driver_as_before(&self) {
        let nobody_waits = || match self.host.store.list() {
            Ok(listing) => {
                listing.unreadable.is_empty()
                    && !listing.records.iter().any(Record::has_domain_on_old_disks)
            }
            Err(error) => {
                self.report.warn(&error.to_string());
                false
            }
        };
        let driver = AoeDriver::new(&self.host.tools, &self.host.paths);
        if let Err(error) = driver.as_before(nobody_waits) {
            self.report.warn(&error.to_string());
        }
        self.let_guests();
    }

    /// Runs `work`; if it fails, takes back what it noted and says so.
    fn or_take_back<T>(
        &self,
        work: impl FnOnce(&mut Undo<'a>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut undo = Undo::new(self.report);
        match work(&mut undo) {
            Ok(value) => {
                undo.keep();
                Ok(value)
            }
            Err(cause) => Err(Error::TakenBack {
                cause: Box::new(cause),
                left: undo.run(),
            }),
        }
    }

    /// A line of history for something that was done: it stays done if the line cannot be written.
    fn note_or_warn(&self, name: &MachineName, what: &str) {
        if let Err(error) = self.note(name, what) {
            self.report
                .warn(&format!("{what}, but its record does not say so: {error}"));
        }
    }

    fn note(&self, name: &MachineName, what: &str) -> Result<(), Error> {
        self.host.store.update(name, |record| {
            record.note(Timestamp::now(), what);
            Ok(())
        })
    }
}

fn addresses(disks: &[(Address, Disk)]) -> Vec<Address> {
    disks.iter().map(|(address, _)| *address).collect()
}

#[cfg(test)]
mod tests;
