//! How long ago the processor was reset: its time-stamp counter began at 0 then. By this the host knows how long the
//! machine took from power-on, or from its reset, to the agent.

use std::time::{Duration, Instant};

/// How long the counter is watched to know its pace. (A thousandth of what it tells is not of interest.)
const WATCHED: Duration = Duration::from_millis(50);

/// Milliseconds since the processor's reset; 0 where its counter does not tell. `cpuinfo`: `/proc/cpuinfo`; `scaled`:
/// the kernel changes the processor's frequency.
pub fn since_reset_ms(cpuinfo: &str, scaled: bool) -> u64 {
    if !keeps_time(cpuinfo, scaled) {
        return 0;
    }
    let (first, began) = (counter(), Instant::now());
    // Not asleep: some processors' counters sleep too.
    while began.elapsed() < WATCHED {
        std::hint::spin_loop();
    }
    let (last, took) = (counter(), began.elapsed());
    milliseconds(first, last, took)
}

/// Whether the counter goes at one pace: always, or because the processor does.
fn keeps_time(cpuinfo: &str, scaled: bool) -> bool {
    let mut lines = cpuinfo.lines();
    let flags = lines.find_map(|line| line.strip_prefix("flags")?.trim_start().strip_prefix(':'));
    let has = |flag| flags.is_some_and(|flags| flags.split_whitespace().any(|f| f == flag));
    has("tsc") && (has("constant_tsc") || !scaled)
}

/// What the counter's `last` is in milliseconds, where it took so long from `first`.
fn milliseconds(first: u64, last: u64, took: Duration) -> u64 {
    let ticks = u128::from(last.saturating_sub(first)).max(1);
    let since = u128::from(last) * took.as_nanos() / ticks / 1_000_000;
    u64::try_from(since).unwrap_or(0)
}

#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // SAFETY: the flag `tsc` was looked for, and Linux lets every program read it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_believed_where_it_keeps_time() {
        let constant = "processor\t: 0\nflags\t\t: fpu tsc constant_tsc\n";
        let other = "processor\t: 0\nflags\t\t: fpu tsc\n";
        assert!(keeps_time(constant, true) && keeps_time(other, false));
        assert!(!keeps_time(other, true) && !keeps_time("flags : fpu\n", false));
        assert!(!keeps_time("", false));
        assert_eq!(since_reset_ms(other, true), 0);
    }

    #[test]
    fn ticks_are_time() {
        // 2 GHz: 200 million ticks in 100 ms.
        let ms = milliseconds(59_800_000_000, 60_000_000_000, Duration::from_millis(100));
        assert_eq!(ms, 30_000);
        // One that stands still tells nonsense that nobody believes: longer than any machine is on.
        assert!(milliseconds(7, 7, Duration::from_millis(100)) >= 700);
    }
}
