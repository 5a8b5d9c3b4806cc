//! `lab-target export --shelf N --slot N --iface NAME [--fast] DISK`: the target engine on a disk of
//! this machine, read-write from the start, until it is killed.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use p2v_aoe::Address;
use p2v_aoe::ata::Identify;
use p2v_aoe::target::{
    Durability, Event, Events, Export, FileDisk, Target, TargetConfig, announce, conflicts,
};
use p2v_aoe::vendor::Access;
use p2v_aoe::wire::{PacketSocket, Wire};

fn main() -> ExitCode {
    match export() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-target: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Said;

impl Events for Said {
    fn event(&self, event: Event) {
        println!("{event:?}");
    }
}

fn export() -> Result<()> {
    let (mut shelf, mut slot, mut iface, mut path) = (0u16, 0u8, String::new(), String::new());
    let mut durability = Durability::Stable;
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some("export") {
        bail!("export --shelf N --slot N --iface NAME [--fast] DISK");
    }
    while let Some(word) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{word} of what?"));
        match word.as_str() {
            "--shelf" => shelf = value()?.parse()?,
            "--slot" => slot = value()?.parse()?,
            "--iface" => iface = value()?,
            "--fast" => durability = Durability::Fast,
            _ => path = word,
        }
    }
    let address = Address::new(shelf, slot);
    let disk = FileDisk::open(Path::new(&path)).with_context(|| format!("cannot open {path}"))?;
    let target = Target::new(
        TargetConfig {
            exports: vec![Export {
                address,
                identify: Identify {
                    sectors: p2v_aoe::target::Disk::sectors(&disk),
                    model: "lab".into(),
                    serial: "1".into(),
                    firmware: "1".into(),
                    physical_sector: 512,
                },
                disk: Arc::new(disk),
                access: Access::ReadWrite,
                durability,
            }],
            hosts: Vec::new(),
            token: None,
            inventory: b"{}".to_vec(),
            boot_id: String::new(),
        },
        Arc::new(Said),
    )?;
    let wire = PacketSocket::open_with_ring(&iface)?;
    if let Some(conflict) = conflicts(&wire, &[address], 3, Duration::from_millis(300))?.first() {
        bail!("{conflict}");
    }
    let mut wire: Arc<dyn Wire> = Arc::new(wire);
    println!("exporting {address}");
    loop {
        // Not heard while the link is down: then initiators ask again by themselves.
        let _ = announce(&*wire, &[address]);
        if let Err(error) = target.serve(&[wire.clone()], &AtomicBool::new(false)) {
            println!("serving on {iface} ended: {error}");
        }
        wire = Arc::new(PacketSocket::open_with_ring(&iface)?);
    }
}
