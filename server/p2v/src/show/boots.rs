//! `p2v list --boot`: each machine's last boot in a line.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use p2v_contract::MacAddr;
use p2v_dom0::workflow::MachineView;
use p2v_policy::boots::Boot;
use serde_json::json;

/// Prints them, the latest first.
pub fn list(
    boots: &BTreeMap<MacAddr, Boot>,
    machines: &[MachineView],
    json: bool,
) -> Result<ExitCode> {
    let mut rows: Vec<(&MacAddr, &Boot)> = boots.iter().collect();
    rows.sort_by_key(|(mac, boot)| (std::cmp::Reverse(boot.last), *mac));
    let machine = |mac: &MacAddr| machines.iter().find(|m| m.boot_mac == Some(*mac));
    if json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(mac, boot)| {
                let machine = machine(mac);
                json!({
                    "mac": mac,
                    "name": machine.and_then(|m| m.name.as_ref()),
                    "boot": boot,
                    "agent": agent(machine),
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        println!(
            "no boot was seen: is `p2v serve` running, and is the network first in the old machine's boot order?"
        );
    }
    for (mac, boot) in rows {
        let machine = machine(mac);
        let name = machine
            .and_then(|m| m.name.as_ref())
            .map_or_else(String::new, |name| format!(" ({name})"));
        let end = match agent(machine) {
            Some(shelf) => format!(", agent up as {shelf}"),
            None if boot.complete => ", no agent answers now".into(),
            None => String::new(),
        };
        println!("{}  {mac}{name}: {boot}{end}", boot.began);
    }
    Ok(ExitCode::SUCCESS)
}

/// The shelf of the agent, if it answers.
fn agent(machine: Option<&MachineView>) -> Option<String> {
    let machine = machine.filter(|m| !m.answers.is_empty())?;
    Some(format!("e{}", machine.shelf))
}
