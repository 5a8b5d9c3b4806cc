//! The counters of an export in a few lines that say what an operator wants to know: is it used, is it
//! quick, does anything go wrong.
use p2v_contract::operation::Stats;
use p2v_contract::{Address, SECTOR, Size};

/// Counters that are not zero only when something was refused, lost or broken, and what each means.
const TROUBLE: [(&str, &str); 8] = [
    ("disk_errors", "the disk failed"),
    ("writes_refused", "writes refused, it is read-only"),
    ("strangers", "from stations not on its list"),
    ("malformed", "malformed"),
    ("control_refused", "orders refused"),
    ("queue_full", "dropped, too many at once"),
    ("frames_dropped", "frames dropped for want of memory"),
    ("late_writes", "late copies of writes passed over"),
];

/// The lines for one export.
pub(super) fn lines(address: Address, stats: &Stats) -> Vec<String> {
    let get = |name: &str| stats.get(name).unwrap_or(0);
    // The values of `ExportState`.
    let access = match get("read_write") {
        1 => "read-write",
        2 => "WAITING for `p2v resume`",
        _ => "read-only",
    };
    let mut lines = vec![format!(
        "{address} is {access}: {} requests, {} read, {} written, at most {} at once",
        get("requests"),
        Size(get("sectors_read") * SECTOR),
        Size(get("sectors_written") * SECTOR),
        get("in_flight_max"),
    )];
    if let (Some(half), Some(most)) = (quantile(stats, 50), quantile(stats, 99)) {
        lines.push(format!(
            "  answered: half within {half}, 99 % within {most}"
        ));
    }
    let trouble: Vec<String> = TROUBLE
        .iter()
        .filter(|(name, _)| get(name) > 0)
        .map(|(name, what)| format!("{} {what}", get(name)))
        .collect();
    if !trouble.is_empty() {
        lines.push(format!("  refused or lost: {}", trouble.join("; ")));
    }
    lines
}

/// The class of times that `percent` of all answers took no longer than, by its name.
fn quantile(stats: &Stats, percent: u64) -> Option<&'static str> {
    let classes: Vec<(&'static str, u64)> = stats
        .iter()
        .filter_map(|(name, count)| Some((name.strip_prefix("answered_")?, count)))
        .collect();
    let all: u64 = classes.iter().map(|(_, count)| count).sum();
    let mut sum = 0;
    classes
        .into_iter()
        .find(|(_, count)| {
            sum += count;
            all > 0 && sum * 100 >= all * percent
        })
        .map(|(name, _)| {
            if name == "longer" {
                "more than 131ms"
            } else {
                name
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(values: &[(&str, u64)]) -> Stats {
        let mut stats = Stats::default();
        for (name, value) in values {
            let at = Stats::NAMES.iter().position(|n| n == name).unwrap();
            stats.0[at] = *value;
        }
        stats
    }

    #[test]
    fn what_goes_well_is_short_and_what_goes_wrong_is_named() {
        let address = Address::new(7, 0);
        let well = stats(&[
            ("requests", 100),
            ("sectors_read", 2048),
            ("in_flight_max", 64),
            ("answered_32us", 90),
            ("answered_4ms", 9),
            ("answered_longer", 1),
        ]);
        assert_eq!(
            lines(address, &well),
            [
                "e7.0 is read-only: 100 requests, 1.00 MiB read, 0 B written, at most 64 at once",
                "  answered: half within 32us, 99 % within 4ms",
            ]
        );
        let ill = stats(&[("read_write", 1), ("disk_errors", 3), ("strangers", 1)]);
        assert_eq!(
            lines(address, &ill),
            [
                "e7.0 is read-write: 0 requests, 0 B read, 0 B written, at most 0 at once",
                "  refused or lost: 3 the disk failed; 1 from stations not on its list",
            ]
        );
        let waits = lines(address, &stats(&[("read_write", 2)]));
        assert!(waits[0].starts_with("e7.0 is WAITING for `p2v resume`:"));
    }
}
