//! The command line, parsed once into values that the rest of the program uses.

use std::path::PathBuf;

use clap::{Args, Parser};

use crate::commands::Command;

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

The old server is restarted once and boots over the network into p2v's agent, which exports its disks and changes \
nothing on them. Then, on the Xen host, for a machine called NAME:

  p2v list            what is there, and what state it is in
  p2v approve MAC     let a machine boot the agent: until then it boots its own disk
  p2v start NAME      run the old system as a domain, still on its old disk (service is back)
                      ... whenever it suits: shut the domain down from inside, or p2v stop NAME ...
  p2v copy NAME --to VG     copy the disk to a new volume in VG; every byte is checked
  p2v cutover NAME    run the domain from the volume from now on
  p2v release NAME    switch the old machine off

If its disk is failing, skip start: copy, then cutover. Do not restart the old machine before that.";

const AFTER: &str = "\
States: asks -> (approved) -> seen -> exported -> running -> copying -> copied -> moved -> released.
Nothing is overwritten or deleted silently. Until `p2v start` (or `p2v disarm`) nothing can write to the old disk.

Exit codes: 0 done; 1 failed, with the reason and the remedy on standard error; 2 wrong usage; 3 doctor found an \
error, a copy has unreadable sectors, or verify found a difference.

`p2v show NAME` says at any time where a machine is and what to do next.";

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

/// The number of a disk, as `1` or as in its address, `e7.1`.
pub fn slot(text: &str) -> Result<u8, String> {
    let number = match text.rsplit_once('.') {
        Some((shelf, slot)) if shelf.starts_with('e') => slot,
        _ => text,
    };
    number.parse().map_err(|_| {
        "write the disk's number: 1 (or e7.1) for the second disk of the machine at shelf 7".into()
    })
}

/// A number of bytes as an operator writes it: `50M` is 50 * 1024 * 1024.
pub fn bytes(text: &str) -> Result<u64, String> {
    let sizes = parse_size::Config::new().with_binary();
    match sizes.parse_size(text) {
        Ok(0) => Err("0 would be nothing at all".into()),
        Ok(bytes) => Ok(bytes),
        Err(error) => Err(format!(
            "{error}: write a number of bytes, or as in 50M or 2G"
        )),
    }
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
                command: Command::Copy(copy),
                ..
            }) => copy.overwrite,
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
