//! The boot token: the secret of one boot, with which control requests are signed.

use std::fmt;
use std::str::FromStr;

/// Context strings of BLAKE3's key derivation: each use of the token has a key of its own.
const FINGERPRINT: &str = "p2v 2026 boot token fingerprint";

/// 32 random bytes, made per machine and boot by the Xen host and handed over on the kernel
/// command line as 64 hex digits. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

/// Why a text is not a boot token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a boot token is 64 hex digits")]
pub struct BadToken;

impl Token {
    /// A token from its bytes, which must be random.
    pub const fn from_bytes(bytes: [u8; 32]) -> Token {
        Token(bytes)
    }

    /// By which `p2v-agent export --waiting` takes orders. Everybody knows it: who may give them goes by the list of
    /// stations there, as who may write does.
    pub const fn of_stand_in() -> Token {
        Token(*b"p2v-agent export --waiting DISK ")
    }

    /// The token's bytes: the key of a control request's keyed BLAKE3.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 hex digits, for the kernel command line and the machine's record.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// 16 hex digits that name the token without giving it away: a key derived from it, cut short.
    pub fn fingerprint(&self) -> String {
        let derived = blake3::derive_key(FINGERPRINT, &self.0);
        derived[..8].iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}…)", self.fingerprint())
    }
}

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Token, BadToken> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(BadToken);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let high = (pair[0] as char).to_digit(16).ok_or(BadToken)?;
            let low = (pair[1] as char).to_digit(16).ok_or(BadToken)?;
            *byte = (high * 16 + low) as u8;
        }
        Ok(Token(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_and_back_and_never_shown() {
        let token = Token::from_bytes(std::array::from_fn(|i| i as u8 * 7));
        assert_eq!(token.to_hex().parse::<Token>().unwrap(), token);
        assert!(!format!("{token:?}").contains(&token.to_hex()[..16]));
        assert_eq!(token.fingerprint().len(), 16);
        for bad in ["", "00", &"g".repeat(64), &"0".repeat(63), &"é".repeat(32)] {
            assert!(bad.parse::<Token>().is_err());
        }
    }
}
