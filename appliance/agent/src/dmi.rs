//! What the firmware says the machine is.

use std::path::Path;

use p2v_contract::inventory::{Dmi, Firmware};

use crate::sysfs;

/// Reads the DMI strings under `sys` (`/sys`).
pub fn read(sys: &Path) -> Dmi {
    let dir = sys.join("class/dmi/id");
    let field = |name: &str| sysfs::text(dir.join(name)).unwrap_or_default();
    Dmi {
        vendor: field("sys_vendor"),
        product: field("product_name"),
        serial: field("product_serial"),
        uuid: field("product_uuid").to_lowercase(),
        bios: format!("{} {}", field("bios_version"), field("bios_date"))
            .trim()
            .to_owned(),
    }
}

/// How the machine was started.
pub fn firmware(sys: &Path) -> Firmware {
    if sys.join("firmware/efi").exists() {
        Firmware::Uefi
    } else {
        Firmware::Bios
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysfs::tree::Tree;

    #[test]
    fn strings_and_firmware() {
        let t = Tree::new();
        assert_eq!(read(t.root()), Dmi::default());
        assert_eq!(firmware(t.root()), Firmware::Bios);
        t.file("class/dmi/id/sys_vendor", "Dell Inc.\n");
        t.file("class/dmi/id/product_uuid", "4C4C4544-0042\n");
        t.file("class/dmi/id/bios_date", "01/02/2008\n");
        t.file("firmware/efi/runtime", "");
        let dmi = read(t.root());
        assert_eq!(dmi.vendor, "Dell Inc.");
        assert_eq!(dmi.uuid, "4c4c4544-0042");
        assert_eq!(dmi.bios, "01/02/2008");
        assert_eq!(firmware(t.root()), Firmware::Uefi);
    }
}
