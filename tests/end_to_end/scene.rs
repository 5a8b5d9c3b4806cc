//! What the stories begin with: a Xen host that serves, and an old server that was switched on.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use p2v_lab::artifacts::Artifacts;
use p2v_lab::disk::Disk;
use p2v_lab::old_server::{Hardware, OldServer};
use p2v_lab::run::Run;
use p2v_lab::xen_host::XenHost;

/// From power-on to exported; generous, for a busy machine.
pub const EXPORT_LIMIT: Duration = Duration::from_secs(240);

/// A Xen host with `p2v serve`, and an old server whose disk is exported.
///
/// Ended in this order: QEMU stops the host's processor while nobody reads from the other end of its wire, and with it
/// what its logs are fetched by.
pub struct Scene {
    pub old: OldServer,
    pub host: XenHost,
    pub disk: Disk,
    pub run: Run,
    pub artifacts: Artifacts,
}

impl Scene {
    /// Sets it up with the disk that `make_disk` makes in the run's directory.
    pub fn new(
        name: &str,
        hardware: Hardware,
        make_disk: impl FnOnce(&Artifacts, &Path) -> Disk,
    ) -> Scene {
        Scene::with_machine(name, make_disk, |work, disk| {
            OldServer::power_on(work, disk, hardware).unwrap()
        })
    }

    /// Sets it up with that disk, and with the machine that `power_on` starts.
    pub fn with_machine(
        name: &str,
        make_disk: impl FnOnce(&Artifacts, &Path) -> Disk,
        power_on: impl FnOnce(&Path, &Disk) -> OldServer,
    ) -> Scene {
        Scene::prepared(name, |_| {}, make_disk, power_on)
    }

    /// The same, with what `prepare` does on the host before it serves.
    pub fn prepared(
        name: &str,
        prepare: impl FnOnce(&mut XenHost),
        make_disk: impl FnOnce(&Artifacts, &Path) -> Disk,
        power_on: impl FnOnce(&Path, &Disk) -> OldServer,
    ) -> Scene {
        let artifacts = Artifacts::find().unwrap();
        let run = Run::new(&artifacts.lab, name).unwrap();
        let work = run.directory().to_owned();
        let disk = make_disk(&artifacts, &work);
        let mut host = XenHost::start(&artifacts, &work).unwrap();
        prepare(&mut host);
        host.background("p2v-serve", "p2v serve", "serving DHCP")
            .unwrap();
        let mut old = power_on(&work, &disk);
        old.wait_for("exporting e1.0 read-only", EXPORT_LIMIT)
            .unwrap();
        Scene {
            host,
            old,
            disk,
            run,
            artifacts,
        }
    }

    /// A small disk with the guest that counts its boots.
    pub fn with_guest(name: &str, hardware: Hardware) -> Scene {
        Scene::new(name, hardware, guest_disk)
    }

    /// What the guest says on its serial port in the domain.
    pub fn guest_says(&mut self, wanted: &str) -> String {
        self.host
            .wait_for_line("/var/log/xen/e1.serial", wanted)
            .unwrap()
    }

    /// SHA-256 of the first `bytes` of a file or device, without the sector the guest counts in.
    pub fn checksum(path: &str, bytes: u64) -> String {
        format!(
            "(head -c 512 {path}; tail -c +1025 {path} | head -c {}) | sha256sum",
            bytes - 1024
        )
    }

    /// The same of the old server's disk, here.
    pub fn old_checksum(&self) -> String {
        let command = Self::checksum(
            &self.disk.path.display().to_string(),
            self.disk.bytes().unwrap(),
        );
        let output = Command::new("sh").args(["-c", &command]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

/// A small disk with the guest that counts its boots.
pub fn guest_disk(artifacts: &Artifacts, work: &Path) -> Disk {
    let boot_sector = artifacts.boot_sector(work).unwrap();
    Disk::with_guest(&work.join("old.disk"), 48 << 20, &boot_sector).unwrap()
}
