//! `p2v copy`.

use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use p2v_aoe::Address;
use p2v_dom0::copy::{self, Salvage, rescue};
use p2v_dom0::workflow::{self, CopyRequest, CopyTarget};
use p2v_netboot::parse_mac;

use super::{Session, stop_on_signal};
use crate::arguments::{bytes, slot};
use crate::copying;

#[derive(Debug, Args)]
pub struct Copy {
    /// Name of the machine, or the MAC address it boots from, or one disk's address such as e7.0
    pub what: String,
    /// VG (a volume named after the machine is made in it), VG/LV, VG/THINPOOL, or a file or device, which begins
    /// with / or ./ (.qcow2 becomes an image). A file, device or VG/LV takes one disk
    #[arg(long, value_name = "VG[/LV]|FILE|DEVICE")]
    pub to: String,
    /// Use a destination that exists and is not a copy of this disk: what is on it is lost. Give its name (VG/LV
    /// or the path), or type it when asked
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub overwrite: Vec<String>,
    /// Copy while the domain runs, to begin with: after the domain is shut down, the same command without this
    /// compares all of it and moves only what has changed: the break is as long as reading the disk once
    #[arg(long)]
    pub precopy: bool,
    /// Leave out what file systems do not use; what is not known, not clean, LVM, RAID or encrypted is copied whole,
    /// and p2v says which
    #[arg(long)]
    pub used_only: bool,
    /// Further tries for each sector that cannot be read
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub retries: u32,
    /// Begin no further try after this time, as in 2h; what is left is tried when the command is run again
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub rescue_time: Option<std::time::Duration>,
    /// What is put where the old disk cannot be read [default: zeros in a new destination, else what is there]
    #[arg(long, value_enum)]
    pub fill: Option<Fill>,
    /// What is compared: every byte of the copy with the old disk (both); less than that is quicker, and
    /// `p2v cutover` says so
    #[arg(long, value_enum, default_value_t = Verify::Both)]
    pub verify: Verify,
    /// Bytes per second that may cross the wire, as in 50M (K, M, G: powers of 1024)
    #[arg(long, value_name = "RATE", value_parser = bytes)]
    pub limit: Option<u64>,
    /// Say what would be copied where and how long it may take, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Memory for what is on its way [default: 128M, or what so many disks need]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub memory: Option<u64>,
    /// Go on although this host did not boot the old machine and cannot make its disks read-only: you know that
    /// no domain on another host writes to them
    #[arg(long)]
    pub not_booted_by_this_host: bool,
    /// A disk (its number in e7.N) that the machine once had, and that was removed on purpose
    #[arg(long, value_name = "N", value_parser = slot)]
    pub without_disk: Vec<u8>,
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

impl From<Verify> for copy::Verify {
    fn from(verify: Verify) -> copy::Verify {
        match verify {
            Verify::Both => copy::Verify::Both,
            Verify::Source => copy::Verify::Source,
            Verify::Written => copy::Verify::Written,
            Verify::None => copy::Verify::None,
        }
    }
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

impl From<Fill> for rescue::Fill {
    fn from(fill: Fill) -> rescue::Fill {
        match fill {
            Fill::Keep => rescue::Fill::Keep,
            Fill::Zeros => rescue::Fill::Zeros,
            Fill::Pattern => rescue::Fill::Pattern,
        }
    }
}

impl Copy {
    pub fn run(&self, session: &Session<'_>) -> Result<ExitCode> {
        session.with_wire(|context| {
            let target = self.target(session)?;
            let typed = Mutex::default();
            let may_go = |name: &str, holds: Option<&str>| {
                copying::may_go(&self.overwrite, &typed, name, holds)
            };
            let request = CopyRequest {
                may_go: &may_go,
                not_booted_by_this_host: self.not_booted_by_this_host,
                without: &self.without_disk,
                precopy: self.precopy,
                used_only: self.used_only,
                salvage: Salvage {
                    retries: self.retries,
                    fill: self.fill.map(rescue::Fill::from),
                    time_limit: self.rescue_time,
                },
                verify: self.verify.into(),
                limit: self.limit,
                memory: self
                    .memory
                    .map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
                ..CopyRequest::new(&target, &self.to, stop_on_signal()?)
            };
            if self.dry_run {
                let plans = workflow::plan_copy(context, request)?;
                copying::planned(&plans, session.json);
                return Ok(ExitCode::SUCCESS);
            }
            let copies = workflow::copy(context, request)?;
            Ok(copying::copied(&copies, session.json))
        })
    }

    fn target(&self, session: &Session<'_>) -> Result<CopyTarget> {
        let what = &self.what;
        match what.parse::<Address>() {
            Ok(address) => Ok(CopyTarget::Disk(address)),
            // No name has a dot: a disk's address was meant.
            Err(_) if what.starts_with('e') && what.contains('.') && parse_mac(what).is_err() => {
                bail!(
                    "`{what}` is no disk's address: eSHELF.SLOT, as in e7.0, with shelf 0 to 4094 and slot 0 to 254"
                )
            }
            Err(_) => Ok(CopyTarget::Machine(session.name_of(what)?)),
        }
    }
}
