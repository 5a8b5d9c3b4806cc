//! `p2v serve`: the netboot service, with the machine records as its policy.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use p2v_aoe::MacAddr;
use p2v_aoe::cmdline::BootArgs;
use p2v_dom0::{State, Store, Timestamp};
use p2v_netboot::{BootDecision, BootEvent, Machines, Notice};
use tokio::signal::unix::{SignalKind, signal};

use crate::settings::{Machine, Settings};

/// The machine records, asked by the netboot service.
struct Records {
    store: Store,
    /// Addresses that the agents shall answer.
    hosts: Vec<MacAddr>,
    known: BTreeMap<MacAddr, Machine>,
}

impl Machines for Records {
    fn boot(&self, mac: MacAddr) -> BootDecision {
        match self.store.by_mac(mac) {
            Ok(Some(record)) if record.state == State::Released => {
                return BootDecision::Hold {
                    message: format!(
                        "This machine's server ({}) runs on the Xen host now. Switch this machine off: its old disk \
                         must not start a second one.",
                        record.name
                    ),
                };
            }
            Ok(_) => {}
            Err(error) => {
                return BootDecision::Ignore {
                    why: error.to_string(),
                };
            }
        }
        let wanted = self
            .known
            .get(&mac)
            .and_then(|machine| machine.name.as_ref());
        match self.store.menu(mac, wanted, Timestamp::now()) {
            Ok(facts) => BootDecision::Agent {
                append: BootArgs::render(facts.shelf, &self.hosts, &facts.token),
            },
            Err(error) => BootDecision::Ignore {
                why: error.to_string(),
            },
        }
    }

    fn seen(&self, mac: MacAddr, event: &BootEvent) {
        eprintln!("{mac}: {event}");
    }

    fn noticed(&self, notice: &Notice) {
        eprintln!("p2v serve: {notice}");
    }
}

/// Serves until SIGINT or SIGTERM.
pub fn run(settings: Settings) -> Result<()> {
    let store = Store::open(&settings.state)?;
    let listing = store.list()?;
    for error in &listing.unreadable {
        eprintln!("p2v serve: {error}");
    }
    let mut hosts = vec![mac_of(&settings.iface)?];
    hosts.extend(
        settings
            .hosts
            .iter()
            .filter(|mac| !hosts.contains(mac))
            .copied()
            .collect::<Vec<_>>(),
    );
    let machines = Arc::new(Records {
        store,
        hosts,
        known: settings.machines,
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
        };
        p2v_netboot::serve(settings.serve, machines, stopped).await
    })?;
    eprintln!("p2v serve: stopped");
    Ok(())
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
