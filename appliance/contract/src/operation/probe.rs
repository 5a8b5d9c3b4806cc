//! Probe: the question whether long frames arrive.

use super::HEAD_LEN;
use crate::bytes::{Short, fixed};

/// Bytes of a Probe's body without padding.
pub const PROBE_LEN: usize = HEAD_LEN + 12;

/// The fields of Probe, in requests and replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// False: a question; true: what came of it.
    pub confirm: bool,
    /// Bytes of the body of the question and of its reply: at least [`PROBE_LEN`].
    pub length: u16,
    /// In the reply to a question: what to confirm with.
    pub word: u64,
}

impl Probe {
    pub(super) fn parse(fields: &[u8]) -> Result<Option<Probe>, Short> {
        let (&[stage, _, l0, l1], rest) = fixed::<4>(fields)?;
        let probe = Probe {
            confirm: stage == 2,
            length: u16::from_be_bytes([l0, l1]),
            word: u64::from_be_bytes(*fixed(rest)?.0),
        };
        let long_enough = probe.confirm || fields.len() + HEAD_LEN >= usize::from(probe.length);
        let sound = matches!(stage, 1 | 2) && usize::from(probe.length) >= PROBE_LEN;
        Ok((sound && long_enough).then_some(probe))
    }

    /// Appends the fields to an operation code's four bytes, and the padding of a question.
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend([1 + u8::from(self.confirm), 0]);
        bytes.extend(self.length.to_be_bytes());
        bytes.extend(self.word.to_be_bytes());
        if !self.confirm {
            bytes.resize(usize::from(self.length).max(bytes.len()), 0);
        }
    }
}
