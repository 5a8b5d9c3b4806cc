//! Which domain has a device or file as its disk.
//!
//! The kernel does not say so by itself: `xen-blkback` opens a device without claiming it (it passes
//! no holder, unlike a mount, LVM, RAID or device-mapper), so `O_EXCL` succeeds beside a running
//! domain. So it is asked of `xl`, and of blkback itself for what `xl` does not tell: domains of
//! another toolstack, and those being made or torn down.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::host::{Host, Paths};
use crate::tool::{ToolError, xl};

/// A block device or file, by what it is and not by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Thing {
    /// A block device: major and minor.
    Device(u64, u64),
    /// A file: device of its file system, and inode.
    File(u64, u64),
}

/// A domain's disk that is in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The domain's number.
    pub id: u32,
    /// Its name.
    pub domain: String,
    /// Its disk as the domain has it.
    pub disk: String,
}

/// The domains there are; none on a host that does not run Xen.
///
/// # Errors
/// What `xl` said.
pub fn domains(host: &Host) -> Result<Vec<xl::Domain>, ToolError> {
    if !host.is_xen() {
        return Ok(Vec::new());
    }
    xl::domains(&host.tools)
}

/// A domain that has `path` as a disk: by any name, through a loop or device-mapper device, or as a
/// part or the whole of it.
///
/// # Errors
/// What `xl` said: then it is not known.
pub fn user_of(host: &Host, path: &Path) -> Result<Option<User>, ToolError> {
    user_among(host, &domains(host)?, path)
}

/// The same among `domains`.
///
/// # Errors
/// Blkback's devices cannot be listed.
pub fn user_among(
    host: &Host,
    domains: &[xl::Domain],
    path: &Path,
) -> Result<Option<User>, ToolError> {
    let wanted = thing(path);
    let below = wanted.map(|t| with_below(&host.paths, t));
    let same = |other: Thing| {
        wanted.zip(below.as_ref()).is_some_and(|(wanted, below)| {
            below.contains(&other) || with_below(&host.paths, other).contains(&wanted)
        })
    };
    for domain in domains {
        let found = domain
            .disks
            .iter()
            .find(|disk| *disk == path || thing(disk).is_some_and(same));
        if let Some(disk) = found {
            return Ok(Some(User {
                id: domain.id,
                domain: domain.name.clone(),
                disk: disk.display().to_string(),
            }));
        }
    }
    for (id, major, minor) in blkback(&host.paths)? {
        if same(Thing::Device(major, minor)) {
            let known = domains.iter().find(|d| d.id == id);
            return Ok(Some(User {
                id,
                domain: known.map_or_else(|| "(unnamed)".to_owned(), |d| d.name.clone()),
                disk: format!("{major}:{minor}"),
            }));
        }
    }
    Ok(None)
}

fn thing(path: &Path) -> Option<Thing> {
    let metadata = fs::metadata(path).ok()?;
    if metadata.file_type().is_block_device() {
        let rdev = metadata.rdev();
        Some(Thing::Device(
            nix::sys::stat::major(rdev),
            nix::sys::stat::minor(rdev),
        ))
    } else {
        Some(Thing::File(metadata.dev(), metadata.ino()))
    }
}

/// A thing and all that is under it: the disk of a partition, the devices of a device-mapper or RAID
/// device, the file of a loop device. (A file's file system is not: many files share it.)
fn with_below(paths: &Paths, thing: Thing) -> BTreeSet<Thing> {
    let mut all = BTreeSet::new();
    let mut next = vec![thing];
    while let Some(thing) = next.pop() {
        if !all.insert(thing) {
            continue;
        }
        let Thing::Device(major, minor) = thing else {
            continue;
        };
        let dir = paths.sys_dev_block.join(format!("{major}:{minor}"));
        let number = |path: PathBuf| {
            let text = fs::read_to_string(path).ok()?;
            let (major, minor) = text.trim().split_once(':')?;
            Some(Thing::Device(major.parse().ok()?, minor.parse().ok()?))
        };
        let slaves = fs::read_dir(dir.join("slaves")).into_iter().flatten();
        next.extend(
            slaves
                .flatten()
                .filter_map(|slave| number(slave.path().join("dev"))),
        );
        if dir.join("partition").exists() {
            // The link leads to the partition's directory, which is in its disk's.
            next.extend(number(dir.join("../dev")));
        }
        if let Ok(file) = fs::read_to_string(dir.join("loop/backing_file")) {
            next.extend(self::thing(Path::new(file.trim_end_matches('\n'))));
        }
    }
    all
}

/// The devices that xen-blkback has for domains: domain, major, minor.
fn blkback(paths: &Paths) -> Result<Vec<(u32, u64, u64)>, ToolError> {
    let dir = &paths.xen_backends;
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        // The module is not loaded.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => {
            return Err(ToolError::NotDone(format!(
                "cannot list {}, so the disks of domains are not known: {e}",
                dir.display()
            )));
        }
    };
    let mut devices = Vec::new();
    for entry in entries.flatten() {
        // `vbd-DOMAIN-DEVICE`; drivers/block/xen-blkback/xenbus.c shows the number in hex.
        let name = entry.file_name();
        let domain = name
            .to_str()
            .and_then(|n| n.strip_prefix("vbd-")?.split('-').next()?.parse().ok());
        let number = fs::read_to_string(entry.path().join("physical_device")).ok();
        let number = number.as_deref().and_then(|text| {
            let (major, minor) = text.trim().split_once(':')?;
            Some((
                u64::from_str_radix(major, 16).ok()?,
                u64::from_str_radix(minor, 16).ok()?,
            ))
        });
        if let (Some(domain), Some((major, minor))) = (domain, number)
            && (major, minor) != (0, 0)
        {
            devices.push((domain, major, minor));
        }
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};

    fn host(dir: &Path) -> Host {
        let mut host = Host::open(crate::Settings::default(), "lo", &dir.join("state")).unwrap();
        host.tools = crate::tool::Tools::in_dir(dir);
        host.paths = Paths::under(dir);
        host
    }

    /// A device node that nobody opens, and its place in sysfs.
    fn node(host: &Host, dir: &Path, name: &str, minor: u64) -> PathBuf {
        let path = dir.join(name);
        let number = makedev(240, minor);
        mknod(&path, SFlag::S_IFBLK, Mode::S_IRUSR, number).expect("the test needs root");
        fs::create_dir_all(host.paths.sys_dev_block.join(format!("240:{minor}/slaves"))).unwrap();
        path
    }

    fn domain(disk: &Path) -> xl::Domain {
        xl::Domain {
            id: 5,
            name: "other".into(),
            is_paused: false,
            disks: vec![disk.to_owned()],
        }
    }

    fn used(host: &Host, disk: &Path, path: &Path) -> bool {
        let found = user_among(host, &[domain(disk)], path).unwrap();
        assert!(found.as_ref().is_none_or(|u| u.domain == "other"));
        found.is_some()
    }

    #[test]
    fn a_device_by_any_name_its_parts_and_what_is_under_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let host = host(dir);
        let disk = node(&host, dir, "disk", 0);
        let alias = node(&host, dir, "alias", 0);
        let other = node(&host, dir, "other", 9);
        assert!(used(&host, &disk, &alias));
        assert!(!used(&host, &disk, &other));
        assert!(!used(&host, &dir.join("gone"), &disk));

        // A dm device over the disk, as a domain of ours has it; and two dm devices beside each other.
        let mapped = node(&host, dir, "mapped", 1);
        let beside = node(&host, dir, "beside", 2);
        for minor in [1, 2] {
            let slave = host
                .paths
                .sys_dev_block
                .join(format!("240:{minor}/slaves/disk"));
            fs::create_dir_all(&slave).unwrap();
            fs::write(slave.join("dev"), "240:0\n").unwrap();
        }
        assert!(used(&host, &mapped, &disk) && used(&host, &disk, &mapped));
        assert!(!used(&host, &mapped, &beside));

        // Partitions.
        let sys = dir.join("sys/devices/disk");
        for (minor, name) in [(3, "p1"), (4, "p2")] {
            fs::create_dir_all(sys.join(name)).unwrap();
            fs::write(sys.join("dev"), "240:0\n").unwrap();
            fs::write(sys.join(name).join("partition"), "1\n").unwrap();
            let link = host.paths.sys_dev_block.join(format!("240:{minor}"));
            std::os::unix::fs::symlink(sys.join(name), link).unwrap();
        }
        fs::create_dir_all(sys.join("slaves")).unwrap();
        for path in ["p1", "p2"] {
            let minor = if path == "p1" { 3 } else { 4 };
            mknod(
                &dir.join(path),
                SFlag::S_IFBLK,
                Mode::S_IRUSR,
                makedev(240, minor),
            )
            .unwrap();
        }
        let (first, second) = (dir.join("p1"), dir.join("p2"));
        assert!(used(&host, &disk, &first) && used(&host, &first, &disk));
        assert!(!used(&host, &first, &second));

        // A loop device and its file, and the file by another name.
        let file = dir.join("image");
        fs::write(&file, "x").unwrap();
        let link = dir.join("hard");
        fs::hard_link(&file, &link).unwrap();
        let looped = node(&host, dir, "loop", 7);
        let backing = host.paths.sys_dev_block.join("240:7/loop");
        fs::create_dir_all(&backing).unwrap();
        fs::write(
            backing.join("backing_file"),
            format!("{}\n", file.display()),
        )
        .unwrap();
        for (a, b) in [(&looped, &link), (&file, &link), (&link, &looped)] {
            assert!(used(&host, a, b), "{} {}", a.display(), b.display());
        }
    }

    #[test]
    fn what_blkback_has_counts_also_where_xl_does_not_tell() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let host = host(dir);
        let disk = node(&host, dir, "disk", 17);
        let free = node(&host, dir, "free", 18);
        assert_eq!(user_among(&host, &[], &disk).unwrap(), None);
        for (name, number) in [("vbd-12-768", "f0:11\n"), ("vif-12-0", "f0:12\n")] {
            let device = host.paths.xen_backends.join(name);
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("physical_device"), number).unwrap();
        }
        let user = user_among(&host, &[], &disk).unwrap().unwrap();
        assert_eq!((user.id, user.disk.as_str()), (12, "240:17"));
        assert_eq!(user_among(&host, &[], &free).unwrap(), None);
    }
}
