//! Switching the machine off, or starting it anew.

use nix::sys::reboot::{RebootMode, reboot};
use p2v_aoe::vendor::Finish;

/// Puts everything on stable storage and ends. Returns only if the kernel refuses; the reason.
pub fn finish(how: Finish) -> nix::errno::Errno {
    nix::unistd::sync();
    let mode = match how {
        Finish::PowerOff => RebootMode::RB_POWER_OFF,
        Finish::Restart => RebootMode::RB_AUTOBOOT,
    };
    match reboot(mode) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}
