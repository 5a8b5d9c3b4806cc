//! Why a command did not do what it was asked to, for programs.

use serde::Serialize;

/// One of these stays what it is, whatever the sentence beside it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The machine was moved already: its volume is newer than its old disk.
    AlreadyMoved,
    /// Another `p2v watch` runs.
    AlreadyWatched,
    /// An option that does not go with this machine or with the others.
    BadOption,
    /// The domain's config cannot be read or written, or was edited meanwhile.
    Config,
    /// The config file is another machine's.
    ConfigOfAnother,
    /// The copy engine: the old disk, the destination or the journal failed, or the copy was interrupted.
    Copy,
    /// The copy does not hold what the old disk holds.
    CopyDiffers,
    /// Another host's domain may have written to the disk while it was copied.
    CopyUnguarded,
    /// The destination cannot be used, or holds something else.
    Destination,
    /// The destination cannot be told from another one.
    DestinationAmbiguous,
    /// The destination is another one than was copied to.
    DestinationChanged,
    /// The destination is not on this host.
    DestinationMissing,
    /// Another machine has the destination.
    DestinationTaken,
    /// A device-mapper device of that name is not p2v's.
    DeviceNotOurs,
    /// A sector that the old disk starts from could not be replaced.
    DisarmFailed,
    /// What a disarmed disk started from is not kept here.
    DisarmFileMissing,
    /// The old disk is disarmed.
    Disarmed,
    /// It is not the disk that it was.
    DiskChanged,
    /// The old disk fails, and is not written to.
    DiskFailing,
    /// Something on this host uses the disk.
    DiskInUse,
    /// The old machine does not export the disk.
    DiskMissing,
    /// No domain fits the machine.
    DoesNotFit,
    /// A domain may still run that was to be ended.
    DomainMayRun,
    /// A domain uses the disk.
    DomainRuns,
    /// The domain waits for its old disks.
    DomainWaits,
    /// A file of p2v's cannot be read or written.
    File,
    /// Guests cannot be kept off the old machines' wire.
    GuestsOnWire,
    /// The machine was copied, and this would make the copy out of date.
    HasCopy,
    /// A fault in p2v.
    Internal,
    /// There is no such domain, or it does not use the old disks.
    NoDomain,
    /// There is no finished copy.
    NoFinishedCopy,
    /// The agent was started without this host's key.
    NoHostKey,
    /// The machine's inventory was not read yet.
    NoInventory,
    /// The machine names no network card.
    NoNetworkCard,
    /// No disk of it is disarmed.
    NotDisarmed,
    /// The machine was not moved.
    NotMoved,
    /// What answers for the machine's shelf is not known to be the machine.
    NotOurs,
    /// No domain has run from the copy yet.
    NotServing,
    /// This host does not run Xen.
    NotXen,
    /// The old machine's own disk may start without p2v.
    OldDiskMayStart,
    /// The old machine answers.
    OldMachineAnswers,
    /// The old machine did not do what it was ordered to.
    OldMachineRefuses,
    /// The old machine restarted meanwhile.
    OldMachineRestarted,
    /// The old machine does not answer.
    OldMachineSilent,
    /// The old machine's own system may have run meanwhile.
    OldSystemMayHaveRun,
    /// A domain of another host has the disk.
    OtherHost,
    /// The thin pool is nearly full.
    PoolFull,
    /// The machine's record is lost.
    RecordLost,
    /// A record cannot be read.
    RecordUnreadable,
    /// The machine records cannot be used, or there is none of that name.
    Records,
    /// It counts as the same machine as another record's.
    SameMachine,
    /// There is a saved image of the domain.
    SavedImage,
    /// Some sectors could not be read.
    SectorsUnreadable,
    /// Several machines answer where one should.
    SeveralMachines,
    /// The domain did not shut down in time.
    ShutdownTooSlow,
    /// Another machine exports the disks for the domain that waits.
    StandsIn,
    /// Something of the machine is left.
    StillInUse,
    /// A program or driver of this host failed.
    Tool,
    /// The wire.
    Wire,
    /// Writes of the domain were refused while the old machine was away.
    WritesLost,
}
