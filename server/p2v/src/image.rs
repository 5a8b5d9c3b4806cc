//! `p2v image`: what was made for booting without `p2v serve`, and what the operator must know about it.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use p2v_contract::cmdline::Hosts;
use p2v_contract::key::PublicKey;
use p2v_dom0::Store;
use p2v_netboot::boot_menu::{MenuFormat, menu_name};
use p2v_policy::boot_policy::Wish;
use p2v_policy::boot_tree::{self, Installed, Medium, Unlisted};
use p2v_policy::settings::Settings;
use serde_json::json;

use crate::commands::image::{Image, Orders};
use crate::serve;

/// Makes what was asked for. `key`: this host's.
pub fn run(
    store: &Store,
    key: PublicKey,
    settings: &Settings,
    action: &Image,
    json: bool,
) -> Result<ExitCode> {
    let hosts = match action {
        Image::Install { orders, .. } | Image::Iso { orders, .. } => hosts(settings, orders, key)?,
    };
    match action {
        Image::Install {
            dir,
            machine,
            unlisted,
            ..
        } => {
            let unlisted = (*unlisted).into();
            let installed = boot_tree::install(store, settings, dir, machine, unlisted, &hosts)?;
            installed_in(dir, &installed, unlisted, json);
        }
        Image::Iso { file, machine, .. } => {
            let medium = boot_tree::iso(store, settings, file, machine, &hosts)?;
            written_to(file, &medium, json);
        }
    }
    if hosts.keys.is_empty() {
        eprintln!(
            "p2v: the agents will take no orders, so that `p2v start` is refused: --key KEY gives them the key of a host \
             (`p2v key` prints it there)"
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn installed_in(dir: &Path, installed: &Installed, unlisted: Unlisted, json: bool) {
    let Installed {
        files,
        agents,
        held,
        left_out,
        forgotten,
        loaders,
        missing,
    } = installed;
    if json {
        let left_out: Vec<_> = left_out.iter().map(|(mac, _)| mac).collect();
        println!(
            "{}",
            json!({ "dir": dir, "written": files.written, "unchanged": files.unchanged, "left": files.left,
                "stale": files.stale, "agents": agents, "held": held, "left_out": left_out, "forgotten": forgotten })
        );
    } else {
        println!(
            "{}: {} files written, {} were right already; menus for {agents} network cards that start the agent and \
             {held} that are held",
            dir.display(),
            files.written.len(),
            files.unchanged.len()
        );
    }
    for path in &files.left {
        eprintln!("p2v: {path} is not p2v's and was left: it says what machines without a menu do");
    }
    for path in &files.stale {
        eprintln!(
            "p2v: {path} is of an earlier time, and was left as it is: it was edited, or is not needed now"
        );
    }
    for mac in forgotten {
        eprintln!(
            "p2v: {mac} is held: there was a menu for it, and no machine is known that boots from it. To let it go, remove \
             {} and run this again",
            menu_name(MenuFormat::Pxelinux, *mac)
        );
    }
    for (mac, loader) in loaders {
        eprintln!(
            "p2v: {mac} shall have {loader} (`loader` in the settings): the site's DHCP server must tell it so"
        );
    }
    for (mac, wish) in left_out {
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
}

fn written_to(file: &Path, medium: &Medium, json: bool) {
    let Medium {
        machine,
        image,
        bytes,
    } = medium;
    let (path, image) = (file.display(), image.map(|name| name.to_string()));
    if json {
        println!(
            "{}",
            json!({ "file": file, "bytes": bytes, "machine": machine, "image": image })
        );
    } else {
        let image = image.map_or_else(String::new, |name| format!(", with its image {name}"));
        println!(
            "{path}: {:.1} MB, for {machine} only{image}. For a USB stick: dd if={path} of=/dev/STICK bs=4M conv=fsync",
            *bytes as f64 / 1e6,
        );
    }
    eprintln!(
        "p2v: leave the medium in until {machine} is released: without it the machine starts its own disk"
    );
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
