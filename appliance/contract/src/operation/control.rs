//! Orders to the machine: what they ask for, and by what the agent knows who may give them.

use pnet::util::MacAddr;

use crate::address::Address;
use crate::key::{SIGNATURE_LEN, SecretKey};

/// State of an export.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Access {
    /// Writes are refused.
    ReadOnly = 1,
    /// Writes go to the disk.
    ReadWrite = 2,
    /// Neither reads nor writes are answered: a domain runs on the disk, and the agent was started anew. The
    /// Linux driver keeps a request that gets no answer, and fails one that gets a wrong one. An agent can only
    /// begin with this; no order asks for it.
    Waiting = 3,
}

impl Access {
    /// The state that an argument byte orders.
    pub fn from_argument(argument: u8) -> Option<Access> {
        match argument {
            1 => Some(Access::ReadOnly),
            2 => Some(Access::ReadWrite),
            _ => None,
        }
    }
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Access::ReadOnly => "read-only",
            Access::ReadWrite => "READ-WRITE",
            Access::Waiting => "WAITING",
        })
    }
}

/// How the old machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Finish {
    /// Power off.
    PowerOff = 1,
    /// Restart, so that it boots from whatever its firmware finds.
    Restart = 2,
}

impl Finish {
    /// What an argument byte asks for.
    pub fn from_argument(argument: u8) -> Option<Finish> {
        match argument {
            1 => Some(Finish::PowerOff),
            2 => Some(Finish::Restart),
            _ => None,
        }
    }
}

/// Whom a disk is reserved for: reads and writes of others get an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reservation {
    /// For the stations of the order.
    Take = 1,
    /// For nobody.
    End = 2,
}

impl Reservation {
    /// What an argument byte asks for.
    pub fn from_argument(argument: u8) -> Option<Reservation> {
        match argument {
            1 => Some(Reservation::Take),
            2 => Some(Reservation::End),
            _ => None,
        }
    }
}

/// A control request's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// The argument byte of Access, Finish or Reserve.
    pub argument: u8,
    /// Grows with every control request of one host to one start of the agent.
    pub counter: u64,
    /// Of [`Order::text`].
    pub signature: [u8; SIGNATURE_LEN],
}

/// All that a signature of an order is for: it holds for one start of the agent, one sender, target, operation,
/// argument and counter, and for these stations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order<'a> {
    /// The inventory's `boot_id`.
    pub boot_id: &'a str,
    /// Who sends it.
    pub sender: MacAddr,
    /// For which disk.
    pub target: Address,
    /// One of [`super::op`].
    pub operation: u8,
    /// As in [`Control`].
    pub argument: u8,
    /// As in [`Control`].
    pub counter: u64,
    /// For whom a disk is reserved; else none.
    pub stations: &'a [MacAddr],
}

impl Order<'_> {
    /// What is signed: the text `p2v order 1`, the length (u32) and the bytes of the start's id, the sender's MAC, shelf,
    /// slot, operation, argument, counter, and the stations.
    pub fn text(&self) -> Vec<u8> {
        let mut text = b"p2v order 1".to_vec();
        text.extend((self.boot_id.len() as u32).to_be_bytes());
        text.extend(self.boot_id.as_bytes());
        text.extend(self.sender.octets());
        text.extend(self.target.shelf.to_be_bytes());
        text.extend([self.target.slot, self.operation, self.argument]);
        text.extend(self.counter.to_be_bytes());
        for station in self.stations {
            text.extend(station.octets());
        }
        text
    }

    /// The fields of the request, signed with `key`.
    pub fn signed(&self, key: &SecretKey) -> Control {
        Control {
            argument: self.argument,
            counter: self.counter,
            signature: key.sign(&self.text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::op;
    use super::*;

    #[test]
    fn each_order_has_a_text_of_its_own() {
        let (host, other) = (
            MacAddr::new(2, 0, 0, 0, 0, 1),
            MacAddr::new(2, 0, 0, 0, 0, 2),
        );
        let order = Order {
            boot_id: "start 1",
            sender: host,
            target: Address::new(7, 0),
            operation: op::ACCESS,
            argument: 2,
            counter: 5,
            stations: &[],
        };
        let others = [
            Order {
                boot_id: "start 2",
                ..order
            },
            Order {
                sender: other,
                ..order
            },
            Order {
                target: Address::new(7, 1),
                ..order
            },
            Order {
                operation: op::FINISH,
                ..order
            },
            Order {
                argument: 1,
                ..order
            },
            Order {
                counter: 6,
                ..order
            },
            Order {
                stations: &[other],
                ..order
            },
        ];
        for other in others {
            assert_ne!(order.text(), other.text(), "{other:?}");
        }
    }
}
