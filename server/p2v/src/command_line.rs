//! The command line, parsed once into values that the rest of the program uses.

use clap::Parser;

use crate::arguments::Global;
use crate::commands::Command;

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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
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
