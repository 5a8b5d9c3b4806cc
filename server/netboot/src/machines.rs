//! Where policy comes from: the caller decides what each machine boots.

use pnet::util::MacAddr;

use crate::boot_decision::BootDecision;
use crate::event::{BootEvent, Notice};
use crate::machine_id::MachineId;

/// The caller's knowledge of machines.
///
/// Methods may block (they are called on threads for that), but a client waits meanwhile: ROMs
/// repeat a question after about a second and give up after some ten.
pub trait Machines: Send + Sync + 'static {
    /// What to do with this machine now (may create its record).
    ///
    /// Called for every fetch of its menu: several times in one boot, also at the same time, because ROMs
    /// fetch a menu once for its size and once for its contents. It must be idempotent within a boot:
    /// the last answer a machine saw must be as good as the first (so no new token at each call). A
    /// boot begins with [`BootEvent::Asked`] with a new transaction number.
    fn boot(&self, mac: MacAddr) -> BootDecision;

    /// The same for a machine that `allow` does not name, or `deny` does. `None`, the default: it is ignored.
    /// It is asked because the caller may have approved the machine, and because one whose server already
    /// runs elsewhere must not start its own disk, whatever the lists say.
    fn boot_unlisted(&self, _mac: MacAddr) -> Option<BootDecision> {
        None
    }

    /// The same before it has asked for its menu: when it asks by DHCP, or for its boot loader. Only the
    /// kind of decision counts then, and nothing need be made for the machine: such a question is one
    /// packet with an address that anybody can make up.
    fn boot_at_first(&self, mac: MacAddr, listed: bool) -> Option<BootDecision> {
        match listed {
            true => Some(self.boot(mac)),
            false => self.boot_unlisted(mac),
        }
    }

    /// The machine with this card told its SMBIOS UUID: before what it shall do is asked, each time.
    fn identified(&self, _mac: MacAddr, _id: MachineId) {}

    /// What was seen of a machine, for its record and the log: `{mac}: {event}` is a readable line.
    fn seen(&self, mac: MacAddr, event: &BootEvent);

    /// What belongs to no one machine, for the log.
    fn noticed(&self, notice: &Notice);
}
