//! The Ethernet interfaces, and which of them the machine booted from.

use std::path::Path;

use p2v_contract::MacAddr;
use p2v_contract::inventory::Nic;

use crate::drivers::Orphan;
use crate::sysfs;

/// ARPHRD_ETHER (`include/uapi/linux/if_arp.h`).
const ETHERNET: u32 = 1;

/// Lists the Ethernet interfaces of real devices under `sys` (`/sys`). `permanent` asks the kernel
/// for the address burnt in; where it has none, the present one counts.
pub fn list(sys: &Path, permanent: impl Fn(&str) -> Option<MacAddr>) -> Vec<Nic> {
    let class = sys.join("class/net");
    sysfs::names(&class)
        .into_iter()
        .filter_map(|name| {
            let dir = class.join(&name);
            if sysfs::number::<u32>(dir.join("type")) != Some(ETHERNET) {
                return None;
            }
            let device = sysfs::real(dir.join("device"))?;
            let present = || sysfs::text(dir.join("address"))?.parse().ok();
            let attachment = sysfs::attachment(&device);
            Some(Nic {
                mac: permanent(&name).or_else(present)?,
                driver: sysfs::link_name(device.join("driver")).unwrap_or(attachment.driver),
                pci_id: attachment.pci_id,
                carrier: carrier(sys, &name),
                speed: speed(sys, &name),
                boot: false,
                name,
            })
        })
        .collect()
}

/// Whether an interface has a link. One that is down cannot say, which is none.
pub fn carrier(sys: &Path, name: &str) -> bool {
    sysfs::number::<u8>(sys.join("class/net").join(name).join("carrier")) == Some(1)
}

/// Speed in Mbit/s; 0 if unknown (the kernel says -1).
pub fn speed(sys: &Path, name: &str) -> u32 {
    sysfs::number(sys.join("class/net").join(name).join("speed")).unwrap_or(0)
}

/// Which interface to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one: it has the address the ROM booted with, or there is only this one.
    Use(usize),
    /// No `BOOTIF` was given and there are several: the first that gets a link.
    FirstWithLink,
    /// None; the reason, for the console.
    Wait(String),
}

/// Chooses the boot interface by the ROM's address.
pub fn choose(nics: &[Nic], boot_mac: Option<MacAddr>, orphans: &[Orphan]) -> Choice {
    let missing = || {
        let cards: Vec<String> = orphans
            .iter()
            .filter(|o| o.kind == "Ethernet")
            .map(|o| format!("no driver for PCI {} at {}", o.id, o.address))
            .collect();
        if cards.is_empty() {
            String::new()
        } else {
            format!("; {}", cards.join(", "))
        }
    };
    match (boot_mac, nics) {
        (_, []) if missing().is_empty() => {
            Choice::Wait("no network interface: no Ethernet card was found".into())
        }
        (_, []) => Choice::Wait(format!("no network interface{}", missing())),
        (Some(mac), nics) => match nics.iter().position(|n| n.mac == mac) {
            Some(index) => Choice::Use(index),
            None => {
                let there: Vec<String> = nics
                    .iter()
                    .map(|n| format!("{} {} ({})", n.name, n.mac, n.driver))
                    .collect();
                Choice::Wait(format!(
                    "no interface has the boot address {mac} (BOOTIF); there is {}{}",
                    there.join(", "),
                    missing()
                ))
            }
        },
        (None, [_]) => Choice::Use(0),
        (None, _) => Choice::FirstWithLink,
    }
}

/// The address the agent takes: the permanent one as a locally administered address (IEEE 802,
/// bit 0x02 of the first byte), so that the domain can keep the permanent one on the same segment.
///
/// A permanent address that is locally administered already (virtual machines) would stay what it
/// is; there bit 0x04 is turned over instead.
pub fn own_address(permanent: MacAddr) -> MacAddr {
    let MacAddr(first, b, c, d, e, f) = permanent;
    let own = if first & 0x02 == 0 {
        first | 0x02
    } else {
        first ^ 0x04
    };
    MacAddr(own, b, c, d, e, f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysfs::tree::Tree;

    fn nic(name: &str, mac: &str) -> Nic {
        Nic {
            name: name.into(),
            mac: mac.parse().unwrap(),
            driver: "e1000".into(),
            pci_id: String::new(),
            carrier: false,
            speed: 0,
            boot: false,
        }
    }

    #[test]
    fn interfaces_of_devices_are_listed() {
        let t = Tree::new();
        let pci = "devices/pci0000:00/0000:00:03.0";
        t.pci(pci, "8086", "100e", Some("e1000"));
        let at = format!("{pci}/net/eth0");
        t.file(&format!("{at}/type"), "1\n");
        t.file(&format!("{at}/address"), "02:54:00:12:34:56\n");
        t.file(&format!("{at}/carrier"), "1\n");
        t.file(&format!("{at}/speed"), "1000\n");
        t.link(&format!("{at}/device"), pci);
        t.link("class/net/eth0", &at);
        t.file("class/net/lo/type", "772\n");
        t.file("class/net/bond0/type", "1\n");
        let permanent: MacAddr = "00:54:00:12:34:56".parse().unwrap();
        let found = list(t.root(), |_| Some(permanent));
        assert_eq!(found.len(), 1);
        let eth0 = &found[0];
        assert_eq!(eth0.mac, permanent);
        assert_eq!(
            (eth0.driver.as_str(), eth0.pci_id.as_str()),
            ("e1000", "8086:100e")
        );
        assert_eq!((eth0.carrier, eth0.speed), (true, 1000));
        assert_eq!(
            list(t.root(), |_| None)[0].mac.to_string(),
            "02:54:00:12:34:56"
        );
    }

    #[test]
    fn the_boot_interface_by_its_address() {
        let nics = [
            nic("eth0", "00:11:22:33:44:55"),
            nic("eth1", "00:11:22:33:44:56"),
        ];
        let mac = |t: &str| Some(t.parse().unwrap());
        assert_eq!(choose(&nics, mac("00:11:22:33:44:56"), &[]), Choice::Use(1));
        assert_eq!(choose(&nics, None, &[]), Choice::FirstWithLink);
        assert_eq!(choose(&nics[..1], None, &[]), Choice::Use(0));
        let card = Orphan {
            address: "0000:00:03.0".into(),
            id: "8086:1234".into(),
            kind: "Ethernet",
        };
        let Choice::Wait(why) =
            choose(&nics, mac("00:11:22:33:44:57"), std::slice::from_ref(&card))
        else {
            panic!("chose one");
        };
        for part in [
            "00:11:22:33:44:57",
            "eth0 00:11:22:33:44:55 (e1000)",
            "8086:1234",
        ] {
            assert!(why.contains(part), "{why}");
        }
        let Choice::Wait(why) = choose(&[], None, &[card]) else {
            panic!("chose one");
        };
        assert!(why.contains("no driver for PCI 8086:1234"), "{why}");
        let Choice::Wait(why) = choose(&[], None, &[]) else {
            panic!("chose one");
        };
        assert!(why.contains("no Ethernet card"), "{why}");
    }

    #[test]
    fn the_agents_own_address_is_local_unicast_and_another() {
        for permanent in [
            "00:11:22:33:44:55",
            "52:54:00:12:34:56",
            "06:00:00:00:00:01",
        ] {
            let permanent: MacAddr = permanent.parse().unwrap();
            let own = own_address(permanent);
            assert_ne!(own, permanent);
            assert_eq!(own.0 & 0x03, 0x02, "{own}");
            assert_eq!((own.1, own.5), (permanent.1, permanent.5));
        }
        assert_eq!(
            own_address("00:11:22:33:44:55".parse().unwrap()).to_string(),
            "02:11:22:33:44:55"
        );
    }
}
