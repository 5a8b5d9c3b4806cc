//! What was ordered in this boot: a restarted worker resumes with it. Kept in memory only, so that a
//! machine that restarts begins as its boot menu says.

use std::path::{Path, PathBuf};
use std::{fs, io};

use p2v_contract::Address;
use p2v_contract::inventory::Disk;
use p2v_contract::operation::Access;

/// Where it is kept; `/run` is a file system in memory.
const FILE: &str = "/run/p2v-access";

/// The orders that stand.
#[derive(Clone, Debug)]
pub struct Standing {
    file: PathBuf,
    /// Which disk, and what was ordered; `None`: something was, and it cannot be read.
    orders: Option<Vec<(String, Access)>>,
}

impl Standing {
    /// Those of this boot.
    pub fn read() -> Standing {
        Standing::read_from(Path::new(FILE))
    }

    fn read_from(file: &Path) -> Standing {
        Standing {
            file: file.to_owned(),
            orders: match fs::read(file) {
                Ok(text) => serde_json::from_slice(&text).ok(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Vec::new()),
                Err(_) => None,
            },
        }
    }

    /// What holds for this disk at this address; `None`: nothing was ordered in this boot. Where there were orders,
    /// and none is known for this disk, it waits: who gets no answer loses nothing.
    pub fn of(&self, address: Address, disk: &Disk) -> Option<Access> {
        let Some(orders) = &self.orders else {
            return Some(Access::Waiting);
        };
        let key = key(address, disk);
        let order = orders.iter().find(|(known, _)| *known == key);
        match order {
            Some((_, access)) => Some(*access),
            None => (!orders.is_empty()).then_some(Access::Waiting),
        }
    }

    /// Remembers an order.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn ordered(&mut self, address: Address, disk: &Disk, access: Access) -> io::Result<()> {
        let key = key(address, disk);
        let mut orders = self.orders.take().unwrap_or_default();
        orders.retain(|(known, _)| *known != key);
        orders.push((key, access));
        let text = serde_json::to_vec(&orders)?;
        self.orders = Some(orders);
        // Whole at every moment: a worker that ends in between leaves what there was.
        let new = self.file.with_extension("new");
        fs::write(&new, text)?;
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
        assert_eq!(again.of(address, &other), Some(Access::Waiting));
        assert_eq!(again.of(Address::new(7, 1), &disk), Some(Access::Waiting));
        standing.ordered(address, &disk, Access::ReadOnly).unwrap();
        assert_eq!(
            Standing::read_from(&file).of(address, &disk),
            Some(Access::ReadOnly)
        );
        fs::write(&file, "[[\"e7.0").unwrap();
        assert_eq!(
            Standing::read_from(&file).of(address, &disk),
            Some(Access::Waiting)
        );
    }
}
