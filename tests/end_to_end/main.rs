//! End-to-end tests: a real Xen host, a real old server, the product's own commands.
mod smoke;
