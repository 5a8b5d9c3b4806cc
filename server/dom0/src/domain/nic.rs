//! The network card: the one the old system has a driver for, where QEMU has it.
use p2v_contract::inventory::Nic;

use super::{Chosen, Vif};

/// The emulated card for one old card. The models are those of Debian's QEMU 7.2 (`-net nic,model=help`).
pub(super) fn choose(nic: &Nic) -> Chosen<Vif> {
    let matched = match nic.driver.as_str() {
        "e1000" => Some("e1000"),
        "e1000e" => Some("e1000e"),
        "8139too" | "8139cp" => Some("rtl8139"),
        "pcnet32" => Some("pcnet"),
        "ne2k-pci" => Some("ne2k_pci"),
        "e100" => Some("i82557b"),
        "tulip" | "de4x5" => Some("tulip"),
        "vmxnet3" => Some("vmxnet3"),
        _ => None,
    };
    let driver = if nic.driver.is_empty() {
        "an unknown driver"
    } else {
        &nic.driver
    };
    let why = match matched {
        Some(model) => format!(
            "{}: an emulated {model} is driven by what drove the old card ({driver})",
            nic.name
        ),
        None => format!(
            "{}: QEMU has no card like the old one ({driver}); e1000 has a driver in every Linux since 2.4 and in \
             Windows since 2003 (use model=rtl8139 for Windows 2000 and XP)",
            nic.name
        ),
    };
    Chosen::new(
        Vif {
            mac: nic.mac,
            model: matched.unwrap_or("e1000"),
        },
        why,
    )
}
