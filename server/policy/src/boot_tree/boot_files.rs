//! The files that machines boot, as a static tree has them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use p2v_netboot::boot_menu::BootFile;
use p2v_netboot::{BootDecision, Image, ImageFiles, ImageName};

use super::orders::Order;
use super::tree::Item;
use crate::settings::Settings;

/// What to do if the usual image is not there.
pub const MAKE_IMAGE: &str =
    "`make image` and `make install` make it; or set the path under [serve]";

/// What to do if a file of an image in the settings is not there.
pub fn where_it_is(name: ImageName) -> String {
    format!("[serve.images.{name}] in the settings says where it is")
}

/// Where the files of an image in the settings are.
pub fn of_image(settings: &Settings, name: ImageName) -> Result<&ImageFiles> {
    let files = settings.serve.images.get(&name).with_context(|| {
        format!(
            "there is no [serve.images.{name}] in the settings, which `image` under [machines] names: add it, with \
             `kernel` and `initrd`, or take `image` away from the machine"
        )
    })?;
    for path in [&files.kernel, &files.initrd] {
        ensure!(
            path.is_absolute(),
            "`{}` under [serve.images.{name}] is no absolute path: begin it with /",
            path.display()
        );
    }
    Ok(files)
}

/// The files of the images that menus name beside the usual one. Of others nothing is asked: a machine that is held,
/// or left out, keeps no menu from the others.
pub fn of_orders(settings: &Settings, orders: &[Order]) -> Result<Vec<Item>> {
    let named: BTreeSet<ImageName> = orders
        .iter()
        .filter_map(|order| match order.decision {
            BootDecision::Agent {
                image: Image::Named(name),
                ..
            } => Some(name),
            _ => None,
        })
        .collect();
    let mut items = Vec::new();
    for name in named {
        let own = of_image(settings, name)?;
        for (file, path) in [
            (BootFile::KernelOf(name), &own.kernel),
            (BootFile::InitrdOf(name), &own.initrd),
        ] {
            items.push(read(file, path, &where_it_is(name))?);
        }
    }
    Ok(items)
}

fn read(file: BootFile, path: &Path, advice: &str) -> Result<Item> {
    let bytes =
        fs::read(path).with_context(|| format!("cannot read {} ({advice})", path.display()))?;
    Ok(Item::new(file.name(), bytes))
}

/// The loaders and the usual image, and what cannot be there because this host lacks it.
pub fn usual(settings: &Settings) -> Result<(Vec<Item>, Vec<String>)> {
    let serve = &settings.serve;
    let pxelinux = "apt install pxelinux syslinux-common; or set the path under [serve]";
    let mut items = Vec::new();
    // The image before the loaders: nothing names a file that is not there.
    let files = [
        (BootFile::Kernel, &serve.kernel, MAKE_IMAGE),
        (BootFile::Initrd, &serve.initrd, MAKE_IMAGE),
        (BootFile::Ldlinux, &serve.ldlinux, pxelinux),
        (BootFile::Pxelinux, &serve.pxelinux, pxelinux),
    ];
    for (file, path, advice) in files {
        items.push(read(file, path, advice)?);
    }
    let mut missing = Vec::new();
    for (names, what, package) in [
        (
            [
                (
                    "grubx64.efi",
                    "/usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed",
                ),
                ("shimx64.efi", "/usr/lib/shim/shimx64.efi.signed"),
            ]
            .as_slice(),
            "64-bit UEFI",
            "grub-efi-amd64-signed shim-signed",
        ),
        (
            &[(
                "grubia32.efi",
                "/usr/lib/grub/i386-efi/monolithic/grubnetia32.efi",
            )],
            "32-bit UEFI",
            "grub-efi-ia32-bin",
        ),
    ] {
        let read: std::io::Result<Vec<Item>> = names
            .iter()
            .map(|(name, path)| Ok(Item::new(*name, fs::read(path)?)))
            .collect();
        match read {
            Ok(read) => items.extend(read),
            Err(error) => missing.push(format!(
                "machines with {what} cannot boot from it: this host lacks their loader ({error}); apt install {package}"
            )),
        }
    }
    Ok((items, missing))
}
