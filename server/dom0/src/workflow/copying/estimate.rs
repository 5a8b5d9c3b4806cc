//! How long a copy may take, from reading a little of the disk.

use std::time::{Duration, Instant};

use p2v_contract::{SECTOR, Size};
use p2v_copy::Source;

/// Sectors read at each of the places: 2 MiB.
const SAMPLE: u64 = 4096;

/// Bytes per second at which a disk is read in three places, its begin, middle and end. `None` if it cannot
/// be read there.
pub(super) fn rate(source: &mut dyn Source) -> Option<u64> {
    let sectors = source.sectors();
    let count = SAMPLE.min(sectors);
    let mut buffer = vec![0; (count * SECTOR) as usize];
    let mut took = Duration::ZERO;
    for lba in [0, (sectors - count) / 2, sectors - count] {
        let begun = Instant::now();
        source.read_once(lba, &mut buffer).ok()?;
        took += begun.elapsed();
    }
    let bytes = 3 * buffer.len() as u64;
    (bytes > 0).then(|| (bytes as f64 / took.as_secs_f64().max(1e-6)) as u64)
}

/// What an operator hears of it.
pub(super) fn words(bytes: u64, rate: u64, limit: Option<u64>, disks: usize) -> String {
    let share = limit.map(|limit| limit / disks.max(1) as u64);
    let rate = share.map_or(rate, |share| rate.min(share)).max(1);
    format!(
        "about {} if all of its {} must cross the wire, at {}/s; zeros, and what is there already, take less",
        duration(Duration::from_secs(bytes / rate)),
        Size(bytes),
        Size(rate)
    )
}

/// A duration to two figures, as a person would say it.
fn duration(duration: Duration) -> String {
    let minutes = duration.as_secs().div_ceil(60);
    match minutes {
        0..=1 => "a minute".into(),
        2..=99 => format!("{minutes} minutes"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_and_other_disks_count() {
        let text = words(100 << 30, 100 << 20, None, 1);
        assert!(
            text.starts_with("about 18 minutes if all of its 100.00 GiB"),
            "{text}"
        );
        let text = words(100 << 30, 100 << 20, Some(50 << 20), 2);
        assert!(
            text.starts_with("about 69 minutes") && text.contains("25.00 MiB/s"),
            "{text}"
        );
        let text = words(1, 700 << 10, None, 1);
        assert!(
            text.starts_with("about a minute") && text.contains("at 700.00 KiB/s"),
            "{text}"
        );
    }
}
