//! `make demo`: the main job before the newcomer's eyes.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use p2v_lab::artifacts::Artifacts;
use p2v_lab::disk::Disk;
use p2v_lab::old_server::{IDE_PC, OldServer};
use p2v_lab::run::Run;
use p2v_lab::xen_host::XenHost;

/// From power-on to exported.
const EXPORT_LIMIT: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    println!("\n\x1b[1m== {text}\x1b[0m");
}

fn demo() -> Result<()> {
    let artifacts = Artifacts::find()?;
    let run = Run::new(&artifacts.lab, "demo")?;
    let work = run.directory().to_owned();

    say(
        "Two machines in QEMU, joined by a private wire: a Xen 4.17 host, and an old server with an IDE disk.",
    );
    println!(
        "The old server's system is a boot sector that counts its boots on its disk and says so on COM1."
    );
    println!(
        "All of it is emulated in software, so everything here is many times slower than on real machines."
    );
    let disk = Disk::with_guest(
        &work.join("old.disk"),
        64 << 20,
        &artifacts.boot_sector(&work)?,
    )?;
    let mut host = XenHost::boot(&artifacts, &work)?;
    host.echo(true);

    say("The Xen host is up. Is it ready for p2v?");
    host.ok("p2v doctor")?;
    host.background("p2v-serve", "p2v serve", "serving DHCP")?;

    say("The old server is restarted and boots from the network. Its service is down from now on.");
    let down = Instant::now();
    let mut old = OldServer::power_on(&work, &disk, IDE_PC)?;
    let exported = old.wait_for("exporting e1.0 read-only", EXPORT_LIMIT)?;
    println!("old server: {exported}");
    let exported = down.elapsed();
    host.ok("cat /var/log/p2v-serve.log")?;

    say("Its disk can be seen on the wire.");
    host.ok("p2v list")?;
    host.ok("p2v show e1")?;

    say("The old system becomes a domain, on its old disk over the wire.");
    let started = Instant::now();
    host.ok("p2v start e1")?;
    let line = guest_says(&mut host, "p2v guest: boot 1")?;
    let first = started.elapsed();
    let back = down.elapsed();
    println!("domain, serial port: {line}");
    println!(
        "The service is back, {:.0} s after the restart began.",
        back.as_secs_f32()
    );

    say(
        "Days later, a short break suits: the disk is copied to a volume, and the domain switched to it.",
    );
    let second_down = Instant::now();
    host.ok("p2v stop e1 --destroy")?;
    host.ok("p2v copy e1 --to vg0")?;
    host.ok("p2v cutover e1 --autostart")?;
    let line = guest_says(&mut host, "p2v guest: boot 2")?;
    let second = second_down.elapsed();
    println!("domain, serial port: {line}");
    ensure!(
        disk.boots()? == 1,
        "the old disk was written after the cutover"
    );

    say("The old server is not needed any more.");
    host.ok("p2v release e1")?;
    old.wait_until_off(Duration::from_secs(60))
        .context("the old server did not switch itself off")?;
    println!("old server: off");
    host.ok("p2v show e1")?;

    say("Summary");
    println!(
        "service down, first time:   {:6.0} s  (network boot {:.0} s, then `p2v start` to the guest's first line {:.0} s)",
        back.as_secs_f32(),
        exported.as_secs_f32(),
        first.as_secs_f32()
    );
    println!(
        "service down, second time:  {:6.0} s  (copy, check, cutover and boot of a {} MB disk)",
        second.as_secs_f32(),
        disk.bytes()? >> 20
    );
    println!("boots counted: 1 on the old disk, 2 on the volume; the old server is off.");
    println!();
    println!(
        "On real machines: `make install`, then `p2v doctor` and `p2v serve` on the Xen host; README.md has the rest."
    );
    drop(host);
    run.succeeded();
    Ok(())
}

fn guest_says(host: &mut XenHost, wanted: &str) -> Result<String> {
    host.wait_for_line("/var/log/xen/e1.serial", wanted)
}
