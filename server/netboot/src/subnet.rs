//! An IPv4 network on an interface.

use std::fmt;
use std::net::Ipv4Addr;

/// A network: its lowest address and its netmask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    network: u32,
    mask: u32,
}

impl Subnet {
    /// The network that `address` is in; `None` if `mask` has a hole.
    pub fn new(address: Ipv4Addr, mask: Ipv4Addr) -> Option<Subnet> {
        let mask = u32::from(mask);
        (mask.leading_ones() + mask.trailing_zeros() >= 32).then(|| Subnet {
            network: u32::from(address) & mask,
            mask,
        })
    }

    /// The netmask.
    pub fn mask(self) -> Ipv4Addr {
        self.mask.into()
    }

    /// The highest address: everybody on this network.
    pub fn broadcast(self) -> Ipv4Addr {
        (self.network | !self.mask).into()
    }

    /// Whether a host on this network may have this address (not the lowest and the highest,
    /// except on the two-address networks of RFC 3021).
    pub fn has_host(self, address: Ipv4Addr) -> bool {
        let address = u32::from(address);
        address & self.mask == self.network
            && (self.mask.leading_ones() >= 31
                || (address != self.network && address != u32::from(self.broadcast())))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}",
            Ipv4Addr::from(self.network),
            self.mask.leading_ones()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_are_not_hosts() {
        let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let net = Subnet::new(ip("10.1.2.3"), ip("255.255.255.0")).unwrap();
        assert_eq!(net.to_string(), "10.1.2.0/24");
        assert!(net.has_host(ip("10.1.2.1")) && net.has_host(ip("10.1.2.254")));
        assert!(!net.has_host(ip("10.1.2.0")) && !net.has_host(ip("10.1.2.255")));
        assert!(!net.has_host(ip("10.1.3.1")));
        assert!(Subnet::new(ip("10.1.2.3"), ip("255.0.255.0")).is_none());
        assert!(Subnet::new(ip("10.1.2.3"), ip("0.0.0.0")).is_some());
        let all = Subnet::new(ip("10.1.2.3"), ip("255.255.255.255")).unwrap();
        assert_eq!(all.broadcast(), ip("10.1.2.3"));
    }
}
