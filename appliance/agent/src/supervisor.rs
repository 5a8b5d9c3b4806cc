//! PID 1: starts the worker and starts it again when it ends.
//!
//! The kernel panics when PID 1 ends, so this part does next to nothing: all the work that could
//! fail is done by the worker, which is the same program run once more.

use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::console::Console;
use crate::{mounts, power};

/// Pause before the worker is started again: long enough to read why it ended.
const PAUSE: Duration = Duration::from_secs(3);

/// Runs for ever.
pub fn run() -> ! {
    loop {
        // Nothing here is known to panic; should it, PID 1 must still be there.
        let _ = std::panic::catch_unwind(supervise);
        std::thread::sleep(PAUSE);
    }
}

fn supervise() {
    let errors = mounts::mount_all();
    let mut console = Console::open();
    for error in errors {
        console.say(&error);
    }
    for error in power::only_by_order() {
        console.say(&error);
    }
    // Kernel messages of errors and worse only: the status screen is on the same terminal.
    let _ = std::fs::write("/proc/sys/kernel/printk", "4");
    loop {
        match Command::new("/proc/self/exe").arg("worker").spawn() {
            Ok(worker) => {
                let ended = wait_for(Pid::from_raw(worker.id() as i32));
                console.say(&format!(
                    "the agent ended ({ended}) and is started again in {} s; its disks stay as they were",
                    PAUSE.as_secs()
                ));
            }
            Err(error) => console.say(&format!("the agent cannot be started: {error}")),
        }
        std::thread::sleep(PAUSE);
    }
}

/// Reaps every child there is until `worker` has ended; says how.
fn wait_for(worker: Pid) -> String {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == worker => {
                return format!("exit code {code}");
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == worker => {
                return format!("killed by {signal}");
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return format!("lost: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::zombie_processes, reason = "wait_for() does the waiting")]
    fn the_way_a_worker_ended_is_told() {
        let run = |script: &str| {
            let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            wait_for(Pid::from_raw(child.id() as i32))
        };
        assert_eq!(run("exit 3"), "exit code 3");
        assert_eq!(run("kill -9 $$"), "killed by SIGKILL");
    }
}
