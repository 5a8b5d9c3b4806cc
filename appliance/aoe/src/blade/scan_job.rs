//! What is asked of the thread that reads ranges for digests and maps of zeros.

use std::sync::Arc;

use crate::frame::Header;
use crate::wire::Wire;

/// A range to look at, and where the reply goes.
pub(super) struct ScanJob {
    pub(super) wire: Arc<dyn Wire>,
    /// Headers of the reply.
    pub(super) reply: Header,
    pub(super) scan: Scan,
}

/// What to find out.
pub(super) enum Scan {
    Digest {
        lba: u64,
        sectors: u32,
    },
    ZeroMap {
        lba: u64,
        sectors_per_bit: u32,
        bits: u16,
    },
}
