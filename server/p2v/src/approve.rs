//! `p2v approve`: the operator lets a machine boot the agent, or takes that back.

use std::process::ExitCode;

use anyhow::{Result, bail};
use p2v_contract::MacAddr;
use p2v_dom0::{Store, Timestamp};
use p2v_policy::approvals::{Approval, Approvals, Word};
use p2v_policy::boot_policy::{Facts, Wish};
use p2v_policy::naming;
use p2v_policy::settings::Settings;
use serde_json::json;

/// Takes the operator's word down, for a machine that is named or for a MAC address.
///
/// # Errors
/// Nobody is meant, or several; `deny` leaves the machine out; the word cannot be written.
pub fn run(
    store: &Store,
    settings: &Settings,
    machine: &str,
    word: Word,
    json: bool,
) -> Result<ExitCode> {
    let mac = naming::mac_of(store, &settings.machines, machine)?;
    let revokes = word == Word::Revoked;
    if !revokes && settings.serve.denies(mac) {
        bail!(
            "`deny` under [serve] leaves {mac} out, and wins over this: take it out there, and `systemctl restart p2v-serve`"
        );
    }
    let at = Timestamp::now();
    Approvals::of(&settings.state).set(mac, Approval { word, at })?;
    if json {
        println!("{}", json!({ "mac": mac, "word": word, "at": at }));
        return Ok(ExitCode::SUCCESS);
    }
    let what = match word {
        Word::Always => "is approved",
        Word::Once => "is approved for one boot",
        Word::Revoked => "is not approved any more",
    };
    let next = match still_booted(store, settings, mac) {
        Some(why) if revokes => format!("It is booted all the same: {why}"),
        _ if revokes => "It boots its own disk at its next start".to_owned(),
        _ => "If it asks at this moment (firmware does for about a minute), that boot succeeds; else restart it".to_owned(),
    };
    println!("{mac} {what}. {next}");
    Ok(ExitCode::SUCCESS)
}

/// Why a machine is booted that nobody approves by hand.
fn still_booted(store: &Store, settings: &Settings, mac: MacAddr) -> Option<&'static str> {
    let record = store.by_mac(mac).ok().flatten();
    if record.is_some_and(|record| Facts::of(&record).server_is_here()) {
        return Some("its server is on this host, and its own disk must not start beside it");
    }
    let wish = settings.machines.get(&mac).and_then(|known| known.boot);
    if settings.serve.allows(mac) {
        return Some("`allow` under [serve] in the settings names it");
    }
    (wish == Some(Wish::Agent)).then_some("the settings say boot = \"agent\"")
}

/// Prints what was said of each machine.
///
/// # Errors
/// What was said cannot be read.
pub fn list(settings: &Settings, json: bool) -> Result<ExitCode> {
    let all = Approvals::of(&settings.state).all()?;
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(ExitCode::SUCCESS);
    }
    if all.is_empty() {
        println!("nothing was approved by hand: `p2v list` shows the machines that ask");
    }
    for (mac, Approval { word, at }) in all {
        let word = match word {
            Word::Always => "approved",
            Word::Once => "approved for one boot",
            Word::Revoked => "revoked",
        };
        println!("{mac}  {word}, {at}");
    }
    Ok(ExitCode::SUCCESS)
}
