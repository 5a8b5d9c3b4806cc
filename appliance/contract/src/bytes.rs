//! Reading fields of a fixed length.

/// Fewer bytes than a message has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{have} bytes are less than the {need} of the message")]
pub struct Short {
    /// Bytes there.
    pub have: usize,
    /// Bytes needed.
    pub need: usize,
}

/// The first `N` bytes, and the rest.
///
/// # Errors
/// There are fewer.
pub fn fixed<const N: usize>(bytes: &[u8]) -> Result<(&[u8; N], &[u8]), Short> {
    bytes.split_first_chunk::<N>().ok_or(Short {
        have: bytes.len(),
        need: N,
    })
}
