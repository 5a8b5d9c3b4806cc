//! An Ethernet segment in memory, with faults on demand, to test the engines on.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pnet::util::MacAddr;

use super::Wire;

/// What goes wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Arrives,
    Lost,
    Doubled,
}

type Ports = Mutex<Vec<(MacAddr, Sender<Vec<u8>>)>>;

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
    frames: Mutex<Receiver<Vec<u8>>>,
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
        let (sender, receiver) = channel();
        self.ports.lock().unwrap().push((mac, sender));
        Arc::new(Station {
            segment: self.clone(),
            mac,
            frames: Mutex::new(receiver),
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
        let frames = self.frames.lock().unwrap();
        let mut count = 0;
        match frames.recv_timeout(timeout) {
            Ok(frame) => {
                each(&frame);
                count += 1;
            }
            Err(RecvTimeoutError::Timeout) => return Ok(0),
            Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        while let Ok(frame) = frames.try_recv() {
            each(&frame);
            count += 1;
        }
        Ok(count)
    }

    fn send(&self, frames: &[Vec<u8>]) -> io::Result<()> {
        for frame in frames {
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
                        let _ = port.send(frame.clone());
                    }
                }
            }
        }
        Ok(())
    }
}
