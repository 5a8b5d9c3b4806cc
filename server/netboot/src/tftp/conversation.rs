//! A transfer and its socket.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use async_tftp::packet::Error;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send, sendmsg};
use tokio::sync::mpsc::UnboundedSender;

use super::packet;
use super::registry::Place;
use super::transfer::{Heard, Late, Transfer};
use super::workers::Workers;

/// What a client has to answer before it is sent the same again.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of a client's datagram that are looked at: an acknowledgement has 4, an error a text.
const HEARD_MAX: usize = 1024;

/// How a transfer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The client has all of the file.
    Complete,
    /// As far as can be known: all was sent, and it is gone, or asks for something else. It may not have acknowledged
    /// the end, or that was lost.
    EndUnacknowledged,
    /// The client stopped it, for this reason.
    Stopped(String),
    /// The client fell silent, or began another transfer from the same port.
    Silent,
    /// The system failed it.
    Failed(String),
}

/// A transfer that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub peer: SocketAddr,
    /// The file's name, as it was asked for.
    pub name: String,
    pub outcome: Outcome,
    /// Bytes of the file that the client has.
    pub bytes: u64,
    /// From the request on.
    pub elapsed: Duration,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The client was sent something, and has its time.
    Clients,
    /// What came changed nothing.
    Still,
    /// The transfer is over.
    Over,
}

/// Its end is reported when it is dropped.
pub(super) struct Conversation {
    /// Connected: the kernel keeps out what others send, and tells when the client has closed its port.
    socket: Arc<UdpSocket>,
    transfer: Transfer,
    place: Place,
    name: String,
    outcome: Outcome,
    /// Where its end is reported.
    ends: UnboundedSender<Ended>,
    pub(super) workers: Arc<Workers>,
    /// The client has answered, and it is counted as one that flows.
    flows: bool,
}

impl Conversation {
    /// Nothing is sent yet.
    ///
    /// # Errors
    /// There is no socket for it.
    pub(super) fn open(
        local: SocketAddr,
        name: String,
        transfer: Transfer,
        place: Place,
        ends: UnboundedSender<Ended>,
        workers: Arc<Workers>,
    ) -> io::Result<Box<Conversation>> {
        let socket = UdpSocket::bind(local)?;
        socket.connect(place.peer)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        let socket = Arc::new(socket);
        let parts = transfer
            .packets()
            .next()
            .map(|(header, data)| [header.bytes(), data].concat());
        place.opens(Arc::clone(&socket), parts.unwrap_or_default());
        Ok(Box::new(Conversation {
            socket,
            transfer,
            place,
            name,
            outcome: Outcome::Failed("its thread ended".to_owned()),
            ends,
            workers,
            flows: false,
        }))
    }

    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// The client has answered.
    pub(super) fn flows(&self) -> bool {
        self.flows
    }

    /// Counts it among those that flow; `true` the first time, if so few do that it should have its own thread.
    pub(super) fn is_for_a_thread_of_its_own(&mut self) -> bool {
        !std::mem::replace(&mut self.flows, true) && self.workers.one_more_flows()
    }

    /// Takes in what came, waiting for that for the time that a client has, if `wait`.
    pub(super) fn receive(&mut self, wait: bool) -> Turn {
        let flags = if wait {
            MsgFlags::empty()
        } else {
            MsgFlags::MSG_DONTWAIT
        };
        let mut buffer = [0; HEARD_MAX];
        match recv(self.socket.as_raw_fd(), &mut buffer, flags) {
            // So is woken who waits at the socket of a transfer that is over.
            Ok(0) | Err(_) if self.place.is_stale() => self.gone(Outcome::Silent),
            Ok(len) => self.hear(&buffer[..len]),
            Err(Errno::EAGAIN) if wait => self.late(),
            Err(errno) => self.failed(errno),
        }
    }

    fn hear(&mut self, datagram: &[u8]) -> Turn {
        match self.transfer.hear(datagram) {
            Heard::Nothing => Turn::Still,
            Heard::Stopped(why) => self.over(Outcome::Stopped(why)),
            Heard::Send => {
                self.place.set_silent(false);
                self.place.answered();
                self.send()
            }
            Heard::Done => {
                self.place.answered();
                self.over(Outcome::Complete)
            }
        }
    }

    /// Nothing that was waited for came in time.
    pub(super) fn late(&mut self) -> Turn {
        if self.place.is_stale() {
            return self.gone(Outcome::Silent);
        }
        match self.transfer.late() {
            Late::Send => {}
            Late::Wait => {
                self.place.set_silent(true);
                if std::mem::take(&mut self.flows) {
                    self.workers.one_less_flows();
                }
                return Turn::Clients;
            }
            // It is not told: that could meet the same machine after a power cycle.
            Late::GiveUp => return self.gone(Outcome::Silent),
        }
        let packets = self.transfer.packets();
        let bytes = packets
            .map(|(header, data)| header.bytes().len() + data.len())
            .sum();
        match self.place.may_send(bytes) {
            true => self.send(),
            // It has its time all the same.
            false => Turn::Clients,
        }
    }

    /// Sends what is in flight: one system call for each packet, which takes the data from where the file is.
    pub(super) fn send(&mut self) -> Turn {
        if self.place.is_stale() {
            return self.over(Outcome::Silent);
        }
        let fd = self.socket.as_raw_fd();
        let sent = self.transfer.packets().try_for_each(|(header, data)| {
            self.place.sends(header.bytes().len() + data.len());
            let parts = [IoSlice::new(header.bytes()), IoSlice::new(data)];
            match sendmsg(fd, &parts, &[], MsgFlags::MSG_DONTWAIT, None::<&()>) {
                Err(errno) if !is_loss(errno) => Err(errno),
                _ => Ok(()),
            }
        });
        match sent {
            Ok(()) => Turn::Clients,
            Err(errno) => self.failed(errno),
        }
    }

    /// What the system says of the socket.
    fn failed(&mut self, errno: Errno) -> Turn {
        if is_loss(errno) {
            return Turn::Still;
        }
        if errno == Errno::ECONNREFUSED {
            return self.gone(Outcome::Stopped("its port is closed".to_owned()));
        }
        let error = io::Error::from(errno);
        self.tell(&Error::Msg(error.to_string()));
        self.over(Outcome::Failed(error.to_string()))
    }

    /// Without a word of the client's.
    fn gone(&mut self, before_the_end: Outcome) -> Turn {
        let has_it = self.place.is_proven() && self.transfer.has_most_likely_all();
        self.over(match has_it {
            true => Outcome::EndUnacknowledged,
            false => before_the_end,
        })
    }

    fn over(&mut self, outcome: Outcome) -> Turn {
        self.outcome = outcome;
        Turn::Over
    }

    /// Tells a client that has answered why no more comes: others may not have asked. It is not waited for,
    /// nor sent again.
    fn tell(&self, error: &Error) {
        if self.place.is_proven() {
            let packet = packet::error(error);
            let _ = send(self.socket.as_raw_fd(), &packet, MsgFlags::MSG_DONTWAIT);
        }
    }
}

/// A packet that is lost, as others are: the client did not answer ARP just now, the interface takes nothing, a
/// router or a packet filter lets nothing through.
fn is_loss(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::EAGAIN
            | Errno::ENOBUFS
            | Errno::EMSGSIZE
            | Errno::EPERM
            | Errno::EINTR
    )
}

impl Drop for Conversation {
    fn drop(&mut self) {
        if self.flows {
            self.workers.one_less_flows();
        }
        // Nobody takes it once the server has ended.
        let _ = self.ends.send(Ended {
            peer: self.place.peer,
            name: std::mem::take(&mut self.name),
            outcome: self.outcome.clone(),
            bytes: match self.outcome {
                Outcome::EndUnacknowledged => self.transfer.size(),
                _ => self.transfer.bytes_acked(),
            },
            elapsed: self.place.begun().elapsed(),
        });
    }
}
