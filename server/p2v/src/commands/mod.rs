//! The commands: one file each, with its options and what is done with them.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use p2v_aoe::initiator::Initiator;
use p2v_contract::Address;
use p2v_dom0::name::MachineName;
use p2v_dom0::workflow::Context;
use p2v_dom0::{Host, Store};
use p2v_policy::naming;
use p2v_policy::settings::Settings;
use serde_json::json;

use crate::arguments::{Global, exit};
use crate::report::Reporter;
use crate::{doctor, serve as service};

mod approve;
mod config;
pub mod copy;
mod cutover;
mod devices;
mod disarm;
mod docs;
mod forget;
pub mod image;
mod list;
mod rearm;
mod release;
mod resume;
mod serve;
mod show;
mod start;
mod stop;
mod trust;
mod verify;
mod watch;

/// The commands, in the order an operator meets them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check whether this host is ready, and list what is missing
    Doctor,
    /// Retire the record of a machine that has nothing left on this host; frees its name and shelf
    Forget(forget::Forget),
    /// Accept a machine's record that was restored from a backup
    Trust(trust::Trust),
    /// Print this host's public key, by which old machines recognise its orders; create it if there is none
    Key,
    /// Boot approved old machines over the network; runs until stopped (unit p2v-serve)
    ///
    /// A machine is approved by `p2v approve`, or by `allow` under [serve] in the settings.
    Serve(serve::Serve),
    /// Let a machine boot the agent; without a name, list approvals
    ///
    /// A machine that is not approved boots its own disk; `p2v list` shows it as `asks`. Its firmware asks for about a
    /// minute: if you approve it within that time, it boots the agent at once.
    Approve(approve::Approve),
    /// List machines and their states
    List(list::List),
    /// Show one machine, and what to do next
    Show(show::Show),
    /// Print the domain config for a machine, with the reason for each choice
    Config(config::Config),
    /// Run the old system as a domain on its old disks, over the wire
    ///
    /// If a disk is failing, do not start it: run `p2v copy`, then `p2v cutover`.
    Start(start::Start),
    /// End the domain; its old disks become read-only again
    Stop(stop::Stop),
    /// Reconnect a waiting domain to its old disks after an outage of the old machine
    ///
    /// After a restart the old machine does not answer reads and writes, so that the domain waits instead of getting errors.
    /// This checks that it is the same machine with the same disks, and reconnects them.
    Resume(resume::Resume),
    /// Copy a machine's disks, or one disk, to a volume, file or device, and check every byte
    ///
    /// Refused while a domain runs on the disk. If interrupted, run the same command again to resume; finished ranges are
    /// skipped. If the old machine restarted meanwhile, everything is compared and only differences are transferred.
    Copy(copy::Copy),
    /// Compare finished copies again, with the old disks or with their certificates
    Verify(verify::Verify),
    /// Switch the domain to the copies
    Cutover(cutover::Cutover),
    /// Make the old disks of a moved machine unbootable
    ///
    /// Replaces the boot code in the first sector of each disk, and the first sector of each FAT file system (for UEFI), and
    /// keeps the originals. The partition table and all other sectors are unchanged.
    Disarm(disarm::Disarm),
    /// Undo `p2v disarm` (`p2v start --discard-moved` includes it)
    Rearm(rearm::Rearm),
    /// Watch the old machines of running domains; runs until stopped (unit p2v-watch)
    ///
    /// If one stops answering, that is logged, and after about 15 s its domain is paused, so that the guest's time-outs do
    /// not expire. It is unpaused when its disks are back.
    Watch,
    /// Switch the old machine off; only after cutover
    Release(release::Release),
    /// Make boot files for the site's own TFTP server, or a CD or USB stick, instead of p2v serve
    #[command(subcommand)]
    Image(image::Image),
    /// Create or remove the domains' device-mapper devices (unit p2v-devices)
    #[command(subcommand)]
    Devices(devices::Devices),
    /// Write manual pages and shell completions
    #[command(hide = true)]
    Docs(docs::Docs),
}

/// Runs the command that was asked for.
pub fn run(global: &Global, command: &Command) -> Result<ExitCode> {
    if let Command::Docs(docs) = command {
        return docs.run();
    }
    let settings = Settings::load(global.overrides())?;
    // It needs nothing that a Xen host has.
    if let Command::Serve(serve) = command {
        return serve.run(settings);
    }
    let json = global.json;
    let mut host = Host::open(settings.xen.clone(), &settings.iface, &settings.state)
        .with_context(|| {
            format!(
                "cannot use the machine records in {}: run as root (--state DIR uses another directory)",
                settings.state.display()
            )
        })?;
    host.more_ifaces.clone_from(&settings.more_ifaces);
    host.store = host.store.with_shelves(settings.shelves);
    let session = Session {
        host: &host,
        settings: &settings,
        reporter: &Reporter::new(json),
        json,
    };
    session.run(command)
}

/// What commands work with.
pub struct Session<'s> {
    pub host: &'s Host,
    pub settings: &'s Settings,
    pub reporter: &'s Reporter,
    pub json: bool,
}

impl Session<'_> {
    fn run(&self, command: &Command) -> Result<ExitCode> {
        match command {
            Command::Serve(_) | Command::Docs(_) => Ok(ExitCode::SUCCESS),
            Command::Doctor => doctor::run(self.host, self.settings, self.json),
            Command::Forget(forget) => forget.run(self),
            Command::Trust(trust) => trust.run(self),
            Command::Key => self.key(),
            Command::Approve(approve) => approve.run(self),
            Command::List(list) => list.run(self),
            Command::Show(show) => show.run(self),
            Command::Config(config) => config.run(self),
            Command::Start(start) => start.run(self),
            Command::Stop(stop) => stop.run(self),
            Command::Resume(resume) => resume.run(self),
            Command::Copy(copy) => copy.run(self),
            Command::Verify(verify) => verify.run(self),
            Command::Cutover(cutover) => cutover.run(self),
            Command::Disarm(disarm) => disarm.run(self),
            Command::Rearm(rearm) => rearm.run(self),
            Command::Watch => watch::run(self),
            Command::Release(release) => release.run(self),
            Command::Image(image) => image.run(self),
            Command::Devices(devices) => devices.run(self),
        }
    }

    fn key(&self) -> Result<ExitCode> {
        let key = self.host.key.public();
        self.done(json!({ "key": key, "code": key.code() }), &key.to_string())
    }

    /// The machine that is meant.
    pub fn name_of(&self, text: &str) -> Result<MachineName> {
        name_of(&self.host.store, self.settings, text)
    }

    /// The same for several.
    pub fn names_of(&self, texts: &[String]) -> Result<Vec<MachineName>> {
        texts.iter().map(|text| self.name_of(text)).collect()
    }

    /// Does something that needs the old machines.
    pub fn with_wire(
        &self,
        work: impl FnOnce(Context<'_>) -> Result<ExitCode>,
    ) -> Result<ExitCode> {
        let mut wire = Initiator::open(&self.host.iface)
            .context("the old machines cannot be reached: `--iface`, or `iface` in the settings, names the interface to them, which must be up")?;
        for iface in &self.settings.more_ifaces {
            let more = Initiator::open(iface)
                .context("`more_ifaces` in the settings names an interface that cannot be used")?;
            wire = wire.and(more);
        }
        work(Context {
            host: self.host,
            wire: &wire,
            report: self.reporter,
        })
    }

    /// A result: JSON for programs, a sentence for people.
    pub fn done(&self, value: serde_json::Value, sentence: &str) -> Result<ExitCode> {
        match self.json {
            true => println!("{value}"),
            false => println!("{sentence}"),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn name_of(store: &Store, settings: &Settings, text: &str) -> Result<MachineName> {
    if let Ok(address) = text.parse::<Address>() {
        bail!(
            "`{text}` is a disk's address, and this takes the machine: its name is e{} unless the settings or `p2v list` \
             say otherwise",
            address.shelf
        );
    }
    naming::name_of(store, &settings.machines, text)
}

fn listed(addresses: &[Address]) -> String {
    let texts: Vec<String> = addresses.iter().map(Address::to_string).collect();
    texts.join(" and ")
}

/// A flag that SIGINT and SIGTERM set, so that long work can stop in good order.
fn stop_on_signal() -> Result<&'static AtomicBool> {
    static STOP: AtomicBool = AtomicBool::new(false);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async {
                if service::signalled().await.is_ok() {
                    STOP.store(true, Ordering::Release);
                    eprintln!(
                        "p2v: stopping. Run the same command again to resume (^C again stops at once)"
                    );
                    let _ = service::signalled().await;
                    std::process::exit(i32::from(exit::FAILED));
                }
            });
        })?;
    Ok(&STOP)
}
