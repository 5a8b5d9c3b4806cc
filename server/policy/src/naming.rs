//! Which machine is meant: by its name, or by the MAC address it boots from, as it stands in logs and on labels.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use p2v_contract::MacAddr;
use p2v_dom0::Store;
use p2v_dom0::name::MachineName;
use p2v_dom0::store::StoreError;
use p2v_netboot::parse_mac;

use crate::Machine;

/// Who is meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Meant {
    /// A machine of this name. Whether there is one is not said.
    Named(MachineName),
    /// One that boots from this, of which nothing is known.
    Stranger(MacAddr),
}

/// Finds it out. A name may look like an address: where the two are not the same machine, neither is taken.
///
/// # Errors
/// It is neither a name nor an address; it may mean several; records cannot be read that might be meant.
pub fn meant(store: &Store, machines: &BTreeMap<MacAddr, Machine>, text: &str) -> Result<Meant> {
    let Ok(mac) = parse_mac(text) else {
        if text.contains(':') {
            bail!("`{text}` is no whole MAC address, and no name: those have no colon");
        }
        return Ok(Meant::Named(text.parse()?));
    };
    let looks_so = |name: &MachineName| parse_mac(name.as_str()) == Ok(mac);
    let mut listing = store.list()?;
    let mut meant = BTreeMap::new();
    for record in &listing.records {
        if record.boot_mac == mac || looks_so(&record.name) {
            meant.insert(record.name.clone(), Some(record.boot_mac));
        }
    }
    for path in listing.unreadable.iter().filter_map(|error| error.path()) {
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let name = stem.and_then(|stem| stem.parse().ok());
        if let Some(name) = name.filter(looks_so) {
            meant.insert(name, None);
        }
    }
    // Of a machine that was met, the name in its record counts.
    let is_met = |mac: &MacAddr| listing.records.iter().any(|record| record.boot_mac == *mac);
    for (card, machine) in machines.iter().filter(|(card, _)| !is_met(card)) {
        if let Some(name) = machine.name.clone().filter(looks_so) {
            meant.insert(name, Some(*card));
        }
    }
    let is_its_name = meant.keys().any(|name| name.as_str() == text);
    let may_be_unreadable = meant.is_empty() || !is_its_name && listing.names_in_unreadable(mac);
    if may_be_unreadable && let Some(error) = listing.unreadable.pop() {
        return Err(anyhow::Error::from(error)
            .context(format!("cannot tell which machine is meant by `{text}`")));
    }
    // A name that is only written like it does not do where one may be meant that is not known.
    let is_its_card = meant.values().any(|card| *card == Some(mac));
    if meant.len() > 1 || !meant.is_empty() && !is_its_name && !is_its_card {
        let mut several: Vec<String> = meant.iter().map(in_words).collect();
        if !is_its_card {
            several.push(format!("one that boots from {mac}"));
        }
        bail!(
            "`{text}` may mean several machines: {}. Name it by what only that one has",
            several.join("; ")
        );
    }
    let name = meant.into_keys().next();
    Ok(name.map_or(Meant::Stranger(mac), Meant::Named))
}

fn in_words((name, card): (&MachineName, &Option<MacAddr>)) -> String {
    match card {
        Some(card) => format!("{name}, which boots from {card}"),
        None => format!("{name}, whose record cannot be read"),
    }
}

/// The name of a machine that is known.
///
/// # Errors
/// As [`meant`]; nothing is known of it.
pub fn name_of(
    store: &Store,
    machines: &BTreeMap<MacAddr, Machine>,
    text: &str,
) -> Result<MachineName> {
    match meant(store, machines, text)? {
        Meant::Named(name) => Ok(name),
        Meant::Stranger(_) => bail!(
            "`{text}` is neither the name of a machine nor the MAC address that one boots from (`p2v list` has both). One that \
             asks is let in with `p2v approve {text}`"
        ),
    }
}

/// The MAC address that a machine boots from, also of one that only the settings name.
///
/// # Errors
/// As [`meant`]; nothing is known of a machine of that name.
pub fn mac_of(
    store: &Store,
    machines: &BTreeMap<MacAddr, Machine>,
    machine: &str,
) -> Result<MacAddr> {
    let name = match meant(store, machines, machine)? {
        Meant::Stranger(mac) => return Ok(mac),
        Meant::Named(name) => name,
    };
    match store.get(&name) {
        Ok(record) => Ok(record.boot_mac),
        Err(error @ StoreError::Unknown { .. }) => {
            let mut known = machines.iter();
            let called = known.find(|(_, known)| known.name.as_ref() == Some(&name));
            let Some((mac, _)) = called else {
                return Err(error)
                    .context("a machine that p2v has not met is named by its MAC address");
            };
            Ok(*mac)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_dom0::Timestamp;

    fn mac(n: u8) -> MacAddr {
        MacAddr::new(0x52, 0x54, 0, 0, 0, n)
    }

    fn add(store: &Store, n: u8, name: &str) {
        let name = name.parse().unwrap();
        store
            .menu_in_files(mac(n), Some(&name), Timestamp::now())
            .unwrap();
    }

    fn call(machines: &mut BTreeMap<MacAddr, Machine>, n: u8, name: &str) {
        let machine = toml::from_str(&format!("name = '{name}'")).unwrap();
        machines.insert(mac(n), machine);
    }

    /// The name, or why there is none.
    fn named(store: &Store, machines: &BTreeMap<MacAddr, Machine>, text: &str) -> String {
        let named = name_of(store, machines, text);
        named.map_or_else(|error| format!("{error:#}"), |name| name.to_string())
    }

    const FORMS: [&str; 3] = ["52:54:00:00:00:01", "52-54-00-00-00-01", "525400000001"];

    #[test]
    fn a_machine_is_named_by_its_name_or_by_the_card_it_boots_from() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut machines = BTreeMap::new();
        add(&store, 1, "mail");
        // It was met before it was called so.
        call(&mut machines, 1, "525400000001");
        for text in FORMS.into_iter().chain(["mail"]) {
            assert_eq!(named(&store, &machines, text), "mail");
        }
        assert_eq!(named(&store, &machines, "web"), "web");
        let stranger = named(&store, &machines, "52:54:00:00:00:02");
        assert!(stranger.contains("p2v list"), "{stranger}");
        let meant = |text| meant(&store, &machines, text).unwrap();
        assert_eq!(meant("52:54:00:00:00:02"), Meant::Stranger(mac(2)));
        assert!(name_of(&store, &machines, "a/b").is_err());
        let short = named(&store, &machines, "52:54:00:00:01");
        assert!(short.contains("no whole MAC"), "{short}");
    }

    #[test]
    fn a_name_that_is_the_card_of_another_means_neither() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut machines = BTreeMap::new();
        add(&store, 1, "mail");
        call(&mut machines, 2, "525400000001");
        let mean_several = |machines: &BTreeMap<MacAddr, Machine>| {
            for text in FORMS {
                let several = named(&store, machines, text);
                assert!(several.contains("may mean several"), "{several}");
                assert!(several.contains("mail, which boots from"), "{several}");
            }
            assert_eq!(named(&store, machines, "mail"), "mail");
        };
        mean_several(&machines);
        add(&store, 2, "525400000001");
        mean_several(&machines);
        let by_its_card = named(&store, &machines, "52:54:00:00:00:02");
        assert_eq!(by_its_card, "525400000001");
        // Its record is damaged: it is still not the other that is meant.
        std::fs::write(store.path(&"525400000001".parse().unwrap()), "{").unwrap();
        for text in FORMS {
            let several = named(&store, &BTreeMap::new(), text);
            assert!(several.contains("cannot be read"), "{several}");
        }
        assert_eq!(named(&store, &machines, "mail"), "mail");
    }

    #[test]
    fn a_record_that_cannot_be_read_may_be_the_one_that_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let machines = BTreeMap::new();
        add(&store, 1, "52540000000a");
        add(&store, 2, "web");
        std::fs::write(store.path(&"web".parse().unwrap()), "{").unwrap();
        assert_eq!(named(&store, &machines, "52540000000a"), "52540000000a");
        // That is its name, and not its card.
        for text in ["52:54:00:00:00:0a", "52540000000A"] {
            let unsure = named(&store, &machines, text);
            assert!(unsure.contains("one that boots from"), "{unsure}");
        }
        let unclear = named(&store, &machines, "52:54:00:00:00:02");
        assert!(unclear.contains("cannot tell which machine"), "{unclear}");
        assert!(unclear.contains("web.json"), "{unclear}");
    }
}
