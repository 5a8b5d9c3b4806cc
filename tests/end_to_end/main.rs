//! End-to-end tests: a real Xen host, a real old server, the product's own commands.
//!
//! Each is a story as an operator would live it. Logs and consoles of one that failed are kept under
//! `target/lab/runs/`.

mod all_the_way;
mod copying;
mod drbd;
mod failing_disk;
mod frames;
mod linux_driver;
mod outage;
mod outages;
mod power_cut;
mod rbd;
mod sanboot;
mod scene;
mod smoke;
mod start_fails;
mod strangers;
mod wire;
mod without_serve;
