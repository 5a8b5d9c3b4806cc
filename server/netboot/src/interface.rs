//! The interface that is served.

use std::net::Ipv4Addr;

use pnet::ipnetwork::IpNetwork;
use pnet::util::MacAddr;

use crate::settings::Settings;
use crate::subnet::Subnet;

/// What is needed to know of it.
#[derive(Clone, Debug)]
pub(crate) struct Interface {
    pub name: String,
    pub index: u32,
    pub mac: MacAddr,
    /// IPv4 addresses with their networks, first one first.
    pub addresses: Vec<(Ipv4Addr, Subnet)>,
}

/// Why it cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterfaceError {
    /// No such interface.
    #[error("there is no network interface `{name}`; there are: {}", others.join(", "))]
    NotFound {
        /// What was asked for.
        name: String,
        /// What there is.
        others: Vec<String>,
    },
    /// Not Ethernet.
    #[error("interface `{0}` has no Ethernet address")]
    NotEthernet(String),
    /// No IPv4 address.
    #[error("interface `{0}` has no IPv4 address; give it one (`ip addr add ...`)")]
    NoAddress(String),
    /// Not the address that was set.
    #[error("`server` {address} is not an address of interface `{name}` (it has {})",
        theirs.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>().join(", "))]
    NotItsAddress {
        /// What was set.
        address: Ipv4Addr,
        /// The interface.
        name: String,
        /// What it has.
        theirs: Vec<Ipv4Addr>,
    },
}

/// The address that machines are told: `server` of the settings, or the first of their interface.
///
/// # Errors
/// There is no such interface, or it does not have that address.
pub fn server_address(settings: &Settings) -> Result<Ipv4Addr, InterfaceError> {
    let (address, _) = Interface::find(&settings.iface)?.address(settings.server)?;
    Ok(address)
}

impl Interface {
    pub fn find(name: &str) -> Result<Interface, InterfaceError> {
        let all = pnet::datalink::interfaces();
        let Some(found) = all.iter().find(|interface| interface.name == name) else {
            return Err(InterfaceError::NotFound {
                name: name.to_owned(),
                others: all.into_iter().map(|interface| interface.name).collect(),
            });
        };
        let mac = found
            .mac
            .filter(|mac| !mac.is_zero())
            .ok_or_else(|| InterfaceError::NotEthernet(name.to_owned()))?;
        let addresses = found.ips.iter().filter_map(|ip| match ip {
            IpNetwork::V4(net) => Some((net.ip(), Subnet::new(net.ip(), net.mask())?)),
            IpNetwork::V6(_) => None,
        });
        Ok(Interface {
            name: name.to_owned(),
            index: found.index,
            mac,
            addresses: addresses.collect(),
        })
    }

    /// The address to serve as, and its network.
    pub fn address(&self, wanted: Option<Ipv4Addr>) -> Result<(Ipv4Addr, Subnet), InterfaceError> {
        let first = self
            .addresses
            .first()
            .ok_or_else(|| InterfaceError::NoAddress(self.name.clone()))?;
        let Some(wanted) = wanted else {
            return Ok(*first);
        };
        self.addresses
            .iter()
            .find(|(address, _)| *address == wanted)
            .copied()
            .ok_or_else(|| InterfaceError::NotItsAddress {
                address: wanted,
                name: self.name.clone(),
                theirs: self.addresses.iter().map(|(address, _)| *address).collect(),
            })
    }
}
