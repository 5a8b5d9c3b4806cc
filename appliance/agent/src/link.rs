//! Setting up an interface: its permanent address, its own address, up and down (netdevice(7)).

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use p2v_contract::MacAddr;

/// Why an interface cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("{doing} of {interface}: {source}")]
pub struct LinkError {
    /// What was tried.
    pub doing: &'static str,
    /// The interface.
    pub interface: String,
    /// The system's reason.
    pub source: Errno,
}

/// `ETHTOOL_GPERMADDR` (`include/uapi/linux/ethtool.h`).
const ETHTOOL_GPERMADDR: u32 = 0x20;

/// ARPHRD_ETHER, as an address family.
const ETHERNET: libc::sa_family_t = 1;

/// `struct ethtool_perm_addr` with room for an address of up to 32 bytes (MAX_ADDR_LEN).
#[repr(C)]
struct PermanentAddress {
    command: u32,
    size: u32,
    data: [u8; 32],
}

/// The handle that interface ioctls go through.
#[derive(Debug)]
pub struct Links(OwnedFd);

impl Links {
    /// Opens the handle.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub fn open() -> Result<Links, Errno> {
        socket(
            AddressFamily::Unix,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .map(Links)
    }

    /// An empty request for `interface`.
    fn request(interface: &str) -> Result<libc::ifreq, Errno> {
        if interface.len() >= libc::IFNAMSIZ {
            return Err(Errno::ENODEV);
        }
        // SAFETY: ifreq is plain data of integers, arrays and a pointer: all zeros is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = from as libc::c_char;
        }
        Ok(request)
    }

    /// Runs one interface ioctl on `request`.
    fn ioctl(&self, number: libc::c_ulong, request: &mut libc::ifreq) -> Result<(), Errno> {
        // SAFETY: the descriptor is open, and every SIOC* number used here takes a pointer to an
        // ifreq, which lives across the call. What its union points to is the caller's to keep.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), number as _, request) };
        Errno::result(result).map(drop)
    }

    /// The address burnt into the card; `None` if the driver does not say.
    pub fn permanent_address(&self, interface: &str) -> Option<MacAddr> {
        let mut answer = PermanentAddress {
            command: ETHTOOL_GPERMADDR,
            size: 32,
            data: [0; 32],
        };
        let mut request = Links::request(interface).ok()?;
        request.ifr_ifru.ifru_data = (&raw mut answer).cast();
        self.ioctl(libc::SIOCETHTOOL as libc::c_ulong, &mut request)
            .ok()?;
        let [a, b, c, d, e, f, ..] = answer.data;
        let mac = MacAddr(a, b, c, d, e, f);
        (answer.size == 6 && mac != MacAddr::zero() && mac != MacAddr::broadcast()).then_some(mac)
    }

    /// Whether the interface is up and has a link; `None`: there is no such interface.
    pub fn has_link(&self, interface: &str) -> Option<bool> {
        let mut request = Links::request(interface).ok()?;
        self.ioctl(libc::SIOCGIFFLAGS as libc::c_ulong, &mut request)
            .ok()?;
        // SAFETY: SIOCGIFFLAGS has just filled in this member.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        let both = libc::IFF_UP | libc::IFF_RUNNING;
        Some(flags & both == both)
    }

    /// Sets the interface up or down.
    ///
    /// # Errors
    /// There is no such interface, or the kernel refuses.
    pub fn set_up(&self, interface: &str, up: bool) -> Result<(), LinkError> {
        let error = |source| LinkError {
            doing: if up { "setting up" } else { "setting down" },
            interface: interface.to_owned(),
            source,
        };
        let mut request = Links::request(interface).map_err(error)?;
        self.ioctl(libc::SIOCGIFFLAGS as libc::c_ulong, &mut request)
            .map_err(error)?;
        // SAFETY: SIOCGIFFLAGS has just filled in this member.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let bit = libc::IFF_UP as libc::c_short;
        request.ifr_ifru.ifru_flags = if up { flags | bit } else { flags & !bit };
        self.ioctl(libc::SIOCSIFFLAGS as libc::c_ulong, &mut request)
            .map_err(error)
    }

    /// Gives the interface another address. It must be down: most drivers refuse otherwise.
    ///
    /// # Errors
    /// As [`Links::set_up`].
    pub fn set_address(&self, interface: &str, mac: MacAddr) -> Result<(), LinkError> {
        let error = |source| LinkError {
            doing: "setting the address",
            interface: interface.to_owned(),
            source,
        };
        let mut request = Links::request(interface).map_err(error)?;
        let mut data = [0; 14];
        for (to, from) in data.iter_mut().zip(mac.octets()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_hwaddr = libc::sockaddr {
            sa_family: ETHERNET,
            sa_data: data,
        };
        self.ioctl(libc::SIOCSIFHWADDR as libc::c_ulong, &mut request)
            .map_err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let links = Links::open().unwrap();
        assert_eq!(links.permanent_address("p2v-none0"), None);
        assert_eq!(links.has_link("p2v-none0"), None);
        let error = links.set_up("p2v-none0", true).unwrap_err();
        assert_eq!(error.source, Errno::ENODEV);
        assert!(error.to_string().contains("p2v-none0"), "{error}");
        let long = links.set_up("a-name-that-is-too-long", true).unwrap_err();
        assert_eq!(long.source, Errno::ENODEV);
        // The loopback device has no address burnt in.
        assert_eq!(links.permanent_address("lo"), None);
    }
}
