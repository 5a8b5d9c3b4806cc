//! Whether a thin pool has room for a copy: a full pool fails every volume in it, not just the copy's.
//!
//! How much a copy will write is not known before: zeros take no room, and how many there are shows as they are read.
//! So a copy begins unless the pool is in danger as it is, and stops in order before it would be.

use std::fmt;

use crate::tool::lvm::thin::{Fixed, Share, ThinPool};

/// What a pool is left of its data space: one part in so many.
const SPARED: u64 = 20;
/// But no less bytes than this: what a wire of 1 Gbit/s brings between two looks, and what is on its way then.
const SPARED_LEAST: u64 = 512 << 20;
/// And no more bytes than this: as much with 10 Gbit/s.
const SPARED_MOST: u64 = 4 << 30;
/// Of a small pool no larger part than one in so many: else nothing could be copied to it.
const SPARED_OF_SMALL: u64 = 4;

/// A pool's metadata is in danger from here on. Without room for it, the pool's volumes return errors, and the pool
/// must be repaired offline (lvmthin(7), "Metadata space exhaustion").
const METADATA_LIMIT: Share = Share(9000);

/// Whether a copy fits in a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Room {
    /// Whatever it writes.
    Enough,
    /// If it writes no more than so many bytes.
    UpTo(u64),
    /// No more is written to the pool.
    None(Box<Full>),
}

/// A pool that is too full to be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full {
    pool: ThinPool,
    why_fixed: Fixed,
    what: What,
}

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Data,
    Metadata,
}

/// Bytes of data that are left to a pool of that size.
fn spared(size: u64) -> u64 {
    let part = (size / SPARED).clamp(SPARED_LEAST, SPARED_MOST);
    part.min(size / SPARED_OF_SMALL)
}

/// Bytes that can be written before the pool is in danger; `None`: any number, as LVM makes it larger.
pub fn left(pool: &ThinPool) -> Option<u64> {
    let left = pool
        .data
        .rest_of(pool.size)
        .saturating_sub(spared(pool.size));
    pool.fixed().map(|_| left)
}

/// Whether the pool is in danger or will be by `wanted` bytes more, and is not made larger by LVM.
pub fn full(pool: &ThinPool, wanted: u64) -> Option<Full> {
    let what = if pool.metadata >= METADATA_LIMIT {
        What::Metadata
    } else if pool.data.rest_of(pool.size) <= spared(pool.size) + wanted {
        What::Data
    } else {
        return None;
    };
    pool.fixed().map(|why_fixed| Full {
        pool: pool.clone(),
        why_fixed,
        what,
    })
}

/// Whether up to `bytes` bytes can be written to the pool.
pub fn room(pool: &ThinPool, bytes: u64) -> Room {
    if let Some(full) = full(pool, 0) {
        return Room::None(Box::new(full));
    }
    let free = pool.data.rest_of(pool.size);
    // What LVM may add, it takes from the group.
    let more = match pool.fixed() {
        None => pool.vg_free,
        Some(_) => 0,
    };
    let room = (free + more).saturating_sub(spared(pool.size));
    match bytes <= room {
        true => Room::Enough,
        false => Room::UpTo(room),
    }
}

/// Bytes in MiB.
pub fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

/// What makes a pool larger.
pub fn remedy(pool: &ThinPool) -> String {
    let ThinPool { vg, lv, .. } = pool;
    format!(
        "`lvextend --size +SIZE {vg}/{lv}` (the group has {} MiB free; `vgextend {vg} DEVICE` gives it more)",
        mib(pool.vg_free)
    )
}

/// Figures and remedy.
impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = &self.pool;
        let ThinPool { vg, lv, .. } = pool;
        write!(
            f,
            "the thin pool {vg}/{lv} is nearly full: {} of its {} MiB and {} of its metadata are used, and LVM does not \
             extend it ({}). A full pool fails every volume in it, so p2v leaves ",
            pool.data,
            mib(pool.size),
            pool.metadata,
            match self.why_fixed {
                Fixed::Off => "thin_pool_autoextend_threshold in lvm.conf is 100",
                Fixed::NotMonitored => "dmeventd does not monitor it: `lvchange --monitor y`",
                Fixed::NoRoom => "its group has too little room",
            },
        )?;
        match self.what {
            What::Data => write!(
                f,
                "{} MiB free. Make it larger: {}",
                mib(spared(pool.size)),
                remedy(pool)
            ),
            What::Metadata => write!(
                f,
                "a tenth of the metadata. Make that larger: `lvextend --poolmetadatasize +SIZE {vg}/{lv}` (the group has {} \
                 MiB free)",
                mib(pool.vg_free)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::lvm::thin::Autoextend;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    const TIB: u64 = 1 << 40;

    fn pool(size: u64, data: u32, metadata: u32) -> ThinPool {
        ThinPool {
            vg: "vg".into(),
            lv: "pool".into(),
            size,
            data: Share(data),
            metadata: Share(metadata),
            vg_free: 30 * GIB,
            monitored: Some(true),
            autoextend: Autoextend {
                threshold: 100,
                percent: 20,
            },
        }
    }

    fn grows(pool: ThinPool) -> ThinPool {
        let threshold = 70;
        let autoextend = Autoextend {
            threshold,
            ..pool.autoextend
        };
        ThinPool { autoextend, ..pool }
    }

    #[test]
    fn when_a_pool_is_too_full() {
        let what = |pool| full(&pool, 0).map(|full| full.what);
        let (data, metadata) = (Some(What::Data), Some(What::Metadata));
        for (pool, expected) in [
            (pool(100 * GIB, 0, 0), None),
            // A twentieth, but no more than 4 GiB and no less than 512 MiB,
            (pool(40 * GIB, 9400, 0), None),
            (pool(40 * GIB, 9500, 0), data),
            (pool(4 * TIB, 9980, 0), None),
            (pool(4 * TIB, 9990, 0), data),
            (pool(4 * GIB, 8700, 0), None),
            (pool(4 * GIB, 8750, 0), data),
            // and of a small one a quarter.
            (pool(400 * MIB, 7400, 0), None),
            (pool(400 * MIB, 7500, 0), data),
            (pool(100 * GIB, 10_000, 0), data),
            (pool(100 * GIB, 0, 8999), None),
            (pool(100 * GIB, 0, 9000), metadata),
            // Both: the metadata is what needs a repair.
            (pool(100 * GIB, 9900, 9900), metadata),
            // LVM makes it larger.
            (grows(pool(100 * GIB, 9900, 9900)), None),
            // It would, if there was room.
            (
                ThinPool {
                    vg_free: 19 * GIB,
                    ..grows(pool(100 * GIB, 9900, 0))
                },
                data,
            ),
            (
                ThinPool {
                    monitored: Some(false),
                    ..grows(pool(100 * GIB, 9900, 0))
                },
                data,
            ),
        ] {
            assert_eq!(what(pool.clone()), expected, "{pool:?}");
        }
    }

    #[test]
    fn what_fits_in_a_pool() {
        // 100 GiB: half used, 4 GiB spared, a ten-thousandth may be rounded away.
        let half = pool(100 * GIB, 5000, 0);
        let free = 50 * GIB - 4 * GIB - 100 * GIB / 10_000 - 1;
        assert_eq!(room(&half, 0), Room::Enough);
        assert_eq!(room(&half, free), Room::Enough);
        assert_eq!(room(&half, free + 1), Room::UpTo(free));
        assert_eq!(room(&grows(half.clone()), free + 30 * GIB), Room::Enough);
        assert_eq!(
            room(&grows(half), free + 30 * GIB + 1),
            Room::UpTo(free + 30 * GIB)
        );
        assert!(matches!(
            room(&pool(100 * GIB, 9700, 0), 0),
            Room::None(full) if full.what == What::Data
        ));
    }

    #[test]
    fn what_is_short_is_what_the_remedy_is_for() {
        let says = |pool| full(&pool, 0).unwrap().to_string();
        let data = says(pool(40 * GIB, 9612, 350));
        for part in [
            "vg/pool is nearly full: 96.12 % of its 40960 MiB and 3.50 % of its metadata",
            "leaves 2048 MiB free",
            "`lvextend --size +SIZE vg/pool`",
            "30720 MiB free",
            "thin_pool_autoextend_threshold",
        ] {
            assert!(data.contains(part), "{part} is not in {data}");
        }
        let metadata = says(pool(40 * GIB, 0, 9100));
        assert!(
            metadata.contains("`lvextend --poolmetadatasize +SIZE vg/pool`"),
            "{metadata}"
        );
    }
}
