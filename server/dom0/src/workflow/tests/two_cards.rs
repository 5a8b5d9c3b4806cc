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

/// Also when the record that tells of it is forgotten.
#[test]
fn what_a_domain_wrote_by_a_record_that_was_forgotten_is_not_lost_either() {
    let (mut lab, cards) = lab_of_two_cards();
    lab.copy("vg").unwrap();
    let first = lab.name.clone();
    lab.name = boots_by(&lab, cards[1]);
    let config = lab.start().unwrap();
    lab.machine().data[0][12_345] ^= 1;
    lab.stop().unwrap();
    fs::remove_file(config).unwrap();
    lab.machine().on = false;
    forget(lab.context(), &lab.name, true).unwrap();
    lab.name = first;
    assert_eq!(lab.state(), State::Copying);
    let options = CutoverOptions {
        old_machine_gone: true,
        ..CutoverOptions::default()
    };
    let error = text(cutover(lab.context(), &lab.name, options));
    assert!(error.contains("p2v copy e1"), "{error}");
    lab.assert_clean();
}

const UUIDS: [&str; 2] = [
    "4c4c4544-0046-4a10-8052-b4c04f4e344a",
    "4c4c4544-0046-4a10-8052-b4c04f4e344b",
];

/// e1, and e2: another machine, into which a card of e1's was put.
fn lab_of_a_card_that_was_moved(far: impl Fn(&Lab)) -> (Lab, MachineName) {
    let (mut lab, cards) = lab_of_two_cards();
    lab.machine().inventory.dmi.uuid = UUIDS[0].to_owned();
    discover(lab.context()).unwrap();
    far(&lab);
    for file in ["domains", "dm"] {
        fs::write(lab.dir.path().join(file), "").unwrap();
    }
    {
        let machine = &mut *lab.machine();
        machine.writable = false;
        let inventory = &mut machine.inventory;
        inventory.dmi.uuid = UUIDS[1].to_owned();
        inventory.disks[0].serial = "OTHER".to_owned();
        inventory.nics.retain(|nic| nic.mac != cards[0]);
    }
    let first = lab.name.clone();
    lab.name = boots_by(&lab, cards[1]);
    (lab, first)
}

fn moved(lab: &Lab) {
    lab.copy("vg").unwrap();
    lab.cutover().unwrap();
}

fn runs(lab: &Lab) {
    lab.start().unwrap();
}

fn shared(lab: &Lab, name: &MachineName) -> Vec<SharedCards> {
    let views = discover(lab.context()).unwrap();
    let view = views.into_iter().find(|v| v.name.as_ref() == Some(name));
    view.unwrap().shared_cards
}

#[test]
fn another_machine_that_got_a_card_is_served_when_the_operator_says_so() {
    for far in [moved, runs] {
        let (lab, first) = lab_of_a_card_that_was_moved(far);
        let error = text(lab.start());
        for words in [
            "In common: network card 00:0c:29:01:02:09.",
            UUIDS[0],
            UUIDS[1],
            "OTHER (e2) and S0 (e1)",
            "`p2v show e1`",
            "`p2v start e2 --another-machine e1`",
        ] {
            assert!(error.contains(words), "{words}: {error}");
        }
        lab.assert_clean();
        assert!(!shared(&lab, &lab.name)[0].another_machine);
        let said = StartOptions {
            another_machine: vec![first.clone()],
            ..StartOptions::default()
        };
        start(lab.context(), &lab.name, said).unwrap();
        lab.stop().unwrap();
        // What is known is not asked again, and both histories tell it.
        lab.start().unwrap();
        lab.stop().unwrap();
        lab.copy("vg").unwrap();
        lab.cutover().unwrap();
        for (name, other) in [(&first, &lab.name), (&lab.name, &first)] {
            let history = lab.host.store.get(name).unwrap().history;
            let told = history
                .iter()
                .filter(|line| line.what.contains("another machine"));
            let told: Vec<_> = told.map(|line| &line.what).collect();
            let of_it = format!("{other} is another machine");
            assert!(told.len() == 1 && told[0].contains(&of_it), "{told:?}");
            let shared = shared(&lab, name);
            assert!(
                shared[0].another_machine && shared[0].with == *other,
                "{shared:?}"
            );
        }
    }
}

#[test]
fn a_cutover_takes_the_operators_word_too_and_names_it() {
    let (lab, first) = lab_of_a_card_that_was_moved(moved);
    lab.copy("vg").unwrap();
    let error = text(lab.cutover());
    assert!(
        error.contains("`p2v cutover e2 --another-machine e1`"),
        "{error}"
    );
    let said = CutoverOptions {
        another_machine: vec![first],
        ..CutoverOptions::default()
    };
    cutover(lab.context(), &lab.name, said).unwrap();
}

#[test]
fn a_start_of_another_machine_does_not_count() {
    let (mut lab, first) = lab_of_a_card_that_was_moved(|lab| drop(lab.copy("vg").unwrap()));
    discover(lab.context()).unwrap();
    lab.machine().on = false;
    let second = std::mem::replace(&mut lab.name, first);
    let mut options = CutoverOptions {
        old_machine_gone: true,
        ..CutoverOptions::default()
    };
    let error = text(cutover(lab.context(), &lab.name, options.clone()));
    let way = "`p2v cutover e1 --old-machine-gone --another-machine e2`";
    assert!(error.contains(way), "{error}");
    options.another_machine = vec![second];
    cutover(lab.context(), &lab.name, options).unwrap();
}

#[test]
fn the_operators_word_is_not_taken_for_one_machine_or_a_stranger() {
    let (mut lab, cards) = lab_of_two_cards();
    lab.machine().inventory.dmi.uuid = UUIDS[0].to_owned();
    moved(&lab);
    for file in ["domains", "dm"] {
        fs::write(lab.dir.path().join(file), "").unwrap();
    }
    let first = lab.name.clone();
    lab.name = boots_by(&lab, cards[1]);
    let say = |lab: &Lab, other: &MachineName| {
        let options = StartOptions {
            another_machine: vec![other.clone()],
            ..StartOptions::default()
        };
        text(start(lab.context(), &lab.name, options))
    };
    let error = text(lab.start());
    assert!(
        error.contains("second server")
            && error.contains("`p2v show e1`")
            && !error.contains("--another-machine"),
        "{error}"
    );
    assert!(say(&lab, &first).contains("the same machine"));
    assert!(say(&lab, &lab.name).contains("no network card"));
    let stranger = MacAddr::new(0x52, 0x54, 0, 0, 0, 1);
    let menu = lab
        .host
        .store
        .menu(stranger, None, Timestamp::now())
        .unwrap();
    assert!(say(&lab, &menu.name).contains("no network card"));
    lab.assert_clean();
}

#[test]
fn what_is_found_later_outweighs_the_operators_word() {
    let (lab, first) = lab_of_a_card_that_was_moved(moved);
    let said = StartOptions {
        another_machine: vec![first],
        ..StartOptions::default()
    };
    start(lab.context(), &lab.name, said).unwrap();
    lab.stop().unwrap();
    // It is the machine after all: its disk is back.
    lab.host
        .store
        .update(&lab.name, |record| {
            record.disks.clear();
            Ok::<_, Error>(())
        })
        .unwrap();
    lab.machine().inventory.disks[0].serial = "S0".to_owned();
    let error = text(lab.start());
    assert!(
        error.contains("second server") && error.contains("disk with serial number S0"),
        "{error}"
    );
    lab.assert_clean();
}
