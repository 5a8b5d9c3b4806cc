//! `nft`, the one place that runs it: what keeps guests' frames from the old machines' disks, and theirs from the guests.
//!
//! AoE knows a sender by its MAC address alone, and a guest can send frames with any.

use super::{ToolError, Tools};

/// The table, in the family of bridges.
const TABLE: &str = "bridge p2v";

/// Drops AoE (EtherType 0x88A2, also inside VLAN tags) that goes over these bridges from or to a guest's interface, which
/// xen-hotplug calls `vifN.M` and `vifN.M-emu`. In one step, whatever there was before.
///
/// # Errors
/// What `nft` said.
pub fn keep_guests_off(tools: &Tools, bridges: &[String]) -> Result<(), ToolError> {
    let names: Vec<String> = bridges.iter().map(|name| format!("\"{name}\"")).collect();
    let names = names.join(", ");
    let mut script = format!(
        "add table {TABLE}; flush table {TABLE}; \
         add chain {TABLE} from_guests {{ type filter hook prerouting priority -350; }}; \
         add chain {TABLE} to_guests {{ type filter hook postrouting priority 350; }}"
    );
    for (chain, of_bridge, of_guest) in [
        ("from_guests", "ibrname", "iifname"),
        ("to_guests", "obrname", "oifname"),
    ] {
        // A tag of VLAN 0, or two of them, are taken off by who receives the frame.
        for what in [
            "ether type 0x88a2",
            "vlan type { 0x88a2, 0x8100, 0x88a8 }",
            "ether type 0x88a8",
        ] {
            script += &format!(
                "; add rule {TABLE} {chain} meta {of_bridge} {{ {names} }} {of_guest} \"vif*\" {what} drop"
            );
        }
    }
    tools.run("nft", [script.as_str()]).map(drop)
}

/// Whether [`keep_guests_off`] holds for all these bridges.
///
/// # Errors
/// `nft` is not there.
pub fn keeps_guests_off(tools: &Tools, bridges: &[String]) -> Result<bool, ToolError> {
    match tools.run("nft", ["list", "table", "bridge", "p2v"]) {
        Ok(text) => Ok(text.contains("from_guests")
            && text.contains("to_guests")
            && bridges
                .iter()
                .all(|name| text.contains(&format!("\"{name}\"")))),
        Err(error @ ToolError::Missing { .. }) => Err(error),
        // There is no such table.
        Err(_) => Ok(false),
    }
}

/// Takes it back.
///
/// # Errors
/// What `nft` said.
pub fn let_guests(tools: &Tools) -> Result<(), ToolError> {
    match tools.run("nft", ["list", "table", "bridge", "p2v"]) {
        Ok(_) => tools
            .run("nft", ["delete", "table", "bridge", "p2v"])
            .map(drop),
        Err(_) => Ok(()),
    }
}
