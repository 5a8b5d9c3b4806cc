//! The least that exports a disk: PXELINUX, Debian's kernel, busybox, and vblade.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use p2v_image::archive::{Archive, Entry};
use p2v_image::kernel;
use p2v_image::module_index::{Module, ModuleIndex};
use p2v_lab::artifacts::Artifacts;

/// What this one machine needs: its network card, its disk's controller, disks.
const DRIVERS: [&str; 3] = [
    "drivers/net/ethernet/intel/e1000/e1000",
    "drivers/ata/ata_piix",
    "drivers/scsi/sd_mod",
];

const PROGRAMS: [(&str, &str); 2] = [("busybox", "/bin/busybox"), ("vblade", "/usr/sbin/vblade")];

const MENU: &str = "DEFAULT linux\nPROMPT 0\nLABEL linux\n  KERNEL vmlinuz\n  INITRD initrd\n  APPEND console=ttyS0,115200\n";

/// The directory for TFTP.
pub fn make(artifacts: &Artifacts, work: &Path) -> Result<PathBuf> {
    let root = work.join("tftp");
    fs::create_dir_all(root.join("pxelinux.cfg"))?;
    let cache = artifacts.lab.join("cache/kernel");
    let kernel = kernel::open(&kernel::fetch(&cache)?, &cache)?;
    fs::copy(&kernel.vmlinuz, root.join("vmlinuz"))?;
    fs::copy("/usr/lib/PXELINUX/pxelinux.0", root.join("pxelinux.0"))?;
    let module = "/usr/lib/syslinux/modules/bios/ldlinux.c32";
    fs::copy(module, root.join("ldlinux.c32"))?;
    fs::write(root.join("pxelinux.cfg/default"), MENU)?;

    let wanted = |path: &str| DRIVERS.contains(&path);
    let taken = ModuleIndex::read(&kernel.modules)?.closure(wanted)?;
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys"] {
        archive.add(directory, Entry::Directory);
    }
    for (name, path) in PROGRAMS {
        archive.add_file(&format!("bin/{name}"), 0o755, fs::read(path)?);
        for library in libraries(path)? {
            archive.add_file(library.trim_start_matches('/'), 0o755, fs::read(&library)?);
        }
    }
    let mut names = Vec::new();
    for module in in_order(&taken) {
        let name = module.path.rsplit('/').next().unwrap_or_default();
        archive.add_file(&format!("modules/{name}"), 0o644, fs::read(&module.file)?);
        names.push(name);
    }
    archive.add_file("init", 0o755, init(&names));
    fs::write(root.join("initrd"), archive.pack()?)?;
    Ok(root)
}

/// What its first process does. Not every module finds its hardware; those that are needed do.
fn init(modules: &[&str]) -> String {
    format!(
        "#!/bin/busybox sh\n\
         b=/bin/busybox\n\
         $b mount -t devtmpfs dev /dev\n\
         $b mount -t proc proc /proc\n\
         $b mount -t sysfs sys /sys\n\
         for m in {}; do $b insmod /modules/$m; done\n\
         until [ -b /dev/sda ] && [ -d /sys/class/net/eth0 ]; do $b usleep 20000; done\n\
         $b ip link set eth0 up\n\
         exec /bin/vblade 1 0 eth0 /dev/sda\n",
        modules.join(" ")
    )
}

/// The shared libraries of a program, and their loader.
fn libraries(program: &str) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output()?;
    ensure!(output.status.success(), "ldd {program}: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(str::to_owned).collect())
}

/// Each module after those it uses.
fn in_order(index: &ModuleIndex) -> Vec<&Module> {
    let name = |module: &Module| {
        let last = module.path.rsplit('/').next().unwrap_or_default();
        last.replace('-', "_")
    };
    let mut left: BTreeMap<String, &Module> = index
        .modules()
        .map(|module| (name(module), module))
        .collect();
    let mut order = Vec::new();
    // Dependencies are no circle, so each round finds some.
    while !left.is_empty() {
        let ready: Vec<String> = left
            .iter()
            .filter(|(_, module)| !module.info.depends.iter().any(|d| left.contains_key(d)))
            .map(|(name, _)| name.clone())
            .collect();
        if ready.is_empty() {
            break;
        }
        order.extend(ready.iter().filter_map(|name| left.remove(name)));
    }
    order
}
