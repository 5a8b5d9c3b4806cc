//! Our target, as `p2v-agent export` runs it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail};
use p2v_aoe::blade::{Durability, Event, Events, Export, FileDisk, Target, TargetConfig};
use p2v_aoe::wire::{PacketSocket, Wire};
use p2v_contract::Address;
use p2v_contract::operation::Access;

use crate::scene::{SHELF, SLOT};

struct Ignore;

impl Events for Ignore {
    fn event(&self, _: Event) {}
}

/// Serves a file: interface, file.
pub fn run(arguments: &[String]) -> Result<()> {
    let [iface, file] = arguments else {
        bail!("target IFACE FILE");
    };
    let export = Export {
        address: Address::new(SHELF, SLOT),
        disk: Arc::new(FileDisk::open(Path::new(file))?),
        identify: Default::default(),
        access: Access::ReadWrite,
        durability: Durability::Stable,
    };
    let target = Target::new(
        TargetConfig {
            exports: vec![export],
            hosts: Vec::new(),
            keys: vec![],
            inventory: Vec::new(),
            boot_id: String::new(),
        },
        Arc::new(Ignore),
    )?;
    let wire: Arc<dyn Wire> = Arc::new(PacketSocket::open_with_ring(iface)?);
    target.serve(&[wire], &AtomicBool::new(false))?;
    Ok(())
}
