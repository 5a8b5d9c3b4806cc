//! A host and a machine on a wire of the test's own.

use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Longer than anything takes on a loaded machine; nothing waits for it to pass.
pub const LIMIT: Duration = Duration::from_secs(400);

/// Runs a command that must succeed; what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split_whitespace()));
}

/// Two namespaces with a wire between them, gone when dropped.
pub struct Wire {
    pub host: String,
    pub machine: String,
}

impl Wire {
    pub fn new() -> Wire {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |end| format!("p2v-service-{end}-{}-{number}", std::process::id());
        let wire = Wire {
            host: name("host"),
            machine: name("machine"),
        };
        let (host, machine) = (&wire.host, &wire.machine);
        ip(&format!("netns add {host}"));
        ip(&format!("netns add {machine}"));
        ip(&format!(
            "-n {host} link add p2vs type veth peer name p2vc netns {machine}"
        ));
        ip(&format!("-n {host} addr add 192.168.7.1/24 dev p2vs"));
        ip(&format!("-n {machine} addr add 192.168.7.2/24 dev p2vc"));
        ip(&format!("-n {host} link set p2vs up"));
        ip(&format!("-n {machine} link set p2vc up"));
        ip(&format!("-n {machine} route add 255.255.255.255 dev p2vc"));
        wire
    }

    /// A command that will run on the host.
    pub fn on_host(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.host, program]);
        command
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for name in [&self.host, &self.machine] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// A program, killed if a test fails before it has ended.
pub struct Service(pub Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
