//! Sets of sectors: first and count, ascending, apart from each other.

/// First sector and number of sectors.
pub type Range = (u64, u64);

/// The same sectors in order, with those that overlap or touch made one. Empty ones go.
pub fn merge(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.retain(|r| r.1 > 0);
    ranges.sort_unstable();
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for (first, count) in ranges {
        let end = first.saturating_add(count);
        match merged.last_mut() {
            Some(last) if first <= last.0 + last.1 => last.1 = last.1.max(end - last.0),
            _ => merged.push((first, end - first)),
        }
    }
    merged
}

/// Each range made larger until it begins and ends on a multiple of `grain`, but for the end at
/// `limit`; merged.
pub fn round_out(ranges: &[Range], grain: u64, limit: u64) -> Vec<Range> {
    let grain = grain.max(1);
    let rounded = ranges
        .iter()
        .filter(|(first, count)| *first < limit && *count > 0)
        .map(|&(first, count)| {
            let start = first - first % grain;
            let end = first
                .saturating_add(count)
                .checked_next_multiple_of(grain)
                .unwrap_or(limit)
                .min(limit);
            (start, end - start)
        })
        .collect();
    merge(rounded)
}

/// What of 0 to `limit` is in none of `ranges`, which are merged.
pub fn gaps(ranges: &[Range], limit: u64) -> Vec<Range> {
    let mut gaps = Vec::new();
    let mut next = 0;
    for &(first, count) in ranges {
        let first = first.min(limit);
        if first > next {
            gaps.push((next, first - next));
        }
        next = next.max(first.saturating_add(count));
    }
    if next < limit {
        gaps.push((next, limit - next));
    }
    gaps
}

/// Number of sectors in `ranges`, which are merged.
pub fn total(ranges: &[Range]) -> u64 {
    ranges.iter().map(|r| r.1).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contains(ranges: &[Range], sector: u64) -> bool {
        ranges.iter().any(|r| sector >= r.0 && sector < r.0 + r.1)
    }

    fn apart(ranges: &[Range]) -> bool {
        ranges.iter().all(|r| r.1 > 0) && ranges.windows(2).all(|p| p[0].0 + p[0].1 < p[1].0)
    }

    proptest! {
        #[test]
        fn sector_by_sector(
            ranges in prop::collection::vec((0_u64..300, 0_u64..40), 0..20),
            grain in 1_u64..20,
            limit in 1_u64..300,
        ) {
            let merged = merge(ranges.clone());
            let rounded = round_out(&ranges, grain, limit);
            let free = gaps(&merged, limit);
            prop_assert!(apart(&merged) && apart(&rounded) && apart(&free));
            for sector in 0..350 {
                let used = contains(&ranges, sector);
                prop_assert_eq!(contains(&merged, sector), used);
                prop_assert_eq!(contains(&free, sector), !used && sector < limit);
                let cell = sector - sector % grain;
                let near = (cell..cell + grain).any(|s| contains(&ranges, s) && s < limit);
                prop_assert_eq!(contains(&rounded, sector), near && sector < limit);
            }
        }
    }

    #[test]
    fn the_end_of_numbers() {
        assert_eq!(merge(vec![(u64::MAX - 1, 5)]), [(u64::MAX - 1, 1)]);
        assert_eq!(round_out(&[(5, u64::MAX)], 8, 100), [(0, 100)]);
    }
}
