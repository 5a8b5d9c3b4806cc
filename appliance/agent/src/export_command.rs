//! `p2v-agent export`: one disk on the wire, from any Linux: what `vblade SHELF SLOT IFACE DISK` does.
//!
//! No netboot image, no orders from a host: who started it decides what is exported and to whom.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use lexopt::{Arg, Parser, ValueExt};
use p2v_contract::address::{SHELF_MAX, SLOT_MAX};
use p2v_contract::key::PublicKey;
use p2v_contract::{Address, MacAddr};

mod disk;
mod serve;

pub use disk::DiskRefused;
pub use serve::ServeError;

/// Where p2v keeps its host's public key.
const HOST_KEY: &str = "/var/lib/p2v/host.pub";

/// What `--help` says.
pub const USAGE: &str = "\
usage: p2v-agent export --shelf N --slot N --iface NAME [--iface NAME]... [options] DISK

Exports DISK (a block device or a file) as ATA over Ethernet target eSHELF.SLOT, until it is ended by
SIGTERM or Ctrl-C. A write is acknowledged when it is on stable storage.

  --shelf N       0 to 4094
  --slot N        0 to 254
  --iface NAME    the network interface; more than one may be given
  --read-only     no writes; without it, the disk is writable
  --allow MAC     answer this station only, by the MAC address of its interface (may be given several
                  times); without it, everybody
  --waiting       no reads and writes before `p2v resume` on the host says so: for the disk of an old machine that
                  does not come back, whose domain waits for it (needs --allow and --key)
  --key KEY       with --waiting: the key of the host that may say so, as `p2v key` prints it there; may be left
                  out on that host itself
  --fast-writes   acknowledge a write before it is on stable storage. If this machine stops or loses
                  power, what an initiator believes to be written is LOST, and its file systems are
                  damaged. Only for disks whose content may be lost
  --help          this text

Exit status: 0 ended by a signal, 1 it could not be done, 2 wrong arguments.
";

/// What is to be exported, how and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// As what.
    pub address: Address,
    /// On which interfaces.
    pub interfaces: Vec<String>,
    /// The disk.
    pub disk: PathBuf,
    /// No writes.
    pub read_only: bool,
    /// Nothing but p2v's own requests, until one gives access.
    pub waiting: bool,
    /// Whose orders are taken.
    pub keys: Vec<PublicKey>,
    /// Who is answered; empty: everybody.
    pub allow: Vec<MacAddr>,
    /// Writes are acknowledged early.
    pub fast_writes: bool,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// An export.
    Export(Options),
    /// The help text.
    Help,
}

/// What is wrong with the command line.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// An argument that is not known, or lacks its value.
    #[error("{0}")]
    Argument(#[from] lexopt::Error),
    /// A number that is none, or out of range.
    #[error("{option} {value}: it must be a number from 0 to {most}")]
    Number {
        /// The option.
        option: &'static str,
        /// What was given.
        value: String,
        /// The largest allowed.
        most: u16,
    },
    /// Not a MAC address.
    #[error("--allow {0}: it must be a MAC address, as in 52:54:00:aa:00:01")]
    Mac(String),
    /// Not a key.
    #[error("--key {0}: it must be what `p2v key` prints on the Xen host, 64 hex digits")]
    Key(String),
    /// A key that nothing is done with.
    #[error("--key is for --waiting: without that, no orders are taken")]
    KeyWithoutWaiting,
    /// Something is not said.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An order that everybody could give.
    #[error(
        "--waiting needs --allow MAC and --key KEY, the address and the key of the host that may end the waiting (`p2v key` \
         prints it there), and goes without --read-only"
    )]
    Waiting,
    /// Two disks.
    #[error("one disk at a time: {0:?} is one too many (start another p2v-agent for it)")]
    TooMany(OsString),
}

/// Reads the words after `export`.
///
/// # Errors
/// [`UsageError`]: a word is not understood, missing or one too many, or does not go with the others.
pub fn parse(
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<Asked, UsageError> {
    let mut parser = Parser::from_args(arguments);
    let (mut shelf, mut slot, mut disk) = (None, None, None);
    let (mut interfaces, mut allow, mut keys) = (Vec::new(), Vec::new(), Vec::new());
    let (mut read_only, mut waiting, mut fast_writes) = (false, false, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("shelf") => shelf = Some(number("--shelf", &mut parser, SHELF_MAX)?),
            Arg::Long("slot") => slot = Some(number("--slot", &mut parser, SLOT_MAX.into())?),
            Arg::Long("iface") => interfaces.push(parser.value()?.string()?),
            Arg::Long("allow") => {
                let word = parser.value()?.string()?;
                let mac: MacAddr = word.parse().map_err(|_| UsageError::Mac(word.clone()))?;
                if mac.is_multicast() || mac.is_zero() {
                    return Err(UsageError::Mac(word));
                }
                allow.push(mac);
            }
            Arg::Long("key") => {
                let word = parser.value()?.string()?;
                keys.push(word.parse().map_err(|_| UsageError::Key(word.clone()))?);
            }
            Arg::Long("read-only") => read_only = true,
            Arg::Long("waiting") => waiting = true,
            Arg::Long("fast-writes") => fast_writes = true,
            Arg::Long("help") | Arg::Short('h') => return Ok(Asked::Help),
            Arg::Value(value) if disk.is_none() => disk = Some(PathBuf::from(value)),
            Arg::Value(value) => return Err(UsageError::TooMany(value)),
            other => return Err(other.unexpected().into()),
        }
    }
    let shelf = shelf.ok_or(UsageError::Missing("--shelf N"))?;
    let slot = slot.ok_or(UsageError::Missing("--slot N"))?;
    if interfaces.is_empty() {
        return Err(UsageError::Missing("--iface NAME"));
    }
    if !waiting && !keys.is_empty() {
        return Err(UsageError::KeyWithoutWaiting);
    }
    if waiting && keys.is_empty() {
        keys.extend(own_key());
    }
    if waiting && (read_only || allow.is_empty() || keys.is_empty()) {
        return Err(UsageError::Waiting);
    }
    Ok(Asked::Export(Options {
        // The range was checked.
        address: Address::new(shelf, slot as u8),
        interfaces,
        disk: disk.ok_or(UsageError::Missing("DISK"))?,
        read_only,
        waiting,
        keys,
        allow,
        fast_writes,
    }))
}

/// The key of the Xen host that this is, if it is one.
fn own_key() -> Option<PublicKey> {
    std::fs::read_to_string(HOST_KEY).ok()?.trim().parse().ok()
}

fn number(option: &'static str, parser: &mut Parser, most: u16) -> Result<u16, UsageError> {
    let value = parser.value()?.string()?;
    match value.parse() {
        Ok(number) if number <= most => Ok(number),
        _ => Err(UsageError::Number {
            option,
            value,
            most,
        }),
    }
}

/// Does what the words after `export` ask for; returns the exit status.
pub fn main(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> u8 {
    let options = match parse(arguments) {
        Ok(Asked::Export(options)) => options,
        Ok(Asked::Help) => {
            // Nobody need read it to its end.
            let _ = io::stdout().write_all(USAGE.as_bytes());
            return 0;
        }
        Err(error) => {
            eprintln!("p2v-agent export: {error}\n\n{USAGE}");
            return 2;
        }
    };
    match serve::serve(&options) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("p2v-agent export: {error}");
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<Asked, String> {
        parse(line.split_whitespace()).map_err(|e| e.to_string())
    }

    #[test]
    fn the_line_that_replaces_vblades() {
        let expected = Options {
            address: Address::new(1, 0),
            interfaces: vec!["eth0".into()],
            disk: "/dev/sdb".into(),
            read_only: false,
            waiting: false,
            keys: vec![],
            allow: vec![],
            fast_writes: false,
        };
        let asked = options("--shelf 1 --slot 0 --iface eth0 /dev/sdb").unwrap();
        assert_eq!(asked, Asked::Export(expected.clone()));
        let asked = options(
            "/dev/sdb --iface eth0 --iface=eth1 --slot=254 --shelf=4094 --read-only --fast-writes \
             --allow 52:54:00:aa:00:01",
        );
        assert_eq!(
            asked.unwrap(),
            Asked::Export(Options {
                address: Address::new(4094, 254),
                interfaces: vec!["eth0".into(), "eth1".into()],
                read_only: true,
                waiting: false,
                allow: vec![MacAddr::new(0x52, 0x54, 0, 0xaa, 0, 1)],
                fast_writes: true,
                ..expected
            })
        );
        assert_eq!(options("--help").unwrap(), Asked::Help);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, wanted) in [
            ("--slot 0 --iface eth0 d", "--shelf N is missing"),
            ("--shelf 1 --iface eth0 d", "--slot N is missing"),
            ("--shelf 1 --slot 0 d", "--iface NAME is missing"),
            ("--shelf 1 --slot 0 --iface eth0", "DISK is missing"),
            ("--shelf 4095 --slot 0 --iface eth0 d", "from 0 to 4094"),
            ("--shelf 1 --slot 255 --iface eth0 d", "from 0 to 254"),
            ("--shelf x --slot 0 --iface eth0 d", "--shelf x"),
            ("--shelf 1 --slot 0 --iface eth0 d e", "one too many"),
            ("--shelf 1 --slot 0 --iface eth0 --allow 1 d", "MAC address"),
            (
                "--shelf 1 --slot 0 --iface eth0 --allow ff:ff:ff:ff:ff:ff d",
                "MAC address",
            ),
            ("--fast --shelf 1", "--fast"),
            ("--shelf 1 --slot 0 --iface eth0 --key 1 d", "p2v key"),
            (
                "--shelf 1 --slot 0 --iface eth0 --waiting --allow 52:54:00:aa:00:01 d",
                "--key KEY",
            ),
        ] {
            let error = options(line).unwrap_err();
            assert!(error.contains(wanted), "{line}: {error}");
        }
    }
}
