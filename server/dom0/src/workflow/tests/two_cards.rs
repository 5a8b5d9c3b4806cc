//! A machine that boots by each of two network cards, and has a record by each.

use super::*;

/// Booted by its other card, it has a record of its own.
#[test]
fn a_machine_whose_other_record_is_lost_starts_nothing() {
    let (lab, cards) = lab_of_two_cards();
    lab.copy("vg").unwrap();
    lab.cutover().unwrap();
    let second = boots_by(&lab, cards[1]);
    fs::remove_file(lab.host.store.path(&lab.name)).unwrap();
    let warnings = Warnings::default();
    let context = Context {
        report: &warnings,
        ..lab.context()
    };
    discover(context).unwrap();
    let warnings = warnings.0.into_inner().unwrap().join("\n");
    assert!(warnings.contains("`p2v trust e1`"), "{warnings}");
    let error = text(start(lab.context(), &second, StartOptions::default()));
    assert!(error.contains("lost or cannot be read"), "{error}");
}

/// A machine that is booted by another card from now on: the name of its record by that.
fn boots_by(lab: &Lab, card: MacAddr) -> MachineName {
    let menu = lab.host.store.menu(card, None, Timestamp::now()).unwrap();
    let mut machine = lab.machine();
    let inventory = &mut machine.inventory;
    let before = inventory.disks[0].address.unwrap();
    inventory.menu_id = menu.menu_id;
    inventory.boot_id += " again";
    for nic in &mut inventory.nics {
        nic.boot = nic.mac == card;
    }
    let now = Address::new(menu.shelf, 0);
    inventory.disks[0].address = Some(now);
    let node = |address: Address| lab.host.paths.dev_etherd.join(address.to_string());
    fs::rename(node(before), node(now)).unwrap();
    menu.name
}

/// One with two cards.
fn lab_of_two_cards() -> (Lab, [MacAddr; 2]) {
    let lab = lab(1);
    let cards = [3, 9].map(|n| MacAddr::new(0x00, 0x0c, 0x29, 1, 2, n));
    let mut second = lab.machine().inventory.nics[0].clone();
    (second.mac, second.boot) = (cards[1], false);
    lab.machine().inventory.nics.push(second);
    (lab, cards)
}

#[test]
fn what_was_moved_by_one_card_is_not_moved_by_another_one_again() {
    let (mut lab, cards) = lab_of_two_cards();
    discover(lab.context()).unwrap();
    let first = lab.name.clone();
    lab.name = boots_by(&lab, cards[1]);
    lab.copy("vg").unwrap();
    lab.cutover().unwrap();
    fs::write(lab.dir.path().join("domains"), "").unwrap();
    boots_by(&lab, cards[0]);
    lab.name = first;
    lab.copy("vg").unwrap();
    let error = text(lab.cutover());
    assert!(error.contains("second server"), "{error}");
}

#[test]
fn what_a_domain_wrote_by_another_card_is_not_lost_with_the_old_machine() {
    let (mut lab, cards) = lab_of_two_cards();
    lab.copy("vg").unwrap();
    let first = lab.name.clone();
    lab.name = boots_by(&lab, cards[1]);
    lab.start().unwrap();
    lab.machine().data[0][12_345] ^= 1;
    lab.stop().unwrap();
    lab.machine().on = false;
    lab.name = first;
    let options = CutoverOptions {
        old_machine_gone: true,
        ..CutoverOptions::default()
    };
    let error = text(cutover(lab.context(), &lab.name, options));
    assert!(
        error.contains("restarted") && error.contains("p2v copy e1"),
        "{error}"
    );
    lab.assert_clean();
}
