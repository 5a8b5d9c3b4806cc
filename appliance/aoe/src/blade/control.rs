//! Who may control the machine: the decision about a signed request, and its memory against
//! replays. One for the whole machine, because the start of the agent is.

use std::sync::Mutex;

use p2v_contract::address::Address;
use p2v_contract::key::{PublicKey, SIGNATURE_LEN};
use p2v_contract::operation::{Control, Order, Status};
use pnet::util::MacAddr;

/// What to do with a control request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// New and authorised: carry it out, then say so with [`ControlState::finished`].
    CarryOut,
    /// The same request again; it was carried out and this was the reply's body.
    Again(Vec<u8>),
    /// The same request again while it is being carried out: its reply will come.
    UnderWay,
    /// Not carried out.
    Refuse(Status),
}

/// The last control request of a host that was authorised.
struct Last {
    sender: MacAddr,
    counter: u64,
    signature: [u8; SIGNATURE_LEN],
    reply: Option<Vec<u8>>,
}

/// The hosts' keys, and the highest counter seen of each.
pub(super) struct ControlState {
    keys: Vec<PublicKey>,
    /// The inventory's: requests for an earlier start of the agent are not ours.
    boot_id: String,
    /// By the key's place.
    last: Mutex<Vec<Option<Last>>>,
}

impl ControlState {
    /// Without a key every control request is refused.
    pub(super) fn new(keys: Vec<PublicKey>, boot_id: String) -> ControlState {
        ControlState {
            last: Mutex::new(keys.iter().map(|_| None).collect()),
            keys,
            boot_id,
        }
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Vec<Option<Last>>> {
        self.last
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Decides, and takes note of the counter if the request is to be carried out.
    pub(super) fn decide(
        &self,
        sender: MacAddr,
        target: Address,
        operation: u8,
        request: &Control,
        stations: &[MacAddr],
    ) -> Decision {
        let order = Order {
            boot_id: &self.boot_id,
            sender,
            target,
            operation,
            argument: request.argument,
            counter: request.counter,
            stations,
        };
        let text = order.text();
        let verifies = |key: &PublicKey| key.verifies(&text, &request.signature);
        let Some(host) = self.keys.iter().position(verifies) else {
            return Decision::Refuse(Status::NotAuthorised);
        };
        let mut all = self.last();
        let last = &mut all[host];
        if let Some(last) = last {
            // One text has one signature, so it is the same request.
            if request.counter == last.counter && request.signature == last.signature {
                return match &last.reply {
                    Some(reply) => Decision::Again(reply.clone()),
                    None => Decision::UnderWay,
                };
            }
            if request.counter <= last.counter {
                return Decision::Refuse(Status::Replayed);
            }
        }
        *last = Some(Last {
            sender,
            counter: request.counter,
            signature: request.signature,
            reply: None,
        });
        Decision::CarryOut
    }

    /// Keeps the reply of this sender's request with this counter, in case it is asked again.
    pub(super) fn finished(&self, sender: MacAddr, counter: u64, reply: &[u8]) {
        let mut all = self.last();
        let mut requests = all.iter_mut().flatten();
        if let Some(last) = requests.find(|l| (l.sender, l.counter) == (sender, counter)) {
            last.reply = Some(reply.to_vec());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2v_contract::key::SecretKey;
    use p2v_contract::operation::op;

    const HOST: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
    const BOOT: &str = "this start";
    const TARGET: Address = Address::new(7, 0);

    fn key(byte: u8) -> SecretKey {
        SecretKey::from_bytes(&[byte; 32])
    }

    fn signed(by: u8, argument: u8, counter: u64) -> Control {
        let order = Order {
            boot_id: BOOT,
            sender: HOST,
            target: TARGET,
            operation: op::ACCESS,
            argument,
            counter,
            stations: &[],
        };
        order.signed(&key(by))
    }

    fn state() -> ControlState {
        ControlState::new(vec![key(1).public(), key(2).public()], BOOT.into())
    }

    fn decide(state: &ControlState, request: &Control) -> Decision {
        state.decide(HOST, TARGET, op::ACCESS, request, &[])
    }

    #[test]
    fn carried_out_once_and_answered_again() {
        let state = state();
        let request = signed(1, 2, 10);
        assert_eq!(decide(&state, &request), Decision::CarryOut);
        assert_eq!(decide(&state, &request), Decision::UnderWay);
        state.finished(HOST, 10, b"done");
        assert_eq!(decide(&state, &request), Decision::Again(b"done".to_vec()));
    }

    #[test]
    fn replays_and_forgeries_are_refused() {
        let state = state();
        let (old, new) = (signed(1, 2, 10), signed(1, 1, 11));
        assert_eq!(decide(&state, &old), Decision::CarryOut);
        assert_eq!(decide(&state, &new), Decision::CarryOut);
        // The recorded request that made the disk writable does not work a second time, nor does another one with a
        // counter that was used.
        let replayed = Decision::Refuse(Status::Replayed);
        assert_eq!(decide(&state, &old), replayed);
        assert_eq!(decide(&state, &signed(1, 2, 11)), replayed);

        let refused = Decision::Refuse(Status::NotAuthorised);
        assert_eq!(decide(&state, &signed(3, 2, 12)), refused);
        let right = signed(1, 2, 12);
        for altered in [
            Control {
                argument: 1,
                ..right
            },
            Control {
                counter: u64::MAX,
                ..right
            },
        ] {
            assert_eq!(decide(&state, &altered), refused);
        }
        let elsewhere = Address::new(7, 1);
        let stranger = MacAddr(2, 0, 0, 0, 0, 9);
        for decision in [
            state.decide(HOST, elsewhere, op::ACCESS, &right, &[]),
            state.decide(HOST, TARGET, op::FINISH, &right, &[]),
            state.decide(stranger, TARGET, op::ACCESS, &right, &[]),
            state.decide(HOST, TARGET, op::ACCESS, &right, &[stranger]),
        ] {
            assert_eq!(decision, refused);
        }
        // What was authorised before the agent was started again.
        let restarted = ControlState::new(vec![key(1).public()], "another start".into());
        assert_eq!(decide(&restarted, &old), refused);
        // None of them used up a counter.
        assert_eq!(decide(&state, &right), Decision::CarryOut);
    }

    #[test]
    fn each_host_has_counters_of_its_own() {
        let state = state();
        assert_eq!(decide(&state, &signed(1, 2, 1000)), Decision::CarryOut);
        assert_eq!(decide(&state, &signed(2, 1, 5)), Decision::CarryOut);
        assert_eq!(
            decide(&state, &signed(1, 1, 999)),
            Decision::Refuse(Status::Replayed)
        );
    }

    #[test]
    fn without_a_key_nothing_is_authorised() {
        let state = ControlState::new(Vec::new(), BOOT.into());
        assert_eq!(
            decide(&state, &signed(1, 2, 1)),
            Decision::Refuse(Status::NotAuthorised)
        );
    }
}
