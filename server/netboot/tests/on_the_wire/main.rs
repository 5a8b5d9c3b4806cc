//! The service on a real wire: two network namespaces joined by a veth pair, real clients on the
//! one end (udhcpc, dhclient, curl, atftp, tftp-hpa, whole machines in QEMU) and hand-made
//! ones for what no well-behaved client does. Needs root.

mod dhcp;
mod fetch;
mod http;
mod hundred;
mod lab;
mod machine;
mod made_again;
mod proxy;
mod rom;
mod site;
mod tftp;
mod tftp_clients;
mod uefi;
