//! Who may control the machine: the decision about a signed request, and its memory against
//! replays. One for the whole machine, because the token is.

use std::sync::Mutex;

use pnet::util::MacAddr;

use crate::address::Address;
use crate::token::Token;
use crate::vendor::{Control, Status, control_tag};

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

/// The last control request that was authorised.
struct Last {
    counter: u64,
    tag: blake3::Hash,
    reply: Option<Vec<u8>>,
}

/// The token and the highest counter seen with it.
pub(super) struct ControlState {
    token: Option<Token>,
    /// The inventory's `boot_id`: requests of an earlier start of the agent are not ours.
    boot_id: String,
    last: Mutex<Option<Last>>,
}

impl ControlState {
    /// Without a token every control request is refused.
    pub(super) fn new(token: Option<Token>, boot_id: String) -> ControlState {
        ControlState {
            token,
            boot_id,
            last: Mutex::new(None),
        }
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<Last>> {
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
    ) -> Decision {
        let Some(token) = &self.token else {
            return Decision::Refuse(Status::NotAuthorised);
        };
        let expected = control_tag(
            token,
            &self.boot_id,
            sender,
            target,
            operation,
            request.argument,
            request.counter,
        );
        // `blake3::Hash` compares in constant time.
        if expected != blake3::Hash::from_bytes(request.tag) {
            return Decision::Refuse(Status::NotAuthorised);
        }
        let mut last = self.last();
        if let Some(last) = &*last {
            if request.counter == last.counter && expected == last.tag {
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
            counter: request.counter,
            tag: expected,
            reply: None,
        });
        Decision::CarryOut
    }

    /// Keeps the reply of the request with this counter, in case it is asked again.
    pub(super) fn finished(&self, counter: u64, reply: &[u8]) {
        if let Some(last) = self.last().as_mut().filter(|last| last.counter == counter) {
            last.reply = Some(reply.to_vec());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vendor::op;

    const HOST: MacAddr = MacAddr(2, 0, 0, 0, 0, 1);
    const BOOT: &str = "this start";
    const TARGET: Address = Address::new(7, 0);

    fn signed(token: &Token, argument: u8, counter: u64) -> Control {
        Control {
            argument,
            counter,
            tag: *control_tag(token, BOOT, HOST, TARGET, op::ACCESS, argument, counter).as_bytes(),
        }
    }

    #[test]
    fn carried_out_once_and_answered_again() {
        let token = Token::from_bytes([1; 32]);
        let state = ControlState::new(Some(token.clone()), BOOT.into());
        let request = signed(&token, 2, 10);
        assert_eq!(
            state.decide(HOST, TARGET, op::ACCESS, &request),
            Decision::CarryOut
        );
        assert_eq!(
            state.decide(HOST, TARGET, op::ACCESS, &request),
            Decision::UnderWay
        );
        state.finished(10, b"done");
        assert_eq!(
            state.decide(HOST, TARGET, op::ACCESS, &request),
            Decision::Again(b"done".to_vec())
        );
    }

    #[test]
    fn replays_and_forgeries_are_refused() {
        let token = Token::from_bytes([1; 32]);
        let state = ControlState::new(Some(token.clone()), BOOT.into());
        let (old, new) = (signed(&token, 2, 10), signed(&token, 1, 11));
        assert_eq!(
            state.decide(HOST, TARGET, op::ACCESS, &old),
            Decision::CarryOut
        );
        assert_eq!(
            state.decide(HOST, TARGET, op::ACCESS, &new),
            Decision::CarryOut
        );
        // The recorded request that made the disk writable does not work a second time.
        assert_eq!(
            state.decide(HOST, TARGET, op::ACCESS, &old),
            Decision::Refuse(Status::Replayed)
        );
        // Another request with a counter that was used.
        assert_eq!(
            state.decide(HOST, TARGET, op::ACCESS, &signed(&token, 2, 11)),
            Decision::Refuse(Status::Replayed)
        );

        let refused = Decision::Refuse(Status::NotAuthorised);
        let forged = signed(&Token::from_bytes([2; 32]), 2, 12);
        assert_eq!(state.decide(HOST, TARGET, op::ACCESS, &forged), refused);
        let altered = Control {
            argument: 1,
            ..signed(&token, 2, 12)
        };
        assert_eq!(state.decide(HOST, TARGET, op::ACCESS, &altered), refused);
        let elsewhere = Address::new(7, 1);
        assert_eq!(
            state.decide(HOST, elsewhere, op::ACCESS, &signed(&token, 2, 12)),
            refused
        );
        assert_eq!(
            state.decide(HOST, TARGET, op::FINISH, &signed(&token, 2, 12)),
            refused
        );
        let stranger = MacAddr(2, 0, 0, 0, 0, 9);
        assert_eq!(
            state.decide(stranger, TARGET, op::ACCESS, &signed(&token, 2, 12)),
            refused
        );
        // What was authorised before the agent was started again.
        let restarted = ControlState::new(Some(token.clone()), "another start".into());
        assert_eq!(restarted.decide(HOST, TARGET, op::ACCESS, &old), refused);
        // None of them used up a counter.
        assert_eq!(
            state.decide(HOST, TARGET, op::ACCESS, &signed(&token, 2, 12)),
            Decision::CarryOut
        );
    }

    #[test]
    fn without_a_token_nothing_is_authorised() {
        let state = ControlState::new(None, BOOT.into());
        let request = signed(&Token::from_bytes([0; 32]), 2, 1);
        assert_eq!(
            state.decide(HOST, TARGET, op::ACCESS, &request),
            Decision::Refuse(Status::NotAuthorised)
        );
    }
}
