//! `p2v list` and `p2v show`: machines for people, or as JSON.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use console::Term;
use p2v_contract::inventory::{Disk, Firmware, Inventory};
use p2v_contract::operation::Stats;
use p2v_contract::{Address, SECTOR, Size};
use p2v_copy::Verify;
use p2v_dom0::record::{CopyRecord, Mapping};
use p2v_dom0::workflow::{MachineView, SharedCards};
use p2v_policy::asks::{Asker, Standing};

pub mod boots;
mod statistics;

fn name(machine: &MachineView) -> String {
    machine
        .name
        .as_ref()
        .map_or_else(|| format!("(shelf {})", machine.shelf), ToString::to_string)
}

fn size(disk: &Disk) -> String {
    Size(disk.sectors * SECTOR).to_string()
}

/// What the machine is, in a few words.
fn hardware(inventory: &Inventory) -> String {
    let dmi = &inventory.dmi;
    let made = format!("{} {}", dmi.vendor, dmi.product).trim().to_owned();
    if made.is_empty() {
        "unknown hardware".to_owned()
    } else {
        made
    }
}

/// Whether it answers now.
fn answers(machine: &MachineView) -> String {
    if machine.answers.is_empty() {
        "does not answer".to_owned()
    } else {
        machine
            .answers
            .keys()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// A line for each machine, and for each that asks.
pub fn list(machines: &[MachineView], askers: &[Asker], json: bool) -> Result<ExitCode> {
    if json {
        let machines = machines.iter().map(serde_json::to_value);
        let askers = askers.iter().map(serde_json::to_value);
        let rows: Vec<_> = machines.chain(askers).collect::<Result<_, _>>()?;
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(ExitCode::SUCCESS);
    }
    if machines.is_empty() && askers.is_empty() {
        println!(
            "no machines yet: see that p2v-serve runs (`systemctl status p2v-serve`), restart an old machine so that it boots from \
             the network, then `p2v approve` it"
        );
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = vec![
        [
            "NAME",
            "STATE",
            "ANSWERS AS",
            "DISKS",
            "BOOTS FROM",
            "HARDWARE",
        ]
        .map(str::to_owned),
    ];
    for machine in machines {
        let mut state = machine
            .state
            .map_or_else(|| "no record".to_owned(), |state| state.to_string());
        if let Some(asker) = askers.iter().find(|asker| is_of(asker, machine)) {
            state = format!("{state}, {}", asker.state.name());
        }
        let disks = machine
            .inventory
            .as_ref()
            .map_or_else(String::new, |inventory| {
                inventory
                    .disks
                    .iter()
                    .map(size)
                    .collect::<Vec<_>>()
                    .join(", ")
            });
        rows.push([
            name(machine),
            if machine.domain.is_some() {
                format!("{state}, domain up")
            } else {
                state
            },
            answers(machine),
            disks,
            machine
                .boot_mac
                .map_or_else(String::new, |mac| mac.to_string()),
            machine
                .inventory
                .as_ref()
                .map_or_else(String::new, hardware),
        ]);
    }
    let strangers = askers
        .iter()
        .filter(|asker| !machines.iter().any(|machine| is_of(asker, machine)));
    rows.extend(strangers.map(row_of_asker));
    let width = Term::stdout().size_checked().map(|(_, width)| width);
    print!("{}", table(&rows, width));
    if askers.iter().any(|asker| asker.state == Standing::Asks) {
        println!(
            "`p2v approve MAC` lets a machine boot that asks; until then it is left to its own disk"
        );
    }
    for machine in machines {
        for difference in &machine.differences {
            println!("! {}: {}", name(machine), difference);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn is_of(asker: &Asker, machine: &MachineView) -> bool {
    machine.boot_mac == Some(asker.boot_mac)
}

/// The line of one that has no record.
fn row_of_asker(asker: &Asker) -> [String; 6] {
    let name = asker.name.as_ref();
    let asked = format!("{} asked {}", asker.client, asker.last);
    [
        name.map_or_else(|| "-".to_owned(), ToString::to_string),
        asker.state.name().to_owned(),
        String::new(),
        String::new(),
        asker.boot_mac.to_string(),
        asked.trim().to_owned(),
    ]
}

/// In columns, as wide as `width` at most.
fn table(rows: &[[String; 6]], width: Option<u16>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .add_rows(rows);
    if let Some(width) = width {
        table.set_width(width);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}

/// All about one machine. `host_code`: of this host's key.
pub fn one(
    machine: &MachineView,
    statistics: &BTreeMap<Address, Stats>,
    json: bool,
    iface: &str,
    host_code: &str,
) -> Result<ExitCode> {
    if json {
        let mut value = serde_json::to_value(machine)?;
        let named: BTreeMap<&Address, BTreeMap<&str, u64>> = statistics
            .iter()
            .map(|(address, stats)| (address, stats.iter().collect()))
            .collect();
        value["statistics"] = serde_json::to_value(named)?;
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(ExitCode::SUCCESS);
    }
    let state = machine
        .state
        .map_or_else(|| "no record".to_owned(), |state| state.to_string());
    println!("{}: {state}", name(machine));
    println!("  answers on {iface}: {}", answers(machine));
    if let Some(domain) = machine.domain {
        println!("  domain: running, number {domain}");
    }
    if let Some(inventory) = &machine.inventory {
        facts(machine, inventory, host_code);
    }
    for (address, stats) in statistics {
        for line in statistics::lines(*address, stats) {
            println!("  {line}");
        }
    }
    for (slot, disk) in &machine.disks {
        match (disk.mapping, &disk.copy) {
            (Some(Mapping::Copy), Some(copy)) => {
                println!("  the domain's disk {slot}: {}", copy.destination);
            }
            (Some(_), _) => println!("  the domain's disk {slot}: the old machine's"),
            (None, _) => {}
        }
        if let Some(copy) = &disk.copy {
            let done = outcome(copy);
            let unguarded = if copy.unguarded {
                ", of a disk that another host could write"
            } else {
                ""
            };
            println!(
                "  copy of disk {slot}: {}, {done}{unguarded}",
                copy.destination
            );
        }
    }
    for (slot, done) in &machine.disarmed {
        let name = name(machine);
        match done {
            true => println!(
                "  old disk {slot}: disarmed, nothing starts from it (`p2v rearm {name}` takes that back)"
            ),
            false => println!(
                "! old disk {slot} may START: disarming or rearming it was interrupted. `p2v disarm {name}` or `p2v rearm \
                 {name}` finishes it"
            ),
        }
    }
    for shared in &machine.shared_cards {
        println!("  {}", shares(shared));
    }
    for difference in &machine.differences {
        println!("! {}", difference);
    }
    if !machine.history.is_empty() {
        println!("  history:");
        for line in machine.history.iter().rev().take(12).rev() {
            println!("    {}  {}", line.at, line.what);
        }
    }
    println!("next:");
    for action in &machine.next {
        let loses = if action.destructive { " (!)" } else { "" };
        println!("  {action}{loses}");
    }
    if machine.next.is_empty() {
        println!("  nothing: it is moved and the old machine is off");
    }
    Ok(ExitCode::SUCCESS)
}

/// What another record with one of its network cards means.
fn shares(shared: &SharedCards) -> String {
    let cards: Vec<String> = shared.cards.iter().map(ToString::to_string).collect();
    let what = match shared.another_machine {
        true => "another machine, as you said",
        false => {
            "which counts as the same machine: while the server of one is here, `p2v start` and `p2v cutover` refuse the \
             other and say how to go on"
        }
    };
    format!(
        "shares the network card {} with {} ({}), {what}. What boots by a card of both is never left to its own disk by `p2v \
         serve` while the server of one of them is here",
        cards.join(" "),
        shared.with,
        shared.state
    )
}

fn facts(machine: &MachineView, inventory: &Inventory, host_code: &str) {
    if let Some(read) = machine.inventory_read {
        println!("  inventory read: {read}");
    }
    let firmware = match inventory.firmware {
        Firmware::Bios => "BIOS",
        Firmware::Uefi => "UEFI",
    };
    println!("  hardware: {}, {firmware}", hardware(inventory));
    if let Some(key) = inventory.key {
        println!(
            "  key codes: agent {}, host {host_code} (as on its screen)",
            key.code()
        );
    }
    if !inventory.dmi.serial.is_empty() {
        println!("  serial number: {}", inventory.dmi.serial);
    }
    println!(
        "  processor: {} ({} threads, {}-bit)",
        inventory.cpu.model,
        inventory.cpu.threads,
        if inventory.cpu.long_mode { 64 } else { 32 }
    );
    println!("  memory: {}", Size(inventory.memory_bytes));
    for nic in &inventory.nics {
        let link = if nic.carrier { "link up" } else { "no link" };
        let boot = if nic.boot { ", boots from it" } else { "" };
        println!(
            "  network: {} {} ({}, {link}{boot})",
            nic.name, nic.mac, nic.driver
        );
    }
    for disk in &inventory.disks {
        let address = disk
            .address
            .map_or_else(|| "not exported".to_owned(), |address| address.to_string());
        println!(
            "  disk {address}: {} {}, {}, serial {}, controller {}",
            disk.name,
            size(disk),
            disk.model,
            if disk.serial.is_empty() {
                "unknown".to_owned()
            } else {
                disk.serial.clone()
            },
            disk.controller
        );
        if !disk.refused.is_empty() {
            println!("    not exported: {}", disk.refused);
        }
        for partition in disk.table.iter().flat_map(|table| &table.partitions) {
            println!(
                "    partition {}: type {}, {}{}",
                partition.number,
                partition.kind,
                Size(partition.sectors * SECTOR),
                if partition.bootable { ", bootable" } else { "" }
            );
        }
    }
}

/// What came of a copy.
fn outcome(copy: &CopyRecord) -> String {
    let Some(verified) = copy.verified() else {
        return "begun, not complete".into();
    };
    let checked = match verified.how {
        Verify::Both => "and checked".to_owned(),
        how => format!("(compared: {how})"),
    };
    match verified.unreadable.first() {
        None => format!("complete {checked} {}", verified.at),
        Some((first, _)) => format!(
            "copied {checked} {}, but for {} sectors that could not be read (the first is {first}; all are in its \
             certificate)",
            verified.at,
            copy.unreadable()
        ),
    }
}

#[cfg(test)]
mod tests {
    use p2v_dom0::State;

    use super::*;

    #[test]
    fn what_shares_a_card_is_named_and_how_p2v_serve_treats_it() {
        let mut shared = SharedCards {
            with: "e1".parse().unwrap(),
            state: State::Moved,
            cards: [p2v_contract::MacAddr::new(0x52, 0x54, 0, 0, 0, 9)].into(),
            another_machine: false,
        };
        let asked = shares(&shared);
        shared.another_machine = true;
        let said = shares(&shared);
        for text in [&asked, &said] {
            assert!(text.contains("52:54:00:00:00:09 with e1 (moved)"), "{text}");
            assert!(text.contains("never left to its own disk"), "{text}");
        }
        assert!(asked.contains("the same machine") && said.contains("as you said"));
    }

    #[test]
    fn columns_line_up() {
        let row = |a: &str, b: &str| [a, b, "", "", "", "x"].map(str::to_owned);
        let rows = [row("NAME", "S"), row("e1", "exported, domain up")];
        let text = table(&rows, None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        for column in ["S", "x"] {
            let at = lines[0].find(column).unwrap();
            let other = if column == "S" {
                "exported, domain up"
            } else {
                "x"
            };
            assert_eq!(lines[1].rfind(other), Some(at), "{text}");
        }
        assert!(lines.iter().all(|line| *line == line.trim_end()), "{text}");
        // A narrow terminal breaks cells, and no line.
        let text = table(&rows, Some(30));
        assert!(text.lines().count() > 2, "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() <= 30),
            "{text}"
        );
    }
}
