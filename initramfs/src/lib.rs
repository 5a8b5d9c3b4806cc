//! Turns a Debian kernel package and the agent into `vmlinuz` and `initrd`.

pub mod archive;
pub mod image;
pub mod kernel;
pub mod modinfo;
pub mod module_index;
pub mod selection;
