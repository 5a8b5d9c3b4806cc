//! Whether a record is one that p2v could have written.
//!
//! Records are files of the boot service's user, who answers strangers, and root's commands act on them. So
//! what would make root use another path, volume or disk than p2v writes there is not taken for a record.

use std::path::Path;

use p2v_contract::address::{SHELF_MAX, SLOT_MAX};

use super::{Destination, DiskRecord, Mapping, Record};
use crate::tool::lvm;

impl Record {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// What p2v never writes.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.shelf > SHELF_MAX {
            return Err(format!("{} is no AoE shelf", self.shelf));
        }
        if self.boot_mac.is_zero() || self.boot_mac.is_multicast() {
            return Err(format!("{} is no network card's address", self.boot_mac));
        }
        for (slot, disk) in &self.disks {
            if *slot > SLOT_MAX {
                return Err(format!("{slot} is no AoE slot"));
            }
            disk.check(self.shelf)
                .map_err(|why| format!("disk {slot}: {why}"))?;
        }
        Ok(())
    }
}

impl DiskRecord {
    fn check(&self, shelf: u16) -> Result<(), String> {
        let destination = self.copy.as_ref().map(|copy| &copy.destination);
        match destination {
            None => {}
            Some(Destination::Volume { vg, lv, .. }) => {
                for name in [vg, lv] {
                    lvm::check_name(name).map_err(|e| e.to_string())?;
                }
            }
            Some(
                Destination::File { path, .. }
                | Destination::Qcow2 { path, .. }
                | Destination::Device { path, .. },
            ) => check_path(path)?,
        }
        match (self.mapping, destination) {
            (Some(Mapping::Copy), None) => {
                Err("its domain is on a copy that it has not".to_owned())
            }
            (Some(Mapping::OldDisk { shelf: domains }), _) if domains != shelf => Err(format!(
                "its domain has it from shelf {domains}, and the record says {shelf}"
            )),
            _ => Ok(()),
        }
    }
}

/// An absolute path of one line. An operator may have named it with `..`.
fn check_path(path: &Path) -> Result<(), String> {
    let one_line = path
        .to_str()
        .is_some_and(|text| !text.chars().any(char::is_control));
    match path.is_absolute() && one_line {
        true => Ok(()),
        false => Err(format!("{path:?} is no path that p2v would note")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn record(change: impl FnOnce(&mut Value)) -> Result<(), String> {
        let volume = json!({"kind": "volume", "vg": "vg0", "lv": "e7-disk0", "uuid": "u"});
        let mut record = json!({
            "version": 2, "name": "e7", "boot_mac": "52:54:00:00:00:01", "shelf": 7, "state": "moved",
            "disks": {
                "0": {
                    "sectors": 9, "model": "m", "serial": "s",
                    "mapping": "copy",
                    "copy": {"destination": volume, "begun": "2026-11-20T22:16:40Z", "stage": {"begun": {}}},
                },
                "1": {
                    "sectors": 9, "model": "m", "serial": "s",
                    "mapping": {"old_disk": {"shelf": 7}},
                },
            },
        });
        change(&mut record);
        serde_json::from_value::<Record>(record)
            .map_err(|e| e.to_string())?
            .check()
    }

    #[test]
    fn what_p2v_writes_is_a_record() {
        record(|_| {}).unwrap();
        for kind in ["file", "qcow2", "device"] {
            record(|record| {
                let disk = &mut record["disks"]["0"];
                let path = "/srv/old server/../e7.img";
                disk["copy"]["destination"] = json!({"kind": kind, "path": path, "identity": "1"});
            })
            .unwrap();
        }
    }

    #[test]
    fn what_would_lead_root_elsewhere_is_none() {
        for (at, value) in [
            ("/name", json!("../e7")),
            ("/shelf", json!(4095)),
            ("/boot_mac", json!("00:00:00:00:00:00")),
            ("/boot_mac", json!("01:00:5e:00:00:01")),
            ("/disks/0/mapping", json!("/dev/sda")),
            ("/disks/0/copy/destination/lv", json!("../../sda")),
            ("/disks/0/copy/destination/vg", json!("--help")),
            ("/disks/0/copy", json!(null)),
            ("/disks/1/mapping", json!("copy")),
            ("/disks/1/mapping/old_disk/shelf", json!(8)),
        ] {
            let checked = record(|record| *record.pointer_mut(at).unwrap() = value.clone());
            assert!(checked.is_err(), "{at} {value}");
        }
        let elsewhere = json!({"kind": "file", "path": "/srv/e7.img\n", "identity": "1"});
        record(|record| record["disks"]["0"]["copy"]["destination"] = elsewhere).unwrap_err();
        let far = record(|record| {
            let disk = record["disks"]["1"].take();
            record["disks"] = json!({ "255": disk });
        });
        assert!(far.unwrap_err().contains("slot"));
    }
}
