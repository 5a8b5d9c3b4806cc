//! What LVM must not look at: the disks of old machines and the devices of their domains. What is on them is the guests': a
//! volume group there may have the name of one of this host's, and who reads from a disk whose machine is away waits as long
//! as its domain does.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::tool::Tools;

/// Where the kernel lists its block devices.
const BLOCK_DEVICES: &str = "/sys/class/block";
/// Where udev has more names for them.
const LINKS: &str = "/dev/disk";

/// A block device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Device {
    /// The kernel's name: `sda1`, `dm-3`, `etherd!e1.0`.
    name: String,
    /// Device-mapper's name of it.
    dm_name: String,
    /// The kernel's names of what it is made of.
    over: Vec<String>,
    /// udev's links to it, under [`LINKS`].
    links: Vec<String>,
}

/// For `--config`: the filter of this host's own settings, with what is left out before it. (That may accept a device by
/// another of its names, which counts more than a rejection by one: each is rejected by all its names.)
pub(super) fn config(tools: &Tools) -> String {
    // Fails where there is none.
    let own = tools.run("lvmconfig", ["devices/filter"]);
    render(
        &devices(Path::new(BLOCK_DEVICES), Path::new(LINKS)),
        own.as_deref().unwrap_or_default(),
    )
}

fn render(devices: &[Device], own: &str) -> String {
    let reject = |name: &str| format!("\"r|^/dev/{name}|\"");
    let mut rejected = vec![reject("etherd/"), reject("mapper/p2v-")];
    for device in left_out(devices) {
        let dm = (!device.dm_name.is_empty()).then(|| format!("mapper/{}", device.dm_name));
        let links = device.links.iter().map(|link| format!("disk/{link}"));
        let names = std::iter::once(device.name.clone()).chain(dm).chain(links);
        rejected.extend(names.map(|name| reject(&(pattern(&name) + "$"))));
    }
    // One word, or a list of them.
    let own = own.split_once('=').map(|(_, own)| own.trim());
    let own = own.map(|own| own.trim_start_matches('[').trim_end_matches(']').trim());
    rejected.extend(own.filter(|own| !own.is_empty()).map(str::to_owned));
    format!("devices/filter=[{}]", rejected.join(","))
}

/// A regular expression for the name: any character where one could mean something.
fn pattern(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/');
    name.chars()
        .map(|c| if plain(c) { c } else { '.' })
        .collect()
}

/// The old machines' disks, the domains' devices, and all that is made of them.
fn left_out(devices: &[Device]) -> Vec<&Device> {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let mut left_out = Vec::new();
    loop {
        let more: Vec<&Device> = devices
            .iter()
            .filter(|device| !names.contains(device.name.as_str()))
            .filter(|device| {
                device.name.starts_with("etherd!")
                    || device.dm_name.starts_with("p2v-")
                    || device
                        .over
                        .iter()
                        .any(|below| names.contains(below.as_str()))
            })
            .collect();
        if more.is_empty() {
            return left_out;
        }
        names.extend(more.iter().map(|device| device.name.as_str()));
        left_out.extend(more);
    }
}

fn devices(sys: &Path, links: &Path) -> Vec<Device> {
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.collect()
    };
    let folders = names(links);
    let links: Vec<(String, String)> = folders
        .iter()
        .flat_map(|folder| {
            let link = move |name: String| format!("{folder}/{name}");
            names(&links.join(folder)).into_iter().map(link)
        })
        .filter_map(|link| {
            let target = fs::read_link(links.join(&link)).ok()?;
            // As it is in /dev; the kernel writes `!` for the slash of etherd/e1.0.
            let name = target
                .to_string_lossy()
                .replace("../", "")
                .replace('/', "!");
            Some((name, link))
        })
        .collect();
    names(sys)
        .into_iter()
        .map(|name| {
            let dir = sys.join(&name);
            let dm_name = fs::read_to_string(dir.join("dm/name")).unwrap_or_default();
            let its = links.iter().filter(|(target, _)| *target == name);
            Device {
                dm_name: dm_name.trim().to_owned(),
                over: names(&dir.join("slaves")),
                links: its.map(|(_, link)| link.clone()).collect(),
                name,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, dm_name: &str, over: &[&str]) -> Device {
        Device {
            name: name.to_owned(),
            dm_name: dm_name.to_owned(),
            over: over.iter().map(|&below| below.to_owned()).collect(),
            links: Vec::new(),
        }
    }

    #[test]
    fn a_device_has_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let (sys, links) = (dir.path().join("sys"), dir.path().join("disk"));
        for device in ["dm-2/dm", "dm-2/slaves/etherd!e1.0", "etherd!e1.0", "sda"] {
            fs::create_dir_all(sys.join(device)).unwrap();
        }
        fs::write(sys.join("dm-2/dm/name"), "p2v-e1-0\n").unwrap();
        fs::create_dir_all(links.join("by-id")).unwrap();
        for (link, target) in [
            ("a+b", "../../dm-2"),
            ("sda", "../../sda"),
            ("e", "../../etherd/e1.0"),
        ] {
            std::os::unix::fs::symlink(target, links.join("by-id").join(link)).unwrap();
        }
        let devices = devices(&sys, &links);
        let dm = devices.iter().find(|d| d.name == "dm-2").unwrap();
        assert_eq!(
            (dm.dm_name.as_str(), &dm.links[..]),
            ("p2v-e1-0", &["by-id/a+b".to_owned()][..])
        );
        let config = render(&devices, "");
        for name in [
            "dm-2",
            "mapper/p2v-e1-0",
            "disk/by-id/a.b",
            "etherd.e1.0",
            "disk/by-id/e",
        ] {
            assert!(
                config.contains(&format!("\"r|^/dev/{name}$|\"")),
                "{name}: {config}"
            );
        }
        assert!(!config.contains("sda"));
    }

    #[test]
    fn guests_disks_are_left_out_with_all_that_is_made_of_them() {
        let devices = [
            device("dm-4", "guest-root", &["dm-3"]),
            device("dm-3", "p2v-e1-0p2", &["dm-2"]),
            device("sda", "", &[]),
            device("dm-0", "vg0-root", &["sda"]),
            device("dm-2", "p2v-e1-0", &["etherd!e1.0"]),
            device("md0", "", &["etherd!e1.1"]),
            device("etherd!e1.0", "", &[]),
            device("etherd!e1.1", "", &[]),
        ];
        let names: BTreeSet<&str> = left_out(&devices).iter().map(|d| d.name.as_str()).collect();
        let wanted = ["dm-2", "dm-3", "dm-4", "etherd!e1.0", "etherd!e1.1", "md0"];
        assert_eq!(names, wanted.into());
        let config = render(&devices, "filter=[\"a|^/dev/drbd|\", \"r|.*|\"]\n");
        assert!(config.starts_with("devices/filter=[\"r|^/dev/etherd/|\","));
        assert!(config.contains("\"r|^/dev/mapper/guest-root$|\""));
        assert!(!config.contains("vg0") && !config.contains("sda"));
        assert!(
            config.ends_with(",\"a|^/dev/drbd|\", \"r|.*|\"]"),
            "{config}"
        );
        assert_eq!(
            render(&[], ""),
            "devices/filter=[\"r|^/dev/etherd/|\",\"r|^/dev/mapper/p2v-|\"]"
        );
    }
}
