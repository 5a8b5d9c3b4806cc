//! One transfer as a state machine without a socket: what is sent, and what comes after what is heard.

use bytes::Bytes;

use super::options::Granted;
use super::packet::{self, Answer, DATA_HEADER};
use super::window::{Acked, Window};

/// Time-outs in a row that are each answered by sending the same packets again.
const EACH_TIME: u32 = 5;
/// Time-outs in a row after which the client is given up: a switch may block a port for half a minute, and ROMs ask for
/// longer than that. Meanwhile packets are sent again when the client asks, or when its silence has doubled: after a
/// power cycle a machine receives little that was meant for its earlier boot.
const GIVEN_UP_AFTER: u32 = 64;

/// A file on its way to a client.
#[derive(Debug)]
pub struct Transfer {
    /// The acknowledgement of the options, until the client has acknowledged that.
    options: Option<Vec<u8>>,
    window: Window,
    /// In a row, for want of an answer.
    retries: u32,
    /// Whether the window may be sent again at the client's word: once is enough, or every repeated
    /// acknowledgement would double what is on the wire.
    may_repeat: bool,
    /// It has said since the last progress that it lacks what was sent.
    lacks_it: bool,
}

/// What comes after a datagram of the client's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// [`Transfer::packets`] goes out, and the client has its time anew.
    Send,
    /// Nothing.
    Nothing,
    /// The client has all of the file.
    Done,
    /// The client stops, for this reason.
    Stopped(String),
}

impl Transfer {
    /// Nothing was sent yet.
    pub fn new(file: Bytes, granted: &Granted) -> Transfer {
        let window = Window::new(file, granted.block_size(), granted.window());
        Transfer {
            options: packet::options(granted),
            may_repeat: window.is_wide(),
            window,
            retries: 0,
            lacks_it: false,
        }
    }

    /// What is in flight, or goes out next: each packet in two parts.
    pub fn packets(&self) -> impl Iterator<Item = (Header<'_>, &[u8])> {
        let (options, blocks) = match &self.options {
            Some(packet) => (Some((Header::Options(packet), &[][..])), None),
            None => (None, Some(self.window.packets())),
        };
        let blocks = blocks.into_iter().flatten();
        let blocks = blocks.map(|(header, data)| (Header::Data(header), data));
        options.into_iter().chain(blocks)
    }

    /// A datagram of the client's.
    pub fn hear(&mut self, datagram: &[u8]) -> Heard {
        let block = match Answer::parse(datagram) {
            Answer::Ack(block) => block,
            Answer::Error(text) => return Heard::Stopped(text),
            Answer::Other => return Heard::Nothing,
        };
        if self.options.is_some() {
            if block != 0 {
                return Heard::Nothing;
            }
            self.options = None;
        } else {
            match self.window.acknowledge(block) {
                Acked::Some if self.window.is_done() => return Heard::Done,
                Acked::Some => {}
                Acked::FirstLost => {
                    self.lacks_it = true;
                    return match std::mem::take(&mut self.may_repeat) {
                        true => Heard::Send,
                        false => Heard::Nothing,
                    };
                }
                Acked::Other => return Heard::Nothing,
            }
        }
        self.retries = 0;
        self.lacks_it = false;
        self.allow_repeat();
        Heard::Send
    }

    /// The client has not answered in time.
    pub fn late(&mut self) -> Late {
        self.retries += 1;
        self.allow_repeat();
        match self.retries {
            GIVEN_UP_AFTER.. => Late::GiveUp,
            // The client most likely has the file, and is booting it.
            late if late > EACH_TIME && self.has_most_likely_all() => Late::GiveUp,
            late if late <= EACH_TIME || late.is_power_of_two() => Late::Send,
            _ => Late::Wait,
        }
    }

    /// With one block at a time, a repeated acknowledgement must not be answered (RFC 1123, 4.2.3.1, the
    /// Sorcerer's Apprentice); with a window it is how a client says that its first block is missing (RFC 7440), and
    /// after a silence that it is there again.
    fn allow_repeat(&mut self) {
        self.may_repeat = self.window.is_wide() || self.retries > EACH_TIME;
    }

    /// The file's end is in flight, and the client has not said that it lacks it. A client that boots the file may not
    /// acknowledge the end, or the acknowledgement was lost.
    pub fn has_most_likely_all(&self) -> bool {
        self.options.is_none() && self.window.has_end() && !self.lacks_it
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.window.file_size()
    }

    /// Bytes of the file that the client has acknowledged.
    pub fn bytes_acked(&self) -> u64 {
        self.window.bytes_acked()
    }
}

/// What comes after a client's time has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// [`Transfer::packets`] goes out again.
    Send,
    /// Nothing: it has its time anew.
    Wait,
    /// The client is given up.
    GiveUp,
}

/// How a packet begins.
#[derive(Debug, PartialEq, Eq)]
pub enum Header<'t> {
    /// A whole packet.
    Options(&'t [u8]),
    /// Data follows.
    Data([u8; DATA_HEADER]),
}

impl Header<'_> {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Header::Options(packet) => packet,
            Header::Data(header) => header,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::{Asked, Limits};
    use super::*;

    const LIMITS: Limits = Limits {
        block_size: 8,
        window: 4,
    };

    fn transfer(blocks: usize, window: Option<u16>) -> Transfer {
        let asked = Asked {
            block_size: window.map(|_| 8),
            window,
            ..Asked::default()
        };
        let block = if window.is_some() { 8 } else { 512 };
        let file = Bytes::from(vec![7; block * blocks - 1]);
        Transfer::new(file.clone(), &asked.grant(LIMITS, file.len()))
    }

    fn ack(block: u16) -> [u8; 4] {
        let [high, low] = block.to_be_bytes();
        [0, 4, high, low]
    }

    /// Opcode and number of what goes out.
    fn packets(transfer: &Transfer) -> Vec<[u8; 4]> {
        let start = |header: Header<'_>| *header.bytes().first_chunk().unwrap();
        transfer
            .packets()
            .map(|(header, _)| start(header))
            .collect()
    }

    #[test]
    fn options_are_acknowledged_before_anything_else_is_sent() {
        let mut transfer = transfer(5, Some(4));
        assert_eq!(packets(&transfer), [*b"\0\x06bl"]);
        assert_eq!(transfer.hear(&ack(1)), Heard::Nothing);
        assert_eq!(transfer.hear(&ack(0)), Heard::Send);
        assert_eq!(packets(&transfer), [1, 2, 3, 4].map(|n| [0, 3, 0, n]));
        assert_eq!(transfer.hear(&ack(3)), Heard::Send);
        assert_eq!(packets(&transfer), [4, 5].map(|n| [0, 3, 0, n]));
        assert_eq!(transfer.hear(&ack(5)), Heard::Done);
    }

    #[test]
    fn an_error_of_the_clients_ends_it_at_once() {
        let mut transfer = transfer(5, Some(4));
        let aborted = Heard::Stopped("TFTP Aborted".to_owned());
        assert_eq!(transfer.hear(b"\0\x05\0\0TFTP Aborted"), aborted);
    }

    #[test]
    fn a_lost_first_block_is_sent_again_at_once_but_once_and_only_in_a_window() {
        let mut wide = transfer(9, Some(4));
        assert_eq!(wide.hear(&ack(0)), Heard::Send);
        assert_eq!(
            wide.hear(&ack(0)),
            Heard::Send,
            "the client says that block 1 is missing"
        );
        assert_eq!(
            wide.hear(&ack(0)),
            Heard::Nothing,
            "it says so for each of the others"
        );
        assert_eq!(wide.late(), Late::Send);
        assert_eq!(
            wide.hear(&ack(0)),
            Heard::Send,
            "after a time-out that was sent again"
        );
        let mut narrow = transfer(9, None);
        assert_eq!(narrow.hear(&ack(1)), Heard::Send);
        assert_eq!(
            narrow.hear(&ack(1)),
            Heard::Nothing,
            "the Sorcerer's Apprentice"
        );
        assert_eq!(packets(&narrow), [[0, 3, 0, 2]]);
    }

    #[test]
    fn a_silent_client_is_sent_the_same_less_and_less_and_given_up() {
        let mut transfer = transfer(3, None);
        let lates = (0..GIVEN_UP_AFTER).map(|_| transfer.late());
        let lates = (1..).zip(lates).collect::<Vec<(u32, Late)>>();
        let those = |kind| {
            let of_it = lates.iter().filter(move |(_, late)| *late == kind);
            of_it.map(|(seconds, _)| *seconds).collect::<Vec<_>>()
        };
        assert_eq!(those(Late::Send), [1, 2, 3, 4, 5, 8, 16, 32]);
        assert_eq!(those(Late::GiveUp), [GIVEN_UP_AFTER]);
    }

    #[test]
    fn who_answers_has_all_its_time_again() {
        let mut transfer = transfer(4, None);
        for block in [1, 2] {
            assert!((1..GIVEN_UP_AFTER).all(|_| transfer.late() != Late::GiveUp));
            assert_eq!(transfer.hear(&ack(block)), Heard::Send);
        }
        assert_eq!(transfer.late(), Late::Send);
        assert_eq!(transfer.bytes_acked(), 1024);
    }

    #[test]
    fn who_asks_again_after_a_silence_is_answered_at_once() {
        let mut transfer = transfer(4, None);
        assert_eq!(transfer.hear(&ack(1)), Heard::Send);
        assert!((0..EACH_TIME).all(|_| transfer.late() == Late::Send));
        assert_eq!(transfer.hear(&ack(1)), Heard::Nothing);
        assert_eq!(transfer.late(), Late::Wait);
        assert_eq!(transfer.hear(&ack(1)), Heard::Send);
        assert_eq!(transfer.hear(&ack(1)), Heard::Nothing, "once");
        assert_eq!(transfer.hear(&ack(2)), Heard::Send);
        assert_eq!(transfer.hear(&ack(2)), Heard::Nothing);
    }

    #[test]
    fn a_silence_at_the_end_is_not_waited_out() {
        let mut transfer = transfer(2, None);
        assert_eq!(transfer.hear(&ack(1)), Heard::Send);
        assert!((0..EACH_TIME).all(|_| transfer.late() == Late::Send));
        assert_eq!(transfer.late(), Late::GiveUp);
    }

    #[test]
    fn who_says_that_it_lacks_the_end_is_waited_for() {
        let mut transfer = transfer(2, None);
        assert_eq!(transfer.hear(&ack(1)), Heard::Send);
        assert!(transfer.has_most_likely_all());
        assert_eq!(transfer.hear(&ack(1)), Heard::Nothing);
        assert!(!transfer.has_most_likely_all());
        assert!((1..GIVEN_UP_AFTER).all(|_| transfer.late() != Late::GiveUp));
    }

    #[test]
    fn all_is_sent_once_the_end_is_in_flight() {
        let mut transfer = transfer(6, Some(4));
        for (block, is_all_sent) in [(0, false), (1, false), (2, true)] {
            assert!(!transfer.has_most_likely_all(), "{block}");
            assert_eq!(transfer.hear(&ack(block)), Heard::Send);
            assert_eq!(transfer.has_most_likely_all(), is_all_sent, "{block}");
        }
        assert_eq!((transfer.bytes_acked(), transfer.size()), (16, 47));
    }
}
