//! What was ordered in this boot: a worker that is started anew goes on with it. Kept in memory only, so that a
//! machine that restarts begins as its boot menu says.

use std::path::{Path, PathBuf};
use std::{fs, io};

use p2v_aoe::Address;
use p2v_aoe::inventory::Disk;
use p2v_aoe::vendor::Access;

/// Where it is kept; `/run` is a file system in memory.
const FILE: &str = "/run/p2v-access";

/// The orders that stand.
#[derive(Debug)]
pub struct Standing {
    file: PathBuf,
    /// Which disk, and what was ordered.
    orders: Vec<(String, Access)>,
}

impl Standing {
    /// Those of this boot; none where there is no file, or it cannot be understood.
    pub fn read() -> Standing {
        Standing::read_from(Path::new(FILE))
    }

    fn read_from(file: &Path) -> Standing {
        let text = fs::read(file).unwrap_or_default();
        Standing {
            file: file.to_owned(),
            orders: serde_json::from_slice(&text).unwrap_or_default(),
        }
    }

    /// What was ordered for this disk at this address.
    pub fn of(&self, address: Address, disk: &Disk) -> Option<Access> {
        let key = key(address, disk);
        let order = self.orders.iter().find(|(known, _)| *known == key);
        order.map(|(_, access)| *access)
    }

    /// Remembers an order.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn ordered(&mut self, address: Address, disk: &Disk, access: Access) -> io::Result<()> {
        let key = key(address, disk);
        self.orders.retain(|(known, _)| *known != key);
        self.orders.push((key, access));
        // Whole at every moment: a worker that ends in between leaves what there was.
        let new = self.file.with_extension("new");
        fs::write(&new, serde_json::to_vec(&self.orders)?)?;
        fs::rename(&new, &self.file)
    }
}

/// A disk that took another's place is not the one that the order was for.
fn key(address: Address, disk: &Disk) -> String {
    format!(
        "{address} {} {} {} {}",
        disk.name, disk.sectors, disk.model, disk.serial
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_stands_for_its_disk_and_for_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("access");
        let address = Address::new(7, 0);
        let disk = Disk {
            name: "sda".to_owned(),
            serial: "S1".to_owned(),
            sectors: 1000,
            ..Disk::default()
        };
        let mut standing = Standing::read_from(&file);
        assert_eq!(standing.of(address, &disk), None);
        standing.ordered(address, &disk, Access::ReadWrite).unwrap();
        let again = Standing::read_from(&file);
        assert_eq!(again.of(address, &disk), Some(Access::ReadWrite));
        let other = Disk {
            serial: "S2".to_owned(),
            ..disk.clone()
        };
        assert_eq!(again.of(address, &other), None);
        assert_eq!(again.of(Address::new(7, 1), &disk), None);
        standing.ordered(address, &disk, Access::ReadOnly).unwrap();
        assert_eq!(
            Standing::read_from(&file).of(address, &disk),
            Some(Access::ReadOnly)
        );
        fs::write(&file, "[[\"e7.0").unwrap();
        assert_eq!(Standing::read_from(&file).of(address, &disk), None);
    }
}
