//! For campaigns of tests: where a process is killed, and what its clock says. Only a process that does one command of a
//! campaign at a time ever sets anything here.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::getpid;

/// Boundaries that were reached.
static REACHED: AtomicU64 = AtomicU64::new(0);
/// The one at which the process is killed.
static DEADLY: AtomicU64 = AtomicU64::new(u64::MAX);
/// Seconds by which the clock is wrong.
static CLOCK: AtomicI64 = AtomicI64::new(0);

/// Sectors of a piece of a copy; 0: as many as ever.
static PIECE: AtomicU32 = AtomicU32::new(0);

/// Has copies of small disks made in several pieces.
pub fn set_piece(sectors: u32) {
    PIECE.store(sectors, Ordering::SeqCst);
}

/// Sectors of a piece, which else would have so many.
pub fn piece(sectors: u32) -> u32 {
    match PIECE.load(Ordering::SeqCst) {
        0 => sectors,
        fewer => fewer,
    }
}

/// Begins to count, with the clock so many seconds off. `deadly`: the process is killed at that boundary; the first is 0.
pub fn set(deadly: Option<u64>, clock: i64) {
    REACHED.store(0, Ordering::SeqCst);
    DEADLY.store(deadly.unwrap_or(u64::MAX), Ordering::SeqCst);
    CLOCK.store(clock, Ordering::SeqCst);
}

/// How many were reached.
pub fn count() -> u64 {
    REACHED.load(Ordering::SeqCst)
}

/// A boundary: what is before it is done, and what comes after it is not begun. `what`: both, in a word.
pub fn reached(what: &str) {
    if REACHED.fetch_add(1, Ordering::SeqCst) == DEADLY.load(Ordering::SeqCst) {
        println!("\n@killed {what}");
        // No way back runs, and no lock is given up but by the kernel.
        let _ = kill(getpid(), Signal::SIGKILL);
        loop {
            std::thread::park();
        }
    }
}

/// What the clock says.
pub fn clock() -> SystemTime {
    let off = CLOCK.load(Ordering::SeqCst);
    let by = Duration::from_secs(off.unsigned_abs());
    match off < 0 {
        true => SystemTime::now() - by,
        false => SystemTime::now() + by,
    }
}
