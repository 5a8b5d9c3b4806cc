//! Keys (Ed25519, RFC 8032): by which a machine knows its hosts' orders, and a host its machines' agents.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a signature.
pub const SIGNATURE_LEN: usize = 64;

/// What it is signed with. Its `Debug` does not show it.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

/// What a signature is checked with; known to everybody.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// Why a text is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key is 64 hex digits")]
pub struct BadKey;

impl SecretKey {
    /// The key that these bytes make, which must be random.
    pub fn from_bytes(bytes: &[u8; 32]) -> SecretKey {
        SecretKey(SigningKey::from_bytes(bytes))
    }

    /// 64 hex digits, for a file that only its owner can read.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0.to_bytes())
    }

    /// Its public part.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs `text`.
    pub fn sign(&self, text: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.0.sign(text).to_bytes()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

impl FromStr for SecretKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<SecretKey, BadKey> {
        Ok(SecretKey::from_bytes(&bytes(text)?))
    }
}

impl PublicKey {
    /// Whether `signature` is that key's of `text`. Strict: one text has one signature by one key.
    pub fn verifies(&self, text: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        self.0.verify_strict(text, &signature).is_ok()
    }

    /// Short enough to be compared by eye, long enough (64 bits of a BLAKE3) that no other key with the same one can be
    /// made: `3f2a-91c0-5d11-07be`.
    pub fn code(&self) -> String {
        let hash = blake3::derive_key("p2v 2026 code of a key", self.0.as_bytes());
        let groups: Vec<String> = hash[..8].chunks(2).map(hex::encode).collect();
        groups.join("-")
    }
}

/// 64 hex digits.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<PublicKey, BadKey> {
        let key = VerifyingKey::from_bytes(&bytes(text)?).map_err(|_| BadKey)?;
        match key.is_weak() {
            true => Err(BadKey),
            false => Ok(PublicKey(key)),
        }
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<PublicKey, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn bytes(text: &str) -> Result<[u8; 32], BadKey> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| BadKey)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_one_text_by_one_key() {
        let key = SecretKey::from_bytes(&[7; 32]);
        let signature = key.sign(b"text");
        assert!(key.public().verifies(b"text", &signature));
        assert!(!key.public().verifies(b"Text", &signature));
        let other = SecretKey::from_bytes(&[8; 32]);
        assert!(!other.public().verifies(b"text", &signature));
        for bit in 0..SIGNATURE_LEN * 8 {
            let mut altered = signature;
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.public().verifies(b"text", &altered), "bit {bit}");
        }
    }

    #[test]
    fn keys_are_read_as_they_are_written_and_the_secret_one_is_not_shown() {
        let key = SecretKey::from_bytes(&[7; 32]);
        let again: SecretKey = key.to_hex().parse().unwrap();
        assert_eq!(again.public(), key.public());
        assert!(!format!("{key:?}").contains(&key.to_hex()[..16]));
        let text = key.public().to_string();
        assert_eq!(text.parse::<PublicKey>(), Ok(key.public()));
        assert_eq!(key.public().code().len(), 19);
        assert_ne!(
            key.public().code(),
            SecretKey::from_bytes(&[8; 32]).public().code()
        );
        // The last two: on no point of the curve, and one whose signatures everybody can make.
        let off = format!("02{}", "0".repeat(62));
        for bad in ["", "00", &"g".repeat(64), &off, &"0".repeat(64)] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad}");
        }
    }
}
