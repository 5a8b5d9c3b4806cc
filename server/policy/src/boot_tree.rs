//! Booting old machines without `p2v serve`, from the site's own TFTP server or from a medium.
//!
//! What `p2v serve` decides each time a machine asks is decided once here, and written down. So a machine that is
//! named always gets the agent or is held, and is never sent to its own disk: what is written may be old.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use p2v_dom0::{MachineName, Record, Store, Timestamp};
use p2v_netboot::boot_menu;
use p2v_netboot::{BootDecision, ImageName, Loader, MacPattern};

use crate::Machine;
use crate::boot_policy::Wish;
use crate::naming;
use crate::network_cards::cards;
use crate::settings::Settings;
use decide::{Decided, decide};
use orders::Order;
use p2v_contract::MacAddr;
use p2v_contract::cmdline::Hosts;
use tree::{Tree, Written};

mod boot_files;
mod decide;
mod medium;
mod menus;
mod orders;
mod tree;

/// What a machine does that the tree has no menu for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlisted {
    /// It boots its own disk.
    Local,
    /// It waits at its screen.
    Wait,
}

/// What was laid out.
#[derive(Debug)]
pub struct Installed {
    /// The files.
    pub files: Written,
    /// Network cards whose menus start the agent.
    pub agents: usize,
    /// Those whose menus hold the machine.
    pub held: usize,
    /// Those that have no menu, and what the settings say of them.
    pub left_out: Vec<(MacAddr, Option<Wish>)>,
    /// Those that had a menu, and of which nothing is known now: they are held.
    pub forgotten: Vec<MacAddr>,
    /// The loaders that the settings give to some.
    pub loaders: Vec<(MacAddr, Loader)>,
    /// What some machines need and is not there, in words.
    pub missing: Vec<String>,
}

/// Lays out `dir`, the root of a TFTP server: boot loaders, images, and a menu for each machine that is known, allowed
/// or named (`more`).
///
/// # Errors
/// A record or a file cannot be read, or `dir` cannot be written; menus come last.
pub fn install(
    store: &Store,
    settings: &Settings,
    dir: &Path,
    more: &[MacAddr],
    unlisted: Unlisted,
    hosts: &Hosts,
) -> Result<Installed> {
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
    let files = tree.install(&items)?;

    let is_held = |order: &&Order| matches!(order.decision, BootDecision::Hold { .. });
    let held = all.iter().filter(is_held).count();
    let machines = &settings.machines;
    let wish = |mac| machines.get(&mac).and_then(|known| known.boot);
    let loader = |mac| machines.get(&mac).and_then(|known| known.loader);
    Ok(Installed {
        files,
        agents: all.len() - held,
        held,
        left_out: left_out.into_iter().map(|mac| (mac, wish(mac))).collect(),
        forgotten,
        loaders: all
            .iter()
            .filter_map(|order| Some((order.mac, loader(order.mac)?)))
            .collect(),
        missing,
    })
}

/// A medium that was written.
#[derive(Debug)]
pub struct Medium {
    /// For this machine only.
    pub machine: MachineName,
    /// With this image of its own; `None`: the usual one.
    pub image: Option<ImageName>,
    /// How long it is, in bytes.
    pub bytes: u64,
}

/// Writes `file`, an image for a CD or a USB stick that starts the agent on one machine.
///
/// # Errors
/// The machine is not known by that word, a file cannot be read, or `file` may not be written.
pub fn iso(
    store: &Store,
    settings: &Settings,
    file: &Path,
    machine: &str,
    hosts: &Hosts,
) -> Result<Medium> {
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
    Ok(Medium {
        bytes: medium::write(file, image, &menu)?,
        machine: record.name,
        image: named,
    })
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
    use p2v_netboot::boot_menu::{MenuFormat, menu_name};
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
        let install = |settings| install(&store, settings, &tree, &[], Unlisted::Local, &hosts);
        let error = format!("{:#}", install(&missing).unwrap_err());
        assert!(
            error.contains("missing") && error.contains("[serve.images.old]"),
            "{error}"
        );
        let medium = dir.path().join("medium.iso");
        let error = iso(&store, &missing, &medium, &mac.to_string(), &hosts).unwrap_err();
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
            install(&store, &settings, &tree, &[], Unlisted::Local, &hosts).unwrap();
            fs::read_to_string(tree.join(menu_name(MenuFormat::Pxelinux, mac(2)))).unwrap()
        };
        assert!(second_card_in(State::Running).contains("server is on the Xen host"));
        let menu = second_card_in(State::Exported);
        assert!(menu.contains("LOCALBOOT"), "{menu}");
    }
}
