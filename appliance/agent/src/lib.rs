//! The agent: PID 1 of the netboot image on the old server.
//!
//! It finds drivers for the hardware, sets up the interface the machine booted from, takes an
//! inventory, and lets the Xen host see the disks over ATA over Ethernet. It knows nothing of Xen.

pub mod console;
pub mod cpu;
pub mod disk_order;
pub mod disks;
pub mod dmi;
pub mod drivers;
pub mod export;
pub mod export_command;
pub mod inventory;
pub mod link;
mod memory;
pub mod modalias;
pub mod modprobe;
pub mod modules;
pub mod mounts;
pub mod nics;
pub mod partitions;
pub mod power;
mod refusals;
mod reset;
pub mod standing;
mod status;
pub mod supervisor;
pub mod sysfs;
pub mod uevent;
pub mod worker;
