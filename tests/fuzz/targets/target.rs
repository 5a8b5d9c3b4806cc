//! Any frames at a target whose disk is read-only: no panic, and nothing that the disk holds changes.
#![no_main]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use p2v_aoe::ata::Identify;
use p2v_aoe::blade::{Disk, Durability, Event, Events, Export, Target, TargetConfig};
use p2v_aoe::wire::Wire;
use p2v_contract::key::SecretKey;
use p2v_contract::operation::Access;
use p2v_contract::{Address, MacAddr};

struct Untouchable;

impl Disk for Untouchable {
    fn sectors(&self) -> u64 {
        1000
    }
    fn read(&self, _: u64, data: &mut [u8]) -> io::Result<()> {
        data.fill(1);
        Ok(())
    }
    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        panic!("written while read-only");
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn set_writable(&self, _: bool) -> io::Result<()> {
        panic!("made writable without the key");
    }
}

struct Ignore;

impl Events for Ignore {
    fn event(&self, _: Event) {}
}

/// Gives one frame and then ends the service.
struct OneFrame(Mutex<Option<Vec<u8>>>, UnixDatagram);

impl Wire for OneFrame {
    fn mac(&self) -> MacAddr {
        MacAddr::new(2, 0, 0, 0, 0, 7)
    }
    fn mtu(&self) -> usize {
        1500
    }
    fn receive(&self, _: Duration, each: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        match self.0.lock().unwrap().take() {
            Some(frame) => each(&frame),
            None => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        Ok(1)
    }
    fn readiness(&self) -> BorrowedFd<'_> {
        self.1.as_fd()
    }
    fn send_parts(&self, frames: &[[&[u8]; 2]]) -> io::Result<()> {
        let mut lengths = frames.iter().map(|[head, data]| head.len() + data.len());
        assert!(lengths.all(|length| (60..=1514).contains(&length)));
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    static TARGET: OnceLock<Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let export = Export { address: Address::new(0, 0), disk: Arc::new(Untouchable), identify: Identify::default(), access: Access::ReadOnly, durability: Durability::Stable };
        let config = TargetConfig {
            exports: vec![export],
            hosts: vec![],
            keys: vec![SecretKey::from_bytes(&[1; 32]).public()],
            inventory: vec![b' '; 5000],
            boot_id: String::new(),
        };
        Target::new(config, Arc::new(Ignore)).unwrap()
    });
    // The headers that lead somewhere are given; the rest is the fuzzer's.
    let mut frame = vec![2, 0, 0, 0, 0, 7, 2, 0, 0, 0, 0, 1, 0x88, 0xa2, 0x10];
    frame.extend_from_slice(bytes);
    let wire: Arc<dyn Wire> = Arc::new(OneFrame(Mutex::new(Some(frame)), UnixDatagram::unbound().unwrap()));
    let _ = target.serve(&[wire], &AtomicBool::new(false));
});
