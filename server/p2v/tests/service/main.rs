//! `p2v serve` as a service on a host, beside what else runs there.
//!
//! Needs root, for network namespaces and to give root up.

mod approval;
mod confinement;
mod site_dhcp;
mod system_calls;
mod systemd;
mod wire;
mod wire_campaign;
