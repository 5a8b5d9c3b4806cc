//! What answers for a machine's shelf and is not the machine changes nothing of what is known of it.

use super::*;
use crate::record::Record;

impl Lab {
    fn record(&self) -> Record {
        self.host.store.get(&self.name).unwrap()
    }

    /// All commands that speak with the machine refuse, and nothing is remembered of what answers.
    fn is_left_alone(&self, why: &str) {
        self.host
            .store
            .update(&self.name, |record| {
                record.state = State::Moved;
                Ok::<_, Error>(())
            })
            .unwrap();
        let released = text(self.release());
        assert!(released.contains(why), "{why}: {released}");
        self.host
            .store
            .update(&self.name, |record| {
                record.state = State::Exported;
                Ok::<_, Error>(())
            })
            .unwrap();
        let before = self.record();
        let differences = discover(self.context()).unwrap()[0].differences.join("\n");
        assert!(differences.contains(why), "{why}: {differences}");
        for refused in [
            text(self.start()),
            text(self.copy("vg")),
            text(self.cutover()),
        ] {
            assert!(
                refused.contains(why)
                    || refused.contains("not started by this host")
                    || refused.contains("not copied"),
                "{why}: {refused}"
            );
        }
        let mut after = self.record();
        after.history.clone_from(&before.history);
        assert_eq!(after, before, "{why}");
        assert!(self.machine().orders.is_empty());
    }
}

#[test]
fn a_stray_export_empties_no_record() {
    let lab = lab(2);
    let second = Nic {
        name: "eth1".into(),
        mac: MacAddr::new(0, 0x0c, 0x29, 9, 9, 9),
        boot: false,
        ..lab.machine().inventory.nics[0].clone()
    };
    lab.machine().inventory.nics.push(second.clone());
    discover(lab.context()).unwrap();
    assert!(lab.record().cards.contains(&second.mac));
    let own = lab.machine().inventory.clone();

    // `p2v-agent export --shelf 1` on any machine: the same agent, without cards and disks.
    lab.machine().inventory.nics.clear();
    lab.machine().inventory.menu_id = String::new();
    lab.is_left_alone("does not say which network card it boots from");

    // A forged inventory: right but for the menu, with 200 disks.
    let mut forged = own.clone();
    forged.menu_id = "0123456789abcdef0123456789abcdef".into();
    forged.disks = (0..200)
        .map(|slot| Disk {
            address: Some(Address::new(lab.record().shelf, slot)),
            ..own.disks[0].clone()
        })
        .collect();
    lab.machine().inventory = forged;
    lab.is_left_alone("not started by a boot menu of this host");

    // The boot id of the agent that answered before, with another key.
    lab.machine().inventory = Inventory {
        key: Some(SecretKey::from_bytes(&[5; 32]).public()),
        ..own.clone()
    };
    lab.is_left_alone("its key is another one");

    // The machine itself, one of whose cards did not come up: it keeps it.
    lab.machine().inventory = own.clone();
    lab.machine().inventory.nics.truncate(1);
    lab.machine().inventory.boot_id = "second".into();
    discover(lab.context()).unwrap();
    let record = lab.record();
    assert_eq!(record.inventory.unwrap().nics.len(), 1);
    assert!(record.cards.contains(&second.mac));
}
