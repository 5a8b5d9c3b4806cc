//! What is copied, in pieces: each is read, written and checked as one.
use p2v_contract::SECTOR;

/// A stretch of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First sector.
    pub lba: u64,
    /// Number of sectors.
    pub count: u32,
}

impl Piece {
    /// First byte.
    pub fn offset(self) -> u64 {
        self.lba * SECTOR
    }

    /// Number of bytes.
    pub fn bytes(self) -> usize {
        self.count as usize * SECTOR as usize
    }

    /// Last sector.
    pub fn last(self) -> u64 {
        self.lba + u64::from(self.count).max(1) - 1
    }
}

/// Cuts `extents` (first sector and number of them; ascending, not touching) of a disk of `sectors`
/// sectors into pieces that do not cross a multiple of `range` sectors.
///
/// A disk is cut in the same way every time, so that a journal's entries mean the same.
pub fn cut(sectors: u64, extents: &[(u64, u64)], range: u32) -> Vec<Piece> {
    #[cfg(feature = "boundary")]
    let range = crate::boundary::piece(range);
    let range = u64::from(range.max(1));
    let mut pieces = Vec::new();
    for (first, count) in extents {
        let end = first.saturating_add(*count).min(sectors);
        let mut lba = *first;
        while lba < end {
            let next = end.min((lba / range + 1) * range);
            pieces.push(Piece {
                lba,
                count: (next - lba) as u32,
            });
            lba = next;
        }
    }
    pieces
}

/// Joins extents that are less than `gap` sectors apart: a request more costs more than they do.
pub fn join(extents: &[(u64, u64)], gap: u64) -> Vec<(u64, u64)> {
    let mut joined: Vec<(u64, u64)> = Vec::with_capacity(extents.len());
    for (first, count) in extents {
        match joined.last_mut() {
            Some((lba, have)) if *first <= *lba + *have + gap => {
                *have = (*have).max(first + count - *lba);
            }
            _ => joined.push((*first, *count)),
        }
    }
    joined
}

/// BLAKE3 of a list of pieces: two lists with the same fingerprint are the same.
pub fn fingerprint(pieces: &[Piece]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for piece in pieces {
        hasher.update(&piece.lba.to_le_bytes());
        hasher.update(&piece.count.to_le_bytes());
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_whole_disk_is_cut_at_the_range() {
        let pieces = cut(100, &[(0, 100)], 32);
        let all: Vec<_> = pieces.iter().map(|p| (p.lba, p.count)).collect();
        assert_eq!(all, [(0, 32), (32, 32), (64, 32), (96, 4)]);
        assert_eq!(pieces[3].last(), 99);
        let other = cut(101, &[(0, 101)], 32);
        assert_ne!(fingerprint(&pieces), fingerprint(&other));
    }

    proptest! {
        #[test]
        fn pieces_are_the_extents(
            wanted in proptest::collection::vec(any::<bool>(), 1..400),
            range in 1u32..50,
            gap in 0u64..8,
        ) {
            let mut extents: Vec<(u64, u64)> = Vec::new();
            for (lba, _) in wanted.iter().enumerate().filter(|(_, wanted)| **wanted) {
                match extents.last_mut() {
                    Some((first, count)) if *first + *count == lba as u64 => *count += 1,
                    _ => extents.push((lba as u64, 1)),
                }
            }
            let mut seen = vec![false; wanted.len()];
            for piece in cut(wanted.len() as u64, &extents, range) {
                prop_assert!(piece.count > 0);
                prop_assert_eq!(piece.lba / u64::from(range), piece.last() / u64::from(range));
                for lba in piece.lba..=piece.last() {
                    prop_assert!(!seen[lba as usize]);
                    seen[lba as usize] = true;
                }
            }
            prop_assert_eq!(&seen, &wanted);
            let joined = join(&extents, gap);
            for (lba, wanted) in wanted.iter().enumerate() {
                let there = joined.iter().any(|(f, c)| (*f..f + c).contains(&(lba as u64)));
                prop_assert!(there || !wanted);
            }
            prop_assert!(joined.windows(2).all(|w| w[0].0 + w[0].1 + gap < w[1].0));
        }
    }
}
