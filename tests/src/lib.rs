//! The lab: a real Xen host (or plain Linux) and an old server as QEMU machines, joined by a private wire.
//!
//! It knows the product only by its built files: the `p2v` binary, the netboot image, the settings.
//! `make test` builds those first; the recipes of the machines are beside this crate.

pub mod artifacts;
pub mod console;
pub mod control;
pub mod debian;
pub mod disk;
pub mod failing_disk;
pub mod fio;
pub mod forgetful_disk;
pub mod linux_host;
pub mod local_host;
pub mod machine;
pub mod monitor;
pub mod old_server;
pub mod old_system;
pub mod run;
pub mod saved_host;
pub mod shell;
pub mod times;
pub mod writer;
pub mod xen_host;
