//! The name of a device that leads to it after a restart, too.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::host::Paths;

/// Where links are by what a device is, and how deep: of DRBD `RESOURCE/VOLUME`, of RBD `POOL/NAMESPACE/IMAGE`
/// (ceph's 50-rbd.rules), of ZFS data sets that are in one another.
const PLACES: [(&str, u32); 5] = [
    ("drbd/by-res", 2),
    ("rbd", 3),
    ("zvol", 16),
    ("disk/by-id", 1),
    ("disk/by-path", 1),
];

/// How good a link is; the least is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// By what the device is known by.
    Known,
    /// By what the device is.
    Mark,
    /// By a name that an operator gave it, and may give another.
    Given,
    /// By the way to it, which is known for iSCSI disks only to be that of one target.
    Way,
}

/// The link that leads to the device by what it is, else the path as it was given: `/dev/sdb` may be another
/// disk after the next start. `identity` is what the device is known by.
pub(super) fn stable_path(paths: &Paths, path: &Path, rdev: u64, identity: &str) -> PathBuf {
    let mut best: Option<(Rank, PathBuf)> = None;
    for (place, depth) in PLACES {
        walk(&paths.dev.join(place), depth, &mut |link| {
            let leads_there = fs::metadata(&link)
                .is_ok_and(|m| m.file_type().is_block_device() && m.rdev() == rdev);
            if let Some(rank) = rank(place, &link, identity).filter(|_| leads_there)
                && best
                    .as_ref()
                    .is_none_or(|best| (rank, &link) < (best.0, &best.1))
            {
                best = Some((rank, link));
            }
        });
    }
    best.map_or_else(|| path.to_owned(), |(_, link)| link)
}

/// Every link under `dir`; a link to a directory is not followed.
fn walk(dir: &Path, depth: u32, found: &mut dyn FnMut(PathBuf)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if !kind.is_dir() {
            found(entry.path());
        } else if depth > 1 {
            walk(&entry.path(), depth - 1, found);
        }
    }
}

fn rank(place: &str, link: &Path, identity: &str) -> Option<Rank> {
    let name = link.file_name()?.to_str()?;
    // Neither a device-mapper table nor a domain's config can hold such a one.
    if name.contains(|c: char| c.is_whitespace() || c == '\\') {
        return None;
    }
    // By what was written on it: goes when something else is.
    if name.starts_with("lvm-pv-uuid-") {
        return None;
    }
    let given = name.starts_with("dm-name-") || name.starts_with("md-name-");
    match place {
        // Another server's disk may have taken the link over.
        "disk/by-path" => match (name.contains("-iscsi-"), identity.starts_with("iSCSI ")) {
            (true, true) => Some(Rank::Known),
            (true, false) => Some(Rank::Way),
            (false, _) => None,
        },
        "disk/by-id" if given => Some(Rank::Given),
        "disk/by-id" => Some(Rank::Mark),
        _ => Some(Rank::Known),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    use std::os::unix::fs::symlink;

    /// Makes `links` to one device, and takes one of them.
    fn taken(identity: &str, links: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let dev = dir.path().join("dev");
        fs::create_dir_all(&dev).unwrap();
        let (node, other) = (dev.join("sdx"), dev.join("sdy"));
        // Numbers for local use (Documentation/admin-guide/devices.txt).
        for (path, minor) in [(&node, 7), (&other, 8)] {
            mknod(path, SFlag::S_IFBLK, Mode::S_IRUSR, makedev(240, minor))
                .expect("the test needs root");
        }
        fs::create_dir_all(dev.join("disk/by-id")).unwrap();
        symlink(&other, dev.join("disk/by-id/ata-another-disk")).unwrap();
        for link in links {
            let link = dev.join(link);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(&node, link).unwrap();
        }
        let paths = Paths::under(dir.path());
        let path = stable_path(&paths, &node, makedev(240, 7), identity);
        path.strip_prefix(&dev).unwrap().display().to_string()
    }

    #[test]
    fn the_link_by_what_the_device_is() {
        assert_eq!(taken("", &[]), "sdx");
        let wwid = "naa.6001405";
        let cases: [(&str, &[&str]); 8] = [
            ("disk/by-id/scsi-3600", &["disk/by-id/wwn-0x600"]),
            // Goes with what was written on the disk.
            ("disk/by-id/wwn-0x600", &["disk/by-id/lvm-pv-uuid-AbC"]),
            (
                "disk/by-id/dm-uuid-mpath-3600",
                &["disk/by-id/dm-name-mpatha"],
            ),
            ("disk/by-id/md-uuid-1:2", &["disk/by-id/md-name-host:0"]),
            (
                "disk/by-id/wwn-0x600",
                &["disk/by-path/ip-10.0.0.1:3260-iscsi-iqn.x-lun-1"],
            ),
            (
                "disk/by-path/ip-10.0.0.1:3260-iscsi-iqn.x-lun-1",
                &["disk/by-path/pci-0000:00:04.0"],
            ),
            (
                "drbd/by-res/web/0",
                &["drbd/by-disk/vg0/web", "disk/by-id/lvm-pv-uuid-AbC"],
            ),
            ("rbd/pool/space/image", &[]),
        ];
        for (best, others) in cases {
            let links: Vec<&str> = others.iter().copied().chain([best]).collect();
            assert_eq!(taken(wwid, &links), best, "{links:?}");
        }
        assert_eq!(taken("", &["zvol/tank/old/web"]), "zvol/tank/old/web");
        assert_eq!(taken("", &["zvol/tank/a b"]), "sdx");
    }

    #[test]
    fn a_link_that_two_servers_disks_share_is_not_taken() {
        let by_path = "disk/by-path/ip-10.0.0.1:3260-iscsi-iqn.x:one-lun-1";
        let links = ["disk/by-id/wwn-0x60000000000000000e00000000010001", by_path];
        assert_eq!(taken("iSCSI iqn.x:one LUN 1", &links), by_path);
    }
}
