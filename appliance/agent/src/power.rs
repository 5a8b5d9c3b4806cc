//! Switching the machine off, or starting it anew.

use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};
use p2v_contract::operation::Finish;

/// Nobody at the keyboard or on the serial line restarts the machine with a few keys, and a kernel that cannot go
/// on restarts it: a server may run on its disks. Returns what could not be had.
pub fn only_by_order() -> Vec<String> {
    let mut errors = Vec::new();
    if let Err(error) = set_cad_enabled(false) {
        errors.push(format!("Ctrl-Alt-Del restarts this machine: {error}"));
    }
    // SysRq by keyboard, and by BREAK on a serial line; seconds until a restart after a panic (sysctl kernel.*).
    for (name, value) in [("sysrq", "0"), ("panic", "10")] {
        if let Err(error) = std::fs::write(format!("/proc/sys/kernel/{name}"), value) {
            errors.push(format!("setting kernel.{name} to {value}: {error}"));
        }
    }
    errors
}

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
