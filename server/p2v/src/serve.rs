//! `p2v serve`: the netboot service, with the machine records as its policy.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use p2v_aoe::MacAddr;
use p2v_aoe::cmdline::BootArgs;
use p2v_dom0::store::StoreError;
use p2v_dom0::{State, Store, Timestamp};
use p2v_netboot::{BootDecision, BootEvent, Machines, Notice};
use tokio::signal::unix::{SignalKind, signal};

use crate::boots::Boots;
use crate::settings::{Machine, Settings};
use crate::{privileges, service_manager};

/// The machine records, asked by the netboot service.
struct Records {
    store: Store,
    /// Addresses that the agents shall answer.
    hosts: Vec<MacAddr>,
    known: BTreeMap<MacAddr, Machine>,
    boots: Boots,
}

impl Records {
    fn decide(&self, mac: MacAddr) -> Result<BootDecision, StoreError> {
        if let Some(record) = self.store.by_mac(mac)?
            && record.state == State::Released
        {
            return Ok(BootDecision::Hold {
                message: format!(
                    "This machine's server ({}) runs on the Xen host now. Switch this machine off: its old disk \
                     must not start a second one.",
                    record.name
                ),
            });
        }
        let wanted = self
            .known
            .get(&mac)
            .and_then(|machine| machine.name.as_ref());
        let facts = self
            .store
            .menu(mac, wanted, Timestamp::now())
            .or_else(|error| match self.store.last_menu(mac) {
                Ok(Some(facts)) => {
                    // The file system is full, or cannot be written. An older token is as good.
                    eprintln!("{mac}: given the token it had before: {error}");
                    Ok(facts)
                }
                _ => Err(error),
            })?;
        Ok(BootDecision::Agent {
            append: BootArgs::render(facts.shelf, &self.hosts, &facts.token),
        })
    }
}

impl Machines for Records {
    fn boot(&self, mac: MacAddr) -> BootDecision {
        match self.decide(mac) {
            Ok(decision) => decision,
            // Its disk must not be started because of our trouble: its server may run as a domain.
            Err(error) => {
                eprintln!("{mac}: held, because its record cannot be used: {error}");
                BootDecision::Hold {
                    message: format!(
                        "The Xen host cannot use its record of this machine, and its server may be running there, so \
                         its disk is not started.\n{error}"
                    ),
                }
            }
        }
    }

    fn seen(&self, mac: MacAddr, event: &BootEvent) {
        eprintln!("{mac}: {event}");
        if let Some(boot) = self.boots.seen(mac, event) {
            eprintln!("{mac}: has booted: {boot}");
        }
        service_manager::status(&format!("last: {mac}: {event}"));
    }

    fn noticed(&self, notice: &Notice) {
        eprintln!("p2v serve: {notice}");
        if let Notice::Serving { .. } = notice {
            service_manager::ready(&notice.to_string());
        }
    }
}

/// Serves until SIGINT or SIGTERM.
pub fn run(settings: Settings) -> Result<()> {
    let store = Store::open_for_boot_service(&settings.state)?;
    let hosts = hosts(&settings)?;
    let as_user = privileges::user(settings.serve.user.as_deref())?;
    if let Some(user) = &as_user {
        let leases = &settings.serve.state_dir;
        fs::create_dir_all(leases).with_context(|| format!("cannot make {}", leases.display()))?;
        privileges::give(leases, user)?;
        privileges::give(store.machines(), user)?;
        privileges::go_on_as(user)?;
        fs::read_dir(store.machines()).with_context(|| {
            format!(
                "the user {} cannot use {}: let it pass, with `chmod o+x` on each directory above",
                user.name,
                store.machines().display()
            )
        })?;
    }
    match store.list() {
        Ok(listing) => {
            for error in &listing.unreadable {
                eprintln!("p2v serve: {error}");
            }
        }
        // Served all the same: machines are held, rather than left to their own disks.
        Err(error) => eprintln!("p2v serve: {error}"),
    }
    let machines = Arc::new(Records {
        store,
        hosts,
        known: settings.machines,
        boots: Boots::keep(&settings.serve.state_dir),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stopped = async {
            // Without signals it serves until it is killed.
            if signalled().await.is_err() {
                std::future::pending::<()>().await;
            }
            service_manager::stopping();
        };
        tokio::select! {
            end = p2v_netboot::serve(settings.serve, machines, stopped) => end,
            () = service_manager::keep_alive() => Ok(()),
        }
    })?;
    eprintln!("p2v serve: stopped");
    Ok(())
}

/// The addresses that agents answer: this host's, and those of the settings.
pub fn hosts(settings: &Settings) -> Result<Vec<MacAddr>> {
    let mut hosts = Vec::new();
    for iface in std::iter::once(&settings.iface).chain(&settings.more_ifaces) {
        hosts.push(mac_of(iface)?);
    }
    for mac in &settings.hosts {
        if !hosts.contains(mac) {
            hosts.push(*mac);
        }
    }
    Ok(hosts)
}

/// Returns on SIGINT or SIGTERM.
pub async fn signalled() -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// The MAC address of an interface: what its AoE frames come from.
fn mac_of(iface: &str) -> Result<MacAddr> {
    if iface.contains('/') {
        bail!("`{iface}` is not the name of a network interface");
    }
    let path = format!("/sys/class/net/{iface}/address");
    let text = fs::read_to_string(&path).with_context(|| {
        format!(
            "there is no network interface {iface} (`ip link` lists them; --iface names another)"
        )
    })?;
    text.trim()
        .parse()
        .with_context(|| format!("{path} holds no MAC address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn records() -> (tempfile::TempDir, Records) {
        let dir = tempfile::tempdir().unwrap();
        let records = Records {
            store: Store::open(dir.path()).unwrap(),
            hosts: vec![mac(0xaa)],
            known: BTreeMap::new(),
            boots: Boots::keep(dir.path()),
        };
        (dir, records)
    }

    fn mac(n: u8) -> MacAddr {
        MacAddr::new(0x52, 0x54, 0, 0, 0, n)
    }

    fn record(dir: &tempfile::TempDir, name: &str) -> PathBuf {
        dir.path().join(format!("machines/{name}.json"))
    }

    fn append(decision: BootDecision) -> String {
        match decision {
            BootDecision::Agent { append } => append,
            other => panic!("{other:?}"),
        }
    }

    fn held(decision: BootDecision) -> String {
        match decision {
            BootDecision::Hold { message } => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_bad_record_holds_its_machine_and_no_other() {
        let (dir, records) = records();
        for n in 1..=4 {
            append(records.boot(mac(n)));
        }
        fs::write(record(&dir, "e2"), "{").unwrap();
        let text = fs::read_to_string(record(&dir, "e4")).unwrap();
        let shared = text.replace("\"shelf\": 4", "\"shelf\": 3");
        fs::write(record(&dir, "e4"), shared).unwrap();
        assert!(append(records.boot(mac(1))).contains("p2v.shelf=1 "));
        assert!(held(records.boot(mac(2))).contains("e2.json"));
        for n in [3, 4] {
            assert!(held(records.boot(mac(n))).contains("shelf 3"));
        }
    }

    #[test]
    fn a_host_that_cannot_write_gives_the_token_again() {
        let (dir, records) = records();
        let before = append(records.boot(mac(1)));
        // As with a full file system, every write fails: root may write anywhere else.
        let lock = dir.path().join("machines/.lock");
        fs::remove_file(&lock).unwrap();
        fs::create_dir(&lock).unwrap();
        assert_eq!(append(records.boot(mac(1))), before);
        assert!(held(records.boot(mac(2))).contains(".lock"));
    }

    #[test]
    fn a_machine_that_is_released_stays_where_it_is() {
        let (_dir, records) = records();
        append(records.boot(mac(1)));
        records
            .store
            .update(&"e1".parse().unwrap(), |record| {
                record.state = State::Released;
                Ok::<_, StoreError>(())
            })
            .unwrap();
        assert!(held(records.boot(mac(1))).contains("Switch this machine off"));
    }
}
