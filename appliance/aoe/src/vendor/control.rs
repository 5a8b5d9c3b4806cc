//! Orders to the machine: what they ask for, and by what the agent knows who may give them.

use pnet::util::MacAddr;

use crate::address::Address;
use crate::token::Token;

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

/// A control request's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// The argument byte of Access or Finish.
    pub argument: u8,
    /// Grows with every control request of one boot.
    pub counter: u64,
    /// See [`control_tag`].
    pub tag: [u8; 32],
}

/// The keyed BLAKE3 that authorises a control request: of the text `p2v control 1`, the length (u32)
/// and the bytes of the inventory's `boot_id`, the sender's MAC, shelf, slot, operation, argument and
/// counter.
pub fn control_tag(
    token: &Token,
    boot_id: &str,
    sender: MacAddr,
    target: Address,
    operation: u8,
    argument: u8,
    counter: u64,
) -> blake3::Hash {
    blake3::Hasher::new_keyed(token.as_bytes())
        .update(b"p2v control 1")
        .update(&(boot_id.len() as u32).to_be_bytes())
        .update(boot_id.as_bytes())
        .update(&sender.octets())
        .update(&target.shelf.to_be_bytes())
        .update(&[target.slot, operation, argument])
        .update(&counter.to_be_bytes())
        .finalize()
}

#[cfg(test)]
mod tests {
    use super::super::op;
    use super::*;

    #[test]
    fn a_control_tag_holds_for_one_sender_target_operation_argument_and_counter() {
        let token = Token::from_bytes([1; 32]);
        let (host, other) = (
            MacAddr::new(2, 0, 0, 0, 0, 1),
            MacAddr::new(2, 0, 0, 0, 0, 2),
        );
        let target = Address::new(7, 0);
        let tag = control_tag(&token, "boot 1", host, target, op::ACCESS, 2, 5);
        assert_ne!(
            tag,
            control_tag(&token, "boot 2", host, target, op::ACCESS, 2, 5)
        );
        assert_ne!(
            tag,
            control_tag(
                &Token::from_bytes([2; 32]),
                "boot 1",
                host,
                target,
                op::ACCESS,
                2,
                5
            )
        );
        assert_ne!(
            tag,
            control_tag(&token, "boot 1", other, target, op::ACCESS, 2, 5)
        );
        assert_ne!(
            tag,
            control_tag(&token, "boot 1", host, Address::new(7, 1), op::ACCESS, 2, 5)
        );
        assert_ne!(
            tag,
            control_tag(&token, "boot 1", host, target, op::FINISH, 2, 5)
        );
        assert_ne!(
            tag,
            control_tag(&token, "boot 1", host, target, op::ACCESS, 1, 5)
        );
        assert_ne!(
            tag,
            control_tag(&token, "boot 1", host, target, op::ACCESS, 2, 6)
        );
    }
}
