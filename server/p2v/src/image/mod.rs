//! `p2v image`: booting old machines without `p2v serve`, from the site's own TFTP server or from a medium.
//!
//! What `p2v serve` decides each time a machine asks is decided once here, and written down. So a machine that is
//! named always gets the agent or is held, and is never sent to its own disk: what is written may be old.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use p2v_dom0::{Record, Store, Timestamp};
use p2v_netboot::boot_menu::{self, MenuFormat, menu_name};
use p2v_netboot::{BootDecision, MacPattern};
use serde_json::json;

use crate::commands::image::{Image, Orders};
use crate::serve;
use crate::settings::Settings;
use decide::{Decided, decide};
use p2v_contract::MacAddr;
use p2v_contract::cmdline::Hosts;
use p2v_contract::key::PublicKey;
use p2v_policy::Machine;
use p2v_policy::boot_policy::Wish;
use p2v_policy::naming;
use p2v_policy::network_cards::cards;
use tree::Tree;

mod boot_files;
mod decide;
mod medium;
mod menus;
mod orders;
mod tree;

/// What a machine does that the tree has no menu for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Unlisted {
    /// It goes on with its own disk
    Local,
    /// It waits at its screen
    Wait,
}

/// Makes what was asked for. `key`: this host's.
pub fn run(
    store: &Store,
    key: PublicKey,
    settings: &Settings,
    action: &Image,
    json: bool,
) -> Result<ExitCode> {
    match action {
        Image::Install {
            dir,
            machine,
            unlisted,
            orders,
        } => {
            let hosts = hosts(settings, orders, key)?;
            install(store, settings, dir, machine, *unlisted, &hosts, json)?;
        }
        Image::Iso {
            file,
            machine,
            orders,
        } => {
            let hosts = hosts(settings, orders, key)?;
            iso(store, settings, file, machine, &hosts, json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn install(
    store: &Store,
    settings: &Settings,
    dir: &Path,
    more: &[MacAddr],
    unlisted: Unlisted,
    hosts: &Hosts,
    json: bool,
) -> Result<()> {
    // Everything is read and decided before anything is written. One bad record stops it: its
    // machine would get no menu, and start its own disk.
    let listing = store.list()?;
    if let Some(error) = listing.unreadable.into_iter().next() {
        return Err(error.into());
    }
    let mut macs: Vec<MacAddr> = listing.records.iter().map(|r| r.boot_mac).collect();
    // Not the other cards of machines that are known: they have their machine's word (`second_card_of`).
    let theirs: Vec<MacAddr> = listing.records.iter().flat_map(cards).collect();
    let allowed = settings.serve.allow.iter().filter_map(MacPattern::only);
    let allowed = allowed.filter(|mac| settings.serve.allows(*mac) && !theirs.contains(mac));
    let named = settings.machines.keys().chain(more).copied();
    for mac in named.chain(allowed) {
        if !macs.contains(&mac) {
            macs.push(mac);
        }
    }
    let tree = Tree::open(dir)?;
    // Menus of an earlier time are taken back also when no machine is left.
    if macs.is_empty() && tree.is_new() {
        bail!(
            "there is no machine to make a menu for: name them with --machine MAC, or in the settings: in `allow`, or under [machines]"
        );
    }
    let (usual, missing) = boot_files::usual(settings)?;
    for &mac in more {
        // By a second card a machine is told what it is told by the one that it boots from.
        let is_second = theirs.contains(&mac) && listing.records.iter().all(|r| r.boot_mac != mac);
        if !is_second && decide::is_left_out(store, settings, mac)? {
            bail!(
                "--machine {mac} asks for a menu, and `boot` in the settings (under [machines]) says that it shall have \
                 none: take one of the two away"
            );
        }
    }
    let Decided {
        orders: mut all,
        left_out,
        their_cards,
    } = decide(store, settings, &macs, more, hosts)?;
    // Files before what names them: the images, the loaders, and menus last.
    let mut items = boot_files::of_orders(settings, &all)?;
    items.extend(usual);
    let ours = tree.still_ours()?;
    let mut forgotten = Vec::new();
    for mac in ours.into_iter().filter_map(menus::card_of) {
        if all.iter().any(|order| order.mac == mac) {
            continue;
        }
        if their_cards.contains(&mac) {
            items.push(menus::as_unlisted(mac, unlisted));
        } else {
            forgotten.push(mac);
        }
    }
    all.extend(forgotten.iter().copied().map(orders::forgotten));
    items.extend(menus::items(&all, unlisted));
    let written = tree.install(&items)?;

    let held = all
        .iter()
        .filter(|order| matches!(order.decision, BootDecision::Hold { .. }))
        .count();
    let (agents, stale) = (all.len() - held, &written.stale);
    if json {
        println!(
            "{}",
            json!({ "dir": dir, "written": written.written, "unchanged": written.unchanged, "left": written.left,
                "stale": stale, "agents": agents, "held": held, "left_out": left_out, "forgotten": forgotten })
        );
    } else {
        println!(
            "{}: {} files written, {} were right already; menus for {agents} network cards that start the agent and \
             {held} that are held",
            dir.display(),
            written.written.len(),
            written.unchanged.len()
        );
    }
    for path in &written.left {
        eprintln!("p2v: {path} is not p2v's and was left: it says what machines without a menu do");
    }
    for path in stale {
        eprintln!(
            "p2v: {path} is of an earlier time, and was left as it is: it was edited, or is not needed now"
        );
    }
    for mac in &forgotten {
        eprintln!(
            "p2v: {mac} is held: there was a menu for it, and no machine is known that boots from it. To let it go, remove \
             {} and run this again",
            menu_name(MenuFormat::Pxelinux, *mac)
        );
    }
    for order in &all {
        let known = settings.machines.get(&order.mac);
        if let Some(loader) = known.and_then(|machine| machine.loader) {
            eprintln!(
                "p2v: {} shall have {loader} (`loader` in the settings): the site's DHCP server must tell it so",
                order.mac
            );
        }
    }
    for mac in &left_out {
        let wish = settings.machines.get(mac).and_then(|known| known.boot);
        let why = match wish {
            Some(Wish::Local) => "boot = \"local\" in the settings leaves it out",
            Some(Wish::Ignore) => "boot = \"ignore\" in the settings leaves it out",
            _ => {
                "`allow` or `deny` in the settings, or `p2v approve --revoke`, leave it out (--machine overrules them)"
            }
        };
        eprintln!("p2v: {mac} has no menu: {why}");
    }
    for what in missing {
        eprintln!("p2v: {what}");
    }
    let unlisted = match unlisted {
        Unlisted::Local => {
            "A machine that has no menu here starts its own disk (by UEFI and GRUB it ends in its firmware's menu, where \
             somebody must choose the disk: GRUB cannot make the firmware go on)"
        }
        Unlisted::Wait => "A machine that has no menu here waits",
    };
    eprintln!(
        "p2v: these files do not follow what happens to the machines: run this again after `p2v start`, `cutover` and \
         `release`, and for each new machine. {unlisted}."
    );
    say_without_orders(hosts);
    Ok(())
}

/// Without a key, the old disks can be copied and no domain can run on them.
fn say_without_orders(hosts: &Hosts) {
    if hosts.keys.is_empty() {
        eprintln!(
            "p2v: the agents will take no orders, so that `p2v start` is refused: --key KEY gives them the key of a host \
             (`p2v key` prints it there)"
        );
    }
}

fn iso(
    store: &Store,
    settings: &Settings,
    file: &Path,
    machine: &str,
    hosts: &Hosts,
    json: bool,
) -> Result<()> {
    let mac = naming::mac_of(store, &settings.machines, machine)?;
    let named = settings.machines.get(&mac).and_then(|known| known.image);
    let image = match named {
        Some(name) => {
            let files = boot_files::of_image(settings, name)?;
            medium::Contents {
                kernel: &files.kernel,
                initrd: &files.initrd,
                advice: boot_files::where_it_is(name),
            }
        }
        None => medium::Contents {
            kernel: &settings.serve.kernel,
            initrd: &settings.serve.initrd,
            advice: boot_files::MAKE_IMAGE.to_owned(),
        },
    };
    medium::may_be_written(file)?;
    // Before the machine gets a record and a shelf.
    for path in [image.kernel, image.initrd] {
        fs::File::open(path)
            .with_context(|| format!("cannot read {} ({})", path.display(), image.advice))?;
    }
    let (record, append) = orders_for(store, settings, mac, hosts)?;
    let menu = menus::medium(&record, &append);
    let bytes = medium::write(file, image, &menu)?;
    if json {
        println!(
            "{}",
            json!({ "file": file, "bytes": bytes, "machine": record.name,
                "image": named.map(|name| name.to_string()) })
        );
    } else {
        let image = named.map_or_else(String::new, |name| format!(", with its image {name}"));
        println!(
            "{}: {:.1} MB, for {} only{image}. For a USB stick: dd if={} of=/dev/STICK bs=4M conv=fsync",
            file.display(),
            bytes as f64 / 1e6,
            record.name,
            file.display()
        );
    }
    eprintln!(
        "p2v: leave the medium in until {} is released: without it the machine starts its own disk",
        record.name
    );
    say_without_orders(hosts);
    Ok(())
}

/// The hosts that agents answer, and whose orders they take: this one, or those that are named.
fn hosts(settings: &Settings, told: &Orders, key: PublicKey) -> Result<Hosts> {
    let mut hosts = match told.host.is_empty() {
        true => serve::hosts(settings, Some(key)).context(
            "which Xen host shall the agents answer? (--host MAC says so without an interface)",
        )?,
        false => Hosts::new(told.host.clone(), "", Vec::new()),
    };
    hosts.keys.extend(&told.key);
    Ok(hosts)
}

/// The record of the machine that boots from `mac`, and its agent's kernel arguments.
fn orders_for(
    store: &Store,
    settings: &Settings,
    mac: MacAddr,
    hosts: &Hosts,
) -> Result<(Record, String)> {
    let known = settings.machines.get(&mac);
    let wanted = known.and_then(|m| m.name.as_ref());
    let now = Timestamp::now();
    let (record, menu_id) = store.menu_in_files(mac, wanted, now)?;
    let ours = orders::kernel_arguments(&record, hosts, &menu_id);
    let append = Machine::with_kernel_arguments(known, ours);
    if let Err(wrong) = boot_menu::check_arguments(&append) {
        bail!(
            "the kernel arguments for {} ({mac}) {wrong}: change its `append` or `console` under [machines], or name fewer \
             hosts",
            record.name
        );
    }
    Ok((record, append))
}

/// What a machine other than those named is told.
fn for_the_unlisted(unlisted: Unlisted) -> BootDecision {
    let who = "p2v made no menu for this machine on this server.";
    match unlisted {
        Unlisted::Local => BootDecision::LocalDisk { why: who.into() },
        Unlisted::Wait => BootDecision::Hold {
            message: who.into(),
        },
    }
}

/// For tests of what is made of orders.
#[cfg(test)]
fn example() -> Vec<orders::Order> {
    use p2v_netboot::Image;
    let order = |n, decision| orders::Order {
        mac: MacAddr::new(0x52, 0x54, 0, 0, 0, n),
        decision,
    };
    vec![
        order(
            1,
            BootDecision::Agent {
                append: "p2v.shelf=1".into(),
                image: Image::Usual,
            },
        ),
        order(
            2,
            BootDecision::Hold {
                message: "e2 runs \"elsewhere\" $now; `x`".into(),
            },
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_dom0::State;
    use p2v_dom0::store::StoreError;
    use p2v_netboot::ImageFiles;
    use std::fs;

    /// Those by which every file that all machines need is `there`.
    fn settings(there: &Path) -> Settings {
        let mut settings = Settings {
            state: there.with_extension("state"),
            ..Settings::default()
        };
        let serve = &mut settings.serve;
        for path in [
            &mut serve.kernel,
            &mut serve.initrd,
            &mut serve.pxelinux,
            &mut serve.ldlinux,
        ] {
            *path = there.to_owned();
        }
        settings
    }

    #[test]
    fn a_machines_own_image_is_laid_out_or_it_is_said_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let (there, own) = (dir.path().join("there"), dir.path().join("own"));
        fs::write(&there, "usual").unwrap();
        fs::write(&own, "its own").unwrap();
        let mut settings = settings(&there);
        let mac = MacAddr::new(0x52, 0x54, 0, 0, 0, 1);
        let machine = toml::from_str("image = 'old'").unwrap();
        settings.machines.insert(mac, machine);
        let mut image = |name: &str, kernel: &Path| {
            let (kernel, initrd) = (kernel.to_owned(), there.clone());
            let name = name.parse().unwrap();
            let files = ImageFiles { kernel, initrd };
            settings.serve.images.insert(name, files);
            settings.clone()
        };
        let missing = image("old", &dir.path().join("missing"));
        // Nobody's.
        image("new", &own);
        let whole = image("old", &own);

        let store = Store::open(&dir.path().join("state")).unwrap();
        let hosts = Hosts::new(vec![mac], "", Vec::new());
        let tree = dir.path().join("tree");
        let install =
            |settings| install(&store, settings, &tree, &[], Unlisted::Local, &hosts, false);
        let error = format!("{:#}", install(&missing).unwrap_err());
        assert!(
            error.contains("missing") && error.contains("[serve.images.old]"),
            "{error}"
        );
        let medium = dir.path().join("medium.iso");
        let error = iso(&store, &missing, &medium, &mac.to_string(), &hosts, false).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("[serve.images.old] in the"), "{error}");
        assert!(!tree.exists() && !medium.exists());
        let mut none = whole.clone();
        none.serve.images.clear();
        let error = format!("{:#}", install(&none).unwrap_err());
        assert!(error.contains("there is no [serve.images.old]"), "{error}");
        let mut relative = whole.clone();
        let files = relative.serve.images.values_mut();
        files.for_each(|files| files.initrd = "Cargo.toml".into());
        let error = format!("{:#}", install(&relative).unwrap_err());
        assert!(error.contains("no absolute path"), "{error}");
        assert!(!tree.exists());
        install(&whole).unwrap();
        let read = |name: &str| fs::read_to_string(tree.join(name)).unwrap();
        assert_eq!(read("vmlinuz"), "usual");
        assert_eq!(read("image/old/vmlinuz"), "its own");
        assert_eq!(read("image/old/initrd"), "usual");
        assert!(!tree.join("image/new").exists());
        let menu = read(&menu_name(MenuFormat::Pxelinux, mac));
        assert!(menu.contains("KERNEL image/old/vmlinuz"), "{menu}");

        // An image that no menu names is not asked for.
        let mut denied = missing.clone();
        denied.serve.deny = vec!["*".parse().unwrap()];
        let mut local = none.clone();
        let machine = toml::from_str("image = 'old'\nboot = 'local'").unwrap();
        local.machines.insert(mac, machine);
        for settings in [&denied, &local] {
            install(settings).unwrap();
        }
        let record = store.by_mac(mac).unwrap().unwrap();
        let released = store.update(&record.name, |record| {
            record.state = State::Released;
            Ok::<_, StoreError>(())
        });
        released.unwrap();
        for settings in [&missing, &none] {
            install(settings).unwrap();
        }
    }

    #[test]
    fn the_second_card_of_a_server_that_was_stopped_is_as_if_it_had_no_menu() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        fs::write(&there, "x").unwrap();
        let mut settings = settings(&there);
        let mac = |n| MacAddr::new(0x52, 0x54, 0, 0, 0, n);
        // `allow` names both cards: the second is no machine of its own for that.
        settings.serve.allow = vec![mac(1).into(), mac(2).into()];
        let store = Store::open(&dir.path().join("state")).unwrap();
        let name = store
            .menu_in_files(mac(1), None, Timestamp::now())
            .unwrap()
            .0
            .name;
        let inventory = serde_json::json!({
            "nics": [{"name": "eth0", "mac": mac(1)}, {"name": "eth1", "mac": mac(2)}],
        });
        let hosts = Hosts::new(vec![mac(0xaa)], "", Vec::new());
        let tree = dir.path().join("tree");
        let second_card_in = |state| {
            let changed = store.update(&name, |record| {
                record.state = state;
                record.inventory = Some(serde_json::from_value(inventory.clone()).unwrap());
                Ok::<_, StoreError>(())
            });
            changed.unwrap();
            install(
                &store,
                &settings,
                &tree,
                &[],
                Unlisted::Local,
                &hosts,
                false,
            )
            .unwrap();
            fs::read_to_string(tree.join(menu_name(MenuFormat::Pxelinux, mac(2)))).unwrap()
        };
        assert!(second_card_in(State::Running).contains("server is on the Xen host"));
        let menu = second_card_in(State::Exported);
        assert!(menu.contains("LOCALBOOT"), "{menu}");
    }
}
