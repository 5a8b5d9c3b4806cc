//! Which boot tokens a machine may be using.
//!
//! A token goes out with every boot menu. A ROM may fetch its menu several times within one boot,
//! and a stranger may fetch it at any time, so a new token never makes an older one worthless: the
//! host keeps many, and learns from the inventory's `token_id` which of them the running agent has.

use std::time::Duration;

use p2v_aoe::token::Token;
use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;

/// A token this young is given out again rather than replaced: a ROM that retries, or a boot
/// loader that asks for `01-<mac>` twice, is one boot.
pub const REUSE: Duration = Duration::from_secs(120);

/// How many tokens are kept, besides the one that proved itself. Many, because menus fetched by
/// others must not push out the token of a machine that is booting or was not asked yet.
pub const KEPT: usize = 64;

/// One token that was given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootToken {
    /// The secret itself, 64 hex digits.
    #[serde(with = "hex")]
    pub token: Token,
    /// When it was made.
    pub issued: Timestamp,
}

/// The tokens of one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BootTokens {
    /// The token an agent last showed that it has (its inventory's `token_id`).
    pub proven: Option<BootToken>,
    /// Given out, newest last.
    pub issued: Vec<BootToken>,
}

impl BootTokens {
    /// The token for a menu asked for `now`: the newest if it is younger than [`REUSE`], else a
    /// new one from `make`, which must be random. A clock that was set back makes a new one.
    pub fn issue<E>(
        &mut self,
        now: Timestamp,
        make: impl FnOnce() -> Result<Token, E>,
    ) -> Result<Token, E> {
        if let Some(newest) = self.issued.last()
            && newest.issued.age_at(now).is_some_and(|age| age < REUSE)
        {
            return Ok(newest.token.clone());
        }
        let token = make()?;
        self.issued.push(BootToken {
            token: token.clone(),
            issued: now,
        });
        let surplus = self.issued.len().saturating_sub(KEPT);
        self.issued.drain(..surplus);
        Ok(token)
    }

    /// The newest there is.
    pub fn last(&self) -> Option<&Token> {
        let newest = self.issued.last().or(self.proven.as_ref())?;
        Some(&newest.token)
    }

    /// The token an agent named by its inventory's `token_id`, which is kept from now on until
    /// another proves itself. `None`: no token we gave out, nothing is changed.
    pub fn prove(&mut self, token_id: &str) -> Option<Token> {
        let found = self
            .issued
            .iter()
            .rev()
            .chain(&self.proven)
            .find(|t| t.token.fingerprint() == token_id)?
            .clone();
        let token = found.token.clone();
        self.proven = Some(found);
        Some(token)
    }
}

mod hex {
    use p2v_aoe::token::Token;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(token: &Token, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&token.to_hex())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Token, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn make(n: u16) -> impl FnOnce() -> Result<Token, Infallible> {
        move || {
            let mut bytes = [0; 32];
            bytes[..2].copy_from_slice(&n.to_le_bytes());
            Ok(Token::from_bytes(bytes))
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix(1_000_000 + seconds)
    }

    #[test]
    fn one_boot_has_one_token() {
        let mut tokens = BootTokens::default();
        let first = tokens.issue(at(0), make(1)).unwrap();
        assert_eq!(tokens.issue(at(119), make(2)).unwrap(), first);
        assert_ne!(tokens.issue(at(120), make(3)).unwrap(), first);
        // The clock was set back: a token from the future is not reused.
        let early = tokens.issue(at(10), make(4)).unwrap();
        assert_eq!(early, make(4)().unwrap());
    }

    #[test]
    fn strangers_cannot_push_out_the_running_boots_token() {
        let mut tokens = BootTokens::default();
        let mine = tokens.issue(at(0), make(0)).unwrap();
        assert_eq!(tokens.prove(&mine.fingerprint()), Some(mine.clone()));
        for n in 1..1000 {
            tokens.issue(at(u64::from(n) * 121), make(n)).unwrap();
        }
        assert_eq!(tokens.issued.len(), KEPT);
        assert_eq!(tokens.prove(&mine.fingerprint()), Some(mine.clone()));
        // A newer boot proves another; a claim we know nothing of changes nothing.
        let newer = make(999)().unwrap();
        assert_eq!(tokens.prove("0123456789abcdef"), None);
        assert_eq!(tokens.proven.as_ref().unwrap().token, mine);
        assert_eq!(tokens.prove(&newer.fingerprint()), Some(newer.clone()));
        assert_eq!(tokens.proven.as_ref().unwrap().token, newer);
    }

    #[test]
    fn not_yet_proven_survives_many_fetches() {
        let mut tokens = BootTokens::default();
        let mine = tokens.issue(at(0), make(0)).unwrap();
        for n in 1..KEPT as u16 {
            tokens.issue(at(u64::from(n) * 121), make(n)).unwrap();
        }
        assert_eq!(tokens.prove(&mine.fingerprint()), Some(mine));
    }
}
