//! The host's wire, of which every frame with an order is kept, as anybody who listens on the segment can.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use p2v_aoe::frame::{HEADER_LEN, command};
use p2v_aoe::wire::{OpenError, PacketSocket, Wire};
use p2v_contract::MacAddr;
use p2v_contract::operation::op;

pub struct Recorded {
    socket: PacketSocket,
    orders: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Recorded {
    pub fn open(name: &str, orders: &Arc<Mutex<Vec<Vec<u8>>>>) -> Result<Recorded, OpenError> {
        Ok(Recorded {
            socket: PacketSocket::open(name)?,
            orders: Arc::clone(orders),
        })
    }
}

impl Wire for Recorded {
    fn mac(&self) -> MacAddr {
        self.socket.mac()
    }

    fn mtu(&self) -> usize {
        self.socket.mtu()
    }

    fn receive(&self, timeout: Duration, each: &mut dyn FnMut(&[u8])) -> io::Result<usize> {
        self.socket.receive(timeout, each)
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.socket.readiness()
    }

    fn send_parts(&self, frames: &[[&[u8]; 2]]) -> io::Result<()> {
        for frame in frames {
            let whole = frame.concat();
            let is_order = whole[19] == command::P2V
                && matches!(whole[HEADER_LEN], op::ACCESS | op::FINISH | op::RESERVE);
            if is_order {
                self.orders.lock().unwrap().push(whole);
            }
        }
        self.socket.send_parts(frames)
    }
}
