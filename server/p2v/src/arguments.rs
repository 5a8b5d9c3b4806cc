//! The command line, parsed once into values that the rest of the program uses.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::image::Unlisted;
use crate::site_dhcp::DhcpServer;
use p2v_aoe::MacAddr;
use p2v_aoe::key::PublicKey;
use p2v_netboot::parse_mac;

/// Exit codes, for scripts; also in `p2v help`.
pub mod exit {
    /// Something failed; what and what to do is on standard error.
    pub const FAILED: u8 = 1;
    /// `p2v doctor` found something that must be mended; `p2v copy` ended with unreadable sectors;
    /// `p2v verify` found a difference.
    pub const INCOMPLETE: u8 = 3;
}

const OVERVIEW: &str = "\
p2v moves old physical servers onto Xen.

The old server is restarted once and boots over the network into p2v's agent, which shows its disks on the wire and \
changes nothing on them. Then, on the Xen host, for a machine called NAME:

  p2v list            what is there, and what state it is in
  p2v approve MAC     let a machine in that asks: until then it is left to its own disk
  p2v start NAME      run the old system as a domain, still on its old disk (service is back)
                      ... whenever it suits: shut the domain down from inside, or p2v stop NAME ...
  p2v copy NAME --to VG     copy the disk to a new volume in VG; every byte is checked
  p2v cutover NAME    run the domain from the volume from now on
  p2v release NAME    switch the old machine off

If its disk fails, leave out start: copy, then cutover; do not restart the old machine before that.";

const AFTER: &str = "\
States: asks -> (approved) -> seen -> exported -> running -> copying -> copied -> moved -> released.
Nothing is overwritten or deleted silently, and until `p2v start` (or `p2v disarm`) nothing can write to the \
old disk.

Exit codes: 0 done; 1 failed, with the reason and what to do on standard error; 2 wrong usage; 3 doctor found \
something to mend, a copy ended with sectors that could not be read, or verify found a difference.

If you are in the middle of a night: `p2v show NAME` says where a machine is and what to do next.";

/// The `p2v` command.
#[derive(Debug, Parser)]
#[command(name = "p2v", version, about = OVERVIEW, long_about = None, after_help = AFTER, max_term_width = 110)]
pub struct Arguments {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Args, Debug)]
pub struct Global {
    /// Settings file [default: /etc/p2v/p2v.toml, where there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where machine records are kept [default: /var/lib/p2v]
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Network interface with the old machines on it [default: from the settings, or xenbr0]
    #[arg(long, global = true, value_name = "IFACE")]
    pub iface: Option<String>,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands, in the order an operator meets them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Is this host ready? Names what is missing and what to do about it
    Doctor,
    /// Retire the record of a machine of which nothing is left here: its name and shelf are free then
    Forget {
        /// The machine
        name: String,
        /// You know that the old machine is gone for good (its disks are out, or destroyed), and a CD or stick of p2v's, too.
        /// From then on p2v does not keep it from its own disk. Needed where its server was moved, or a medium made
        #[arg(long)]
        gone: bool,
    },
    /// Accept a machine's record that was restored from a backup
    Trust {
        /// The machine
        name: String,
    },
    /// Print this host's public key, by which old machines know its orders; make the key if there is none
    Key,
    /// Boot old machines over the network (runs until stopped; see the p2v-serve unit): those that are approved, by `p2v
    /// approve` or by `allow` under [serve] in the settings
    Serve(ServeOptions),
    /// Let a machine that asks boot the agent; without a name: say what was approved
    ///
    /// Until then a machine that boots from the network is left to its own disk; `p2v list` shows it as `asks`. Its firmware
    /// repeats its question for about a minute: approved meanwhile, it boots at once.
    Approve {
        /// The MAC address that it boots from, or its name
        #[arg(value_name = "NAME|MAC")]
        machine: Option<String>,
        /// For one boot: until it has fetched its whole initial RAM disk
        #[arg(long, requires = "machine")]
        once: bool,
        /// Take it back: it is left to its own disk from its next start on, unless its server runs here
        #[arg(long, requires = "machine", conflicts_with = "once")]
        revoke: bool,
    },
    /// The machines and their states
    List {
        /// How each machine's last boot over the network went, instead
        #[arg(long)]
        boot: bool,
    },
    /// All about one machine, and what to do next
    Show {
        /// Name of the machine, or the MAC address it boots from, as `p2v list` shows them
        name: String,
    },
    /// Print the domain config a machine would get, with the reason for each choice
    Config {
        /// Name of the machine, or the MAC address it boots from
        name: String,
        /// Write it to /etc/xen/NAME.cfg; one that was edited is kept beside it
        #[arg(long)]
        write: bool,
    },
    /// Run the old system as a domain on its old disks, over the wire
    ///
    /// Not with a disk that fails: there `p2v copy` comes first, and then `p2v cutover`.
    Start {
        /// Name of the machine, or the MAC address it boots from
        name: String,
        /// Start although a copy is finished: what the domain writes is not in it, and it is to be made again
        #[arg(long)]
        discard_copy: bool,
        /// Start on the old disk of a machine that is moved: it goes back to where it was before the cutover, and what
        /// the moved one wrote since is not there
        #[arg(long)]
        discard_moved: bool,
        /// A disk (its number in e7.N) that the machine once had, and that was removed on purpose
        #[arg(long, value_name = "N", value_parser = slot)]
        without_disk: Vec<u8>,
        /// A machine that shares a network card with this one: you know that they are two, and the card was moved from one
        /// to the other
        #[arg(long, value_name = "NAME")]
        another_machine: Vec<String>,
    },
    /// End the domain; its old disks become read-only again
    Stop {
        /// Name of the machine, or the MAC address it boots from
        name: String,
        /// Pull the plug instead of asking the guest to shut down
        #[arg(long)]
        destroy: bool,
    },
    /// Give a waiting domain its old disks back, after the old machine was away
    ///
    /// An old machine that was switched off and on, or restarted, comes back without answering reads and writes, so that
    /// the domain waits rather than gets errors. This makes sure that it is the same machine with the same disks.
    Resume {
        /// Name of the machine, or the MAC address it boots from
        name: String,
        /// You know that the old machine did not start its own system from its disk while it was away
        #[arg(long)]
        old_system_did_not_run: bool,
        /// Instead of --old-system-did-not-run, where a disk is NOT AS IT WAS: you know that only the domain wrote to it
        #[arg(long)]
        although_changed: bool,
    },
    /// Copy a machine's disks, or one disk, to a volume, file or device, and check every byte
    ///
    /// Refused while a domain runs on the disk. Interrupted, run it again: it goes on where it was; or, if the old
    /// machine restarted meanwhile, it compares all and moves what differs.
    Copy {
        /// Name of the machine, or the MAC address it boots from, or one disk's address such as e7.0
        what: String,
        /// VG (a volume named after the machine is made in it), VG/LV, VG/THINPOOL, or a file or device, which begins
        /// with / or ./ (.qcow2 becomes an image). A file, device or VG/LV takes one disk
        #[arg(long, value_name = "VG[/LV]|FILE|DEVICE")]
        to: String,
        /// Use a destination that exists and is not a copy of this disk: what is on it is lost. Give its name (VG/LV
        /// or the path), or type it when asked
        #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "")]
        overwrite: Vec<String>,
        /// Copy while the domain runs, to begin with: after the domain is shut down, the same command without this
        /// compares all of it and moves only what has changed: the break is as long as reading the disk once
        #[arg(long)]
        precopy: bool,
        /// Leave out what file systems do not use; what is not known, not clean, LVM, RAID or encrypted is copied whole,
        /// and p2v says which
        #[arg(long)]
        used_only: bool,
        /// Further tries for each sector that cannot be read
        #[arg(long, value_name = "N", default_value_t = 1)]
        retries: u32,
        /// Begin no further try after this time, as in 2h; what is left is tried when the command is run again
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        rescue_time: Option<std::time::Duration>,
        /// What is put where the old disk cannot be read [default: zeros in a new destination, else what is there]
        #[arg(long, value_enum)]
        fill: Option<Fill>,
        /// What is compared: every byte of the copy with the old disk (both); less than that is quicker, and
        /// `p2v cutover` says so
        #[arg(long, value_enum, default_value_t = Verify::Both)]
        verify: Verify,
        /// Bytes per second that may cross the wire, as in 50M (K, M, G: powers of 1024)
        #[arg(long, value_name = "RATE", value_parser = bytes)]
        limit: Option<u64>,
        /// Say what would be copied where and how long it may take, and do nothing
        #[arg(long)]
        dry_run: bool,
        /// Memory for what is on its way [default: 128M, or what so many disks need]
        #[arg(long, value_name = "SIZE", value_parser = bytes)]
        memory: Option<u64>,
        /// Go on although this host did not boot the old machine and cannot make its disks read-only: you know that
        /// no domain on another host writes to them
        #[arg(long)]
        not_booted_by_this_host: bool,
        /// A disk (its number in e7.N) that the machine once had, and that was removed on purpose
        #[arg(long, value_name = "N", value_parser = slot)]
        without_disk: Vec<u8>,
    },
    /// Compare finished copies once more, with the old disks or with what was noted when they were made
    Verify {
        /// Name of the machine, or the MAC address it boots from: all its finished copies
        name: String,
        /// Do not ask the old machine: compare with what was noted, which spares a disk that fails. Refused where sectors
        /// could not be read
        #[arg(long)]
        from_certificate: bool,
    },
    /// Run the domain from the copies from now on
    Cutover {
        /// Name of the machine, or the MAC address it boots from
        name: String,
        /// Also start the domain whenever this host starts: a link in /etc/xen/auto
        #[arg(long)]
        autostart: bool,
        /// Go on although sectors of the old disk could not be read; then check the file systems in the domain (fsck,
        /// chkdsk)
        #[arg(long)]
        accept_unreadable: bool,
        /// Go on although this host could not make the old disks read-only (copied with --not-booted-by-this-host):
        /// you know that nothing wrote to them since
        #[arg(long)]
        accept_unguarded: bool,
        /// Go on without the old machine: you know that it is off, and that it did not run its own system since the
        /// copy. Refused while it is heard
        #[arg(long)]
        old_machine_gone: bool,
        /// Make the old disks unable to start, as `p2v disarm` does: after a power cut of the whole site the old machine
        /// cannot come up beside its domain, whatever its boot order is
        #[arg(long, conflicts_with = "old_machine_gone")]
        disarm_old_disk: bool,
        /// A disk (its number in e7.N) that the machine once had, and that was removed on purpose
        #[arg(long, value_name = "N", value_parser = slot)]
        without_disk: Vec<u8>,
        /// A machine that shares a network card with this one: you know that they are two, and the card was moved from one
        /// to the other
        #[arg(long, value_name = "NAME")]
        another_machine: Vec<String>,
    },
    /// Make the old disks of a moved machine unable to start
    ///
    /// Replaces the code in the first sector of each disk, and the first sector of each FAT file system (UEFI starts from
    /// such), and keeps what was there. The partition table and all other sectors stay as they are.
    Disarm {
        /// Name of the machine, or the MAC address it boots from
        name: String,
        /// A disk (its number in e7.N) that the machine once had, and that was removed on purpose
        #[arg(long, value_name = "N", value_parser = slot)]
        without_disk: Vec<u8>,
    },
    /// Put back what disarm replaced on the old disks (`p2v start --discard-moved` includes it)
    Rearm {
        /// Name of the machine, or the MAC address it boots from
        name: String,
    },
    /// Keep an eye on the old machines of running domains (see the p2v-watch unit; runs until stopped)
    ///
    /// One that falls silent is logged, and after some 15 s its domain is paused, so that its own time-outs do not run; it
    /// is unpaused when its disks are back.
    Watch,
    /// Switch the old machine off (only when it is moved)
    Release {
        /// Name of the machine, or the MAC address it boots from
        name: String,
        /// It is off already; only the record is brought up to date. Refused while it answers
        #[arg(long)]
        off: bool,
    },
    /// What boots old machines without p2v serve: files for the site's own TFTP server, or a CD or USB stick
    Image {
        /// What to make
        #[command(subcommand)]
        action: Image,
    },
    /// The disks of domains under /dev/mapper, made again from the records (see the p2v-devices unit)
    Devices {
        /// What to do
        #[command(subcommand)]
        action: Devices,
    },
}

/// What to make of the netboot image.
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Lay out DIR, the root of a TFTP server: boot loaders, the image, and a menu for each machine
    ///
    /// For the machines with a record, those that the settings name (under [machines], or in `allow`), and those of
    /// --machine. The tree does not
    /// follow what happens to them: run this again after each change.
    Install {
        /// The TFTP server's root
        dir: PathBuf,
        /// One more machine, by the MAC address it boots from
        #[arg(long, value_name = "MAC", value_parser = parse_mac)]
        machine: Vec<MacAddr>,
        /// What a machine does that is none of these
        #[arg(long, value_enum, default_value_t = Unlisted::Local)]
        unlisted: Unlisted,
        /// What is told to the agents
        #[command(flatten)]
        orders: Orders,
    },
    /// Write FILE, an image for a CD or a USB stick that starts the agent on one machine, by BIOS or UEFI
    Iso {
        /// The image
        file: PathBuf,
        /// The machine, by name or by the MAC address of the network card that reaches the Xen host
        #[arg(long, value_name = "NAME|MAC")]
        machine: String,
        /// What is told to the agent
        #[command(flatten)]
        orders: Orders,
    },
}

/// What agents are told without p2v serve.
#[derive(Args, Debug)]
pub struct Orders {
    /// MAC address of a Xen host that the agents answer [default: those of the interfaces and `hosts` in the settings]
    #[arg(long, value_name = "MAC", value_parser = parse_mac)]
    pub host: Vec<MacAddr>,
    /// Key of a Xen host whose orders the agents take, as `p2v key` prints it there [default: without --host, that of this
    /// host and `host_keys` in the settings]
    #[arg(long, value_name = "KEY")]
    pub key: Vec<PublicKey>,
}

/// What a copy compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Verify {
    /// What the copy holds, with the old disk
    Both,
    /// What arrives, with the old disk
    Source,
    /// What the copy holds, with what arrived
    Written,
    /// Nothing
    None,
}

/// What is put where nothing can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fill {
    /// What is there already
    Keep,
    /// Zeros
    Zeros,
    /// A text that names the sector, to find the files with holes by
    Pattern,
}

/// The number of a disk, as `1` or as in its address, `e7.1`.
fn slot(text: &str) -> Result<u8, String> {
    let number = match text.rsplit_once('.') {
        Some((shelf, slot)) if shelf.starts_with('e') => slot,
        _ => text,
    };
    number.parse().map_err(|_| {
        "write the disk's number: 1 (or e7.1) for the second disk of the machine at shelf 7".into()
    })
}

/// A number of bytes as an operator writes it: `50M` is 50 * 1024 * 1024.
fn bytes(text: &str) -> Result<u64, String> {
    let sizes = parse_size::Config::new().with_binary();
    match sizes.parse_size(text) {
        Ok(0) => Err("0 would be nothing at all".into()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(format!(
            "{error}: write a number of bytes, or as in 50M or 2G"
        )),
    }
}

/// What to do with the device-mapper devices.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Devices {
    /// Make those that are missing
    Up,
    /// Remove those that are not in use
    Down,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn disks_are_named_by_number_or_address() {
        assert_eq!((slot("1"), slot("e7.1")), (Ok(1), Ok(1)));
        assert!(slot("sda").unwrap_err().contains("e7.1") && slot("e7").is_err());
    }

    #[test]
    fn sizes_are_read_as_they_are_written() {
        assert_eq!(bytes("50M"), Ok(50 << 20));
        assert_eq!(bytes("1G"), Ok(1 << 30));
        assert_eq!(bytes("1234"), Ok(1234));
        assert!(bytes("0").is_err() && bytes("fast").unwrap_err().contains("50M"));
    }

    #[test]
    fn what_may_be_overwritten_is_named_or_asked_for() {
        let overwrite = |line: &str| match Arguments::try_parse_from(line.split(' ')) {
            Ok(Arguments {
                command: Command::Copy { overwrite, .. },
                ..
            }) => overwrite,
            other => panic!("{other:?}"),
        };
        assert!(overwrite("p2v copy e1 --to vg").is_empty());
        assert_eq!(overwrite("p2v copy e1 --overwrite --to vg"), [""]);
        assert_eq!(overwrite("p2v copy e1 --overwrite=vg/a --to vg"), ["vg/a"]);
    }

    #[test]
    fn global_options_go_before_and_after() {
        for line in [
            "p2v --iface br1 start e1 --state /tmp/s",
            "p2v start e1 --state /tmp/s --iface br1",
        ] {
            let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(arguments.global.iface.as_deref(), Some("br1"));
            assert_eq!(arguments.global.state, Some("/tmp/s".into()));
        }
    }
}

/// Options of `p2v serve`.
#[derive(Debug, clap::Args)]
pub struct ServeOptions {
    /// Boot each machine once, also across restarts of this service; then it goes on with its own disk, unless its
    /// server runs on the Xen host
    #[arg(long)]
    pub once: bool,
    /// Only print what to put into the site's own DHCP server, so that it sends machines here; p2v then runs with
    /// mode = "off"
    #[arg(long, value_name = "SERVER", value_enum)]
    pub print: Option<DhcpServer>,
}
