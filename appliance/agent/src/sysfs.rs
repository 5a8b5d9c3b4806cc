//! Reading sysfs: small text files, and links that say what a device is.
//!
//! Everything takes paths, so that tests can lay out a tree of their own.

use std::fs;
use std::path::{Path, PathBuf};

/// A text attribute without surrounding white space and NULs; `None` if it is not there, cannot be
/// read, or is empty.
pub fn text(path: impl AsRef<Path>) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// A decimal attribute.
pub fn number<T: std::str::FromStr>(path: impl AsRef<Path>) -> Option<T> {
    text(path)?.parse().ok()
}

/// The last component of where a link points: the name of a driver or a subsystem.
pub fn link_name(path: impl AsRef<Path>) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// Names in a directory, sorted; empty if it is not there.
pub fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// What a device hangs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Driver of the controller: of the nearest bus device above; empty if there is none.
    pub driver: String,
    /// `vendor:device` of the nearest PCI function above; empty if there is none.
    pub pci_id: String,
    /// Address of that function, such as `0000:00:1f.2`; empty if there is none.
    pub pci_address: String,
}

/// Buses whose devices are controllers (disks and targets are on the buses `scsi` and `nvme`).
const CONTROLLER_BUSES: [&str; 6] = ["pci", "virtio", "vmbus", "xen", "platform", "pnp"];

/// Walks up from a device's directory (a real path, links resolved) to its controller.
pub fn attachment(device: &Path) -> Attachment {
    let mut found = Attachment::default();
    for dir in device.ancestors() {
        let Some(bus) = link_name(dir.join("subsystem")) else {
            continue;
        };
        if !CONTROLLER_BUSES.contains(&bus.as_str()) {
            continue;
        }
        if found.driver.is_empty() {
            found.driver = link_name(dir.join("driver")).unwrap_or_default();
        }
        if bus == "pci" {
            found.pci_id = pci_id(dir).unwrap_or_default();
            found.pci_address = file_name(dir);
            break;
        }
    }
    found
}

/// `vendor:device` of a PCI function's directory, lower-case hex without `0x`.
pub fn pci_id(function: &Path) -> Option<String> {
    let part = |name| {
        let text = text(function.join(name))?;
        Some(text.strip_prefix("0x").unwrap_or(&text).to_lowercase())
    };
    Some(format!("{}:{}", part("vendor")?, part("device")?))
}

/// The last component of a path as text.
pub fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The real directory of a device named by a link such as `/sys/block/sda`.
pub fn real(path: impl AsRef<Path>) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}

#[cfg(test)]
pub(crate) mod tree {
    //! A fake sysfs for tests.
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    /// A temporary directory laid out as sysfs.
    pub struct Tree(tempfile::TempDir);

    impl Tree {
        pub fn new() -> Tree {
            Tree(tempfile::tempdir().unwrap())
        }

        pub fn root(&self) -> &Path {
            self.0.path()
        }

        /// Writes a file and the directories above it.
        pub fn file(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
            let path = self.root().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            path
        }

        /// Makes `path` a link to `target`, both below the root; `target` need not be there.
        pub fn link(&self, path: &str, target: &str) {
            let path = self.root().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(self.root().join(target), path).unwrap();
        }

        /// A PCI function: its ids, bus and driver.
        pub fn pci(&self, path: &str, vendor: &str, device: &str, driver: Option<&str>) {
            self.file(&format!("{path}/vendor"), format!("0x{vendor}\n"));
            self.file(&format!("{path}/device"), format!("0x{device}\n"));
            self.link(&format!("{path}/subsystem"), "bus/pci");
            if let Some(driver) = driver {
                self.link(
                    &format!("{path}/driver"),
                    &format!("bus/pci/drivers/{driver}"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::tree::Tree;
    use super::*;

    #[test]
    fn the_controller_is_the_nearest_bus_device() {
        let t = Tree::new();
        t.pci("devices/pci0/0000:00:1f.2", "8086", "2922", Some("ahci"));
        t.pci(
            "devices/pci0/0000:00:03.0",
            "1af4",
            "1001",
            Some("virtio-pci"),
        );
        t.link("devices/pci0/0000:00:03.0/virtio0/subsystem", "bus/virtio");
        t.link(
            "devices/pci0/0000:00:03.0/virtio0/driver",
            "bus/virtio/drivers/virtio_blk",
        );
        t.link(
            "devices/pci0/0000:00:1f.2/ata1/host0/0:0:0:0/subsystem",
            "bus/scsi",
        );
        t.link(
            "devices/pci0/0000:00:1f.2/ata1/host0/0:0:0:0/driver",
            "bus/scsi/drivers/sd",
        );
        let disk = t
            .root()
            .join("devices/pci0/0000:00:1f.2/ata1/host0/0:0:0:0/block/sda");
        let found = attachment(&disk);
        assert_eq!(
            (found.driver.as_str(), found.pci_id.as_str()),
            ("ahci", "8086:2922")
        );
        assert_eq!(found.pci_address, "0000:00:1f.2");
        let disk = t.root().join("devices/pci0/0000:00:03.0/virtio0/block/vda");
        let found = attachment(&disk);
        assert_eq!(
            (found.driver.as_str(), found.pci_id.as_str()),
            ("virtio_blk", "1af4:1001")
        );
        assert_eq!(
            attachment(&t.root().join("devices/x")),
            Attachment::default()
        );
    }

    #[test]
    fn attributes_are_trimmed_and_empty_is_none() {
        let t = Tree::new();
        let file = t.file("a", "  x y \n\0");
        assert_eq!(text(file).as_deref(), Some("x y"));
        assert_eq!(text(t.file("b", "\n")), None);
        assert_eq!(number::<u64>(t.file("c", "17\n")), Some(17));
    }
}
