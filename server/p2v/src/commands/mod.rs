//! The commands: one file each, with its options and what is done with them.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use p2v_aoe::Address;
use p2v_aoe::initiator::Initiator;
use p2v_dom0::name::MachineName;
use p2v_dom0::workflow::Context;
use p2v_dom0::{Host, Store};
use serde_json::json;

use crate::arguments::{Arguments, exit};
use crate::report::Told;
use crate::settings::Settings;
use crate::{doctor, naming, serve as service};

mod approve;
mod config;
pub mod copy;
mod cutover;
mod devices;
mod disarm;
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
    /// Is this host ready? Names what is missing and what to do about it
    Doctor,
    /// Retire the record of a machine of which nothing is left here: its name and shelf are free then
    Forget(forget::Forget),
    /// Accept a machine's record that was restored from a backup
    Trust(trust::Trust),
    /// Print this host's public key, by which old machines know its orders; make the key if there is none
    Key,
    /// Boot old machines over the network (runs until stopped; see the p2v-serve unit): those that are approved, by `p2v
    /// approve` or by `allow` under [serve] in the settings
    Serve(serve::Serve),
    /// Let a machine that asks boot the agent; without a name: say what was approved
    ///
    /// Until then a machine that boots from the network is left to its own disk; `p2v list` shows it as `asks`. Its firmware
    /// repeats its question for about a minute: approved meanwhile, it boots at once.
    Approve(approve::Approve),
    /// The machines and their states
    List(list::List),
    /// All about one machine, and what to do next
    Show(show::Show),
    /// Print the domain config a machine would get, with the reason for each choice
    Config(config::Config),
    /// Run the old system as a domain on its old disks, over the wire
    ///
    /// Not with a disk that fails: there `p2v copy` comes first, and then `p2v cutover`.
    Start(start::Start),
    /// End the domain; its old disks become read-only again
    Stop(stop::Stop),
    /// Give a waiting domain its old disks back, after the old machine was away
    ///
    /// An old machine that was switched off and on, or restarted, comes back without answering reads and writes, so that
    /// the domain waits rather than gets errors. This makes sure that it is the same machine with the same disks.
    Resume(resume::Resume),
    /// Copy a machine's disks, or one disk, to a volume, file or device, and check every byte
    ///
    /// Refused while a domain runs on the disk. Interrupted, run it again: it goes on where it was; or, if the old
    /// machine restarted meanwhile, it compares all and moves what differs.
    Copy(copy::Copy),
    /// Compare finished copies once more, with the old disks or with what was noted when they were made
    Verify(verify::Verify),
    /// Run the domain from the copies from now on
    Cutover(cutover::Cutover),
    /// Make the old disks of a moved machine unable to start
    ///
    /// Replaces the code in the first sector of each disk, and the first sector of each FAT file system (UEFI starts from
    /// such), and keeps what was there. The partition table and all other sectors stay as they are.
    Disarm(disarm::Disarm),
    /// Put back what disarm replaced on the old disks (`p2v start --discard-moved` includes it)
    Rearm(rearm::Rearm),
    /// Keep an eye on the old machines of running domains (see the p2v-watch unit; runs until stopped)
    ///
    /// One that falls silent is logged, and after some 15 s its domain is paused, so that its own time-outs do not run; it
    /// is unpaused when its disks are back.
    Watch,
    /// Switch the old machine off (only when it is moved)
    Release(release::Release),
    /// What boots old machines without p2v serve: files for the site's own TFTP server, or a CD or USB stick
    #[command(subcommand)]
    Image(image::Image),
    /// The disks of domains under /dev/mapper, made again from the records (see the p2v-devices unit)
    #[command(subcommand)]
    Devices(devices::Devices),
}

/// Runs the command that was asked for.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let settings = Settings::load(&arguments.global)?;
    // It needs nothing that a Xen host has.
    if let Command::Serve(serve) = &arguments.command {
        return serve.run(settings);
    }
    let json = arguments.global.json;
    let mut host = Host::open(settings.xen.clone(), &settings.iface, &settings.state)
        .context("cannot use the machine records (root may; --state DIR tries it elsewhere)")?;
    host.more_ifaces.clone_from(&settings.more_ifaces);
    host.store = host.store.with_shelves(settings.shelves);
    let session = Session {
        host: &host,
        settings: &settings,
        told: &Told::new(json),
        json,
    };
    session.run(&arguments.command)
}

/// What commands work with.
pub struct Session<'s> {
    pub host: &'s Host,
    pub settings: &'s Settings,
    pub told: &'s Told,
    pub json: bool,
}

impl Session<'_> {
    fn run(&self, command: &Command) -> Result<ExitCode> {
        match command {
            Command::Serve(_) => Ok(ExitCode::SUCCESS),
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
            report: self.told,
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
    naming::name_of(store, settings, text)
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
                        "p2v: stopping; the same command goes on from here (again to stop at once)"
                    );
                    let _ = service::signalled().await;
                    std::process::exit(i32::from(exit::FAILED));
                }
            });
        })?;
    Ok(&STOP)
}
