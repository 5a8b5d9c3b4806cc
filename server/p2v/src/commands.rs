//! Each command: arguments in, the workflow, its result on standard output.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use p2v_aoe::Address;
use p2v_aoe::initiator::Initiator;
use p2v_dom0::copy::rescue::Fill;
use p2v_dom0::copy::{Salvage, Verify};
use p2v_dom0::name::MachineName;
use p2v_dom0::workflow::{
    self, CopyRequest, CopyTarget, CutoverOptions, ReleaseOptions, ResumeOptions, Resumed,
    StartOptions, StopOptions,
};
use p2v_dom0::{Host, Store, Timestamp};
use p2v_netboot::{Mode, parse_mac};
use serde_json::json;

use crate::approvals::{Approvals, Word};
use crate::arguments::{Arguments, Command, Devices, exit};
use crate::report::Told;
use crate::settings::Settings;
use crate::{approve, asks, boots, copying, doctor, image, naming, serve, show, site_dhcp};

/// Runs the command that was asked for.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut settings = Settings::load(&arguments.global)?;
    let json = arguments.global.json;
    let told = Told::new(json);
    // Neither needs what a Xen host has.
    if let Command::Serve(options) = &arguments.command {
        if let Some(server) = options.print {
            let mode = std::mem::replace(&mut settings.serve.mode, Mode::Off);
            print!("{}", site_dhcp::print(server, &settings)?);
            if mode != Mode::Off {
                eprintln!(
                    "p2v: this is for mode = \"off\" under [serve]; the settings say otherwise, and p2v serve \
                     would answer beside that server"
                );
            }
            return Ok(ExitCode::SUCCESS);
        }
        return serve::run(settings, options);
    }
    let mut host = Host::open(settings.xen.clone(), &settings.iface, &settings.state)
        .context("cannot use the machine records (root may; --state DIR tries it elsewhere)")?;
    host.more_ifaces.clone_from(&settings.more_ifaces);
    host.store = host.store.with_shelves(settings.shelves);
    match &arguments.command {
        Command::Serve(_) => Ok(ExitCode::SUCCESS),
        Command::Doctor => doctor::run(&host, &settings, json),
        Command::Config { name, write } => config(
            &host,
            &told,
            &name_of(&host.store, &settings, name)?,
            *write,
        ),
        Command::Trust { name } => {
            // A record that is not believed yet has the name and the address that it says.
            let name = name_of(&host.store.as_written(), &settings, name)?;
            let record = host.store.trust(&name)?;
            let copies = record.disks.iter().filter_map(|(slot, disk)| {
                let copy = disk.copy.as_ref()?;
                Some(format!("disk {slot} is copied to {}", copy.destination))
            });
            let copies: Vec<String> = copies.collect();
            done(
                json,
                json!({ "machine": record.name, "state": record.state, "copies": copies }),
                &format!(
                    "the record of {} is believed: {}, MAC {}, shelf e{}{}{}",
                    record.name,
                    record.state,
                    record.boot_mac,
                    record.shelf,
                    if copies.is_empty() { "" } else { "; " },
                    copies.join(", ")
                ),
            );
            Ok(ExitCode::SUCCESS)
        }
        Command::Forget { name, gone } => with_wire(&host, &settings, &told, |context| {
            // Also one whose record is lost.
            let name = match name.parse() {
                Ok(name) => name,
                Err(_) => name_of(&host.store, &settings, name)?,
            };
            let kept = workflow::forget(context, &name, *gone)?;
            done(
                json,
                json!({ "machine": name, "kept": kept }),
                &format!("{name} is forgotten; its history is in {}", kept.display()),
            );
            Ok(ExitCode::SUCCESS)
        }),
        Command::Key => {
            let key = host.key.public();
            done(
                json,
                json!({ "key": key, "code": key.code() }),
                &key.to_string(),
            );
            Ok(ExitCode::SUCCESS)
        }
        Command::Image { action } => {
            image::run(&host.store, host.key.public(), &settings, action, json)
        }
        Command::Devices { action } => devices(&host, &told, *action),
        Command::List { boot: true } => with_wire(&host, &settings, &told, |context| {
            let boots = boots::read(&settings.serve.state_dir)?;
            boots::list(&boots, &workflow::discover(context)?, json)
        }),
        Command::Approve { machine: None, .. } => approve::list(&settings, json),
        Command::Approve {
            machine: Some(machine),
            once,
            revoke,
        } => {
            let word = match (once, revoke) {
                (_, true) => Word::Revoked,
                (true, false) => Word::Once,
                (false, false) => Word::Always,
            };
            approve::run(&host.store, &settings, machine, word, json)
        }
        Command::List { boot: false } => with_wire(&host, &settings, &told, |context| {
            let machines = workflow::discover(context)?;
            // The machines that are known are worth a list without these.
            let askers = askers(&host.store, &settings).unwrap_or_else(|error| {
                eprintln!("p2v: machines that ask cannot be shown: {error:#}");
                Vec::new()
            });
            show::list(&machines, &askers, json)
        }),
        Command::Show { name } => with_wire(&host, &settings, &told, |context| {
            let wanted = name_of(&host.store, &settings, name)?;
            let machines = workflow::discover(context)?;
            let machine = machines.iter().find(|m| m.name.as_ref() == Some(&wanted));
            let machine = machine.ok_or_else(|| host.store.unknown(&wanted))?;
            let statistics = workflow::statistics(context, machine);
            let code = host.key.public().code();
            show::one(machine, &statistics, json, &settings.iface, &code)
        }),
        Command::Start {
            name,
            discard_copy,
            discard_moved,
            without_disk,
            another_machine,
        } => with_wire(&host, &settings, &told, |context| {
            let name = name_of(&host.store, &settings, name)?;
            let config = workflow::start(
                context,
                &name,
                StartOptions {
                    discard_copy: *discard_copy,
                    discard_moved: *discard_moved,
                    without: without_disk.clone(),
                    another_machine: names_of(&host.store, &settings, another_machine)?,
                },
            )?;
            done(
                json,
                json!({ "machine": name, "config": config }),
                &format!(
                    "{name} runs as a domain on its old disks ({}). Its screen: `xl vncviewer {name}`. \
                     Next, when it suits: `p2v stop {name}`, then `p2v copy {name} --to VG`",
                    config.display()
                ),
            );
            Ok(ExitCode::SUCCESS)
        }),
        Command::Stop { name, destroy } => with_wire(&host, &settings, &told, |context| {
            let name = name_of(&host.store, &settings, name)?;
            workflow::stop(context, &name, StopOptions { destroy: *destroy })?;
            done(
                json,
                json!({ "machine": name }),
                &format!("the domain {name} is stopped"),
            );
            Ok(ExitCode::SUCCESS)
        }),
        Command::Resume {
            name,
            old_system_did_not_run,
            although_changed,
        } => with_wire(&host, &settings, &told, |context| {
            let name = name_of(&host.store, &settings, name)?;
            let options = ResumeOptions {
                old_system_did_not_run: *old_system_did_not_run,
                although_changed: *although_changed,
            };
            let last_boot = |mac| boots::last_boot(&settings.serve.state_dir, mac);
            let resumed = workflow::resume(context, &name, options, &last_boot)?;
            let sentence = match resumed {
                Resumed::Disks => format!("the domain {name} has its old disks again, and resumes"),
                Resumed::HadThem => format!(
                    "nothing to do: the old machine of {name} answers, and the domain has its disks"
                ),
            };
            let given_back = resumed == Resumed::Disks;
            done(
                json,
                json!({ "machine": name, "given_back": given_back }),
                &sentence,
            );
            Ok(ExitCode::SUCCESS)
        }),
        Command::Copy {
            what,
            to,
            overwrite,
            precopy,
            used_only,
            retries,
            rescue_time,
            fill,
            verify,
            limit,
            dry_run,
            memory,
            not_booted_by_this_host,
            without_disk,
        } => with_wire(&host, &settings, &told, |context| {
            let target = match what.parse::<Address>() {
                Ok(address) => CopyTarget::Disk(address),
                // No name has a dot: a disk's address was meant.
                Err(_)
                    if what.starts_with('e') && what.contains('.') && parse_mac(what).is_err() =>
                {
                    bail!(
                        "`{what}` is no disk's address: eSHELF.SLOT, as in e7.0, with shelf 0 to 4094 and slot 0 to 254"
                    )
                }
                Err(_) => CopyTarget::Machine(name_of(&host.store, &settings, what)?),
            };
            let typed = Mutex::default();
            let may_go =
                |name: &str, holds: Option<&str>| copying::may_go(overwrite, &typed, name, holds);
            let request = CopyRequest {
                may_go: &may_go,
                not_booted_by_this_host: *not_booted_by_this_host,
                without: without_disk,
                precopy: *precopy,
                used_only: *used_only,
                salvage: Salvage {
                    retries: *retries,
                    fill: fill.map(Fill::from),
                    time_limit: *rescue_time,
                },
                verify: Verify::from(*verify),
                limit: *limit,
                memory: memory.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
                ..CopyRequest::new(&target, to, stop_on_signal()?)
            };
            if *dry_run {
                let plans = workflow::plan_copy(context, request)?;
                copying::planned(&plans, json);
                return Ok(ExitCode::SUCCESS);
            }
            let copies = workflow::copy(context, request)?;
            Ok(copying::copied(&copies, json))
        }),
        Command::Verify {
            name,
            from_certificate,
        } => with_wire(&host, &settings, &told, |context| {
            let name = name_of(&host.store, &settings, name)?;
            let done = workflow::verify(context, &name, *from_certificate, stop_on_signal()?)?;
            Ok(copying::verified(&done, json))
        }),
        Command::Cutover {
            name,
            autostart,
            accept_unreadable,
            accept_unguarded,
            old_machine_gone,
            disarm_old_disk,
            without_disk,
            another_machine,
        } => with_wire(&host, &settings, &told, |context| {
            let name = name_of(&host.store, &settings, name)?;
            let options = CutoverOptions {
                autostart: *autostart,
                accept_unreadable: *accept_unreadable,
                accept_unguarded: *accept_unguarded,
                old_machine_gone: *old_machine_gone,
                will_disarm: *disarm_old_disk,
                without: without_disk.clone(),
                another_machine: names_of(&host.store, &settings, another_machine)?,
            };
            let config = workflow::cutover(context, &name, options)?;
            let disarmed = match disarm_old_disk {
                false => Vec::new(),
                true => workflow::disarm(context, &name, without_disk).with_context(|| {
                    format!(
                        "{name} runs from its volume ({}), but its old disk can still start; `p2v disarm {name}` tries again",
                        config.display()
                    )
                })?,
            };
            let starts = if *autostart {
                "It starts with this host, if the unit p2v-devices is enabled.".to_owned()
            } else {
                format!(
                    "It does not start with this host by itself: ln -s {} {}/ has it do so, and the unit p2v-devices must \
                     be enabled (systemctl enable p2v-devices).",
                    config.display(),
                    settings.xen.auto_dir.display()
                )
            };
            done(
                json,
                json!({ "machine": name, "config": config, "disarmed": disarmed }),
                &format!(
                    "{name} runs from its volume ({}). {starts} {}When you are content with it: `p2v release {name}` \
                     switches the old machine off",
                    config.display(),
                    match disarmed.is_empty() {
                        true => String::new(),
                        false => format!("Nothing starts from {} any more. ", listed(&disarmed)),
                    }
                ),
            );
            Ok(ExitCode::SUCCESS)
        }),
        Command::Disarm { name, without_disk } => with_wire(&host, &settings, &told, |context| {
            let name = name_of(&host.store, &settings, name)?;
            let disarmed = workflow::disarm(context, &name, without_disk)?;
            let sentence = match disarmed.is_empty() {
                true => format!("there is nothing to start on the old disks of {name}"),
                false => format!(
                    "nothing starts from {} any more; `p2v rearm {name}` puts back what was there",
                    listed(&disarmed)
                ),
            };
            done(
                json,
                json!({ "machine": name, "disarmed": disarmed }),
                &sentence,
            );
            Ok(ExitCode::SUCCESS)
        }),
        Command::Rearm { name } => with_wire(&host, &settings, &told, |context| {
            let name = name_of(&host.store, &settings, name)?;
            let rearmed = workflow::rearm(context, &name)?;
            done(
                json,
                json!({ "machine": name, "rearmed": rearmed }),
                &format!(
                    "{} can start again: only `p2v serve`, and a boot order with the network first, keep the old machine from it",
                    listed(&rearmed)
                ),
            );
            Ok(ExitCode::SUCCESS)
        }),
        Command::Watch => with_wire(&host, &settings, &told, |context| {
            watch(context, &settings.serve.state_dir)
        }),
        Command::Release { name, off } => with_wire(&host, &settings, &told, |context| {
            let name = name_of(&host.store, &settings, name)?;
            workflow::release(context, &name, ReleaseOptions { off: *off })?;
            done(
                json,
                json!({ "machine": name }),
                &format!("{name}: the old machine is off"),
            );
            Ok(ExitCode::SUCCESS)
        }),
    }
}

fn listed(addresses: &[Address]) -> String {
    let texts: Vec<String> = addresses.iter().map(Address::to_string).collect();
    texts.join(" and ")
}

fn askers(store: &Store, settings: &Settings) -> Result<Vec<asks::Asker>> {
    Ok(asks::askers(
        &boots::read(&settings.serve.state_dir)?,
        settings,
        &Approvals::of(&settings.state).all()?,
        &store.list()?.records,
        Timestamp::now(),
    ))
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

fn names_of(store: &Store, settings: &Settings, texts: &[String]) -> Result<Vec<MachineName>> {
    let names = texts.iter().map(|text| name_of(store, settings, text));
    names.collect()
}

fn with_wire(
    host: &Host,
    settings: &Settings,
    told: &Told,
    work: impl FnOnce(workflow::Context<'_>) -> Result<ExitCode>,
) -> Result<ExitCode> {
    let mut wire = Initiator::open(&host.iface)
        .context("the old machines cannot be reached: `--iface`, or `iface` in the settings, names the interface to them, which must be up")?;
    for iface in &settings.more_ifaces {
        let more = Initiator::open(iface)
            .context("`more_ifaces` in the settings names an interface that cannot be used")?;
        wire = wire.and(more);
    }
    work(workflow::Context {
        host,
        wire: &wire,
        report: told,
    })
}

/// Looks at the old machines of running domains until a signal comes.
fn watch(context: workflow::Context<'_>, serve_state: &Path) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut signalled = std::pin::pin!(serve::signalled());
    let mut ended = Ok(());
    context
        .report
        .step("watching the old machines whose domains run on their disks");
    workflow::watch(context, &|mac| boots::last_boot(serve_state, mac), || {
        runtime.block_on(async {
            tokio::select! {
                signal = &mut signalled => {
                    ended = signal.map(drop);
                    false
                }
                () = tokio::time::sleep(workflow::WATCH_INTERVAL) => true,
            }
        })
    })?;
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// A result: JSON for programs, a sentence for people.
fn done(json: bool, value: serde_json::Value, sentence: &str) {
    if json {
        println!("{value}");
    } else {
        println!("{sentence}");
    }
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
                if serve::signalled().await.is_ok() {
                    STOP.store(true, Ordering::Release);
                    eprintln!(
                        "p2v: stopping; the same command goes on from here (again to stop at once)"
                    );
                    let _ = serve::signalled().await;
                    std::process::exit(i32::from(exit::FAILED));
                }
            });
        })?;
    Ok(&STOP)
}

fn config(host: &Host, told: &Told, name: &MachineName, write: bool) -> Result<ExitCode> {
    if !write {
        print!("{}", workflow::config(host, name)?);
        return Ok(ExitCode::SUCCESS);
    }
    let written = workflow::write_config(host, name, told)?;
    println!("{}", written.path.display());
    Ok(ExitCode::SUCCESS)
}

fn devices(host: &Host, told: &Told, action: Devices) -> Result<ExitCode> {
    let results = match action {
        Devices::Up => workflow::devices_up(host, told)?,
        Devices::Down => workflow::devices_down(host, told)?,
    };
    let mut code = ExitCode::SUCCESS;
    for result in results {
        match result.result {
            Ok(what) => println!("{}: {what}", result.device),
            Err(error) => {
                eprintln!("p2v: {} of {}: {error}", result.device, result.name);
                code = ExitCode::from(exit::FAILED);
            }
        }
    }
    Ok(code)
}
