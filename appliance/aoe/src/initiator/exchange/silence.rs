//! A target that says nothing: whether it is there, how long it is waited for, and who is told.

use std::time::Duration;

use p2v_contract::operation::{Probe, Reply, Request};

use super::{Ask, DiskPatience, Exchange};
use crate::frame::{Header, command};
use crate::initiator::{Error, Silence, TAG_OURS};

impl Exchange {
    /// Asks the target to say that it is there, which it does without its disks: by a question that only the
    /// hosts on its list are answered, and as long as the answers that are waited for.
    pub(super) fn ask_whether_there(&mut self, disk: DiskPatience) {
        let question = Request::Probe(Probe {
            confirm: false,
            length: disk.length,
            word: 0,
        });
        for path in self.paths.iter().filter(|path| !path.gone) {
            let wire = &self.links[path.wire].wire;
            let header =
                Header::request(wire.mac(), path.mac, self.address, command::P2V, TAG_OURS);
            // Where this cannot be sent, the request cannot, and says so.
            let _ = wire.send(&[header.frame(&[&question.to_bytes()])]);
        }
    }

    /// Whether this is the answer to that. Nothing else is in flight that is answered so.
    pub(super) fn says_it_is_there(&self, header: &Header, body: &[u8]) -> bool {
        let Some(disk) = self.disk.filter(|_| header.command == command::P2V) else {
            return false;
        };
        header.error.is_none()
            && body.len() >= usize::from(disk.length)
            && matches!(Reply::parse(body), Ok(Reply::Probe(probe)) if probe.length == disk.length)
    }

    pub(super) fn tell(&mut self, silence: Silence) {
        if let Some(listener) = &mut self.listener {
            listener(silence);
        }
    }

    pub(super) fn silent(&mut self, ask: &Ask<'_>, waited: Duration) -> Error {
        if self.paths.iter().all(|path| path.gone) {
            if let Some(error) = self.broken.take() {
                return error;
            }
        }
        Error::Silent {
            address: self.address,
            mac: self.paths[ask.path.unwrap_or(self.main())].mac,
            what: ask.what,
            waited,
            now: None,
        }
    }
}
