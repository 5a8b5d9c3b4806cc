//! `p2v copy`.

use std::process::ExitCode;
use std::sync::Mutex;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use p2v_contract::Address;
use p2v_copy::{self as copy, Salvage, rescue};
use p2v_dom0::workflow::{self, CopyRequest, CopyTarget};
use p2v_netboot::parse_mac;

use super::{Session, stop_on_signal};
use crate::arguments::{bytes, slot};
use crate::copying;

#[derive(Debug, Args)]
pub struct Copy {
    /// The machine: its name, or the MAC address it boots from; or the address of one disk, such as e7.0
    pub what: String,
    /// Destination: VG (p2v creates a volume named after the machine), VG/LV, VG/THINPOOL, or the path of a file or device,
    /// starting with / or ./ (.qcow2 makes an image). A file, device or VG/LV takes one disk
    #[arg(long, value_name = "VG[/LV]|FILE|DEVICE")]
    pub to: String,
    /// Overwrite a destination that is not a copy of this disk; its contents are lost. Give its name (VG/LV or path), or
    /// type it when asked
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub overwrite: Vec<String>,
    /// First pass while the domain runs. Shut it down, then run again without --precopy: only changed ranges are
    /// transferred, and the outage is as long as reading the disk once
    #[arg(long)]
    pub precopy: bool,
    /// Skip what file systems do not use. LVM, RAID, encrypted, unclean or unknown contents are copied whole, and listed
    #[arg(long)]
    pub used_only: bool,
    /// Retries for each unreadable sector
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub retries: u32,
    /// Start no retry after this time, for example 2h. Run the command again to continue
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub rescue_time: Option<std::time::Duration>,
    /// Fill for unreadable sectors [default: zeros if new, keep otherwise]
    #[arg(long, value_enum)]
    pub fill: Option<Fill>,
    /// What to compare. Less than both is quicker, and `p2v cutover` warns about it
    #[arg(long, value_enum, default_value_t = Verify::Both)]
    pub verify: Verify,
    /// Limit on bytes per second over the wire, for example 50M (K, M, G: powers of 1024)
    #[arg(long, value_name = "RATE", value_parser = bytes)]
    pub limit: Option<u64>,
    /// Show what would be copied where, and how long it may take; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Memory for data in flight [default: 128M, or what so many disks need]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub memory: Option<u64>,
    /// Copy although this host did not boot the old machine and cannot make its disks read-only: confirm that no other
    /// host writes to them
    #[arg(long)]
    pub not_booted_by_this_host: bool,
    /// A disk that was removed on purpose: its number, as in e7.N
    #[arg(long, value_name = "N", value_parser = slot)]
    pub without_disk: Vec<u8>,
}

/// What a copy compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Verify {
    /// The copy, read back, with the old disk
    Both,
    /// What arrived, with the old disk
    Source,
    /// The copy, read back, with what arrived
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
    /// What the destination holds already
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
