//! An Ethernet segment in memory, with faults on demand, to test the engines on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pnet::util::MacAddr;

use super::Wire;

/// What goes wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Arrives,
    Lost,
    Doubled,
}

type Ports = Mutex<Vec<(MacAddr, UnixDatagram)>>;

/// The segment.
pub(crate) struct Segment {
    ports: Ports,
    fate: Box<dyn Fn(u64) -> Fate + Send + Sync>,
    sent: AtomicU64,
}

/// A station on it.
pub(crate) struct Station {
    segment: Arc<Segment>,
    mac: MacAddr,
    frames: UnixDatagram,
}

impl Segment {
    /// A segment on which the n-th frame has the fate that `fate` says.
    pub(crate) fn new(fate: impl Fn(u64) -> Fate + Send + Sync + 'static) -> Arc<Segment> {
        Arc::new(Segment {
            ports: Mutex::default(),
            fate: Box::new(fate),
            sent: AtomicU64::new(0),
        })
    }

    pub(crate) fn station(self: &Arc<Self>, mac: MacAddr) -> Arc<Station> {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        for end in [&sender, &receiver] {
            end.set_nonblocking(true).unwrap();
        }
        self.ports.lock().unwrap().push((mac, sender));
        Arc::new(Station {
            segment: self.clone(),
            mac,
            frames: receiver,
        })
    }
}

impl Wire for Station {
    fn mac(&self) -> MacAddr {
        self.mac
    }

    fn mtu(&self) -> usize {
        1500
    }

    fn receive(&self, timeout: Duration, each: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        let timeout = PollTimeout::try_from(timeout).unwrap();
        poll(
            &mut [PollFd::new(self.frames.as_fd(), PollFlags::POLLIN)],
            timeout,
        )?;
        let mut buffer = [0; 2048];
        let mut count = 0;
        while let Ok(length) = self.frames.recv(&mut buffer) {
            each(&buffer[..length]);
            count += 1;
        }
        Ok(count)
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.frames.as_fd()
    }

    fn send_parts(&self, frames: &[[&[u8]; 2]]) -> io::Result<()> {
        for frame in frames.iter().map(|parts| parts.concat()) {
            let copies =
                match (self.segment.fate)(self.segment.sent.fetch_add(1, Ordering::Relaxed)) {
                    Fate::Arrives => 1,
                    Fate::Lost => 0,
                    Fate::Doubled => 2,
                };
            let destination =
                MacAddr::new(frame[0], frame[1], frame[2], frame[3], frame[4], frame[5]);
            for (mac, port) in self.segment.ports.lock().unwrap().iter() {
                if *mac != self.mac && (destination == *mac || destination.is_broadcast()) {
                    for _ in 0..copies {
                        // A full port loses it, as a switch does.
                        let _ = port.send(&frame);
                    }
                }
            }
        }
        Ok(())
    }
}
